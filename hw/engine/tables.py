"""Table builder: the sums of every three activations, for one token lane at a time.

    activation words ──► staging (C activations) ──► work ──► a group: s <- s +- one of its three ──► entries

In 14 steps (``WALK``) every group of the row makes its 14 entries, all groups at once, one entry a cycle. Staging fills
with the next lane's activations while this lane is built.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .words import GROUP_COLUMNS, BuildStep, column_groups, entry_bits

__all__ = ["TableBuilder"]


class TableBuilder(wiring.Component):
    """Builder of the tables of one token lane.

    Parameters
    ----------
    vector_lanes : int
        Activations in a word.
    columns : int
        Activations of a column block, a multiple of ``vector_lanes``.

    Members: ``word`` enters the staging register when ``shift`` is set, the first word of a block first. ``step`` is
    obeyed in the cycle in which it is given, except that ``load`` takes staging over for the next cycle's step.
    ``entries`` follow their step after ``LATENCY`` cycles; group g uses the low ``entry_bits`` of element g.
    """

    LATENCY = 2

    def __init__(self, *, vector_lanes, columns):
        if columns % vector_lanes:
            raise ValueError(f"Columns must be a multiple of the vector lanes ({vector_lanes}), not {columns}")
        self._lanes, self._columns = vector_lanes, columns
        super().__init__({
            "shift": In(1), "word": In(8 * vector_lanes), "step": In(BuildStep),
            "entries": Out(data.ArrayLayout(entry_bits(GROUP_COLUMNS), len(column_groups(columns)))),
        })

    def elaborate(self, platform):
        m = Module()
        staging = Signal(8 * self._columns, reset_less=True)
        work = Signal(8 * self._columns, reset_less=True)
        with m.If(self.shift):
            m.d.sync += staging.eq(Cat(staging[8 * self._lanes:], self.word))
        with m.If(self.step.load):
            m.d.sync += work.eq(staging)

        s1_clear = Signal(reset_less=True)
        m.d.sync += s1_clear.eq(self.step.clear)
        s2_sums = Signal(self.entries.shape(), reset_less=True)
        for g, columns in enumerate(column_groups(self._columns)):
            bits = entry_bits(len(columns))
            acts = [work[8 * column:8 * column + 8].as_signed() for column in columns]
            chosen = acts[0]
            for k in range(1, len(acts)):
                chosen = Mux(self.step.select == k, acts[k], chosen)
            s1_term = Signal(signed(9), name=f"s1_term{g}", reset_less=True)
            s2_sum = s2_sums[g][:bits]
            total = Signal(bits, name=f"total{g}", attrs={"use_dsp": "simd"})
            m.d.comb += total.eq(s2_sum + s1_term)
            m.d.sync += [s1_term.eq((chosen ^ self.step.negate.replicate(9).as_signed()) + self.step.negate), s2_sum.eq(total)]
            with m.If(s1_clear):
                m.d.sync += s2_sum.eq(0)
        m.d.comb += self.entries.eq(s2_sums)
        return m
