"""Sequences on the golden device: whatever was done with pages, every sequence says what a fresh one with its tokens would say."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gen"))
from random_models import SMALL, golden_of, random_image

from celosia.gen.device import GoldenDevice
from celosia.gen.model import HeadPlan
from celosia.host.accelerator import Accelerator
from celosia.host.draft import PromptLookup
from celosia.host.errors import CelosiaError, ProgramError
from celosia.host.image import Image
from celosia.host.pages import CacheFull
from celosia.hw.configs import duo, tiny

CONTEXT, MODEL = 28, replace(SMALL, n_layers=1)
TOKEN, WHICH = st.integers(0, SMALL.vocab_size - 1), st.integers(0, 3)


def opened(accel=duo, seed=3, context=CONTEXT, **options):
    """(accelerator with a small model, the quantised model)."""
    data, _, model = random_image(MODEL, accel, seed, context, **options)
    found = Accelerator(GoldenDevice(accel, memory_bytes=1 << 22))
    found.load(Image.open(data))
    return found, model


def key(candidates):
    return candidates.tokens.tolist(), candidates.logits.tobytes()


class Sequences(RuleBasedStateMachine):
    """Sequences of an accelerator with 12 pages of 8 positions against lists of tokens and the golden model."""

    @initialize()
    def begin(self):
        self.accel, model = opened(sequences=3)
        self.golden, self.known = golden_of(model, duo, CONTEXT), {}
        self.texts = {self.accel.sequence(): []}

    def alone(self, text):
        """What a fresh sequence with these tokens says."""
        at = tuple(text)
        if at not in self.known:
            tokens, logits = zip(*self.golden.step(list(text), 0, duo.top_k))
            self.known[at] = list(tokens), np.array(logits, np.float32).tobytes()
        return self.known[at]

    def pick(self, which):
        return list(self.texts)[which % len(self.texts)]

    @rule()
    def open(self):
        if len(self.texts) < duo.max_sequences:
            self.texts[self.accel.sequence()] = []

    @precondition(lambda self: self.texts)
    @rule(which=WHICH, tokens=st.lists(TOKEN, min_size=1, max_size=6), chunk=st.integers(1, 2))
    def prefill(self, which, tokens, chunk):
        sequence = self.pick(which)
        text = self.texts[sequence]
        if len(text) + len(tokens) > CONTEXT:
            with pytest.raises(ValueError, match=f"^The sequence must fit the context of {CONTEXT} positions"):
                self.accel.prefill(tokens, sequence=sequence)
            return
        try:
            found = self.accel.prefill(tokens, chunk=chunk, sequence=sequence)
        except CacheFull:
            assert self.accel.pages.free_pages < 2
            return
        text += tokens
        assert key(found) == self.alone(text)

    @precondition(lambda self: self.texts)
    @rule(picks=st.lists(st.tuples(WHICH, TOKEN), min_size=1, max_size=2))
    def batch(self, picks):
        lanes = [(self.pick(which), token) for which, token in picks]
        if any(sequence.length + 2 > CONTEXT for sequence, _ in lanes):
            return
        try:
            found = self.accel.decode_batch(lanes)
        except CacheFull:
            assert self.accel.pages.free_pages < 2
            return
        for (sequence, token), candidates in zip(lanes, found):
            self.texts[sequence].append(token)
            assert key(candidates) == self.alone(self.texts[sequence])

    @precondition(lambda self: self.texts)
    @rule(which=WHICH)
    def fork(self, which):
        if len(self.texts) < duo.max_sequences:
            sequence = self.pick(which)
            self.texts[sequence.fork()] = list(self.texts[sequence])

    @precondition(lambda self: self.texts)
    @rule(which=WHICH, share=st.floats(0, 1))
    def truncate(self, which, share):
        sequence = self.pick(which)
        length = int(share * sequence.length)
        sequence.truncate(length)
        del self.texts[sequence][length:]

    @precondition(lambda self: self.texts)
    @rule(which=WHICH)
    def free(self, which):
        sequence = self.pick(which)
        sequence.free()
        del self.texts[sequence]

    @invariant()
    def tokens_and_pages(self):
        if hasattr(self, "texts"):
            assert all(sequence.tokens == text for sequence, text in self.texts.items())
            held = {page for sequence in self.texts for page in self.accel.pages.table(sequence.slot)}
            assert len(held) + self.accel.pages.free_pages == 12


TestSequences = Sequences.TestCase
TestSequences.settings = settings(max_examples=15, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))


# Speculation


class Liar:
    """Guesses a little right: every other token of the real text, then rubbish; more than it is asked for."""

    def __init__(self, text, period):
        self.text, self.period = text, period

    def propose(self, tokens, k):
        at = len(tokens)
        guess = list(self.text[at:at + k])
        return [(token + (i % self.period == self.period - 1)) % SMALL.vocab_size for i, token in enumerate(guess)] + [0, 1, 2]


@pytest.mark.parametrize("plan, kv", [(HeadPlan(), "int8"), (HeadPlan("shortlist", 4, 2), "int4")])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.5, "seed": 5}])
def test_speculation_changes_nothing_but_the_runs(plan, kv, sampling):
    accel, _ = opened(tiny, plan=plan, kv=kv, context=40)
    prompt, steps, expected = [1, 2, 3, 1, 2], [], []
    plain = list(accel.generate(prompt, 20, on_step=lambda c: expected.append(key(c)), **sampling))
    position, runs = accel.position, accel.stats.new_tokens
    for draft in (None, Liar(prompt + plain, 2), Liar(prompt + plain, 3), Liar([], 1)):
        accel.reset()
        steps.clear()
        text = accel.generate(prompt, 20, on_step=lambda c: steps.append(key(c)), speculate=3, draft=draft, **sampling)
        assert list(text) == plain
        assert steps == expected and accel.position == position and accel.stats.new_tokens == runs
        assert 0 <= accel.stats.accepted_tokens <= accel.stats.proposed_tokens
        if isinstance(draft, Liar) and draft.text:
            assert 0 < accel.stats.accepted_tokens < accel.stats.proposed_tokens
    assert accel.pages.free_pages + len(accel.pages.table(0)) == accel.pages.n_pages


@pytest.mark.parametrize("taken", range(1, 6))
def test_who_stops_in_the_middle_of_a_guess_leaves_what_was_said(taken):
    accel, _ = opened(tiny)
    plain = list(accel.generate([1, 2, 3], 9))
    accel.reset()
    text = accel.generate([1, 2, 3], 9, speculate=3, draft=Liar([1, 2, 3, *plain], 99))
    assert [next(text) for _ in range(taken)] == plain[:taken]
    text.close()
    assert accel.position == 3 + taken - 1
    assert accel.decode(plain[taken - 1]).tokens[0] == plain[taken]


@pytest.mark.parametrize("text, k, guess", [
    ([], 3, []), ([1], 3, []), ([1, 2, 3], 3, []),
    ([1, 2, 3, 4, 1, 2], 3, [3, 4, 1]), ([1, 2, 9, 1, 2, 8, 1, 2], 1, [8]),
    ([5, 1, 2, 9, 6, 1, 2, 8, 5, 1, 2], 2, [9, 6]), ([4, 4, 4], 4, [4, 4, 4, 4]),
    ([1, 2, 1, 2], 3, [1, 2, 1]), ([1, 2, 1, 2], 0, [])])
def test_prompt_lookup(text, k, guess):
    assert PromptLookup().propose(text, k) == guess


def test_prompts_together_say_what_each_says_alone():
    accel, _ = opened(sequences=3)
    prompts = [[1, 2, 3], [4] * 9, [7], list(range(20)), [9]]
    for sampling in ({}, {"temperature": 2.0, "seed": 4}):
        alone = []
        for i, prompt in enumerate(prompts):
            accel.reset()
            own = sampling | ({"seed": sampling["seed"] + i} if sampling else {})
            alone.append(list(accel.generate(prompt, 8, **own)))
        accel.reset()
        assert accel.generate_batch(prompts, 8, **sampling) == alone
        assert accel.pages.free_pages == accel.pages.n_pages and accel.pages.free_slots == duo.max_sequences
    stop = alone[1][3]
    cut = [text[:text.index(stop) + 1] if stop in text else text for text in alone]
    accel.reset()
    assert accel.generate_batch(prompts, 8, temperature=2.0, seed=4, stop=[stop]) == cut
    assert accel.generate_batch([], 4) == [] and accel.generate_batch([[1]], 0) == [[]]


# What is refused


@pytest.mark.parametrize("act, kind, sentence", [
    (lambda a, s: a.run("decode", []), ValueError, r"A run must have 1 to 2 tokens \(the token lanes\), not 0"),
    (lambda a, s: a.decode_batch([(s, 1)] * 3), ValueError, r"A run must have 1 to 2 tokens \(the token lanes\), not 3"),
    (lambda a, s: a.run("nothing", [(s, 1)]), ValueError, "Program must be one of batch, decode, prefill, not 'nothing'"),
    (lambda a, s: a.encode([1]), ValueError, "The model must be bidirectional to encode a text, and the loaded one is not"),
    (lambda a, s: a.decode_batch([(s, 1), (s, 99)]), ValueError, "Token ids must be 0 to 29, not 99"),
    (lambda a, s: a.decode_batch([(opened()[0].sequence(), 1)]), ValueError,
     "The sequence must be one of this accelerator, not of another"),
    (lambda a, s: a.generate([1], 4, speculate=2), ValueError,
     r"speculate must be 0 to 1 \(one less than the token lanes\), not 2"),
    (lambda a, s: (s.free(), a.decode(1, sequence=s)), ValueError, "The sequence must not have been freed, .*"),
    (lambda a, s: (a.reset(), s.fork()), ValueError, "The sequence must not have been freed, .*"),
    (lambda a, s: a.generate_batch([[1], []], 4), ValueError, "The prompt must hold at least one token, not none"),
    (lambda a, s: [a.sequence() for _ in range(9)], MemoryError, "cache is full: all 4 sequences are in use; free one first"),
    (lambda a, s: (a.prefill([1] * 20, sequence=s), a.prefill([1] * 20)), MemoryError,
     "cache is full: 3 more pages of 8 positions are needed and 1 of 4 are free; .*"),
    (lambda a, s: (a.prefill([1] * 20, sequence=s), a.generate_batch([[1] * 9], 4)), MemoryError,
     "cache is full: a prompt of 9 tokens and 4 new ones need 2 pages and a sequence, and 1 pages and 3 sequences are free"),
])
def test_refuses(act, kind, sentence):
    accel, _ = opened()
    with pytest.raises(kind, match=f"^{sentence}$"):
        act(accel, accel.sequence())


def test_a_full_cache_has_room_again_when_a_sequence_is_freed():
    accel, _ = opened()
    first = accel.sequence()
    accel.prefill([1] * 20, sequence=first)
    with pytest.raises(CacheFull):
        accel.prefill([2] * 20)
    first.truncate(9)
    expected = accel.prefill([2] * 9)
    with accel.sequence(written=0) as third, pytest.raises(CacheFull):
        accel.prefill([2] * 9, sequence=third)
    first.free()
    with accel.sequence() as third:
        assert key(accel.prefill([2] * 9, sequence=third)) == key(expected)


def test_the_accelerator_stops_what_the_host_did_not_prepare():
    """Page commands past the host: the accelerator refuses them, or stops the program that uses them."""
    accel, _ = opened()
    sequence = accel.sequence()
    accel.prefill([1] * 9, sequence=sequence)
    page = accel.pages.table(sequence.slot)[0]

    with pytest.raises(CelosiaError, match=f"^The accelerator must claim page {page} .*, and refused"):
        accel._page("claim", page, slot=1)
    accel._write("CONTROL", 2)
    accel._page("unmap", index=0, slot=sequence.slot)
    with pytest.raises(ProgramError, match="with PAGE: a position is read that has no page in its sequence's table") as error:
        accel.decode(1, sequence=sequence)
    assert error.value.code == "PAGE" and sequence.length == 9
    accel._page("unmap", index=1, slot=sequence.slot)
    accel._page("map", page, 0, sequence.slot)
    with pytest.raises(ProgramError, match="with OWNER: ") as error:
        accel.decode(1, sequence=sequence)
    assert error.value.code == "OWNER"
    accel.reset()
    assert not sequence.alive and accel.prefill([1] * 9).tokens.size
