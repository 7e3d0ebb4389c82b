"""GGUF files: the same model as the same weights in safetensors, exactly; one sentence for each that cannot be used."""

import json
import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace

import gguf
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gguf import GGMLQuantizationType as Kind
from gguf_files import (
    GGUF,
    HF,
    SCALE,
    SMALL,
    STORIES,
    WIDE,
    Tensor,
    gguf_tensors,
    of_architecture,
    random_tensors,
    save_gguf,
    save_hf,
    ternary,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import golden_of, machine_of
from safetensors.torch import save_file

from celosia.gen import image
from celosia.gen.assemble import assemble
from celosia.gen.checkpoint import CheckpointError, load
from celosia.gen.commands import pack
from celosia.gen.gguf_file import I2_S
from celosia.gen.golden.machine import lanes_of
from celosia.gen.model import MATRICES, ModelConfig, QModel, Trits
from celosia.gen.quantise import quantise
from celosia.gen.rows import Rows
from celosia.hw.configs import duo, tiny


def assert_same(ours, theirs):
    """Two quantised models (or parts of them) are the same, bit for bit; their names and what their files held may differ."""
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    elif isinstance(ours, Rows):
        assert_same(ours[:], theirs[:])
    elif isinstance(ours, Sequence) and not isinstance(ours, str):
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
    elif is_dataclass(ours):
        names = [each.name for each in fields(ours)] + (["head", "coarse"] if isinstance(ours, QModel) else [])
        for name in set(names) - {"name", "sources", "relative_error", "make_heads"}:
            assert_same(getattr(ours, name), getattr(theirs, name))
    else:
        assert ours == theirs


def both(tmp_path, config, architecture, tensors, kind=Kind.F32, head_kind=Kind.F32, theirs=None):
    """The quantised models of a GGUF file of ``tensors`` and of safetensors of ``theirs`` (default: the same)."""
    ours = save_gguf(tmp_path / "a.gguf", config, architecture, gguf_tensors(config, tensors, architecture, kind, head_kind))
    return quantise(load(ours)), quantise(load(save_hf(tmp_path / "hf", config, tensors if theirs is None else theirs)))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("architecture", ["llama", "bitnet", "bitnet-b1.58"])
def test_float_weights_are_the_model_of_safetensors(tmp_path, architecture, tied):
    config = of_architecture(replace(SMALL, tied=tied), architecture)
    assert_same(*both(tmp_path, config, architecture, random_tensors(config)))


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q5_1, Kind.MXFP4], ids=lambda kind: kind.name)
def test_other_types_are_what_the_package_dequantises_to(tmp_path, kind):
    config = of_architecture(replace(WIDE, tied=False), "llama")
    tensors = random_tensors(config)
    rounded = {name: t if t.ndim == 1 else gguf.quants.dequantize(gguf.quants.quantize(t, kind), kind)
               for name, t in tensors.items()}
    assert_same(*both(tmp_path, config, "llama", tensors, kind, kind, rounded))


@pytest.mark.parametrize("architecture", ["llama", "bitnet", "bitnet-b1.58"])
@pytest.mark.parametrize("kind", [Kind.TQ1_0, Kind.TQ2_0, I2_S, Kind.F16, Kind.F32], ids=["TQ1_0", "TQ2_0", "I2_S", "F16", "F32"])
def test_ternary_weights_are_the_model_of_packed_safetensors(tmp_path, kind, architecture):
    """Against the packed form (AutoBitLinear), where trits and the scale stand as they are."""
    from transformers.integrations.bitnet import pack_weights
    config = of_architecture(WIDE, architecture)
    tensors = random_tensors(config, matrix=ternary(np.random.default_rng(5)))
    file = save_gguf(tmp_path / "a.gguf", config, architecture, gguf_tensors(config, tensors, architecture, kind))
    folder = save_hf(tmp_path / "hf", config, tensors)
    packed = {}
    for name, tensor in tensors.items():
        tensor = torch.from_numpy(tensor)
        packed[name + ".weight"] = pack_weights(tensor.sign()) if name.endswith("_proj") else tensor
        if name.endswith("_proj"):
            packed[name + ".weight_scale"] = torch.tensor([SCALE])
    save_file(packed, folder / "model.safetensors")
    values = json.loads((folder / "config.json").read_text())
    quantisation = {"quant_method": "bitnet", "linear_class": "autobitlinear"}
    (folder / "config.json").write_text(json.dumps(values | {"quantization_config": quantisation}))
    assert_same(quantise(load(file)), quantise(load(folder)))


@settings(max_examples=10)
@given(kind=st.sampled_from([Kind.TQ1_0, Kind.TQ2_0]), seed=st.integers(0, 99), rows=st.booleans())
def test_trits_and_scales_are_exactly_those_of_the_package(tmp_path_factory, kind, seed, rows):
    """A scale a row, or one; rows and blocks of zeros among them."""
    config, rng = of_architecture(WIDE, "bitnet"), np.random.default_rng(seed)
    tensors = random_tensors(config, matrix=ternary(rng))
    name = "model.layers.0.mlp.down_proj"
    weight = tensors[name] / np.float32(SCALE)
    weight[3], weight[7, :256] = 0, 0
    scale = rng.uniform(1e-4, 2, (len(weight) if rows else 1, 1)).astype(np.float16).astype(np.float32)
    tensors[name] = weight * scale
    path = tmp_path_factory.mktemp("tq") / "a.gguf"
    found = load(save_gguf(path, config, "bitnet", gguf_tensors(config, tensors, "bitnet", kind))).layers[0]["down"]
    package = gguf.quants.dequantize(gguf.quants.quantize(tensors[name], kind), kind)
    assert found.scale.shape == ((len(weight),) if rows else ())
    assert np.array_equal(found.trits.numpy(), weight)
    assert np.array_equal(found.trits.float() * found.scale.expand(len(weight))[:, None], package)
    assert np.array_equal(found.scale.expand(len(weight))[weight.any(1)], np.broadcast_to(scale, weight.shape)[weight.any(1), 0])


@pytest.mark.parametrize("architecture", ["llama", "bitnet"])
@pytest.mark.parametrize("kind", [Kind.TQ1_0, Kind.TQ2_0], ids=["TQ1_0", "TQ2_0"])
def test_unequal_scales_of_a_row_become_digits(tmp_path, kind, architecture):
    """Of what the package dequantises to; the other matrices of the file stay trits."""
    config, rng = of_architecture(WIDE, architecture), np.random.default_rng(3)
    tensors = random_tensors(config, matrix=ternary(rng))
    weight = rng.integers(-1, 2, (256, 512)).astype(np.float32)
    weight[9, 256:] *= 2
    tensors["model.layers.0.mlp.down_proj"] = weight
    found = load(save_gguf(tmp_path / "a.gguf", config, architecture, gguf_tensors(config, tensors, architecture, kind)))
    assert np.array_equal(found.layers[0]["down"], weight) and isinstance(found.layers[0]["up"], Trits)
    assert found.sources["layer0.down"] == f"{kind.name}, unequal scales: as digits"
    assert found.sources["layer0.up"] == kind.name
    layer = quantise(found, planes=2).layers[0]
    assert layer.down.planes == 2 and layer.up.planes == 1
    np.testing.assert_allclose(layer.down.weights * layer.down.scale[:, None], weight, rtol=1e-4)      # digits hold 1 and 2


def test_i2_s_bits(tmp_path):
    """128 weights written out by hand: byte 5 has weights 5, 37, 69, 101 and byte 4 has 4, 36, 68, 100."""
    config = of_architecture(replace(SMALL, hidden_size=128, n_layers=1), "bitnet")
    tensors = gguf_tensors(config, random_tensors(config), "bitnet")
    data = np.full(40 * 32 + 32, 0b01010101, np.uint8)
    data[5], data[4] = 0b01100101, 0b01010100
    data[-32:-28] = np.float32([0.75]).view(np.uint8)
    tensors["blk.0.ffn_up.weight"] = Tensor(data, I2_S, (40, 128))
    found = load(save_gguf(tmp_path / "a.gguf", config, "bitnet", tensors)).layers[0]["up"]
    expected = torch.zeros(40, 128, dtype=torch.int8)
    expected[0, 37], expected[0, 100] = 1, -1
    assert torch.equal(found.trits, expected) and found.scale == 0.75


def test_a_matrix_of_zeros(tmp_path):
    config = of_architecture(WIDE, "bitnet")
    tensors = random_tensors(config, matrix=lambda *shape: np.zeros(shape, np.float32))
    found = load(save_gguf(tmp_path / "a.gguf", config, "bitnet", gguf_tensors(config, tensors, "bitnet", Kind.TQ2_0)))
    assert not found.layers[0]["up"].any() and quantise(found).layers[0].up.scale.isfinite().all()


def test_scales_beside_the_weights(tmp_path):
    """``blk.N.attn_q.scale`` multiplies what the matrix gives."""
    config = of_architecture(WIDE, "bitnet")
    tensors = gguf_tensors(config, random_tensors(config, matrix=ternary(np.random.default_rng(5))), "bitnet", Kind.TQ2_0)
    tensors["blk.0.attn_q.scale"] = Tensor(np.float32([3]), Kind.F32, (1,))
    layer = load(save_gguf(tmp_path / "a.gguf", config, "bitnet", tensors)).layers[0]
    assert layer["q"].scale.item() == 3 * SCALE and layer["k"].scale.item() == SCALE


def turned(vectors, position, neighbours):
    """Heads (n, D) turned to a position: pairs (2i, 2i + 1), or (i, i + D/2)."""
    n, dim = vectors.shape
    pairs = vectors.reshape(n, dim // 2, 2) if neighbours else vectors.reshape(n, 2, dim // 2).transpose(1, 2)
    angle = position * 10000.0 ** (-2 * torch.arange(dim // 2) / dim)
    cos, sin = angle.cos(), angle.sin()
    a, b = pairs[..., 0], pairs[..., 1]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1)


def test_turned_queries_and_keys_have_the_products_of_llama_cpp(tmp_path):
    """Only for the architecture whose neighbours are pairs; the others keep their rows."""
    for architecture in ("llama", "bitnet"):
        config = of_architecture(SMALL, architecture)
        file = gguf_tensors(config, random_tensors(config), architecture)
        layer = load(save_gguf(tmp_path / f"{architecture}.gguf", config, architecture, file)).layers[0]
        x, y = torch.randn(2, config.hidden_size, generator=torch.Generator().manual_seed(1))
        scores = []
        for neighbours, q, k in [(architecture == "llama", *(torch.from_numpy(file[f"blk.0.attn_{m}.weight"].data) for m in "qk")),
                                 (False, layer["q"], layer["k"])]:
            query = turned((q @ x).reshape(config.n_heads, -1), 17, neighbours)
            key = turned((k @ y).reshape(config.n_kv_heads, -1), 5, neighbours).repeat_interleave(config.group, 0)
            scores.append((query * key).sum((1, 2)))
        torch.testing.assert_close(*scores)


@pytest.mark.skipif(not STORIES.exists(), reason="needs stories260K.bin of karpathy/tinyllamas")
def test_a_trained_model_tells_its_story(tmp_path):
    """llama2.c pairs neighbours, as GGUF does: its tensors go into the file as they are. transformers runs what is loaded."""
    from transformers import LlamaConfig, LlamaForCausalLM
    raw = STORIES.read_bytes()
    dim, ffn, n_layers, n_heads, n_kv_heads, vocab, context = np.frombuffer(raw, "<i4", 7).tolist()
    config = ModelConfig(hidden_size=dim, ffn_size=ffn, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads,
                         head_dim=dim // n_heads, vocab_size=vocab, max_positions=context, act="silu", sub_norms=False)
    values, at, found = np.frombuffer(raw, "<f4", offset=28), vocab * dim, {}
    for name in ("attn_norm", "q", "k", "v", "o", "ffn_norm", "gate", "down", "up"):
        shape = config.shape(name) if name in MATRICES else (dim,)
        for i in range(n_layers):
            tensor, at = values[at:at + math.prod(shape)].reshape(shape), at + math.prod(shape)
            found[f"blk.{i}.{GGUF.get(name, name)}.weight"] = Tensor(tensor, Kind.F32, shape)
    found["token_embd.weight"] = Tensor(values[:vocab * dim].reshape(vocab, dim), Kind.F32, (vocab, dim))
    found["output_norm.weight"] = Tensor(values[at:at + dim], Kind.F32, (dim,))
    loaded = load(save_gguf(tmp_path / "stories.gguf", config, "llama", found))
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=dim, intermediate_size=ffn, num_hidden_layers=n_layers, num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads, vocab_size=vocab, rms_norm_eps=1e-5, tie_word_embeddings=True)).eval()
    state = {"model.embed_tokens.weight": loaded.embedding[:], "model.norm.weight": loaded.final_norm,
             "lm_head.weight": loaded.head[:]}
    for i, layer in enumerate(loaded.layers):
        state |= {f"model.layers.{i}.{HF[name]}.weight": value for name, value in layer.items()}
    model.load_state_dict(state)
    tokens = [1]
    with torch.no_grad():
        for _ in range(24):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    pieces, at = [], 4
    data = STORIES.with_name("tok512.bin").read_bytes()
    for _ in range(vocab):
        size = int.from_bytes(data[at + 4:at + 8], "little")
        pieces.append(data[at + 8:at + 8 + size])
        at += 8 + size
    assert b"".join(pieces[t] for t in tokens[1:]).startswith(b" Once upon a time, there was a little girl named Lily.")


@pytest.mark.parametrize("accel", [tiny, duo], ids=lambda accel: accel.name)
def test_a_scale_a_row_runs(tmp_path, accel):
    """Rows of their own scales through the compiler: the golden machine computes what the golden model computes."""
    config, rng = of_architecture(replace(WIDE, hidden_size=24, ffn_size=40, head_dim=6), "llama"), np.random.default_rng(2)
    scales = {}

    def matrix(*shape):
        scales[shape] = rng.uniform(0.01, 0.2, (shape[0], 1)).astype(np.float32)
        return (rng.integers(-1, 2, shape) * scales[shape]).astype(np.float32)

    path = save_gguf(tmp_path / "a.gguf", config, "llama", gguf_tensors(config, random_tensors(config, matrix=matrix), "llama"))
    model = quantise(load(path))
    assert model.layers[0].down.scale.unique().numel() > 1
    assembled = assemble(model, accel, 32)
    machine = machine_of(image.encode(assembled.header, assembled.payload), accel)
    ours, theirs = (it(t) for it, t in [(lambda t: machine.run("decode", t, lanes_of(0, len(t))), [7]),
                                        (lambda t: golden_of(model, accel).step(t, 0, accel.top_k), [7])])
    assert [(t, np.float32(v).tobytes()) for t, v in ours] == [(t, np.float32(v).tobytes()) for t, v in theirs]


def test_the_command_packs_it(tmp_path):
    config = of_architecture(replace(WIDE, hidden_size=64), "llama")
    save_gguf(tmp_path / "model.gguf", config, "llama", gguf_tensors(config, random_tensors(config), "llama", Kind.Q8_0))
    result = CliRunner().invoke(pack, [str(tmp_path / "model.gguf"), "-o", str(tmp_path / "x.img")])
    assert result.exit_code == 0, result.output
    assert image.parse((tmp_path / "x.img").read_bytes())[0]["name"] == "model"


def of_kind(kind, shape, value=0):
    """A tensor of bytes of one value."""
    block, block_bytes = gguf.GGML_QUANT_SIZES.get(kind, (128, 32))
    return Tensor(np.full(int(np.prod(shape)) // block * block_bytes + 32 * (kind == I2_S), value, np.uint8), kind, shape)


UP = "blk.0.ffn_up.weight"
BAD = [
    ("gpt2", {}, {}, "GGUF metadata general.architecture must be one of llama, bitnet, bitnet-b1.58, not 'gpt2'"),
    ("llama", {"block_count": None}, {}, "GGUF metadata must give llama.block_count"),
    ("llama", {"block_count": 0}, {}, "GGUF metadata: Model n_layers must be a positive integer, not 0"),
    ("llama", {"block_count": 2}, {}, "The checkpoint must hold tensor blk.1.attn_q.weight, and does not"),
    ("llama", {"attention.head_count": "many"}, {}, "GGUF metadata llama.attention.head_count must be an integer, not 'many'"),
    ("llama", {"attention.head_count_kv": [2, 2]}, {},
     "GGUF metadata llama.attention.head_count_kv must be an integer, not '[2 2]'"),
    ("llama", {"rope.dimension_count": 32}, {}, "GGUF metadata llama.rope.dimension_count must be 64, not 32"),
    ("llama", {"rope.scaling.type": "yarn"}, {}, "GGUF metadata llama.rope.scaling.type must be linear, not 'yarn'"),
    ("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {},
     "GGUF metadata llama.rope.scaling.factor must be 1, not 4.0"),
    ("llama", {"rope.freq_base": float("nan")}, {}, "GGUF metadata llama.rope.freq_base must be a number, not 'nan'"),
    ("llama", {"expert_count": 8}, {}, "GGUF metadata llama.expert_count must be 0, not 8"),
    ("llama", {"split.count": 3}, {}, "GGUF metadata split.count must be 1: join the parts with llama-gguf-split --merge"),
    ("llama", {"vocab_size": 29}, {}, "Tensor token_embd.weight must have shape (29, 256), not (30, 256)"),
    ("llama", {}, {UP: None}, f"The checkpoint must hold tensor {UP}, and does not"),
    ("llama", {}, {UP: of_kind(Kind.F16, (512, 255))}, f"Tensor {UP} must have shape (512, 256), not (512, 255)"),
    ("llama", {}, {UP: of_kind(Kind.F16, (512, 256), 0xFF)}, f"Tensor {UP} must hold finite numbers, and does not"),
    ("llama", {}, {UP: of_kind(Kind.Q8_1, (512, 256))},
     f"Tensor {UP} must have a type that the gguf package dequantises, not Q8_1"),
    ("llama", {}, {UP: of_kind(38, (512, 256))}, f"Tensor {UP} must have a type of the gguf package or I2_S, not type 38"),
    ("llama", {}, {UP: of_kind(Kind.TQ2_0, (512, 255))},
     f"Tensor {UP} must have rows of whole blocks of 256 weights, and has shape (512, 255)"),
    ("llama", {}, {UP: of_kind(I2_S, (512, 256), 0x3F)},
     f"Tensor {UP} (I2_S) must hold -s, 0 and s with one s, and row 0 holds other numbers"),
    ("llama", {}, {"blk.0.attn_q.bias": of_kind(Kind.F32, (256,))},
     "Tensor blk.0.attn_q.bias must not be there: the decoder has no biases, experts or scaled positions"),
    ("llama", {}, {"blk.0.attn_q.scale": of_kind(Kind.F32, (1,))}, "Tensor blk.0.attn_q.scale must be positive, not 0"),
    ("bitnet", {}, {}, "The checkpoint must hold tensor blk.0.attn_sub_norm.weight, and does not"),
]


@pytest.fixture(scope="module")
def good():
    """(config, tensors) of a small llama."""
    config = of_architecture(WIDE, "llama")
    return config, gguf_tensors(config, random_tensors(config), "llama", Kind.Q8_0)


@pytest.mark.parametrize("architecture, metadata, tensors, sentence", BAD, ids=[case[3] for case in BAD])
def test_one_sentence_for_what_cannot_be_used(good, tmp_path, architecture, metadata, tensors, sentence):
    config, found = good
    changed = {name: tensor for name, tensor in (found | tensors).items() if tensor is not None}
    with pytest.raises(CheckpointError) as error:
        list(load(save_gguf(tmp_path / "a.gguf", config, architecture, changed, metadata)).layers)
    assert str(error.value) == sentence


def test_files_that_are_no_gguf(tmp_path):
    path = tmp_path / "a.gguf"
    for data, sentence in [(None, "^a.gguf must be a GGUF file, and .* cannot be read as one$"), (b"", "cannot be read as one$"),
                           (b"GGML" + bytes(99), "^a.gguf must be a GGUF file, and does not begin like one$"),
                           (b"GGUF\0\0\0\3" + bytes(99), "^a.gguf must have GGUF version 2 or 3"),
                           (b"GGUF\3\0\0\0" + b"\xff" * 16 + bytes(8), "^a.gguf is truncated or corrupted: "),
                           (b"GGUF\3\0\0\0" + bytes(8) + b"\1" + bytes(7) + b"\2" + bytes(7) + b"a\n",
                            "^a.gguf: names must have at most 128 printable characters, and the one before byte 34 has not$")]:
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(CheckpointError, match=sentence):
            load(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a small good file; where its tensors begin."""
    config = of_architecture(replace(SMALL, n_layers=1), "llama")
    tensors = gguf_tensors(config, random_tensors(config), "llama")
    data = save_gguf(tmp_path_factory.mktemp("whole") / "a.gguf", config, "llama", tensors).read_bytes()
    return data, data.index(tensors["token_embd.weight"].data.tobytes())


def outcome(path, data):
    """Load a file: the sentence, or None when it is read."""
    path.write_bytes(data)
    try:
        list(load(path).layers)
    except CheckpointError as error:
        return str(error)


@settings(max_examples=30)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_truncated_files_get_a_sentence(whole, tmp_path_factory, cut):
    data, start = whole
    for size in {int(cut * start), int(cut * len(data))}:
        sentence = outcome(tmp_path_factory.mktemp("cut") / "a.gguf", data[:size])
        assert "truncated" in sentence or "must be a GGUF file" in sentence


@settings(max_examples=150)
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
def test_changed_bytes_get_a_sentence_or_a_model(whole, tmp_path_factory, flips):
    """No other exception, and no sentence that is none, no matter which bytes of the table of contents are wrong."""
    data, start = whole
    data = bytearray(data)
    for where, change in flips:
        data[int(where * start)] ^= change
    sentence = outcome(tmp_path_factory.mktemp("flip") / "a.gguf", bytes(data))
    assert sentence is None or (sentence.isprintable() and len(sentence) < 400)
