"""The parameter words of a row of NORM made ready for the multipliers, once for all lanes.

The shift of an affine map is constant, but not the same for all descriptors. Instead of M results, the parameters are shifted, the
other way: with k = 20 - shift, (v mult + bias) >> shift = (v (mult << k) + (bias << k)) >> 20. A product of 18 bits leaves 9 of
the 27 bits of a multiplier free, so shift is 12 .. 20.

::

    word --> << k mod 4 --> << k - k mod 4, clamp bias --> mult --> bias a cycle later
             level --> -level, where a threshold is asked for: (v 1 - level) >= 0

``bias`` is clamped to 47 bits: beyond them every result is beyond 18 bits, before and after.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .isa import NORM_SHIFTS, AffineParam, ThresholdParam
from .norm_scale import saturated

__all__ = ["BIAS_BITS", "MULT_BITS", "TAKEN_FROM", "NormParams"]

TAKEN_FROM = NORM_SHIFTS[-1]    # the bit of a sum that is bit 0 of the result
_MORE = TAKEN_FROM - NORM_SHIFTS[0]
MULT_BITS, BIAS_BITS = 18 + _MORE, 47


class NormParams(wiring.Component):
    """One of the two words of a row.

    Members
    -------
    word : In(64)
        AffineParam, or with ``threshold`` ThresholdParam.
    shift, threshold : In
        Of the descriptor; constant.
    mult : Out
        Two cycles after the word.
    bias : Out
        Three cycles after it.
    flip : Out
        Four cycles after it.
    """

    LATENCY = 2

    word: In(64)
    shift: In(6)
    threshold: In(1)
    mult: Out(signed(MULT_BITS))
    bias: Out(signed(BIAS_BITS))
    flip: Out(1)

    def elaborate(self, platform):
        m = Module()
        affine, bit = AffineParam(self.word), ThresholdParam(self.word)
        more = Signal(range(_MORE + 1))
        m.d.comb += more.eq(Mux(self.threshold, 0, TAKEN_FROM - self.shift))

        s1_mult, s1_bias = Signal(signed(18 + 3), reset_less=True), Signal(signed(46 + 3), reset_less=True)
        m.d.sync += [
            s1_mult.eq(Mux(self.threshold, 1, affine.mult << more[:2])),
            s1_bias.eq(Mux(self.threshold, -bit.level, affine.bias << more[:2])),
        ]
        fours = Cat(Const(0, 2), more[2:])
        s2_mult, s2_bias = Signal.like(self.mult, reset_less=True), Signal.like(self.bias, reset_less=True)
        s3_bias = Signal.like(self.bias, reset_less=True)
        flips = Signal(4, reset_less=True)
        m.d.sync += [
            s2_mult.eq(s1_mult << fours), s2_bias.eq(saturated(s1_bias << fours, BIAS_BITS)), s3_bias.eq(s2_bias),
            flips.eq(Cat(bit.flip, flips)),
        ]
        m.d.comb += [self.mult.eq(s2_mult), self.bias.eq(s3_bias), self.flip.eq(flips[-1])]
        return m
