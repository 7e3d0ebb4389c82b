"""What becomes of the rows of a product: thresholds, affine maps, attention maps. int64 throughout, shapes broadcast.

    bit       (v >= level) ^ flip
    affine    (v * mult + bias) >> shift                                rounded down
    visible   of lane i and row j, tokens counted through the run: i div S = j div S, j mod S < length[j div S], and j <= i where
              the attention is causal
    weights   sum_i = sum over visible j of T[index(i, j)]              index = (y + D) / 2
    cut       the least index c with U[c] > sum_i >> 8, 256 where there is none
"""

import torch

from celosia.hw.binary.isa import X_BITS

__all__ = ["NO_CUT", "affine", "bits", "clamp", "cut", "index", "saturate", "sums", "visible"]

NO_CUT = 256
_SUM_SHIFT = 8


def bits(v, level, flip):
    """Whether v is at its level or above, or with ``flip`` below it: 0 and 1."""
    return (v >= level).to(torch.int64) ^ flip


def affine(v, mult, bias, shift):
    """The affine map of a row, |v| < 2**26."""
    return v * mult + bias >> shift


def clamp(v, low, high):
    """Integers of QUANT."""
    return v.clamp(low, high)


def saturate(v):
    """An element of the residual stream."""
    return v.clamp(-(1 << X_BITS - 1), (1 << X_BITS - 1) - 1)


def visible(lengths, chunk, n_lanes, first_row, n_rows, seq_log2, causal=False):   # lengths: sequence of ints -> (n_rows, n_lanes) bool
    """Which lane of a chunk sees which row; a sequence without a length has no token."""
    i = chunk * n_lanes + torch.arange(n_lanes)[None, :]
    j = first_row + torch.arange(n_rows)[:, None]
    n_tokens = int(j.max()) + 1
    length = torch.zeros(max(len(lengths), (n_tokens >> seq_log2) + 1), dtype=torch.int64)
    length[:len(lengths)] = torch.as_tensor(lengths, dtype=torch.int64)
    seen = (i >> seq_log2 == j >> seq_log2) & (j - (j >> seq_log2 << seq_log2) < length[j >> seq_log2])
    return seen & (j <= i) if causal else seen


def index(y, n_columns):
    """Place in the table of a product of ``n_columns`` signs."""
    return y + n_columns >> 1


def sums(y, seen, table, n_columns):    # (N, M), (N, M) bool, (D + 1,) -> (M,)
    """Sums of the weights of all rows that a lane sees."""
    return (table[index(y, n_columns).clamp(0, len(table) - 1)] * seen).sum(0)


def cut(total, bounds):     # (M,), (D + 1,) -> (M,)
    """The least index whose bound exceeds the sum."""
    above = bounds[:, None] > total >> _SUM_SHIFT
    return torch.where(above.any(0), above.to(torch.int64).argmax(0), NO_CUT)
