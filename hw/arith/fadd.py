"""Binary32 sum.  o = a + b, round to nearest even, subnormals flushed.

::

    stage 1                2                  3                4                       5
    a, b --> compare, ---> big ------------------> add, ------> shift left: bytes, --> one place, --> o
             order    +--> small x 2**-gap ------> subtract     pairs of bits          round

The smaller magnitude is shifted right by a multiplication with a power of two, and the last 16 places before the sum;
two places and a sticky bit are kept below. Then any sum is moved up until its leading one is in its place. A top
exponent stays: nothing is added to an infinity, so that it comes out by itself, and a NaN as one with its quiet bit.

One sum a cycle, latency 5 enabled edges. Golden: ``f32.add``; a - b is a sum with the sign of b inverted outside.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import F32
from .bits import round_up, step_shift

__all__ = ["FAdd"]

_KEPT = 27          # bits before a sum: significand, two places, sticky


class FAdd(wiring.Component):
    """o = a + b.

    Members
    -------
    a, b : In(F32)
    o : Out(F32)
    en : In(1)
        Clock enable of every register.
    """

    LATENCY = 5

    a: In(F32)
    b: In(F32)
    o: Out(F32)
    en: In(1)

    def elaborate(self, platform):
        m = Module()

        def register(name, shape=1):
            return Signal(shape, name=name, reset_less=True)

        # Stage 1: the larger magnitude first; both differences of the exponents.
        difference = Signal(32, attrs={"use_dsp": "yes"})
        a_less_b, b_less_a = Signal(9, attrs={"use_dsp": "simd"}), Signal(9, attrs={"use_dsp": "simd"})
        swap = difference[31]
        big, small = Signal(F32), Signal(F32)
        m.d.comb += [
            difference.eq(self.a.as_value()[:31] - self.b.as_value()[:31]),
            a_less_b.eq(self.a.exponent - self.b.exponent),
            b_less_a.eq(self.b.exponent - self.a.exponent),
            big.eq(Mux(swap, self.b.as_value(), self.a.as_value())),
            small.eq(Mux(swap, self.a.as_value(), self.b.as_value())),
        ]
        s1_big, s1_small = register("s1_big", 24), register("s1_small", 24)
        s1_a_less_b, s1_b_less_a = register("s1_a_less_b", 8), register("s1_b_less_a", 8)
        s1_exponent, s1_swap, s1_sign, s1_subtract, s1_both = (
            register(f"s1_{n}", w) for n, w in (("exponent", 8), ("swap", 1), ("sign", 1), ("subtract", 1), ("both", 1)))
        with m.If(self.en):
            m.d.sync += [
                s1_big.eq(Cat(big.mantissa, 1)), s1_small.eq(Cat(small.mantissa, 1)),
                s1_a_less_b.eq(a_less_b), s1_b_less_a.eq(b_less_a),
                s1_exponent.eq(big.exponent), s1_swap.eq(swap), s1_sign.eq(big.sign),
                s1_subtract.eq(self.a.sign ^ self.b.sign),
                s1_both.eq(self.a.exponent.any() & self.b.exponent.any()),
            ]

        # Stage 2: the smaller one by 0 to 15 places to the right; it is nothing beside a top exponent, or where it is 0,
        # or more than 31 places lower.
        gap = Mux(s1_swap, s1_b_less_a, s1_a_less_b)
        power = Cat(gap[:4] == 15 - place for place in range(16))
        top = s1_exponent == 0xFF
        product = Signal(39)
        m.d.comb += product.eq(s1_small * power)
        s2_big, s2_small = register("s2_big", 24), register("s2_small", 39 - 13)
        s2_far, s2_sticky = register("s2_far"), register("s2_sticky", 3)
        s2_exponent, s2_sign, s2_subtract, s2_nan = (
            register(f"s2_{n}", w) for n, w in (("exponent", 8), ("sign", 1), ("subtract", 1), ("nan", 1)))
        with m.If(self.en):
            m.d.sync += [
                s2_big.eq(s1_big), s2_small.eq(product[13:]),
                s2_sticky.eq(Cat(product[k:k + 5].any() for k in (0, 5, 8))), s2_far.eq(gap[4]),
                s2_exponent.eq(s1_exponent), s2_sign.eq(s1_sign), s2_subtract.eq(s1_subtract),
                s2_nan.eq(top & (s1_big[:23].any() | (s1_subtract & (gap == 0)))),
            ]
            with m.If(~s1_both | top | gap[5:].any()):
                m.d.sync += [s2_small.eq(0), s2_sticky.eq(0)]
            with m.If(s1_exponent == 0):
                m.d.sync += s2_big.eq(0)

        # Stage 3: the other 16 places; the sum, and the exponent + 2 above it. A difference carries out into bit 27, which is
        # one more of the exponent.
        kept = Mux(s2_far, s2_small[16:], s2_small)
        dropped = Signal(4, attrs={"keep": 1})      # a LUT each, rather than a chain of LUTs before the sum
        m.d.comb += dropped.eq(Cat(s2_far & s2_small[k:k + 4].any() for k in range(0, 16, 4)))
        sticky = s2_sticky.any() | dropped.any()
        aligned = Cat(sticky, kept)
        s3_sum, s3_exponent = register("s3_sum", _KEPT + 1), register("s3_exponent", 9)
        s3_sign, s3_subtract, s3_nan = (register(f"s3_{n}") for n in ("sign", "subtract", "nan"))
        both = Signal(_KEPT + 11, attrs={"use_dsp": "yes"})
        m.d.comb += both.eq(
            Cat(s2_subtract, Const(0, 3), s2_big, Const(0, 1), s2_exponent)
            + Cat(s2_subtract, aligned ^ s2_subtract.replicate(_KEPT), s2_subtract, s2_subtract, ~s2_subtract))
        with m.If(self.en):
            m.d.sync += [
                s3_sum.eq(both[1:1 + _KEPT + 1]), s3_exponent.eq(both[2 + _KEPT:]),
                s3_sign.eq(s2_sign), s3_subtract.eq(s2_subtract), s3_nan.eq(s2_nan),
            ]

        # Stage 4: all but the last place of moving up.
        moved, octets = step_shift(m, s3_sum, 8)
        moved, pairs = step_shift(m, moved, 2)
        s4_sum, s4_exponent = register("s4_sum", _KEPT + 1), register("s4_exponent", 9)
        s4_up, s4_sign, s4_subtract, s4_nan = (
            register(f"s4_{n}", w) for n, w in (("up", 4), ("sign", 1), ("subtract", 1), ("nan", 1)))
        with m.If(self.en):
            m.d.sync += [
                s4_sum.eq(moved), s4_up.eq(Cat(pairs, octets)), s4_exponent.eq(s3_exponent),
                s4_sign.eq(s3_sign), s4_subtract.eq(s3_subtract), s4_nan.eq(s3_nan),
            ]

        # Stage 5: the last place, round. exponent + 2 - 2 - 2 * pairs moved, and 1 more where none is left.
        up = s4_sum[-1]
        exponent = Signal(10)
        m.d.comb += exponent.eq(s4_exponent + Cat(up, ~s4_up, Const(0b11111, 5)))
        zero = ~s4_sum[-2:].any()
        none = zero | exponent[-1] | (exponent[:9] == 0)
        increment = Mux(up, round_up(s4_sum[4], s4_sum[3], s4_sum[:3].any()), round_up(s4_sum[3], s4_sum[2], s4_sum[:2].any()))
        mantissa = Mux(up, s4_sum[4:27], s4_sum[3:26])
        rounded = (Cat(mantissa, exponent[:8]) + increment)[:31]
        no_mantissa = none | exponent[:8].all()
        s5_mantissa, s5_quiet = register("s5_mantissa", 22), register("s5_quiet")
        s5_exponent, s5_sign = register("s5_exponent", 8), register("s5_sign")
        with m.If(self.en):
            m.d.sync += [
                s5_mantissa.eq(Mux(no_mantissa, 0, rounded[:22])),
                s5_quiet.eq((rounded[22] & ~no_mantissa) | s4_nan),
                s5_exponent.eq(Mux(none, 0, rounded[23:])),
                s5_sign.eq(s4_sign & ~(s4_nan | (zero & s4_subtract))),
            ]
        m.d.comb += self.o.eq(Cat(s5_mantissa, s5_quiet, s5_exponent, s5_sign))
        return m
