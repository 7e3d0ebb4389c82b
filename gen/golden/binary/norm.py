"""Layer norm of integers: what the norm unit must give for the D rows of a chunk of M tokens. int64 throughout.

    S1 = sum x, S2 = sum x x                                        exact
    mean = sat18((S1 inv_d + 2**(mean_shift - 1)) >> mean_shift)    without ``center``: S1 and the mean are 0
    V = max(D S2 - S1 S1 + eps, 1)                                  exact, then cut to 24 significant bits: binary32
    r = round(rsqrt(V) imm), half to even, 0 .. 2**26 - 1           imm = D 2**26: r = 2**16 / standard deviation
    n = sat18((sat18(x - mean) r + 2**13) >> 14)                    12 fraction bits
    y = sat18((n mult + bias) >> shift)                             gain and bias; 10 fraction bits, like x

and of y a bit, (y >= level) ^ flip, or an integer, (y mult2 + bias2) >> shift2 between lo and hi. All shifts round down.

With s the standard deviation and m the mean of a row in binary64, s at least 2**-9 and nothing clamped, n is within

    2**-13 + (2**-11 + |m| 2**-18) / s + |n| (s 2**-17 + 2**-21)

of (x - m) / s: half a unit of n; the mean, rounded to a unit of x; r, rounded to an integer. Clamped is what is 32 or more standard
deviations, or 128, away from the mean. ``tests/gen/test_binary_norm.py`` holds the bound.
"""

import torch

from celosia.gen.golden import f32, func
from celosia.hw.binary.isa import NORM_SHIFTS, X_BITS

__all__ = ["layer_norm", "norm", "normalised"]

_R_BITS, _N_SHIFT, _SIGNIFICANT_BITS = 26, 14, 24


def _saturate(value):
    return value.clamp(-1 << X_BITS - 1, (1 << X_BITS - 1) - 1)


def _signed(value, bits):
    """The low bits of ``value`` as a signed number."""
    half = 1 << bits - 1
    return (value & (half << 1) - 1 ^ half) - half


def _affine(value, words, shift):
    """(value mult + bias) >> shift by AffineParam words."""
    if shift not in NORM_SHIFTS:
        raise ValueError(f"Shifts of a NORM must be {NORM_SHIFTS[0]} to {NORM_SHIFTS[-1]}, not {shift}")
    return value * _signed(words, 18) + (words >> 18) >> shift


def _leading(v):
    """Place of the highest one of positive integers."""
    place = torch.zeros_like(v)
    for step in (32, 16, 8, 4, 2, 1):
        place += step * (v >> place + step > 0)
    return place


def normalised(x, *, inv_d, mean_shift, eps, imm, center):      # (D, M) int64 -> (D, M) int64
    """n of every element; ``imm`` as the bits of a binary32. Raises ValueError on scalars that the machine refuses."""
    if not 17 <= mean_shift <= 32:
        raise ValueError(f"mean_shift must be 17 to 32, not {mean_shift}")
    if not 0x0080_0000 <= imm < 0x7F80_0000:
        raise ValueError(f"imm must be a positive number of binary32, not {imm:#010x}")
    d, s1 = x.shape[0], x.sum(0) * center
    mean = _saturate(s1 * inv_d + (1 << mean_shift - 1) >> mean_shift)
    v = (d * (x * x).sum(0) - s1 * s1 + eps).clamp(min=1)
    cut = (_leading(v) + 1 - _SIGNIFICANT_BITS).clamp(min=0)
    root = func.rsqrt((v >> cut << cut).to(torch.float32))
    r = f32.to_int(f32.mul(root, f32.from_bits(imm)), 0, (1 << _R_BITS) - 1)
    return _saturate(_saturate(x - mean) * r + (1 << _N_SHIFT - 1) >> _N_SHIFT)


def layer_norm(x, gain, shift, **scalars):      # (D, M), (D,) -> (D, M)
    """y of every element, by AffineParam words ``gain`` and the ``scalars`` of :func:`normalised`."""
    return _saturate(_affine(normalised(x, **scalars), gain[:, None], shift))


def norm(fields, x, words):     # (D, M), (2 D,) -> (D, M), (D, M) or None
    """(y, what goes to ACT) of a NORM: ``fields`` of ``isa.Norm``, ``words`` of P from p_base on as signed numbers of 64 bits.

    What goes to ACT are bits 0 and 1 (a_bits 1) or integers (8), and None without ``to_act``.
    """
    scalars = {name: fields[name] for name in ("inv_d", "mean_shift", "eps", "imm", "center")}
    y = layer_norm(x, words[0::2], fields["shift"], **scalars)
    second = words[1::2, None]
    if not fields["to_act"]:
        return y, None
    if fields["a_bits"] == 1:
        return y, (y >= _signed(second, 32)).to(torch.int64) ^ (second >> 32 & 1)
    if fields["a_bits"] != 8:
        raise ValueError(f"a_bits of a NORM must be 1 or 8, not {fields['a_bits']}")
    return y, _affine(y, second, fields["shift2"]).clamp(min=fields["lo"]).clamp(max=fields["hi"])
