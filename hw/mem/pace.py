"""Keeps the readers of the ports close together, so that streams laid into different banks of the memory stay there.

::

    rooms of the queues --> the larger of each two --> the largest --> room + ahead_beats < largest: hold that port

Segments that are read side by side begin at different banks, but a port that falls behind by a bank's row meets the row of
another one, and both are slowed from then on: nothing brings them apart again while the engine takes beats as fast as
memory gives them. A port that holds ``ahead_beats`` more than the one that holds least asks for nothing until that one has
caught up. It has beats to give meanwhile, so nobody waits for it.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Pace"]


class Pace(wiring.Component):
    """Compares the rooms of all ports.

    Parameters
    ----------
    n_ports : int, a power of two
    queue_beats : beats that a queue has room for
    ahead_beats : beats that a port may hold more than another before it is held

    Members
    -------
    rooms : In(range(queue_beats + 1)) a port
    hold : Out(1) a port, at most log2(n_ports) + 1 cycles later
    """

    def __init__(self, *, n_ports, queue_beats, ahead_beats):
        if n_ports < 1 or n_ports & (n_ports - 1):
            raise ValueError(f"n_ports must be a power of two, not {n_ports!r}")
        if not 1 <= ahead_beats <= queue_beats:
            raise ValueError(f"ahead_beats must be 1 to {queue_beats}, not {ahead_beats!r}")
        self._ahead_beats = ahead_beats
        room = range(queue_beats + 1)
        super().__init__({"rooms": In(room).array(n_ports), "hold": Out(1).array(n_ports)})

    def elaborate(self, platform):
        m = Module()
        largest = list(self.rooms)
        while len(largest) > 1:
            pairs, largest = list(zip(largest[::2], largest[1::2])), []
            for first, second in pairs:
                larger = Signal.like(first, reset_less=True, name="larger")
                m.d.sync += larger.eq(Mux(first > second, first, second))
                largest.append(larger)
        for room, hold in zip(self.rooms, self.hold):
            m.d.sync += hold.eq(room + self._ahead_beats < largest[0])
        return m
