"""From the sums of a lane to its mean and scale, one lane a cycle: one pipeline for all lanes.

::

    s1 --+-- * inv_d ---- >> mean_shift, round, saturate ------------------------------------------> mean
         +-- squared --+
    s2 ----- * D ------+--> V = D s2 - s1 s1 + eps --> 24 leading bits --> rsqrt --> * imm --> round --> r
                  eps -+       60 bits, in halves       (F32)

    mean   5 cycles after s1;  r   ``NormScale.LATENCY`` cycles after s1, s2
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..arith.bits import step_shift
from ..arith.convert import ToInt
from ..arith.fmul import FMul
from ..arith.func import Func
from ..formats import F32, F32_BIAS
from ..tables import FuncOp
from .isa import X_BITS, Norm

__all__ = ["R_BITS", "SUM_BITS", "SQUARES_BITS", "NormScale", "overflows", "saturated"]

SUM_BITS, SQUARES_BITS = 30, 47     # of up to 4096 elements
R_BITS = 26
_V_BITS, _HALF = 60, 30


def overflows(value, bits):
    """Whether a signed value needs more than so many bits."""
    return (value[bits - 1:-1] ^ value[-1].replicate(len(value) - bits)).any()


def saturated(value, bits):
    """A signed value as the nearest of so many bits."""
    return Mux(overflows(value, bits), Cat((~value[-1]).replicate(bits - 1), value[-1]), value[:bits]).as_signed()


class NormScale(wiring.Component):
    """Statistics of lanes.

    Members
    -------
    fields : In(Norm)
        Constant from the first sums to the last result.
    valid, last, s1, s2 : In
        The sums of a lane; whether they are of the last one.
    mean_valid, mean : Out
        The lanes' means in order.
    r_valid, r_last, r : Out
        2**16 over the lanes' standard deviations, in order.
    """

    LATENCY = 9 + Func.LATENCY + FMul.LATENCY + ToInt.LATENCY

    fields: In(Norm)
    valid: In(1)
    last: In(1)
    s1: In(signed(SUM_BITS))
    s2: In(SQUARES_BITS)
    mean_valid: Out(1)
    mean: Out(signed(X_BITS))
    r_valid: Out(1)
    r_last: Out(1)
    r: Out(R_BITS)

    def elaborate(self, platform):
        m = Module()
        flow, ends = Signal(self.LATENCY), Signal(self.LATENCY)
        m.d.sync += [flow.eq(Cat(self.valid, flow)), ends.eq(Cat(self.last, ends))]
        m.d.comb += [self.mean_valid.eq(flow[4]), self.r_valid.eq(flow[-1]), self.r_last.eq(flow[-1] & ends[-1])]
        self._mean(m)
        v = self._variance(m)

        m.submodules.root = root = Func(ops=[FuncOp.RSQRT])
        m.submodules.scale = scale = FMul()
        m.submodules.to_int = to_int = ToInt(width=R_BITS + 1)
        m.d.comb += [
            root.op.eq(FuncOp.RSQRT), root.i.eq(self._float(m, v)), scale.a.eq(root.o), scale.b.eq(self.fields.imm),
            to_int.i.eq(scale.o), self.r.eq(to_int.o), root.en.eq(1), scale.en.eq(1), to_int.en.eq(1),
        ]
        return m

    def _mean(self, m):
        """(s1 * inv_d) >> mean_shift, rounded to nearest, ties up. Five stages."""
        def register(name, bits):
            return Signal(signed(bits), name=name, reset_less=True)

        s1_low, s1_high = register("s1_mean_low", 35), register("s1_mean_high", 33)
        s2_product = register("s2_product", 50)
        s3_twice, s4_mean, s5_mean = register("s3_twice", 34), register("s4_mean", 34), register("s5_mean", X_BITS)
        m.d.sync += [
            s1_low.eq(self.s1[:16] * self.fields.inv_d), s1_high.eq(self.s1[16:].as_signed() * self.fields.inv_d),
            s2_product.eq(Cat(s1_low[:16], (s1_low >> 16) + s1_high).as_signed()),
            s3_twice.eq((s2_product >> 16) >> (self.fields.mean_shift - 1)[:4]),
            s4_mean.eq((s3_twice + 1) >> 1),
            s5_mean.eq(saturated(s4_mean, X_BITS)),
        ]
        m.d.comb += self.mean.eq(s5_mean)

    def _variance(self, m):
        """D * s2 - s1**2 + eps, from the third stage on the upper half a stage behind the lower one. Five stages."""
        def register(name, shape):
            return Signal(shape, name=name, reset_less=True)

        f = self.fields
        low, high = self.s1[:16], self.s1[16:].as_signed()
        s1_ll, s1_hl, s1_hh = register("s1_ll", 32), register("s1_hl", signed(31)), register("s1_hh", 28)
        s1_dl, s1_dh = register("s1_dl", 37), register("s1_dh", 36)
        m.d.sync += [
            s1_ll.eq(low * low), s1_hl.eq(high * low), s1_hh.eq(high * high),
            s1_dl.eq(f.n_rows * self.s2[:24]), s1_dh.eq(f.n_rows * self.s2[24:]),
        ]
        s2_square, s2_hh, s2_product = register("s2_square", signed(50)), register("s2_hh", 28), register("s2_product", _V_BITS)
        m.d.sync += [
            s2_square.eq(Cat(s1_ll[:17], s1_ll[17:] + s1_hl).as_signed()), s2_hh.eq(s1_hh),
            s2_product.eq(Cat(s1_dl[:24], s1_dl[24:] + s1_dh)),
        ]
        s3_square, s3_low, s3_high = register("s3_square", _V_BITS), register("s3_low", _HALF + 1), register("s3_high", _HALF)
        m.d.sync += [
            s3_square.eq(Cat(s2_square[:32], (s2_square >> 32) + s2_hh)),
            s3_low.eq(s2_product[:_HALF] + f.eps[:_HALF]), s3_high.eq(s2_product[_HALF:]),
        ]
        s4_square, s4_low, s4_high = register("s4_square", _HALF), register("s4_low", _HALF + 1), register("s4_high", _HALF)
        m.d.sync += [
            s4_square.eq(s3_square[_HALF:]), s4_low.eq(s3_low[:_HALF] - s3_square[:_HALF]),
            s4_high.eq(s3_high + f.eps[_HALF:] + s3_low[-1]),
        ]
        s5_v = register("s5_v", _V_BITS)
        m.d.sync += s5_v.eq(Cat(s4_low[:_HALF], s4_high - s4_square - s4_low[-1]))
        return s5_v

    def _float(self, m, v):
        """F32 of the 24 leading bits of V, at least 1. Four stages."""
        places = 64
        value, zeros = Cat(v[0] | ~v.any(), v[1:]), Const(0, 0)
        value = self._stage(m, Cat(Const(0, places - _V_BITS), value), "s6_v")
        for number, step in (7, 16), (8, 4), (9, 1):
            value, steps = step_shift(m, value, step)
            if step == 1:
                value = value[-24:-1]
            value = self._stage(m, value, f"s{number}_v")
            zeros = self._stage(m, Cat(steps, zeros), f"s{number}_zeros")
        result = Signal(F32)
        m.d.comb += [result.mantissa.eq(value), result.exponent.eq(F32_BIAS + _V_BITS - 1 - zeros)]
        return result

    def _stage(self, m, value, name):
        register = Signal(len(value), name=name, reset_less=True)
        m.d.sync += register.eq(value)
        return register
