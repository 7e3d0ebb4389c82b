"""Binary matrix product: what the binary engine must give.

    P[n][t] = sum_q sum_k 2**q coef(k) popcount(xnor(w_q[n], a_k[t]))    coef(k) = 2**k, of the last of several planes -2**k
    P1[n]   = sum_q 2**q popcount(w_q[n])                                a lane of ones

    SIGNS   y = 2 P - n_const            activations +-1
    BITS    y = P + P1 - n_const         activations 0 and 1
    INTS    y = P - P1 + n_const         two's complement of several planes

Columns of padding count like all others; ``n_const`` takes them out. Two bits agree when both are ones or both are zeros: counts
are two products of matrices of 0 and 1, in binary64, exact far below 2**53.
"""

import torch

from celosia.hw.binary.isa import ROW_BITS, Kind

__all__ = ["matmul", "plane_values"]


def plane_values(n_planes):     # -> (n_planes,) int64
    """What a one counts in each plane of an activation, the least significant first."""
    values = [1 << k for k in range(n_planes)]
    if n_planes > 1:
        values[-1] = -values[-1]
    return torch.tensor(values, dtype=torch.int64)


def _popcount_xnor(rows, lanes):    # (N, K) bits, (K, M) bits -> (N, M) int64
    rows, lanes = rows.to(torch.float64), lanes.to(torch.float64)
    return (rows @ lanes + (1 - rows) @ (1 - lanes)).to(torch.int64)


def matmul(weights, act, kind, n_const):    # (w_planes, N, K) bits, (a_bits, K, M) bits, Kind -> (N, M) int64
    """Rows that leave the engine, of planes with the least significant first; asserts that each sum fits its bits."""
    assert weights.ndim == 3 and act.ndim == 3 and weights.shape[2] == act.shape[1], \
        f"weights must be (planes, N, K) and act (planes, K, M), not {tuple(weights.shape)} and {tuple(act.shape)}"
    product = torch.zeros(weights.shape[1], act.shape[2], dtype=torch.int64)
    of_ones = torch.zeros(weights.shape[1], 1, dtype=torch.int64)
    for q, plane in enumerate(weights):
        of_ones += plane.to(torch.int64).sum(1, keepdim=True) << q
        for value, lanes in zip(plane_values(len(act)), act):
            product += value * _popcount_xnor(plane, lanes) << q
    y = {Kind.SIGNS: 2 * product, Kind.BITS: product + of_ones, Kind.INTS: product - of_ones}[kind]
    y = y + n_const if kind is Kind.INTS else y - n_const
    assert not y.numel() or y.abs().max() < 1 << ROW_BITS - 1, f"a sum does not fit {ROW_BITS} bits"
    return y
