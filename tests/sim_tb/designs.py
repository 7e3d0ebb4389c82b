"""Small designs for the tests of the simulation tools: a stream buffer, a counter, repeated lanes."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out


class Beat(data.StructLayout):
    def __init__(self):
        super().__init__({"value": signed(8), "tags": data.ArrayLayout(3, 3), "last": 1})


class Buffer(wiring.Component):
    """Two words; no combinational path from side to side.  `break_rules` changes a waiting payload."""

    def __init__(self, *, break_rules=False):
        self._break_rules = break_rules
        super().__init__({"i": In(stream.Signature(Beat())), "o": Out(stream.Signature(Beat()))})

    def elaborate(self, platform):
        m = Module()
        spare = Signal(Beat())
        spare_full = Signal()
        m.d.comb += self.i.ready.eq(~spare_full)
        with m.If(self.o.ready | ~self.o.valid):
            m.d.sync += spare_full.eq(0)
            m.d.sync += self.o.valid.eq(spare_full | self.i.valid)
            with m.If(spare_full):
                m.d.sync += self.o.payload.eq(spare)
            with m.Else():
                m.d.sync += self.o.payload.eq(self.i.payload)
        with m.Elif(self.i.valid & self.i.ready):
            m.d.sync += [spare.eq(self.i.payload), spare_full.eq(1)]
        if self._break_rules:
            with m.If(self.o.valid & ~self.o.ready):
                m.d.sync += self.o.payload.last.eq(~self.o.payload.last)
        return m


class Counter(wiring.Component):
    """Adds `step` in every cycle in which it is enabled."""

    def __init__(self):
        super().__init__({"enable": In(1), "step": In(8), "count": Out(32)})

    def elaborate(self, platform):
        m = Module()
        with m.If(self.enable):
            m.d.sync += self.count.eq(self.count + self.step)
        return m


class Cell(wiring.Component):
    def __init__(self):
        super().__init__({"a": In(8), "b": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.b.eq(self.a * 3 + 1)
        return m


class Lane(wiring.Component):
    """Two cells in a row."""

    def __init__(self):
        super().__init__({"a": In(8), "b": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.first = first = Cell()
        m.submodules.second = second = Cell()
        m.d.comb += [first.a.eq(self.a), second.a.eq(first.b), self.b.eq(second.b)]
        return m


class Lanes(wiring.Component):
    """`n` equal lanes side by side; the top of a design with repeated, nested modules."""

    def __init__(self, *, n):
        self._n = n
        super().__init__({"a": In(8 * n), "b": Out(8 * n)})

    def elaborate(self, platform):
        m = Module()
        results = []
        for index in range(self._n):
            m.submodules[f"lane{index}"] = lane = Lane()
            m.d.comb += lane.a.eq(self.a.word_select(index, 8))
            results.append(lane.b)
        m.d.comb += self.b.eq(Cat(*results))
        return m
