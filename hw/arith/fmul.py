"""Binary32 product.  o = a * b, round to nearest even, subnormals flushed.

::

    a -->| 24 x 24 product  |-->| register that the |-->| one place, round, |--> o
    b -->| exponents, kinds |   | DSP blocks take   |   | pack              |

One product a cycle, latency 3 enabled edges. Golden: ``f32.mul``.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import F32, F32_BIAS, F32_NAN
from .bits import pack, round_up

__all__ = ["FMul"]


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

        a_zero, b_zero = self.a.exponent == 0, self.b.exponent == 0
        a_top, b_top = self.a.exponent == 0xFF, self.b.exponent == 0xFF
        a_nan = a_top & self.a.mantissa.any()
        b_nan = b_top & self.b.mantissa.any()

        s1_product = Signal(48, reset_less=True)
        s1_exponent = Signal(signed(10), reset_less=True)
        s1_sign, s1_zero, s1_inf, s1_nan = (Signal(reset_less=True, name=f"s1_{n}")
                                            for n in ("sign", "zero", "inf", "nan"))
        s2_product = Signal(48, reset_less=True)
        s2_exponent = Signal(signed(10), reset_less=True)       # where the product is under 2
        s2_exponent_up = Signal(signed(10), reset_less=True)    # where it is 2 or more
        s2_sign, s2_zero, s2_inf, s2_nan = (Signal(reset_less=True, name=f"s2_{n}")
                                            for n in ("sign", "zero", "inf", "nan"))
        s3_bits = Signal(32, reset_less=True)

        with m.If(self.en):
            m.d.sync += [
                s1_product.eq(Cat(self.a.mantissa, 1) * Cat(self.b.mantissa, 1)),
                s1_exponent.eq(self.a.exponent + self.b.exponent - F32_BIAS),
                s1_sign.eq(self.a.sign ^ self.b.sign),
                s1_zero.eq(a_zero | b_zero),
                s1_inf.eq(a_top | b_top),
                s1_nan.eq(a_nan | b_nan | (a_top & b_zero) | (a_zero & b_top)),

                s2_product.eq(s1_product),
                s2_exponent.eq(s1_exponent),
                s2_exponent_up.eq(s1_exponent + 1),
                s2_sign.eq(s1_sign),
                s2_zero.eq(s1_zero),
                s2_inf.eq(s1_inf),
                s2_nan.eq(s1_nan),
            ]

        up = s2_product[47]
        mantissa, guard = Signal(23), Signal()
        sticky = s2_product[:22].any() | (up & s2_product[22])
        m.d.comb += [
            mantissa.eq(Mux(up, s2_product[24:47], s2_product[23:46])),
            guard.eq(Mux(up, s2_product[23], s2_product[22])),
        ]
        rounded = pack(s2_sign, Mux(up, s2_exponent_up, s2_exponent), mantissa,
                       round_up(mantissa[0], guard, sticky))
        with m.If(self.en):
            with m.If(s2_nan):
                m.d.sync += s3_bits.eq(F32_NAN)
            with m.Elif(s2_inf | s2_zero):
                m.d.sync += s3_bits.eq(Cat(Const(0, 23), Mux(s2_inf, Const(0xFF, 8), 0), s2_sign))
            with m.Else():
                m.d.sync += s3_bits.eq(rounded)
        m.d.comb += self.o.eq(s3_bits)
        return m
