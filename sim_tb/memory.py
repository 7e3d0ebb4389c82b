"""Timing of the simulated memory: parameters and presets of the model in ``memory.hpp``, and what it reports.

Where every number comes from: ``docs/memory_model.md``.
"""

import ctypes
from dataclasses import dataclass

__all__ = ["MemoryTiming", "PRESETS", "violation_text"]

_N_PORTS = 4


@dataclass(frozen=True, kw_only=True)
class MemoryTiming:
    """One memory system; a cycle is one of the ports' clock.

    Parameters
    ----------
    latency_cycles : int
        From the data bus of the memory to the port.
    outstanding : int
        Pieces (at most 16 beats) of a port between the controller and the port's data queue.
    commands : int
        Pieces a port takes, those outstanding included, before the next burst waits; at most 32.
    bytes_per_cycle : float
        What the data bus moves while it is busy.
    row_bytes, n_banks : int
        Neighbouring bytes in one row of a bank; neighbouring rows are in different banks.
    row_miss_cycles : float
        From the last piece of one row to the first of another in the same bank; 0: rows do not matter.
    row_hits : int
        Pieces served from a row before another one that is asked for in the same bank is opened.
    refresh_interval_cycles, refresh_cycles : int
        Every so often, nothing moves for so long; 0: no refresh.
    read_to_write_cycles, write_to_read_cycles : float
        Lost when the data bus turns around.
    write_group : int
        Write pieces that are gathered before the bus is turned around.
    write_wait_cycles : int
        After so long a write does not wait for others.
    entry : tuple of int
        Entry of the controller that each port leads to; entries are served in turn.
    entry_run : int
        Pieces of a port before another port of its entry has its turn.
    entry_gap_cycles : tuple of float
        Least distance between two pieces of an entry.
    stall : float
        Chance that a channel of a port stalls in a cycle.
    random_latency_cycles : int
        Up to so many cycles more, drawn for every piece.
    """

    latency_cycles: int
    bytes_per_cycle: float
    outstanding: int = 8
    commands: int = 16
    row_bytes: int = 16384
    n_banks: int = 4
    row_miss_cycles: float = 0.0
    row_hits: int = 1
    refresh_interval_cycles: int = 0
    refresh_cycles: int = 0
    read_to_write_cycles: float = 0.0
    write_to_read_cycles: float = 0.0
    write_group: int = 8
    write_wait_cycles: int = 64
    entry: tuple = (0, 1, 1, 2)
    entry_run: int = 1
    entry_gap_cycles: tuple = (0.0, 0.0, 0.0, 0.0)
    stall: float = 0.0
    random_latency_cycles: int = 0

    def __post_init__(self):
        if not 1 <= self.outstanding <= self.commands <= 32:
            raise ValueError(f"outstanding and commands must be 1 .. 32 in this order, not {self.outstanding} and {self.commands}")
        if len(self.entry) != _N_PORTS or not all(0 <= entry < _N_PORTS for entry in self.entry):
            raise ValueError(f"entry must be {_N_PORTS} numbers below {_N_PORTS}, not {self.entry!r}")
        if self.row_bytes.bit_count() != 1 or self.n_banks not in (1, 2, 4, 8, 16):
            raise ValueError(f"row_bytes and n_banks must be powers of two, n_banks at most 16, "
                             f"not {self.row_bytes} and {self.n_banks}")

    def as_c(self, seed):
        """The structure that ``celosia_new`` takes."""
        def fixed(cycles):
            return round(cycles * 1024)

        numbers = ctypes.c_uint32 * _N_PORTS
        return CTiming(
            self.latency_cycles, self.outstanding, self.commands, fixed(64 / self.bytes_per_cycle),
            self.row_bytes.bit_length() - 1, self.n_banks.bit_length() - 1, fixed(self.row_miss_cycles), self.row_hits,
            self.refresh_interval_cycles, self.refresh_cycles, fixed(self.read_to_write_cycles),
            fixed(self.write_to_read_cycles), self.write_group, self.write_wait_cycles, numbers(*self.entry),
            self.entry_run, numbers(*map(fixed, self.entry_gap_cycles)), fixed(self.stall), self.random_latency_cycles, seed)


class CTiming(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_uint32) for name in (
        "latency", "outstanding", "commands", "burst_1024", "row_bytes_log2", "banks_log2", "row_miss_1024", "row_hits",
        "refresh_interval", "refresh_cycles", "read_to_write_1024", "write_to_read_1024", "write_group", "write_wait")),
        ("entry", ctypes.c_uint32 * _N_PORTS), ("entry_run", ctypes.c_uint32), ("entry_gap_1024", ctypes.c_uint32 * _N_PORTS),
        ("stall_1024", ctypes.c_uint32), ("random_latency", ctypes.c_uint32), ("seed", ctypes.c_uint64)]


PRESETS = {
    # 64-bit DDR4-2133, four 16-bit devices, seen from ports of 128 bits at 250 MHz.
    "kv260": MemoryTiming(
        latency_cycles=60, random_latency_cycles=16, bytes_per_cycle=68.27, outstanding=16, row_miss_cycles=6.0, row_hits=2,
        refresh_interval_cycles=1950, refresh_cycles=65, read_to_write_cycles=4.0, write_to_read_cycles=5.4,
        write_wait_cycles=48, entry_run=2),
    # For correctness, not for speed: every channel stalls at random.
    "stress": MemoryTiming(latency_cycles=5, bytes_per_cycle=32.0, read_to_write_cycles=3, write_to_read_cycles=3, stall=0.3,
                           random_latency_cycles=60),
}

_KINDS = (None, "a burst crosses a 4 KiB border", "a burst starts between two beats", "valid fell before ready",
          "the payload changed before ready", "wlast is not on the last beat")
_CHANNELS = ("AR", "AW", "W")


def violation_text(code, cycle):
    """What the memory saw a master do against the rules of AXI: one sentence for its code."""
    return f"AXI of port {code >> 16}, {_CHANNELS[code >> 8 & 0xFF]}: {_KINDS[code & 0xFF]}, in cycle {cycle}"
