"""`celosia bench`: figures of a shape, extrapolated and whole, and its check against the golden machine."""

import itertools
import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from celosia.gen.shapes import SHAPES, Shape
from celosia.host.draft import PromptLookup
from celosia.sim_tb import bench as benches
from celosia.sim_tb.commands import bench as command
from celosia.sim_tb.speculation import pieces, verifications

SMALL = Shape("small", replace(SHAPES["tiny"].model, hidden_size=96, ffn_size=200, n_layers=4, vocab_size=500), "made up")
KEYS = {"decode_tokens_per_s", "prefill_tokens_per_s", "time_to_first_token_s", "bandwidth_share", "bytes_per_token",
        "cycles_per_token", "stalls", "clock_mhz", "simulated_layers", "extrapolated"}


@pytest.mark.sim
def test_fewer_layers_give_the_figures_of_all():
    options = {"context": 30, "prompt_tokens": 6, "check": False}
    whole = benches.bench("tiny", SMALL, **options)
    part = benches.bench("tiny", SMALL, layers=2, **options)
    assert KEYS <= set(whole) and (whole["extrapolated"], part["extrapolated"], part["simulated_layers"]) == (False, True, 2)
    assert part["bytes_per_token"] == whole["bytes_per_token"]
    for key in ("cycles_per_token", "prefill_tokens_per_s", "bandwidth_share", "time_to_first_token_s"):
        assert part[key] == pytest.approx(whole[key], rel=0.02), key
    assert part["prefill_bytes"] == pytest.approx(whole["prefill_bytes"]) and whole["parts"] is None
    for key, total in (("cycles", "cycles_per_token"), ("bytes", "bytes_per_token")):
        assert sum(each[key] for each in part["parts"].values()) == pytest.approx(part[total])
        assert part["parts"]["layers"][key] > part["parts"]["head"][key] > 0
    assert 0.1 < whole["bandwidth_share"] < 1 and 0.5 * 8 < whole["pure_read_bytes_per_cycle"] <= 8
    engine = whole["stalls"]["matmul"]
    assert all(value >= 0 for value in engine.values())
    assert sum(engine.values()) < whole["cycles_per_token"]
    assert "tokens/s" in benches.report(whole)


@pytest.mark.sim
def test_check_finds_a_difference(monkeypatch):
    benches.check_layer("tiny", SMALL.model)
    made = itertools.count()
    monkeypatch.setattr(benches, "_ids", lambda lanes: [next(made)] * len(lanes))
    with pytest.raises(AssertionError, match="differs? from the golden machine's"):
        benches.check_layer("tiny", SMALL.model)


@pytest.mark.sim
@pytest.mark.parametrize("kv", ["int8", "k8v4"])
def test_sequences_share_one_reading_of_the_weights(kv):
    model = replace(SMALL, model=replace(SMALL.model, n_layers=2))
    benches.check_layer("tiny", SMALL.model.with_window(20, 3), kv=kv)
    alone = benches.bench("tiny", model, context=40, kv=kv, check=False)
    both = benches.bench("tiny", model, context=40, kv=kv, sequences=3, check=False)
    assert 1.2 < both["decode_tokens_per_s"] / alone["decode_tokens_per_s"] <= 3
    assert alone["bytes_per_token"] > both["bytes_per_token"] > alone["bytes_per_token"] / 3
    assert both["sequences"] == 3 and "3 sequences together" in benches.report(both)


@pytest.mark.sim
def test_a_past_that_the_queues_do_not_hold():
    """The output of one KV head is taken by a descriptor behind the ATTEND of the next, whose pages find no place meanwhile."""
    benches.check_layer("tiny", SMALL.model, past=240)


@pytest.mark.sim
def test_windows_leave_out_what_nobody_sees():
    model = replace(SMALL, model=replace(SMALL.model, n_layers=2))
    whole, window, sinks = (benches.bench("tiny", model, context=200, check=False, **sight)
                            for sight in ({}, {"window": 20}, {"window": 20, "sinks": 2}))
    record_bytes = 2 * SMALL.model.head_dim + 8
    kept = whole["bytes_per_token"] - window["bytes_per_token"]
    assert kept == (200 - 19) * record_bytes * 2 * SMALL.model.n_kv_heads
    # Beside the sinks: descriptors and rotary rows of the second queries.
    assert sinks["bytes_per_token"] - window["bytes_per_token"] > 2 * record_bytes * 2 * SMALL.model.n_kv_heads


@pytest.mark.sim
def test_speculation_along_a_text(tmp_path):
    text = tmp_path / "text"
    text.write_text("one two three four five six " * 12)
    found = CliRunner().invoke(command, ["--config", "tiny", "--shape", "tiny", "--layers", "2", "--no-check", "--json",
                                         "--speculate", "3", "--text", str(text)])
    assert found.exit_code == 0, found.output
    parsed = json.loads(found.stdout)
    drafted = parsed["speculation"]
    assert drafted["text_tokens"] == 2 * 6 * 12 - 1 and drafted["tokens_per_run"] > 2.5 and 1 < drafted["gain"] < 4
    assert "times plain decoding" in benches.report(parsed)


def test_verifications_write_the_text():
    class Wrong:
        def propose(self, tokens, k):
            return [-1] * k

    tokens = pieces("a b c " * 5)
    runs = verifications(tokens, PromptLookup(), 3)
    assert sum(run.tokens for run in runs) == len(tokens) - 1 and max(run.lanes for run in runs) == 4
    assert all(run.tokens <= run.lanes for run in runs)
    assert {run.tokens for run in verifications(tokens, Wrong(), 3)} == {1}
    with pytest.raises(ValueError, match="at least two words"):
        pieces("word")


@pytest.mark.sim
def test_command_prints_json():
    found = CliRunner().invoke(command, ["--config", "tiny", "--shape", "tiny", "--layers", "2", "--head", "ternary",
                                         "--no-check", "--json"])
    assert found.exit_code == 0, found.output
    parsed = json.loads(found.stdout)
    assert KEYS <= set(parsed) and parsed["head"] == "ternary (no rescoring)" and parsed["prefill_tokens_per_s"] is None


@pytest.mark.parametrize("options, sentence", [
    ({"layers": 1}, "Layers must be 2 to 4, not 1"), ({"layers": 5}, "Layers must be 2 to 4, not 5"),
    ({"tokens": 0}, "Tokens must be at least 1"), ({"context": 256}, "must fit 256 positions, not 257"),
    ({"sequences": 5}, "Sequences must be 1 to 4"), ({"speculate": 4, "text": "a b"}, "Speculate must be 0 to 3"),
    ({"sinks": 3}, "Sinks must be given with a window, not 3 sinks alone"),
    ({"speculate": 2}, "Speculation takes a text and one sequence"),
    ({"head": "int8", "check": False}, "Head must be one of exact, ternary, shortlist, not 'int8'")])
def test_bad_sizes_have_their_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        benches.bench("tiny", SMALL, **options)


def test_unknown_configuration():
    with pytest.raises(ValueError, match="Configuration must be one of"):
        benches.bench("huge", SMALL)


@pytest.mark.sim
def test_timeline_has_a_line_for_every_descriptor():
    found = CliRunner().invoke(command, ["--config", "tiny", "--shape", "tiny", "--context", "8", "--timeline"])
    assert found.exit_code == 0, found.output
    lines = [line.split() for line in found.stdout.splitlines()[1:]]
    done, ready, cycles = ([int(line[i]) for line in lines] for i in range(3))
    assert done == sorted(done) and min(cycles) > 0 and [d - c for d, c in zip(done, cycles)] == ready
    assert sorted(int(line[5]) for line in lines) == list(range(len(lines)))
    assert {line[6] for line in lines} == {"LOAD", "MATMUL", "VECTOR", "ATTEND"}
