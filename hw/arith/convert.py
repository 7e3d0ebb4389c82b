"""Integers to binary32 and back.

``FromInt``: o = float(i), round to nearest even. ``ToInt``: o = clamp(round_half_even(i)), NaN to 0.

::

    FromInt  i --> ones' complement, shift left in steps --> round (and add the 1), pack --> o
    ToInt    i --> shift right, guard and sticky bits --> round, negate, clamp --> o

A negative integer is negated in the second stage only: its complement is shifted left and filled
with ones, so that the 1 still missing is added below the last bit and meets the rounding there.
One result a cycle, latency 2 enabled edges. Golden: ``f32.from_int``, ``f32.to_int``.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import F32, F32_BIAS
from .bits import round_up, step_shift

__all__ = ["FromInt", "ToInt"]


class FromInt(wiring.Component):
    """Signed integer to binary32.

    Parameters
    ----------
    width : int
        Bits of the integer, 2 to 48.

    Members
    -------
    i : In(signed(width))
    o : Out(F32)
    en : In(1)
        Clock enable of every register.
    """

    LATENCY = 2

    def __init__(self, *, width=32):
        if not isinstance(width, int) or not 2 <= width <= 48:
            raise ValueError(f"The width of FromInt must be an integer in 2..48, not {width!r}")
        self._width = width
        super().__init__({"i": In(signed(width)), "o": Out(F32), "en": In(1)})

    def elaborate(self, platform):
        m = Module()
        width, kept = self._width, max(self._width, 27)
        places = 32 if width <= 32 else 64

        # The magnitude, less 1 where negative; left-aligned, the places below like the sign. Moved up in steps of a
        # fourth of what may be missing.
        sign = self.i[-1]
        ones = Cat(sign.replicate(places - width + 1), (self.i ^ sign.replicate(width))[:width - 1])
        zeros, step = [], places // 4
        while step:
            ones, steps = step_shift(m, ones, step, below=sign)
            zeros.insert(0, steps)
            step //= 4
        if places == 32:
            zeros.insert(0, ~ones[-1])
            ones = Mux(ones[-1], ones, Cat(sign, ones[:-1]))
        s1_ones = Signal(kept, reset_less=True)
        s1_exponent = Signal(8, reset_less=True)
        s1_sign = Signal(reset_less=True)
        with m.If(self.en):
            m.d.sync += [
                s1_ones.eq(ones[-kept:]),
                s1_exponent.eq(F32_BIAS + width - 2 - Cat(zeros)),
                s1_sign.eq(sign),
            ]

        mantissa, guard, rest = s1_ones[-24:-1], s1_ones[-25], s1_ones[:-25]
        up = Mux(s1_sign,
                 Mux(rest.all(), guard | mantissa[0], guard),
                 round_up(mantissa[0], guard, rest.any()))
        s2_bits = Signal(32, reset_less=True)
        with m.If(self.en):
            m.d.sync += s2_bits.eq(Mux(s1_ones[-1], Cat((Cat(mantissa, s1_exponent) + up)[:31], s1_sign), 0))
        m.d.comb += self.o.eq(s2_bits)
        return m


class ToInt(wiring.Component):
    """Binary32 to signed integer: round half to even, clamp to the width; NaN gives 0.

    Parameters
    ----------
    width : int
        Bits of the integer, 2 to 27.

    Members
    -------
    i : In(F32)
    o : Out(signed(width))
    en : In(1)
        Clock enable of every register.
    """

    LATENCY = 2

    def __init__(self, *, width=8):
        if not isinstance(width, int) or not 2 <= width <= 27:
            raise ValueError(f"The width of ToInt must be an integer in 2..27, not {width!r}")
        self._width = width
        super().__init__({"i": In(F32), "o": Out(signed(width)), "en": In(1)})

    def elaborate(self, platform):
        m = Module()
        width = self._width

        # Shifted by 0 where |x| >= 2**(width - 1), by width where 1/2 <= |x| < 1: then the leading
        # one is the guard bit, just below the whole bits. Smaller numbers round to 0.
        distance = F32_BIAS - 1 + width - self.i.exponent
        shifted = Signal(width + 25)
        m.d.comb += shifted.eq(Cat(Const(0, width + 1), self.i.mantissa, 1) >> distance[:width.bit_length()])
        nan = (self.i.exponent == 0xFF) & self.i.mantissa.any()
        large, small = (distance < 0) & ~nan, (distance > width) | nan

        s1_whole = Signal(width, reset_less=True)
        s1_guard, s1_sticky, s1_large, s1_sign = (
            Signal(reset_less=True, name=f"s1_{n}") for n in ("guard", "sticky", "large", "sign"))
        with m.If(self.en):
            m.d.sync += [
                s1_whole.eq(Mux(small, 0, shifted[25:])),
                s1_guard.eq(shifted[24] & ~small),
                s1_sticky.eq(shifted[:24].any()),
                s1_large.eq(large),
                s1_sign.eq(self.i.sign),
            ]

        magnitude = Signal(width + 1)
        m.d.comb += magnitude.eq(s1_whole + round_up(s1_whole[0], s1_guard, s1_sticky))
        limit = 1 << (width - 1)
        s2_o = Signal(signed(width), reset_less=True)
        with m.If(self.en):
            with m.If(s1_large | (magnitude >= limit)):
                m.d.sync += s2_o.eq(Mux(s1_sign, -limit, limit - 1))
            with m.Else():
                m.d.sync += s2_o.eq(Mux(s1_sign, -magnitude, magnitude))
        m.d.comb += self.o.eq(s2_o)
        return m
