"""`pack --report`: what it says is what was packed, and it stands alone."""

import json
import re
from dataclasses import replace

import jinja2
import pytest
from click.testing import CliRunner
from random_models import SMALL, random_checkpoint

from celosia.gen import report
from celosia.gen.assemble import assemble
from celosia.gen.commands import pack
from celosia.gen.model import HeadPlan
from celosia.gen.quantise import quantise
from celosia.gen.tokenizer import plain
from celosia.hw.configs import CONFIGS, duo, kv260, tiny


def described(config=SMALL, accel=tiny, plan=None, planes=2):
    made = assemble(quantise(random_checkpoint(config, 1), plan or HeadPlan(), planes), accel, 32)
    return made, report.describe(made, "somewhere/model.gguf", plain(config.vocab_size), 12345)


@pytest.mark.parametrize("accel", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("plan", [HeadPlan(), HeadPlan("shortlist", 4, 2)], ids=lambda plan: plan.kind)
def test_it_says_what_was_packed(accel, plan):
    made, found = described(accel=accel, plan=plan)
    assert found == json.loads(json.dumps(found))
    assert [t["name"] for t in found["tensors"]] == [t.name for t in made.tensors]
    assert sum(kind["bytes"] for kind in found["kinds"]) == sum(s["bytes"] for s in made.header["segments"])
    weights = {kind["kind"]: kind["weights"] for kind in found["kinds"]}
    assert weights["qkv"] == 2 * 24 * (24 + 12 + 12) and weights["gate"] == 2 * 24 * 40 and weights["norms"] is None
    assert found["image"]["parameters"] == 30 * 24 + weights["qkv"] + 2 * (24 * 24 + 3 * 24 * 40)
    assert found["image"]["bits_per_parameter"] == pytest.approx(8 * 12345 / found["image"]["parameters"])
    for segment in found["memory"]["segments"]:
        assert segment["offset"] + segment["bytes"] <= made.header["payload_bytes"]
    assert [row["position"] for row in found["performance"]["decode"]] == [0, 16, 31]
    assert found["performance"]["prefill"]["tokens"] == 32 and found["performance"]["assumptions"]
    row = next(row for row in found["configurations"] if row["config"] == accel.name)
    own = {key: value for key, value in found["performance"].items() if key != "assumptions"}
    assert row["fits"] and row["context"] == 32 and row["performance"] == own
    assert row["memory_bytes"] <= made.header["payload_bytes"] + made.header["cache_bytes"]


def test_untied_heads_are_parameters():
    tied, untied = (described(replace(SMALL, tied=tied))[1]["image"]["parameters"] for tied in (True, False))
    assert untied - tied == 30 * 24


def test_what_does_not_fit_says_why():
    _, found = described(replace(SMALL, hidden_size=2000, n_layers=1), kv260)
    fits = {row["config"]: row for row in found["configurations"]}
    assert fits["kv260"]["fits"] and not fits["tiny"]["fits"] and fits["tiny"]["performance"] is None
    assert "hidden_size 2000 needs 2000 columns, configuration tiny has 1280" in fits["tiny"]["why_not"]


def test_one_position(tmp_path):
    made = assemble(quantise(random_checkpoint(replace(SMALL, max_positions=1), 1)), duo, 1)
    found = report.describe(made, "model", plain(30), 9)
    report.write(tmp_path / "r.html", found)
    assert [row["position"] for row in found["performance"]["decode"]] == [0]


def test_the_page_stands_alone(tmp_path):
    _, found = described(plan=HeadPlan("shortlist", 4))
    found["image"]["name"] = "<script>alert('&')"
    pages = [tmp_path / name for name in ("a.html", "b.html")]
    for page in pages:
        report.write(page, found)
    text = pages[0].read_text()
    assert text == pages[1].read_text() and "<script" not in text and "&lt;script&gt;" in text
    assert not re.search(r"https?:|src=|@import|url\(", text)
    assert text.count("<rect") == text.count('class="swatch') and "KV cache" in text
    for sentence in found["performance"]["assumptions"]:
        assert str(jinja2.filters.escape(sentence)) in text
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', text)]
    assert sum(widths) == pytest.approx(1000, abs=0.1)


def test_a_missing_figure_is_an_error(tmp_path):
    _, found = described()
    del found["read"]["source"]
    with pytest.raises(jinja2.UndefinedError):
        report.write(tmp_path / "r.html", found)
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path):
    def packed(suffix, folder="."):
        return CliRunner().invoke(pack, ["models/demo", "-o", str(tmp_path / "m.img"), "--context", "64",
                                         "--report", str(tmp_path / folder / f"r{suffix}")])

    for result, words in ((packed(".pdf"), "Report must end in .html or .json, not 'r.pdf'"),
                          (packed(".json", "no"), "Report must lie in a folder that exists")):
        assert result.exit_code == 1 and words in result.output and not list(tmp_path.iterdir())
    assert packed(".json").exit_code == 0 and packed(".html").exit_code == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["image"]["bytes"] == (tmp_path / "m.img").stat().st_size
    assert found["read"]["source"] == "demo" and found["read"]["format"] == "folder of Hugging Face"
    assert {t["source"] for t in found["tensors"]} == {"bfloat16", "packed trits"}
    assert found["image"]["context"] == 64 and str(tmp_path) not in (tmp_path / "r.html").read_text()


def test_keys_are_documented(tree):
    """Every key of the JSON stands in the table of docs/checkpoints.md."""
    _, found = described()
    page = (tree / "docs" / "checkpoints.md").read_text()

    def keys(part):
        for key, value in part.items():
            yield key
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, dict) and key not in ("architecture", "programs"):
                    yield from keys(each)

    missing = [key for key in dict.fromkeys(keys(found)) if f"`{key}`" not in page]
    assert not missing, f"docs/checkpoints.md must explain {', '.join(missing)}"
