"""Softmax of one lane without a division: the least weight that is a share of the sum.

Rows of the first pass add their weights; then the bounds of the table pass by, and the first one above the sum is the cut. Rows of
the second pass are set from the cut on.

::

    index --> table --> weight, where seen --+--> sum ---- bounds of 0, 1, 2 .. ----> cut
                                                                      index >= cut --> reaches

A bound is taken off the sum as the difference from the bound before, so that there is one adder and the sign is the comparison.
The module has no constant of its own lane.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["CutLane", "CutControl", "index_bits"]

_SUM_BITS = 42      # 40, a bound and a sign
_BOUND_UNIT_BITS = 8


def index_bits(columns):
    """Bits of an index, 0 .. columns, and of the number behind it."""
    return (columns + 1).bit_length()


class CutControl(data.StructLayout):
    """What all lanes share."""
    def __init__(self, columns):
        super().__init__({
            "clear": 1,                                 # the sum is 0
            "write": 1,                                 # ``weight`` is that of ``number``
            "number": unsigned(index_bits(columns)), "weight": unsigned(32),
            "drop": signed(33),                         # the bound before less this one; 0 while no bounds pass by
            "check": 1,                                 # the sum is below the bound of ``checked``: this is the cut, if none was
            "last": 1,                                  # ``checked`` is the cut, if none was
            "checked": unsigned(index_bits(columns)),
        })


class CutLane(wiring.Component):
    """Members: ``control``; ``index`` and, in the same cycle, ``reaches``; ``adds``: the weight of ``index`` is
    added, to be seen in the sum 3 cycles later."""

    def __init__(self, *, columns):
        self._columns = columns
        super().__init__({"control": In(CutControl(columns)), "index": In(index_bits(columns)), "adds": In(1), "reaches": Out(1)})

    def elaborate(self, platform):
        m = Module()
        control = self.control
        m.submodules.table = table = memory.Memory(shape=32, depth=1 << index_bits(self._columns), init=[],
                                                   attrs={"ram_style": "block"})
        write, read = table.write_port(), table.read_port()
        m.d.comb += [write.en.eq(control.write), write.addr.eq(control.number), write.data.eq(control.weight),
                     read.addr.eq(self.index)]

        adds, weight = Signal(), Signal(32)
        total, found = Signal(signed(_SUM_BITS)), Signal()
        cut = Signal(index_bits(self._columns))
        m.d.sync += [adds.eq(self.adds), weight.eq(Mux(adds, read.data, 0))]
        # The weight is 0 while bounds pass by, the drop while rows do.
        term = Cat(weight[:_BOUND_UNIT_BITS], weight[_BOUND_UNIT_BITS:] | control.drop[:24], control.drop[24:])
        m.d.sync += total.eq(total + term.as_signed())
        below = total[-1]
        with m.If(control.clear):
            m.d.sync += [total.eq(0), found.eq(0)]
        with m.If(control.check & ~found):
            m.d.sync += [cut.eq(control.checked), found.eq(below | control.last)]
        m.d.comb += self.reaches.eq(self.index >= cut)
        return m
