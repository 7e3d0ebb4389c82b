"""Binary32 product.  o = a * b, round to nearest even, subnormals flushed.

::

    a -->| 24 x 17 and 24 x 7 |-->| their sum,        |-->| one place, |--> o
    b -->| exponents, kinds   |   | what is out range |   | round      |

The exponent says zero and infinity by itself: a product that is neither has significand 0 there, and the round carries
into nothing. The two products and their sum are DSP blocks. One product a cycle, latency 3 enabled edges. Golden: ``f32.mul``.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import F32
from .bits import round_up

__all__ = ["FMul"]

_LOW_BITS = 17      # of b in the first product: what a DSP block multiplies unsigned


class FMul(wiring.Component):
    """o = a * b.

    Members
    -------
    a, b : In(F32)
    o : Out(F32)
    en : In(1)
        Clock enable of every register.
    """

    LATENCY = 3

    a: In(F32)
    b: In(F32)
    o: Out(F32)
    en: In(1)

    def elaborate(self, platform):
        m = Module()

        def flag(name):
            return Signal(name=name, reset_less=True)

        # Stage 1: products of parts. Exponent e = e_a + e_b - 127 in -127..383; -1 where a factor is 0, 255 where one
        # has the top exponent, so that only these two and the numbers remain.
        a_zero, b_zero = self.a.exponent == 0, self.b.exponent == 0
        a_top, b_top = self.a.exponent == 0xFF, self.b.exponent == 0xFF
        a_nan = a_top & self.a.mantissa.any()
        b_nan = b_top & self.b.mantissa.any()
        zero, top = a_zero | b_zero, a_top | b_top
        more = (Cat(Const(1, 1), self.a.exponent) + Cat(Const(1, 1), self.b.exponent))[1:]      # e + 128
        a_significand, b_significand = Cat(self.a.mantissa, 1), Cat(self.b.mantissa, 1)
        s1_low, s1_high = Signal(24 + _LOW_BITS, reset_less=True), Signal(48 - _LOW_BITS, reset_less=True)
        s1_exponent = Signal(signed(10), reset_less=True)
        s1_sign, s1_nan = flag("s1_sign"), flag("s1_nan")
        with m.If(self.en):
            m.d.sync += [
                s1_low.eq(a_significand * b_significand[:_LOW_BITS]),
                s1_high.eq(a_significand * b_significand[_LOW_BITS:]),
                s1_sign.eq(self.a.sign ^ self.b.sign),
                s1_nan.eq(a_nan | b_nan | (top & zero)),
            ]
            with m.If(zero | top):
                m.d.sync += s1_exponent.eq(Cat(Const(0xFF, 8), (zero & ~top).replicate(2)))
            with m.Else():
                m.d.sync += s1_exponent.eq(Cat(more[:7], more[7:10] - 1))

        # Stage 2: the sum of the products, 0 where the result is 0 whatever the round.
        s2_exponent = Signal(9, reset_less=True)
        s2_product = Signal(48 - _LOW_BITS, reset_less=True)
        s2_sticky, s2_sign, s2_nan, s2_least, s2_most, s2_over = (
            flag(f"s2_{n}") for n in ("sticky", "sign", "nan", "least", "most", "over"))
        total = Signal(48 - _LOW_BITS, attrs={"use_dsp": "yes"})
        m.d.comb += total.eq(s1_high + s1_low[_LOW_BITS:])
        with m.If(self.en):
            m.d.sync += [
                s2_product.eq(total), s2_exponent.eq(s1_exponent),
                s2_sticky.eq(s1_low[:_LOW_BITS].any()),
                s2_sign.eq(s1_sign), s2_nan.eq(s1_nan),
                s2_least.eq(s1_exponent == 0), s2_most.eq(s1_exponent == 254),
                s2_over.eq(s1_exponent >= 255),
            ]
            with m.If(s1_exponent[-1]):
                m.d.sync += [s2_product.eq(0), s2_exponent.eq(0), s2_sticky.eq(0)]

        # Stage 3: one place, round. A product of 2 or more never rounds up to 4. Below 2**-126 only what rounds up to it counts.
        product = Cat(Const(0, _LOW_BITS), s2_product)
        up = product[47]
        sticky = product[_LOW_BITS:22].any() | s2_sticky
        increment = Mux(up, round_up(product[24], product[23], product[22] | sticky), round_up(product[23], product[22], sticky))
        mantissa = Mux(up, product[24:47], product[23:46])
        rounded = (Cat(mantissa, s2_exponent[:8]) + Cat(increment, Const(0, 22), up))[:31]
        no_mantissa = s2_over | (s2_most & up) | (s2_least & ~up & ~product[22:47].all())
        s3_mantissa, s3_quiet = Signal(22, reset_less=True), flag("s3_quiet")
        s3_exponent, s3_sign = Signal(8, reset_less=True), flag("s3_sign")
        with m.If(self.en):
            m.d.sync += [
                s3_mantissa.eq(Mux(no_mantissa, 0, rounded[:22])),
                s3_quiet.eq((rounded[22] & ~no_mantissa) | s2_nan),
                s3_exponent.eq(Mux(s2_over, 0xFF, rounded[23:])),
                s3_sign.eq(s2_sign & ~s2_nan),
            ]
        m.d.comb += self.o.eq(Cat(s3_mantissa, s3_quiet, s3_exponent, s3_sign))
        return m
