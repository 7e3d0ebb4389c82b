"""Checkpoints of binary encoders, and the golden model against the float reference."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from celosia.gen.binary import float_model
from celosia.gen.binary.checkpoint import CheckpointError, is_binary, load
from celosia.gen.binary.integers import fold
from celosia.gen.binary.model import BinaryModelConfig, ImageInput, TextInput
from celosia.gen.binary.synthetic import random_config, random_model, write_checkpoint
from celosia.gen.golden.binary import model as golden

TEXT = TextInput(vocabulary="words", vocab_size=20)


def both(model, seed, n=8):
    """(float logits, integer logits times their scales) of valid tokens of random inputs."""
    c, rng, integers = model.config, np.random.default_rng(seed), fold(model)
    if isinstance(c.input, ImageInput):
        pixels = rng.integers(0, c.input.maximum + 1, (n, c.input.n_tokens, c.input.n_columns))
        x, rows = float_model.image_rows(model, pixels), golden.image_rows(integers, pixels - c.input.zero)
        lengths = [c.input.n_tokens] * n
    else:
        ids, lengths = rng.integers(0, c.input.vocab_size, (n, c.max_tokens)), rng.integers(1, c.max_tokens + 1, n)
        x, rows = float_model.text_rows(model, ids), golden.text_rows(integers, ids)
    logits = golden.forward(integers, rows, lengths) * torch.as_tensor(integers.head_scale) + torch.as_tensor(integers.head_bias)
    valid = torch.arange(x.shape[1]) < torch.as_tensor(lengths)[:, None]
    return float_model.forward(model, x, lengths)[valid], logits[valid]


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("attention", ["sps", "softmax"])
@pytest.mark.parametrize("act_bits", [1, 8])
def test_golden_model_agrees_with_the_float_reference(norm, attention, act_bits):
    """Bits near their thresholds may differ, and with them what follows; so most tokens must agree closely, not all."""
    near, count = 0, 0
    for seed in range(6):
        config = random_config(random.Random(seed), norm=norm, attention=attention, act_bits=act_bits, n_layers=2)
        reference, integers = both(random_model(config, seed), seed)
        spread = reference.std() if reference.numel() > 1 else 1
        error = (reference - integers).abs().amax(1)
        near, count = near + int((error < 0.1 * spread).sum()), count + len(error)
    assert near > 0.7 * count, (near, count)


def test_residuals_are_those_of_the_float_reference():
    for seed in range(20):
        model = random_model(random_config(random.Random(seed)), seed)
        integers, rng = fold(model), np.random.default_rng(seed)
        source = model.config.input
        if isinstance(source, ImageInput):
            pixels = rng.integers(0, source.maximum + 1, (2, source.n_tokens, source.n_columns))
            x, rows = float_model.image_rows(model, pixels), golden.image_rows(integers, pixels - source.zero)
        else:
            ids = rng.integers(0, source.vocab_size, (2, model.config.max_tokens))
            x, rows = float_model.text_rows(model, ids), golden.text_rows(integers, ids)
        assert (x * 1024 - rows).abs().max() <= 1.25


def test_pooling():
    config = random_config(random.Random(0), pooling="mean", input=TEXT)
    logits, lengths = torch.arange(24.0).reshape(2, 3, 4), [3, 1]
    assert torch.equal(float_model.pooled(config, logits, lengths), torch.stack([logits[0].mean(0), logits[1, 0]]))
    assert torch.equal(float_model.pooled(replace(config, pooling="first"), logits, lengths), logits[:, 0])
    assert torch.equal(float_model.pooled(replace(config, pooling="none"), logits, lengths), logits)


@pytest.mark.parametrize("seed", range(6))
def test_checkpoints_are_read_as_they_were_written(seed, tmp_path):
    model = random_model(random_config(random.Random(seed)), seed, "it")
    read = load(write_checkpoint(model, tmp_path / "it"))
    assert is_binary(tmp_path / "it") and not is_binary(tmp_path)
    assert (read.config, read.name, read.words) == (model.config, "it", model.words)
    assert read.tensors.keys() == model.tensors.keys()
    for name, value in model.tensors.items():
        np.testing.assert_array_equal(read.tensors[name], value, err_msg=name)
        assert read.tensors[name].dtype == value.dtype, name


def change(path, tensors=None, **values):
    """Change a checkpoint; None removes."""
    found = json.loads((path / "config.json").read_text()) | values
    (path / "config.json").write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
    kept = load_file(path / "model.safetensors") | (tensors or {})
    save_file({name: value for name, value in kept.items() if value is not None}, path / "model.safetensors")


@pytest.mark.parametrize("changes, sentence", [
    ({"model_type": "bitnet"}, "model_type of config.json must be celosia_binary_encoder, not 'bitnet'"),
    ({"hidden_size": None}, "config.json must say all sizes of the model, and has no usable 'hidden_size'"),
    ({"hidden_size": "x"}, "Model hidden_size must be a positive integer, not 'x'"),
    ({"activation_bits": 4}, "Model activation_bits must be 1 or 8, not 4"),
    ({"attention": "relu"}, "Model attention must be one of sps, softmax, not 'relu'"),
    ({"num_attention_heads": 3}, "Model hidden_size must be a multiple of 3 heads, not 32"),
    ({"num_labels": 9}, "Model num_labels must be the 3 labels, not 9"),
    ({"input": {"kind": "sound"}}, "Model input must be image or text, not 'sound'"),
    ({"input": {"kind": "text", "vocabulary": "../words.txt"}}, "Vocabulary of the input must be bytes or a file of the folder"),
    ({"input": 7}, "config.json must say all sizes of the model"),
    ({"tensors": {"head.bias": None}}, "The checkpoint must hold tensor head.bias, and does not"),
    ({"tensors": {"other": torch.zeros(1)}}, "Tensors must be those of the model, and other is none of them"),
    ({"tensors": {"layers.0.q.weight": torch.zeros(32, 5, dtype=torch.uint8)}},
     "Tensor layers.0.q.weight must have shape \\(32, 4\\), not \\(32, 5\\)"),
    ({"tensors": {"layers.0.q.weight": torch.zeros(32, 4)}}, "Tensor layers.0.q.weight must be of type torch.uint8"),
    ({"tensors": {"layers.0.q.scale": torch.zeros(32)}}, "Tensor layers.0.q.scale must be positive, not 0"),
    ({"tensors": {"head.weight": torch.zeros(3, 32, dtype=torch.int16)}},
     "Tensor head.weight must hold odd integers of -255 .. 255"),
    ({"tensors": {"head.bias": torch.full((3,), float("nan"))}}, "Tensor head.bias must hold finite numbers, and does not"),
])
def test_bad_checkpoints_are_one_sentence(changes, sentence, tmp_path):
    config = random_config(random.Random(0), hidden_size=32, n_heads=2, labels=("a", "b", "c"), input=TEXT, n_layers=1)
    path = write_checkpoint(random_model(config), tmp_path / "it")
    change(path, **changes)
    with pytest.raises(CheckpointError, match=sentence):
        load(path)


def test_sizes_of_images():
    with pytest.raises(ValueError, match="Model input patch must be a divisor of 8 and 8, not 3"):
        ImageInput(height=8, width=8, channels=1, patch=3, maximum=16)
    with pytest.raises(ValueError, match="Model max_tokens must be at least 16 patches, not 8"):
        BinaryModelConfig(**BASE | {
            "max_tokens": 8, "input": ImageInput(height=8, width=8, channels=1, patch=2, maximum=16)})
    assert ImageInput(height=8, width=8, channels=1, patch=2, maximum=16).bits == 6
    assert ImageInput(height=8, width=8, channels=3, patch=2, maximum=255).zero == 128


BASE = {"hidden_size": 32, "n_layers": 1, "n_heads": 2, "ffn_size": 8, "act_bits": 1, "attention": "sps", "norm": "pre",
        "norm_eps": 1e-5, "labels": ("a",), "pooling": "mean", "max_tokens": 4, "input": TEXT}


def test_large_numbers_are_refused():
    model = random_model(BinaryModelConfig(**BASE))
    model.tensors["position.weight"][0, 0] = 40
    with pytest.raises(ValueError, match="Positions must be within \\+-31.999, not 40"):
        fold(model)
