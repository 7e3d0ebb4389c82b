"""Softmax of one slice: a score a cycle in, what to add its value with out; the running denominators.

::

    i (a pass) --> lane after lane

    stage 1                     KS                            VS                   STATE                 + 3 (weight + 4)
    score --> float --> x factor --> x ks --> to fixed --> cap --> exp2 --> (mant, e) ------> running El --> shift --> l += mant
                                                                        `--> x vs --> (w, ew) --> running Eo --> shift --> weight

    z = (float(s) * factor) * ks, or cap * tanh of it,  2**z ~ mant * 2**(e - 15),  w = (mant * significand(vs)) >> 23, normalised

Sums have four guard bits: a term is shifted down in units of 2**-19 of the largest power of two, and rounded half up.

A pass begins when the scales of its record are there, before any pass of the next record, and takes A cycles without a stall. A
query is visited every three cycles at most, so that a visit finds what the one before left: the passes of a record, or the rest
after it, see to that.
"""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..arith.convert import FromInt
from ..arith.exp2_fix import Exp2Fix
from ..arith.fmul import FMul
from ..formats import F32_BIAS
from ..links import CAP_BITS
from .fixed import ToFixed
from .links import (
    EXPONENT,
    GUARD_BITS,
    SHIFT_BITS,
    WEIGHT_BITS,
    AttentionSizes,
    LaneWeight,
    QueryState,
    RecordScale,
    ScorePass,
    TableWrite,
    WeightPass,
    delay,
)
from .running import RunningExponent
from .soft_cap import SoftCap

__all__ = ["Softmax"]

_KS = 1 + FromInt.LATENCY + FMul.LATENCY                    # stage that needs the scale of the key
_VS = _KS + FMul.LATENCY + ToFixed.LATENCY + SoftCap.LATENCY + Exp2Fix.LATENCY     # .. of the value
_STATE = _VS + 3                                            # stage that reads the running exponents
_SHIFT = _STATE + RunningExponent.LATENCY


def _halves(mantissa):
    """A term in half units of the sums: what is shifted out of it is rounded half up."""
    return Cat(Const(0, GUARD_BITS + 1), mantissa)


class Softmax(wiring.Component):
    """Weights of a slice.

    Members
    -------
    table_en, table : In(TableWrite), writes of the pass table: forget the state of the query
    cap : In(CAP_BITS), soft-cap of the job; 0: none
    i : In(stream(ScorePass)), one in A cycles is taken
    i_scale : In(stream(RecordScale)), one a record
    factor_lane, factor_index, factor_bank : Out, and factor : In one cycle later: the query memory
    o_valid, o_odd, o : Out(WeightPass), LATENCY cycles after the last lane of a pass
    read_lane, read_number : In, and state : Out in the same cycle: for the merge, while nothing is under way
    """

    LATENCY = _SHIFT + 2

    def __init__(self, *, sizes):
        if not isinstance(sizes, AttentionSizes):
            raise TypeError(f"sizes must be AttentionSizes, not {sizes!r}")
        self._sizes = sizes
        super().__init__({
            "table_en": In(1), "table": In(TableWrite(sizes)), "cap": In(CAP_BITS),
            "i": In(stream.Signature(ScorePass(sizes))), "i_scale": In(stream.Signature(RecordScale)),
            "factor_lane": Out(range(sizes.query_lanes)), "factor_index": Out(sizes.slots.index_bits), "factor_bank": Out(1),
            "factor": In(32),
            "o_valid": Out(1), "o_odd": Out(1), "o": Out(WeightPass(sizes)),
            "read_lane": In(range(sizes.query_lanes)), "read_number": In(range(sizes.max_passes)),
            "state": Out(QueryState(sizes))})

    def elaborate(self, platform):
        m = Module()
        sizes = self._sizes
        lanes, lane_log2 = sizes.query_lanes, ceil_log2(sizes.query_lanes)

        # 0: one lane of a pass.
        lane, last_lane, valid = Signal(range(lanes)), Signal(), Signal()
        score = Signal(signed(sizes.score_bits), reset_less=True)
        m.d.sync += score.eq(Array(self.i.p.score)[lane])
        m.d.comb += [
            last_lane.eq(lane == lanes - 1), valid.eq(self.i.valid & self.i_scale.valid),
            self.factor_lane.eq(lane), self.factor_index.eq(Array(self.i.p.index)[lane]),
            self.factor_bank.eq(Array(self.i.p.bank)[lane]),
            self.i.ready.eq(last_lane & self.i_scale.valid), self.i_scale.ready.eq(self.i.valid & last_lane & self.i.p.last),
        ]
        with m.If(valid):
            m.d.sync += lane.eq(lane + 1)
        pass_valid = valid & last_lane
        counts = valid & Array(self.i.p.seen)[lane]

        # The mantissa and exponent of 2**z.
        m.submodules.convert = convert = FromInt(width=sizes.score_bits)
        m.submodules.by_factor = by_factor = FMul()
        m.submodules.by_scale = by_scale = FMul()
        m.submodules.fixed = fixed = ToFixed()
        m.submodules.soft_cap = soft_cap = SoftCap()
        m.submodules.exp2 = exp2 = Exp2Fix(width=32)
        m.d.comb += [unit.en.eq(1) for unit in (convert, by_factor, by_scale, exp2)]
        vs = delay(m, self.i_scale.p.vs, _VS)
        m.d.comb += [
            convert.i.eq(score),
            by_factor.a.eq(convert.o), by_factor.b.eq(delay(m, self.factor, FromInt.LATENCY)),
            by_scale.a.eq(by_factor.o), by_scale.b.eq(delay(m, self.i_scale.p.ks, _KS)),
            fixed.i.eq(by_scale.o), fixed.fine.eq(self.cap != 0),
            soft_cap.i.eq(fixed.o), soft_cap.cap.eq(self.cap), exp2.i.eq(soft_cap.o),
        ]

        # Times the value's scale.
        s1_product, s2_product = Signal(40, reset_less=True), Signal(40, reset_less=True)
        s1_exponent, s2_exponent = Signal(EXPONENT, reset_less=True), Signal(EXPONENT, reset_less=True)
        s3_weight, s3_exponent = Signal(16, reset_less=True), Signal(EXPONENT, reset_less=True)
        carry = s2_product[39]
        m.d.sync += [
            s1_product.eq(exp2.mantissa * Cat(vs[:23], 1)), s2_product.eq(s1_product),
            s1_exponent.eq(exp2.exponent + vs[23:31] - F32_BIAS), s2_exponent.eq(s1_exponent),
            s3_weight.eq(Mux(carry, s2_product[24:40], s2_product[23:39])),
            s3_exponent.eq(s2_exponent + carry),
        ]
        s3_nonzero = delay(m, vs[23:31].any(), 3)
        s3_mantissa, s3_e = delay(m, exp2.mantissa, 3), delay(m, exp2.exponent, 3)
        s3_place = delay(m, Cat(lane[:lane_log2], self.i.p.number), _STATE)
        s3_counts = delay(m, counts, _STATE, reset_less=False)

        # The running exponents.
        m.submodules.l_exponent = l_exponent = RunningExponent(places=lanes * sizes.max_passes)
        m.submodules.o_exponent = o_exponent = RunningExponent(places=lanes * sizes.max_passes)
        read_place = Cat(self.read_lane[:lane_log2], self.read_number)
        place = Mux(s3_counts, s3_place, read_place)
        for exponent in (l_exponent, o_exponent):
            m.d.comb += [exponent.clear.eq(self.table_en), exponent.i_place.eq(place),
                         exponent.clear_place.eq(Cat(self.table.lane[:lane_log2], self.table.number))]
        m.d.comb += [
            l_exponent.i_valid.eq(s3_counts), l_exponent.i_exponent.eq(s3_e),
            o_exponent.i_valid.eq(s3_counts & s3_nonzero), o_exponent.i_exponent.eq(s3_exponent),
        ]

        # The denominator.
        m.submodules.l = l = memory.Memory(shape=sizes.sum_bits, depth=lanes * sizes.max_passes, init=[])
        write, read = l.write_port(), l.read_port(domain="comb")
        s4_place, s4_counts = delay(m, s3_place, 1), delay(m, s3_counts, 1, reset_less=False)
        s5_l, s5_mantissa = Signal(sizes.sum_bits, reset_less=True), delay(m, s3_mantissa, RunningExponent.LATENCY)
        s6_l, s6_halves = Signal(sizes.sum_bits, reset_less=True), Signal(WEIGHT_BITS + 1, reset_less=True)
        m.d.comb += read.addr.eq(Mux(s4_counts, s4_place, read_place))
        m.d.sync += [
            s5_l.eq(read.data),
            s6_l.eq(Mux(l_exponent.fresh, 0, s5_l >> Mux(l_exponent.grow, l_exponent.amount, 0))),
            s6_halves.eq(_halves(s5_mantissa) >> Mux(l_exponent.grow, 0, l_exponent.amount)),
        ]
        m.d.comb += [
            write.en.eq(delay(m, s4_counts, 2, reset_less=False)), write.addr.eq(delay(m, s4_place, 2)),
            write.data.eq((Cat(Const(1, 1), s6_l) + s6_halves)[1:]),
        ]

        # The weight; those of the other lanes of the pass came in the cycles before.
        s5_weight = delay(m, s3_weight, RunningExponent.LATENCY)
        s5_counts = delay(m, s3_counts & s3_nonzero, RunningExponent.LATENCY)
        fresh = o_exponent.fresh | (o_exponent.grow & o_exponent.amount[4:].all())      # a shift of 48 or more
        s6_weight, s6_shift = Signal(WEIGHT_BITS + 1, reset_less=True), Signal(SHIFT_BITS, reset_less=True)
        weight = Signal(LaneWeight, reset_less=True)
        m.d.sync += [
            s6_weight.eq(Mux(s5_counts, _halves(s5_weight) >> Mux(o_exponent.grow, 0, o_exponent.amount), 0)),
            s6_shift.eq(Mux(s5_counts & o_exponent.grow & ~fresh, o_exponent.amount, 0)),
            weight.weight.eq((s6_weight + 1)[1:]), weight.shift.eq(s6_shift), weight.fresh.eq(delay(m, s5_counts & fresh, 1)),
        ]
        for number in reversed(range(lanes)):
            m.d.comb += self.o.lanes[number].eq(weight)
            weight = delay(m, weight, 1)
        m.d.comb += [
            self.o_valid.eq(delay(m, pass_valid, self.LATENCY, reset_less=False)),
            self.o_odd.eq(delay(m, self.i.p.odd, self.LATENCY)),
            self.state.o_exponent.eq(o_exponent.top), self.state.o_seen.eq(o_exponent.seen),
            self.state.l_exponent.eq(l_exponent.top), self.state.l_seen.eq(l_exponent.seen), self.state.l.eq(read.data),
        ]
        return m
