"""The host library: load a model image, feed tokens, read candidates back.

    with Accelerator.open("sim", config="tiny") as accel:
        accel.load("demo.img")
        for token in accel.generate(prompt, max_new=64):
            ...

The accelerator computes whole tokens; the host writes token ids and a position and reads the best candidates.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .device import open_device
from .errors import CelosiaError, DeviceTimeout, ProgramError
from .image import Image
from .sampling import Candidates, Sampler

__all__ = ["Accelerator", "Stats"]

ID_MAGIC = 0x4F4C4543
CONTROL_START, CONTROL_RESET, CONTROL_CLEAR = 1, 2, 4
_QUIET_TRIES, _QUIET_CYCLES = 100, 10_000
STATUS_BUSY, STATUS_DONE, STATUS_ERROR, STATUS_DRAINING = 1, 2, 4, 8


@dataclass
class Stats:
    """What the runs since the last :meth:`Accelerator.reset` took.

    Members
    -------
    prompt_tokens, new_tokens : int
        Tokens prefilled and tokens decoded.
    prefill_cycles, decode_cycles : int
        Accelerator cycles of either.
    clock_mhz : float
        The clock that turns cycles into time.
    counters : dict
        Sums of the hardware counters, by name.
    """

    clock_mhz: float
    prompt_tokens: int = 0
    new_tokens: int = 0
    prefill_cycles: int = 0
    decode_cycles: int = 0
    counters: dict = field(default_factory=dict)

    @property
    def cycles(self):
        """Cycles in all."""
        return self.prefill_cycles + self.decode_cycles

    @property
    def cycles_per_token(self):
        """Cycles of a decoded token, on average; nan before the first, and on a device that counts none."""
        return self.decode_cycles / self.new_tokens if self.new_tokens and self.decode_cycles else float("nan")

    @property
    def tokens_per_s(self):
        """Decoded tokens a second at ``clock_mhz``; nan where ``cycles_per_token`` is."""
        return self.clock_mhz * 1e6 / self.cycles_per_token


class Accelerator:
    """One accelerator, simulated or real. Blocking; every wait has a limit.

    Raises ``CelosiaError`` when the device is not what its manifest says.
    """

    def __init__(self, device):
        self._device = device
        self._registers = {**device.manifest["registers"], **device.manifest["counters"]}
        self._image = None
        self._position = 0
        self._logits_of_step = None
        found = self._read("ID"), self._read("VERSION"), self._read("CONFIG")
        manifest = device.manifest
        wanted = (ID_MAGIC, manifest["isa_version"] | manifest["abi_version"] << 16, int(manifest["digest"], 16))
        for what, is_, must in zip(("ID", "VERSION", "CONFIG"), found, wanted):
            if is_ != must:
                raise CelosiaError(f"Register {what} must read 0x{must:08x} as the manifest says, not 0x{is_:08x}: "
                                   "the loaded hardware is another one")
        self._write("CONTROL", CONTROL_RESET)
        self._write("IRQ_ENABLE", 1)
        self._await_quiet()
        self.stats = Stats(manifest["clock_mhz"])

    @classmethod
    def open(cls, device="sim", **options):
        """An accelerator on a device by name (``sim``, ``golden``); options go to the device, e.g. ``config="tiny"``."""
        return cls(open_device(device, **options))

    def close(self):
        """Give the device back."""
        self._device.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    @property
    def device(self):
        """The device underneath."""
        return self._device

    @property
    def image(self):
        """The loaded image, or None."""
        return self._image

    @property
    def position(self):
        """Tokens in the KV cache."""
        return self._position

    @property
    def context(self):
        """Positions that the loaded model's cache holds."""
        return self._need_image().header["context"]

    @property
    def token_lanes(self):
        """Tokens that one run can take."""
        return self._device.manifest["config"]["token_lanes"]

    def load(self, image):
        """Put a model image (path or ``Image``) into the device's memory; forgets the sequence.

        Raises ``ValueError`` when the image is damaged, of another version or packed for another configuration, and
        ``MemoryError`` when it does not fit.
        """
        if not isinstance(image, Image):
            image = Image.open(Path(image))
        manifest = self._device.manifest
        image.check(config=manifest["config_name"], digest=manifest["digest"], isa_version=manifest["isa_version"])
        self._device.release()
        address, buffer = self._device.allocate(len(image.payload))
        buffer[:] = image.payload
        self._device.flush(address, len(buffer))
        self._write64("MODEL_BASE", address)
        self._write64("MODEL_SIZE", len(buffer))
        cache_bytes = image.header["cache_bytes"]
        address, _ = self._device.allocate(cache_bytes)
        self._write64("CACHE_BASE", address)
        self._write64("CACHE_SIZE", cache_bytes)
        self._image = image
        self._write("WATCHDOG_CYCLES", 1_000_000)
        self.reset()

    def reset(self):
        """Forget the sequence and the statistics; recovers the accelerator after an error."""
        self._write("CONTROL", CONTROL_RESET)
        self._await_quiet()
        self._position = 0
        self.stats = Stats(self._device.manifest["clock_mhz"])

    def prefill(self, tokens, *, chunk=None):
        """Run tokens through the model, ``chunk`` (default: all token lanes) at a time; candidates for the next token.

        Raises ``ValueError`` on no tokens, token ids outside the vocabulary, or more than the context holds.
        """
        tokens = self._check_tokens(tokens)
        chunk = self.token_lanes if chunk is None else chunk
        if not 1 <= chunk <= self.token_lanes:
            raise ValueError(f"chunk must be 1 to {self.token_lanes} (the token lanes), not {chunk}")
        for start in range(0, len(tokens), chunk):
            part = tokens[start:start + chunk]
            last = start + chunk >= len(tokens)
            self.stats.prefill_cycles += self.run("decode" if last else "prefill", part, self._position)
            self._position += len(part)
            self.stats.prompt_tokens += len(part)
        return self._candidates()

    def decode(self, token):
        """Run one token; candidates for the next."""
        token, = self._check_tokens([token])
        self.stats.decode_cycles += self.run("decode", [token], self._position)
        self._position += 1
        self.stats.new_tokens += 1
        return self._candidates()

    def generate(self, prompt, max_new, *, temperature=0.0, top_k=None, top_p=1.0, seed=None, chunk=None, on_step=None):
        """Yield up to ``max_new`` token ids that continue ``prompt`` (token ids); stops where the context is full.

        ``on_step(candidates)`` is called with the candidates of every step.
        """
        sampler = Sampler(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        candidates = self.prefill(prompt, chunk=chunk)
        for step in range(max_new):
            if on_step:
                on_step(candidates)
            token = sampler(candidates)
            yield token
            if step + 1 == max_new or self._position == self.context:
                return
            candidates = self.decode(token)

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
        """Feed tokens and yield the logits after each of them, float32 (n, vocabulary), of one run after the other.

        A device that scores (the golden one) gives all logits of all token lanes, of a shortlist those of the exact rows. From
        others come the candidates of one token a run; logits that are not among them are -inf. Raises as :meth:`prefill`.
        """
        tokens = self._check_tokens(tokens)
        lanes = self.token_lanes if self.scores else 1
        for start in range(0, len(tokens), lanes):
            part = tokens[start:start + lanes]
            if self.scores:
                self._set_up("decode", part, self._position)
                logits = self._device.score()
            else:
                self.stats.prefill_cycles += self.run("decode", part, self._position)
                logits = self._candidates().spread(self._image.header["vocab"])[None]
            self._position += len(part)
            self.stats.prompt_tokens += len(part)
            yield logits

    def run(self, program, tokens, first_position):
        """Run one program of the image on up to ``token_lanes`` tokens; returns its cycles.

        Raises ``ProgramError`` when the accelerator stops it, ``DeviceTimeout`` when it does not finish.
        """
        self._set_up(program, tokens, first_position)
        self._write("CONTROL", CONTROL_START)
        self._device.wait(self._limit_cycles())
        status = self._read("STATUS")
        if status & STATUS_ERROR:
            self._raise_error()
        if not status & STATUS_DONE:
            self._write("CONTROL", CONTROL_RESET)
            self._await_quiet()
            raise DeviceTimeout(f"Program {program!r} must end within {self._limit_cycles()} cycles; it was stopped")
        self._write("CONTROL", CONTROL_CLEAR)
        for name in self._device.manifest["counters"]:
            self.stats.counters[name] = self.stats.counters.get(name, 0) + self._read64(name)
        return self._read64("CYCLES")

    def _set_up(self, program, tokens, first_position):
        where = self._need_image().header["programs"][program]
        self._await_quiet()
        self._write64("PROGRAM_OFFSET", where["offset"])
        self._write("PROGRAM_COUNT", where["count"])
        self._write("N_TOKENS", len(tokens))
        self._write("FIRST_POSITION", first_position)
        for lane, token in enumerate(tokens):
            self._write(f"TOKEN{lane}", token)

    def _limit_cycles(self):
        return 2_000_000 + 64 * len(self._image.payload)

    def _raise_error(self):
        names = {value: name for name, value in self._device.manifest["errors"].items()}
        code = self._read("ERROR_CODE")
        raise ProgramError(names.get(code, str(code)), self._read("ERROR_INDEX"))

    def _await_quiet(self):
        for _ in range(_QUIET_TRIES):
            if not self._read("STATUS") & (STATUS_BUSY | STATUS_DRAINING):
                return
            self._device.wait(_QUIET_CYCLES)
        raise DeviceTimeout(f"The accelerator must be quiet within {_QUIET_TRIES * _QUIET_CYCLES:,} cycles before a run; "
                            "its memory does not answer")

    def _candidates(self):
        base = self._device.manifest["topk_offset"]
        count = self._read("TOPK_COUNT")
        words = np.array([[self._device.read32(base + 8 * i), self._device.read32(base + 8 * i + 4)] for i in range(count)],
                         np.uint32).reshape(count, 2)
        return Candidates(words[:, 0].astype(np.int64), words[:, 1].copy().view(np.float32))

    def _check_tokens(self, tokens):
        header = self._need_image().header
        tokens = [int(token) for token in tokens]
        if not tokens:
            raise ValueError("The prompt must hold at least one token, not none")
        bad = [token for token in tokens if not 0 <= token < header["vocab"]]
        if bad:
            raise ValueError(f"Token ids must be 0 to {header['vocab'] - 1}, not {bad[0]}")
        if self._position + len(tokens) > header["context"]:
            raise ValueError(f"The sequence must fit the context of {header['context']} positions, "
                             f"not {self._position} + {len(tokens)}")
        return tokens

    def _need_image(self):
        if self._image is None:
            raise CelosiaError("A model must be loaded first: accel.load(image)")
        return self._image

    def _read(self, name):
        return self._device.read32(self._registers[name])

    def _write(self, name, value):
        self._device.write32(self._registers[name], value)

    def _read64(self, name):
        offset = self._registers[name]
        return self._device.read32(offset) | self._device.read32(offset + 4) << 32

    def _write64(self, name, value):
        offset = self._registers[name]
        self._device.write32(offset, value & 0xFFFF_FFFF)
        self._device.write32(offset + 4, value >> 32)
