"""The golden model: a decoder's forward pass in exact integer and fixed-order binary32 arithmetic.

It knows nothing of images, programs or scratch memories: tensors are whole and in their natural layout. Two numbers of the
hardware enter, because they fix the order of sums: the slices of attention (``n_slices``, the ports) and the quantum to which
heads are padded (``head_quantum``, the bytes of a port), which places the elements of the attention sub-norm's sum.
"""

import math

import torch

from celosia.gen.golden import f32, ops
from celosia.gen.golden.attention import attend
from celosia.gen.golden.vector import best, topk
from celosia.hw.formats import KV_FORMATS

__all__ = ["KV_TOPS", "GoldenModel"]

# Largest code of a key and of a value in the cache.
KV_TOPS = {name: tuple(7 if four_bits >> bit & 1 else 127 for bit in (0, 1)) for name, four_bits in KV_FORMATS.items()}
_MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


def _exact(matrix):
    return ops.exact_weights(matrix.weights, (3**matrix.planes - 1) // 2)


class GoldenModel:
    """A decoder with its KV cache.

    Parameters
    ----------
    model : celosia.gen.model.QModel
        Integer weights, scales, gains.
    rope : float32 (positions, head_dim)
        Row j holds cos and sin of position j in turn: (cos_0, sin_0, cos_1, ...). Its length is the context.
    n_slices, head_quantum : int
        Ports of the accelerator, and bytes of a port.
    kv : str
        Codes of the cache: a name of ``KV_TOPS``. Codes within -7 .. 7 take four bits of memory; they are kept here as int8,
        and their scale is that of int8: the step 127 / 7 is a factor of the queries and of the output.

    Windows and sinks are those of the model's layers. ValueError for another ``kv``.
    """

    def __init__(self, model, rope, *, n_slices=1, head_quantum=1, kv="int8"):
        if kv not in KV_TOPS:
            raise ValueError(f"Codes of the cache must be one of {', '.join(KV_TOPS)}, not {kv!r}")
        c = self.config = model.config
        self._key_top, self._value_top = KV_TOPS[kv]
        self.context = len(rope)
        self._model, self._n_slices = model, n_slices
        self._head_pad = -(-c.head_dim // head_quantum) * head_quantum
        self._cos, self._sin = rope[:, 0::2], rope[:, 1::2]
        # With a cap, attend takes the argument of its tanh.
        scores = 1 / c.attn_cap if c.attn_cap else math.log2(math.e)
        self._factor = ops.number(scores / math.sqrt(c.head_dim) * (127 / self._key_top))
        self._cap = round(c.attn_cap * math.log2(math.e) * 65536)
        self._layers, self._embedding = list(model.layers), model.embedding[:]
        self._weights = [{name: _exact(getattr(layer, name)) for name in _MATRICES} for layer in self._layers]
        self._head = ops.exact_weights(model.head.weights, 121)
        self._coarse = model.coarse and ops.exact_weights(model.coarse.weights, (3**model.plan.planes - 1) // 2)
        shape = (c.n_layers, c.n_kv_heads, self.context)
        self.keys, self.values = (torch.zeros(*shape, c.head_dim, dtype=torch.int8) for _ in range(2))
        self.key_scales, self.value_scales = torch.zeros(shape), torch.zeros(shape)

    def forward(self, token_ids, first_position, *, last_only=False):
        """Logits float32 (tokens, vocab), or (1, vocab) of the last token; fills the cache from ``first_position``.

        They are those of the exact head, whatever the plan. Positions before first_position must have been filled.
        ValueError where the context is too short.
        """
        return self.logits(self.hidden(token_ids, first_position)[-1 if last_only else 0:])

    def logits(self, hidden):
        """Logits float32 (tokens, vocab) of the exact head."""
        return self._logits(hidden, self._head, self._model.head.scale)

    def coarse_logits(self, hidden):
        """Logits float32 (tokens, vocab) of the rows that make the shortlist."""
        return self._logits(hidden, self._coarse, self._model.coarse.scale)

    def _logits(self, hidden, weights, row_scale):
        codes, scale = ops.quantise_norm(hidden, self._model.final_norm, self.config.norm_eps)
        return ops.bit_linear(codes, scale, weights, row_scale)

    def hidden(self, token_ids, first_position):
        """Output of the last layer, float32 (tokens, hidden); fills the cache from ``first_position``. A bidirectional model is
        given whole texts."""
        n = len(token_ids)
        if not 0 <= first_position <= self.context - n:
            raise ValueError(f"Positions must be within the context of {self.context}, "
                             f"not {first_position} to {first_position + n - 1}")
        eps, now = self.config.norm_eps, slice(first_position, first_position + n)
        x = f32.flush(self._embedding[torch.as_tensor(token_ids)])
        for i, layer in enumerate(self._layers):
            codes, scale = ops.quantise_norm(x, layer.attn_norm, eps)
            heads = self._quantise(self._attention(i, codes, scale, now), layer.attn_sub_norm, self._spread)
            x = f32.add(self._linear(i, "o", *heads), x)
            codes, scale = ops.quantise_norm(x, layer.ffn_norm, eps)
            h = ops.gate(self._linear(i, "gate", codes, scale), self._linear(i, "up", codes, scale), self.config.act)
            x = f32.add(self._linear(i, "down", *self._quantise(h, layer.ffn_sub_norm)), x)
        return x

    def step(self, token_ids, first_position, top_k):
        """The best candidates after the last token: [(token, logit)], best first."""
        return self.candidates(self.hidden(token_ids, first_position)[-1:], top_k)

    def candidates(self, hidden, top_k):
        """The best candidates by the model's plan after one token: [(token, logit)], best first.

        exact, ternary: the ``top_k`` best logits. shortlist: the ``plan.candidates`` best coarse logits, sorted by their exact
        logits; of equal ones the one with the better coarse logit first.
        """
        plan = self._model.plan
        logits = self.logits(hidden) if plan.kind == "exact" else self.coarse_logits(hidden)
        kept = plan.candidates if plan.kind == "shortlist" else top_k
        tokens, values = topk(logits, torch.zeros(1, dtype=torch.int64), logits.shape[1], kept)
        if plan.kind == "shortlist":
            tokens, values = best(tokens, self.logits(hidden)[0, tokens], kept)
        return list(zip(tokens.tolist(), values.tolist()))

    def _quantise(self, x, gain, spread=None):
        """Codes and scale of a sub-norm, or of ``x`` itself where the model has none."""
        return ops.quantise_row(x) if gain is None else ops.quantise_norm(x, gain, self.config.norm_eps, spread)

    def _linear(self, i, name, codes, scale):
        return ops.bit_linear(codes, scale, self._weights[i][name], getattr(self._layers[i], name).scale)

    def _spread(self, x):
        """(T, heads * head_dim) to (T, heads * head_pad), zeros between."""
        split = x.unflatten(-1, (-1, self.config.head_dim))
        return torch.nn.functional.pad(split, (0, self._head_pad - self.config.head_dim)).flatten(-2)

    def _queries(self, q, cos, sin):
        """(codes, factors) of queries (T, heads, head_dim) at positions with these rows of the rotary table."""
        codes, scale = ops.quantise_row(ops.rope(q, cos, sin))
        return codes, f32.mul(scale[..., 0], self._factor)

    def _attention(self, i, codes, scale, now):
        """Output of all heads (T, heads * head_dim); writes the cache of layer i."""
        c, n = self.config, now.stop - now.start
        q, k, v = (self._linear(i, name, codes, scale).view(n, -1, c.head_dim) for name in "qkv")
        cos, sin = self._cos[now], self._sin[now]
        queries = [self._queries(q, cos, sin)]
        if c.rebased(i) is not None:
            kept = torch.arange(now.start, now.stop).clamp(max=c.rebased(i))
            queries.append(self._queries(q, self._cos[kept], self._sin[kept]))
        for cache, cache_scale, x, top in ((self.keys, self.key_scales, ops.rope(k, cos, sin), self._key_top),
                                           (self.values, self.value_scales, v, self._value_top)):
            x, x_scale = ops.quantise_row(x, top)
            cache[i, :, now], cache_scale[i, :, now] = x.transpose(0, 1), x_scale[..., 0].T
        outputs = []
        for head in range(c.n_kv_heads):
            group = slice(head * c.n_heads // c.n_kv_heads, (head + 1) * c.n_heads // c.n_kv_heads)
            usual, *rebased = ((q[:, group], factor[:, group]) for q, factor in queries)
            acc, out_scale = attend(
                *usual, self.keys[i, head, :now.stop], self.key_scales[i, head, :now.stop],
                self.values[i, head, :now.stop], self.value_scales[i, head, :now.stop], now.start, self._n_slices,
                window=c.window(i), sinks=c.sinks, bidirectional=c.bidirectional, rebased=rebased[0] if rebased else None,
                cap=self._cap)
            outputs.append(f32.mul(f32.from_int(acc), out_scale[..., None]))
        found = torch.cat(outputs, 1).reshape(n, -1)
        return found if self._value_top == 127 else f32.mul(found, ops.number(127 / self._value_top))
