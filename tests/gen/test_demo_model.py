"""The demo model: what is shipped, and that its training does what it says."""

import json
import os
import pathlib
import struct

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # before transformers decorates its functions

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from celosia.gen.demo import data, export, report, train
from celosia.gen.demo import model as demo
from celosia.gen.demo.recipe import Recipe
from celosia.gen.demo.scoring import bits_per_byte

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "models" / "demo"
TINY = demo.DemoConfig(hidden_size=32, intermediate_size=48, n_layers=2, n_heads=4, n_kv_heads=2,
                       context=16, max_positions=32)


@pytest.fixture(scope="module")
def record():
    return json.loads((FOLDER / "training.json").read_text())


def load_hf(folder):
    from transformers import BitNetForCausalLM
    return BitNetForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def shipped():
    return load_hf(FOLDER)


def read_safetensors(path):
    """Header and body, read by hand: the layout is part of what is promised."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8:8 + size]), raw[8 + size:]


def test_files_are_small_and_carry_no_stamp():
    names = {p.name for p in FOLDER.iterdir()}
    assert names == {"README.md", "config.json", "generation_config.json", "heldout.txt",
                     "loss.csv", "model.safetensors", "training.json", "words.txt"}
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 3_000_000
    header, body = read_safetensors(FOLDER / "model.safetensors")
    assert header.pop("__metadata__") == {"format": "pt"}
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(body)


def test_shape_is_the_recorded_one(shipped, record):
    config, shape = shipped.config, record["shape"]
    assert shipped.dtype == torch.float32
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == \
        (256, shape["hidden_size"], shape["n_layers"])
    assert config.num_attention_heads == 2 * config.num_key_value_heads
    assert config.tie_word_embeddings and config.hidden_act == "relu2"


def test_tensors_are_those_of_the_reference(shipped):
    header, body = read_safetensors(FOLDER / "model.safetensors")
    header.pop("__metadata__")
    state = shipped.state_dict()
    assert set(header) == set(state) - {"lm_head.weight"}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        dtype = {"U8": torch.uint8, "BF16": torch.bfloat16}[entry["dtype"]]
        value = torch.frombuffer(bytearray(body[start:end]), dtype=dtype).view(entry["shape"])
        assert torch.equal(value.to(state[name].dtype), state[name]), name
        if name.endswith("_proj.weight"):
            assert export.unpack_trits(value).abs().max() == 1  # code 3 is refused


def test_score_is_the_recorded_one(shipped, record):
    text = (FOLDER / "heldout.txt").read_bytes()
    assert len(text) > 18_000
    score = bits_per_byte(lambda x: shipped(x).logits, text)
    assert abs(score - record["runs"]["ternary"]["excerpt_bits_per_byte"]) < 0.01


@pytest.mark.parametrize("prompt", ["The people of the United States", "In the past year "])
@pytest.mark.parametrize("temperature, share", [(0.0, 0.8), (0.8, 0.8)])
def test_writes_words(shipped, prompt, temperature, share):
    known = set((FOLDER / "words.txt").read_text().split())
    torch.manual_seed(3)
    choice = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else \
             {"do_sample": False, "temperature": None}
    tokens = torch.tensor([list(prompt.encode())])
    out = shipped.generate(tokens, max_new_tokens=200, max_length=None, **choice)
    text = bytes(out[0, len(prompt):].tolist()).decode("ascii")
    assert len(text) == 200 and len(text.split()) > 20
    assert report.word_share(text, known) >= share, text


def test_pages_show_the_recorded_figures(record):
    block = report.figures(record)
    for path in (ROOT / "docs" / "demo_model.md", FOLDER / "README.md"):
        page = path.read_text()
        assert report.insert(page, block) == page


def test_heldout_text_is_plain_ascii_that_normalising_keeps():
    text = (FOLDER / "heldout.txt").read_text("ascii")
    assert all(data.normalise(line) == line.encode() + b"\n" for line in text.splitlines())


def test_normalise_makes_plain_text():
    assert data.normalise("It\u2019s \u201cna\u00efve\u201d\u2014\x02at  32\u00b0\n\nor so\n") == \
        b'It\'s "naive"--at 32 degrees or so\n'


def test_split_holds_out_the_last_documents():
    assert data.split([b"a", b"b", b"c"], 1) == (b"ab", b"c")


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_packing_and_unpacking_are_inverse(n_bytes, n_columns, seed):
    generator = torch.Generator().manual_seed(seed)
    trits = torch.randint(-1, 2, (4 * n_bytes, n_columns), generator=generator)
    packed = export.pack_trits(trits)
    assert packed.shape == (n_bytes, n_columns) and packed.dtype == torch.uint8
    assert torch.equal(export.unpack_trits(packed).long(), trits)
    from transformers.integrations.bitnet import unpack_weights
    assert torch.equal(unpack_weights(packed, torch.float32).long(), trits)


def test_packing_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError, match="multiple of 4, not 6"):
        export.pack_trits(torch.zeros(6, 3))
    with pytest.raises(ValueError, match="not 3"):
        export.unpack_trits(torch.tensor([[3]], dtype=torch.uint8))


def tiny_model():
    """Every value of it is one that the written form holds exactly."""
    model = demo.DemoModel(TINY)
    generator = torch.Generator().manual_seed(7)
    model.initialise(generator)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("_proj.weight"):
                p.mul_(0.25 / p.abs().mean())  # a scale whose reciprocal is a bfloat16
            elif p.ndim == 2:
                p.copy_((30 * p).bfloat16())
            else:
                p.copy_(torch.empty_like(p).uniform_(0.5, 2.0, generator=generator).bfloat16())
    return model


def test_trained_forward_is_the_reference_forward(tmp_path):
    model = tiny_model()
    export.write_checkpoint(model, tmp_path)
    tokens = torch.randint(256, (3, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = model(tokens, exact=True), load_hf(tmp_path)(tokens).logits
    difference = (ours - theirs).abs() / theirs.std()
    assert difference.median() < 1e-5  # a code on the edge of rounding may move a token by more
    assert difference.max() < 0.05


def test_attention_blocks_change_nothing():
    q, k, v = torch.randn(3, 2, 2, 10, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    for block in (1, 3, 10, 128):
        assert torch.allclose(demo._attention(q, k, v, block), expected, atol=1e-6)


def test_gradient_passes_the_roundings_unchanged():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 8, generator=generator, requires_grad=True)
    w = torch.randn(6, 8, generator=generator, requires_grad=True)
    (trits, scale), (codes, factor) = demo.quantise_weight(w), demo.quantise_tokens(x)
    y = demo._CodeMatmul.apply(x, w, codes.detach(), factor.detach(), trits.detach(),
                               scale.detach().expand(6))
    rounded = (x + (codes / factor - x).detach()) @ (w + (trits * scale - w).detach()).T
    grad = torch.randn(5, 6, generator=generator)
    assert torch.allclose(y, rounded, atol=1e-5)
    for ours, theirs in zip(torch.autograd.grad(y, (x, w), grad),
                            torch.autograd.grad(rounded, (x, w), grad)):
        assert torch.allclose(ours, theirs, atol=1e-5)


def tiny_trainer(seed=1, steps=4, weights="ternary"):
    recipe = Recipe(steps=steps, batch=2, context=16, warmup=2, seed=seed)
    return train.Trainer((FOLDER / "heldout.txt").read_bytes(), recipe, config=TINY,
                         weights=weights, compiled=False)


def trained(trainer, n_steps=3):
    for _ in range(n_steps):
        trainer.run_step()
    return trainer.model.state_dict()


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("weights", ["ternary", "float"])
def test_training_is_reproducible_from_its_seed(weights):
    first = trained(tiny_trainer(weights=weights))
    assert same(first, trained(tiny_trainer(weights=weights)))
    assert not same(first, trained(tiny_trainer(weights=weights, seed=2)))


def test_interrupted_training_goes_on_as_if_nothing_had_happened(tmp_path):
    first = tiny_trainer()
    trained(first, 1)
    first.save(tmp_path / "x.pt")
    second = tiny_trainer()
    second.load(tmp_path / "x.pt")
    assert same(trained(second, 2), trained(tiny_trainer(), 3))


def test_steps_may_change_until_the_descent(tmp_path):
    first = tiny_trainer(steps=6)
    trained(first, 2)
    first.save(tmp_path / "x.pt")
    second = tiny_trainer(steps=4)
    second.load(tmp_path / "x.pt")
    assert same(trained(second, 2), trained(tiny_trainer(steps=4), 4))
    trained(first, 2)
    first.save(tmp_path / "x.pt")
    with pytest.raises(ValueError, match="steps must be 6"):
        tiny_trainer(steps=4).load(tmp_path / "x.pt")


def test_training_learns():
    trainer = tiny_trainer(steps=60)
    losses = [trainer.run_step() for _ in range(60)]
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])


def test_schedule_ends_at_zero():
    recipe = Recipe(steps=100, warmup=10, rate=1.0, descent=0.4)
    rates = [recipe.rate_at(step) for step in range(101)]
    assert rates[0] == 0.1 and rates[10] == rates[60] == 1.0 and rates[80] == 0.5
    assert rates[100] == 0.0
    assert [recipe.decay_at(s, True) for s in (0, 59, 60, 99)] == [0.1, 0.1, 0.0, 0.0]
    assert recipe.decay_at(99, False) == 0.1


def test_bad_choices_get_a_sentence():
    with pytest.raises(ValueError, match="Steps must be at least 1"):
        Recipe(steps=0)
    with pytest.raises(ValueError, match="Descent must be a share"):
        Recipe(steps=10, descent=0.0)
    with pytest.raises(ValueError, match="Weights must be"):
        demo.DemoModel(TINY, weights="binary")
    with pytest.raises(ValueError, match="multiple of the 6 heads, not 100"):
        demo.DemoConfig(hidden_size=100)
    with pytest.raises(ValueError, match="more than 256 bytes"):
        bits_per_byte(None, b"short")
