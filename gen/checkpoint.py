"""Checkpoints in the layout of Hugging Face: a directory with config.json and safetensors; GGUF files are left to
``gguf_checkpoint``.

``bitnet`` (BitNetForCausalLM): packed (uint8, four outputs a byte, ``weight_scale``) or master weights.
``llama`` (LlamaForCausalLM): the same without sub-norms, master weights.

Packed form: with R = ceil(outputs / 4), byte (r, c) holds outputs r, r + R, r + 2R, r + 3R in bits 1:0, 3:2, 5:4, 7:6,
code = trit + 1. ``BitLinear`` divides by weight_scale (it holds 1 / absmean), ``AutoBitLinear`` multiplies by it.

Nothing here runs code from a checkpoint: safetensors only.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from .model import MATRICES, Checkpoint, ModelConfig, Trits

__all__ = ["CheckpointError", "load", "unpack_rows"]

_PATHS = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
          "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
          "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
          "attn_sub_norm": "self_attn.attn_sub_norm", "ffn_sub_norm": "mlp.ffn_sub_norm"}


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one sentence."""


def load(path):
    """Read a checkpoint directory or a GGUF file. Returns :class:`Checkpoint`; raises :class:`CheckpointError`."""
    path = Path(path)
    if path.suffix == ".gguf":
        from . import gguf_checkpoint
        return gguf_checkpoint.load(path)
    raw = _read_json(path / "config.json")
    config = _model_config(raw)
    tensors = _Tensors(path)
    multiplies = (raw.get("quantization_config") or {}).get("linear_class", "bitlinear") == "autobitlinear"

    def matrix(prefix, shape):
        weight = tensors[prefix + ".weight"]
        if weight.dtype != torch.uint8:
            return tensors.floats(prefix + ".weight", shape)
        packed_shape = (-(-shape[0] // 4), shape[1])
        if tuple(weight.shape) != packed_shape:
            raise CheckpointError(f"Tensor {prefix}.weight must have shape {packed_shape} (four outputs a byte), "
                                  f"not {tuple(weight.shape)}")
        trits = unpack_rows(weight, shape[0])
        if trits.max() > 1:
            raise CheckpointError(f"Tensor {prefix}.weight must hold two-bit codes 0 to 2, not 3")
        scale = tensors.floats(prefix + ".weight_scale", None).reshape(-1)
        if scale.numel() != 1 or not scale[0] > 0:
            raise CheckpointError(f"Tensor {prefix}.weight_scale must be one positive number, not {scale.tolist()}")
        return Trits(trits, scale[0] if multiplies else 1.0 / scale[0])

    embedding = tensors.floats("model.embed_tokens.weight", (config.vocab_size, config.hidden_size))
    layers = []
    for i in range(config.n_layers):
        prefix = f"model.layers.{i}."
        layer = {name: matrix(prefix + _PATHS[name], config.shape(name)) for name in MATRICES}
        layer |= {name: tensors.floats(f"{prefix}{_PATHS[name]}.weight", (size,))
                  for name, size in config.gains().items()}
        layers.append(layer)
    final_norm = tensors.floats("model.norm.weight", (config.hidden_size,))
    head = embedding if config.tied else tensors.floats("lm_head.weight", (config.vocab_size, config.hidden_size))
    return Checkpoint(config, embedding, layers, final_norm, head, path.resolve().name)


def unpack_rows(packed, n_rows):
    """(ceil(n_rows / 4), columns) uint8 to (n_rows, columns) int8: two-bit code minus one."""
    rows = torch.cat([(packed >> shift) & 3 for shift in (0, 2, 4, 6)])
    return rows[:n_rows].to(torch.int8) - 1


def _read_json(path):
    try:
        found = json.loads(path.read_text())
    except OSError:
        raise CheckpointError(f"A checkpoint must be a directory with a {path.name}, and {path} cannot be read") from None
    except ValueError:
        raise CheckpointError(f"{path.name} must be JSON, and {path} is not") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path.name} must hold a JSON object, not {type(found).__name__}")
    return found


def _model_config(raw):
    kind = raw.get("model_type")
    if kind not in ("bitnet", "llama"):
        raise CheckpointError(f"config.json: model_type must be bitnet or llama, not {kind!r}")
    for flag in ("attention_bias", "mlp_bias"):
        if raw.get(flag):
            raise CheckpointError(f"config.json: {flag} must be false, not {raw[flag]!r}")
    rope = raw.get("rope_parameters") or {}
    scaling = raw.get("rope_scaling") or {}
    rope_type = rope.get("rope_type") or scaling.get("rope_type") or scaling.get("type") or "default"
    if rope_type != "default":
        raise CheckpointError(f"config.json: rope_type must be default, not {rope_type!r}")

    def need(name):
        if name not in raw or raw[name] is None:
            raise CheckpointError(f"config.json must give {name}")
        return raw[name]

    n_heads = need("num_attention_heads")
    try:
        return ModelConfig(
            hidden_size=need("hidden_size"), ffn_size=need("intermediate_size"), n_layers=need("num_hidden_layers"),
            n_heads=n_heads, n_kv_heads=raw.get("num_key_value_heads") or n_heads,
            head_dim=raw.get("head_dim") or need("hidden_size") // n_heads, vocab_size=need("vocab_size"),
            max_positions=need("max_position_embeddings"), norm_eps=float(need("rms_norm_eps")),
            rope_theta=float(rope.get("rope_theta") or need("rope_theta")), act=need("hidden_act"),
            sub_norms=kind == "bitnet", tied=bool(raw.get("tie_word_embeddings", False)))
    except CheckpointError:
        raise
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"config.json: {error}") from None


class _Tensors:
    """The tensors of all safetensors files of a directory, read when asked for."""

    def __init__(self, path):
        index = path / "model.safetensors.index.json"
        if index.exists():
            files = sorted(set((_read_json(index).get("weight_map") or {}).values()))
        else:
            files = ["model.safetensors"]
        self._where = {}
        for name in files:
            file = path / Path(name).name
            try:
                opened = safe_open(file, framework="pt")
            except (OSError, SafetensorError):
                raise CheckpointError(f"{file.name} must be a safetensors file, and {file} cannot be read as one") from None
            self._where |= {tensor: opened for tensor in opened.keys()}

    def __getitem__(self, name):
        if name not in self._where:
            raise CheckpointError(f"The checkpoint must hold tensor {name}, and does not")
        return self._where[name].get_tensor(name)

    def floats(self, name, shape):
        tensor = self[name]
        if not tensor.dtype.is_floating_point:
            raise CheckpointError(f"Tensor {name} must hold floating-point numbers, not {tensor.dtype}")
        if shape is not None and tuple(tensor.shape) != shape:
            raise CheckpointError(f"Tensor {name} must have shape {shape}, not {tuple(tensor.shape)}")
        tensor = tensor.to(torch.float32)
        if not tensor.isfinite().all():
            raise CheckpointError(f"Tensor {name} must hold finite numbers, and does not")
        return tensor
