"""Held-out score of a language model over bytes."""

import math

import torch
from torch.nn import functional as F

__all__ = ["bits_per_byte"]


def bits_per_byte(logits, text, *, context=256, batch=32):
    """Mean code length of `text` in bits a byte.

    `logits` is a function from (batch, n) int64 tokens to (batch, n, vocab) float32.  The text is
    cut in windows of `context` predicted bytes; each byte counts once, and what a window knows is
    that window alone.  A rest shorter than a window is left out.
    """
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    n_windows = (len(tokens) - 1) // context
    if n_windows < 1:
        raise ValueError(f"A text to score must have more than {context} bytes, not {len(tokens)}")
    inputs = tokens[:n_windows * context].view(n_windows, context)
    targets = tokens[1:n_windows * context + 1].view(n_windows, context)
    total = 0.0
    with torch.no_grad():
        for x, y in zip(inputs.split(batch), targets.split(batch)):
            total += F.cross_entropy(logits(x).flatten(0, 1), y.flatten(), reduction="sum").item()
    return total / (n_windows * context) / math.log(2)
