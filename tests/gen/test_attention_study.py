"""The study of attention: hard rows, ways of rounding, and small studies of both kinds."""

import random
import struct
from dataclasses import replace

import pytest
import torch
from random_models import SMALL, random_checkpoint

from celosia.gen import attention_error, attention_study
from celosia.gen.attention_rounding import ROUNDINGS
from celosia.gen.attention_study import Subject, demo_subject, formats, page_block, stories_subject, windows
from celosia.gen.golden.model import KV_TOPS
from celosia.gen.quantise import quantise


@pytest.mark.parametrize("case", attention_error.CASES)
def test_errors_are_within_half_a_guarded_unit_a_position(case):
    for n in (4, 64, 256, 1024):
        error = attention_error.errors(case, n, seed=1)
        assert error.shape == (attention_error.GROUP, attention_error.HEAD_DIM)
        assert error.max() < 2**-15 * (4 + 2 * n / attention_error.N_SLICES / 32)


def test_equal_scores_average_the_values():
    found = attention_error.worst(lengths=(32,), n_seeds=1)
    assert list(found) == list(attention_error.CASES)
    assert found["equal scores, values all -127"][32][0] < 2**-17


@pytest.fixture(scope="module")
def subject():
    generator = torch.Generator().manual_seed(2)
    texts = torch.randint(0, SMALL.vocab_size, (5, 13), generator=generator)
    return Subject("random", quantise(random_checkpoint(SMALL)), texts[:3], texts[3:])


def test_formats_of_a_random_model(subject):
    golden, rounded = formats(subject)
    assert [row.name for row in golden] == ["float", *KV_TOPS] and [row.name for row in rounded] == list(ROUNDINGS)
    by_name = {row.name: row for row in golden}
    assert by_name["float"].above == by_name["float"].error == 0 and rounded[0] == by_name["float"]
    for row in golden:
        assert row.perplexity == pytest.approx(by_name["float"].perplexity * (1 + row.above / 100))
    for row in rounded[1:]:     # the golden model is the same rounding and an integer softmax
        if row.name in by_name:
            assert row.perplexity == pytest.approx(by_name[row.name].perplexity, rel=0.02)
    assert formats(subject) == (golden, rounded)


def test_windows_of_a_random_model(subject):
    found = windows(subject, sizes=(3, 12), sinks=(0, 12))
    assert list(found) == [(0, 0), (3, 0), (3, 12), (12, 0), (12, 12)]
    whole = found[0, 0].perplexity
    assert found[3, 0].perplexity != whole
    assert all(row.perplexity == whole for seen, row in found.items() if seen != (3, 0))


def test_roundings_keep_what_they_should():
    rows = torch.randn(6, 2, 12, generator=torch.Generator().manual_seed(1))
    error = {}
    for name, rounding in ROUNDINGS.items():
        mean = rows.mean(0)
        for what in "qkv":
            wanted = rows - mean if what == "k" and name.endswith("less their mean") else rows
            error[name, what] = float((rounding(rows, what, mean) - wanted).norm() / rows.norm())
    assert all(error["float", what] == 0 and 0 < error["int8", what] < 0.01 for what in "qkv")
    assert all(0 < error[name, "q"] < 0.01 for name in ROUNDINGS if name != "float")
    assert all(0.02 < error[name, "k"] < 0.2 for name in ROUNDINGS if name not in ("float", "int8"))
    assert error["int4, best of four scales", "v"] <= error["int4", "v"]
    assert error["int4, a scale for each half of a head", "v"] < error["int4", "v"] == error["int4, keys less their mean", "v"]
    zeros = torch.zeros(2, 1, 12)
    assert not any(rounding(zeros, what, zeros[0]).any() for rounding in ROUNDINGS.values() for what in "qkv")


def test_the_demo_is_cut_into_texts(tree):
    found = demo_subject(2, n_tokens=16, folder=tree / "models" / "demo")
    text = (tree / "models" / "demo" / "heldout.txt").read_bytes()
    assert bytes(found.texts[1].tolist()) == text[16:33] and found.texts.shape == (2, 17)
    assert len(found.calibration) == attention_study.N_CALIBRATION
    with pytest.raises(ValueError, match="must be at most"):
        demo_subject(1 << 20, n_tokens=16, folder=tree / "models" / "demo")


def test_a_page_of_a_model_that_writes_its_own_text(tmp_path, subject, monkeypatch):
    monkeypatch.setattr(attention_study, "N_CALIBRATION", 1)
    rng = random.Random(1)
    n_weights = 24 * 8 + 3 * 8 + 4 * 8 * 8 + 3 * 8 * 16 + 32 * 4    # embedding, gains, attention, feed-forward, angles
    (tmp_path / "mini.bin").write_bytes(struct.pack("<7i", 8, 16, 1, 2, 2, 24, 32) +
                                        struct.pack(f"<{n_weights}f", *(rng.gauss(0, 0.3) for _ in range(n_weights))))
    mini = stories_subject(tmp_path / "mini.bin", 2, n_tokens=12)
    assert mini.name == "mini" and mini.texts.shape == (2, 13) and len(mini.calibration) == 1
    both = [replace(subject, texts=subject.texts[:2]), mini]
    errors = attention_error.worst(lengths=(8, 16), n_seeds=1)
    found, seen = [formats(each) for each in both], [windows(each, (4,), (0,)) for each in both]
    block = page_block(errors, both, 2, found, seen)
    assert "| random, perplexity | above float, % | mini, perplexity |" in block
    for name in (*attention_error.CASES, *KV_TOPS, *ROUNDINGS, "4 and 0", "k8v4: at most"):
        assert name in block
    from celosia.gen import attention_picture
    for path in (tmp_path / "one.svg", tmp_path / "two.svg"):
        attention_picture.draw(errors, [each.name for each in both], found, path)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
