"""The host library: load a model image, feed tokens, read candidates back.

    with Accelerator.open("sim", config="tiny") as accel:
        accel.load("demo.img")
        for token in accel.generate(prompt, max_new=64):
            ...

The accelerator computes whole tokens; the host writes token ids, their places in sequences, and reads the best candidates. Without
more ado there is one sequence; ``accel.sequence()`` gives others, and a run may serve several.
"""

from pathlib import Path

import numpy as np

from .driver import CONTROL_RESET, Driver
from .errors import CelosiaError, DeviceTimeout
from .generation import continue_all, continue_one
from .image import Image
from .pages import PagePool
from .sampling import Candidates, Sampler
from .sequence import Sequence
from .stats import Stats

__all__ = ["Accelerator"]

_PAGE_TRIES, _PAGE_CYCLES = 100, 256
PAGE_BUSY, PAGE_REFUSED = 1, 2


class Accelerator(Driver):
    """One accelerator for decoders, simulated or real. Blocking; every wait has a limit.

    Raises ``CelosiaError`` when the device is not what its manifest says.
    """

    def __init__(self, device):
        super().__init__(device)
        self._pool = self._default = None
        self._n_lanes = 0

    @property
    def position(self):
        """Tokens of the default sequence."""
        return self._default.length if self._default else 0

    @property
    def context(self):
        """Positions that a sequence of the loaded model may have."""
        return self._need_image().header["context"]

    @property
    def token_lanes(self):
        """Tokens that one run can take."""
        return self._device.manifest["config"]["token_lanes"]

    def load(self, image):
        """Put a model image (path or ``Image``) into the device's memory; forgets all sequences.

        Raises ``ValueError`` when the image is damaged, of another version or packed for another configuration, and
        ``MemoryError`` when it does not fit.
        """
        if not isinstance(image, Image):
            image = Image.open(Path(image))
        image.need_kind("decoder")
        self._check_image(image)
        self._forget_sequences()
        self._open_windows(image)
        self.reset()

    def reset(self):
        """Forget all sequences and the statistics; recovers the accelerator after an error."""
        self._write("CONTROL", CONTROL_RESET)
        self._await_quiet()
        self._forget_sequences()
        if self._image is not None:
            cache, config = self._image.header["cache"], self._device.manifest["config"]
            self._pool = PagePool(cache["pages"], cache["page_positions"], config["max_sequences"], self._page, self._copy_page)
        self.stats = Stats(self._device.manifest["clock_mhz"])

    def _forget_sequences(self):
        if self._pool is not None:
            self._pool.valid = False
        self._pool = self._default = None

    def sequence(self, *, written=0):
        """A new :class:`Sequence`; MemoryError when all are in use, or when there are no pages left.

        Its first ``written`` positions hold what the caller has put into the cache.
        """
        self._need_image()
        sequence = Sequence(self._pool, self._pool.open())
        try:
            self._pool.prepare([(sequence.slot, 0, written)])
        except MemoryError:
            sequence.free()
            raise
        sequence.tokens = [None] * written
        return sequence

    @property
    def pages(self):
        """The :class:`PagePool` of the loaded model."""
        self._need_image()
        return self._pool

    def prefill(self, tokens, *, chunk=None, sequence=None):
        """Run tokens through the model, ``chunk`` (default: all token lanes) at a time; candidates for the next token.

        They follow those of ``sequence``, or of the default sequence. Raises ``ValueError`` on no tokens, token ids outside the
        vocabulary, or more than the context holds, and ``MemoryError`` where there are no pages for them.
        """
        sequence = self._sequence(sequence)
        tokens = self._check_tokens(tokens, sequence.length)
        chunk = self.token_lanes if chunk is None else chunk
        if not 1 <= chunk <= self.token_lanes:
            raise ValueError(f"chunk must be 1 to {self.token_lanes} (the token lanes), not {chunk}")
        self._pool.prepare([(sequence.slot, sequence.length, sequence.length + len(tokens))])
        for start in range(0, len(tokens), chunk):
            part = tokens[start:start + chunk]
            last = start + chunk >= len(tokens)
            self.stats.prefill_cycles += self.run("decode" if last else "prefill", [(sequence, token) for token in part])
            self.stats.prompt_tokens += len(part)
        return self.candidates()

    def decode(self, token, *, sequence=None):
        """Run one token; candidates for the next."""
        sequence = self._sequence(sequence)
        self.stats.decode_cycles += self.run("decode", [(sequence, token)])
        self.stats.new_tokens += 1
        return self.candidates()

    def decode_batch(self, lanes):
        """Run the tokens of ``lanes``, a list of (sequence, token) of up to ``token_lanes``; candidates after each, in this order.

        Several tokens of one sequence follow one another in the order in which they are given.
        """
        lanes = list(lanes)
        first = {}
        for place, (sequence, _) in enumerate(lanes):
            first.setdefault(id(sequence), place)
        order = sorted(range(len(lanes)), key=lambda place: (first[id(lanes[place][0])], place))
        self.stats.decode_cycles += self.run("batch", [lanes[place] for place in order])
        self.stats.new_tokens += len(lanes)
        return [self.candidates(order.index(place)) for place in range(len(lanes))]

    def generate(self, prompt, max_new, *, temperature=0.0, top_k=None, top_p=1.0, seed=None, chunk=None, on_step=None,
                 sequence=None, speculate=0, draft=None):
        """Yield up to ``max_new`` token ids that continue ``prompt`` (token ids); stops where the context is full.

        ``on_step(candidates)`` is called with the candidates of every step. With ``speculate`` up to so many tokens that ``draft``
        guesses (default: :class:`celosia.host.draft.PromptLookup`) are verified in one run; the text and the candidates are the
        same.
        """
        sampler = Sampler(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        if not 0 <= speculate < self.token_lanes:
            raise ValueError(f"speculate must be 0 to {self.token_lanes - 1} (one less than the token lanes), not {speculate}")
        return continue_one(self, self._sequence(sequence), prompt, max_new, sampler, chunk=chunk, on_step=on_step,
                            speculate=speculate, draft=draft)

    def generate_batch(self, prompts, max_new, *, temperature=0.0, top_k=None, top_p=1.0, seed=None, chunk=None, stop=()):
        """Continue several prompts (lists of token ids) at the same time; a list of up to ``max_new`` token ids for each.

        One that has said a token of ``stop`` (which counts) or has filled the context leaves, and one that did not fit yet takes
        its place. Prompt i draws with ``seed + i``. ``MemoryError`` where the cache does not hold even one.
        """
        prompts = [self._check_tokens(prompt, 0) for prompt in prompts]
        samplers = [Sampler(temperature=temperature, top_k=top_k, top_p=top_p, seed=None if seed is None else seed + i)
                    for i in range(len(prompts))]
        return continue_all(self, prompts, max_new, samplers, chunk=chunk, stop=stop)

    @property
    def scores(self):
        """Whether the device gives the logits of all token lanes at once."""
        return hasattr(self._device, "score")

    @property
    def n_candidates(self):
        """Candidates that a run returns, at most: cells of the configuration, or what the shortlist of the image has."""
        head, vocab = self._need_image().header["head"], self._image.header["vocab"]
        kept = head["candidates"] if head["kind"] == "shortlist" else vocab
        return min(kept, vocab, self._device.manifest["config"]["top_k"])

    @property
    def returns_all_logits(self):
        """Whether :meth:`score` has a logit for every token of the vocabulary."""
        return self.scores or self.n_candidates == self._need_image().header["vocab"]

    def score(self, tokens):
        """Feed tokens to the default sequence and yield the logits after each of them, float32 (n, vocabulary), run by run.

        A device that scores (the golden one) gives all logits of all token lanes, of a shortlist those of the exact rows. From
        others come the candidates of one token a run; logits that are not among them are -inf. Raises as :meth:`prefill`.
        """
        sequence = self._sequence(None)
        tokens = self._check_tokens(tokens, sequence.length)
        lanes = self.token_lanes if self.scores else 1
        for start in range(0, len(tokens), lanes):
            part, first = tokens[start:start + lanes], sequence.length
            if self.scores:
                self._pool.prepare([(sequence.slot, first, first + len(part))])
                self._set_up("decode", part, [(sequence.slot, first + t) for t in range(len(part))])
                logits = self._device.score()
                sequence.tokens += part
            else:
                self.stats.prefill_cycles += self.run("decode", [(sequence, token) for token in part])
                logits = self.candidates().spread(self._image.header["vocab"])[None]
            self.stats.prompt_tokens += len(part)
            yield logits

    def run(self, program, lanes):
        """Run one program of the image on ``lanes``, a list of (sequence, token) of up to ``token_lanes``; returns its cycles.

        The tokens follow those of their sequences, and are held by them when the run has succeeded. Those of one sequence stand
        side by side. Raises ``ValueError`` on lanes that cannot be run, ``MemoryError`` where there are no pages for them, and as
        :meth:`launch`.
        """
        lanes, counts = list(lanes), {}
        if not 1 <= len(lanes) <= self.token_lanes:
            raise ValueError(f"A run must have 1 to {self.token_lanes} tokens (the token lanes), not {len(lanes)}")
        places, last = [], None
        for sequence, _ in lanes:
            self._sequence(sequence)
            if sequence in counts and sequence is not last:
                raise ValueError("The tokens of one sequence must stand side by side in a run")
            places.append((sequence.slot, sequence.length + counts.get(sequence, 0)))
            counts[sequence], last = counts.get(sequence, 0) + 1, sequence
        tokens = []
        for sequence in counts:
            tokens += self._check_tokens([token for other, token in lanes if other is sequence], sequence.length)
        self._pool.prepare([(sequence.slot, sequence.length, sequence.length + n) for sequence, n in counts.items()])
        cycles = self.launch(program, tokens, places)
        for (sequence, _), token in zip(lanes, tokens):
            sequence.tokens.append(token)
        return cycles

    def launch(self, program, tokens, places):
        """Run one program of the image on tokens at ``places``, (slot, position) each, as they are: nothing is checked but by the
        accelerator, and no sequence knows of it. Returns its cycles.

        Raises ``ProgramError`` when the accelerator stops it, ``DeviceTimeout`` when it does not finish.
        """
        self._set_up(program, tokens, places)
        cycles = self._start(program)
        self._n_lanes = len(tokens)
        return cycles

    def _set_up(self, program, tokens, places):
        self._set_up_program(program)
        self._write("N_TOKENS", len(tokens))
        for lane, (token, (slot, position)) in enumerate(zip(tokens, places, strict=True)):
            self._write(f"TOKEN{lane}", token)
            self._write(f"LANE{lane}", slot << 16 | position)

    def _page(self, op, page=0, index=0, slot=0):
        """Tell the accelerator of a change of its page tables; CelosiaError where it does not do it."""
        self._await_quiet()
        self._write("PAGE", page | index << 12 | slot << 24 | self._device.manifest["page_ops"][op] << 28)
        for _ in range(_PAGE_TRIES):
            status = self._read("PAGE_STATUS")
            if status & PAGE_REFUSED:
                raise CelosiaError(f"The accelerator must {op} page {page} (entry {index} of sequence {slot}), and refused: its "
                                   "tables are not as the host knows them; accel.reset() begins anew")
            if not status & PAGE_BUSY:
                return
            self._device.wait(_PAGE_CYCLES)
        raise DeviceTimeout(f"The page tables must be quiet within {_PAGE_TRIES * _PAGE_CYCLES:,} cycles")

    def _copy_page(self, source, target):
        cache, (address, buffer) = self._image.header["cache"], self._cache
        size = cache["page_bytes"]
        for region in range(cache["regions"]):
            for port in range(self._device.manifest["config"]["n_ports"]):
                start = region * cache["region_bytes"] + port * cache["port_stride"]
                old, new = start + source * size, start + target * size
                self._device.invalidate(address + old, size)
                buffer[new:new + size] = buffer[old:old + size]
                self._device.flush(address + new, size)

    def candidates(self, lane=None):
        """:class:`Candidates` of a token lane of the last run, by default the last."""
        manifest = self._device.manifest
        lane = self._n_lanes - 1 if lane is None else lane
        base = manifest["topk_offset"] + lane * manifest["topk_lane_bytes"]
        count = self._read("TOPK_COUNT")
        words = np.array([[self._device.read32(base + 8 * i), self._device.read32(base + 8 * i + 4)] for i in range(count)],
                         np.uint32).reshape(count, 2)
        return Candidates(words[:, 0].astype(np.int64), words[:, 1].copy().view(np.float32))

    def accepted(self):
        """Register ACCEPTED of the last run: bit t where the token of lane t is the best candidate of the lane before it, of the
        same sequence, and so back to the first of that sequence."""
        return self._read("ACCEPTED")

    def _sequence(self, sequence):
        """A sequence that can be continued: the default one for None."""
        self._need_image()
        if sequence is None:
            if self._default is None or not self._default.alive:
                self._default = self.sequence()
            return self._default
        if sequence.pool is not self._pool:
            raise ValueError("The sequence must be one of this accelerator, not of another")
        return sequence

    def _check_tokens(self, tokens, length):
        header = self._need_image().header
        tokens = [int(token) for token in tokens]
        if not tokens:
            raise ValueError("The prompt must hold at least one token, not none")
        bad = [token for token in tokens if not 0 <= token < header["vocab"]]
        if bad:
            raise ValueError(f"Token ids must be 0 to {header['vocab'] - 1}, not {bad[0]}")
        if length + len(tokens) > header["context"]:
            raise ValueError(f"The sequence must fit the context of {header['context']} positions, "
                             f"not {length} + {len(tokens)}")
        return tokens
