"""Exact folds: what floats say about an integer, in the integers that the machine compares and multiplies with.

    Threshold   [scale v + offset >= bound]  for every integer v          = (v >= level) ^ flip
    Affine      round(scale v + offset), half up, for |v| < 2**26         = (v mult + bias) >> shift, as near as 18 bits come
    Tables      softmax(factor s)_j > bound, s = 2 c - D                  T[c] = round(2**27 e**(factor (2 c - D) - largest)),
                                                                          U[c] = (T[c] / bound) >> 8, both rounded down

Scales, offsets and bounds are sequences of numbers, taken exactly as fractions; a row each.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from celosia.hw.binary.isa import SHIFTS

__all__ = ["Affine", "Tables", "Threshold", "fold_affine", "fold_tables", "fold_threshold"]

_MULT_BITS, _BIAS_BITS, _LEVEL_BITS = 18, 46, 32
_WEIGHT_LOG2, _BOUND_SHIFT = 27, 8


@dataclass(frozen=True)
class Threshold:
    """int64 (n,) both: a bit of row n is (v >= level) ^ flip."""
    level: np.ndarray
    flip: np.ndarray

    def words(self):
        """int64 (n,): the bits of ThresholdParam."""
        return self.level & 0xFFFF_FFFF | self.flip << _LEVEL_BITS


@dataclass(frozen=True)
class Affine:
    """int64 (n,): row n becomes (v mult + bias) >> shift, clamped to low .. high where that is asked for."""
    mult: np.ndarray
    bias: np.ndarray
    shift: int
    low: int = 0
    high: int = 0

    def words(self):
        """int64 (n,): the bits of AffineParam."""
        return self.mult & (1 << _MULT_BITS) - 1 | self.bias << _MULT_BITS


@dataclass(frozen=True)
class Tables:
    """int64 (heads, D + 1): weight of an index, and what the sum of the weights must be below for that index to be set."""
    weight: np.ndarray
    bound: np.ndarray

    def words(self):
        """int64 (heads, D + 1): the bits of TableParam."""
        return (self.weight.astype(np.uint64) | self.bound.astype(np.uint64) << np.uint64(32)).view(np.int64)


def fold_threshold(scale, offset, bound):
    """:class:`Threshold` of [scale v + offset >= bound]; on a scale of zero it is always or never."""
    levels, flips = [], []
    least, most = -(1 << _LEVEL_BITS - 1), (1 << _LEVEL_BITS - 1) - 1
    for s, o, b in zip(_fractions(scale), _fractions(offset), _fractions(bound), strict=True):
        if s > 0:
            level, flip = math.ceil((b - o) / s), 0
        elif s < 0:
            level, flip = math.floor((b - o) / s) + 1, 1
        else:
            level, flip = least, int(o < b)
        levels.append(min(max(level, least), most))
        flips.append(flip)
    return Threshold(np.array(levels, np.int64), np.array(flips, np.int64))


def fold_affine(scale, offset, *, low=0, high=0, shifts=SHIFTS):
    """:class:`Affine` with the largest of ``shifts`` for which every row fits. ValueError where not even the least does."""
    scale, offset = list(_fractions(scale)), list(_fractions(offset))
    most_scale, most_offset = (max((abs(each) for each in values), default=0) for values in (scale, offset))
    for shift in reversed(shifts):
        half = (1 << shift) >> 1
        if round(most_scale * 2**shift) < 1 << _MULT_BITS - 1 and round(most_offset * 2**shift) + half < 1 << _BIAS_BITS - 1:
            return Affine(np.array([round(s * 2**shift) for s in scale], np.int64),
                          np.array([round(o * 2**shift) + half for o in offset], np.int64), shift, low, high)
    raise ValueError(f"Scales of an affine map must be below {2**(_MULT_BITS - 1 - shifts[0])} and offsets below "
                     f"2**{_BIAS_BITS - 2 - shifts[0]}, not {float(most_scale):g} and {float(most_offset):g}")


def fold_tables(factor, bound, n_columns):
    """:class:`Tables` of heads with logits ``factor`` times a product of ``n_columns`` signs; a factor must not be negative."""
    weights, bounds = [], []
    for f, b in zip(map(float, factor), _fractions(bound), strict=True):
        if f < 0:
            raise ValueError(f"Scales of an attention map by softmax must not be negative, not {f:g}")
        weight = [round(2**_WEIGHT_LOG2 * math.exp(f * (2 * c - 2 * n_columns))) for c in range(n_columns + 1)]
        most = (1 << 32) - 1
        weights.append(weight)
        bounds.append([most if b <= 0 else min(math.floor(w / b) >> _BOUND_SHIFT, most) for w in weight])
    return Tables(np.array(weights, np.int64), np.array(bounds, np.int64))


def _fractions(values):
    return map(Fraction, np.asarray(values).tolist() if isinstance(values, np.ndarray) else values)
