"""docs/performance.md: its text from what was measured, its targets and pictures, runs that are kept."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from celosia.sim_tb import performance, pictures
from celosia.sim_tb import runs as kept_runs
from celosia.sim_tb.targets import TARGETS, Target, verdicts

DOCS = Path(__file__).resolve().parents[2] / "docs"
PART = {"rest": {"cycles": 1000.0, "bytes": 6400.0}, "layers": {"cycles": 90_000.0, "bytes": 5.4e6},
        "head": {"cycles": 9000.0, "bytes": 5e5}}
EXTRAPOLATED = {
    "config": "kv260", "config_digest": "01234567", "memory": "kv260", "clock_mhz": 250.0, "shape": "bitnet-0.73b",
    "shape_source": "somewhere", "head": "exact", "context": 0, "tokens": 1, "prompt_tokens": 128, "layers": 24,
    "simulated_layers": 4, "extrapolated": True, "checked": "one layer, bit for bit", "decode_tokens_per_s": 2500.0,
    "prefill_tokens_per_s": 1234.5, "time_to_first_token_s": 0.104, "cycles_per_token": 100_000.0, "bytes_per_token": 5_906_400.0,
    "prefill_bytes": 50e6, "parts": PART, "bandwidth_share": 0.925, "pure_read_bytes_per_cycle": 63.8,
    "pure_read_bytes_per_s": 15.95e9,
    "sequences": 1, "kv": "int8", "window": 0, "sinks": 0, "speculation": None,
    "stalls": {"matmul": {"wait_weights": 2000.0, "wait_tables": 1000.0, "wait_drain": 0.0, "no_command": 5000.0}}}
WHOLE = EXTRAPOLATED | {"prompt_tokens": 0, "prefill_tokens_per_s": None, "time_to_first_token_s": None, "prefill_bytes": None,
                        "parts": None, "extrapolated": False, "simulated_layers": 24, "cycles_per_token": 99_000.0}
STEP = {"position": 32, "CYCLES": 1000, "PORT0_BEATS": 900, "MATMUL_BUSY": 700, "MATMUL_WAIT_WEIGHTS": 10,
        "MATMUL_WAIT_TABLES": 20, "MATMUL_WAIT_DRAIN": 30}
DEMO = {"config": "tiny", "config_digest": "76543210", "prefill": {"tokens": 32, "cycles": 64_000}, "steps": [STEP] * 3}
SHORTLIST = EXTRAPOLATED | {"head": "shortlist"}
CACHE = [SHORTLIST | {"context": 1024, "cycles_per_token": 111_000.0, "bytes_per_token": 6_544_400.0},
         SHORTLIST | {"sequences": 4, "decode_tokens_per_s": 8000.0},
         SHORTLIST | {"decode_tokens_per_s": 5000.0,
                      "speculation": {"most": 4, "text_tokens": 1000, "tokens_per_run": 2.1, "gain": 2.0}},
         SHORTLIST | {"prompt_tokens": 768, "prefill_tokens_per_s": 700.0, "time_to_first_token_s": 1.097}]
MEASURED = {"runs": [EXTRAPOLATED, WHOLE], "cache": [SHORTLIST, *CACHE], "demo": DEMO}


@pytest.mark.parametrize("name, line", [
    ("targets", "| bitnet-0.73b | prefill, tokens/s | prompt of 128 | exact | 1,200 | 1,234 | extrapolated | met |"),
    ("targets", "| bitnet-2b4t | decode, tokens/s | 1,024 |  | 27 |  |  | no run |"),
    ("runs", "| bitnet-0.73b | exact | 0 | 4 of 24, extrapolated | 2500.00 | 0.9250 | 5.9 | 1,234 (128 tokens) | 0.104 |"),
    ("runs", "| bitnet-0.73b | exact | 0 | 24 of 24 | 2500.00 | 0.9250 | 5.9 |  |  |"),
    ("depth", "| bitnet-0.73b | exact | 0 | 24: 99,000 | 4: 100,000 | +1.010 % |"),
    ("stalls", "| bitnet-0.73b | exact | 0 | 2.00 % | 1.00 % | 0.00 % | 5.00 % |"),
    ("time", "| bitnet-0.73b | exact | 0 | 24 layers | 0.360 | 5.40 | 0.339 | 0.021 |"),
    ("comparison", "| TeLLMe v2 | BitNet 0.73B | hardware | short | 25 | 224.4 | 29 % | 0.96 (128 tokens) | arXiv 2510.15926"),
    ("comparison", "| **Celosia**, exact head | bitnet-0.73b | **simulated** | 0 | 2500.00 | 5.9 | 77 % | 0.10 (128 tokens) |"),
    ("cache", "| bitnet-0.73b | 1,024 | int8 | all | 2500.00 | 0.6 | 11,000 | 1.100 | **missed** |"),
    ("cache", "| bitnet-0.73b | 4 | 0 | 8000.0 | 2500.0 | 3.20 | **missed** |"),
    ("cache", "| bitnet-0.73b | 4 | 1,000 | 2.10 | 5000.0 | 2.00 | met |"),
    ("cache", "| bitnet-0.73b | 768 | 700 | 1.097 | **missed** |"),
    ("demo", "| 32 | 1,000 | 250,000 | 7,200 | 0.900 | 0.700 |")])
def test_text_of_what_was_measured(name, line):
    assert line in performance.sections(MEASURED)[name]


def test_sections_without_such_runs_say_so():
    found = performance.sections(MEASURED | {"runs": [WHOLE]})
    assert "No token at full depth" in found["depth"] and "No run" in found["time"]
    assert "No such run" in performance.sections(MEASURED | {"cache": []})["cache"]


def test_page_is_that_of_what_was_measured_last():
    measured = json.loads((DOCS / "performance.json").read_text())
    text = (DOCS / "performance.md").read_text()
    for name, section in performance.sections(measured).items():
        assert f"<!-- Written by `make bench`: {name}. -->\n\n{section}\n\n<!-- End of {name}. -->" in text, \
            f"docs/performance.md is stale; run: python -m celosia.sim_tb.performance --only-write ({name})"


@pytest.mark.parametrize("at_least, verdict", [(1234.5, "met"), (1235.0, "**missed**"), (None, "shown")])
def test_verdict(at_least, verdict):
    target = Target("bitnet-0.73b", "prefill_tokens_per_s", 0, 128, at_least, "made up")
    assert [row[-2] for row in verdicts([WHOLE, EXTRAPOLATED], [target])] == [verdict]
    assert [row[-2] for row in verdicts([WHOLE], [target])] == ["no run"]


def test_every_target_has_its_run():
    def shows(run, target):
        return (run["shape"], run["context"]) == (target.shape, target.context) \
            and target.prompt_tokens in (0, run.get("prompt_tokens", 0)) and run["layers"] >= 4

    assert all(any(shows(run, target) for run in performance.RUNS) for target in TARGETS)


def test_page_and_pictures_are_the_same_again(tmp_path):
    written = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        page = folder / "performance.md"
        page.write_text((DOCS / "performance.md").read_text())
        performance.write(MEASURED, page)
        pictures.cycles(DEMO["steps"] + [STEP | {"position": 40}], folder / "img" / "cycles.svg")
        pictures.stalls(MEASURED["runs"], folder / "img" / "stalls.svg")
        written.append({path.name: path.read_bytes() for path in sorted(folder.rglob("*.*"))})
    assert written[0] == written[1]
    assert set(written[0]) == {"performance.md", "cycles.svg", "stalls.svg", "stalls.png", "time.png", "roofline.png"}


def test_page_without_marks_is_refused(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text("# Performance\n")
    with pytest.raises(ValueError, match="must have the line <!-- Written by `make bench`: targets. -->"):
        performance.write(MEASURED, page)


def test_results_are_kept_whole_or_not_at_all(tmp_path):
    path = tmp_path / "bench" / "run.json"

    def fail():
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        kept_runs.kept(path, fail)
    assert not path.exists()
    assert kept_runs.kept(path, lambda: {"a": 1}) == kept_runs.kept(path, fail) == {"a": 1}


def test_digest_knows_options_and_shape(monkeypatch):
    monkeypatch.setattr(kept_runs, "_verilog", lambda config: f"module {config}")
    run = {"shape": "tiny", "context": 0, "head": "exact"}
    changed = [run, run | {"context": 1}, run | {"shape": "bitnet-0.73b"}, run | {"head": "ternary"}]
    assert len({kept_runs.path_of_run("tiny", each) for each in changed} | {kept_runs.path_of_run("duo", run)}) == 5
    assert kept_runs.path_of_run("tiny", run) == kept_runs.path_of_run("tiny", dict(reversed(run.items())))


@pytest.mark.sim
def test_only_what_changed_runs_again(tmp_path, monkeypatch):
    """`make bench` on a small shape: two processes, a token at full depth beside its extrapolation, and all of it kept."""
    common = {"shape": "tiny", "context": 4, "head": "ternary"}
    for name, value in {"CONFIG": "tiny", "RUNS": [common | {"layers": 2}], "CACHE_RUNS": [], "FULL": common, "_DOCS": tmp_path,
                        "_demo": lambda: DEMO | {"steps": [STEP, STEP | {"position": 40}]}}.items():
        monkeypatch.setattr(performance, name, value)
    monkeypatch.setattr(kept_runs, "cache_folder", lambda kind: tmp_path / kind)
    (tmp_path / "performance.md").write_text((DOCS / "performance.md").read_text())

    first = CliRunner().invoke(performance.main, ["--full", "--jobs", "2"], catch_exceptions=False)
    assert first.exit_code == 0, first.output
    runs = json.loads((tmp_path / "performance.json").read_text())["runs"]
    assert [run["extrapolated"] for run in runs] == [True, False] and "simulated_cycles_per_s" not in runs[0]
    assert runs[0]["cycles_per_token"] == pytest.approx(runs[1]["cycles_per_token"], rel=0.05)
    assert "| tiny | ternary (no rescoring) | 4 | 4: " in first.output
    page = (tmp_path / "performance.md").read_text()

    monkeypatch.setattr(kept_runs, "ProcessPoolExecutor", None)     # nothing may be measured
    again = CliRunner().invoke(performance.main, [], catch_exceptions=False)
    assert again.output == first.output and (tmp_path / "performance.md").read_text() == page
    assert CliRunner().invoke(performance.main, ["--only-write"], catch_exceptions=False).output == first.output
