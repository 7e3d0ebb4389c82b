"""Weighted values of one slice: o[q][word] = (o[q][word] >> shift) + weight * V[word].

::

    V words --> ring --+                        +--> product --------+
    weights -----------+--> visit (pass, word) -+                    +--> o RAM
                       +--> o RAM read ---------+--> shift, shift ---+
                            v0            v1, v2      v3       v4       v5 (written)

A record begins when all its V words are there; then for each pass, for each word, one visit a cycle, as soon as the weight
of the pass has come. Two visits of the same (q, word) lie VISIT_GAP cycles apart: short records are followed by ``job.rest``
idle cycles.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .links import AttentionSizes, SliceJob, WeightPass, delay

__all__ = ["Values"]

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

        # v0: visits.
        left = Signal(17)
        number, word, rest = Signal(range(sizes.max_passes)), Signal(6), Signal(3)
        whole, last_word, last_pass, go, end = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.sync += whole.eq((held >= job.head_words) & (left != 0) & ~end)
        m.d.comb += [
            last_word.eq(word == job.head_words - 1),
            last_pass.eq(number == job.n_passes - 1),
            go.eq(whole & (rest == 0) & self.i_weight.valid),
            end.eq(go & last_word & last_pass),
            self.i_weight.ready.eq(go & last_word),
            read.en.eq(1), read.addr.eq(base + word),
        ]
        m.d.sync += held.eq(held + write.en - Mux(end, job.head_words, 0))
        with m.If(rest != 0):
            m.d.sync += rest.eq(rest - 1)
        with m.If(go):
            m.d.sync += word.eq(Mux(last_word, 0, word + 1))
            with m.If(last_word):
                m.d.sync += number.eq(Mux(last_pass, 0, number + 1))
        with m.If(end):
            m.d.sync += [base.eq(base + job.head_words), left.eq(left - 1), rest.eq(job.rest)]
        with m.If(self.start):
            m.d.sync += left.eq(job.n_past + job.n_chunk)

        # v1: memories answer. v2: their output registers.
        place = Cat(word[:sizes.head_words_log2], number)
        v1_go, v5_place = delay(m, go, 1, reset_less=False), delay(m, place, 5)
        v2_go = delay(m, v1_go, 1, reset_less=False)
        v3_go = delay(m, v2_go, 1, reset_less=False)
        v4_go = delay(m, v3_go, 1, reset_less=False)
        v5_go = delay(m, v4_go, 1, reset_less=False)
        under_way = Cat(go, v1_go, v2_go, v3_go, v4_go, v5_go).any()
        m.d.sync += self.idle.eq((left == 0) & ~under_way & ~self.start)
        v2_value, v2_weight = delay(m, read.data, 1), delay(m, self.i_weight.p.as_value(), 2)

        sums_depth = sizes.max_passes << sizes.head_words_log2
        attrs = {"ram_style": "block"} if sums_depth >= 256 else {}
        for lane in range(sizes.query_lanes):
            sums = memory.Memory(shape=sizes.acc_word, depth=sums_depth, init=[], attrs=attrs)
            m.submodules[f"sums_{lane}"] = sums
            store, load = sums.write_port(), sums.read_port(domain="sync")
            m.d.comb += [
                load.en.eq(go | self.read_en),
                load.addr.eq(Mux(go, place, Cat(self.read_word, self.read_number))),
                self.sums[lane].eq(load.data),
                store.en.eq(v5_go), store.addr.eq(v5_place),
            ]
            v2_sum = delay(m, load.data.as_value(), 1)
            weight = Signal(WeightPass(sizes))
            m.d.comb += weight.eq(v2_weight)
            weight = weight.lanes[lane]
            v3_fine = delay(m, weight.shift[:4], 1)
            for element in range(sizes.port_bytes):
                acc = v2_sum.word_select(element, sizes.acc_bits).as_signed()
                v3_product, v4_product = Signal(signed(24), reset_less=True), Signal(signed(24), reset_less=True)
                v3_acc, v4_acc, v5_acc = (Signal(signed(sizes.acc_bits), reset_less=True) for _ in range(3))
                m.d.sync += [
                    v3_product.eq(weight.weight * v2_value.word_select(element, 8).as_signed()),
                    v4_product.eq(v3_product),
                    v3_acc.eq(Mux(weight.fresh, 0, acc >> Cat(Const(0, 4), weight.shift[4:]))),
                    v4_acc.eq(v3_acc >> v3_fine),
                    v5_acc.eq(v4_acc + v4_product),
                ]
                m.d.comb += store.data[element].eq(v5_acc)
        return m
