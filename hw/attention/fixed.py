"""Binary32 to fixed point: o = i * 2**16, or i * 2**22, round half to even, saturated to +-2**30, NaN to 0.

::

    i --> distance, kinds --> significand >> distance, guard, sticky --> round, negate --> o

One result a cycle, latency 3. Golden: ``f32.to_int`` of i * 65536 (of i * 2**22) with these limits.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import F32, F32_BIAS
from ..tables import EXP2_FIX_FRAC_BITS, TANH_ARGUMENT_BITS

__all__ = ["ToFixed"]

_LIMIT_LOG2 = 30
# Largest exponents that do not saturate.
_TOP, _FINE_TOP = (F32_BIAS + _LIMIT_LOG2 - frac_bits - 1 for frac_bits in (EXP2_FIX_FRAC_BITS, TANH_ARGUMENT_BITS))


class ToFixed(wiring.Component):
    """The argument of exp2, or that of tanh.

    Members
    -------
    i : In(F32)
    fine : In(1)
    o : Out(signed(32)), units of 2**-16, or of 2**-22 with fine
    """

    LATENCY = 3

    i: In(F32)
    fine: In(1)
    o: Out(signed(32))

    def elaborate(self, platform):
        m = Module()
        # The significand at its highest place is 30 bits; below it lie the bits that a shift by up to 31 drops.
        nan = (self.i.exponent == 0xFF) & self.i.mantissa.any()
        s1_distance, s1_significand = Signal(5, reset_less=True), Signal(24, reset_less=True)
        s1_sign, s1_large = Signal(reset_less=True), Signal(reset_less=True)
        distance = Signal(signed(10))
        m.d.comb += distance.eq(Mux(self.fine, _FINE_TOP, _TOP) - self.i.exponent)
        m.d.sync += [
            s1_distance.eq(distance[:5]),
            s1_significand.eq(Mux((distance >= 32) | nan, 0, Cat(self.i.mantissa, 1))),
            s1_sign.eq(self.i.sign),
            s1_large.eq((distance < 0) & ~nan),
        ]

        shifted = Signal(_LIMIT_LOG2 + 31)
        m.d.comb += shifted.eq(Cat(Const(0, _LIMIT_LOG2 - 24 + 31), s1_significand) >> s1_distance)
        s2_whole, s2_guard, s2_sticky = (Signal(n, reset_less=True) for n in (_LIMIT_LOG2, 1, 1))
        s2_sign, s2_large = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [s2_whole.eq(shifted[31:]), s2_guard.eq(shifted[30]), s2_sticky.eq(shifted[:30].any()),
                     s2_sign.eq(s1_sign), s2_large.eq(s1_large)]

        # -(x + up) = ~x + (1 - up).
        up = s2_guard & (s2_sticky | s2_whole[0])
        magnitude = Mux(s2_large, Const(1 << _LIMIT_LOG2, 32), s2_whole)
        m.d.sync += self.o.eq(Mux(s2_sign, ~magnitude, magnitude) + ((up & ~s2_large) ^ s2_sign))
        return m
