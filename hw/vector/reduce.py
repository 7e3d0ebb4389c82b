"""Reducer: the sum of a row in SUM_SLOTS partial sums, or its largest magnitude.

Sum. The slots are words of L lanes in a small memory; the lanes' adders do the adding. Word i of the row goes to slot
word i mod (SUM_SLOTS / L); an untouched slot reads as +0. There is a set of slots for each of ROW_SETS rows, and at most
ROW_SETS - 1 rows are under way, so that a row is added up while those before it fold, in the cycles in which no word of it
comes. After its last word the slots of a row fold: for half = 64, 32, .. 1

    p[s] = p[s] + p[s + half]          s < half

which is half / L steps of whole words while half >= L, and then one step in which lane l takes lane l + half.

::

    stage S_READ     S_READ + 1        S_ADD            S_Y
    step > memory --> a, b, shuffle --> adders -------> y --> memory          before half is halved the
           ^------------------- a level waits for its last sum --^            last step must be back

Largest magnitude. |y| is compared as an integer (NaN is above infinity) in a tree over the lanes, a level a cycle,
then with the largest of the row so far, or at the row's first word with what its token kept. KEEP keeps the result,
ABSMAX passes it on and forgets it. Rows may follow one another without a gap.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from ..isa import Reduce
from .words import S_ADD, S_Y, SUM_SLOTS, delay, fit

__all__ = ["ROW_SETS", "Reducer"]

S_READ = S_ADD - 2      # a slot word's address; a cycle later the word; then the adders' operands
ROW_SETS = 4            # rows that have slots


class Reducer(wiring.Component):
    """Parameters: ``vector_lanes``, ``token_lanes``. A reset forgets what the tokens kept.

    Members
    -------
    reduce : In(Reduce)
        Constant while a descriptor runs.
    n_words : In(16)
        Words of a row, constant while a descriptor runs.
    read_valid, read_last : In(1)
        A word of the row, its last, is at stage S_READ.
    y_valid, y_last : In(1); y_token : In(4); y : In(32 a lane)
        A word, the last of its row, at S_Y.
    folding : Out(1); add_a, add_b : Out(32 a lane)
        For the lanes' adders, one stage before S_ADD.
    total : Out(32), total_token : Out(4), total_valid : Out(1)
        Sum or largest magnitude of the row of a token; valid strobes.
    """

    S_READ = S_READ

    def __init__(self, *, vector_lanes, token_lanes):
        if vector_lanes not in (2, 4, 8, 16):
            raise ValueError(f"vector_lanes must be 2, 4, 8 or 16, not {vector_lanes!r}")
        if token_lanes not in (1, 2, 4, 8, 16):
            raise ValueError(f"token_lanes must be a power of two of at most 16, not {token_lanes!r}")
        self._lanes, self._token_lanes = vector_lanes, token_lanes
        word = data.ArrayLayout(32, vector_lanes)
        super().__init__({
            "reduce": In(Reduce), "n_words": In(16), "read_valid": In(1), "read_last": In(1),
            "y_valid": In(1), "y_last": In(1), "y_token": In(4), "y": In(word),
            "folding": Out(1), "add_a": Out(word), "add_b": Out(word),
            "total": Out(32), "total_token": Out(4), "total_valid": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        summing = Signal()
        m.d.comb += summing.eq(self.reduce == Reduce.RMS)
        sum_valid, sum_token = self._sum(m, summing)
        peak, peak_valid = self._peak(m)
        m.d.comb += [
            self.total_token.eq(Mux(summing, sum_token, delay(m, self.y_token, self._lanes.bit_length()))),
            self.total.eq(Mux(summing, self.y[0], peak)),
            self.total_valid.eq(sum_valid | peak_valid),
        ]
        return m

    def _sum(self, m, summing):
        """The slots and their folding; returns the strobe at which lane 0 of y is the sum, and the token of its row."""
        lanes = self._lanes
        lane_bits, slot_words = lanes.bit_length() - 1, SUM_SLOTS // lanes
        m.submodules.slots = slots = memory.Memory(shape=data.ArrayLayout(32, lanes), depth=ROW_SETS * slot_words, init=[],
                                                   attrs={"ram_style": "distributed"})
        write, read_a, read_b = slots.write_port(), slots.read_port(), slots.read_port()

        # At S_READ: the row's next word.
        row_set, index, filled = Signal(range(ROW_SETS)), Signal(range(slot_words)), Signal()   # filled: all slots are touched
        adding = Signal()
        m.d.comb += adding.eq(self.read_valid & summing)
        with m.If(adding):
            m.d.sync += index.eq(index + 1)
            with m.If(index == slot_words - 1):
                m.d.sync += filled.eq(1)
            with m.If(self.read_last):
                m.d.sync += [row_set.eq(row_set + 1), index.eq(0), filled.eq(0)]

        # Or, in a cycle without one, s = step of the oldest row that waits for its fold.
        waiting, newest = Signal(range(ROW_SETS)), Signal(4, reset_less=True)       # such rows; token of the newest
        fold_set, step, half = Signal(range(ROW_SETS)), Signal(range(slot_words)), Signal(range(SUM_SLOTS), init=SUM_SLOTS // 2)
        wait = Signal(range(S_Y + 1 - S_READ))
        ended, going, final = Signal(), Signal(), Signal()
        in_lanes, other = half < lanes, Signal(range(slot_words))
        last_step = in_lanes | (other == (half >> (lane_bits - 1)) - 1)
        m.d.comb += [
            other.eq(step + (half >> lane_bits)),
            ended.eq(self.y_valid & self.y_last & summing),
            going.eq((waiting != 0) & (wait == 0) & ~adding), final.eq(going & (half == 1)),
        ]
        m.d.sync += waiting.eq(waiting + ended - final)
        with m.If(ended):
            m.d.sync += newest.eq(self.y_token)
        with m.If(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.If(going):
            m.d.sync += step.eq(step + 1)
            with m.If(last_step):
                m.d.sync += [step.eq(0), half.eq(half >> 1), wait.eq(S_Y - S_READ)]
        with m.If(final):
            m.d.sync += [fold_set.eq(fold_set + 1), half.eq(SUM_SLOTS // 2), wait.eq(0)]

        # A row of few words leaves slot words untouched, which read as zero where they are added to others. What is written
        # into one is never read.
        untouched = (self.n_words < slot_words) & (other >= self.n_words[:(slot_words - 1).bit_length()])
        row_word, fold_word = Cat(index, row_set), Cat(step, fold_set)
        m.d.comb += [read_a.addr.eq(fold_word), read_b.addr.eq(Mux(adding, row_word, Cat(other, fold_set)))]

        # A cycle later: the operands.
        zero_b, shuffle, late_half = (Signal(reset_less=True), Signal(reset_less=True),
                                      Signal(half.shape(), reset_less=True))
        m.d.sync += [
            zero_b.eq(Mux(adding, ~filled, untouched)), shuffle.eq(in_lanes & ~adding), late_half.eq(half), self.folding.eq(going),
        ]
        for lane in range(lanes):
            m.d.comb += [self.add_a[lane].eq(read_a.data[lane]), self.add_b[lane].eq(Mux(zero_b, 0, read_b.data[lane]))]
            with m.If(shuffle):
                for level in range(lane_bits):
                    if lane < 1 << level:
                        with m.If(late_half[level]):
                            m.d.comb += self.add_b[lane].eq(read_a.data[lane + (1 << level)])

        # At S_Y: back into the memory.
        distance = S_Y - S_READ
        m.d.comb += [
            write.en.eq(delay(m, adding | going, distance, reset=True)),
            write.addr.eq(delay(m, Mux(adding, row_word, fold_word), distance)),
            write.data.eq(self.y),
        ]
        return delay(m, final, distance, reset=True), delay(m, (newest - (waiting - 1))[:4], distance)

    def _peak(self, m):
        """Largest magnitude of the row and of what its token kept, and the strobe of ABSMAX."""
        level = [self.y[lane][:31] for lane in range(self._lanes)]
        absmax = self.reduce == Reduce.ABSMAX
        valid, last = self.y_valid & (absmax | (self.reduce == Reduce.KEEP)), self.y_last
        depth = 0
        while len(level) > 1:
            larger = []
            for k in range(len(level) // 2):
                winner = Signal(31, reset_less=True, name=f"peak_{depth}_{k}")
                m.d.sync += winner.eq(Mux(level[2 * k] > level[2 * k + 1], level[2 * k], level[2 * k + 1]))
                larger.append(winner)
            level, depth = larger, depth + 1
        valid, last = delay(m, valid, depth, reset=True), delay(m, last, depth)
        early_token = delay(m, self.y_token, depth - 1)
        token = delay(m, early_token, 1)

        # What the token of this word kept, read a cycle before.
        m.submodules.kept = kept = memory.Memory(shape=31, depth=self._token_lanes, init=[],
                                                 attrs={"ram_style": "distributed"})
        write, read = kept.write_port(), kept.read_port()
        keeps = Signal(self._token_lanes)           # tokens that keep something
        kept_magnitude = Signal(31)
        m.d.comb += [
            read.addr.eq(fit(early_token, self._token_lanes)),
            kept_magnitude.eq(Mux(keeps.bit_select(fit(token, self._token_lanes), 1), read.data, 0)),
        ]

        first, peak, peak_valid = Signal(init=1), Signal(31, reset_less=True), Signal()
        before, larger = Signal(31), Signal(31)
        m.d.comb += [
            before.eq(Mux(first, kept_magnitude, peak)),
            larger.eq(Mux(level[0] > before, level[0], before)),
            write.en.eq(valid & last), write.addr.eq(fit(token, self._token_lanes)), write.data.eq(larger),
        ]
        m.d.sync += peak_valid.eq(valid & last & absmax)
        with m.If(valid):
            m.d.sync += [peak.eq(larger), first.eq(last)]
            with m.If(last):
                m.d.sync += keeps.bit_select(fit(token, self._token_lanes), 1).eq(~absmax)
        return peak, peak_valid
