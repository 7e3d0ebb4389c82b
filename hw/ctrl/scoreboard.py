"""Who has completed what: done counts for the waits, and the oldest descriptor that is not finished.

::

    issue (unit) -> [units in program order] -> head: retire when its unit has completed more than were retired
    done strobes -> done_counts (16 bits a unit)
"""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import Queue, connect
from .links import UNITS, Waits

__all__ = ["Scoreboard"]

_IN_FLIGHT = 128


class Scoreboard(wiring.Component):
    """
    Parameters
    ----------
    units : names of the units, 2 to 4

    Members
    -------
    i : stream of the unit (place in ``units``) of every descriptor issued, in program order
    done : a strobe a unit, in the order of ``units``
    done_counts : Waits
    oldest : index of the oldest descriptor that is not finished
    empty : everything issued is finished

    At most 128 descriptors are in flight; ``i`` then waits. A descriptor retires a cycle. Paths: i.valid -> empty.
    """

    def __init__(self, units=UNITS):
        self._units = units
        super().__init__({
            "i": In(stream.Signature(range(len(units)))), "done": In(len(units)),
            "done_counts": Out(Waits(units)), "oldest": Out(16), "empty": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.order = order = Queue(range(len(self._units)), depth=_IN_FLIGHT, ram_style="distributed")
        connect(m, wiring.flipped(self.i), order.i)
        ahead = Signal(data.ArrayLayout(8, len(self._units)))         # completed and not retired
        retire = Signal()
        some_ahead = Array(count.any() for count in ahead)
        m.d.comb += [
            retire.eq(order.o.valid & some_ahead[order.o.p]), order.o.ready.eq(retire),
            self.empty.eq((order.level == 0) & ~self.i.valid),
        ]
        for unit, name in enumerate(self._units):
            count = getattr(self.done_counts, name)
            m.d.sync += [
                count.eq(count + self.done[unit]),
                ahead[unit].eq(ahead[unit] + self.done[unit] - (retire & (order.o.p == unit))),
            ]
        with m.If(retire):
            m.d.sync += self.oldest.eq(self.oldest + 1)
        return m
