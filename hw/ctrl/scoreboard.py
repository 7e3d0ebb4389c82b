"""Who has completed what: done counts for the waits, and the oldest descriptor that is not finished.

::

    issue (unit) -> [units in program order] -> head: retire when its unit has completed more than were retired
    done strobes -> done_counts (16 bits a unit)
"""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import Queue, connect
from .links import Waits

__all__ = ["Scoreboard", "UNITS"]

UNITS = ("load", "matmul", "vector", "attend")
_IN_FLIGHT = 128


class Scoreboard(wiring.Component):
    """
    Members
    -------
    i : stream of the unit (place in ``UNITS``) of every descriptor issued, in program order
    done : a strobe a unit, in the order of ``UNITS``
    done_counts : Waits
    oldest : index of the oldest descriptor that is not finished
    empty : everything issued is finished

    At most 128 descriptors are in flight; ``i`` then waits. A descriptor retires a cycle. Paths: i.valid -> empty.
    """

    def __init__(self):
        super().__init__({
            "i": In(stream.Signature(2)), "done": In(4),
            "done_counts": Out(Waits), "oldest": Out(16), "empty": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.order = order = Queue(2, depth=_IN_FLIGHT, ram_style="distributed")
        connect(m, wiring.flipped(self.i), order.i)
        ahead = Signal(data.ArrayLayout(8, len(UNITS)))         # completed and not retired
        retire = Signal()
        some_ahead = Array(count.any() for count in ahead)
        m.d.comb += [
            retire.eq(order.o.valid & some_ahead[order.o.p]), order.o.ready.eq(retire),
            self.empty.eq((order.level == 0) & ~self.i.valid),
        ]
        for unit, name in enumerate(UNITS):
            count = getattr(self.done_counts, name)
            m.d.sync += [
                count.eq(count + self.done[unit]),
                ahead[unit].eq(ahead[unit] + self.done[unit] - (retire & (order.o.p == unit))),
            ]
        with m.If(retire):
            m.d.sync += self.oldest.eq(self.oldest + 1)
        return m
