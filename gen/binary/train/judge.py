"""How often a checkpoint is right, by the float reference and by the golden model, which computes what the machine computes."""

import torch

from celosia.gen.golden.binary import model as golden

from .. import checkpoint, float_model, integers
from . import data

__all__ = ["by_integers", "by_reference"]


def _share(logits, part):
    return (logits.argmax(-1) == part.label).double().mean().item()


@torch.no_grad()
def by_reference(folder, part):
    """Share of a part that the float reference labels rightly, in binary64."""
    model = checkpoint.load(folder)
    if part.inputs.ndim == 3:
        x = float_model.image_rows(model, data.patches(part.inputs))
    else:
        x = float_model.text_rows(model, part.inputs)
    return _share(float_model.pooled(model.config, float_model.forward(model, x, part.length), part.length), part)


@torch.no_grad()
def by_integers(folder, part):
    """Share of a part that the golden model labels rightly, bit for bit as the accelerator does."""
    model = integers.fold(checkpoint.load(folder))
    if part.inputs.ndim == 3:
        x = golden.image_rows(model, data.patches(part.inputs))
    else:
        x = golden.text_rows(model, part.inputs)
    sums = float_model.pooled(model.config, golden.forward(model, x, part.length).double(), part.length)
    return _share(sums * torch.as_tensor(model.head_scale) + torch.as_tensor(model.head_bias), part)
