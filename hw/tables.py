"""Coefficients of the function unit and of the soft-cap: words, made of exact arithmetic, the same on every machine.

Every function is cut into segments. Inside one, with v in [-1/2, +1/2] the distance from the
segment's centre in segment widths,

    f = c0 + v (c1 + v c2)

is the parabola through f at both ends and the centre, so that neighbours meet and powers of two come
out exact. All three coefficients are integers in units of 2**-TABLE_FRAC_BITS. One table of
TABLE_WORDS words holds all:

    words        function   argument of segment s                       segments
       0..127    exp2       x = s/128 ..           in [0, 1)            128
     128..255    recip      x = 1 + s/128 ..       in [1, 2)            128
     256..383    rsqrt      x = 1 + s/128 ..       in [1, 2)            128
     384..511    rsqrt      x = 2 + s/64 ..        in [2, 4)            128
     512..1023   sigmoid    x = s/32 ..            in [0, 16)           512

The table of the soft-cap is one of its own, in units of 2**-TANH_FRAC_BITS:

    words        function   argument of segment s                       segments
       0..63     tanh       x = s/32 ..           in [0, 2)            64
      64..95     tanh       x = 2 + s/16 ..       in [2, 4)            32
      96..111    tanh       x = 4 + s/4 ..        in [4, 8)            16

Only integers, ``fractions`` and ``decimal`` (50 digits) are used; no floating point, no libm.
"""

import functools
from decimal import Decimal, localcontext
from fractions import Fraction

from amaranth.hdl import signed, unsigned
from amaranth.lib import data, enum

__all__ = ["FuncOp", "FuncWord", "TABLE_WORDS", "TABLE_FRAC_BITS", "SEGMENT_LOG2", "OFFSET_BITS",
           "EXP2_BASE", "RECIP_BASE", "RSQRT_BASE", "SIGMOID_BASE", "EXP2_FIX_FRAC_BITS",
           "EXP2_FIX_MANTISSA_BITS", "TANH_FRAC_BITS", "TANH_ARGUMENT_BITS", "func_table", "tanh_table"]


class FuncOp(enum.Enum, shape=unsigned(2)):
    """Functions of the function unit."""
    EXP2 = 0
    RECIP = 1
    RSQRT = 2
    SIGMOID = 3


TABLE_FRAC_BITS = 28    # unit of all coefficients: 2**-28
SEGMENT_LOG2 = 7        # 128 segments where the argument is a fraction
OFFSET_BITS = 17        # v = offset / 2**17, offset in -2**16..+2**16

EXP2_BASE = 0
RECIP_BASE = 128
RSQRT_BASE = 256        # + 128 where the unbiased exponent is odd
SIGMOID_BASE = 512
TABLE_WORDS = 1024

EXP2_FIX_FRAC_BITS = 16
EXP2_FIX_MANTISSA_BITS = 16

TANH_FRAC_BITS = 24     # unit of its coefficients: 2**-24
TANH_ARGUMENT_BITS = 22     # fraction bits of its argument


class FuncWord(data.Struct):
    """One segment: c0 in (0, 2), c1 and c2 signed, all in units of 2**-28. 69 of a memory word's 72 bits."""
    c0: unsigned(29)
    c1: signed(24)
    c2: signed(16)


_DIGITS = 50


def _exp2(x):
    return (Decimal(2).ln() * x).exp()


def _recip(x):
    return 1 / x


def _rsqrt(x):
    return 1 / x.sqrt()


def _sigmoid(x):
    return 1 / (1 + (-x).exp())


def _tanh(x):
    return 1 - 2 / (1 + (2 * x).exp())


_PIECES = (     # function, first argument, width of a segment, segments
    (_exp2, Fraction(0), Fraction(1, 128), 128),
    (_recip, Fraction(1), Fraction(1, 128), 128),
    (_rsqrt, Fraction(1), Fraction(1, 128), 128),
    (_rsqrt, Fraction(2), Fraction(1, 64), 128),
    (_sigmoid, Fraction(0), Fraction(1, 32), 512),
)
_TANH_PIECES = (
    (_tanh, Fraction(0), Fraction(1, 32), 64),
    (_tanh, Fraction(2), Fraction(1, 16), 32),
    (_tanh, Fraction(4), Fraction(1, 4), 16),
)


def _evaluate(function, x):
    """Value of a function at an exact argument, to 50 digits, as a Fraction."""
    return Fraction(function(Decimal(x.numerator) / Decimal(x.denominator)))


def _parabola(function, centre, width, frac_bits):
    """(c0, c1, c2) of one segment, rounded to the unit."""
    low, mid, high = (_evaluate(function, centre + side * width / 2) for side in (-1, 0, 1))
    return tuple(round(c * (1 << frac_bits)) for c in (mid, high - low, 2 * (low + high - 2 * mid)))


def _words(pieces, frac_bits):
    with localcontext() as context:
        context.prec = _DIGITS
        return tuple(_parabola(function, start + width * segment + width / 2, width, frac_bits)
                     for function, start, width, segments in pieces for segment in range(segments))


@functools.cache
def func_table():
    """The table: a tuple of TABLE_WORDS tuples (c0, c1, c2) of integers, ``FuncWord``'s fields."""
    words = _words(_PIECES, TABLE_FRAC_BITS)
    for c0, c1, c2 in words:
        assert 0 < c0 < 1 << 29 and abs(c1) < 1 << 23 and abs(c2) < 1 << 15
    return words


@functools.cache
def tanh_table():
    """The table of the soft-cap: a tuple of tuples (c0, c1, c2) of integers, c0 and c1 positive, c2 negative."""
    words = _words(_TANH_PIECES, TANH_FRAC_BITS)
    for c0, c1, c2 in words:
        assert 0 < c0 < 1 << 24 and 0 < c1 < 1 << 19 and -1 << 13 <= c2 < 0
    return words
