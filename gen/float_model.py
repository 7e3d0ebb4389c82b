"""A checkpoint in floating point, nothing rounded: what the quantised model is measured against.

It is no definition of anything; sums are in the order that torch likes.
"""

import torch

from .place import rope_table

__all__ = ["FloatModel"]


def _capped(x, cap):
    return cap * (x / cap).tanh() if cap else x


class FloatModel:
    """The forward pass of a :class:`celosia.gen.model.Checkpoint` of float tensors, on several texts at once."""

    def __init__(self, checkpoint):
        self._checkpoint, self.config = checkpoint, checkpoint.config
        self._embedding, self._head = checkpoint.embedding[:], checkpoint.head[:]
        rope = rope_table(self.config, self.config.max_positions)
        self._cos, self._sin = rope[:, 0::2], rope[:, 1::2]

    def logits(self, tokens):
        """(texts, tokens) ids to (texts, tokens, vocab) float32."""
        return self.logits_of(self.hidden(tokens))

    def logits_of(self, hidden):
        return _capped(self._norm(hidden, self._checkpoint.final_norm) @ self._head.T, self.config.logit_cap)

    def hidden(self, tokens):
        """(texts, tokens) ids to (texts, tokens, hidden): the output of the last layer."""
        c = self.config
        x = self._embedding[tokens]
        for i, layer in enumerate(self._checkpoint.layers):
            attended = self._attention(layer, self._norm(x, layer["attn_norm"]), c.window(i), c.rebased(i))
            x = x + self._norm(attended, layer.get("attn_sub_norm")) @ layer["o"].T
            y = self._norm(x, layer["ffn_norm"])
            gate = y @ layer["gate"].T
            gate = gate.relu().square() if c.act == "relu2" else torch.nn.functional.silu(gate)
            x = x + self._norm(gate * (y @ layer["up"].T), layer.get("ffn_sub_norm")) @ layer["down"].T
        return x

    def write(self, n_texts, n_tokens, first_token, seed=None):
        """Ids (n_texts, n_tokens) that begin with ``first_token`` and are drawn from the model at temperature 1, or the likeliest
        without a seed."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        tokens = torch.full((n_texts, 1), first_token)
        for _ in range(n_tokens - 1):
            logits = self.logits_of(self.hidden(tokens)[:, -1])
            following = logits.argmax(-1, keepdim=True) if generator is None else \
                torch.multinomial(logits.softmax(-1), 1, generator=generator)
            tokens = torch.cat((tokens, following), 1)
        return tokens

    def _norm(self, x, gain):
        return x if gain is None else x * (x.pow(2).mean(-1, keepdim=True) + self.config.norm_eps).rsqrt() * gain

    def _attention(self, layer, y, window, rebased):
        n = y.shape[1]
        own = torch.arange(n)

        def heads(name):
            return (y @ layer[name].T).unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)

        def turned(x, positions):
            low, high = x.chunk(2, -1)
            cos, sin = self._cos[positions], self._sin[positions]
            return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)

        q, k, v = heads("q"), turned(heads("k"), own), heads("v")
        k, v = (part.repeat_interleave(self.config.group, 1) for part in (k, v))
        back, sinks = own[:, None] - own, own < self.config.sinks
        seen = ((back >= 0) | self.config.bidirectional) & ((back < (window or n)) | sinks)
        score = turned(q, own) @ k.transpose(-1, -2)
        if rebased is not None:
            score = torch.where(sinks & (back >= window), turned(q, own.clamp(max=rebased)) @ k.transpose(-1, -2), score)
        score = _capped(score / self.config.head_dim ** 0.5, self.config.attn_cap).masked_fill(~seen, float("-inf")).softmax(-1)
        return (score @ v).transpose(1, 2).flatten(2)
