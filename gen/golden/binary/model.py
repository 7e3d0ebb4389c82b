"""The golden model of a binary encoder: whole tensors, integers as the machine must compute them; no program, no packing.

    x = residual, 10 fraction bits                         image: position + affine(patch . pixels); text: token + position
    a = out(norm(x))                                       +-1 or int8
    q, k, v = +-1 by the thresholds of their rows
    A[i][j] = 1 where token i sees j and q_i . k_j is at its level, or has its place in the softmax above the cut of i
    x += affine(o . gather(A v));   x += affine(down . mid(up . out(norm(x))))
    logits = head . out(norm(x))                           int64

``model`` is what ``celosia.gen.binary.integers`` makes of a checkpoint. Sequences of S tokens; a token sees the valid ones.
"""

import torch

from celosia.hw.binary.isa import X_BITS

from .norm import layer_norm
from .post import affine, cuts, saturate, sums, threshold

__all__ = ["forward", "image_rows", "text_rows"]


def image_rows(model, patches):     # (B, tokens, pixels) integers less the input's zero -> (B, tokens, hidden)
    """The residual in front of the first layer, of images cut into patches."""
    patches = torch.as_tensor(patches, dtype=torch.int64)
    positions = _tensor(model.positions)[:patches.shape[1]]
    return saturate(positions + _map(model.patch.after, _product(model.patch, patches)), X_BITS)


def text_rows(model, ids):          # (B, tokens) -> (B, tokens, hidden)
    """The residual in front of the first layer, of token ids."""
    ids = torch.as_tensor(ids, dtype=torch.int64)
    rows = _tensor(model.tokens)[ids] + _tensor(model.positions)[:ids.shape[1]]
    return rows.clamp(-(1 << 15), (1 << 15) - 1)


def forward(model, x, lengths):     # (B, S, hidden), (B,) -> (B, S, labels)
    """Integer logits of every token; those behind the length of a sequence mean nothing."""
    binary = model.config.act_bits == 1
    valid = torch.arange(x.shape[1]) < torch.as_tensor(lengths)[:, None]
    for entry, layer in zip(model.entries, model.layers):
        x, a = _norm(entry, x, binary)
        o = _attention(model.config, layer, a, valid)
        x = saturate(x + _map(layer.o.after, _product(layer.o, _activate(layer.gather, o, binary))), X_BITS)
        x, a = _norm(layer.middle, x, binary)
        u = _product(layer.up, a)
        m = threshold(u, _words(layer.up.after)) if binary else _activate(layer.up.after, u, False)
        x = saturate(x + _map(layer.down.after, _product(layer.down, m)), X_BITS)
    _, a = _norm(model.entries[-1], x, False)
    return _product(model.head, a)


def _attention(config, layer, a, valid):
    """(B, S, hidden): sums of the values that each token's maps take."""
    heads = (*valid.shape, config.n_heads, config.head_dim)
    q, k, v = (_activate(linear.after, _product(linear, a), True).reshape(heads) for linear in (layer.q, layer.k, layer.v))
    scores = _exact("bihd,bjhd->bhij", q, k)
    seen = valid[:, None, None, :].expand(scores.shape)
    words = _words(layer.map)
    if config.attention == "sps":
        taken = seen & (threshold(scores, words[:, None, None]) == 1)
    else:
        taken = torch.stack([_above(words[h], scores[:, h], seen[:, h], config.head_dim) for h in range(config.n_heads)], 1)
    return _exact("bhij,bjhd->bihd", taken, v).flatten(2)


def _above(words, scores, seen, n_columns):
    """Which of the rows that a token sees have their place in the table at or above its cut."""
    index = scores + n_columns >> 1
    rows, seen_rows = (each.permute(2, 0, 1).flatten(1) for each in (index, seen))
    level = cuts(sums(rows, seen_rows, words), words).reshape(scores.shape[:2])
    return seen & (index >= level[:, :, None])


def _norm(norm, x, binary):
    """(the residual from there on, activations) of a norm."""
    rows = x.flatten(0, 1).T
    y = layer_norm(rows, _words(norm.gain), norm.gain.shift, **norm.scalars).T.reshape(x.shape)
    return y if norm.replaces else x, _activate(norm.out, y, binary)


def _activate(out, v, binary):
    """+-1 by thresholds, or clamped integers by affine maps; ``out`` has a row for every element of the last axis."""
    return 2 * threshold(v, _words(out)) - 1 if binary else _map(out, v).clamp(out.low, out.high)


def _map(out, v):
    return affine(v, _words(out), out.shift)


def _product(linear, a):
    return _exact("bsk,nk->bsn", a, torch.as_tensor(linear.weights))


def _exact(equation, *factors):
    """A product of integers, in binary64: exact, for no sum of the machine reaches 2**53."""
    return torch.einsum(equation, *(factor.to(torch.float64) for factor in factors)).to(torch.int64)


def _words(out):
    return torch.as_tensor(out.words())


def _tensor(array):
    return torch.as_tensor(array, dtype=torch.int64)
