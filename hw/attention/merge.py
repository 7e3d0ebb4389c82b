"""Joins the slices' sums of every query and sends them out.

    acc[d] = (sum_p o_p[d] >> (Em - Eo_p)) >> 12        scale = recip(float((sum_p l_p >> (Lm - El_p)) >> 1)) * 2**(Em - Lm + 11)

::

    plan, a slice a cycle:
        state --> chosen --> largest exponents ------------+
                        `--> P + 1 cycles later --> shifts, denominators --> sum --> float --> recip --> scale --+
                                                                                                                 v
    drain, half a word of all slices a cycle:                                                              queue of plans
        shifts of a plan --> Values of every slice --> choose lane, add --> queue --> join or split --> o <------+

The plans of the next queries are made while a query drains, so a query takes the longer of P cycles and 2 head_words a
sweep; a sweep shifts by up to 6 places, and sums that must be shifted by more take further sweeps before the one that
is added. acc needs no saturation: 28 + 16 bits of the sum less 12 is 32.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..arith.convert import FromInt
from ..arith.func import Func
from ..formats import F32_INF
from ..links import AttendWord
from ..stream import Queue
from ..tables import FuncOp
from .links import (
    EXPONENT,
    GUARD_BITS,
    SHIFT_BITS,
    STEP,
    VISIT_GAP,
    AttentionSizes,
    DrainShift,
    QueryState,
    delay,
    shift_amount,
)
from .values import Values

__all__ = ["Merge"]

_DROPPED_BITS = 8 + GUARD_BITS
_PLANS = 16             # queries between the first look at their state and the end of their drain
_HALVES = 32            # more than the cycles from a drain to the queue


class _Plan(data.StructLayout):
    """How the sums of a query are joined; ``drop``: nothing of a slice counts."""
    def __init__(self, sizes):
        super().__init__({"lane": range(sizes.query_lanes), "number": range(sizes.max_passes),
                          "shift": data.ArrayLayout(SHIFT_BITS, sizes.n_ports),
                          "drop": data.ArrayLayout(1, sizes.n_ports), "scale": 32})


class Merge(wiring.Component):
    """Sums over the slices.

    Members
    -------
    start : In(1), with the walk at the first query
    idle : Out(1), nothing to do and the last word accepted
    head_words : In(6)
    lane, number, last : In, and step : Out: the walk over the queries
    state : In(QueryState), a slice: of the query at hand, in the same cycle
    drain_en, drain_lane, drain_number, drain_half, drain_shift (a slice) : Out
    sums : In, P * A, Values.LATENCY cycles after drain_en
    o : Out(stream(AttendWord))
    """

    def __init__(self, *, sizes):
        if not isinstance(sizes, AttentionSizes):
            raise TypeError(f"sizes must be AttentionSizes, not {sizes!r}")
        self._sizes = sizes
        self._acc_bits = sizes.acc_bits + ceil_log2(sizes.n_ports) - _DROPPED_BITS
        super().__init__({
            "start": In(1), "idle": Out(1), "head_words": In(6),
            "lane": In(range(sizes.query_lanes)), "number": In(range(sizes.max_passes)), "last": In(1), "step": Out(1),
            "state": In(QueryState(sizes)).array(sizes.n_ports),
            "drain_en": Out(1), "drain_lane": Out(range(sizes.query_lanes)), "drain_number": Out(range(sizes.max_passes)),
            "drain_half": Out(sizes.head_words_log2 + 1), "drain_shift": Out(DrainShift).array(sizes.n_ports),
            "sums": In(sizes.acc_half).array(sizes.n_ports * sizes.query_lanes),
            "o": Out(stream.Signature(AttendWord(sizes.vector_lanes)))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.plans = plans = Queue(_Plan(self._sizes), depth=_PLANS, ram_style="distributed")
        halves_shape = data.StructLayout({"acc": data.ArrayLayout(signed(self._acc_bits), self._sizes.half), "scale": 32})
        m.submodules.halves = halves = Queue(halves_shape, depth=_HALVES, ram_style="distributed")

        planning, promised_plans = Signal(), Signal(range(_PLANS + 1))
        promised_halves, half_left = Signal(range(_HALVES + 1)), Signal()       # freed a cycle late
        plan_begun = self._plan(m, planning & (promised_plans != _PLANS), plans.i)
        half_begun, plan_ended = self._drain(m, promised_halves != _HALVES, plans.o, halves.i)
        self._send(m, halves.o)
        with m.If(self.start):
            m.d.sync += planning.eq(1)
        with m.Elif(self.step & self.last):
            m.d.sync += planning.eq(0)
        m.d.sync += [
            promised_plans.eq(promised_plans + plan_begun - plan_ended),
            half_left.eq(halves.o.valid & halves.o.ready),
            promised_halves.eq(promised_halves + half_begun - half_left),
        ]
        m.d.comb += self.idle.eq(~self.start & ~planning & (promised_plans == 0) & (promised_halves == 0))
        return m

    def _plan(self, m, may_begin, plan):
        """Plans of the queries of the walk, while ``may_begin``; returns the signal that one is begun."""
        sizes = self._sizes
        n_ports = sizes.n_ports
        slice_ = Signal(range(n_ports))
        go, first, last = Signal(), slice_ == 0, slice_ == n_ports - 1
        m.d.comb += [go.eq(~first | may_begin), self.step.eq(go & last)]
        with m.If(go):
            m.d.sync += slice_.eq(slice_ + 1)

        # The state of one slice, a cycle after it was chosen; largest exponents. o_top stays 0 where no slice has a sum.
        chosen = Signal(QueryState(sizes), reset_less=True)
        m.d.sync += chosen.eq(Array(state.as_value() for state in self.state)[slice_] if n_ports > 1 else self.state[0])
        s1_first, s1_go = delay(m, first, 1), delay(m, go, 1, reset_less=False)
        o_top, l_top = Signal(EXPONENT, reset_less=True), Signal(EXPONENT, reset_less=True)
        o_any, l_any = Signal(reset_less=True), Signal(reset_less=True)
        for top, any_, exponent, seen in ((o_top, o_any, chosen.o_exponent, chosen.o_seen),
                                          (l_top, l_any, chosen.l_exponent, chosen.l_seen)):
            with m.If(s1_go & s1_first):
                m.d.sync += [top.eq(Mux(seen, exponent, 0)), any_.eq(seen)]
            with m.Elif(s1_go & seen & (~any_ | (exponent > top))):
                m.d.sync += [top.eq(exponent), any_.eq(1)]

        # P + 1 cycles later the exponents of all slices are known: distances.
        s2_o_top, s2_l_top = Signal(EXPONENT, reset_less=True), Signal(EXPONENT, reset_less=True)
        with m.If(delay(m, s1_go & delay(m, last, 1), 1, reset_less=False)):
            m.d.sync += [s2_o_top.eq(o_top), s2_l_top.eq(l_top)]
        s2 = delay(m, chosen, n_ports + 1)
        s2_first = delay(m, s1_first, n_ports + 1)
        o_distance, l_distance = Signal(17), Signal(17)
        o_amount = shift_amount(o_distance)
        m.d.comb += [o_distance.eq(s2_o_top - s2.o_exponent), l_distance.eq(s2_l_top - s2.l_exponent)]
        s3_amount, s3_drop = Signal(SHIFT_BITS, reset_less=True), Signal(reset_less=True)
        s3_l, s3_l_amount = Signal(sizes.sum_bits, reset_less=True), Signal(SHIFT_BITS, reset_less=True)
        s4_l, s4_first = Signal(sizes.sum_bits, reset_less=True), delay(m, s2_first, 2)
        s4_go = delay(m, s1_go, n_ports + 3)
        power = Signal(signed(18), reset_less=True)
        total = Signal(sizes.sum_bits + ceil_log2(n_ports), reset_less=True)
        drop = ~s2.o_seen | o_amount[4:].all()
        m.d.sync += [
            s3_amount.eq(Mux(drop, 0, o_amount)), s3_drop.eq(drop),
            s3_l.eq(Mux(s2.l_seen, s2.l, 0)), s3_l_amount.eq(shift_amount(l_distance)),
            s4_l.eq(s3_l >> s3_l_amount),
            power.eq(s2_o_top - s2_l_top + _DROPPED_BITS - 1),
        ]
        with m.If(s4_go):
            m.d.sync += total.eq(Mux(s4_first, 0, total) + s4_l)

        # The scale, three cycles and the latency after s2.
        m.submodules.convert = convert = FromInt(width=len(total))
        m.submodules.recip = recip = Func(ops=(FuncOp.RECIP,))
        latency = FromInt.LATENCY + Func.LATENCY
        biased, scale = Signal(signed(19)), Signal(32, reset_less=True)
        m.d.comb += [convert.en.eq(1), convert.i.eq(total[1:]), recip.en.eq(1), recip.op.eq(FuncOp.RECIP),
                     recip.i.eq(convert.o), biased.eq(recip.o.exponent + delay(m, power, latency + 2))]
        m.d.sync += scale.eq(Mux(biased >= 255, F32_INF, Mux(biased <= 0, 0, Cat(recip.o.mantissa, biased[:8], 0))))

        # Shifts of the slices before the last came in the cycles before.
        amount, late_drop = (delay(m, value, latency + 3) for value in (s3_amount, s3_drop))
        for number in reversed(range(n_ports)):
            m.d.comb += [plan.p.shift[number].eq(amount), plan.p.drop[number].eq(late_drop)]
            amount, late_drop = delay(m, amount, 1), delay(m, late_drop, 1)
        late = n_ports + latency + 6
        m.d.comb += [
            plan.valid.eq(delay(m, go & last, late, reset_less=False)), plan.p.scale.eq(scale),
            plan.p.lane.eq(delay(m, self.lane, late)), plan.p.number.eq(delay(m, self.number, late)),
        ]
        return go & first

    def _drain(self, m, may_begin, plan, half):
        """Sweeps over the sums of a plan; returns the signals that a half word was begun and that a plan ended."""
        sizes = self._sizes
        have, used, go = Signal(), Signal(), Signal()
        lane, number = Signal.like(plan.p.lane), Signal.like(plan.p.number)
        scale = Signal(32, reset_less=True)
        left = [Signal(SHIFT_BITS, name=f"left_{p}", reset_less=True) for p in range(sizes.n_ports)]
        drop = Signal(sizes.n_ports, reset_less=True)
        long, last_visit, rest, place = Signal(), Signal(), Signal(3), Signal(7)
        m.d.comb += [
            long.eq(Cat(amount > 2 * STEP for amount in left).any()),
            last_visit.eq(place == Cat(1, self.head_words - 1)),
            go.eq(have & (rest == 0) & may_begin),
            used.eq(go & last_visit & ~long),
            plan.ready.eq(~have | used),
            self.drain_en.eq(go), self.drain_lane.eq(lane), self.drain_number.eq(number), self.drain_half.eq(place),
        ]
        with m.If(plan.ready):
            m.d.sync += [have.eq(plan.valid), lane.eq(plan.p.lane), number.eq(plan.p.number), scale.eq(plan.p.scale),
                         drop.eq(plan.p.drop)]
            m.d.sync += [amount.eq(plan.p.shift[p]) for p, amount in enumerate(left)]
        with m.Elif(go & last_visit):
            m.d.sync += [amount.eq(Mux(amount > 2 * STEP, amount - 2 * STEP, 0)) for amount in left]
            m.d.sync += rest.eq(Mux(self.head_words >= VISIT_GAP, 0, VISIT_GAP - self.head_words))
        with m.If(rest != 0):
            m.d.sync += rest.eq(rest - 1)
        with m.If(go):
            m.d.sync += place.eq(Mux(last_visit, 0, place + 1))
        for p, amount in enumerate(left):
            shift = self.drain_shift[p]
            m.d.comb += [
                shift.first.eq(Mux(amount > STEP, STEP, amount)), shift.drop.eq(drop[p]),
                shift.second.eq(Mux(amount > 2 * STEP, STEP, Mux(amount > STEP, amount - STEP, 0))),
            ]

        # The sums of the slices, two at a time.
        late_lane = delay(m, lane, Values.LATENCY)
        lanes = sizes.query_lanes
        terms = [Array(self.sums[p * lanes:(p + 1) * lanes])[late_lane] if lanes > 1 else self.sums[p]
                 for p in range(sizes.n_ports)]
        totals, bits, stages = [[term[d] for d in range(sizes.half)] for term in terms], sizes.acc_bits, 0
        while stages == 0 or len(totals) > 1:
            bits, stages = bits + (len(totals) > 1), stages + 1
            pairs = zip(totals[::2], totals[1::2]) if len(totals) > 1 else ((total,) for total in totals)
            totals = [[self._register(m, sum(parts[1:], start=parts[0]), bits) for parts in zip(*pair)] for pair in pairs]
        late = Values.LATENCY + stages
        m.d.comb += [half.valid.eq(delay(m, go & ~long, late, reset_less=False)), half.p.scale.eq(delay(m, scale, late))]
        m.d.comb += [acc.eq(total[_DROPPED_BITS:].as_signed()) for acc, total in zip(half.p.acc, totals[0])]
        return go & ~long, used

    @staticmethod
    def _register(m, value, bits):
        result = Signal(signed(bits), reset_less=True)
        m.d.sync += result.eq(value)
        return result

    def _send(self, m, half):
        """Half words to words of the output."""
        lanes, n_half = self._sizes.vector_lanes, self._sizes.half
        acc = half.p.acc
        m.d.comb += self.o.p.scale.eq(half.p.scale)
        if lanes > n_half:
            lower, have_lower = Signal(acc.shape(), reset_less=True), Signal()
            m.d.comb += [self.o.valid.eq(half.valid & have_lower), half.ready.eq(~have_lower | self.o.ready)]
            m.d.comb += [self.o.p.acc[d].eq(lower[d]) for d in range(n_half)]
            m.d.comb += [self.o.p.acc[n_half + d].eq(acc[d]) for d in range(n_half)]
            with m.If(half.valid & half.ready):
                m.d.sync += have_lower.eq(~have_lower)
            with m.If(~have_lower):
                m.d.sync += lower.eq(acc)
        else:
            part, words = Signal(range(max(n_half // lanes, 2))), n_half // lanes
            last_part = part == words - 1
            m.d.comb += [self.o.valid.eq(half.valid), half.ready.eq(self.o.ready & last_part)]
            m.d.comb += [self.o.p.acc[d].eq(Array(acc[first + d] for first in range(0, n_half, lanes))[part])
                         for d in range(lanes)]
            with m.If(self.o.valid & self.o.ready):
                m.d.sync += part.eq(Mux(last_part, 0, part + 1))
