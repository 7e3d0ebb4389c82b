"""Matrices of several digit planes, and checkpoints of llama2.c: the same numbers all the way to the machine."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from random_models import SMALL, golden_of, machine_of, mixed_planes, random_checkpoint, random_image

from celosia.gen import fit, image, llama2c
from celosia.gen.checkpoint import CheckpointError, load
from celosia.gen.commands import pack
from celosia.gen.digit_study import study, table
from celosia.gen.float_model import FloatModel
from celosia.gen.golden.machine import lanes_of
from celosia.gen.model import MATRICES, Trits
from celosia.gen.place import Layout
from celosia.gen.quantise import AUTO_ERROR, digit_rows, quantise, quantise_matrix, relative_error
from celosia.hw.configs import duo, kv260, tiny

CONTEXT = 32
TOKENS = [7, 3, 29, 0, 11]


@pytest.mark.parametrize("accel", [tiny, duo, kv260], ids=lambda accel: accel.name)
@pytest.mark.parametrize("config, seed", [
    (SMALL, 1), (replace(SMALL, hidden_size=13, ffn_size=19, head_dim=8, sub_norms=False, act="silu", n_layers=1), 2),
    (replace(SMALL, ffn_size=300, n_layers=1, n_kv_heads=1), 3)], ids=["small", "odd", "long"])
def test_machine_equals_model(config, accel, seed):
    data, assembled, model = random_image(config, accel, seed, CONTEXT, planes=mixed_planes(seed))
    machine = machine_of(data, accel)
    most = max(getattr(model.layers[0], name).planes for name in "qkv")
    assert assembled.placement.matrices["layer0.qkv0"].planes == most
    assert assembled.placement.matrices["layer0.down"].planes == model.layers[0].down.planes
    machine.run("prefill", TOKENS[:1], lanes_of(0, 1))
    for position in range(1, len(TOKENS)):
        found = machine.run("decode", TOKENS[position:position + 1], lanes_of(position, 1))
    right = golden_of(model, accel, CONTEXT).step(TOKENS, 0, accel.top_k)
    assert [(t, np.float32(v).tobytes()) for t, v in found] == [(t, np.float32(v).tobytes()) for t, v in right]


@pytest.mark.parametrize("planes", [1, 2, 3, 4, 5])
def test_digits_are_within_their_range_and_their_error_falls(planes):
    weight = torch.randn(9, 70, generator=torch.Generator().manual_seed(planes))
    weight[3], weight[4, 0] = 0, 50.0
    found = digit_rows(weight, planes)
    limit = (3**planes - 1) // 2
    assert found.planes == planes and found.weights.abs().max() <= limit
    assert not found.weights[3].any() and found.scale[3] == 0
    spanned = weight.abs().amax(1, keepdim=True) / limit
    rounded = (weight / spanned.clamp(min=1e-30)).round() * spanned
    assert relative_error(weight, found) <= 1.001 * float((weight - rounded).norm() / weight.norm())


def test_digits_of_digits_are_themselves():
    generator = torch.Generator().manual_seed(1)
    for planes in (1, 2, 3, 4, 5):
        limit = (3**planes - 1) // 2
        digits = torch.randint(-limit, limit + 1, (8, 60), generator=generator)
        digits[:, 0] = limit
        found = digit_rows(digits * torch.rand(8, 1, generator=generator), planes)
        assert torch.equal(found.weights.long(), digits)


def test_auto_takes_the_fewest_planes():
    normal = torch.randn(40, 256, generator=torch.Generator().manual_seed(2))
    found = quantise_matrix(normal, "auto")
    assert relative_error(normal, found) <= AUTO_ERROR < relative_error(normal, digit_rows(normal, found.planes - 1))
    assert quantise_matrix(normal.sign() * 0.3, "auto").planes == 1
    assert relative_error(torch.zeros(2, 3), quantise_matrix(torch.zeros(2, 3), "auto")) == 0
    trits = Trits(normal.sign().to(torch.int8), torch.tensor(0.5))
    assert quantise_matrix(trits, 4).planes == 1 and torch.equal(quantise_matrix(trits, "auto").weights, trits.trits)


def test_ternary_checkpoints_stay_one_plane():
    found = random_checkpoint(SMALL)
    plain, asked = quantise(found), quantise(replace(found, ternary=True), planes="auto")
    for name in MATRICES:
        one, other = getattr(plain.layers[0], name), getattr(asked.layers[0], name)
        assert other.planes == 1 and torch.equal(one.weights, other.weights) and torch.equal(one.scale, other.scale)


def test_sums_that_do_not_fit_have_their_sentence():
    layout = Layout(replace(SMALL, ffn_size=6912), replace(kv260, max_columns=8000), 64)
    assert fit.check(layout, planes={"layer0.down": 4, "layer1.qkv0": 5}) == []
    assert fit.check(layout, planes={"layer0.down": 4, "layer1.down": 5}) == [
        "down of 6912 columns in 5 digit planes needs 6960 columns of 27 bit sums, configuration kv260 has 4332"]


def test_the_table_of_the_study(tmp_path):
    written(tmp_path / "model.bin")
    original, found = study(tmp_path / "model.bin", n_texts=2, n_tokens=12, planes=(1, 3, "auto"))
    assert [f.planes for f in found] == ["1", "3", "auto"] and [f.bits for f in found[:2]] == pytest.approx([1.6, 4.8])
    assert found[1].error < found[0].error and found[1].divergence < found[0].divergence
    assert found[1].tokens_per_s < found[0].tokens_per_s and 0 < found[0].rms < found[0].largest
    assert 0 < found[0].deviation <= 2 * found[0].largest
    assert table(original, found).count("\n") == 5


def test_pack_asks_for_planes(tmp_path):
    written(tmp_path / "model.bin")
    sizes = {}
    for planes in ("1", "4", "5"):
        result = CliRunner().invoke(pack, [str(tmp_path / "model.bin"), "-o", str(tmp_path / "image"), "--planes", planes])
        assert result.exit_code == 0, result.output
        header, _ = image.parse((tmp_path / "image").read_bytes())
        sizes[planes] = next(s["bytes"] for s in header["segments"] if s["name"] == "layer0.down")
    assert sizes == {"1": 64, "4": 4 * 48, "5": 256}        # 48 bytes a plane, in whole 64
    result = CliRunner().invoke(pack, [str(tmp_path / "model.bin"), "-o", str(tmp_path / "image"), "--planes", "6"])
    assert result.exit_code and "'6' is not one of 'auto'" in result.output


STORIES = Path(__file__).resolve().parents[2].parent / "shared" / "models" / "stories260K.bin"


@pytest.mark.skipif(not STORIES.exists(), reason="needs stories260K.bin of karpathy/tinyllamas")
def test_a_real_model_keeps_its_text():
    """Head dimension 8, FFN 172: four planes follow the greedy text, three lose little, one loses everything."""
    original, found = study(STORIES, n_texts=2, n_tokens=48, planes=(1, 3, 4))
    one, three, four = found
    assert four.divergence < 0.02 and three.divergence < 0.08 and one.divergence > 1
    assert four.follows == 48 or four.margin < 2 * four.deviation
    assert four.perplexity < 1.05 * original


# Files of llama2.c.

SIZES = dict(dim=12, hidden_dim=20, n_layers=2, n_heads=3, n_kv_heads=1, vocab_size=17, seq_len=24)


def written(path, change=None, **sizes):
    """A file with random weights; returns its values."""
    numbers = SIZES | sizes
    config, positions = llama2c._config("x", *numbers.values())
    n = sum(int(np.prod(shape)) for shape in llama2c.tensor_shapes(config, positions).values())
    values = np.random.default_rng(5).standard_normal(n).astype("<f4") * 0.3
    if change:
        change(values)
    path.write_bytes(struct.pack("<7i", *numbers.values()) + values.tobytes())
    return values


@pytest.mark.parametrize("vocab", [17, -17])
def test_llama2c_agrees_with_its_own_rotation(tmp_path, vocab):
    """The logits of transformers' Llama, whose rows were put in order here by an independent rule."""
    from transformers import LlamaConfig, LlamaForCausalLM

    values = written(tmp_path / "model.bin", vocab_size=vocab)
    found = load(tmp_path / "model.bin")
    assert found.config.tied == (vocab > 0) and found.config.n_kv_heads == 1 and found.name == "model"
    tokens = torch.tensor([[1, 5, 2, 16, 9, 3]])
    ours = FloatModel(found).logits(tokens)
    theirs = LlamaForCausalLM(LlamaConfig(
        hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, vocab_size=17,
        max_position_embeddings=24, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=vocab > 0)).eval()
    at, tensors = 0, {}
    for name, shape in llama2c.tensor_shapes(found.config, 24).items():
        tensors[name] = torch.from_numpy(values[at:at + int(np.prod(shape))].reshape(shape))
        at += int(np.prod(shape))
    names = {"wq": "self_attn.q_proj", "wk": "self_attn.k_proj", "wv": "self_attn.v_proj", "wo": "self_attn.o_proj",
             "w1": "mlp.gate_proj", "w2": "mlp.down_proj", "w3": "mlp.up_proj", "attention_norm": "input_layernorm",
             "ffn_norm": "post_attention_layernorm"}
    state = {"model.embed_tokens.weight": tensors["tok_embeddings"], "model.norm.weight": tensors["norm"],
             "lm_head.weight": tensors["tok_embeddings" if vocab > 0 else "output"]}
    for name, theirs_name in names.items():
        for i in range(2):
            weight = tensors[name][i]
            if name in ("wq", "wk"):    # head of four rows: 0 and 1 turn together, and 2 and 3
                weight = weight[[4 * head + row for head in range(len(weight) // 4) for row in (0, 2, 1, 3)]]
            state[f"model.layers.{i}.{theirs_name}.weight"] = weight
    theirs.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(ours, theirs(tokens).logits, rtol=1e-4, atol=1e-4)


def nan(values):
    values[17 * 12 + 5] = float("nan")


@pytest.mark.parametrize("sizes, change, sentence", [
    ({"n_layers": 0}, None, "A file of llama2.c must have a positive n_layers, and model.bin has 0"),
    ({"n_heads": 5}, None, "A file of llama2.c must have a dim that is a multiple of its 5 heads, and model.bin has 12"),
    ({"n_heads": 12}, None, "model.bin: Model head_dim must be even for rotary positions, not 1"),
    ({"n_layers": 2**31 - 1, "dim": 2**30, "n_heads": 1}, None, "A file of llama2.c with these sizes must have "),
    ({}, nan, "Tensor attention_norm must hold finite numbers, and does not"),
])
def test_one_sentence_for_what_cannot_be_used(tmp_path, sizes, change, sentence):
    path = tmp_path / "model.bin"
    written(path, change)
    path.write_bytes(struct.pack("<7i", *(SIZES | sizes).values()) + path.read_bytes()[28:])
    with pytest.raises(CheckpointError) as error:
        list(load(path).layers)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("data, sentence", [
    (b"\x80\x02}q\x00.", "A checkpoint *.bin must be a file of llama2.c, and model.bin is a pickle"),
    (b"PK\x03\x04" + bytes(40), "A checkpoint *.bin must be a file of llama2.c, and model.bin is a pickle"),
    (struct.pack("<I", 0x616B3432) + bytes(252), "A file of llama2.c must be in its legacy format"),
    (b"", "A file of llama2.c must begin with seven numbers, and model.bin has 0 bytes"),
])
def test_files_that_are_none(tmp_path, data, sentence):
    (tmp_path / "model.bin").write_bytes(data)
    with pytest.raises(CheckpointError) as error:
        load(tmp_path / "model.bin")
    assert str(error.value).startswith(sentence)


def test_a_truncated_file(tmp_path):
    written(tmp_path / "model.bin")
    whole = (tmp_path / "model.bin").read_bytes()
    (tmp_path / "model.bin").write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=f"must have {len(whole)} bytes, and model.bin has {len(whole) - 1}$"):
        load(tmp_path / "model.bin")
