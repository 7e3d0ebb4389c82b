"""Binary encoders with made-up weights: numbers of a size that neither saturates nor vanishes."""

import json

import numpy as np
import torch
from safetensors.torch import save_file

from celosia.gen.binary.checkpoint import shapes
from celosia.gen.binary.model import BinaryModel, BinaryModelConfig, ImageInput, TextInput

__all__ = ["random_config", "random_model", "write_checkpoint"]


def random_config(rng, **given):
    """A config with random sizes (``rng``: random.Random), but for those that are given."""
    head_dim, n_heads, max_tokens = rng.choice([8, 16, 24]), rng.choice([1, 2, 3]), rng.choice([3, 4, 8, 11, 16])
    source = given.pop("input", None)
    if source is None and rng.random() < 0.5:
        patch, across = rng.choice([1, 2, 3]), rng.choice([1, 2])
        source = ImageInput(height=2 * patch, width=patch * across, channels=rng.choice([1, 3]), patch=patch,
                            maximum=rng.choice([1, 16, 255]))
        max_tokens = max(max_tokens, source.n_tokens)
    elif source is None:
        source = TextInput(vocabulary="words", vocab_size=20)
    elif isinstance(source, ImageInput):
        max_tokens = source.n_tokens
    return BinaryModelConfig(**{
        "hidden_size": head_dim * n_heads, "n_layers": rng.choice([1, 2, 3]), "n_heads": n_heads,
        "ffn_size": rng.choice([8, 40, 64]), "act_bits": rng.choice([1, 8]), "attention": rng.choice(["sps", "softmax"]),
        "norm": rng.choice(["pre", "post"]),
        "norm_eps": 1e-5, "labels": tuple("abcde"[:rng.choice([1, 3, 5])]), "pooling": rng.choice(["mean", "first", "none"]),
        "max_tokens": max_tokens, "input": source} | given)


def random_model(config, seed=0, name="random"):
    """A :class:`BinaryModel`."""
    rng, tensors = np.random.default_rng(seed), {}
    for key, (kind, shape) in shapes(config).items():
        last = key.rpartition(".")[2]
        columns = shape[-1] if shape else 1
        if kind == "signs":
            tensors[key] = (2 * rng.integers(0, 2, shape) - 1).astype(np.int8)
        elif kind == "odd":
            tensors[key] = (2 * rng.integers(-128, 128, shape) + 1).astype(np.int16)
        else:
            tensors[key] = _floats(rng, key, last, shape, columns, config).astype(np.float32)
    words = "".join(f"{word}\n" for word in ["<pad>", "<unk>", *(f"w{i}" for i in range(2, 20))]).encode()
    return BinaryModel(config, tensors, name, words if isinstance(config.input, TextInput) else b"")


def _floats(rng, key, last, shape, columns, config):
    if key.endswith("map.threshold"):
        return rng.integers(-2, 4, shape) + 0.25 if config.attention == "sps" else rng.uniform(0.05, 0.3, shape)
    if key.endswith("map.scale"):
        return rng.uniform(0.05, 0.4, shape)
    if key.startswith("patch.scale"):
        return rng.uniform(0.5, 1.5, shape) / (130 * config.input.maximum * config.input.n_columns**0.5)
    if key.startswith("head.scale"):
        return rng.uniform(0.5, 1.5, shape) / 1000
    if last == "scale":     # of a matrix: sums of +-1, or of integers of about forty
        n = config.ffn_size if ".down." in key else config.hidden_size
        return rng.uniform(0.3, 0.9, shape) / n**0.5
    if last == "alpha":
        return np.array(rng.uniform(0.8, 1.2) * (1 if config.act_bits == 1 and "head" not in key else 0.03))
    if last == "weight" and "norm" in key:
        return rng.uniform(0.5, 1.5, shape)
    return rng.normal(0, 0.3, shape) if last in ("bias", "beta") else rng.normal(0, 1, shape)


def write_checkpoint(model, path):
    """A folder that holds a :class:`BinaryModel`, as training writes it."""
    c, tensors = model.config, {}
    for key, value in model.tensors.items():
        if shapes(c)[key][0] == "signs":
            value = np.packbits(value > 0, axis=1, bitorder="little")
        tensors[key] = torch.from_numpy(np.array(value))
    image = isinstance(c.input, ImageInput)
    source = {"kind": "image", "size": [c.input.height, c.input.width], "channels": c.input.channels, "patch": c.input.patch,
              "maximum": c.input.maximum} if image else {
        "kind": "text", "vocabulary": "words.txt" if c.input.vocabulary == "words" else "bytes", "lowercase": c.input.lowercase}
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({
        "model_type": "celosia_binary_encoder", "hidden_size": c.hidden_size, "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads, "intermediate_size": c.ffn_size, "activation_bits": c.act_bits, "attention": c.attention,
        "norm": c.norm, "layer_norm_eps": c.norm_eps, "num_labels": len(c.labels), "labels": list(c.labels), "pooling": c.pooling,
        "max_tokens": c.max_tokens, "input": source}))
    if not image and c.input.vocabulary == "words":
        (path / "words.txt").write_bytes(model.words)
    save_file(tensors, path / "model.safetensors")
    return path
