"""From floating-point weights to trits and scales.

    matrices  s = max(mean |W|, 1e-5)     trit = clamp(round(W / s), -1, 1)         one s a matrix   (BitNet's absmean)
    head      s_r = max |W_r| / 121       weight = round(W_r / s_r) in -121..121    one s a row

Roundings are half to even. -121..121 is what five balanced ternary digits hold, one packed byte a weight.
"""

import torch

from .model import MATRICES, QHead, QLayer, QMatrix, QModel, Trits

__all__ = ["HEAD_MAX", "quantise", "quantise_head", "quantise_matrix"]

HEAD_MAX = 121      # (3**5 - 1) / 2


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


def quantise(checkpoint):
    """:class:`Checkpoint` to :class:`QModel`."""
    layers = [QLayer(**{name: quantise_matrix(value) if name in MATRICES else value for name, value in layer.items()})
              for layer in checkpoint.layers]
    return QModel(checkpoint.config, checkpoint.embedding, layers, checkpoint.final_norm, quantise_head(checkpoint.head),
                  checkpoint.name)
