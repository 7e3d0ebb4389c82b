"""Layer norm of integers: what the norm unit must give for D rows of a chunk of tokens.

    S1 = sum x, S2 = sum x x                                    exact
    mean = (S1 inv_d + 2**(mean_shift - 1)) >> mean_shift       without ``center``: mean and S1 are zero
    V = max(D S2 - S1 S1 + eps, 1)                              exact; then cut to 24 significant bits: binary32
    r = round(rsqrt(V) * imm), half to even, 0 .. 2**26 - 1     imm = D 2**26, so that r = 2**16 / standard deviation
    n = sat18(((x - mean) r + 2**13) >> 14)                     x - mean clamped to 18 bits; n has 12 fraction bits
    y = sat18(affine(n))                                        gain and bias; y has 10 fraction bits
"""

import torch

from celosia.gen.golden import f32, func

from .post import affine, saturate

__all__ = ["layer_norm", "normalised"]

_R_BITS = 26
_N_SHIFT = 14
_SIGNIFICANT = 24


def normalised(x, *, inv_d, mean_shift, eps, imm, center):  # (D, M) int64 -> (D, M) int64
    """n of every element; ``imm`` as the bits of a binary32."""
    d = x.shape[0]
    s1 = x.sum(0) * center
    mean = s1 * inv_d + (1 << mean_shift >> 1) >> mean_shift
    variance = (d * (x * x).sum(0) - s1 * s1 + eps).clamp(min=1)
    top = _bit_length(variance)
    cut = (top - _SIGNIFICANT).clamp(min=0)
    root = func.rsqrt((variance >> cut << cut).to(torch.float32))
    r = f32.to_int(f32.mul(root, f32.from_bits(imm)), 0, (1 << _R_BITS) - 1)
    return saturate(saturate(x - mean) * r + (1 << _N_SHIFT - 1) >> _N_SHIFT)


def layer_norm(x, gain, bias, shift, **scalars):    # (D, M), (D,), (D,) -> (D, M)
    """y of every element; ``scalars`` of :func:`normalised`."""
    return saturate(affine(normalised(x, **scalars), gain[:, None], bias[:, None], shift))


def _bit_length(v):
    length = torch.zeros_like(v)
    for step in (32, 16, 8, 4, 2, 1):
        high = v >> step > 0
        length += step * high
        v = torch.where(high, v >> step, v)
    return length + 1
