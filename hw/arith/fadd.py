"""Binary32 sum.  o = a + b, round to nearest even, subnormals flushed.

Two paths, so that no stage both shifts far and carries far::

                     +--> far:  align -----> add -----------> one place, round --+
    a, b --> order --+                                                           +--> o
                     +--> near: subtract --> leading zeros --> shift left -------+
          stage 1         2                  3                 4

The near path serves differences whose exponents are equal or neighbours and whose leading bit is
lost: those are exact. Everything else goes far, and moves by at most one place. One sum a cycle,
latency 4 enabled edges. Golden: ``f32.add``; a - b is a sum with the sign of b inverted outside.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import F32, F32_NAN
from .bits import leading_zeros, pack, round_up

__all__ = ["FAdd"]


class FAdd(wiring.Component):
    """o = a + b.

    Members
    -------
    a, b : In(F32)
    o : Out(F32)
    en : In(1)
        Clock enable of every register.
    """

    LATENCY = 4

    a: In(F32)
    b: In(F32)
    o: Out(F32)
    en: In(1)

    def elaborate(self, platform):
        m = Module()

        # Stage 1: the larger magnitude first. A zero has significand 0.
        swap = self.a.as_value()[:31] < self.b.as_value()[:31]
        big, small = Signal(F32), Signal(F32)
        m.d.comb += [
            big.eq(Mux(swap, self.b.as_value(), self.a.as_value())),
            small.eq(Mux(swap, self.a.as_value(), self.b.as_value())),
        ]
        a_less_b = (self.a.exponent - self.b.exponent)[:8]
        b_less_a = (self.b.exponent - self.a.exponent)[:8]
        big_any, small_any = big.exponent.any(), small.exponent.any()
        big_top, small_top = big.exponent == 0xFF, small.exponent == 0xFF

        s1_big = Signal(24, reset_less=True)
        s1_small = Signal(24, reset_less=True)
        s1_gap = Signal(8, reset_less=True)
        s1_exponent = Signal(8, reset_less=True)
        s1_sign, s1_subtract, s1_inf, s1_nan = (
            Signal(reset_less=True, name=f"s1_{n}") for n in ("sign", "subtract", "inf", "nan"))
        with m.If(self.en):
            m.d.sync += [
                s1_big.eq(Mux(big_any, Cat(big.mantissa, 1), 0)),
                s1_small.eq(Mux(small_any, Cat(small.mantissa, 1), 0)),
                s1_gap.eq(Mux(swap, b_less_a, a_less_b)),
                s1_exponent.eq(big.exponent),
                s1_sign.eq(Mux(big_any, big.sign, big.sign & small.sign)),
                s1_subtract.eq(big.sign ^ small.sign),
                s1_inf.eq(big_top),
                s1_nan.eq((big_top & big.mantissa.any())
                          | (small_top & (small.mantissa.any() | (big.sign ^ small.sign)))),
            ]

        # Stage 2: far: align to three more places, the last one sticky. Near: subtract.
        gap = Signal(5)
        aligned = Signal(27)
        lost = Signal()
        m.d.comb += [
            gap.eq(Mux(s1_gap >= 27, 27, s1_gap[:5])),
            aligned.eq(Cat(Const(0, 3), s1_small) >> gap),
            lost.eq((s1_small & Cat(gap > place + 3 for place in range(24))).any()),
        ]
        difference = Cat(Const(0, 1), s1_big) - Mux(s1_gap[0], s1_small, Cat(Const(0, 1), s1_small))

        s2_big = Signal(27, reset_less=True)
        s2_small = Signal(27, reset_less=True)
        s2_near = Signal(25, reset_less=True)
        s2_exponent = Signal(8, reset_less=True)
        s2_sign, s2_subtract, s2_close, s2_inf, s2_nan = (
            Signal(reset_less=True, name=f"s2_{n}")
            for n in ("sign", "subtract", "close", "inf", "nan"))
        with m.If(self.en):
            m.d.sync += [
                s2_big.eq(Cat(Const(0, 3), s1_big)),
                s2_small.eq(Cat(aligned[0] | lost, aligned[1:])),
                s2_near.eq(difference),
                s2_exponent.eq(s1_exponent),
                s2_sign.eq(s1_sign),
                s2_subtract.eq(s1_subtract),
                s2_close.eq(s1_subtract & (s1_gap <= 1)),
                s2_inf.eq(s1_inf),
                s2_nan.eq(s1_nan),
            ]

        # Stage 3: far: add. Near: where the leading one is.
        s3_sum = Signal(28, reset_less=True)
        s3_near = Signal(25, reset_less=True)
        s3_zeros = Signal(5, reset_less=True)
        s3_exponent = Signal(8, reset_less=True)
        s3_exponent_up = Signal(9, reset_less=True)
        s3_exponent_down = Signal(signed(9), reset_less=True)
        s3_sign, s3_use_near, s3_cancelled, s3_inf, s3_nan = (
            Signal(reset_less=True, name=f"s3_{n}")
            for n in ("sign", "use_near", "cancelled", "inf", "nan"))
        with m.If(self.en):
            m.d.sync += [
                s3_sum.eq(s2_big + Mux(s2_subtract, ~Cat(s2_small, 0), s2_small) + s2_subtract),
                s3_near.eq(s2_near),
                s3_zeros.eq(leading_zeros(s2_near)),
                s3_exponent.eq(s2_exponent),
                s3_exponent_up.eq(s2_exponent + 1),
                s3_exponent_down.eq(s2_exponent - 1),
                s3_sign.eq(s2_sign & ~(s2_close & ~s2_near.any())),
                s3_use_near.eq(s2_close & ~s2_near[-1]),
                s3_cancelled.eq(s2_close & ~s2_near.any()),
                s3_inf.eq(s2_inf),
                s3_nan.eq(s2_nan),
            ]

        # Stage 4: normalise, round, choose.
        exponent = Signal(signed(10))
        mantissa, guard, sticky = Signal(23), Signal(), Signal()
        with m.If(s3_sum[27]):
            m.d.comb += Cat(sticky, guard, mantissa).eq(Cat(s3_sum[:3].any(), s3_sum[3:27]))
            m.d.comb += exponent.eq(s3_exponent_up)
        with m.Elif(s3_sum[26]):
            m.d.comb += Cat(sticky, guard, mantissa).eq(Cat(s3_sum[:2].any(), s3_sum[2:26]))
            m.d.comb += exponent.eq(s3_exponent)
        with m.Else():
            m.d.comb += Cat(sticky, guard, mantissa).eq(s3_sum[:25])
            m.d.comb += exponent.eq(s3_exponent_down)
        far = pack(s3_sign, exponent, mantissa, round_up(mantissa[0], guard, sticky))

        near_mantissa = (s3_near << s3_zeros)[1:24]
        near_exponent = s3_exponent - s3_zeros
        near_zero = s3_cancelled | (near_exponent <= 0)
        near = Cat(Mux(near_zero, 0, Cat(near_mantissa, near_exponent[:8])), s3_sign)

        s4_bits = Signal(32, reset_less=True)
        with m.If(self.en):
            with m.If(s3_nan):
                m.d.sync += s4_bits.eq(F32_NAN)
            with m.Elif(s3_inf):
                m.d.sync += s4_bits.eq(Cat(Const(0, 23), Const(0xFF, 8), s3_sign))
            with m.Else():
                m.d.sync += s4_bits.eq(Mux(s3_use_near, near, far))
        m.d.comb += self.o.eq(s4_bits)
        return m
