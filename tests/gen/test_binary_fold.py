"""Folds of floats into integers: exact where they must be, near where they may be."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celosia.gen.binary.fold import fold_affine, fold_tables, fold_threshold
from celosia.hw.binary import isa
from celosia.hw.binary.isa import SHIFTS, AffineParam, TableParam, ThresholdParam

FINITE = st.floats(-64, 64, width=32)


@given(st.one_of(FINITE, st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5])), FINITE, FINITE)
def test_thresholds_are_exact(scale, offset, bound):
    """For every sum of sixteen signs, and sums far away."""
    folded = fold_threshold([scale], [offset], [bound])
    level, flip = int(folded.level[0]), int(folded.flip[0])
    for v in (*range(-100, 101), -(1 << 26), (1 << 26) - 1):
        assert (v >= level) ^ flip == (Fraction(scale) * v + Fraction(offset) >= Fraction(bound)), v


@given(st.integers(-20, 20), st.integers(1, 9), st.integers(-50, 50), st.integers(-50, 50))
def test_ties_are_above(numerator, denominator, v, other):
    """A sum that lands on its bound gives a one."""
    scale = Fraction(numerator, denominator)
    folded = fold_threshold([scale], [Fraction(other, 3)], [scale * v + Fraction(other, 3)])
    assert (v >= folded.level[0]) ^ folded.flip[0] == 1


@given(st.lists(st.tuples(st.floats(-30, 30, width=32), st.floats(-1000, 1000, width=32)), min_size=1, max_size=5),
       st.integers(-4096, 4096))
def test_affine_maps_are_near(rows, v):
    folded = fold_affine([s for s, _ in rows], [o for _, o in rows])
    assert folded.shift in SHIFTS and abs(folded.mult).max() < 1 << 17 and abs(folded.bias).max() < 1 << 45
    for (scale, offset), mult, bias in zip(rows, folded.mult.tolist(), folded.bias.tolist()):
        exact = Fraction(scale) * v + Fraction(offset)
        slack = Fraction(abs(v) + 1, 1 << folded.shift + 1) + Fraction(1, 2)
        assert abs((v * mult + bias >> folded.shift) - exact) <= slack


def test_the_largest_row_chooses_the_shift():
    assert fold_affine([100.0, 0.001], [0, 0]).shift == 8
    assert fold_affine([0.001], [0]).shift == 24
    with pytest.raises(ValueError, match="must be below 512 and offsets below 2\\*\\*36, not 600 and 0"):
        fold_affine([600.0], [0])


@given(st.floats(0, 2, width=32), st.floats(0.0078125, 1, width=32), st.lists(st.integers(0, 16), min_size=1, max_size=40))
def test_tables_are_a_softmax(factor, bound, indices):
    """A place is above the cut where its share is above the bound, but for shares within 0.1 % of it, and small ones."""
    tables = fold_tables([factor], [bound], 16)
    weight, limit = tables.weight[0], tables.bound[0]
    total = int(weight[indices].sum())
    powers = [math.exp(factor * (2 * c - 32)) for c in indices]
    for c, power in zip(indices, powers):
        share = power / sum(powers)
        if weight[c] > 1 << 16 and abs(share - bound) > 1e-3 * bound:
            assert (limit[c] > total >> 8) == (share > bound)


def test_tables_refuse_what_falls():
    with pytest.raises(ValueError, match="must not be negative, not -1"):
        fold_tables([-1.0], [0.5], 8)


def test_words_are_those_of_the_isa(rng):
    folded = fold_threshold([1.0, -2.0], [0.5, 3.0], [10.0, -7.0])
    for word, level, flip in zip(folded.words().tolist(), folded.level.tolist(), folded.flip.tolist()):
        read = ThresholdParam.from_bits(word & (1 << 64) - 1)
        assert (read.level, read.flip) == (level, flip)
    folded = fold_affine([-3.0, 0.25], [-100.0, 7.0])
    for word, mult, bias in zip(folded.words().tolist(), folded.mult.tolist(), folded.bias.tolist()):
        read = AffineParam.from_bits(word & (1 << 64) - 1)
        assert (read.mult, read.bias) == (mult, bias)
    folded = fold_tables([0.3], [0.01], 8)
    for word, weight, bound in zip(folded.words()[0].tolist(), folded.weight[0].tolist(), folded.bound[0].tolist()):
        read = TableParam.from_bits(word & (1 << 64) - 1)
        assert (read.weight, read.bound) == (weight, bound)
    assert isa.BINARY_ISA_VERSION >> 8 == 1 and folded.weight.dtype == np.int64
