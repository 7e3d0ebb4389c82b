"""Sequential reads with writes among them on the ports of the simulated memory: what a memory system can do at best."""

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

from .memory import violation_text
from .verilator import build_plain_library

__all__ = ["Stream", "Moved", "FAULTS", "drive"]

_SOURCE = Path(__file__).with_name("traffic.cpp")
FAULTS = ("none", "cross_4k", "drop_valid", "change_payload", "wrong_last")


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What one port's master does: it reads ``n_bytes`` from ``address`` on, and writes a burst of results now and then.

    Parameters
    ----------
    address, n_bytes : int
        Read from here, so many bytes; multiples of the port's width.
    burst_beats : int
        Of a read burst, 1 .. 256.
    outstanding : int
        Read bursts in flight.
    write_address : int
        Results go here, one burst after the other.
    write_every_bytes : int
        Bytes read for one burst of results; 0: no writes.
    write_beats : int
        Of a burst of results.
    start_cycle : int
        Of the first request.
    """

    address: int
    n_bytes: int
    burst_beats: int = 64
    outstanding: int = 8
    write_address: int = 0
    write_every_bytes: int = 0
    write_beats: int = 4
    start_cycle: int = 0


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What came of it: cycle of each port's last beat, of the last one of all, and bytes read in a cycle until then."""

    port_cycles: tuple
    cycles: int
    bytes_per_cycle: float


def drive(timing, streams, *, port_bytes=16, fault="none", seed=0, limit_cycles=10_000_000):
    """Run one stream a port until all reads have come and all writes are answered; returns `Moved`.

    ``fault`` makes every master break one rule (`FAULTS`).  RuntimeError when a rule was broken, TimeoutError at the limit.
    """
    if not 1 <= len(streams) <= 4 or fault not in FAULTS:
        raise ValueError(f"drive takes 1 .. 4 streams and a fault of {', '.join(FAULTS)}, not {len(streams)} and {fault!r}")
    n_ports = len(streams)
    c_streams = (_CStream * n_ports)(*(
        _CStream(s.address, s.n_bytes, s.write_address, s.start_cycle, s.burst_beats, s.outstanding, s.write_every_bytes,
                 s.write_beats) for s in streams))
    done, violation = (ctypes.c_uint64 * (n_ports + 1))(), ctypes.c_uint32()
    c_timing = timing.as_c(seed)
    status = _library().celosia_traffic(ctypes.byref(c_timing), n_ports, port_bytes, c_streams, FAULTS.index(fault),
                                        ctypes.c_uint64(limit_cycles), done, ctypes.byref(violation))
    if status == 2:
        raise RuntimeError(violation_text(violation.value, done[n_ports]))
    if status:
        raise TimeoutError(f"The streams must be done within {limit_cycles} cycles")
    cycles = max(done[:n_ports])
    return Moved(port_cycles=tuple(done[:n_ports]), cycles=cycles, bytes_per_cycle=sum(s.n_bytes for s in streams) / cycles)


class _CStream(ctypes.Structure):
    _fields_ = [("address", ctypes.c_uint64), ("bytes", ctypes.c_uint64), ("write_address", ctypes.c_uint64),
                ("start", ctypes.c_uint64), ("burst_beats", ctypes.c_uint32), ("outstanding", ctypes.c_uint32),
                ("write_every", ctypes.c_uint32), ("write_beats", ctypes.c_uint32)]


@functools.cache
def _library():
    return ctypes.CDLL(str(build_plain_library(_SOURCE)))
