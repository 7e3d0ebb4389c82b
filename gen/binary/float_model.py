"""The float reference of a binary encoder: what a checkpoint means, in binary64, before anything is folded.

    x0 = embedding + position                       embedding: row of the token, or scale (patch . pixels) + bias
    pre:  h = norm1(x); x += Lin_o(Q(attention(Q(h)))); h = norm2(x); x += Lin_down(mid(Lin_up(Q(h))))
    post: x0 = norm(x0); x = norm1(x + Lin_o(..)); x = norm2(x + Lin_down(..)), Q(x) where pre has Q(h)
    Lin(a)_n = scale_n alpha sum_c w_nc a_c + bias_n
    Q: 1 bit: sign(z - beta); 8 bits: clamp(round(z / alpha), -127, 127)        mid: [u >= beta], or clamp(round(u / alpha), 0, 127)
    q, k, v = sign(Lin(a) - beta);   A = [q . k >= threshold], or [softmax(scale q . k) > threshold];   attention = A v

sign(0) is +1; integers are rounded half up.
"""

import torch

from .model import ImageInput

__all__ = ["forward", "image_rows", "pooled", "text_rows"]


def image_rows(model, pixels):      # (B, tokens, pixels of a patch), 0 .. maximum -> (B, tokens, hidden)
    """x0 of images cut into patches."""
    assert isinstance(model.config.input, ImageInput)
    t = _Tensors(model)
    product = torch.as_tensor(pixels, dtype=torch.float64) @ t["patch.weight"].T
    return product * t["patch.scale"] + t["patch.bias"] + t["position.weight"][:product.shape[1]]


def text_rows(model, ids):          # (B, tokens) -> (B, tokens, hidden)
    """x0 of token ids."""
    t, ids = _Tensors(model), torch.as_tensor(ids)
    return t["token.weight"][ids] + t["position.weight"][:ids.shape[1]]


def forward(model, x, lengths):     # (B, S, hidden), (B,) -> (B, S, labels)
    """Logits of every token; those behind the length of a sequence mean nothing."""
    c, t = model.config, _Tensors(model)
    valid = torch.arange(x.shape[1]) < torch.as_tensor(lengths)[:, None]
    x = x.to(torch.float64)
    if c.norm == "post":
        x = _norm(t, "embedding_norm", x, c.norm_eps)
    for i in range(c.n_layers):
        of = t.layer(i)
        h = _norm(of, "norm1", x, c.norm_eps) if c.norm == "pre" else x
        x = x + _linear(of, "o", "attention_out", _quantise(of, "attention_out", _attention(c, of, h, valid), c.act_bits))
        x = _norm(of, "norm1", x, c.norm_eps) if c.norm == "post" else x
        h = _norm(of, "norm2", x, c.norm_eps) if c.norm == "pre" else x
        u = _linear(of, "up", "ffn_in", _quantise(of, "ffn_in", h, c.act_bits))
        mid = (u >= of["ffn_mid.beta"]).double() if c.act_bits == 1 else _round(u / of["ffn_mid.alpha"]).clamp(0, 127)
        x = x + _linear(of, "down", "ffn_mid", mid)
        x = _norm(of, "norm2", x, c.norm_eps) if c.norm == "post" else x
    h = _norm(t, "final_norm", x, c.norm_eps) if c.norm == "pre" else x
    a = _quantise(t, "head_in", h, 8)
    return t["head.scale"] * t["head_in.alpha"] * (a @ t["head.weight"].T) + t["head.bias"]


def pooled(config, logits, lengths):    # (B, S, labels), (B,) -> (B, labels), without pooling as it is
    """Logits of a sequence."""
    if config.pooling == "none":
        return logits
    if config.pooling == "first":
        return logits[:, 0]
    lengths = torch.as_tensor(lengths)[:, None]
    valid = torch.arange(logits.shape[1]) < lengths
    return (logits * valid[:, :, None]).sum(1) / lengths


class _Tensors:
    """Tensors of a model in binary64 by name, with a prefix before it."""

    def __init__(self, model, prefix=""):
        self._model, self._prefix = model, prefix

    def __getitem__(self, name):
        return torch.as_tensor(self._model.tensors[self._prefix + name]).to(torch.float64)

    def layer(self, i):
        return _Tensors(self._model, f"layers.{i}.")


def _attention(c, of, h, valid):
    a = _quantise(of, "attention_in", h, c.act_bits)
    q, k, v = (_sign(_linear(of, name, "attention_in", a) - of[f"{name}.beta"]).unflatten(2, (c.n_heads, c.head_dim))
               for name in ("q", "k", "v"))
    scores = torch.einsum("bihd,bjhd->bhij", q, k)
    seen, threshold = valid[:, None, None, :], of["map.threshold"][:, None, None]
    if c.attention == "sps":
        taken = seen & (scores >= threshold)
    else:
        logits = (of["map.scale"][:, None, None] * scores).masked_fill(~seen, -torch.inf)
        taken = seen & (logits.softmax(3) > threshold)
    return torch.einsum("bhij,bjhd->bihd", taken.double(), v).flatten(2)


def _linear(of, name, source, a):
    return of[f"{name}.scale"] * of[f"{source}.alpha"] * (a @ of[f"{name}.weight"].T) + of[f"{name}.bias"]


def _quantise(of, name, z, act_bits):
    if act_bits == 1:
        return _sign(z - of[f"{name}.beta"])
    return _round(z / of[f"{name}.alpha"]).clamp(-127, 127)


def _norm(of, name, x, eps):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], of[f"{name}.weight"], of[f"{name}.bias"], eps)


def _sign(z):
    return torch.where(z >= 0, 1.0, -1.0).to(torch.float64)


def _round(z):
    return torch.floor(z + 0.5)
