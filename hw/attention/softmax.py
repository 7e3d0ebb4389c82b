"""Softmax of one slice: a score of every lane a cycle in, what to add its value with out; the running denominators.

::

    cycle  0        2           5           8            11           14             17              19        20
    score --> float --> x factor --> x ks --> to fixed --> exp2 --> (mant, e) ------> running El --> shift --> l += mant
                                                               `--> x vs --> (w, ew) --> running Eo --> shift --> weight

    z = (float(s) * factor) * ks,  2**z ~ mant * 2**(e - 15),  w = (mant * significand(vs)) >> 23, normalised

Nothing stalls. The state of a pass is visited every VISIT_GAP cycles at most, so that a visit finds what the one
before left.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ..arith.convert import FromInt
from ..arith.exp2_fix import Exp2Fix
from ..arith.fmul import FMul
from ..formats import F32_BIAS
from .fixed import ToFixed
from .links import EXPONENT, AttentionSizes, LaneState, LaneWeight, ScorePass, WeightPass, delay
from .running import RunningExponent

__all__ = ["Softmax", "SoftmaxLane"]

_KS, _VS, _STATE, _SHIFT = 5, 14, 17, 19     # cycles after the score


class SoftmaxLane(wiring.Component):
    """One lane; all inputs but the factor are those of cycle 0.

    Members
    -------
    clear : In(1), forget the state of all passes
    valid, seen, number, score : In
    factor : In(32), binary32, one cycle late
    ks, vs : In(32), binary32, at cycles 5 and 14
    weight : Out, at cycle 20
    read_number : In, and state : Out in the same cycle: for the merge, while nothing is under way
    """

    def __init__(self, *, sizes):
        if not isinstance(sizes, AttentionSizes):
            raise TypeError(f"sizes must be AttentionSizes, not {sizes!r}")
        self._sizes = sizes
        number = range(sizes.max_passes)
        super().__init__({
            "clear": In(1), "valid": In(1), "seen": In(1), "number": In(number), "score": In(signed(sizes.score_bits)),
            "factor": In(32), "ks": In(32), "vs": In(32), "weight": Out(LaneWeight),
            "read_number": In(number), "state": Out(LaneState(sizes))})

    def elaborate(self, platform):
        m = Module()
        sizes = self._sizes

        # 0 .. 14: the mantissa and exponent of 2**z.
        m.submodules.convert = convert = FromInt(width=sizes.score_bits)
        m.submodules.by_factor = by_factor = FMul()
        m.submodules.by_scale = by_scale = FMul()
        m.submodules.fixed = fixed = ToFixed()
        m.submodules.exp2 = exp2 = Exp2Fix(width=32)
        m.d.comb += [unit.en.eq(1) for unit in (convert, by_factor, by_scale, exp2)]
        m.d.comb += [
            convert.i.eq(self.score),
            by_factor.a.eq(convert.o), by_factor.b.eq(delay(m, self.factor, 1)),
            by_scale.a.eq(by_factor.o), by_scale.b.eq(self.ks),
            fixed.i.eq(by_scale.o), exp2.i.eq(fixed.o),
        ]

        # 15 .. 17: times the value's scale.
        s15_product, s16_product = Signal(40, reset_less=True), Signal(40, reset_less=True)
        s15_exponent, s16_exponent = Signal(EXPONENT, reset_less=True), Signal(EXPONENT, reset_less=True)
        s17_weight, s17_exponent = Signal(16, reset_less=True), Signal(EXPONENT, reset_less=True)
        carry = s16_product[39]
        m.d.sync += [
            s15_product.eq(exp2.mantissa * Cat(self.vs[:23], 1)), s16_product.eq(s15_product),
            s15_exponent.eq(exp2.exponent + self.vs[23:31] - F32_BIAS), s16_exponent.eq(s15_exponent),
            s17_weight.eq(Mux(carry, s16_product[24:40], s16_product[23:39])),
            s17_exponent.eq(s16_exponent + carry),
        ]
        s17_nonzero = delay(m, self.vs[23:31].any(), _STATE - _VS)
        s17_mantissa, s17_e = delay(m, exp2.mantissa, _STATE - _VS), delay(m, exp2.exponent, _STATE - _VS)
        s17_number = delay(m, self.number, _STATE)
        s17_counts = delay(m, self.valid & self.seen, _STATE, reset_less=False)

        # 17 .. 19: the running exponents.
        m.submodules.l_exponent = l_exponent = RunningExponent(max_passes=sizes.max_passes)
        m.submodules.o_exponent = o_exponent = RunningExponent(max_passes=sizes.max_passes)
        number = Mux(s17_counts, s17_number, self.read_number)
        m.d.comb += [
            l_exponent.clear.eq(self.clear), l_exponent.i_valid.eq(s17_counts),
            l_exponent.i_number.eq(number), l_exponent.i_exponent.eq(s17_e),
            o_exponent.clear.eq(self.clear), o_exponent.i_valid.eq(s17_counts & s17_nonzero),
            o_exponent.i_number.eq(number), o_exponent.i_exponent.eq(s17_exponent),
        ]

        # 18 .. 20: the denominator.
        m.submodules.l = l = memory.Memory(shape=sizes.sum_bits, depth=sizes.max_passes, init=[])
        write, read = l.write_port(), l.read_port(domain="comb")
        s18_number, s18_counts = delay(m, s17_number, 1), delay(m, s17_counts, 1, reset_less=False)
        s19_l, s19_mantissa = Signal(sizes.sum_bits, reset_less=True), delay(m, s17_mantissa, _SHIFT - _STATE)
        s20_l, s20_mantissa = Signal(sizes.sum_bits, reset_less=True), Signal(16, reset_less=True)
        m.d.comb += read.addr.eq(Mux(s18_counts, s18_number, self.read_number))
        m.d.sync += [
            s19_l.eq(read.data),
            s20_l.eq(Mux(l_exponent.fresh, 0, Mux(l_exponent.grow, s19_l >> l_exponent.amount, s19_l))),
            s20_mantissa.eq(Mux(l_exponent.grow, s19_mantissa, s19_mantissa >> l_exponent.amount)),
        ]
        m.d.comb += [
            write.en.eq(delay(m, s18_counts, 2, reset_less=False)), write.addr.eq(delay(m, s18_number, 2)),
            write.data.eq(s20_l + s20_mantissa),
        ]

        # 19 .. 20: the weight.
        s19_weight = delay(m, s17_weight, _SHIFT - _STATE)
        s19_counts = delay(m, s17_counts & s17_nonzero, _SHIFT - _STATE)
        longest = o_exponent.amount[4:].all()       # 48 or more
        s20 = Signal(LaneWeight, reset_less=True)
        m.d.sync += [
            s20.weight.eq(Mux(s19_counts, Mux(o_exponent.grow, s19_weight, s19_weight >> o_exponent.amount), 0)),
            s20.shift.eq(Mux(s19_counts & o_exponent.grow & ~o_exponent.fresh, o_exponent.amount, 0)),
            s20.fresh.eq(s19_counts & (o_exponent.fresh | (o_exponent.grow & longest))),
        ]
        m.d.comb += [
            self.weight.eq(s20),
            self.state.o_exponent.eq(o_exponent.top), self.state.o_seen.eq(o_exponent.seen),
            self.state.l_exponent.eq(l_exponent.top), self.state.l_seen.eq(l_exponent.seen), self.state.l.eq(read.data),
        ]
        return m


class Softmax(wiring.Component):
    """All lanes of a slice.

    Members
    -------
    clear : In(1)
    i_valid, i : In(ScorePass)
    factor_index : Out, and factor : In one cycle later: the query memory
    o_valid, o : Out(WeightPass), 20 cycles after i
    read_number : In, state : Out, a lane
    """

    LATENCY = 20

    def __init__(self, *, sizes):
        if not isinstance(sizes, AttentionSizes):
            raise TypeError(f"sizes must be AttentionSizes, not {sizes!r}")
        self._sizes = sizes
        lanes = sizes.query_lanes
        super().__init__({
            "clear": In(1), "i_valid": In(1), "i": In(ScorePass(sizes)),
            "factor_index": Out(sizes.slots.index_bits).array(lanes), "factor": In(32).array(lanes),
            "o_valid": Out(1), "o": Out(WeightPass(sizes)),
            "read_number": In(range(sizes.max_passes)), "state": Out(LaneState(sizes)).array(lanes)})

    def elaborate(self, platform):
        m = Module()
        ks = delay(m, self.i.ks, _KS)
        vs = delay(m, self.i.vs, _VS)
        m.d.comb += self.o_valid.eq(delay(m, self.i_valid, self.LATENCY, reset_less=False))
        for lane in range(self._sizes.query_lanes):
            m.submodules[f"lane_{lane}"] = unit = SoftmaxLane(sizes=self._sizes)
            m.d.comb += [
                unit.clear.eq(self.clear), unit.valid.eq(self.i_valid), unit.number.eq(self.i.number),
                unit.seen.eq(self.i.seen[lane]), unit.score.eq(self.i.score[lane]), unit.ks.eq(ks), unit.vs.eq(vs),
                self.factor_index[lane].eq(self.i.index[lane]), unit.factor.eq(self.factor[lane]),
                self.o.lanes[lane].eq(unit.weight),
                unit.read_number.eq(self.read_number), self.state[lane].eq(unit.state),
            ]
        return m
