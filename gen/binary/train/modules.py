"""One encoder that can be trained as four twins: float, ternary (W1.58A8), binary W1A8 and binary W1A1.

    x = patches or words + positions
    x += o(Q(attention(q, k, v of Q(norm1(x)))))        pre-norm, n_layers times
    x += down(Q(relu(up(Q(norm2(x))))))                 Q of W1A1: {0, 1} by a threshold, no relu
    logits = mean over valid tokens of head(Q8(final_norm(x)))

                  weights               Q                          attention
    float         as they are           none                       softmax(q k / sqrt(D)) v
    ternary       absmean, one scale    clamp(round(z / alpha))    as float
    w1a8          sign, mean |W| a row  clamp(round(z / alpha))    binary
    w1a1          sign, mean |W| a row  alpha sign(z - beta)       binary

Binary attention: q, k, v are signs of (. - beta); the map is 0 or 1, the sum over the keys is an integer:

    s = q k      sps: A = [s >= threshold]      softmax: A = [softmax(scale s) > threshold]      o = A v

Patches and head of all twins but float have odd integers -255..255 as weights (eight planes) and one scale a row. The gradient
passes every rounding by a surrogate (straight-through), written out beside it. Names of parameters are those of the checkpoint,
but that `log_alpha`, `log_scale` and `log_threshold` are logarithms.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["TWINS", "Encoder", "EncoderConfig", "eight_planes", "sign"]

TWINS = {"float": ("float", None), "ternary": ("ternary", 8), "w1a8": ("binary", 8), "w1a1": ("binary", 1)}
X_FRAC = 10  # fraction bits of the residual stream, and so of embeddings and positions
HEAD_MAXIMUM = 255


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of an encoder. One of `patch_values` (pixels of a patch) and `vocab_size` is 0."""

    n_labels: int
    max_tokens: int
    patch_values: int = 0
    vocab_size: int = 0
    hidden_size: int = 64
    intermediate_size: int = 256
    n_layers: int = 4
    n_heads: int = 4
    attention: str = "sps"
    twin: str = "float"
    norm_eps: float = 1e-5
    dropout: float = 0.0

    def __post_init__(self):
        def need(ok, rule, found):
            if not ok:
                raise ValueError(f"{rule}, not {found}")

        need(self.twin in TWINS, f"Twin must be one of {', '.join(TWINS)}", self.twin)
        need(self.attention in ("sps", "softmax"), "Attention must be 'sps' or 'softmax'", self.attention)
        need(bool(self.patch_values) != bool(self.vocab_size), "One of patch_values and vocab_size must be 0",
             f"{self.patch_values} and {self.vocab_size}")
        need(self.hidden_size % 8 == 0 and self.hidden_size % self.n_heads == 0,
             f"Hidden size must be a multiple of 8 and of the {self.n_heads} heads", self.hidden_size)

    @property
    def weights(self):
        return TWINS[self.twin][0]

    @property
    def activation_bits(self):
        return TWINS[self.twin][1]

    @property
    def head_dim(self):
        return self.hidden_size // self.n_heads


class _Straight(torch.autograd.Function):
    """value, with the gradient of u where `kept`, and of 0 elsewhere; without `kept` of u everywhere."""

    @staticmethod
    def forward(ctx, value, u, kept):
        ctx.save_for_backward(kept)
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        (kept,) = ctx.saved_tensors
        return None, grad if kept is None else grad * kept, None


def straight(value, u, low=None, high=None):
    """`value`, with the gradient of u clamped to low .. high."""
    with torch.no_grad():
        kept = None if low is None else (u >= low) & (u <= high)
    return _Straight.apply(value.detach(), u, kept)


def sign(z):
    """1 where z >= 0, -1 elsewhere."""
    return (z >= 0).to(z.dtype) * 2 - 1


def eight_planes(weight):  # (rows, columns) -> odd integers of -255..255 as float32, (rows, 1) scale
    """Odd integers and a scale a row."""
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-8) / HEAD_MAXIMUM
    return (2 * torch.floor(weight / scale / 2) + 1).clamp(-HEAD_MAXIMUM, HEAD_MAXIMUM), scale


class Linear(nn.Module):
    """x W^T + bias, W by `kind`: float, ternary, binary, planes."""

    def __init__(self, n_in, n_out, kind):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_out, n_in))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.kind = kind

    def rounded(self):
        """Integers and scale of the weights, (rows, columns) and (rows, 1) or ()."""
        if self.kind == "binary":
            return sign(self.weight), self.weight.abs().mean(1, keepdim=True).clamp(min=1e-8)
        if self.kind == "ternary":
            scale = self.weight.abs().mean().clamp(min=1e-8)
            return (self.weight / scale).round().clamp(-1, 1), scale
        return eight_planes(self.weight)

    def forward(self, x):
        if self.kind == "float":
            return F.linear(x, self.weight, self.bias)
        with torch.no_grad():
            integers, scale = self.rounded()
        return F.linear(x, straight(integers * scale, self.weight), self.bias)


class Quantiser(nn.Module):
    """Q: the input of a linear layer in 8 bits or 1 bit; the first batch sets alpha.

    `low` is the least integer of 8 bits (-127 or 0); with 0, one bit is {0, 1}. `exact`: 8-bit codes are the integers themselves.
    """

    def __init__(self, size, bits, low=-127, exact=False):
        super().__init__()
        self.bits, self.low, self.exact = bits, low, exact
        self.log_alpha = nn.Parameter(torch.zeros(()), requires_grad=not exact)
        self.register_buffer("is_set", torch.tensor(exact))
        if bits == 1:
            self.beta = nn.Parameter(torch.zeros(size))

    def forward(self, z):
        if not self.is_set:
            size = z.detach().abs()
            self.log_alpha.data.fill_(size.mean() if self.bits == 1 else size.max() / 127).log_()
            self.is_set.fill_(True)
        alpha = self.log_alpha.exp()
        if self.bits == 8:
            u = z / alpha
            return alpha * straight(u.detach().round().clamp(self.low, 127), u, self.low, 127)
        u = (z - self.beta) / alpha
        if self.low < 0:
            return alpha * straight(sign(u), u, -1, 1)
        return alpha * straight((u >= 0).to(u.dtype), 0.5 * u, -0.5, 0.5)


class Heads(nn.Module):
    """Signs of queries, keys or values: sign(. - beta). The surrogate is linear over one standard deviation to either side."""

    def __init__(self, size):
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(size))

    def forward(self, z):
        u = (z - self.beta) / z.detach().std().clamp(min=1e-6)
        return straight(sign(u), u, -1, 1)


class Map(nn.Module):
    """The attention map of binary attention, 0 or 1, from s = q k; numbers a head."""

    def __init__(self, config):
        super().__init__()
        self.kind = config.attention
        if self.kind == "sps":
            self.threshold = nn.Parameter(torch.full([config.n_heads], 0.25 * config.head_dim ** 0.5))
            self.gain = 2.0 / config.head_dim ** 0.5
        else:
            self.log_scale = nn.Parameter(torch.full([config.n_heads], -0.5 * math.log(config.head_dim)))
            self.log_threshold = nn.Parameter(torch.full([config.n_heads], -math.log(config.max_tokens)))

    def forward(self, s, visible):  # (n, heads, T, T), (n, 1, 1, T) bool
        if self.kind == "sps":
            above = self.gain * (s - self.threshold[:, None, None])
            kept = above >= 0
        else:
            logits = (self.log_scale.exp()[:, None, None] * s).masked_fill(~visible, -math.inf)
            above = logits - logits.logsumexp(-1, keepdim=True) - self.log_threshold[:, None, None]
            above = 2 * above.masked_fill(~visible, 0.0)
            kept = above > 0
        return straight(kept.to(s.dtype), above.sigmoid()) * visible


class Layer(nn.Module):
    """Attention and feed-forward, both added to the residual stream."""

    def __init__(self, config):
        super().__init__()
        c = self.config = config
        bits, binary = c.activation_bits, c.weights == "binary"

        def quantiser(size, **options):
            return nn.Identity() if bits is None else Quantiser(size, bits, **options)

        self.norm1 = nn.LayerNorm(c.hidden_size, c.norm_eps)
        self.norm2 = nn.LayerNorm(c.hidden_size, c.norm_eps)
        for name in "qkvo":
            setattr(self, name, Linear(c.hidden_size, c.hidden_size, c.weights))
        self.up = Linear(c.hidden_size, c.intermediate_size, c.weights)
        self.down = Linear(c.intermediate_size, c.hidden_size, c.weights)
        self.attention_in = quantiser(c.hidden_size)
        self.attention_out = quantiser(c.hidden_size, exact=binary and bits == 8)
        self.ffn_in = quantiser(c.hidden_size)
        self.ffn_mid = quantiser(c.intermediate_size, low=0)
        if binary:
            self.signs = nn.ModuleDict({name: Heads(c.hidden_size) for name in "qkv"})
            self.map = Map(c)

    def attend(self, h, visible):
        """Attention without its output matrix."""
        c = self.config
        q, k, v = (getattr(self, name)(h) for name in "qkv")
        if c.weights == "binary":
            q, k, v = (self.signs[name](z) for name, z in zip("qkv", (q, k, v)))
        q, k, v = (z.unflatten(-1, (c.n_heads, c.head_dim)).transpose(1, 2) for z in (q, k, v))
        s = q @ k.transpose(-1, -2)
        if c.weights == "binary":
            share = self.map(s, visible)
        else:
            share = (s * c.head_dim ** -0.5).masked_fill(~visible, -math.inf).softmax(-1)
        return (share @ v).transpose(1, 2).flatten(2)

    def forward(self, x, visible):
        drop = self.config.dropout
        h = self.attend(self.attention_in(self.norm1(x)), visible)
        x = x + F.dropout(self.o(self.attention_out(h)), drop, self.training)
        u = self.up(self.ffn_in(self.norm2(x)))
        if self.config.activation_bits is None:
            u = u.relu()
        return x + F.dropout(self.down(self.ffn_mid(u)), drop, self.training)


class Encoder(nn.Module):
    """The encoder. Sequences have config.max_tokens places, the first `length` of them valid."""

    def __init__(self, config):
        super().__init__()
        c = self.config = config
        outer = "float" if c.weights == "float" else "planes"
        if c.patch_values:
            self.patch = Linear(c.patch_values, c.hidden_size, outer)
        else:
            self.token = nn.Embedding(c.vocab_size, c.hidden_size)
        self.position = nn.Embedding(c.max_tokens, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.n_layers))
        self.final_norm = nn.LayerNorm(c.hidden_size, c.norm_eps)
        self.head_in = nn.Identity() if c.weights == "float" else Quantiser(c.hidden_size, 8)
        self.head = Linear(c.hidden_size, c.n_labels, outer)

    def initialise(self, generator):
        """Normal weights of the size 1 / sqrt(columns); matrices that write to the residual stream are smaller."""
        table = 0.5 if self.config.patch_values else 0.1
        for name, p in self.named_parameters():
            if p.ndim == 2:
                std = table if name in ("token.weight", "position.weight") else p.shape[1] ** -0.5
                if name.endswith(("o.weight", "down.weight")):
                    std /= (2 * self.config.n_layers) ** 0.5
                if name == "patch.weight":
                    std /= 8  # pixels are integers
                nn.init.normal_(p, std=std, generator=generator)

    def begin_with(self, other):
        """Take the weights of another twin. Sums of binary attention are larger than means: the matrix after them is smaller."""
        mine, theirs = self.state_dict(), other.state_dict()
        same = {name for name in mine if name in theirs and mine[name].shape == theirs[name].shape}
        if self.config.twin != other.config.twin:
            same = {name for name in same if not name.endswith(("log_alpha", "is_set"))}
        self.load_state_dict({name: theirs[name] if name in same else value for name, value in mine.items()})
        if self.config.weights == "binary" and other.config.weights != "binary":
            with torch.no_grad():
                for layer in self.layers:
                    layer.o.weight.mul_(self.config.max_tokens ** -0.5)

    def table(self, name):
        """Embeddings or positions as the machine holds them: X_FRAC fraction bits."""
        weight = getattr(self, name).weight
        if self.config.weights == "float":
            return weight
        return straight((weight * 2 ** X_FRAC).round() / 2 ** X_FRAC, weight)

    def forward(self, inputs, length):  # (n, T, patch_values) or (n, T) int64, (n,) int64 -> (n, n_labels)
        if self.config.patch_values:
            x = self.patch(inputs.float()) + self.table("position")
        else:
            x = F.embedding(inputs, self.table("token")) + self.table("position")
        valid = torch.arange(x.shape[1]) < length[:, None]
        for layer in self.layers:
            x = layer(x, valid[:, None, None])
        logits = self.head(self.head_in(self.final_norm(x)))
        return (logits * valid[..., None]).sum(1) / length[:, None]
