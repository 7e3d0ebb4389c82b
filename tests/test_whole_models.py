"""Random models of many shapes through the whole simulated accelerator, in every configuration, against the golden machine."""

import random
from dataclasses import replace

import numpy as np
import pytest
from random_models import SMALL, mixed_planes, random_image

from celosia.gen import checkpoint, fit, image
from celosia.gen.assemble import assemble
from celosia.gen.device import GoldenDevice
from celosia.gen.model import EXACT, ModelConfig
from celosia.gen.quantise import quantise
from celosia.gen.verilog import accelerator
from celosia.host.accelerator import Accelerator
from celosia.host.image import Image
from celosia.hw.configs import CONFIGS
from celosia.sim_tb.device import SimDevice
from celosia.sim_tb.memory import PRESETS
from celosia.sim_tb.verilator import lint

pytestmark = pytest.mark.sim

WIDE = ModelConfig(hidden_size=256, ffn_size=640, n_layers=1, n_heads=8, n_kv_heads=4, head_dim=32, vocab_size=256,
                   max_positions=64)
SHAPES = {
    "grouped": SMALL,
    "silu_without_sub_norms": ModelConfig(hidden_size=30, ffn_size=45, n_layers=2, n_heads=3, n_kv_heads=3, head_dim=10,
                                          vocab_size=41, max_positions=64, act="silu", sub_norms=False, tied=False),
    "one_kv_head_several_row_blocks": ModelConfig(hidden_size=20, ffn_size=300, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=8,
                                                  vocab_size=530, max_positions=64),
}


def random_shape(rng):
    """Sizes that divide nothing, as the compiler's own tests draw them."""
    group, n_kv_heads = rng.choice([(1, 1), (1, 3), (2, 1), (2, 2), (4, 1)])
    return ModelConfig(
        hidden_size=rng.randint(5, 60), ffn_size=rng.randint(3, 90), n_layers=rng.randint(1, 2), n_heads=group * n_kv_heads,
        n_kv_heads=n_kv_heads, head_dim=2 * rng.randint(1, 12), vocab_size=rng.randint(2, 90), max_positions=64,
        act=rng.choice(["relu2", "silu"]), sub_norms=rng.random() < 0.5, tied=rng.random() < 0.5)


def run(device, data, tokens, chunks):
    """Candidates of every run and the cache, of one device."""
    with Accelerator(device) as accel:
        image = Image.open(data)
        accel.load(image)
        found = []
        for start in range(0, len(tokens), chunks):
            candidates = accel.prefill(tokens[start:start + chunks])
            found.append((candidates.tokens.tolist(), candidates.logits.tobytes()))
        base = device.read32(device.manifest["registers"]["CACHE_BASE"])
        return found, np.array(device.peek(base, image.header["cache_bytes"]))


def check(config, model, memory, seed, n_tokens, chunks, plan=EXACT, planes=1):
    accel = CONFIGS[config]
    data, _, _ = random_image(model, accel, seed, 48, plan, planes)
    same(accel, data, model, memory, seed, n_tokens, chunks)


def same(accel, data, model, memory, seed, n_tokens, chunks):
    """The simulated accelerator and the golden machine find the same, and leave the same cache."""
    rng = random.Random(seed)
    tokens = [rng.randrange(model.vocab_size) for _ in range(n_tokens)]
    expected, expected_cache = run(GoldenDevice(accel), data, tokens, chunks)
    found, cache = run(SimDevice(accel, PRESETS[memory], seed=seed), data, tokens, chunks)
    assert found == expected
    assert np.array_equal(cache, expected_cache)


@pytest.mark.parametrize("memory", PRESETS)
@pytest.mark.parametrize("config", ["tiny", "duo"])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(config, shape, memory):
    model = SHAPES[shape]
    check(config, model, memory, seed=1, n_tokens=9, chunks=CONFIGS[config].token_lanes)
    check(config, model, memory, seed=2, n_tokens=5, chunks=1)


@pytest.mark.parametrize("seed", range(6))
def test_random_shapes(seed):
    model = random_shape(random.Random(seed))
    for config in ("tiny", "duo"):
        check(config, model, ["kv260", "stress"][seed % 2], seed, n_tokens=6, chunks=CONFIGS[config].token_lanes)


@pytest.mark.parametrize("memory", PRESETS)
@pytest.mark.parametrize("config", ["tiny", "duo"])
@pytest.mark.parametrize("vocab, candidates, planes", [(29, 1, 1), (30, 2, 2), (41, None, 1), (3, 3, 3), (530, None, 1)])
def test_shortlists(config, vocab, candidates, planes, memory):
    model = replace(SMALL, vocab_size=vocab, tied=False)
    plan = fit.head_plan(model, CONFIGS[config], "shortlist", candidates, planes)
    check(config, model, memory, seed=vocab, n_tokens=5, chunks=2, plan=plan)


@pytest.mark.parametrize("memory", PRESETS)
@pytest.mark.parametrize("config", ["tiny", "duo"])
@pytest.mark.parametrize("shape", SHAPES)
def test_digit_planes(config, shape, memory):
    check(config, SHAPES[shape], memory, seed=4, n_tokens=6, chunks=2, planes=mixed_planes(4))


@pytest.mark.parametrize("planes", [1, 2, 3, 4, 5, "auto"])
def test_a_pretrained_model(tree, planes):
    """Heads of 8 elements and an FFN of 172, on the whole accelerator."""
    path = tree.parent / "shared" / "models" / "stories260K.bin"
    if not path.exists():
        pytest.skip("needs stories260K.bin of karpathy/tinyllamas")
    loaded, accel = checkpoint.load(path), CONFIGS["tiny"]
    assembled = assemble(quantise(loaded, planes=planes), accel, 48)
    same(accel, image.encode(assembled.header, assembled.payload), loaded.config, "kv260", 1, n_tokens=9, chunks=3)


@pytest.mark.parametrize("config", ["tiny", "duo"])
def test_verilog_passes_lint(config):
    assert lint(accelerator(CONFIGS[config]), "celosia") == []


def test_kv260_passes_lint_and_computes_a_layer():
    assert lint(accelerator(CONFIGS["kv260"]), "celosia") == []
    check("kv260", WIDE, "kv260", seed=1, n_tokens=40, chunks=16)
    check("kv260", WIDE, "stress", seed=2, n_tokens=5, chunks=1)
