"""Joins the slices' sums of every query and sends them out.

    acc[d] = (sum_p o_p[d] >> (Em - Eo_p)) >> 8        scale = recip(float(sum_p l_p >> (Lm - El_p))) * 2**(Em - Lm + 8)

::

    for each query:  TOP    largest exponents, a slice a cycle
                     SUM    denominators at the largest exponent; the shift of every slice
                     RECIP  the scale
                     WORDS  for each word of L elements, each slice:  read --> choose --> shift --> add --> queue --> o

An output word takes P cycles, a query 2 P + 18 more. acc needs no saturation: 24 + 16 bits of the sum less 8 is 32.
"""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..arith.convert import FromInt
from ..arith.func import Func
from ..formats import F32_INF
from ..links import AttendWord
from ..stream import Queue, connect
from ..tables import FuncOp
from .links import EXPONENT, SHIFT_BITS, AttentionSizes, LaneState, delay, shift_amount

__all__ = ["Merge"]

_DROPPED_BITS = 8
_OUT_WORDS = 8          # more than the cycles from a read to the queue


class Merge(wiring.Component):
    """Sums over the slices.

    Members
    -------
    start : In(1), with the walk at the first query
    idle : Out(1), nothing to do and the last word accepted
    head_words : In(6)
    lane, number, last : In, and step : Out: the walk over the queries
    state : In, P * A of them, of pass read_number, in the same cycle; sums : In, one cycle after read_en
    read_en, read_number, read_word : Out
    o : Out(stream(AttendWord))
    """

    def __init__(self, *, sizes):
        if not isinstance(sizes, AttentionSizes):
            raise TypeError(f"sizes must be AttentionSizes, not {sizes!r}")
        self._sizes = sizes
        all_lanes = sizes.n_ports * sizes.query_lanes
        super().__init__({
            "start": In(1), "idle": Out(1), "head_words": In(6),
            "lane": In(range(sizes.query_lanes)), "number": In(range(sizes.max_passes)), "last": In(1), "step": Out(1),
            "state": In(LaneState(sizes)).array(all_lanes), "sums": In(sizes.acc_word).array(all_lanes),
            "read_en": Out(1), "read_number": Out(range(sizes.max_passes)), "read_word": Out(sizes.head_words_log2),
            "o": Out(stream.Signature(AttendWord(sizes.vector_lanes)))})

    def elaborate(self, platform):
        m = Module()
        sizes = self._sizes
        n_ports = sizes.n_ports
        count = Signal(5)
        slice_ = count[:ceil_log2(n_ports)]

        # The state of one slice, a cycle after it was chosen.
        states = Array(value.as_value() for value in self.state)
        chosen = Signal(LaneState(sizes), reset_less=True)
        m.d.sync += chosen.eq(states[Cat(self.lane, slice_) if sizes.query_lanes > 1 else slice_])
        m.d.comb += self.read_number.eq(self.number)
        top_go, sum_go = Signal(), Signal()
        first, at_once = count == 0, count < n_ports
        s1_top, s1_first = delay(m, top_go & at_once, 1, reset_less=False), delay(m, first, 1)
        s1_sum, s1_slice = delay(m, sum_go & at_once, 1, reset_less=False), delay(m, slice_, 1)

        # TOP: o_top stays 0 where no slice has a sum.
        o_top, o_any = Signal(EXPONENT, reset_less=True), Signal()
        l_top, l_any = Signal(EXPONENT, reset_less=True), Signal()
        with m.If(s1_top):
            with m.If(s1_first):
                m.d.sync += [o_top.eq(Mux(chosen.o_seen, chosen.o_exponent, 0)), o_any.eq(chosen.o_seen),
                             l_top.eq(chosen.l_exponent), l_any.eq(chosen.l_seen)]
            with m.Else():
                with m.If(chosen.o_seen & (~o_any | (chosen.o_exponent > o_top))):
                    m.d.sync += [o_top.eq(chosen.o_exponent), o_any.eq(1)]
                with m.If(chosen.l_seen & (~l_any | (chosen.l_exponent > l_top))):
                    m.d.sync += [l_top.eq(chosen.l_exponent), l_any.eq(1)]

        # SUM: shifts, then denominators.
        shift = data.StructLayout({"amount": SHIFT_BITS, "drop": 1})
        shifts = Array(Signal(shift, name=f"shift_{p}", reset_less=True) for p in range(n_ports))
        o_distance, l_distance = Signal(17), Signal(17)
        s2_l, s2_amount = Signal(sizes.sum_bits, reset_less=True), Signal(SHIFT_BITS, reset_less=True)
        s3_l = Signal(sizes.sum_bits, reset_less=True)
        total = Signal(sizes.sum_bits + ceil_log2(n_ports), reset_less=True)
        s2_sum = delay(m, s1_sum, 1, reset_less=False)
        s3_sum = delay(m, s2_sum, 1, reset_less=False)
        m.d.comb += [o_distance.eq(o_top - chosen.o_exponent), l_distance.eq(l_top - chosen.l_exponent)]
        m.d.sync += [s2_l.eq(Mux(chosen.l_seen, chosen.l, 0)), s2_amount.eq(shift_amount(l_distance)),
                     s3_l.eq(s2_l >> s2_amount)]
        with m.If(s1_sum):
            amount = shift_amount(o_distance)
            chosen_shift = shifts[s1_slice]
            m.d.sync += [chosen_shift.eq(Cat(amount, ~chosen.o_seen | amount[4:].all()))]
        with m.If(top_go):
            m.d.sync += total.eq(0)
        with m.Elif(s3_sum):
            m.d.sync += total.eq(total + s3_l)

        # RECIP: the scale.
        m.submodules.convert = convert = FromInt(width=len(total) + 1)
        m.submodules.recip = recip = Func()
        scale = Signal(32, reset_less=True)
        power, biased = Signal(signed(18), reset_less=True), Signal(signed(19))
        m.d.comb += [convert.en.eq(1), convert.i.eq(total), recip.en.eq(1), recip.op.eq(FuncOp.RECIP),
                     recip.i.eq(convert.o), biased.eq(recip.o.exponent + power)]
        m.d.sync += power.eq(o_top - l_top + _DROPPED_BITS)
        scale_now = Signal()
        with m.If(scale_now):
            with m.If(biased >= 255):
                m.d.sync += scale.eq(F32_INF)
            with m.Elif(biased <= 0):
                m.d.sync += scale.eq(0)
            with m.Else():
                m.d.sync += scale.eq(Cat(recip.o.mantissa, biased[:8], 0))

        # WORDS: a read a cycle while the queue has a place for its word.
        word, part, port = Signal(6), Signal(range(max(sizes.beat_words, 2))), Signal(range(max(n_ports, 2)))
        pending = Signal(range(_OUT_WORDS + 1))
        read, last_port, last_part, last_word = Signal(), Signal(), Signal(), Signal()
        words_go = Signal()
        m.d.comb += [
            last_port.eq(port == n_ports - 1), last_part.eq(part == sizes.beat_words - 1),
            last_word.eq(word == self.head_words - 1),
            read.eq(words_go & ((port != 0) | (pending != _OUT_WORDS))),
            self.read_en.eq(read), self.read_word.eq(word),
        ]
        with m.If(read):
            m.d.sync += port.eq(Mux(last_port, 0, port + 1))
            with m.If(last_port):
                m.d.sync += part.eq(Mux(last_part, 0, part + 1))
                with m.If(last_part):
                    m.d.sync += word.eq(Mux(last_word, 0, word + 1))

        r1_go = delay(m, read, 1, reset_less=False)
        r1_port, r1_part, r1_lane = delay(m, port, 1), delay(m, part, 1), delay(m, self.lane, 1)
        parts = Array(Cat(value.as_value().word_select(part, sizes.acc_bits * sizes.vector_lanes))
                      for value in self.sums for part in range(sizes.beat_words))
        index = [r1_part] * (sizes.beat_words > 1) + [r1_lane] * (sizes.query_lanes > 1) + [r1_port] * (n_ports > 1)
        r2_sums, r2_shift = Signal(sizes.acc_bits * sizes.vector_lanes, reset_less=True), Signal(shift, reset_less=True)
        m.d.sync += [r2_sums.eq(parts[Cat(*index)]), r2_shift.eq(shifts[r1_port])]
        r3_fine, r4_first = delay(m, r2_shift.amount[:4], 1), delay(m, r1_port == 0, 3)
        r4_go = delay(m, r1_go, 3, reset_less=False)
        r5_valid = delay(m, r4_go & delay(m, r1_port == n_ports - 1, 3), 1, reset_less=False)

        m.submodules.queue = queue = Queue(AttendWord(sizes.vector_lanes), depth=_OUT_WORDS, ram_style="distributed")
        connect(m, queue.o, self.o)
        m.d.comb += [queue.i.valid.eq(r5_valid), queue.i.p.scale.eq(scale)]
        out_bits = sizes.acc_bits + ceil_log2(n_ports)
        for element in range(sizes.vector_lanes):
            r3, r4 = (Signal(signed(sizes.acc_bits), reset_less=True) for _ in range(2))
            r5 = Signal(signed(out_bits), reset_less=True)
            m.d.sync += [
                r3.eq(Mux(r2_shift.drop, 0, r2_sums.word_select(element, sizes.acc_bits).as_signed()
                          >> Cat(Const(0, 4), r2_shift.amount[4:]))),
                r4.eq(r3 >> r3_fine),
            ]
            with m.If(r4_go):
                m.d.sync += r5.eq(Mux(r4_first, 0, r5) + r4)
            m.d.comb += queue.i.p.acc[element].eq(r5[_DROPPED_BITS:].as_signed())
        m.d.sync += pending.eq(pending + (read & (port == 0)) - (self.o.valid & self.o.ready))

        recip_cycles = FromInt.LATENCY + Func.LATENCY + 1
        m.d.sync += count.eq(count + 1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq((pending == 0) & ~self.start)
                m.d.sync += count.eq(0)
                with m.If(self.start):
                    m.next = "TOP"
            with m.State("TOP"):
                m.d.comb += top_go.eq(1)
                with m.If(count == n_ports + 1):
                    m.d.sync += count.eq(0)
                    m.next = "SUM"
            with m.State("SUM"):
                m.d.comb += sum_go.eq(1)
                with m.If(count == n_ports + 3):
                    m.d.sync += count.eq(0)
                    m.next = "RECIP"
            with m.State("RECIP"):
                with m.If(count == recip_cycles):
                    m.d.comb += scale_now.eq(1)
                    m.d.sync += count.eq(0)
                    m.next = "WORDS"
            with m.State("WORDS"):
                m.d.comb += words_go.eq(1)
                m.d.sync += count.eq(0)
                with m.If(read & last_port & last_part & last_word):
                    m.d.comb += self.step.eq(1)
                    m.next = "TOP"
                    with m.If(self.last):
                        m.next = "IDLE"
        return m
