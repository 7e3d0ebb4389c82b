"""The golden machine as a device: registers and memory outside, :class:`Machine` inside.

The host library drives it as it drives a simulated or a real accelerator, so that all three see the same requests.
"""

import numpy as np

from celosia.gen.manifest import build_manifest
from celosia.hw import regs
from celosia.hw.binary.config import BinaryConfig
from celosia.hw.configs import config_of

from .golden.binary.machine import Machine as BinaryMachine
from .golden.machine import Machine, MachineError
from .golden.pages import PageTables
from .golden.score import score

__all__ = ["BinaryGoldenDevice", "GoldenDevice", "open_device"]

_BASE = 0x1000_0000
_PAGE_BYTES = 4096
_START, _RESET, _CLEAR = 1, 2, 4
_DONE, _ERROR = 2, 4
_REFUSED = 2
_MAX_TOKENS = 17     # one more than any accelerator takes: refused by the machine


def open_device(config="tiny", *, memory_bytes=256 << 20):
    """A golden device by the name of its configuration; ValueError on an unknown name."""
    config = config_of(config)
    kind = BinaryGoldenDevice if isinstance(config, BinaryConfig) else GoldenDevice
    return kind(config, memory_bytes=memory_bytes)


class _Device:
    """Registers and memory; a start calls ``_run``, which computes and may raise MachineError. It counts no cycles."""

    name = "golden"

    def __init__(self, config, *, memory_bytes=256 << 20):
        self.config = config
        self.manifest = build_manifest(config)
        self._memory = np.zeros(memory_bytes, np.uint8)
        self._top = 0
        self._machine = self._windows = None
        self._registers = {regs.offset("ID"): regs.ID_MAGIC,
                           regs.offset("VERSION"): self.manifest["isa_version"] | self.manifest["abi_version"] << 16,
                           regs.offset("CONFIG"): int(config.digest, 16)}

    def read32(self, offset):
        """One register; zero where nothing was written."""
        return self._registers.get(offset, 0)

    def write32(self, offset, value):
        """Write one register; a start runs the program to its end at once."""
        if offset != regs.offset("CONTROL"):
            self._registers[offset] = value
            return
        if value & _RESET:
            self._registers[regs.offset("PAGE_STATUS")] = 0
        if value & (_RESET | _CLEAR):
            self._registers[regs.offset("STATUS")] = 0
        if value & _START:
            self._start()

    def allocate(self, n_bytes):
        """(address, uint8 array) of a page-aligned buffer; MemoryError when the memory is full."""
        if self._top + n_bytes > len(self._memory):
            raise MemoryError(f"The golden device's memory has {len(self._memory) - self._top} bytes left, not {n_bytes}; "
                              "open the device with a larger memory_bytes")
        start = self._top
        self._top = -(-(start + n_bytes) // _PAGE_BYTES) * _PAGE_BYTES
        return _BASE + start, self._memory[start:start + n_bytes]

    def release(self):
        """Forget all buffers."""
        self._top = 0
        self._machine = None

    def flush(self, address, n_bytes):
        """Nothing to do."""

    def invalidate(self, address, n_bytes):
        """Nothing to do."""

    def peek(self, address, n_bytes):
        """View of the memory, uint8."""
        return self._memory[address - _BASE:address - _BASE + n_bytes]

    def wait(self, timeout_cycles):
        """The machine has always finished."""
        return True

    def close(self):
        """Nothing to give back."""

    def _get(self, name):
        offset = regs.offset(name)
        return self.read32(offset) | self.read32(offset + 4) << 32

    def _launched(self):
        """(machine, program, tokens, lanes) by the registers."""
        windows = tuple(self._get(name) for name in ("MODEL_BASE", "MODEL_SIZE", "CACHE_BASE", "CACHE_SIZE"))
        if self._machine is None or windows != self._windows:
            self._windows = windows
            self._machine = self._new_machine(self.peek(*windows[:2]), self.peek(*windows[2:]))
        n_tokens = self.read32(regs.offset("N_TOKENS"))
        tokens = [self.read32(regs.offset("TOKEN0") + 4 * t) for t in range(min(n_tokens, _MAX_TOKENS))]
        words = [self.read32(regs.offset("LANE0") + 4 * t) for t in range(len(tokens))]
        lanes = [(word >> 16 & 0xF, word & 0xFFFF) for word in words]
        program = self._get("PROGRAM_OFFSET"), self.read32(regs.offset("PROGRAM_COUNT"))
        return self._machine, program, tokens, lanes

    def _start(self):
        status = regs.offset("STATUS")
        try:
            self._run()
        except MachineError as error:
            codes = {name: code for code, name in regs.Error.NAMES.items()}
            self._registers[status] = _ERROR
            self._registers[regs.offset("ERROR_CODE")] = codes[error.code]
            self._registers[regs.offset("ERROR_INDEX")] = error.index
        else:
            self._registers[status] = _DONE


class GoldenDevice(_Device):
    """The golden machine of a decoder."""

    def __init__(self, config, *, memory_bytes=256 << 20):
        super().__init__(config, memory_bytes=memory_bytes)
        self._pages = PageTables.of(config)

    def write32(self, offset, value):
        """Write one register; a start runs the program to its end at once."""
        if offset == regs.offset("PAGE"):
            self._page(value)
        super().write32(offset, value)

    def _page(self, value):
        if not self._pages.command(value >> 28, value & 0xFFF, value >> 12 & 0xFFF, value >> 24 & 0xF):
            self._registers[regs.offset("PAGE_STATUS")] = _REFUSED

    def score(self):
        """Instead of a start: run the program that the registers name; logits float32 (tokens, vocabulary) after every token.

        Raises MachineError where a start would end in an error.
        """
        return score(*self._launched()).numpy()

    def _new_machine(self, model, cache):
        machine = Machine(model, cache, self.config)
        machine.pages = self._pages
        return machine

    def _run(self):
        machine, *launch = self._launched()
        machine.run(*launch)
        self._registers[regs.offset("ACCEPTED")] = machine.accepted()
        found = [machine.candidates(lane) for lane in range(self.read32(regs.offset("N_TOKENS")))]
        self._registers[regs.offset("TOPK_COUNT")] = max(map(len, found))
        for lane, candidates in enumerate(found):
            for i, (token, logit) in enumerate(candidates):
                offset = regs.TOPK_OFFSET + regs.TOPK_LANE_BYTES * lane + 8 * i
                self._registers[offset] = token
                self._registers[offset + 4] = int(np.float32(logit).view(np.uint32))


class BinaryGoldenDevice(_Device):
    """The golden machine of binary encoders."""

    def _new_machine(self, model, cache):
        return BinaryMachine(model, cache, self.config)

    def _run(self):
        machine, program, _, lanes = self._launched()
        machine.run(program, [length for _, length in lanes])
