"""The golden model against transformers, and against itself in chunks.

Ours differs from the float reference in what it rounds: queries, keys and values and the head to int8, softmax weights to 16
bits. So it is held to bounds, stated here; the golden machine is held to it bit for bit.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import SMALL, golden_of, model_configs, random_checkpoint

from celosia.gen import checkpoint
from celosia.gen.attention_rounding import ROUNDINGS, RoundedModel
from celosia.gen.golden import f32, ops
from celosia.gen.golden.model import GoldenModel
from celosia.gen.place import rope_order, rope_table
from celosia.gen.quantise import quantise
from celosia.hw.configs import duo, kv260, tiny

ARGMAX_AGREEMENT = 0.985    # of all positions; those that differ are near ties,
CLEAR_MARGIN = 0.5          # for none differs where the two best logits are so far apart (their deviation is about 6)
LEAST_COSINE = 0.999
BITS_PER_BYTE = 0.01


def logits_of(path, tokens):
    """Float32 logits of transformers, without its compiler."""
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits


@pytest.fixture(scope="module")
def demo(tree_of_module):
    return quantise(checkpoint.load(tree_of_module / "models" / "demo"))


@pytest.fixture(scope="module")
def tree_of_module(request):
    return request.config.rootpath


@pytest.mark.filterwarnings("ignore")
def test_demo_model_agrees_with_transformers(demo, tree_of_module):
    folder = tree_of_module / "models" / "demo"
    text = (folder / "heldout.txt").read_bytes()
    passages = [list(text[start:start + 200]) for start in (0, 1000, 2000, 3000)]
    theirs = logits_of(folder, passages)
    ours = torch.stack([golden_of(demo, tiny, 256).forward(passage, 0) for passage in passages])
    cosine = torch.nn.functional.cosine_similarity(ours, theirs, dim=-1)
    assert cosine.min() > LEAST_COSINE
    agree = ours.argmax(-1) == theirs.argmax(-1)
    best, second = theirs.topk(2, -1).values.unbind(-1)
    assert agree[best - second > CLEAR_MARGIN].all() and agree.float().mean() >= ARGMAX_AGREEMENT
    next_bytes = torch.tensor(passages)[:, 1:].flatten()
    loss, other = (torch.nn.functional.cross_entropy(x[:, :-1].flatten(0, 1), next_bytes) / torch.log(torch.tensor(2.0))
                   for x in (ours, theirs))
    assert abs(loss - other) < BITS_PER_BYTE


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
def test_random_bitnet_agrees_with_transformers(tmp_path, n_kv_heads):
    """Packed by transformers' own function and read by it; MHA, GQA and MQA."""
    from safetensors.torch import load_file, save_file
    from transformers import BitNetConfig, BitNetForCausalLM
    from transformers.integrations.bitnet import pack_weights

    torch.manual_seed(n_kv_heads)
    config = BitNetConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                          num_key_value_heads=n_kv_heads, vocab_size=128, max_position_embeddings=64,
                          initializer_range=0.1, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1)
    BitNetForCausalLM(config).save_pretrained(tmp_path)
    found = quantise(checkpoint.load(tmp_path))
    tensors = load_file(tmp_path / "model.safetensors")
    for name in [name for name in tensors if "_proj.weight" in name]:
        layer = found.layers[int(name.split(".")[2])]
        matrix = getattr(layer, name.split(".")[4].removesuffix("_proj"))
        tensors[name] = pack_weights(matrix.weights.to(torch.float32))
        tensors[name.replace("weight", "weight_scale")] = 1 / matrix.scale[:1]
    save_file(tensors, tmp_path / "model.safetensors")
    config.quantization_config = {"quant_method": "bitnet", "linear_class": "bitlinear", "quantization_mode": "offline",
                                  "modules_to_not_convert": ["lm_head"]}
    config.save_pretrained(tmp_path)
    tokens = torch.randint(0, 128, (24,), generator=torch.Generator().manual_seed(1)).tolist()
    theirs = logits_of(tmp_path, [tokens])[0]
    ours = golden_of(quantise(checkpoint.load(tmp_path)), duo, 64).forward(tokens, 0)
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).mean() > LEAST_COSINE


@pytest.mark.filterwarnings("ignore")
def test_llama_shape_agrees_with_transformers(tmp_path):
    """SiLU and no sub-norms: transformers quantises the linear layers of a Llama as it runs."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.integrations.bitnet import AutoBitLinear

    torch.manual_seed(5)
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=20, vocab_size=128, max_position_embeddings=64, initializer_range=0.1, tie_word_embeddings=True))
    model.save_pretrained(tmp_path)
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            linear = AutoBitLinear(module.in_features, module.out_features, bias=False, online_quant=True)
            linear.weight = module.weight
            model.set_submodule(name, linear)
    tokens = torch.randint(0, 128, (24,), generator=torch.Generator().manual_seed(2)).tolist()
    with torch.no_grad():
        theirs = model.eval()(torch.tensor([tokens])).logits[0]
    found = quantise(checkpoint.load(tmp_path))
    assert found.config.act == "silu" and found.layers[0].ffn_sub_norm is None
    ours = golden_of(found, kv260, 64).forward(tokens, 0)
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).mean() > LEAST_COSINE


@settings(max_examples=15, deadline=None)
@given(config=model_configs(), accel=st.sampled_from([tiny, duo, kv260]), data=st.data())
def test_chunks_do_not_change_a_bit(config, accel, data):
    model = quantise(random_checkpoint(config))
    tokens = data.draw(st.lists(st.integers(0, config.vocab_size - 1), min_size=1, max_size=10))
    whole, parts = golden_of(model, accel), golden_of(model, accel)
    logits, position = [], 0
    while position < len(tokens):
        n = data.draw(st.integers(1, len(tokens) - position))
        logits.append(parts.forward(tokens[position:position + n], position))
        position += n
    assert torch.equal(torch.cat(logits), whole.forward(tokens, 0))
    assert torch.equal(whole.keys, parts.keys) and torch.equal(whole.value_scales, parts.value_scales)


def test_candidates_are_the_best_logits():
    model = quantise(random_checkpoint(SMALL))
    golden, other = golden_of(model, tiny), golden_of(model, tiny)
    found = golden.step([1, 2, 3], 0, 5)
    best = other.forward([1, 2, 3], 0, last_only=True)[0].sort(descending=True, stable=True)
    assert found == list(zip(best.indices[:5].tolist(), best.values[:5].tolist()))


def test_positions_beyond_the_context_are_refused():
    golden = golden_of(quantise(random_checkpoint(SMALL)), tiny, 8)
    with pytest.raises(ValueError, match="^Positions must be within the context of 8, not 7 to 8$"):
        golden.forward([1, 2], 7)


def test_head_padding_only_moves_the_order_of_a_sum():
    model = quantise(random_checkpoint(SMALL))
    a, b = (GoldenModel(model, rope_table(model.config, 32), head_quantum=q).forward([3, 4, 5], 0) for q in (1, 16))
    torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


def test_rope_pairs_and_halves_are_the_same_rotation():
    x = torch.randn(3, 2, 10, generator=torch.Generator().manual_seed(1))
    table = rope_table(SMALL.__class__(**SMALL.to_json() | {"head_dim": 10}), 3)
    halves = ops.rope(x, table[:, 0::2], table[:, 1::2])
    order = rope_order(10)
    pairs = x[..., order]
    cos, sin = table[:, None, 0::2], table[:, None, 1::2]
    even = f32.add(f32.mul(pairs[..., 0::2], cos), f32.neg(f32.mul(pairs[..., 1::2], sin)))
    assert torch.equal(halves[..., order][..., 0::2], even)
    assert torch.equal(halves[:1], x[:1])       # position 0 turns nothing


def test_rope_table_is_that_of_transformers():
    from transformers import BitNetConfig
    from transformers.models.bitnet.modeling_bitnet import BitNetRotaryEmbedding
    config = BitNetConfig(hidden_size=64, num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512)
    config.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
    cos, sin = BitNetRotaryEmbedding(config)(torch.zeros(1), torch.arange(512)[None])
    ours = rope_table(SMALL.__class__(**SMALL.to_json() | {"head_dim": 32, "rope_theta": 1e4}), 512)
    torch.testing.assert_close(ours[:, 0::2], cos[0, :, :16], rtol=0, atol=2e-5)
    torch.testing.assert_close(ours[:, 1::2], sin[0, :, :16], rtol=0, atol=2e-5)


@pytest.mark.parametrize("cap", [0.05, 1.0, 50.0])
def test_capped_scores_are_those_of_floating_point(cap):
    """Against softmax in floating point of the same rounded rows; queries are large, so that a small cap makes another model."""
    tokens, logits = torch.arange(24), {}
    for attn_cap in (0.0, cap):
        model = quantise(random_checkpoint(replace(SMALL, attn_cap=attn_cap, n_layers=1)))
        model = replace(model, layers=[replace(layer, q=replace(layer.q, scale=10 * layer.q.scale)) for layer in model.layers])
        rounded = RoundedModel(model, rope_table(model.config, 24))
        rounded.rounding = ROUNDINGS["int8"]
        logits[attn_cap] = GoldenModel(model, rope_table(model.config, 24)).forward(tokens, 0)
        assert (logits[attn_cap] - rounded.forward(tokens, 0)).abs().max() < 0.25
    assert ((logits[cap] - logits[0.0]).abs().max() > 2) == (cap < 50)
