"""One token lane of the binary engine: agreements of R rows with its activations, added up.

    w ─┬► Agreements ──► Counters ──► left + right ──reg──► + ──┬─► count ──reg at the end of a pass──► row by row
    a ─┘   all rows       of a row        DSP               ▲   │
                                                            └reg┘ DSP

The sums of the counts are never cleared: what a pass counts is the difference to what was read at the end of the pass before. So
both adders of a row are plain ones, and four of each fit a DSP48E2. The module has no constant of its own lane: all lanes of an
engine are the same, that of ones too. Rate: a beat a cycle.
"""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .engine_words import COUNT_BITS
from .popcount import Agreements, Counters, counter_levels

__all__ = ["BinaryLane"]


class BinaryLane(wiring.Component):
    """Counts of R rows.

    Parameters
    ----------
    engine_rows, columns : int
        Rows and columns of a beat.

    Members: ``w`` and ``a`` of a beat in cycle c. ``add`` (a beat was there) is given in c + ``add_lag``, ``take`` (it was the
    last of its pass) in c + ``take_lag``. The rows of a pass are asked for by number from two cycles after its ``take`` until one
    after that of the next; ``count`` follows ``row`` a cycle later.
    """

    def __init__(self, *, engine_rows, columns):
        self._rows, self._columns = engine_rows, columns
        self.add_lag = counter_levels(columns)
        self.take_lag = self.add_lag + 2
        super().__init__({
            "w": In(engine_rows * columns), "a": In(columns), "add": In(1), "take": In(1), "row": In(range(engine_rows)),
            "count": Out(COUNT_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.agreements = agreements = Agreements(engine_rows=self._rows, columns=self._columns)
        add, take = Signal(), Signal()
        m.submodules.counters = counters = Counters(engine_rows=self._rows, columns=self._columns)
        m.d.comb += [agreements.w.eq(self.w), agreements.a.eq(self.a), counters.ones.eq(agreements.ones),
                     counters.twos.eq(agreements.twos)]
        m.d.sync += [add.eq(self.add), take.eq(self.take)]
        taken = []
        for row in range(self._rows):
            beat_sum = Signal(counters.bits, name=f"beat_sum{row}", attrs={"use_dsp": "simd"})
            total = Signal(COUNT_BITS, name=f"total{row}", attrs={"use_dsp": "simd"})
            beat, running, kept = (Signal(bits, name=f"{name}{row}", reset_less=True) for name, bits in (
                ("beat", counters.bits), ("running", COUNT_BITS), ("kept", COUNT_BITS)))
            m.d.comb += [beat_sum.eq(counters.left[row] + counters.right[row]), total.eq(running + beat)]
            m.d.sync += [beat.eq(beat_sum), running.eq(total)]
            with m.If(~add):        # the registers' own reset
                m.d.sync += beat.eq(0)
            with m.If(take):        # the registers' own enable
                m.d.sync += kept.eq(running)
            taken.append(kept)
        m.d.sync += self.count.eq(Array(taken)[self.row])
        return m
