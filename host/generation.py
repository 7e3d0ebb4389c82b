"""Continuing texts: one, with or without guesses that are verified, or several at the same time."""

from collections import deque
from dataclasses import dataclass, field
from numbers import Integral

from .draft import PromptLookup
from .pages import CacheFull

__all__ = ["continue_all", "continue_one"]


def continue_one(accel, sequence, prompt, max_new, sampler, *, chunk, on_step, speculate, draft):
    """See ``Accelerator.generate``.

    A guess costs a token lane, not a pass over the weights. The sampler chooses from the candidates of one lane after the other, as
    without guesses, and goes on as long as it chooses what was guessed; a guess therefore changes neither the text nor, with a
    temperature, the distribution that it is drawn from. What was wrong is cut off the sequence again.
    """
    draft = PromptLookup() if draft is None else draft
    candidates = accel.prefill(prompt, chunk=chunk, sequence=sequence)
    ready, said, token = deque([(candidates, sampler(candidates))]) if max_new > 0 else deque(), 0, None
    while ready:
        first = sequence.length - len(ready) + 1
        try:
            while ready:
                candidates, token = ready.popleft()
                if on_step:
                    on_step(candidates)
                said += 1
                yield token
                first += 1
        finally:
            if ready and sequence.alive:        # nobody wants the rest
                sequence.truncate(first)
        if said == max_new or sequence.length == accel.context:
            return
        most = min(speculate, max_new - said - 1, accel.context - sequence.length - 1)
        guess = _legal(draft.propose([*sequence.tokens, token], most), most, accel) if most > 0 else []
        ready.extend(_next(accel, sequence, token, guess, sampler))


def _legal(guess, most, accel):
    """What of a guess can be run: up to ``most`` tokens of the vocabulary."""
    legal, vocab = [], accel.image.header["vocab"]
    for token in guess:
        if len(legal) == most or not isinstance(token, Integral) or not 0 <= token < vocab:
            break
        legal.append(int(token))
    return legal


def _next(accel, sequence, token, guess, sampler):
    """[(candidates, chosen token)] after ``token`` and after each token of ``guess`` that was right."""
    if not guess:
        candidates = accel.decode(token, sequence=sequence)
        return [(candidates, sampler(candidates))]
    length = sequence.length
    accel.stats.decode_cycles += accel.run("batch", [(sequence, each) for each in (token, *guess)])
    found = []
    right = accel.accepted().bit_count() if sampler.greedy else len(guess)
    for lane in range(right + 1):
        candidates = accel.candidates(lane)
        found.append((candidates, sampler(candidates)))
        if lane < right and found[-1][1] != guess[lane]:
            break
    sequence.truncate(length + len(found))
    accel.stats.new_tokens += len(found)
    accel.stats.proposed_tokens += len(guess)
    accel.stats.accepted_tokens += len(found) - 1
    return found


@dataclass
class _Text:
    prompt: list
    sampler: object
    sequence: object = None
    new: list = field(default_factory=list)


def continue_all(accel, prompts, max_new, samplers, *, chunk, stop):
    """See ``Accelerator.generate_batch``."""
    texts = [_Text(list(prompt), sampler) for prompt, sampler in zip(prompts, samplers)]
    waiting, active = deque(texts if max_new > 0 else ()), []
    try:
        while waiting or active:
            while waiting and len(active) < accel.token_lanes and _fits(accel, waiting[0], active, max_new):
                text = waiting.popleft()
                text.sequence = accel.sequence()
                active.append(text)
                text.new.append(text.sampler(accel.prefill(text.prompt, chunk=chunk, sequence=text.sequence)))
                active = _unfinished(accel, active, max_new, stop)
            if waiting and not active:
                if _fits(accel, waiting[0], active, max_new):
                    continue
                raise CacheFull(
                    f"cache is full: a prompt of {len(waiting[0].prompt)} tokens and {max_new} new ones need "
                    f"{_pages(accel, waiting[0], max_new)} pages and a sequence, and {accel.pages.free_pages} pages and "
                    f"{accel.pages.free_slots} sequences are free")
            if active:
                found = accel.decode_batch([(text.sequence, text.new[-1]) for text in active])
                for text, candidates in zip(active, found):
                    text.new.append(text.sampler(candidates))
                active = _unfinished(accel, active, max_new, stop)
    finally:
        for text in active:
            if text.sequence.alive:
                text.sequence.free()
    return [text.new for text in texts]


def _unfinished(accel, active, max_new, stop):
    """The texts that go on; the sequences of the others are freed."""
    going = []
    for text in active:
        if len(text.new) == max_new or text.new[-1] in stop or text.sequence.length == accel.context:
            text.sequence.free()
        else:
            going.append(text)
    return going


def _pages(accel, text, max_new):
    return accel.pages.pages_for(min(len(text.prompt) + max_new, accel.context))


def _fits(accel, text, active, max_new):
    """Whether a text can begin, and all of them can go on to their ends."""
    pool = accel.pages
    owed = sum(_pages(accel, other, max_new) - len(pool.table(other.sequence.slot)) for other in active)
    return pool.free_slots > 0 and pool.free_pages - owed >= _pages(accel, text, max_new)
