"""Weighted values of one slice: o[q][word] = (o[q][word] >> shift) + weight * V[word].

::

    V words --> ring --+                        +--> product ---------+
    weights -----------+--> visit (pass, word) -+                     +--> o RAM
                       +--> o RAM read ---------+--> shift by 0 .. 3 -+
                            v0            v1, v2           v3          v4 (written)

A record begins when all its V words are there; then for each pass, for each word, one visit a cycle, as soon as the
weight of the pass has come. A shift of more than 3 places, which is rare, takes more sweeps over the words of the
pass, that only shift: rounding down twice is rounding down once. Two visits of the same (q, word) lie VISIT_GAP
cycles apart: short records are followed by ``job.rest`` idle cycles, and short sweeps that only shift are filled up
to VISIT_GAP.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .links import SHIFT_BITS, VISIT_GAP, AttentionSizes, SliceJob, WeightPass, delay

__all__ = ["Values"]

_STEP = 3               # longest shift of one visit
_WRITE_STAGE = 4
_WEIGHT_CYCLES = 32      # about the latency from the last word of K to its weight


class Values(wiring.Component):
    """Running sums of a slice.

    Members
    -------
    start : In(1), begin ``job`` (constant until idle)
    idle : Out(1), all records of the job are in the sums
    i_weight : In(stream(WeightPass)), one a pass and record
    i_value : In(stream), words of V, head_words a record
    read_en, read_number, read_word : In, and sums : Out(acc_word) a lane, one cycle later: for the merge, while idle
    """

    def __init__(self, *, sizes):
        if not isinstance(sizes, AttentionSizes):
            raise TypeError(f"sizes must be AttentionSizes, not {sizes!r}")
        self._sizes = sizes
        super().__init__({
            "start": In(1), "job": In(SliceJob(sizes)), "idle": Out(1),
            "i_weight": In(stream.Signature(WeightPass(sizes))), "i_value": In(stream.Signature(sizes.beat)),
            "read_en": In(1), "read_number": In(range(sizes.max_passes)), "read_word": In(sizes.head_words_log2),
            "sums": Out(sizes.acc_word).array(sizes.query_lanes)})

    def elaborate(self, platform):
        m = Module()
        sizes, job = self._sizes, self.job

        # The ring of V words: two records of the longest head, and what comes while a weight is on its way.
        depth = 1 << ceil_log2(2 * sizes.max_head_words + _WEIGHT_CYCLES)
        m.submodules.ring = ring = memory.Memory(shape=sizes.beat, depth=depth, init=[],
                                                 attrs={"ram_style": "distributed"})
        write, read = ring.write_port(), ring.read_port(domain="sync")
        held, base = Signal(range(depth + 1)), Signal(range(depth))
        m.d.comb += [self.i_value.ready.eq(held != depth), write.en.eq(self.i_value.valid & self.i_value.ready),
                     write.data.eq(self.i_value.p)]
        with m.If(write.en):
            m.d.sync += write.addr.eq(write.addr + 1)

        # The weights at hand, and how far each lane's sums must still be shifted.
        weight, held_weight = Signal(WeightPass(sizes), reset_less=True), Signal()
        left_shifts = [Signal(SHIFT_BITS, name=f"left_shift_{n}", reset_less=True) for n in range(sizes.query_lanes)]
        go, last_word, last_pass, only_shift, used = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.comb += [only_shift.eq(Cat(left > _STEP for left in left_shifts).any()),
                     self.i_weight.ready.eq(~held_weight | used)]
        with m.If(self.i_weight.ready):
            m.d.sync += [held_weight.eq(self.i_weight.valid), weight.eq(self.i_weight.p)]
            m.d.sync += [left.eq(self.i_weight.p.lanes[n].shift) for n, left in enumerate(left_shifts)]
        with m.Elif(go & last_word):
            m.d.sync += [left.eq(Mux(left > _STEP, left - _STEP, 0)) for left in left_shifts]

        # v0: visits.
        records_left = Signal(17)
        number, word, rest = Signal(range(sizes.max_passes)), Signal(6), Signal(3)
        whole, end = Signal(), Signal()
        m.d.sync += whole.eq((held >= job.head_words) & (records_left != 0) & ~end)
        m.d.comb += [
            last_word.eq(word == job.head_words - 1),
            last_pass.eq(number == job.n_passes - 1),
            go.eq(whole & (rest == 0) & held_weight),
            used.eq(go & last_word & ~only_shift),
            end.eq(used & last_pass),
            read.en.eq(1), read.addr.eq(base + word),
        ]
        m.d.sync += held.eq(held + write.en - Mux(end, job.head_words, 0))
        with m.If(rest != 0):
            m.d.sync += rest.eq(rest - 1)
        with m.If(go):
            m.d.sync += word.eq(Mux(last_word, 0, word + 1))
            with m.If(last_word & only_shift):
                m.d.sync += rest.eq(Mux(job.head_words >= VISIT_GAP, 0, VISIT_GAP - job.head_words))
        with m.If(used):
            m.d.sync += number.eq(Mux(last_pass, 0, number + 1))
        with m.If(end):
            m.d.sync += [base.eq(base + job.head_words), records_left.eq(records_left - 1), rest.eq(job.rest)]
        with m.If(self.start):
            m.d.sync += records_left.eq(job.n_past + job.n_chunk)

        # v1: memories answer. v2: their output registers.
        place = Cat(word[:sizes.head_words_log2], number)
        goes = [go]
        for _ in range(_WRITE_STAGE):
            goes.append(delay(m, goes[-1], 1, reset_less=False))
        m.d.sync += self.idle.eq((records_left == 0) & ~Cat(*goes).any() & ~self.start)
        v2_value = delay(m, read.data, 1)

        sums_depth = sizes.max_passes << sizes.head_words_log2
        attrs = {"ram_style": "block"} if sums_depth >= 256 else {}
        for lane, left in enumerate(left_shifts):
            sums = memory.Memory(shape=sizes.acc_word, depth=sums_depth, init=[], attrs=attrs)
            m.submodules[f"sums_{lane}"] = sums
            store, load = sums.write_port(), sums.read_port(domain="sync")
            m.d.comb += [
                load.en.eq(go | self.read_en),
                load.addr.eq(Mux(go, place, Cat(self.read_word, self.read_number))),
                self.sums[lane].eq(load.data),
                store.en.eq(goes[_WRITE_STAGE]), store.addr.eq(delay(m, place, _WRITE_STAGE)),
            ]
            v1_shift, v1_weight = Signal(2, reset_less=True), Signal(16, reset_less=True)
            m.d.sync += [v1_shift.eq(Mux(left > _STEP, _STEP, left)),
                         v1_weight.eq(Mux(only_shift, 0, weight.lanes[lane].weight))]
            v2_shift, v2_weight = delay(m, v1_shift, 1), delay(m, v1_weight, 1)
            v2_fresh, v2_sum = delay(m, weight.lanes[lane].fresh, 2), delay(m, load.data.as_value(), 1)
            for element in range(sizes.port_bytes):
                acc = v2_sum.word_select(element, sizes.acc_bits).as_signed()
                v3_product = Signal(signed(24), reset_less=True)
                v3_acc, v4_acc = (Signal(signed(sizes.acc_bits), reset_less=True) for _ in range(2))
                m.d.sync += [
                    v3_product.eq(v2_weight * v2_value.word_select(element, 8).as_signed()),
                    v3_acc.eq(Mux(v2_fresh, 0, acc >> v2_shift)),
                    v4_acc.eq(v3_acc + v3_product),
                ]
                m.d.comb += store.data[element].eq(v4_acc)
        return m
