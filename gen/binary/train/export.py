"""The checkpoint of a binary encoder: what `celosia.gen.binary.checkpoint` reads.

config.json, model.safetensors and, for text, words.txt. Signs are bits, eight columns a byte, the first in bit 0, 1 = +1; patches
and head have int16 of odd integers; all others are float32, logarithms taken back. Nothing is rounded a second time: the values
written are those of the last forward pass of the training.
"""

import json
import pathlib

import numpy as np
import torch
from safetensors.torch import save

from ..checkpoint import MODEL_TYPE
from . import data
from .modules import Linear, Quantiser

__all__ = ["MATRICES", "config_json", "pack_signs", "tensors", "write_checkpoint"]

MATRICES = ("q", "k", "v", "o", "up", "down")


def pack_signs(signs):  # (rows, columns) of +-1 -> (rows, columns / 8 rounded up) uint8
    """Eight signs a byte."""
    return torch.from_numpy(np.packbits(signs.numpy() > 0, axis=1, bitorder="little"))


def _linear(layer: Linear):
    """weight, scale and bias of a matrix, by its kind."""
    integers, scale = layer.rounded()
    weight = pack_signs(integers) if layer.kind == "binary" else integers.to(torch.int16)
    return {"weight": weight, "scale": scale.flatten(), "bias": layer.bias}


def _quantiser(quantiser: Quantiser):
    found = {"alpha": quantiser.log_alpha.exp()}
    return found | ({"beta": quantiser.beta} if quantiser.bits == 1 else {})


def _layer(layer):
    found = {}
    for name in MATRICES:
        found |= {f"{name}.{key}": value for key, value in _linear(getattr(layer, name)).items()}
    for name in "qkv":
        found[f"{name}.beta"] = layer.signs[name].beta
    for name in ("attention_in", "attention_out", "ffn_in", "ffn_mid"):
        found |= {f"{name}.{key}": value for key, value in _quantiser(getattr(layer, name)).items()}
    if layer.map.kind == "sps":
        found["map.threshold"] = layer.map.threshold
    else:
        found |= {"map.scale": layer.map.log_scale.exp(), "map.threshold": layer.map.log_threshold.exp()}
    for name in ("norm1", "norm2"):
        norm = getattr(layer, name)
        found |= {f"{name}.weight": norm.weight, f"{name}.bias": norm.bias}
    return found


@torch.no_grad()
def tensors(model):
    """The tensors of the file by name, of a binary `Encoder`."""
    if model.config.weights != "binary":
        raise ValueError(f"A checkpoint of signs must be of a binary twin, not of {model.config.twin}")
    found = {"position.weight": model.table("position"),
             "final_norm.weight": model.final_norm.weight, "final_norm.bias": model.final_norm.bias,
             "head_in.alpha": model.head_in.log_alpha.exp()}
    named = {"head": model.head} | ({"patch": model.patch} if model.config.patch_values else {})
    for name, layer in named.items():
        found |= {f"{name}.{key}": value for key, value in _linear(layer).items()}
    if model.config.vocab_size:
        found["token.weight"] = model.table("token")
    for i, layer in enumerate(model.layers):
        found |= {f"layers.{i}.{key}": value for key, value in _layer(layer).items()}
    return {name: value.detach().contiguous().clone() for name, value in sorted(found.items())}


def config_json(model, labels):
    """config.json of a binary `Encoder` as a dict."""
    c = model.config
    if c.patch_values:
        source = {"kind": "image", "size": [data.SIZE, data.SIZE], "channels": 1, "patch": data.PATCH, "maximum": data.MAXIMUM}
    else:
        source = {"kind": "text", "vocabulary": "words.txt", "lowercase": True}
    return {"model_type": MODEL_TYPE, "hidden_size": c.hidden_size, "num_hidden_layers": c.n_layers,
            "num_attention_heads": c.n_heads, "intermediate_size": c.intermediate_size, "activation_bits": c.activation_bits,
            "attention": c.attention, "norm": "pre", "layer_norm_eps": c.norm_eps, "num_labels": c.n_labels,
            "labels": list(labels), "pooling": "mean", "max_tokens": c.max_tokens, "input": source}


def write_checkpoint(model, split, folder):
    """All files of the checkpoint of a model that was trained on `split`."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json(model, split.labels), indent=1) + "\n")
    (folder / "model.safetensors").write_bytes(save(tensors(model), {"format": "pt"}))
    if split.words:
        (folder / "words.txt").write_text("\n".join(split.words) + "\n")
