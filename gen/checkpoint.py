"""Checkpoints in the layout of Hugging Face: a directory with config.json and tensors (``gen/tensors.py``).

    bitnet             BitNetForCausalLM: packed (uint8, four outputs a byte, ``weight_scale``) or master weights
    llama              LlamaForCausalLM, floats (master weights where ``quant_method`` is ``bitnet``); with sub-norms
                       ``inner_attn_ln`` and ``ffn_layernorm`` the first models of BitNet b1.58 (bitnet_b1_58-large, -3B)
    mistral, qwen2     the same shape; with their sliding windows; biases must be zeros

A file ``*.gguf`` is left to ``gguf_checkpoint``, a file ``*.bin`` to ``llama2c``.

Packed form: with R = ceil(outputs / 4), byte (r, c) holds outputs r, r + R, r + 2R, r + 3R in bits 1:0, 3:2, 5:4, 7:6,
code = trit + 1. ``BitLinear`` divides by weight_scale (it holds 1 / absmean), ``AutoBitLinear`` multiplies by it.

Names, shapes and types of all tensors are checked when a checkpoint is loaded; the matrices of a layer are read, and their
values checked, when the layer is asked for.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as shown

import torch

from . import gguf_checkpoint, llama2c
from .model import MATRICES, Checkpoint, ModelConfig, Trits
from .tensors import CheckpointError, Tensors, read_json

__all__ = ["CheckpointError", "load", "unpack_rows"]

_KINDS = ("bitnet", "llama", "mistral", "qwen2")
_PATHS = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
          "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
          "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
          "attn_sub_norm": "self_attn.attn_sub_norm", "ffn_sub_norm": "mlp.ffn_sub_norm"}
_FIRST_PATHS = _PATHS | {"attn_sub_norm": "self_attn.inner_attn_ln", "ffn_sub_norm": "mlp.ffn_layernorm"}
_FIRST_MARK = "model.layers.0.self_attn.inner_attn_ln.weight"
_EMBEDDING, _HEAD, _FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
_SLIDING, _FULL = "sliding_attention", "full_attention"
_LINEAR_CLASSES = ("bitlinear", "autobitlinear")


def load(path):
    """Read a checkpoint directory, a GGUF file, or a llama2.c file ``*.bin``. Returns :class:`Checkpoint`; it and its layers
    raise :class:`CheckpointError`."""
    path = Path(path)
    if path.suffix == ".gguf":
        return gguf_checkpoint.load(path)
    if path.suffix == ".bin" and path.is_file():
        return llama2c.load(path)
    raw = read_json(path / "config.json")
    multiplies = _multiplies(raw)
    _model_config(raw, sub_norms=False)         # says what is wrong before the tensors are opened
    tensors = Tensors(path)
    first = _FIRST_MARK in tensors
    config = _model_config(raw, sub_norms=first or raw["model_type"] == "bitnet")
    layers = _Layers(tensors, config, _FIRST_PATHS if first else _PATHS, multiplies)
    shape = (config.vocab_size, config.hidden_size)
    used = {_EMBEDDING, _FINAL_NORM, _HEAD} | layers.check()
    tensors.require(_EMBEDDING, shape)
    final_norm = tensors.floats(_FINAL_NORM, (config.hidden_size,))
    _check_rest(tensors, used)
    embedding = tensors.rows(_EMBEDDING, shape)
    if config.tied:
        if _HEAD in tensors and not tensors.same(_HEAD, _EMBEDDING):
            raise CheckpointError(f"Tensor {_HEAD} must be {_EMBEDDING}, as tie_word_embeddings of config.json says, and is not")
        head = embedding
    else:
        head = tensors.rows(_HEAD, shape)
    ternary = config.sub_norms or (raw.get("quantization_config") or {}).get("quant_method") == "bitnet"
    return Checkpoint(config, embedding, layers, final_norm, head, path.resolve().name, ternary, layers.sources() | {
        "embedding": _word(tensors.dtype(_EMBEDDING)), "head": _word(tensors.dtype(_EMBEDDING if config.tied else _HEAD))})


def unpack_rows(packed, n_rows):
    """(ceil(n_rows / 4), columns) uint8 to (n_rows, columns) int8: two-bit code minus one."""
    rows = torch.cat([(packed >> shift) & 3 for shift in (0, 2, 4, 6)])
    return rows[:n_rows].to(torch.int8) - 1


class _Layers(Sequence):
    """Layers that are read when they are indexed: {matrix: float32 tensor or :class:`Trits`, gain: float32 tensor}."""

    def __init__(self, tensors, config, paths, multiplies):
        self._tensors, self._config, self._paths, self._multiplies = tensors, config, paths, multiplies

    def __len__(self):
        return self._config.n_layers

    def __getitem__(self, index):
        i = range(len(self))[index]
        layer = {name: self._matrix(self._name(i, name), self._config.shape(name)) for name in MATRICES}
        return layer | {name: self._tensors.floats(self._name(i, name), (size,)) for name, size in self._config.gains().items()}

    def sources(self):
        """{"layer0.q": type of its values in the file}."""
        return {f"layer{i}.{name}": _word(self._tensors.dtype(self._name(i, name))) for i in range(len(self)) for name in MATRICES}

    def check(self):
        """Names of all tensors of the layers, after a look at their shapes and types."""
        tensors, used = self._tensors, set()
        packed = tensors.dtype(self._name(0, "q")) == torch.uint8
        for i in range(len(self)):
            for name in MATRICES:
                weight, shape = self._name(i, name), self._config.shape(name)
                if (tensors.dtype(weight) == torch.uint8) != packed:
                    raise CheckpointError(f"Tensor {weight} must be {'packed' if packed else 'not packed'}, "
                                          f"as {self._name(0, 'q')} is, and has type {tensors.dtype(weight)}")
                if not packed:
                    tensors.require(weight, shape)
                elif tensors.shape(weight) != (-(-shape[0] // 4), shape[1]):
                    raise CheckpointError(f"Tensor {weight} must have shape {(-(-shape[0] // 4), shape[1])} "
                                          f"(four outputs a byte), not {tensors.shape(weight)}")
                else:
                    tensors.dtype(weight + "_scale")
                used |= {weight, weight + "_scale"} if packed else {weight}
            for name, size in self._config.gains().items():
                tensors.require(self._name(i, name), (size,))
                used.add(self._name(i, name))
        return used

    def _name(self, i, name):
        return f"model.layers.{i}.{self._paths[name]}.weight"

    def _matrix(self, name, shape):
        if self._tensors.dtype(name) != torch.uint8:
            return self._tensors.floats(name, shape)
        trits = unpack_rows(self._tensors[name], shape[0])
        if trits.max() > 1:
            raise CheckpointError(f"Tensor {name} must hold two-bit codes 0 to 2, not 3")
        scale = self._tensors.floats(name + "_scale").reshape(-1)
        if scale.numel() != 1 or not scale[0] > 0:
            raise CheckpointError(f"Tensor {name}_scale must be one positive number, not {scale[:4].tolist()}")
        return Trits(trits, scale[0] if self._multiplies else 1.0 / scale[0])


def _word(dtype):
    """Name of the type of a tensor; uint8 holds packed trits."""
    return "packed trits" if dtype == torch.uint8 else str(dtype).removeprefix("torch.")


def _check_rest(tensors, used):
    """Tensors that no part of the accelerator uses must not matter."""
    for name in sorted(set(tensors) - used):
        if name.endswith(".bias") and name.removesuffix("bias") + "weight" in used:
            if tensors[name].count_nonzero():
                raise CheckpointError(f"Tensor {name} must be zeros, since the accelerator adds no biases, and is not")
        elif not name.endswith("rotary_emb.inv_freq"):
            raise CheckpointError(f"The checkpoint must hold the tensors of a model of its kind alone, and has {name}")


def _multiplies(raw):
    """Whether a packed matrix is trits times ``weight_scale``; else it is trits over it."""
    how = raw.get("quantization_config")
    if how is None:
        return False
    if not isinstance(how, dict) or how.get("quant_method") != "bitnet":
        method = how.get("quant_method") if isinstance(how, dict) else how
        raise CheckpointError(f"config.json: quant_method must be bitnet, not {shown(method)}")
    if how.get("use_rms_norm"):
        raise CheckpointError("config.json: use_rms_norm must be false, since the accelerator has no norm in a matrix")
    kept = how.get("modules_to_not_convert")
    if kept not in (None, [], ["lm_head"]):
        raise CheckpointError(f"config.json: modules_to_not_convert must be lm_head alone, not {shown(kept)}")
    linear_class = how.get("linear_class", "bitlinear")
    if linear_class not in _LINEAR_CLASSES:
        raise CheckpointError(f"config.json: linear_class must be {' or '.join(_LINEAR_CLASSES)}, not {shown(linear_class)}")
    return linear_class == "autobitlinear"


def _model_config(raw, sub_norms):
    kind = raw.get("model_type")
    if kind not in _KINDS:
        raise CheckpointError(f"config.json: model_type must be one of {', '.join(_KINDS)}, not {shown(kind)}")
    for flag in ("attention_bias", "mlp_bias"):
        if raw.get(flag):
            raise CheckpointError(f"config.json: {flag} must be false, not {shown(raw[flag])}")
    rope, scaling = (_object(raw, name) for name in ("rope_parameters", "rope_scaling"))
    for rope_type in (rope.get("rope_type"), scaling.get("rope_type"), scaling.get("type")):
        if rope_type not in (None, "default"):
            raise CheckpointError(f"config.json: rope_type must be default, not {shown(rope_type)}")
    share = rope.get("partial_rotary_factor", raw.get("partial_rotary_factor"))
    if share not in (None, 1):
        raise CheckpointError(f"config.json: partial_rotary_factor must be 1, not {shown(share)}")

    def need(name):
        if name not in raw or raw[name] is None:
            raise CheckpointError(f"config.json must give {name}")
        return raw[name]

    def number(name, value):
        if not math.isfinite(float(value)):
            raise CheckpointError(f"config.json: {name} must be a finite number, not {shown(value)}")
        return float(value)

    if raw.get("query_pre_attn_scalar") not in (None, raw.get("head_dim")):
        raise CheckpointError(f"config.json: query_pre_attn_scalar must be head_dim, {shown(raw.get('head_dim'))}, not "
                              f"{shown(raw['query_pre_attn_scalar'])}")
    for name in ("hidden_size", "num_attention_heads"):
        if not isinstance(need(name), int):
            raise CheckpointError(f"config.json: {name} must be an integer, not {shown(raw[name])}")
    n_heads = raw["num_attention_heads"]
    try:
        return ModelConfig(
            hidden_size=raw["hidden_size"], ffn_size=need("intermediate_size"), n_layers=need("num_hidden_layers"),
            n_heads=n_heads, n_kv_heads=raw.get("num_key_value_heads") or n_heads,
            head_dim=raw.get("head_dim") or raw["hidden_size"] // n_heads, vocab_size=need("vocab_size"),
            max_positions=need("max_position_embeddings"),
            windows=_windows(raw, kind, raw["num_hidden_layers"]),
            attn_cap=number("attn_logit_softcapping", raw.get("attn_logit_softcapping") or 0.0),
            logit_cap=number("final_logit_softcapping", raw.get("final_logit_softcapping") or 0.0),
            norm_eps=number("rms_norm_eps", need("rms_norm_eps")),
            rope_theta=number("rope_theta", rope.get("rope_theta") or need("rope_theta")), act=need("hidden_act"),
            sub_norms=sub_norms, tied=bool(raw.get("tie_word_embeddings", False)),
            bidirectional=bool(raw.get("bidirectional", False)) or raw.get("is_causal") is False)
    except CheckpointError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"config.json: {error}") from None


def _windows(raw, kind, n_layers):
    """Positions that a token sees in each layer, 0: all; () where no layer has a window."""
    window = raw.get("sliding_window")
    if window is None or kind not in ("mistral", "qwen2") or kind == "qwen2" and not raw.get("use_sliding_window"):
        return ()
    if not isinstance(n_layers, int) or not 0 < n_layers < 1 << 16:
        raise CheckpointError(f"config.json: num_hidden_layers must be 1 to 65535, not {n_layers!r}")
    types = raw.get("layer_types")
    if types is None or kind == "mistral":
        full = raw.get("max_window_layers", 0) if kind == "qwen2" else 0
        if not isinstance(full, int):
            raise CheckpointError(f"config.json: max_window_layers must be an integer, not {full!r}")
        types = [_SLIDING if i >= full else _FULL for i in range(n_layers)]
    if not isinstance(types, list) or len(types) != n_layers or not all(each in (_SLIDING, _FULL) for each in types):
        raise CheckpointError(f"config.json: layer_types must say {_SLIDING} or {_FULL} of each of {n_layers} layers")
    return tuple(window if each == _SLIDING else 0 for each in types)


def _object(raw, name):
    found = raw.get(name) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"config.json: {name} must be a JSON object, not {shown(found)}")
    return found
