"""The simulated device: the accelerator's Verilog, compiled, behind the same few methods as a board.

The host library does not know the difference: it writes registers, fills buffers and waits.
"""

import ctypes
from pathlib import Path

import numpy as np

from celosia.gen.manifest import build_manifest
from celosia.gen.verilog import accelerator, repeated_modules
from celosia.hw.configs import config_of

from .memory import PRESETS, violation_text
from .verilator import build_library

__all__ = ["SimDevice", "open_device"]

_HARNESS = Path(__file__).with_name("harness.cpp")
_MEMORY_BASE = 0x1000_0000
_PAGE_BYTES = 4096


def open_device(config="tiny", *, memory="kv260", memory_bytes=64 << 20, seed=0):
    """A simulated device by the names of its configuration and memory preset; ValueError on an unknown name."""
    sizes = config_of(config)
    if memory not in PRESETS:
        raise ValueError(f"Memory preset must be one of {', '.join(PRESETS)}, not {memory!r}")
    return SimDevice(sizes, PRESETS[memory], memory_bytes=memory_bytes, seed=seed)


class SimDevice:
    """A compiled accelerator with its memory.

    Parameters
    ----------
    config : AccelConfig or BinaryConfig
        What is compiled.
    timing : MemoryTiming
        How the memory behaves.
    memory_bytes : int
        Size of the memory.
    seed : int
        Of random stalls.

    Members
    -------
    manifest : dict
        The contract a built overlay would carry: configuration, registers, versions.
    """

    name = "sim"

    def __init__(self, config, timing, *, memory_bytes=64 << 20, seed=0):
        self.config = config
        self.manifest = build_manifest(config)
        text = accelerator(config)
        library = build_library(text, "celosia", _HARNESS, hier_modules=repeated_modules(text), extra_cflags=(
            f"-DN_PORTS={config.n_ports}", f"-DPORT_BYTES={config.port_bytes}"))
        self._lib = _load(str(library))
        c_timing = timing.as_c(seed)
        self._sim = self._lib.celosia_new(_MEMORY_BASE, memory_bytes, ctypes.byref(c_timing))
        self._memory = np.ctypeslib.as_array(self._lib.celosia_memory(self._sim), (memory_bytes,))
        self._top = 0

    def read32(self, offset):
        """One register; TimeoutError when the register file does not answer."""
        value = ctypes.c_uint32()
        if not self._lib.celosia_read32(self._sim, offset, ctypes.byref(value)):
            raise TimeoutError(f"Register 0x{offset:03x} must answer a read within 1,000 cycles")
        return value.value

    def write32(self, offset, value):
        """Write one register; TimeoutError when the register file does not answer."""
        if not self._lib.celosia_write32(self._sim, offset, value):
            raise TimeoutError(f"Register 0x{offset:03x} must answer a write within 1,000 cycles")

    def allocate(self, n_bytes):
        """(address, uint8 array) of a page-aligned buffer; MemoryError when the memory is full."""
        if self._top + n_bytes > len(self._memory):
            raise MemoryError(f"The simulated memory has {len(self._memory) - self._top} bytes left, not {n_bytes}; "
                              "open the device with a larger memory_bytes")
        start = self._top
        self._top = -(-(start + n_bytes) // _PAGE_BYTES) * _PAGE_BYTES
        return _MEMORY_BASE + start, self._memory[start:start + n_bytes]

    def release(self):
        """Forget all buffers."""
        self._top = 0

    def flush(self, address, n_bytes):
        """Nothing to do: the simulated memory has no cache above it."""

    def invalidate(self, address, n_bytes):
        """Nothing to do: the simulated memory has no cache above it."""

    def peek(self, address, n_bytes):
        """View of the memory as the accelerator left it, uint8."""
        return self._memory[address - _MEMORY_BASE:address - _MEMORY_BASE + n_bytes]

    def wait(self, timeout_cycles):
        """Run until the interrupt; returns whether it came within ``timeout_cycles``.

        RuntimeError when the accelerator broke a rule of AXI.
        """
        came = bool(self._lib.celosia_run(self._sim, timeout_cycles))
        cycle = ctypes.c_uint64()
        violation = self._lib.celosia_violation(self._sim, ctypes.byref(cycle))
        if violation:
            raise RuntimeError(violation_text(violation, cycle.value))
        return came

    @property
    def cycles(self):
        """Cycles simulated so far."""
        return self._lib.celosia_cycles(self._sim)

    def trace(self, on):
        """Forget what was traced; note from now on, or no more, when descriptors finish."""
        self._lib.celosia_set_tracing(self._sim, int(on))

    @property
    def finished(self):
        """What was traced: uint64 (n, 4), a row whenever a unit finished a descriptor: cycle; descriptors that every unit has
        finished in this run, 16 bits a unit (load, matmul, vector, attend from below; of a binary machine load, matmul, norm);
        MATMUL_BUSY; PORT0_BEATS."""
        count = ctypes.c_uint64()
        rows = self._lib.celosia_finished(self._sim, ctypes.byref(count))
        return np.ctypeslib.as_array(rows, (count.value, 4)).copy() if count.value else np.zeros((0, 4), np.uint64)

    def fail_reads_and_writes(self, first, last):
        """Fault injection: the memory answers [first, last) with an error."""
        self._lib.celosia_set_error_range(self._sim, first, last)

    def stop_answering(self, dead):
        """Fault injection: the memory takes requests and answers none while ``dead``."""
        self._lib.celosia_set_dead(self._sim, int(dead))

    def close(self):
        """Free the simulator; the buffers are gone with it."""
        if self._sim is not None:
            self._memory = None
            self._lib.celosia_delete(self._sim)
            self._sim = None


def _load(path):
    lib = ctypes.CDLL(path)
    sim, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    for name, result, arguments in [
            ("new", sim, [u64, u64, ctypes.c_void_p]), ("delete", None, [sim]),
            ("memory", ctypes.POINTER(ctypes.c_uint8), [sim]), ("cycles", u64, [sim]),
            ("run", ctypes.c_int, [sim, u64]), ("write32", ctypes.c_int, [sim, u32, u32]),
            ("read32", ctypes.c_int, [sim, u32, ctypes.POINTER(u32)]),
            ("violation", u32, [sim, ctypes.POINTER(u64)]), ("set_tracing", None, [sim, ctypes.c_int]),
            ("finished", ctypes.POINTER(u64), [sim, ctypes.POINTER(u64)]), ("set_dead", None, [sim, ctypes.c_int]),
            ("set_error_range", None, [sim, u64, u64])]:
        function = getattr(lib, f"celosia_{name}")
        function.restype, function.argtypes = result, arguments
    return lib
