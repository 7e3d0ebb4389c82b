"""Reading checkpoints: the layouts of transformers, and one sentence for each that cannot be used."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from celosia.gen.checkpoint import CheckpointError, load, unpack_rows
from celosia.gen.model import MATRICES, Trits
from celosia.gen.quantise import quantise, quantise_head, quantise_matrix

SIZES = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=30, max_position_embeddings=64)


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    """A random BitNetForCausalLM as transformers saves it, master weights."""
    from transformers import BitNetConfig, BitNetForCausalLM
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("master")
    BitNetForCausalLM(BitNetConfig(**SIZES, bos_token_id=0, eos_token_id=1)).save_pretrained(path)
    return path


def changed(source, target, config=None, tensors=None):
    """A copy of a checkpoint with other config values and other tensors (None removes)."""
    found = load_file(source / "model.safetensors")
    found |= tensors or {}
    save_file({name: t.contiguous() for name, t in found.items() if t is not None}, target / "model.safetensors")
    values = json.loads((source / "config.json").read_text()) | (config or {})
    (target / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    return target


def packed(source, target, linear_class):
    """The same checkpoint with matrices packed by transformers' own function."""
    from transformers.integrations.bitnet import pack_weights
    tensors = {}
    for name, weight in load_file(source / "model.safetensors").items():
        if "_proj.weight" in name:
            found = quantise_matrix(weight)
            scale = found.scale[:1]
            tensors[name] = pack_weights(found.weights.to(torch.float32))
            tensors[name.replace("weight", "weight_scale")] = scale if linear_class == "autobitlinear" else 1 / scale
    return changed(source, target, {"quantization_config": {"quant_method": "bitnet", "linear_class": linear_class,
                                                            "quantization_mode": "offline"}}, tensors)


@pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
def test_packed_and_master_weights_are_the_same_model(master, tmp_path, linear_class):
    ours, theirs = quantise(load(master)), quantise(load(packed(master, tmp_path, linear_class)))
    for layer, other in zip(ours.layers, theirs.layers):
        for name in MATRICES:
            assert torch.equal(getattr(layer, name).weights, getattr(other, name).weights)
            torch.testing.assert_close(getattr(layer, name).scale, getattr(other, name).scale, rtol=3e-7, atol=0)
    assert ours.config == theirs.config
    assert torch.equal(ours.head.weights, theirs.head.weights)


def test_sizes_are_read(master):
    config = load(master).config
    assert (config.hidden_size, config.ffn_size, config.n_heads, config.n_kv_heads, config.head_dim) == (24, 40, 4, 2, 6)
    assert config.act == "relu2" and config.sub_norms and config.rope_theta == 500000.0


def test_a_llama_has_no_sub_norms(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(2)
    LlamaForCausalLM(LlamaConfig(**SIZES, head_dim=8, tie_word_embeddings=False)).save_pretrained(tmp_path)
    found = load(tmp_path)
    assert found.config.act == "silu" and not found.config.sub_norms and not found.config.tied
    assert found.config.head_dim == 8 and "attn_sub_norm" not in found.layers[0]
    assert not torch.equal(found.head, found.embedding)


@given(n_rows=st.integers(1, 33), n_columns=st.integers(1, 9), seed=st.integers(0, 99))
def test_unpacking_inverts_transformers_packing(n_rows, n_columns, seed):
    from transformers.integrations.bitnet import pack_weights
    trits = torch.randint(-1, 2, (n_rows, n_columns), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(unpack_rows(pack_weights(trits.float()), n_rows), trits.to(torch.int8))


def test_absmean_rule():
    found = quantise_matrix(torch.tensor([[0.5, -0.2, 3.0], [-1.0, 0.0, 0.1]]))     # mean |W| is 0.8
    assert found.weights.tolist() == [[1, 0, 1], [-1, 0, 0]]
    assert found.scale.tolist() == pytest.approx([0.8, 0.8], rel=1e-6)
    assert quantise_matrix(torch.zeros(2, 2)).scale[0] == pytest.approx(1e-5)


def test_head_rows_reach_121():
    weights = torch.randn(9, 16, generator=torch.Generator().manual_seed(3))
    weights[4] = 0
    found = quantise_head(weights)
    assert found.weights.abs().amax(1).tolist() == [121 if row != 4 else 0 for row in range(9)]
    assert (found.weights * found.scale[:, None] - weights).abs().max() <= found.scale.max() / 2 * 1.001


def test_scale_one_over_absmean(master, tmp_path):
    found = load(packed(master, tmp_path, "bitlinear")).layers[0]["q"]
    assert isinstance(found, Trits) and found.scale.shape == ()


NAME = "model.layers.1.mlp.up_proj"
BAD = [
    ({"model_type": "gpt2"}, {}, "config.json: model_type must be bitnet or llama, not 'gpt2'"),
    ({"hidden_size": None}, {}, "config.json must give hidden_size"),
    ({"attention_bias": True}, {}, "config.json: attention_bias must be false, not True"),
    ({"num_attention_heads": 3}, {}, "config.json: Model n_heads must be a multiple of the 2 KV heads, not 3"),
    ({"hidden_act": "gelu"}, {}, "config.json: Model act must be one of relu2, silu, not 'gelu'"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, {}, "config.json: rope_type must be default, not 'yarn'"),
    ({}, {f"{NAME}.weight": None}, f"The checkpoint must hold tensor {NAME}.weight, and does not"),
    ({}, {f"{NAME}.weight": torch.zeros(40, 23)}, f"Tensor {NAME}.weight must have shape (40, 24), not (40, 23)"),
    ({}, {f"{NAME}.weight": torch.zeros(40, 24, dtype=torch.int32)},
     f"Tensor {NAME}.weight must hold floating-point numbers, not torch.int32"),
    ({}, {"model.norm.weight": torch.full((24,), float("nan"))}, "Tensor model.norm.weight must hold finite numbers, and does not"),
    ({}, {f"{NAME}.weight": torch.zeros(9, 24, dtype=torch.uint8)},
     f"Tensor {NAME}.weight must have shape (10, 24) (four outputs a byte), not (9, 24)"),
    ({}, {f"{NAME}.weight": torch.full((10, 24), 255, dtype=torch.uint8)},
     f"Tensor {NAME}.weight must hold two-bit codes 0 to 2, not 3"),
    ({}, {f"{NAME}.weight": torch.zeros(10, 24, dtype=torch.uint8)},
     f"The checkpoint must hold tensor {NAME}.weight_scale, and does not"),
    ({}, {f"{NAME}.weight": torch.zeros(10, 24, dtype=torch.uint8), f"{NAME}.weight_scale": torch.zeros(1)},
     f"Tensor {NAME}.weight_scale must be one positive number, not [0.0]"),
]


@pytest.mark.parametrize("config, tensors, sentence", BAD, ids=[case[2] for case in BAD])
def test_one_sentence_for_what_cannot_be_used(master, tmp_path, config, tensors, sentence):
    with pytest.raises(CheckpointError) as error:
        load(changed(master, tmp_path, config, tensors))
    assert str(error.value) == sentence


def test_files_that_are_no_checkpoint(master, tmp_path):
    with pytest.raises(CheckpointError, match="^A checkpoint must be a directory with a config.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="^config.json must be JSON"):
        load(tmp_path)
    (tmp_path / "config.json").write_bytes((master / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle is never opened")
    with pytest.raises(CheckpointError, match="^model.safetensors must be a safetensors file"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((master / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="^model.safetensors must be a safetensors file"):
        load(tmp_path)
