"""exp2, reciprocal, reciprocal square root, sigmoid and the soft-cap, by table and parabola, in integers.

The coefficients are the words of ``celosia.hw.tables``; everything else is written here in torch
int64, so that the gates have a witness. With offset an integer in -2**16..2**16 (v = offset / 2**17):

    r = c0 + ((c1 + ((c2 * offset) >> 17)) * offset >> 17)          unit 2**-28, >> rounds down

and r, scaled by a power of two, is rounded to 24 bits, half up. Shapes: any, elementwise.

    function   argument x                                       result
    exp2       |x| cut to a multiple of 2**-24 (towards 0)      relative error <= 2**-22
    recip      exact                                            relative error <= 2**-22
    rsqrt      exact                                            relative error <= 2**-22
    sigmoid    |x| cut to a multiple of 2**-22 (towards 0)      absolute error <= 2**-22

Subnormal inputs count as zero, results under 2**-126 become zero, every NaN is 0x7FC00000.

    exp2       x >= 128: +inf;  x < -126: +0;  0: 1
    recip      +-0: +-inf;  +-inf: +-0;  |x| over 2**126: +-0
    rsqrt      +-0: +-inf;  +inf: +0;  x < 0: NaN
    sigmoid    x >= 16: 1;  x <= -16: +0;  0: 1/2
"""

import functools

import torch

from celosia.gen.golden import f32
from celosia.hw.formats import F32_INF, F32_NAN, F32_ONE
from celosia.hw.tables import (
    EXP2_BASE,
    EXP2_FIX_FRAC_BITS,
    RECIP_BASE,
    RSQRT_BASE,
    SIGMOID_BASE,
    TANH_ARGUMENT_BITS,
    TANH_FRAC_BITS,
    func_table,
    tanh_table,
)

__all__ = ["exp2", "recip", "rsqrt", "sigmoid", "exp2_fix", "soft_cap"]


@functools.cache
def _table():
    return torch.tensor(func_table(), dtype=torch.int64)    # (words, 3)


def _fields(x):
    """sign, exponent, mantissa without the hidden bit: int64."""
    assert x.dtype == torch.float32, f"functions take float32 tensors, not {x.dtype}"
    bits = f32.to_bits(x)
    return bits >> 31, bits >> 23 & 0xFF, bits & 0x7F_FFFF


@functools.cache
def _tanh_table():
    return torch.tensor(tanh_table(), dtype=torch.int64)


def _parabola(word, offset, table=None):
    """Value in units of the table's coefficients; by default those of the function unit."""
    c0, c1, c2 = (_table() if table is None else table)[word].unbind(-1)
    slope = c1 + (c2 * offset >> 17)
    return c0 + (slope * offset >> 17)


def _pack(sign, value, exponent):
    """Bits of (-1)**sign * value * 2**(exponent - 28): 24 significant bits, rounded half up.

    value in 0..2**30-1; zero where value is 0 or the result is under 2**-126.
    """
    top = torch.floor(torch.log2(value.clamp(min=1).to(torch.float64))).to(torch.int64)
    significand = (value << (30 - top)) + (1 << 6) >> 7     # 2**23 .. 2**24
    biased = exponent + top - 28 + 127 + (significand >> 24)
    bits = (biased << 23) + (significand & 0x7F_FFFF) * (significand < 1 << 24)
    zero = (value == 0) | (biased <= 0)
    return (sign << 31) + torch.where(zero, torch.zeros_like(bits), bits)


def _result(bits, *cases):
    """float32 of bits, where each (condition, bits) of cases overrides all before it."""
    for condition, other in cases:
        bits = torch.where(condition, torch.as_tensor(other), bits)
    return f32.from_bits(bits)


def _magnitude(exponent, mantissa, top_exponent, frac_bits):
    """|x| cut to frac_bits fraction bits, for exponents up to top_exponent."""
    shift = (127 + 23 - frac_bits - exponent).clamp(max=62)
    whole = mantissa + (1 << 23)
    left = (-shift).clamp(0, top_exponent - (127 + 23 - frac_bits))
    return torch.where(shift >= 0, whole >> shift.clamp(min=0), whole << left)


def exp2(x):
    """2**x."""
    sign, exponent, mantissa = _fields(x)
    fixed = _magnitude(exponent, mantissa, 133, 24)         # 31 bits where |x| < 128
    ones = torch.where(sign == 1, ~fixed, fixed)
    floor, segment = ones >> 24, ones >> 17 & 0x7F
    offset = (ones & 0x1_FFFF) - (1 << 16) + sign           # -fixed = ~fixed + 1, the 1 added here
    bits = _pack(0 * sign, _parabola(EXP2_BASE + segment, offset), floor)
    large = exponent > 133
    return _result(bits, (exponent == 0, F32_ONE), (large & (sign == 0), F32_INF),
                   ((sign == 1) & (large | (fixed > 126 << 24)), 0),
                   ((exponent == 255) & (mantissa != 0), F32_NAN))


def recip(x):
    """1 / x."""
    sign, exponent, mantissa = _fields(x)
    offset = ((mantissa & 0xFFFF) << 1) - (1 << 16)
    bits = _pack(sign, _parabola(RECIP_BASE + (mantissa >> 16), offset), 127 - exponent)
    return _result(bits, (exponent == 0, (sign << 31) + F32_INF), (exponent == 255, sign << 31),
                   ((exponent == 255) & (mantissa != 0), F32_NAN))


def rsqrt(x):
    """1 / sqrt(x)."""
    sign, exponent, mantissa = _fields(x)
    odd = 1 - (exponent & 1)                                # of the unbiased exponent
    offset = ((mantissa & 0xFFFF) << 1) - (1 << 16)
    value = _parabola(RSQRT_BASE + (odd << 7) + (mantissa >> 16), offset)
    bits = _pack(0 * sign, value, -(exponent - 127 >> 1))
    return _result(bits, (exponent == 255, 0), (sign == 1, F32_NAN),
                   (exponent == 0, (sign << 31) + F32_INF),
                   ((exponent == 255) & (mantissa != 0), F32_NAN))


def sigmoid(x):
    """1 / (1 + e**-x)."""
    sign, exponent, mantissa = _fields(x)
    fixed = _magnitude(exponent, mantissa, 130, 22)         # 26 bits where |x| < 16
    offset = (fixed & 0x1_FFFF) - (1 << 16)
    value = _parabola(SIGMOID_BASE + (fixed >> 17 & 0x1FF), offset)
    bits = _pack(0 * sign, torch.where(sign == 1, (1 << 28) - value, value), 0 * exponent)
    return _result(bits, (exponent > 130, torch.where(sign == 1, 0, F32_ONE)),
                   ((exponent == 255) & (mantissa != 0), F32_NAN))


def exp2_fix(z):
    """2**z of fixed-point z, an integer in units of 2**-16: (mantissa, exponent), int64 both.

    mantissa in 2**15..2**16-1, exponent = floor(z), 2**z ~ mantissa * 2**(exponent - 15), within
    one unit of the mantissa. The straight line through the centre of the table's segment:
    with offset in -2**8..2**8-1, unit 2**-20, ((c0 >> 8) + ((c1 >> 8) * offset >> 9)), rounded half up.
    """
    z = torch.as_tensor(z)
    assert not z.dtype.is_floating_point, f"exp2_fix takes integers, not {z.dtype}"
    z = z.to(torch.int64)
    fraction = z & (1 << EXP2_FIX_FRAC_BITS) - 1
    c0, c1, _ = _table()[EXP2_BASE + (fraction >> 9)].unbind(-1)
    value = (c0 >> 8) + ((c1 >> 8) * ((fraction & 0x1FF) - 256) >> 9)
    return value + (1 << 4) >> 5, z >> EXP2_FIX_FRAC_BITS


def soft_cap(u, cap):
    """cap * tanh(u): u integers in units of 2**-22, cap and result in units of 2**-16, cap in 0..2**30-1; int64.

    |u| is cut to just below 8, and of a negative u it is the ones' complement. The result is rounded half away from zero, within
    half a unit and cap * 2**-20 of cap * tanh(u).
    """
    u = torch.as_tensor(u)
    assert not u.dtype.is_floating_point, f"soft_cap takes integers, not {u.dtype}"
    magnitude = torch.where(u < 0, ~u, u).to(torch.int64).clamp(max=(8 << TANH_ARGUMENT_BITS) - 1)
    value = torch.zeros_like(magnitude)
    for start, drop, base, segments in ((0, 0, 0, 64), (2, 1, 64, 32), (4, 3, 96, 16)):     # a segment is 2**17 << drop wide
        place = magnitude - (start << TANH_ARGUMENT_BITS) >> drop
        inside = place.clamp(0, (segments << 17) - 1)
        part = _parabola(base + (inside >> 17), (inside & 0x1_FFFF) - (1 << 16), _tanh_table())
        value = torch.where(place >= 0, part, value)
    capped = (value * cap >> TANH_FRAC_BITS - 1) + 1 >> 1
    return torch.where(u < 0, -capped, capped)
