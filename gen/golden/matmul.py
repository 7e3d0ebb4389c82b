"""Ternary matrix product: what the matmul engine must give.

    acc[t][n] = sum_k 3**(planes - 1 - k) * sum_c plane_k[n][c] * act[t][c]        (exact)

The weights of all planes are first joined to one integer matrix; the product is taken in binary64, which is exact as
long as no sum reaches 2**53, and int8 activations with weights of at most (3**planes - 1) / 2 stay far below that.
"""

import torch

__all__ = ["join_planes", "matmul"]

MAX_PLANES = 15     # the planes field of the instruction has four bits


def join_planes(planes):    # (k, N, K) trits int8 -> (N, K) int32
    """Integer weights whose balanced ternary digits, most significant first, are ``planes``."""
    assert planes.dtype == torch.int8 and planes.ndim == 3, f"planes must be int8 (k, N, K), not {planes.dtype}"
    assert 1 <= planes.shape[0] <= MAX_PLANES, f"planes must count 1 to {MAX_PLANES}, not {planes.shape[0]}"
    assert not planes.numel() or planes.abs().max() <= 1, "planes must hold trits -1, 0 and +1 only"
    weights = torch.zeros(planes.shape[1:], dtype=torch.int32)
    for plane in planes:
        weights = 3 * weights + plane
    return weights


def matmul(planes, act):    # (k, N, K) trits int8, (T, K) int8 -> (T, N) int32
    """Sums of the engine for T activation vectors; asserts that each fits 32 bits."""
    assert act.dtype == torch.int8 and act.ndim == 2, f"act must be int8 (T, K), not {act.dtype}"
    assert act.shape[1] == planes.shape[2], f"act must have {planes.shape[2]} columns, not {act.shape[1]}"
    weights = join_planes(planes)
    bound = act.shape[1] * 128 * (3 ** planes.shape[0] - 1) // 2
    assert bound < 1 << 53, f"a sum may reach {bound}, which binary64 does not hold exactly"
    acc = act.to(torch.float64) @ weights.to(torch.float64).T
    assert not acc.numel() or acc.abs().max() < 1 << 31, "a sum does not fit 32 bits"
    return acc.to(torch.int32)
