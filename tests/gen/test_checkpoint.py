"""Reading checkpoints: the layouts of transformers, and one sentence for each that cannot be used."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from celosia.gen.checkpoint import CheckpointError, load, unpack_rows
from celosia.gen.float_model import FloatModel
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
    assert not torch.equal(found.head[:], found.embedding[:])


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
KINDS = "bitnet, llama, mistral, qwen2"
BAD = [
    ({"model_type": "gpt2"}, {}, f"config.json: model_type must be one of {KINDS}, not 'gpt2'"),
    ({"model_type": ["llama"]}, {}, f"config.json: model_type must be one of {KINDS}, not ['llama']"),
    ({"hidden_size": None}, {}, "config.json must give hidden_size"),
    ({"hidden_size": "24"}, {}, "config.json: hidden_size must be an integer, not '24'"),
    ({"num_hidden_layers": 10**9}, {}, "The checkpoint must hold tensor model.layers.2.self_attn.q_proj.weight, and does not"),
    ({"rms_norm_eps": float("inf")}, {}, "config.json: rms_norm_eps must be a finite number, not inf"),
    ({"attention_bias": True}, {}, "config.json: attention_bias must be false, not True"),
    ({"num_attention_heads": 3}, {}, "config.json: Model n_heads must be a multiple of the 2 KV heads, not 3"),
    ({"hidden_act": "gelu"}, {}, "config.json: Model act must be one of relu2, silu, not 'gelu'"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, {}, "config.json: rope_type must be default, not 'yarn'"),
    ({"rope_scaling": {"type": "linear", "factor": 2}}, {}, "config.json: rope_type must be default, not 'linear'"),
    ({"rope_scaling": 2.0}, {}, "config.json: rope_scaling must be a JSON object, not 2.0"),
    ({"partial_rotary_factor": 0.5}, {}, "config.json: partial_rotary_factor must be 1, not 0.5"),
    ({"quantization_config": {"quant_method": "gptq"}}, {}, "config.json: quant_method must be bitnet, not 'gptq'"),
    ({"quantization_config": {"quant_method": "bitnet", "use_rms_norm": True}}, {},
     "config.json: use_rms_norm must be false, since the accelerator has no norm in a matrix"),
    ({"quantization_config": {"quant_method": "bitnet", "linear_class": "other"}}, {},
     "config.json: linear_class must be bitlinear or autobitlinear, not 'other'"),
    ({"quantization_config": {"quant_method": "bitnet", "modules_to_not_convert": ["o_proj"]}}, {},
     "config.json: modules_to_not_convert must be lm_head alone, not ['o_proj']"),
    ({}, {f"{NAME}.weight": None}, f"The checkpoint must hold tensor {NAME}.weight, and does not"),
    ({}, {f"{NAME}.weight": torch.zeros(40, 23)}, f"Tensor {NAME}.weight must have shape (40, 24), not (40, 23)"),
    ({}, {f"{NAME}.weight": torch.zeros(40, 24, dtype=torch.int32)},
     f"Tensor {NAME}.weight must hold floating-point numbers, not torch.int32"),
    ({}, {f"{NAME}.weight": torch.zeros(40, 24, dtype=torch.float8_e4m3fn)},
     f"Tensor {NAME}.weight must hold floating-point numbers, not F8_E4M3"),
    ({}, {f"{NAME}.weight": torch.full((40, 24), float("-inf"))}, f"Tensor {NAME}.weight must hold finite numbers, and does not"),
    ({}, {f"{NAME}.weight": torch.zeros(10, 24, dtype=torch.uint8)},
     f"Tensor {NAME}.weight must be not packed, as model.layers.0.self_attn.q_proj.weight is, and has type torch.uint8"),
    ({}, {f"{NAME}.bias": torch.ones(40)}, f"Tensor {NAME}.bias must be zeros, since the accelerator adds no biases, and is not"),
    ({}, {"model.layers.0.self_attn.q_norm.weight": torch.ones(6)},
     "The checkpoint must hold the tensors of a model of its kind alone, and has model.layers.0.self_attn.q_norm.weight"),
    ({"tie_word_embeddings": True}, {"lm_head.weight": torch.zeros(30, 24)},
     "Tensor lm_head.weight must be model.embed_tokens.weight, as tie_word_embeddings of config.json says, and is not"),
    ({}, {"model.norm.weight": torch.full((24,), float("nan"))}, "Tensor model.norm.weight must hold finite numbers, and does not"),
]
BAD_PACKED = [
    ({f"{NAME}.weight": torch.zeros(9, 24, dtype=torch.uint8)},
     f"Tensor {NAME}.weight must have shape (10, 24) (four outputs a byte), not (9, 24)"),
    ({f"{NAME}.weight": torch.full((10, 24), 255, dtype=torch.uint8)},
     f"Tensor {NAME}.weight must hold two-bit codes 0 to 2, not 3"),
    ({f"{NAME}.weight": torch.zeros(40, 24)},
     f"Tensor {NAME}.weight must be packed, as model.layers.0.self_attn.q_proj.weight is, and has type torch.float32"),
    ({f"{NAME}.weight_scale": None}, f"The checkpoint must hold tensor {NAME}.weight_scale, and does not"),
    ({f"{NAME}.weight_scale": torch.zeros(1)}, f"Tensor {NAME}.weight_scale must be one positive number, not [0.0]"),
    ({f"{NAME}.weight_scale": torch.ones(2)}, f"Tensor {NAME}.weight_scale must be one positive number, not [1.0, 1.0]"),
]


@pytest.mark.parametrize("config, tensors, sentence", BAD, ids=[case[2] for case in BAD])
def test_one_sentence_for_what_cannot_be_used(master, tmp_path, config, tensors, sentence):
    with pytest.raises(CheckpointError) as error:
        list(load(changed(master, tmp_path, config, tensors)).layers)
    assert str(error.value) == sentence


@pytest.mark.parametrize("tensors, sentence", BAD_PACKED, ids=[case[1] for case in BAD_PACKED])
def test_one_sentence_for_what_is_packed_wrongly(master, tmp_path, tensors, sentence):
    (tmp_path / "whole").mkdir()
    source = packed(master, tmp_path / "whole", "bitlinear")
    with pytest.raises(CheckpointError) as error:
        list(load(changed(source, tmp_path, {}, tensors)).layers)
    assert str(error.value) == sentence


def same(one, other):
    """Whether two checkpoints hold the same tensors."""
    assert one.config == other.config and len(one.layers) == len(other.layers)
    assert torch.equal(one.embedding[:], other.embedding[:]) and torch.equal(one.head[:], other.head[:])
    for layer, twin in zip(one.layers, other.layers):
        assert layer.keys() == twin.keys() and all(torch.equal(layer[name], twin[name]) for name in layer)


def test_shards_are_the_single_file(master, tmp_path):
    from transformers import BitNetForCausalLM
    BitNetForCausalLM.from_pretrained(master).save_pretrained(tmp_path, max_shard_size="6KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2 and not (tmp_path / "model.safetensors").exists()
    same(load(tmp_path), load(master))


@pytest.mark.parametrize("weight_map, sentence", [
    ({}, "model.safetensors.index.json must give weight_map, the file of every tensor"),
    ({"a": 3}, "model.safetensors.index.json must name a file beside it for tensor a, not 3"),
    ({"a": "../model.safetensors"}, "model.safetensors.index.json must name a file beside it for tensor a, "
                                    "not '../model.safetensors'"),
    ({"a": "model.safetensors"}, "model.safetensors must hold tensor a, as model.safetensors.index.json says, and does not"),
])
def test_an_index_that_lies(master, tmp_path, weight_map, sentence):
    changed(master, tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError) as error:
        load(tmp_path)
    assert str(error.value) == sentence


def test_a_shard_that_is_missing(master, tmp_path):
    changed(master, tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(CheckpointError, match="^gone.safetensors must be a safetensors file, and .* cannot be read as one$"):
        load(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_tensors_alone_is_read(master, tmp_path, zipped):
    (tmp_path / "config.json").write_bytes((master / "config.json").read_bytes())
    torch.save(load_file(master / "model.safetensors"), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    same(load(tmp_path), load(master))


class Harm:
    """A pickle of it creates a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_of_a_pickle_runs(master, tmp_path, zipped):
    (tmp_path / "config.json").write_bytes((master / "config.json").read_bytes())
    found = load_file(master / "model.safetensors") | {"harm": Harm(tmp_path / "harmed")}
    torch.save(found, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="^pytorch_model.bin must be a pickle of nothing but tensors"):
        load(tmp_path)
    assert not (tmp_path / "harmed").exists()


def test_files_that_are_no_checkpoint(master, tmp_path):
    with pytest.raises(CheckpointError, match="^A checkpoint must be a directory with a config.json"):
        load(tmp_path)
    for text in ("{", "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match="^config.json must be JSON"):
            load(tmp_path)
    (tmp_path / "config.json").write_bytes((master / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="^A checkpoint must hold model.safetensors, model.safetensors.index.json or "):
        load(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"no pickle at all")
    with pytest.raises(CheckpointError, match="^pytorch_model.bin must be a pickle of nothing but tensors"):
        load(tmp_path)
    whole = (master / "model.safetensors").read_bytes()
    for size in (0, 7, 100, len(whole) - 100):
        (tmp_path / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="^model.safetensors must be a safetensors file"):
            load(tmp_path)


def test_bfloat16_masters_are_quantised_as_transformers_does_online(master, tmp_path):
    from transformers.integrations.bitnet import WeightQuant
    tensors = {name: t.to(torch.bfloat16) for name, t in load_file(master / "model.safetensors").items()}
    how = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    found = load(changed(master, tmp_path, {"quantization_config": how}, tensors))
    for layer in found.layers:
        for name in MATRICES:
            ours = quantise_matrix(layer[name])
            theirs = WeightQuant.apply(layer[name])
            assert torch.equal(ours.weights.float(), theirs.sign())
            torch.testing.assert_close(ours.weights * ours.scale[:, None], theirs, rtol=3e-7, atol=0)


def test_the_first_bitnets_name_their_sub_norms_otherwise(master, tmp_path):
    names = {"attn_sub_norm": "inner_attn_ln", "ffn_sub_norm": "ffn_layernorm"}
    tensors = load_file(master / "model.safetensors")
    renamed = dict.fromkeys(tensors)
    for name, tensor in tensors.items():
        for new, old in names.items():
            name = name.replace(new, old)
        renamed[name] = tensor
    changed(master, tmp_path, {"model_type": "llama", "hidden_act": "silu", "architectures": ["BitnetForCausalLM"],
                               "weight_bits": 1, "input_bits": 8}, renamed)
    found = load(tmp_path)
    assert found.config.sub_norms and found.config.act == "silu"
    for layer, twin in zip(found.layers, load(master).layers):
        assert all(torch.equal(layer[name], twin[name]) for name in twin)


def test_a_tied_head_that_is_stored_too(master, tmp_path):
    embedding = load_file(master / "model.safetensors")["model.embed_tokens.weight"]
    found = load(changed(master, tmp_path, {"tie_word_embeddings": True}, {"lm_head.weight": embedding.clone()}))
    assert found.config.tied and torch.equal(found.head[:], embedding)


def test_qwen2_without_its_biases(tmp_path):
    from transformers import Qwen2Config, Qwen2ForCausalLM
    torch.manual_seed(4)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=20, max_window_layers=1))
    for layer in model.model.layers:
        for each in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            torch.nn.init.zeros_(each.bias)
    model.save_pretrained(tmp_path)
    found = load(tmp_path)
    assert found.config.windows == (0, 20) and found.config.act == "silu" and not found.config.sub_norms
    torch.nn.init.ones_(model.model.layers[1].self_attn.k_proj.bias)
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="^Tensor model.layers.1.self_attn.k_proj.bias must be zeros"):
        load(tmp_path)


def test_mistral_is_a_llama_with_a_window(tmp_path):
    from transformers import MistralConfig, MistralForCausalLM
    torch.manual_seed(2)
    model = MistralForCausalLM(MistralConfig(**SIZES, head_dim=8, sliding_window=16, initializer_range=0.3))
    model.save_pretrained(tmp_path)
    found, tokens = load(tmp_path), torch.randint(30, (1, 40))
    with torch.no_grad():
        expected = model(tokens).logits
    assert torch.allclose(FloatModel(found).logits(tokens), expected, atol=1e-4)
    whole = replace(found, config=replace(found.config, windows=()))
    assert torch.allclose(FloatModel(whole).logits(tokens)[:, :16], expected[:, :16], atol=1e-4)
    assert not torch.allclose(FloatModel(whole).logits(tokens)[:, 16:], expected[:, 16:], atol=1e-2)
    assert found.config.windows == (16, 16) and found.config.sinks == 0 and found.config.head_dim == 8
    assert found.config.max_positions == SIZES["max_position_embeddings"]


def test_caps_are_those_of_gemma_2(tmp_path):
    """A llama whose attention is that of Gemma 2 as transformers has it."""
    from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

    def capped(module, q, k, v, mask, **options):
        hidden = torch.full((q.shape[2], k.shape[2]), float("-inf")).triu(1)[None, None]
        return eager_attention_forward(module, q, k, v, hidden, softcap=1.5, scaling=options["scaling"])

    AttentionInterface.register("capped", capped)
    torch.manual_seed(2)
    config = LlamaConfig(**SIZES, head_dim=8, initializer_range=0.5, attn_implementation="capped")
    model, tokens = LlamaForCausalLM(config), torch.randint(30, (1, 40))
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        logits = model(tokens).logits
    changed(tmp_path, tmp_path, {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 3, "query_pre_attn_scalar": 8})
    found = load(tmp_path)
    assert (found.config.attn_cap, found.config.logit_cap) == (1.5, 3.0)
    assert torch.allclose(FloatModel(found).logits(tokens), 3 * (logits / 3).tanh(), atol=1e-4)
    plain = replace(found, config=replace(found.config, attn_cap=0.0, logit_cap=0.0))
    assert (FloatModel(plain).logits(tokens) - logits).abs().max() > 0.1


@pytest.mark.parametrize("change,sentence", [
    ({"attn_logit_softcapping": -1.0}, "config.json: Model attn_cap must be 0.000976562 to 4096, or 0 for none, not -1.0"),
    ({"attn_logit_softcapping": 1e5}, "config.json: Model attn_cap must be"),
    ({"attn_logit_softcapping": "1e999"}, "config.json: attn_logit_softcapping must be a finite number, not '1e999'"),
    ({"final_logit_softcapping": -30}, "config.json: Model logit_cap must be positive, or 0 for none, not -30.0"),
    ({"query_pre_attn_scalar": 7}, "config.json: query_pre_attn_scalar must be head_dim, 6, not 7")])
def test_caps_that_are_refused(master, tmp_path, change, sentence):
    with pytest.raises(CheckpointError, match=f"^{sentence}"):
        load(changed(master, tmp_path, {"head_dim": 6} | change))


@pytest.mark.parametrize("said", [{"bidirectional": True}, {"is_causal": False}])
def test_a_config_says_that_a_model_is_bidirectional(tmp_path, said):
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, initializer_range=0.3))
    model.save_pretrained(tmp_path)
    assert not load(tmp_path).config.bidirectional
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | said))
    found, tokens = load(tmp_path), torch.randint(30, (1, 12))
    assert found.config.bidirectional
    with torch.no_grad():
        expected = model(tokens, attention_mask=torch.zeros(1, 1, 12, 12)).logits       # what is added to scores: no one is masked
    assert torch.allclose(FloatModel(found).logits(tokens), expected, atol=1e-4)
    assert not torch.allclose(model(tokens).logits, expected, atol=1e-2)


def test_layers_are_read_when_they_are_asked_for(master, tmp_path):
    found = load(changed(master, tmp_path, {}, {f"{NAME}.weight": torch.full((40, 24), float("nan"))}))
    assert len(found.layers) == 2 and found.layers[0]["up"].shape == (40, 24)
    with pytest.raises(CheckpointError, match=f"^Tensor {NAME}.weight must hold finite numbers"):
        found.layers[-1]
    with pytest.raises(IndexError):
        found.layers[2]


@pytest.fixture(scope="module")
def harmed(master, tmp_path_factory):
    """A folder whose files a test may harm, and the whole ones."""
    path = tmp_path_factory.mktemp("harmed")
    return path, {name: (master / name).read_bytes() for name in ("config.json", "model.safetensors")}


@given(st.data())
def test_a_harmed_file_is_read_or_refused(harmed, data):
    """Flipped, cut, or lengthened: a checkpoint or one sentence, nothing else."""
    path, whole = harmed
    name = data.draw(st.sampled_from(sorted(whole)))
    raw = bytearray(whole[name])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.one_of(st.integers(0, len(raw) - 1), st.integers(0, min(len(raw), 2500) - 1)))
        raw[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(raw) + 8)))
    for each, kept in whole.items():
        (path / each).write_bytes(kept)
    (path / name).write_bytes(bytes(raw) if cut is None else bytes(raw).ljust(cut, b"\0")[:cut])
    try:
        list(load(path).layers)
    except CheckpointError as error:
        assert "\n" not in str(error)


@given(st.data())
def test_a_config_that_lies_is_read_or_refused(harmed, data):
    """Any value in the place of any other."""
    path, whole = harmed
    config = json.loads(whole["config.json"])
    name = data.draw(st.sampled_from(sorted(config) + ["rope_scaling", "head_dim", "quantization_config", "sliding_window"]))
    scalars = st.none() | st.booleans() | st.integers(-9, 10**20) | st.floats() | st.text(max_size=3)
    config[name] = data.draw(scalars | st.lists(scalars, max_size=2) | st.dictionaries(
        st.sampled_from(["rope_type", "type", "rope_theta", "quant_method", "linear_class"]), scalars | st.just("bitnet")))
    for each, kept in whole.items():
        (path / each).write_bytes(kept if each != "config.json" else json.dumps(config).encode())
    try:
        list(load(path).layers)
    except CheckpointError as error:
        assert "\n" not in str(error)
