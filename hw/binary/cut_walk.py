"""The table of a softmax: its weights into the lanes before the rows come, its bounds past the sums behind them.

::

    i: words 0 .. D --+-- load --> weights to the tables of all lanes
                      +-- scan --> drops from bound to bound, and which one is checked

A drop is added in the cycle after its word was taken, the sign of the sum is looked at in the next. Rate: a word a cycle.
"""

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .cut_lane import CutControl, index_bits
from .isa import TableParam

__all__ = ["CutWalk"]


class CutWalk(wiring.Component):
    """Parameter: ``columns``.

    Members
    -------
    load, scan : strobes: begin, with the words that come next; not while one is under way
    last_index : D; constant meanwhile
    i : stream of TableParam
    control : to all lanes; ``clear`` comes with ``load``
    idle : nothing is under way

    Path: load, scan -> idle.
    """

    def __init__(self, *, columns):
        self._columns = columns
        super().__init__({
            "load": In(1), "scan": In(1), "last_index": In(index_bits(columns)), "i": In(stream.Signature(TableParam)),
            "control": Out(CutControl(columns)), "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        control, word = self.control, self.i.p
        loading, scanning = Signal(), Signal()
        number, before = Signal(unsigned(index_bits(self._columns))), Signal(32)
        drops, dropped = Signal(), Signal(unsigned(index_bits(self._columns)))
        ends, closing = Signal(), Signal()
        take = self.i.valid & self.i.ready
        last = number == self.last_index
        m.d.comb += [
            self.i.ready.eq(loading | scanning),
            self.idle.eq(~(self.load | self.scan | loading | scanning | drops | control.write | control.check)),
        ]
        m.d.sync += [
            control.clear.eq(self.load),
            control.write.eq(take & loading), control.number.eq(number), control.weight.eq(word.weight),
            drops.eq(take & scanning), dropped.eq(number), control.drop.eq(0), ends.eq(take & scanning & last),
            # The bound behind the last one is above all sums.
            control.check.eq(drops | closing), control.last.eq(closing), closing.eq(ends),
            control.checked.eq(dropped),
        ]
        with m.If(self.load | self.scan):
            m.d.sync += [loading.eq(self.load), scanning.eq(self.scan), number.eq(0), before.eq(0)]
        with m.Elif(take):
            m.d.sync += [number.eq(number + 1), before.eq(word.bound)]
            with m.If(last):
                m.d.sync += [loading.eq(0), scanning.eq(0)]
            with m.If(scanning):
                m.d.sync += control.drop.eq(before - word.bound)
        return m
