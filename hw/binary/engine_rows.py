"""Rows of one token lane: the counts of their passes, each times a power of two.

    count ─► - ──reg─┬► + ones ──reg──► x coefficient ──reg──► + n ──reg──► + ──reg──┬──► y
             ▲       ▼                                                      ▲        │
         counts read before (R)                                            sums of the rows (R)

R rows of a pass come one after the other; the rows of the next pass may follow at once, or, if they go on with the same sums,
``TURNAROUND`` cycles after the first. The subtraction and the first addition are marked for DSPs; so are product and sums,
which are one DSP48E2.
"""

from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .engine_words import COUNT_BITS
from .isa import ROW_BITS

__all__ = ["RowStep", "RowSums"]


class RowStep(data.StructLayout):
    """What the stages of a row are told, each in its cycle."""
    def __init__(self, engine_rows):
        row = range(engine_rows)
        super().__init__({
            "count_en": unsigned(1), "count_row": row,      # in the cycle of the count
            "ones": unsigned(COUNT_BITS),                   # a cycle later: what the lane of ones counts, or 0
            "coefficient": signed(17),                      # two later
            "n": signed(ROW_BITS), "base_row": row, "clear": unsigned(1),   # three later: added; sum of the row, or 0
            "write_en": unsigned(1), "write_row": row})     # five later: with y


class RowSums(wiring.Component):
    """Sums of the rows of one lane.

    Parameters
    ----------
    engine_rows : int
        Rows of a pass (R).

    Members: ``step`` as :class:`RowStep` says; ``difference`` what a pass has counted, a cycle behind ``count``; ``y`` ``LATENCY``
    cycles behind it.
    """

    LATENCY = 5
    TURNAROUND = 3

    def __init__(self, *, engine_rows):
        self._rows = engine_rows
        super().__init__({"count": In(COUNT_BITS), "step": In(RowStep(engine_rows)),
                          "difference": Out(COUNT_BITS), "y": Out(signed(ROW_BITS))})

    def elaborate(self, platform):
        m = Module()
        counts, sums = (memory.Memory(shape=bits, depth=self._rows, init=[], attrs={"ram_style": "distributed"})
                        for bits in (COUNT_BITS, ROW_BITS))
        m.submodules.counts, m.submodules.sums = counts, sums
        before, keep = counts.read_port(domain="comb"), counts.write_port()
        base, write = sums.read_port(domain="comb"), sums.write_port()
        step = self.step
        m.d.comb += [
            before.addr.eq(step.count_row), keep.en.eq(step.count_en), keep.addr.eq(step.count_row), keep.data.eq(self.count),
            base.addr.eq(step.base_row), write.en.eq(step.write_en), write.addr.eq(step.write_row), write.data.eq(self.y),
        ]

        s1_count, s2_count = Signal(COUNT_BITS, reset_less=True), Signal(COUNT_BITS + 1, reset_less=True)
        s3_product, s4_product, s4_base = (Signal(signed(ROW_BITS), name=name, reset_less=True) for name in (
            "s3_product", "s4_product", "s4_base"))
        difference, with_ones = (Signal(len(value), name=name, attrs={"use_dsp": "simd"}) for name, value in (
            ("difference_", s1_count), ("with_ones", s2_count)))
        with_n, y = (Signal(signed(ROW_BITS), name=name, attrs={"use_dsp": "yes"}) for name in ("with_n", "y_"))
        m.d.comb += [
            difference.eq(self.count - before.data), with_ones.eq(s1_count + step.ones), with_n.eq(s3_product + step.n),
            y.eq(s4_product + s4_base), self.difference.eq(s1_count),
        ]
        m.d.sync += [
            s1_count.eq(difference), s2_count.eq(with_ones), s3_product.eq(s2_count * step.coefficient),
            s4_product.eq(with_n), s4_base.eq(base.data), self.y.eq(y),
        ]
        with m.If(step.clear):      # the registers' own reset
            m.d.sync += s4_base.eq(0)
        return m
