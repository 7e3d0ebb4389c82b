"""Weighted values of one slice, two records at a time.

::

    o[q][half] = (((o[q][half] >> shift1) + weight1 * V1[half]) >> shift2) + weight2 * V2[half]

    V words ---> ring ----------> first record ----> product ---+
                   |                                            |
    weights --> visit (pass, half word)                         |
                   +--> o RAM ---> shift by 0 .. 3, clear ----> + ---> shift by 0 .. 3, clear ---> + --> o RAM, sums
                        read       v2                     v3      v4                     v5    |     v6 (written)
                   +-----------> second record --------------------------> product ------------+

Adding two records a visit halves the width of the memory: half a word of A queries a cycle is 2 A B / 2 products. A pair
begins when all its V words are there; then for each pass, for each half word, one visit a cycle, as soon as both
weights of the pass have come. A job of an odd number of records ends with one that has no second: weight and shift 0.

A shift of more than 3 places, which is rare, takes more sweeps over the half words of the pass: first those that only
shift for the first record, then the one that adds it, then those that only shift for the second; rounding down twice is
rounding down once. Two visits of the same (q, half) lie seven cycles apart at least: short records are followed by
``job.rest`` idle cycles, and so are short sweeps.

The merge drains the sums of a lane while the unit is idle: a visit without weights whose shifts it says; they are
written back shifted, so that a long shift takes several.
"""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .links import SHIFT_BITS, STEP, VISIT_GAP, WEIGHT_BITS, AttentionSizes, DrainShift, SliceJob, WeightPass, delay

__all__ = ["Values"]

_WEIGHT_CYCLES = 32     # about the V words that come between the last of a pair and its weights


def _step(left):
    """What one stage shifts by."""
    return Mux(left > STEP, STEP, left)[:2]


def _any_over(amounts, limit):
    return Cat(amount > limit for amount in amounts).any()


def _coded(amount):
    """A shift as `_shifted` takes it: the amount, and its lower bit in Gray code."""
    return Cat(amount[0], amount[1], amount[0] ^ amount[1])


def _shifted(m, acc, coded):
    """acc shifted down by 0 .. 3, one LUT a bit.

    Bits two places apart take the amount in different codes: with the same, mappers share halves of their choices and
    come to one and a half.
    """
    plain, other = Signal.like(acc), Signal.like(acc)
    m.d.comb += [plain.eq(acc >> coded[:2]), other.eq(Array(acc >> n for n in (0, 1, 3, 2))[Cat(coded[2], coded[1])])]
    return Cat((other if place & 2 else plain)[place] for place in range(len(acc))).as_signed()


class Values(wiring.Component):
    """Running sums of a slice.

    Members
    -------
    start : In(1), begin ``job`` (constant until idle)
    idle : Out(1), all records of the job are in the sums
    i_first, i_second : In(stream(WeightPass)), one a pass and record: of the records 0, 2, .. and of 1, 3, ..
    i_value : In(stream), words of V, head_words a record
    drain_en, drain_lane, drain_number, drain_half, drain_shift : In
    sums : Out(acc_half), a lane, LATENCY cycles after drain_en
        For the merge, while idle. Bit 0 of drain_half says which half of a word.
    """

    LATENCY = 6

    def __init__(self, *, sizes):
        if not isinstance(sizes, AttentionSizes):
            raise TypeError(f"sizes must be AttentionSizes, not {sizes!r}")
        self._sizes = sizes
        weights, lanes = stream.Signature(WeightPass(sizes)), sizes.query_lanes
        super().__init__({
            "start": In(1), "job": In(SliceJob(sizes)), "idle": Out(1),
            "i_first": In(weights), "i_second": In(weights), "i_value": In(stream.Signature(sizes.beat)),
            "drain_en": In(1), "drain_lane": In(range(lanes)), "drain_number": In(range(sizes.max_passes)),
            "drain_half": In(sizes.head_words_log2 + 1), "drain_shift": In(DrainShift), "sums": Out(sizes.acc_half).array(lanes)})

    def elaborate(self, platform):
        m = Module()
        sizes, job, lanes = self._sizes, self.job, self._sizes.query_lanes

        # The ring of V words: two pairs of the longest head, and what comes while a weight is on its way.
        depth = 1 << ceil_log2(4 * sizes.max_head_words + _WEIGHT_CYCLES)
        m.submodules.ring = ring = memory.Memory(shape=sizes.beat, depth=depth, init=[],
                                                 attrs={"ram_style": "distributed"})
        write, read = ring.write_port(), ring.read_port(domain="sync")
        held, base, room = Signal(range(depth + 1)), Signal(range(depth)), Signal()
        m.d.sync += room.eq(held < depth - 1)       # one more word may come in the meantime
        m.d.comb += [self.i_value.ready.eq(room), write.en.eq(self.i_value.valid & self.i_value.ready),
                     write.data.eq(self.i_value.p), read.en.eq(1)]
        with m.If(write.en):
            m.d.sync += write.addr.eq(write.addr + 1)

        # The weights at hand, how far each lane's sums must still be shifted, and whether the first record is added.
        records_left, single = Signal(17), Signal()
        first, second = (Signal(WeightPass(sizes), reset_less=True, name=name) for name in ("first", "second"))
        first_left, second_left = ([Signal(SHIFT_BITS, name=f"{name}_left_{n}", reset_less=True) for n in range(lanes)]
                                   for name in ("first", "second"))
        have, take, added = Signal(), Signal(), Signal()
        go, last_visit, last_pass, used, end = Signal(), Signal(), Signal(), Signal(), Signal()
        first_long, second_long = Signal(), Signal()
        m.d.comb += [
            single.eq(records_left == 1),
            take.eq((~have | (used & ~last_pass)) & self.i_first.valid & (self.i_second.valid | single)),
            self.i_first.ready.eq(take), self.i_second.ready.eq(take & ~single),
        ]
        # What takes the next weights waits for the end of a pass: long shifts, the last visit and the last pass are registers.
        shifts, second_shifts = ([link.p.lanes[n].shift for n in range(lanes)] for link in (self.i_first, self.i_second))
        with m.If(take):
            m.d.sync += [have.eq(1), added.eq(0), first.eq(self.i_first.p), second.eq(Mux(single, 0, self.i_second.p)),
                         first_long.eq(_any_over(shifts, STEP)), second_long.eq(_any_over(second_shifts, STEP) & ~single)]
            m.d.sync += [left.eq(shift) for left, shift in zip(first_left, shifts)]
            m.d.sync += [left.eq(Mux(single, 0, shift)) for left, shift in zip(second_left, second_shifts)]
        with m.Elif(go & last_visit):
            m.d.sync += first_long.eq(_any_over(first_left, 2 * STEP))
            m.d.sync += [left.eq(Mux(left > STEP, left - STEP, 0)) for left in first_left]
            with m.If(~first_long):
                m.d.sync += [added.eq(1), second_long.eq(_any_over(second_left, 2 * STEP))]
                m.d.sync += [left.eq(Mux(left > STEP, left - STEP, 0)) for left in second_left]
            with m.If(used):
                m.d.sync += have.eq(0)

        # v0: visits.
        number, half, rest = Signal(range(sizes.max_passes)), Signal(7), Signal(3)
        whole, pair_words, one_pass = Signal(), Signal(7), job.n_passes == 1
        m.d.sync += whole.eq((held >= pair_words) & (records_left != 0) & ~end)
        m.d.comb += [
            pair_words.eq(Mux(single, job.head_words, job.head_words << 1)),
            go.eq(whole & (rest == 0) & have),
            used.eq(go & last_visit & ~first_long & ~second_long),
            end.eq(used & last_pass),
            read.addr.eq(base + half[1:] + Mux(half[0], job.head_words, 0)),
        ]
        m.d.sync += held.eq(held + write.en - Mux(end, pair_words, 0))
        with m.If(rest != 0):
            m.d.sync += rest.eq(rest - 1)
        with m.If(go):
            m.d.sync += [half.eq(Mux(last_visit, 0, half + 1)), last_visit.eq(half == Cat(Const(0, 1), job.head_words - 1))]
            with m.If(last_visit):
                m.d.sync += rest.eq(Mux(job.head_words >= VISIT_GAP, 0, VISIT_GAP - job.head_words))
        with m.If(used):
            m.d.sync += [number.eq(Mux(last_pass, 0, number + 1)), rest.eq(0),
                         last_pass.eq(Mux(last_pass, one_pass, number + 2 == job.n_passes))]
        with m.If(end):
            m.d.sync += [base.eq(base + pair_words), records_left.eq(Mux(single, 0, records_left - 2)), rest.eq(job.rest)]
        with m.If(self.start):
            m.d.sync += [records_left.eq(job.share.n_past + job.share.n_chunk), last_pass.eq(one_pass)]

        place = Signal(sizes.head_words_log2 + 1 + len(number))
        m.d.comb += place.eq(Mux(self.drain_en, Cat(self.drain_half, self.drain_number),
                                 Cat(half[:sizes.head_words_log2 + 1], number)))
        goes = [go]
        for _ in range(self.LATENCY):
            goes.append(delay(m, goes[-1], 1, reset_less=False))
        m.d.sync += self.idle.eq((records_left == 0) & ~Cat(*goes).any() & ~self.start)

        # The ring says the first record's word in the cycle of its first half and the second's in that of its second; the
        # halves follow at v2 and, for the second record, at v4.
        half_bits = 8 * sizes.half
        v1_half, v3_half = delay(m, half[0], 1), delay(m, half[0], 3)
        upper, second_word = Signal(half_bits, reset_less=True), Signal(sizes.beat, reset_less=True)
        v2_value, v4_value = Signal(half_bits, reset_less=True), Signal(half_bits, reset_less=True)
        with m.If(v1_half):
            m.d.sync += second_word.eq(read.data)
        with m.Else():
            m.d.sync += upper.eq(read.data[half_bits:])
        m.d.sync += [v2_value.eq(Mux(v1_half, upper, read.data[:half_bits])),
                     v4_value.eq(second_word.word_select(v3_half, half_bits))]

        v2_no_first = delay(m, first_long | added | self.drain_en, 2)
        v2_no_second = delay(m, first_long | second_long | self.drain_en, 2)
        sums_depth = sizes.max_passes << sizes.head_words_log2 + 1
        attrs = {"ram_style": "block"} if sums_depth >= 256 else {}
        v6_place = delay(m, place, self.LATENCY)
        for lane in range(lanes):
            sums = memory.Memory(shape=sizes.acc_half, depth=sums_depth, init=[], attrs=attrs)
            m.submodules[f"sums_{lane}"] = sums
            store, load = sums.write_port(), sums.read_port(domain="sync")
            m.d.comb += [
                load.en.eq(go | self.drain_en), load.addr.eq(place),
                store.en.eq(goes[-1] | delay(m, self.drain_en & (self.drain_lane == lane), self.LATENCY, reset_less=False)),
                store.addr.eq(v6_place), self.sums[lane].eq(store.data),
            ]

            v1_first_shift, v1_second_shift = Signal(3, reset_less=True), Signal(3, reset_less=True)
            v1_first_fresh, v1_second_fresh = Signal(reset_less=True), Signal(reset_less=True)
            m.d.sync += [
                v1_first_shift.eq(_coded(Mux(self.drain_en, self.drain_shift.first, _step(first_left[lane])))),
                v1_second_shift.eq(_coded(
                    Mux(self.drain_en, self.drain_shift.second, Mux(first_long, 0, _step(second_left[lane]))))),
                v1_first_fresh.eq(Mux(self.drain_en, self.drain_shift.drop, first.lanes[lane].fresh & ~added)),
                v1_second_fresh.eq(second.lanes[lane].fresh & ~first_long & ~self.drain_en),
            ]
            v2_shift, v2_fresh = delay(m, v1_first_shift, 1), delay(m, v1_first_fresh, 1)
            v4_shift, v4_fresh = delay(m, v1_second_shift, 3), delay(m, v1_second_fresh, 3)
            v2_weight, v3_second = delay(m, first.lanes[lane].weight, 2), Signal(WEIGHT_BITS, reset_less=True)
            m.d.sync += v3_second.eq(Mux(v2_no_second, 0, delay(m, second.lanes[lane].weight, 2)))
            v4_weight = delay(m, v3_second, 1)
            v2_sum = delay(m, load.data.as_value(), 1)
            for element in range(sizes.half):
                v3_product, v5_product = (Signal(signed(WEIGHT_BITS + 8), reset_less=True) for _ in range(2))
                v3, v4, v5, v6 = (Signal(signed(sizes.acc_bits), reset_less=True) for _ in range(4))
                v4_sum, v6_sum = (Signal(signed(sizes.acc_bits), attrs={"use_dsp": "yes"}) for _ in range(2))
                m.d.comb += [v4_sum.eq(v3 + v3_product), v6_sum.eq(v5 + v5_product), store.data[element].eq(v6)]
                m.d.sync += [
                    v3_product.eq(Mux(v2_no_first, 0, v2_weight * v2_value.word_select(element, 8).as_signed())),
                    v3.eq(Mux(v2_fresh, 0, _shifted(m, v2_sum.word_select(element, sizes.acc_bits).as_signed(), v2_shift))),
                    v4.eq(v4_sum),
                    v5_product.eq(v4_weight * v4_value.word_select(element, 8).as_signed()),
                    v5.eq(Mux(v4_fresh, 0, _shifted(m, v4, v4_shift))),
                    v6.eq(v6_sum),
                ]
        return m
