"""The queue before a unit: its head is offered when the units it waits for have come far enough."""

from functools import reduce
from operator import and_

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import Queue
from .links import UNITS, Gated, Waits

__all__ = ["Station"]


class Station(wiring.Component):
    """A queue of ``depth`` commands of ``shape``; ``o`` has the head once ``done_counts`` >= its waits, for each of ``units``.

    ``done_counts`` never falls (but for a reset of all). Paths: none. Latency: 3 cycles; from the last count to ``o`` 1
    cycle. Rate: a command every 2 cycles.
    """

    def __init__(self, shape, *, depth, units=UNITS):
        self._shape, self._depth, self._units = shape, depth, units
        super().__init__({
            "i": In(stream.Signature(Gated(shape, units))),
            "o": Out(stream.Signature(shape)),
            "done_counts": In(Waits(units)),
        })

    def elaborate(self, platform):
        m = Module()
        # `reserved`, at the end of a command, is not kept.
        layout = data.Layout.cast(self._shape)
        bits = dict(layout)["reserved"].offset if "reserved" in dict(layout) else layout.size
        m.submodules.queue = queue = Queue(Gated(unsigned(bits), self._units), depth=self._depth, ram_style="distributed")
        m.d.comb += [
            queue.i.p.waits.eq(self.i.p.waits), queue.i.p.command.eq(self.i.p.command), queue.i.valid.eq(self.i.valid),
            self.i.ready.eq(queue.i.ready),
        ]
        head, go = queue.o.p, Signal()
        met = [getattr(self.done_counts, unit) >= getattr(head.waits, unit) for unit in self._units]
        leave = Signal()
        m.d.comb += [
            self.o.valid.eq(go), self.o.p.as_value().eq(head.command),
            leave.eq(go & self.o.ready), queue.o.ready.eq(leave),
        ]
        m.d.sync += go.eq(reduce(and_, met, queue.o.valid) & ~leave)
        return m
