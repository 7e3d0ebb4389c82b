"""From floating-point weights to integers and scales.

    matrices  of one plane: s = max(mean |W|, 1e-5)    trit = clamp(round(W / s), -1, 1)    one s a matrix (BitNet's absmean)
              of k planes: rows like ``coarse``, from h = round(32767 W_r / max |W_r|)      one s a row
    head      s_r = max |W_r| / 121       weight = round(W_r / s_r) in -121..121    one s a row
    coarse    of a row h of the head: c_r = clamp(round(h / step), -m, m) with m = (3**planes - 1) / 2,
              the step of ``_STEPS`` / 16 * max |h| / m with the least squared error of h - a c_r, a = h . c_r / c_r . c_r

Trits of a checkpoint stay what they are, and so do master weights that were trained for absmean: one plane, whatever is asked
for. ``auto`` takes for each other matrix the fewest planes with |W - W'| <= ``AUTO_ERROR`` |W| (Euclidean norms of the whole
matrix), five at most; there a single plane has a scale a row too.

Roundings are half to even. -121..121 is what five balanced ternary digits hold, one packed byte a weight.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from .model import EXACT, HEAD_PLANES, MATRICES, MAX_PLANES, QHead, QLayer, QMatrix, QModel, Trits

__all__ = ["AUTO_ERROR", "HEAD_MAX", "coarse_head", "digit_rows", "quantise", "quantise_head", "quantise_matrix",
           "relative_error"]

AUTO_ERROR = 0.08
HEAD_MAX = (3**HEAD_PLANES - 1) // 2
_STEPS = range(2, 17)       # sixteenths of the step that spans a row
_BLOCK_ROWS = 1024
_LEAST_PEAK = 2.0**-149
_FINE = 32767               # largest magnitude of a row of floats as integers: sums of 2**31 products are exact in binary64


def quantise_matrix(weight, planes=1):
    """(outputs, inputs) float32, or :class:`Trits`, to :class:`QMatrix` of ``planes`` digit planes, or ``auto``."""
    if isinstance(weight, Trits):
        return _ternary(weight)
    if planes != "auto":
        found = _ternary(weight) if planes == 1 else digit_rows(weight, planes)
        return replace(found, relative_error=relative_error(weight, found))
    for fewest in range(1, MAX_PLANES + 1):
        found = digit_rows(weight, fewest)
        error = relative_error(weight, found)
        if error <= AUTO_ERROR:
            break
    return replace(found, relative_error=error)


def _ternary(weight):
    """BitNet's absmean rule, or trits as they are. The mean is summed in binary64 and the factor 1 / s is rounded to binary32,
    as ``BitLinear`` keeps it.
    """
    if isinstance(weight, Trits):
        trits, scale = weight.trits, weight.scale
    else:
        mean = weight.to(torch.float64).abs().mean().to(torch.float32)
        factor = 1.0 / mean.clamp(min=1e-5)
        trits = (weight * factor).round().clamp(-1, 1).to(torch.int8)
        scale = 1.0 / factor
    return QMatrix(trits, scale.to(torch.float32).expand(trits.shape[0]).contiguous())


def digit_rows(weight, planes):
    """(outputs, inputs) float32 to :class:`QMatrix` with a scale a row; a row of zeros has scale 0."""
    limit = (3**planes - 1) // 2
    blocks = []
    for rows in weight.split(_BLOCK_ROWS):
        peak = rows.abs().amax(1).double()
        fine = (rows.double() * (_FINE / peak.clamp(min=_LEAST_PEAK))[:, None]).round()
        digits, factor = _coarse_rows(fine, limit)
        blocks.append((digits, (peak / _FINE * factor).float()))
    weights, scale = (torch.cat(parts) for parts in zip(*blocks))
    return QMatrix(weights, scale, planes)


def relative_error(weight, found):
    """|W - W'| / |W| of a float matrix, or its rows, and its :class:`QMatrix` or :class:`QHead`; 0 for a matrix of zeros."""
    error = size = 0.0
    for rows, digits, scale in zip(weight.split(_BLOCK_ROWS), found.weights.split(_BLOCK_ROWS), found.scale.split(_BLOCK_ROWS)):
        error += float((rows.double() - digits.double() * scale.double()[:, None]).pow(2).sum())
        size += float(rows.double().pow(2).sum())
    return (error / size) ** 0.5 if size else 0.0


def quantise_head(weight):
    """(vocab, hidden) float32, or its :class:`celosia.gen.rows.Rows`, to :class:`QHead`; a row of zeros has scale 0."""
    weights, scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(weight.shape[0])
    for rows, digits, scale in zip(weight.split(_BLOCK_ROWS), weights.split(_BLOCK_ROWS), scales.split(_BLOCK_ROWS)):
        scale[:] = rows.abs().amax(1) / HEAD_MAX
        divisor = torch.where(scale > 0, scale, torch.ones_like(scale))[:, None]
        digits[:] = (rows / divisor).round().clamp(-HEAD_MAX, HEAD_MAX)
    found = QHead(weights, scales)
    return replace(found, relative_error=relative_error(weight, found))


def coarse_head(head, planes):
    """:class:`QHead` with rows of fewer digit planes.

    Everything is computed from the integers of ``head``, in the narrowest float type in which their sums are exact.
    """
    limit = (3**planes - 1) // 2
    kind = torch.float32 if head.weights.shape[1] * HEAD_MAX * limit < 1 << 24 else torch.float64
    weights, factors = torch.empty_like(head.weights), torch.empty(len(head.scale), dtype=torch.float64)
    for rows, digits, factor in zip(*(part.split(_BLOCK_ROWS) for part in (head.weights, weights, factors))):
        digits[:], factor[:] = _coarse_rows(rows.to(kind), limit)
    return QHead(weights, (head.scale.double() * factors).float())


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


def quantise(checkpoint, plan=EXACT, planes=1):
    """:class:`Checkpoint` to :class:`QModel`, whose layers and head are read and quantised when they are asked for.

    ``planes``: digit planes of float matrices, a number, ``auto``, or a function of (layer number, matrix name) that gives
    either.
    """
    def chosen(i, name):
        return 1 if checkpoint.ternary else planes(i, name) if callable(planes) else planes

    return QModel(checkpoint.config, checkpoint.embedding, _Layers(checkpoint.layers, chosen), checkpoint.final_norm,
                  lambda: _heads(checkpoint.head, plan), checkpoint.name, plan, checkpoint.sources)


class _Layers(Sequence):
    """:class:`QLayer` by number, made anew each time."""

    def __init__(self, layers, planes):
        self._layers, self._planes = layers, planes

    def __len__(self):
        return len(self._layers)

    def __getitem__(self, index):
        i = range(len(self))[index]
        return QLayer(**{name: quantise_matrix(value, self._planes(i, name)) if name in MATRICES else value
                         for name, value in self._layers[i].items()})


def _heads(weight, plan):
    """(exact rows, rows of fewer planes or None): :class:`QHead`."""
    head = quantise_head(weight)
    if plan.kind == "exact":
        return head, None
    coarse = coarse_head(head, plan.planes)
    return head, replace(coarse, relative_error=relative_error(weight, coarse))
