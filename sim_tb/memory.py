"""Timing of the simulated memory: parameters and presets of the model in ``harness.cpp``."""

import ctypes
from dataclasses import dataclass

__all__ = ["MemoryTiming", "PRESETS"]


@dataclass(frozen=True, kw_only=True)
class MemoryTiming:
    """One memory system.

    Parameters
    ----------
    latency_cycles : int
        From the start of a piece (at most 16 beats) on the data bus to its first beat at the port.
    bytes_per_cycle : float
        What the data bus moves.
    turnaround_cycles : int
        Lost at every change between reading and writing.
    write_overhead_cycles : int
        Cost of a write burst besides its data.
    outstanding : int
        Pieces in flight on one port.
    stall : float
        Chance that a channel stalls in a cycle.
    random_latency_cycles : int
        Up to so many cycles more, drawn for every piece.
    """

    latency_cycles: int
    bytes_per_cycle: float
    turnaround_cycles: int = 0
    write_overhead_cycles: int = 0
    outstanding: int = 8
    stall: float = 0.0
    random_latency_cycles: int = 0

    def as_c(self, seed):
        """The structure that ``celosia_new`` takes."""
        return CTiming(self.latency_cycles, round(self.bytes_per_cycle * 1024), self.turnaround_cycles,
                       self.write_overhead_cycles, self.outstanding, round(self.stall * 1024), self.random_latency_cycles, seed)


class CTiming(ctypes.Structure):
    _fields_ = [("latency", ctypes.c_uint32), ("bytes_per_1024", ctypes.c_uint32), ("turnaround", ctypes.c_uint32),
                ("write_overhead", ctypes.c_uint32), ("outstanding", ctypes.c_uint32), ("stall_1024", ctypes.c_uint32),
                ("random_latency", ctypes.c_uint32), ("seed", ctypes.c_uint64)]


PRESETS = {
    # 64-bit DDR4-2133 seen from the fabric at 250 MHz: 17.07 GB/s are 68.3 bytes a cycle, of which 94 % have been reached
    # by one long read; eight pieces in flight a port.
    "kv260": MemoryTiming(latency_cycles=60, bytes_per_cycle=64.2, turnaround_cycles=12, write_overhead_cycles=8),
    # For correctness, not for speed: every channel stalls at random.
    "stress": MemoryTiming(latency_cycles=5, bytes_per_cycle=32.0, turnaround_cycles=3, stall=0.3, random_latency_cycles=60),
}
