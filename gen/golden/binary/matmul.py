"""Binary matrix product: what the binary engine must give.

    P[n][t]  = sum_q sum_k 2**q coef(k) popcount(xnor(w_q[n], a_k[t]))      coef(k) = 2**k, of the last of several planes -2**k
    P1[n]    = sum_q 2**q popcount(w_q[n])                                  a lane of ones

    SIGNS    y = 2 P - n_const          activations +-1
    BITS     y = P + P1 - n_const       activations 0 and 1
    INTS     y = P - P1 + n_const       two's complement of several planes

All columns count, those of padding too: ``n_const`` takes them out. Counts are taken in binary64, exact far below 2**53.
"""

import torch

from celosia.hw.binary.isa import Kind

__all__ = ["matmul", "plane_values"]


def plane_values(n_planes):     # -> (n_planes,) int64
    """What a one in each plane of an activation counts."""
    values = 1 << torch.arange(n_planes, dtype=torch.int64)
    if n_planes > 1:
        values[-1] = -values[-1]
    return values


def matmul(weights, act, kind, n_const):    # (planes, N, K) bits, (a_bits, K, M) bits -> (N, M) int64
    """Rows that leave the engine; ``kind`` one of ``isa.Kind``."""
    w, a = weights.to(torch.float64), act.to(torch.float64)
    digits = (1 << torch.arange(len(w), dtype=torch.int64)).to(torch.float64)
    coefs = plane_values(len(a)).to(torch.float64)
    both, ones, n_columns = 2 * w.flatten(0, 1) @ a.permute(1, 0, 2).flatten(1), w.sum(2), w.shape[2]
    equal = both.reshape(len(w), w.shape[1], len(a), -1) - ones[:, :, None, None] - a.sum(1) + n_columns
    product = torch.einsum("q,qnkm,k->nm", digits, equal, coefs).to(torch.int64)
    of_ones = (digits @ ones).to(torch.int64)[:, None]
    return {Kind.SIGNS: 2 * product - n_const, Kind.BITS: product + of_ones - n_const,
            Kind.INTS: product - of_ones + n_const}[kind]
