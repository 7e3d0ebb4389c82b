"""From floating-point weights to trits and scales.

    matrices  s = max(mean |W|, 1e-5)     trit = clamp(round(W / s), -1, 1)         one s a matrix   (BitNet's absmean)
    head      s_r = max |W_r| / 121       weight = round(W_r / s_r) in -121..121    one s a row
    coarse    of a row h of the head: c_r = clamp(round(h / step), -m, m) with m = (3**planes - 1) / 2,
              the step of ``_STEPS`` / 16 * max |h| / m with the least squared error of h - a c_r, a = h . c_r / c_r . c_r

Roundings are half to even. -121..121 is what five balanced ternary digits hold, one packed byte a weight.
"""

import torch

from .model import HEAD_PLANES, MATRICES, HeadPlan, QHead, QLayer, QMatrix, QModel, Trits

__all__ = ["HEAD_MAX", "coarse_head", "quantise", "quantise_head", "quantise_matrix"]

HEAD_MAX = (3**HEAD_PLANES - 1) // 2
_STEPS = range(2, 17)       # sixteenths of the step that spans a row
_BLOCK_ROWS = 1024


def quantise_matrix(weight):
    """(outputs, inputs) float32, or :class:`Trits`, to :class:`QMatrix`.

    The mean is summed in binary64 and the factor 1 / s is rounded to binary32, as ``BitLinear`` keeps it.
    """
    if isinstance(weight, Trits):
        trits, scale = weight.trits, weight.scale
    else:
        mean = weight.to(torch.float64).abs().mean().to(torch.float32)
        factor = 1.0 / mean.clamp(min=1e-5)
        trits = (weight * factor).round().clamp(-1, 1).to(torch.int8)
        scale = 1.0 / factor
    return QMatrix(trits, scale.to(torch.float32).expand(trits.shape[0]).contiguous())


def quantise_head(weight):
    """(vocab, hidden) float32 to :class:`QHead`; a row of zeros has scale 0."""
    scale = weight.abs().amax(1) / HEAD_MAX
    weights = (weight / torch.where(scale > 0, scale, torch.ones_like(scale))[:, None]).round()
    return QHead(weights.clamp(-HEAD_MAX, HEAD_MAX).to(torch.int8), scale)


def coarse_head(head, planes):
    """:class:`QHead` with rows of fewer digit planes.

    Everything is computed from the integers of ``head``, in the narrowest float type in which their sums are exact.
    """
    limit = (3**planes - 1) // 2
    kind = torch.float32 if head.weights.shape[1] * HEAD_MAX * limit < 1 << 24 else torch.float64
    blocks = [_coarse_rows(rows.to(kind), limit) for rows in head.weights.split(_BLOCK_ROWS)]
    weights, factor = (torch.cat(parts) for parts in zip(*blocks))
    return QHead(weights, (head.scale.double() * factor).float())


def _coarse_rows(rows, limit):
    """(weights int8 (n, hidden), factor (n,)) of the step with the largest (h . c)**2 / c . c: the least squared error."""
    peak = rows.abs().amax(1, keepdim=True).clamp(min=1)
    most, factor = torch.full((len(rows),), -1.0, dtype=torch.float64), torch.zeros(len(rows), dtype=torch.float64)
    chosen = torch.zeros_like(rows)
    for step in _STEPS:
        coarse = (rows * (16 * limit / step) / peak).round().clamp(-limit, limit)
        along, square = (rows * coarse).sum(1).double(), (coarse * coarse).sum(1).clamp(min=1).double()
        gain = along * along / square
        better = gain > most
        most = torch.where(better, gain, most)
        factor = torch.where(better, along / square, factor)
        chosen = torch.where(better[:, None], coarse, chosen)
    return chosen.to(torch.int8), factor


def quantise(checkpoint, plan=HeadPlan()):
    """:class:`Checkpoint` to :class:`QModel`."""
    layers = [QLayer(**{name: quantise_matrix(value) if name in MATRICES else value for name, value in layer.items()})
              for layer in checkpoint.layers]
    head = quantise_head(checkpoint.head)
    return QModel(checkpoint.config, checkpoint.embedding, layers, checkpoint.final_norm, head, checkpoint.name, plan,
                  None if plan.kind == "exact" else coarse_head(head, plan.planes))
