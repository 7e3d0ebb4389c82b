"""Where the time of a program goes: a line a descriptor, from the simulated device.

    device.finished ──┐
    program's steps ──┴──► Event a descriptor ──► text

A unit runs its descriptors in order, so the n-th that a unit finishes is the n-th of its opcode in the program. A descriptor
could start (``ready``) when the one before it in its unit and all that it waits for were done; what lies between that and
``done`` is work, or waiting for memory, for a stream or for room.
"""

from dataclasses import dataclass

from celosia.hw.isa import Opcode

__all__ = ["Event", "events", "timeline"]

_UNITS = (Opcode.LOAD, Opcode.MATMUL, Opcode.VECTOR, Opcode.ATTEND)     # as in the waits and the counts


@dataclass(frozen=True)
class Event:
    """One finished descriptor. ``ready`` and ``done`` are cycles since the program began; ``matmul_beats`` entered the engine
    and ``port0_beats`` left port 0 since the line before."""
    index: int
    opcode: Opcode
    label: str
    ready: int
    done: int
    matmul_beats: int
    port0_beats: int


def events(steps, finished):
    """Events of a program in the order in which they were done. ``steps``: of the program; ``finished``: as of SimDevice."""
    of_unit = {unit: [(i, step) for i, step in enumerate(steps) if step.opcode is unit] for unit in _UNITS}
    done = {unit: [0] for unit in _UNITS}       # cycle at which n were done
    rows = finished[int((finished[:, 1] == 0).argmax()):].tolist()      # before a program begins, the counts are the last one's
    began, out, busy, beats = rows[0][0], [], 0, 0
    for cycle, counts, matmul_busy, port0_beats in rows:
        for place, unit in enumerate(_UNITS):
            for n in range(len(done[unit]) - 1, counts >> 16 * place & 0xFFFF):
                index, step = of_unit[unit][n]
                ready = max(done[unit][n], *(done[other][count] for other, count in zip(_UNITS, step.waits)))
                done[unit].append(cycle - began)
                out.append(Event(index, unit, step.label, ready, cycle - began, matmul_busy - busy, port0_beats - beats))
                busy, beats = matmul_busy, port0_beats
    return out


def timeline(found):
    """Text: a line an event."""
    lines = [f"{'done':>9} {'ready':>9} {'cycles':>7} {'engine':>7} {'port0':>7} index unit   descriptor"]
    lines += [f"{e.done:9} {e.ready:9} {e.done - e.ready:7} {e.matmul_beats:7} {e.port0_beats:7} {e.index:5} "
              f"{e.opcode.name:6} {e.label}" for e in found]
    return "\n".join(lines)
