"""The operations of a decoder, in integers and binary32 and in a fixed order: whole tensors, natural layout.

Each is what the accelerator computes with one or a few descriptors; ``docs/golden.md`` lists the equations. Tensors are
(tokens, elements) float32 unless a shape is given.
"""

import torch

from celosia.gen.golden import f32, func
from celosia.hw.formats import bits_of

__all__ = ["absmax", "bit_linear", "dequantise", "exact_weights", "gate", "product", "quantise_norm", "quantise_row", "rope"]

_LEAST_ABSMAX = f32.from_bits(bits_of(1e-5))
_INT8_TOP = f32.from_bits(bits_of(127.0))
_INT8_STEP = f32.from_bits(bits_of(1 / 127))


def number(value):
    """() float32 nearest to a Python float."""
    return f32.from_bits(bits_of(value))


def quantise_norm(x, gain, eps, spread=None):
    """(codes int8 (T, n), scale (T, 1)) of the RMS norm x * r * gain, r = rsqrt(sum(x * x) * (1/n) + eps).

    r is the same for a whole row, so that the codes are those of x * gain and r is a factor of the scale alone:
    codes of (x * (127 * recip(c))) * gain with c = max(max|x * gain|, 1e-5), scale (c * (1/127)) * r.

    The sum is taken in 128 slots, by the element's place in scratch; ``spread`` maps x to that place where elements of
    padding lie between (zeros), as in the heads of the attention output.
    """
    factor, scale = absmax(f32.mul(x, gain))
    squares = f32.mul(x, x)
    total = f32.sum_slots(squares if spread is None else spread(squares))
    r = func.rsqrt(f32.add(f32.mul(total, number(1.0 / x.shape[-1])), number(eps)))
    return f32.to_int8(f32.mul(f32.mul(x, factor), gain)), f32.mul(scale, r[..., None])


def absmax(x):
    """(factor, scale) of each row: with c = max(max|x|, 1e-5), 127 * recip(c) and c * (1/127). (T, n) to (T, 1), (T, 1)."""
    c = f32.maximum(x.abs().amax(-1, keepdim=True), _LEAST_ABSMAX)
    return f32.mul(_INT8_TOP, func.recip(c)), f32.mul(c, _INT8_STEP)


def quantise_row(x, top=127):
    """(codes int8 (T, n), scale (T, 1)): round half to even, clamp to -128..127.

    With another ``top`` the codes are those within -top .. top: (x * factor) * (top/127). The scale is the same: a step of such a
    code is 127/top steps of it.
    """
    factor, scale = absmax(x)
    codes = f32.mul(x, factor)
    return f32.to_int8(codes if top == 127 else f32.mul(codes, number(top / 127))), scale


def exact_weights(weights, largest):
    """Integer weights (N, K), |w| <= largest, in the narrowest float type in which ``product`` is exact."""
    return weights.to(torch.float32 if weights.shape[1] * 128 * largest < 1 << 24 else torch.float64)


def product(codes, weights):
    """Exact sums int64: codes int8 (T, K), weights from ``exact_weights`` (N, K), to (T, N)."""
    return (codes.to(weights.dtype) @ weights.T).to(torch.int64)


def dequantise(acc, act_scale, row_scale):
    """(acc * act_scale) * row_scale: acc integers (T, N), act_scale (T, 1), row_scale (N,)."""
    return f32.mul(f32.mul(f32.from_int(acc), act_scale), row_scale)


def bit_linear(codes, act_scale, weights, row_scale):
    """Matrix product of quantised activations with integer weights, as binary32 (T, N)."""
    return dequantise(product(codes, weights), act_scale, row_scale)


def rope(x, cos, sin):
    """Rotary positions by halves: x (T, heads, D); cos, sin (T, D/2).

    y[i] = x[i] cos_i + (-(x[i + D/2] sin_i)),  y[i + D/2] = x[i + D/2] cos_i + x[i] sin_i
    """
    half = x.shape[-1] // 2
    low, high = x[..., :half], x[..., half:]
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((f32.add(f32.mul(low, cos), f32.neg(f32.mul(high, sin))),
                      f32.add(f32.mul(high, cos), f32.mul(low, sin))), -1)


def gate(gated, up, act):
    """up * (gated * max(gated, 0)) for relu2, up * (gated * sigmoid(gated)) for silu."""
    factor = f32.maximum(gated, torch.zeros(())) if act == "relu2" else func.sigmoid(gated)
    return f32.mul(up, f32.mul(gated, factor))
