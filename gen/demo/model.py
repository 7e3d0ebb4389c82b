"""A byte-level BitNet b1.58 decoder that can be trained: ternary weights, int8 activations.

    x -> norm -> q k v -> RoPE -> attention -> sub-norm -> o -> + x
      -> norm -> relu(gate)^2 * up -> sub-norm -> down -> + x        (n_layers times)
      -> norm -> tied embedding -> 256 logits

Layer order, names and formulas are those of `BitNetForCausalLM` of Hugging Face transformers.
Every linear layer computes on codes:

    s = max(mean |W|, 1e-5)       trit = clamp(round(W / s), -1, 1)          one s a matrix
    k = 127 / max(max |x|, 1e-5)  code = clamp(round(x k), -128, 127)        one k a token
    y = (code @ trit.T) s / k

The gradient passes both roundings unchanged (straight-through estimator); W stays binary32.
While training, matrix products run in bfloat16: codes and trits are exact in it, only the sums
are rounded.  `exact=True` computes them in binary32, where every sum is exact as well.
"""

from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["DemoConfig", "DemoModel", "quantise_weight", "quantise_tokens"]


@dataclass(frozen=True)
class DemoConfig:
    """Shape of the decoder.  Sizes are counts of elements."""
    hidden_size: int = 192
    intermediate_size: int = 512
    n_layers: int = 4
    n_heads: int = 6
    n_kv_heads: int = 3
    vocab_size: int = 256
    context: int = 256
    max_positions: int = 512
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    def __post_init__(self):
        if self.hidden_size % self.n_heads:
            raise ValueError(f"Hidden size must be a multiple of the {self.n_heads} heads, "
                             f"not {self.hidden_size}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"Heads must be a multiple of the {self.n_kv_heads} KV heads, "
                             f"not {self.n_heads}")

    @property
    def head_dim(self):
        return self.hidden_size // self.n_heads


def quantise_weight(weight):  # (out, in) float32 -> (out, in) trits as float32, () scale
    """BitNet's absmean rule.  Round half to even; weight is about trits * scale."""
    scale = weight.abs().mean().clamp(min=1e-5)
    return (weight * (1.0 / scale)).round().clamp(-1, 1), scale


def quantise_tokens(x):  # (..., n) float32 -> (..., n) int8 codes as float32, (..., 1) factor
    """Absmax a token.  Round half to even; x is about codes / factor."""
    factor = 127 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
    return (x * factor).round().clamp(-128, 127), factor


class _CodeMatmul(torch.autograd.Function):
    """y = (codes @ trits.T) * scale / factor, with straight-through gradients for x and W."""

    @staticmethod
    def forward(ctx, x, weight, codes, factor, trits, scale):
        ctx.save_for_backward(codes, factor, trits, scale)
        return (codes @ trits.T).float() * (scale / factor)

    @staticmethod
    def backward(ctx, grad):
        codes, factor, trits, scale = ctx.saved_tensors
        grad_x = ((grad * scale).to(trits.dtype) @ trits).float()
        grad_w = ((grad / factor).to(codes.dtype).T @ codes).float()
        return grad_x, grad_w, None, None, None, None


def _attention(q, k, v, block=128):  # each (batch, heads, n, head_dim)
    """Causal attention, a block of queries at a time: keys after the block are never touched."""
    n, scale = q.shape[2], q.shape[3] ** -0.5
    mask = torch.full((n, n), float("-inf"), device=q.device).triu(1)
    outputs = []
    for start in range(0, n, block):
        end = min(start + block, n)
        scores = (q[:, :, start:end] * scale) @ k[:, :, :end].transpose(-1, -2)
        share = (scores.float() + mask[start:end, :end]).softmax(-1).to(v.dtype)
        outputs.append(share @ v[:, :, :end])
    return torch.cat(outputs, 2)


class _Norm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class _Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = self.config = config
        kv_size = c.n_kv_heads * c.head_dim

        def linear(n_in, n_out):
            return nn.Linear(n_in, n_out, bias=False)

        self.self_attn = nn.ModuleDict({
            "q_proj": linear(c.hidden_size, c.hidden_size),
            "k_proj": linear(c.hidden_size, kv_size),
            "v_proj": linear(c.hidden_size, kv_size),
            "o_proj": linear(c.hidden_size, c.hidden_size),
            "attn_sub_norm": _Norm(c.hidden_size, c.norm_eps)})
        self.mlp = nn.ModuleDict({
            "gate_proj": linear(c.hidden_size, c.intermediate_size),
            "up_proj": linear(c.hidden_size, c.intermediate_size),
            "down_proj": linear(c.intermediate_size, c.hidden_size),
            "ffn_sub_norm": _Norm(c.intermediate_size, c.norm_eps)})
        self.input_layernorm = _Norm(c.hidden_size, c.norm_eps)
        self.post_attention_layernorm = _Norm(c.hidden_size, c.norm_eps)


class DemoModel(nn.Module):
    """The decoder.  `weights` is "ternary" (with int8 activations) or "float" (the twin).

    Parameters carry the names of `BitNetForCausalLM.state_dict()`.
    """

    def __init__(self, config, *, weights="ternary"):
        super().__init__()
        if weights not in ("ternary", "float"):
            raise ValueError(f"Weights must be 'ternary' or 'float', not {weights!r}")
        self.config = config
        self.ternary = weights == "ternary"
        self.model = nn.ModuleDict({
            "embed_tokens": nn.Embedding(config.vocab_size, config.hidden_size),
            "layers": nn.ModuleList(_Layer(config) for _ in range(config.n_layers)),
            "norm": _Norm(config.hidden_size, config.norm_eps)})
        position = torch.arange(config.max_positions, dtype=torch.float)
        pair = torch.arange(0, config.head_dim, 2, dtype=torch.float)
        angle = torch.outer(position, 1.0 / config.rope_theta ** (pair / config.head_dim))
        self.register_buffer("cos", torch.cat((angle, angle), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angle, angle), -1).sin(), persistent=False)

    def initialise(self, generator):
        """Normal weights, std 0.02; matrices that write to the residual stream are smaller."""
        for name, p in self.named_parameters():
            if p.ndim == 2:
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = 0.02 / (2 * self.config.n_layers) ** 0.5 if writes else 0.02
                nn.init.normal_(p, std=std, generator=generator)

    def _linear(self, x, layers, exact):  # (rows, n) -> one (rows, out) for each layer
        """Layers that read the same x run as one product."""
        dtype = torch.float32 if exact else torch.bfloat16
        weight = torch.cat([layer.weight for layer in layers])
        sizes = [layer.weight.shape[0] for layer in layers]
        if not self.ternary:
            return (x.to(dtype) @ weight.to(dtype).T).float().split(sizes, -1)
        with torch.no_grad():
            pairs = [quantise_weight(layer.weight) for layer in layers]
            trits = torch.cat([t for t, _ in pairs]).to(dtype)
            scale = torch.cat([s.expand(n) for (_, s), n in zip(pairs, sizes)])
            codes, factor = quantise_tokens(x)
        y = _CodeMatmul.apply(x, weight, codes.to(dtype), factor, trits, scale)
        return y.split(sizes, -1)

    def _rope(self, x, n):  # (batch, heads, n, head_dim)
        half = x.shape[-1] // 2
        turned = torch.cat((-x[..., half:], x[..., :half]), -1)
        return x * self.cos[:n] + turned * self.sin[:n]

    def forward(self, tokens, exact=False):  # (batch, n) int64 -> (batch, n, vocab) float32
        c, (batch, n) = self.config, tokens.shape
        dtype = torch.float32 if exact else torch.bfloat16
        x = self.model["embed_tokens"](tokens).view(batch * n, -1)

        def heads(t):
            return t.view(batch, n, -1, c.head_dim).transpose(1, 2)

        for layer in self.model["layers"]:
            a, f = layer.self_attn, layer.mlp
            h = layer.input_layernorm(x)
            q, k, v = self._linear(h, [a["q_proj"], a["k_proj"], a["v_proj"]], exact)
            q, k, v = self._rope(heads(q), n), self._rope(heads(k), n), heads(v)
            k = k.repeat_interleave(c.n_heads // c.n_kv_heads, 1)
            v = v.repeat_interleave(c.n_heads // c.n_kv_heads, 1)
            h = _attention(q.to(dtype), k.to(dtype), v.to(dtype)).float()
            h = a["attn_sub_norm"](h.transpose(1, 2).reshape(batch * n, -1))
            x = x + self._linear(h, [a["o_proj"]], exact)[0]
            h = layer.post_attention_layernorm(x)
            gate, up = self._linear(h, [f["gate_proj"], f["up_proj"]], exact)
            h = f["ffn_sub_norm"](gate.relu().square() * up)
            x = x + self._linear(h, [f["down_proj"]], exact)[0]
        h = self.model["norm"](x)
        logits = h.to(dtype) @ self.model["embed_tokens"].weight.to(dtype).T
        return logits.float().view(batch, n, -1)
