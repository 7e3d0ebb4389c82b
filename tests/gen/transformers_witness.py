"""How far rounding can take the logits of the golden model from those of transformers: to first order, from autograd.

A site is a vector x that one of the two rounds: codes of eight bits with step s = max(max|x|, 1e-5) / 127.

    site                            vectors                          rounded by
    input of q, k, v; of o; of      a token                          us; by BitLinear too, to the same grid
    gate and up; of down
    queries, keys, values           a head of a token, after the     us
                                    rotation
    output of attention             errors of up to a = 2**-11       us
                                    max|v|: gen/golden/attention.py
    input of the head               a token                          us

With J_li = d logit_l / d x_i of the model in floating point (weights as packed), summed over the elements i of all sites:

    sigma_l^2 = sum J_li^2 v_i        v = s^2 / 12    one side rounds: an error spread over +-s / 2; a^2 for attention
                                      v = s^2 / 4     both sides round: their difference is a step with probability p, no step
                                                      otherwise; the variance s^2 p (1 - p) is at most this; so is that of two
                                                      independent errors on grids of at most s, s^2 / 6

A rotation mixes pairs of elements whose errors have the same variance, so the site of queries and keys is taken before it,
with the largest radius of a pair in the place of max|x|.
"""

import torch

__all__ = ["BOUND_SIGMAS", "assert_near", "sigmas"]

BOUND_SIGMAS = 6
_WEIGHT_ERROR = {1: 1e-6, 3: 0.10, 4: 0.04, 5: 0.015, "auto": 0.081}      # |W - W'| / |W| of a matrix, by digit planes
_HEAD_ERROR = 0.01
_LEAST_ABSMAX = 1e-5
_ATTENTION_ERROR = 2.0**-11      # of the largest value: what gen/golden/attention.py is held to


def assert_near(packed, original, planes):
    """Weights as packed {name: tensor} are the ``original`` ones but for their rounding; else its effect would excuse anything."""
    for name, weight in packed.items():
        if not name.endswith("bias") and ("_proj" in name or "lm_head" in name):
            error = float((weight - original[name]).norm() / original[name].norm())
            assert error < (_HEAD_ERROR if "lm_head" in name else _WEIGHT_ERROR[planes]), (name, error)


class _Sites:
    """Zeros that are added to a model's activations, so that there is a gradient with respect to each, and their variances."""

    def __init__(self, model, shared):
        config = model.config
        self._head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._shared = 3 if shared else 1
        self.leaves, self.variances, self.largest, self._handles = {}, {}, {}, []
        for i, layer in enumerate(model.model.layers):
            attention, mlp = layer.self_attn, layer.mlp
            for name, modules in (("qkv", (attention.q_proj, attention.k_proj, attention.v_proj)), ("o", (attention.o_proj,)),
                                  ("ffn", (mlp.gate_proj, mlp.up_proj)), ("down", (mlp.down_proj,))):
                for module in modules:
                    self._before(module, f"{i}.{name}", self._token)
            for name in "qkv":
                self._after(getattr(attention, f"{name}_proj"), f"{i}.{name}", self._head if name == "v" else self._turned_head)
            self._before(getattr(attention, "attn_sub_norm", attention.o_proj), f"{i}.attended",
                         lambda x, i=i: (_ATTENTION_ERROR * self.largest[f"{i}.v"]).square().expand_as(x))
        self._before(model.lm_head, "head", lambda x: self._variance(x.abs().amax(-1, keepdim=True), x))

    def close(self):
        for handle in self._handles:
            handle.remove()

    def _before(self, module, name, variance):
        self._handles.append(module.register_forward_pre_hook(lambda _, args: (self._leaf(name, args[0], variance),)))

    def _after(self, module, name, variance):
        self._handles.append(module.register_forward_hook(lambda _, args, out: self._leaf(name, out, variance)))

    def _leaf(self, name, x, variance):
        if name not in self.leaves:
            self.leaves[name] = torch.zeros_like(x, requires_grad=True)
            self.largest[name] = x.detach().abs().max()
            self.variances[name] = variance(x.detach())
        return x + self.leaves[name]

    def _token(self, x):
        return self._shared * self._variance(x.abs().amax(-1, keepdim=True), x)

    def _head(self, x):
        heads = x.unflatten(-1, (-1, self._head_dim))
        return self._variance(heads.abs().amax(-1, keepdim=True), heads).flatten(-2)

    def _turned_head(self, x):
        heads = x.unflatten(-1, (-1, self._head_dim))
        low, high = heads.chunk(2, -1)
        return self._variance((low.square() + high.square()).sqrt().amax(-1, keepdim=True), heads).flatten(-2)

    @staticmethod
    def _variance(absmax, x):
        return ((absmax.clamp(min=_LEAST_ABSMAX) / 127) ** 2 / 12).expand_as(x)


def sigmas(model, tokens, shared, positions=None, log_probabilities=False):
    """Standard deviations (positions, vocab) of the logits of the golden model about those of transformers.

    model : a causal language model of transformers with float weights, those that are packed; ``eager`` attention
    tokens : list of ids
    shared : whether the reference rounds the inputs of matrices too, as BitLinear does
    positions : those whose logits are asked for; all by default
    log_probabilities : of the logarithms of the probabilities instead
    """
    sites = _Sites(model, shared)
    try:
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
        names, found = list(sites.leaves), []
        for row in (logits.log_softmax(-1) if log_probabilities else logits)[slice(None) if positions is None else positions]:
            gradients = torch.autograd.grad(row, [sites.leaves[name] for name in names], torch.eye(len(row)), retain_graph=True,
                                            is_grads_batched=True)
            found.append(sum((gradient.square() * sites.variances[name]).flatten(1).sum(1)
                             for name, gradient in zip(names, gradients)))
    finally:
        sites.close()
    return torch.stack(found).sqrt()
