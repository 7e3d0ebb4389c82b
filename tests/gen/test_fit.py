"""Every limit is named, and by how much it is exceeded."""

from dataclasses import replace

import pytest
from random_models import SMALL, random_image

from celosia.gen import fit
from celosia.gen.model import ModelConfig
from celosia.gen.place import Layout
from celosia.gen.program import compile_programs
from celosia.gen.window import place
from celosia.hw.configs import kv260, tiny

LARGE = ModelConfig(hidden_size=1536, ffn_size=4096, n_layers=24, n_heads=16, n_kv_heads=16, head_dim=96,
                    vocab_size=32002, max_positions=2048)


def test_a_small_model_fits():
    assert fit.check(Layout(SMALL, tiny, 64)) == []


@pytest.mark.parametrize("change, accel, sentence", [
    ({"ffn_size": 6912}, {}, "ffn 6912 needs 6920 columns, configuration tiny has 1280"),
    ({"hidden_size": 1290}, {}, "hidden_size 1290 needs 1300 columns, configuration tiny has 1280"),
    ({"n_heads": 42, "n_kv_heads": 14, "head_dim": 32}, {},
     "attention output 1344 needs 1360 columns, configuration tiny has 1280"),
    ({"head_dim": 130}, {}, "head_dim 130 needs 17 words of 8 elements, configuration tiny has 16"),
    ({"n_heads": 10}, {}, "5 query heads a KV head of 4 tokens needs 20 queries, configuration tiny has 16"),
    ({}, {"max_positions": 32}, "context 64 needs 64 positions, configuration tiny has 32"),
    ({}, {"accumulator_bits": 18}, "head of hidden_size 24 needs 40 columns of 18 bit sums, configuration tiny has 8"),
    ({"vocab_size": 1 << 21}, {}, "vocabulary 2097152 needs 2097152 numbers of a candidate, configuration tiny has 1048576"),
    ({"vocab_size": 1 << 18}, {}, "vocabulary 262144 needs 131072 words of a descriptor, configuration tiny has 65535"),
])
def test_every_limit_has_its_sentence(change, accel, sentence):
    assert sentence in fit.check(Layout(replace(SMALL, **change), replace(tiny, **accel), 64))


@pytest.mark.parametrize("accel, sentence", [
    ({"x_words": 50}, "words of activation scratch (residual 24, "),
    ({"p_words": 20}, "words of parameter scratch ("),
])
def test_scratch_is_named_with_its_holders(accel, sentence):
    with pytest.raises(fit.DoesNotFit, match="^The model does not fit configuration tiny: program decode needs ") as error:
        random_image(SMALL, replace(tiny, **accel))
    assert sentence in str(error.value) and f"has {next(iter(accel.values()))}" in str(error.value)


def test_a_model_of_700_million_weights_fits_kv260():
    """Sizes alone: compiled, not packed."""
    layout = Layout(LARGE, kv260, 2048)
    placement, model_bytes, cache_bytes = place(layout, _NoScales())
    programs = compile_programs(placement)
    assert fit.check(layout, programs) == []
    trits = sum(m.rows * m.columns for name, m in placement.matrices.items() if name != "head")
    assert trits / 5 < 1.05 * 135.9e6       # bytes of layer weights; 1536 columns are padded to 1600
    assert cache_bytes / 2048 < 1.1 * 73_700


class _NoScales:
    """Rows of the projections and of the head have scales of their own, other matrices one."""

    def __getitem__(self, name):
        return None if "qkv" in name or name == "head" else 1.0


def test_default_context_is_the_smaller():
    assert fit.default_context(SMALL, tiny) == 64
    assert fit.default_context(replace(SMALL, max_positions=10_000), tiny) == 512
