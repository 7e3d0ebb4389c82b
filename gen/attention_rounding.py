"""Ways to round queries, keys and values, and a decoder that attends to rounded rows by softmax in floating point.

For what the hardware does not do, or not yet: what a format of the cache would cost. Rows are (..., D), a head in each.
"""

import torch

from celosia.gen.golden import ops
from celosia.gen.golden.model import GoldenModel

__all__ = ["ROUNDINGS", "RoundedModel"]

_STEP = 1e-5 / 127      # of a row of zeros


def _codes(x, top):
    """x rounded to codes within -top .. top, one scale a row."""
    step = (x.abs().amax(-1, keepdim=True) / top).clamp(min=_STEP)
    return (x / step).round() * step


def _clipped(x, top):
    """The best of four scales a row, by squared error: of 1, 0.9, 0.8 and 0.7 times the largest magnitude."""
    steps = [(x.abs().amax(-1, keepdim=True) * part / top).clamp(min=_STEP) for part in (1, 0.9, 0.8, 0.7)]
    each = torch.stack([(x / step).round().clamp(-top, top) * step for step in steps])
    best = (each - x).square().sum(-1).argmin(0)
    return each.gather(0, best[None, ..., None].expand_as(each[:1]))[0]


def _by_parts(x, n):
    """One scale for each of n parts of a row."""
    return _codes(x.unflatten(-1, (n, -1)), 7).flatten(-2)


def _turned(x, size):
    """Codes of the Hadamard transform of blocks of ``size`` elements, or of the whole row; turned back."""
    matrix = torch.ones(1, 1)
    while len(matrix) < min(size, x.shape[-1] & -x.shape[-1]):
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    matrix = matrix / len(matrix) ** 0.5

    def turn(y):
        return (y.unflatten(-1, (-1, len(matrix))) @ matrix).flatten(-2)
    return turn(_codes(turn(x), 7))


def _same(function):
    """The same rounding of keys and values; queries always have int8."""
    return lambda x, what, mean: _codes(x, 127) if what == "q" else function(x)


ROUNDINGS = {   # name: function of rows (..., D), of "q", "k" or "v", and of the mean key of the head; what is left of the rows
    "float": lambda x, what, mean: x,
    "int8": _same(lambda x: _codes(x, 127)),
    "keys int4, values int8": lambda x, what, mean: _codes(x, 7 if what == "k" else 127),
    "int4": _same(lambda x: _codes(x, 7)),
    "int4, best of four scales": _same(lambda x: _clipped(x, 7)),
    "int4, a scale for each half of a head": _same(lambda x: _by_parts(x, 2)),
    "int4, Hadamard transform of 8": _same(lambda x: _turned(x, 8)),
    "int4, Hadamard transform of a head": _same(lambda x: _turned(x, 1 << 16)),
    "int4, keys less their mean": lambda x, what, mean: _codes(x - mean if what == "k" else x, 127 if what == "q" else 7),
}


class RoundedModel(GoldenModel):
    """A golden model whose attention is softmax in floating point of rounded rows; it works on whole texts, from position 0."""

    def __init__(self, model, rope):
        super().__init__(model, rope)
        self.rounding = ROUNDINGS["float"]
        self.mean_keys = [None] * len(model.layers)
        self.keys_seen = None       # a list for each layer to keep keys in

    def _attention(self, i, codes, scale, now):
        c, n = self.config, now.stop
        q, k, v = (self._linear(i, name, codes, scale).view(n, -1, c.head_dim) for name in "qkv")
        q, k = (ops.rope(x, self._cos[now], self._sin[now]) for x in (q, k))
        if self.keys_seen is not None:
            self.keys_seen[i].append(k)
        q, k, v = (self.rounding(x, what, self.mean_keys[i]).transpose(0, 1) for x, what in ((q, "q"), (k, "k"), (v, "v")))
        k, v = (x.repeat_interleave(c.group, 0) for x in (k, v))
        hidden = torch.ones(n, n).triu(1).bool()
        score = q @ k.transpose(-1, -2) / c.head_dim**0.5
        score = c.attn_cap * (score / c.attn_cap).tanh() if c.attn_cap else score
        share = score.masked_fill(hidden, float("-inf")).softmax(-1)
        return (share @ v).transpose(0, 1).reshape(n, -1)

    def calibrate(self, texts):
        """Take the mean of every key of ``texts``."""
        self.keys_seen = [[] for _ in self.mean_keys]
        for text in texts.tolist():
            self.hidden(text, 0)
        self.mean_keys, self.keys_seen = [torch.cat(keys).mean(0) for keys in self.keys_seen], None
