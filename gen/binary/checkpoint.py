"""Checkpoints of binary encoders: a folder with config.json, model.safetensors and, for text, words.txt.

Signs of a matrix are bits, eight columns a byte, the first in bit 0; a one is +1. ``docs/binary.md`` lists all tensors.
Everything that is wrong is a :class:`CheckpointError`, one sentence.
"""

from pathlib import Path

import numpy as np
import torch

from celosia.gen.tensors import CheckpointError, Tensors, read_json

from .model import MATRICES, BinaryModel, BinaryModelConfig, ImageInput, TextInput

__all__ = ["MODEL_TYPE", "is_binary", "load", "shapes"]

MODEL_TYPE = "celosia_binary_encoder"
_MAX_ODD = 255


def is_binary(path):
    """Whether a path is the folder of a binary encoder."""
    path = Path(path)
    return (path / "config.json").is_file() and read_json(path / "config.json").get("model_type") == MODEL_TYPE


def load(path):
    """Read a checkpoint folder as a :class:`BinaryModel`."""
    path = Path(path)
    raw = read_json(path / "config.json")
    if raw.get("model_type") != MODEL_TYPE:
        raise CheckpointError(f"model_type of config.json must be {MODEL_TYPE}, not {raw.get('model_type')!r}")
    tensors = Tensors(path)
    words = _words(path, raw)
    try:
        config = _config(raw, words, tensors)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"config.json must say all sizes of the model, and has no usable {error}") from None
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    found = {}
    for name, (kind, shape) in shapes(config).items():
        found[name] = _READERS[kind](tensors, name, shape)
    strangers = sorted(set(tensors) - set(found))
    if strangers:
        raise CheckpointError(f"Tensors must be those of the model, and {strangers[0]} is none of them")
    return BinaryModel(config, found, path.resolve().name, words)


def shapes(config):
    """{name: (kind, shape)} of all tensors; kinds ``signs``, ``odd``, ``positive`` and ``float``."""
    d, heads, one = config.hidden_size, config.n_heads, config.act_bits == 1
    found = {"position.weight": ("float", (config.max_tokens, d))}
    if isinstance(config.input, ImageInput):
        found |= {"patch.weight": ("odd", (d, config.input.n_columns)), "patch.scale": ("float", (d,)),
                  "patch.bias": ("float", (d,))}
    else:
        found["token.weight"] = "float", (config.input.vocab_size, d)
    for i in range(config.n_layers):
        layer = {}
        for name in MATRICES:
            rows, columns = config.shape(name)
            layer |= {f"{name}.weight": ("signs", (rows, columns)), f"{name}.scale": ("positive", (rows,)),
                      f"{name}.bias": ("float", (rows,))}
            if name in ("q", "k", "v"):
                layer[f"{name}.beta"] = "float", (rows,)
        for name, columns in (("attention_in", d), ("attention_out", d), ("ffn_in", d), ("ffn_mid", config.ffn_size)):
            layer[f"{name}.alpha"] = "positive", ()
            if one:
                layer[f"{name}.beta"] = "float", (columns,)
        layer["map.threshold"] = "float", (heads,)
        if config.attention == "softmax":
            layer["map.scale"] = "float", (heads,)
        for name in ("norm1", "norm2"):
            layer |= {f"{name}.weight": ("float", (d,)), f"{name}.bias": ("float", (d,))}
        found |= {f"layers.{i}.{name}": what for name, what in layer.items()}
    norm = "final_norm" if config.norm == "pre" else "embedding_norm"
    n = len(config.labels)
    return found | {f"{norm}.weight": ("float", (d,)), f"{norm}.bias": ("float", (d,)), "head_in.alpha": ("positive", ()),
                    "head.weight": ("odd", (n, d)), "head.scale": ("float", (n,)), "head.bias": ("float", (n,))}


def _config(raw, words, tensors):
    given = raw["input"]
    if given["kind"] == "image":
        height, width = given["size"]
        source = ImageInput(height=height, width=width, channels=given["channels"], patch=given["patch"], maximum=given["maximum"])
    elif given["kind"] == "text":
        of_bytes = given["vocabulary"] == "bytes"
        n_words = 256 if of_bytes else len(words.decode().splitlines())
        source = TextInput(vocabulary="bytes" if of_bytes else "words", lowercase=bool(given.get("lowercase", True)),
                           vocab_size=n_words)
    else:
        raise ValueError(f"Model input must be image or text, not {given['kind']!r}")
    labels = tuple(map(str, raw["labels"]))
    if raw.get("num_labels", len(labels)) != len(labels):
        raise ValueError(f"Model num_labels must be the {len(labels)} labels, not {raw['num_labels']}")
    return BinaryModelConfig(
        hidden_size=raw["hidden_size"], n_layers=raw["num_hidden_layers"], n_heads=raw["num_attention_heads"],
        ffn_size=raw["intermediate_size"], act_bits=raw["activation_bits"], attention=raw["attention"], norm=raw["norm"],
        norm_eps=float(raw["layer_norm_eps"]), labels=labels, pooling=raw["pooling"], max_tokens=raw["max_tokens"], input=source)


def _words(path, raw):
    """The file of the vocabulary, empty where the model has none."""
    source = raw.get("input")
    name = source.get("vocabulary") if isinstance(source, dict) else None
    if name is None or name == "bytes":
        return b""
    if not isinstance(name, str) or Path(name).name != name or not (path / name).is_file():
        raise CheckpointError(f"Vocabulary of the input must be bytes or a file of the folder, not {name!r}")
    data = (path / name).read_bytes()
    try:
        data.decode()
    except UnicodeDecodeError:
        raise CheckpointError(f"Vocabulary {name} must be UTF-8, and is not") from None
    return data


def _float(tensors, name, shape):
    return tensors.floats(name, shape).numpy()


def _positive(tensors, name, shape):
    values = _float(tensors, name, shape)
    if not (values > 0).all():
        raise CheckpointError(f"Tensor {name} must be positive, not {values.min():g}")
    return values


def _odd(tensors, name, shape):
    _typed(tensors, name, torch.int16, shape)
    values = tensors[name].numpy()
    if not (values & 1).all() or abs(values.astype(np.int32)).max() > _MAX_ODD:
        raise CheckpointError(f"Tensor {name} must hold odd integers of -{_MAX_ODD} .. {_MAX_ODD}")
    return values


def _signs(tensors, name, shape):
    rows, columns = shape
    _typed(tensors, name, torch.uint8, (rows, -(-columns // 8)))
    bits = np.unpackbits(tensors[name].numpy(), axis=1, count=columns, bitorder="little")
    return 2 * bits.astype(np.int8) - 1


def _typed(tensors, name, dtype, shape):
    if tensors.dtype(name) != dtype:
        raise CheckpointError(f"Tensor {name} must be of type {dtype}, not {tensors.dtype(name)}")
    tensors.require(name, shape)


_READERS = {"float": _float, "positive": _positive, "odd": _odd, "signs": _signs}
