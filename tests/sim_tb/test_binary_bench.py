"""`celosia bench` of binary encoders: figures of a shape, extrapolated and whole, its check, and how operations are counted."""

import json

import pytest
from click.testing import CliRunner

from celosia.gen.binary.shapes import BINARY_SHAPES
from celosia.gen.golden.binary.machine import Machine
from celosia.host.cli import main
from celosia.sim_tb import binary_bench as benches
from celosia.sim_tb.commands import bench as command

KEYS = {"gops", "inferences_per_s", "cycles_per_inference", "clock_mhz", "extrapolated"}


@pytest.mark.sim
def test_fewer_layers_give_the_figures_of_all():
    whole = benches.bench("binary-tiny", BINARY_SHAPES["digits"], batch=2, check=False)
    result = CliRunner().invoke(command, ["--config", "binary-tiny", "--shape", "digits", "--batch", "2", "--layers", "2", "--json",
                                          "--no-check"], catch_exceptions=False)
    part = json.loads(result.stdout)
    assert KEYS <= set(part) and set(part) == set(whole)
    assert (whole["extrapolated"], part["extrapolated"], part["simulated_layers"], part["layers"]) == (False, True, 2, 4)
    for key in ("gops", "inferences_per_s", "cycles_per_inference", "bytes_per_inference"):
        assert part[key] == pytest.approx(whole[key], rel=0.01), key
    assert whole["gops"] == pytest.approx(whole["operations_per_inference"] * whole["inferences_per_s"] / 1e9)
    assert 0.1 < whole["share_of_peak"] < 1 and whole["peak_gops"] == 256
    assert all(value >= 0 for value in whole["engine"].values())
    assert sum(whole["engine"].values()) == pytest.approx(whole["cycles_per_inference"])
    assert "4 of 4 layers simulated; weights made up" in benches.report(whole) and "extrapolated" in benches.report(part)


@pytest.mark.sim
def test_check_finds_a_difference(monkeypatch):
    model = BINARY_SHAPES["digits"].model
    benches.check_layer("binary-tiny", model, batch=3)
    run = Machine.run

    def broken(machine, program, lengths):
        run(machine, program, lengths)
        machine.cache[-1] ^= 1

    monkeypatch.setattr(Machine, "run", broken)
    with pytest.raises(AssertionError, match="differ from the golden machine's"):
        benches.check_layer("binary-tiny", model)


def test_operations_of_bert_base():
    """By hand: four matrices of 768 x 768 and two of 768 x 3072 a token, two products of 128 x 128 x 64 a head."""
    layer = 128 * (4 * 589_824 + 2 * 2_359_296) + 12 * 2 * 1_048_576
    assert benches.operations(BINARY_SHAPES["bert-base"].model, 128) == 12 * 2 * layer == 22_347_251_712


@pytest.mark.parametrize("options, sentence", [
    (["--layers", "1"], "Layers must be 2 to 4, not 1"),
    (["--layers", "5"], "Layers must be 2 to 4, not 5"),
    (["--prompt-tokens", "17"], "prompt-tokens must be 16, the patches of an image of shape digits, not 17"),
    (["--shape", "bert-base", "--prompt-tokens", "513"], "prompt-tokens must be 1 to 512 and batch at least 1, not 513 and 1"),
    (["--context", "3", "--kv", "k8v4"], "A binary encoder must be measured without --context, --kv"),
    (["--shape", "bitnet-2b"], "Shape must be one of bert-base, deit-tiny, digits with configuration binary-tiny, not 'bitnet-2b'"),
    (["--memory", "fast"], "Memory preset must be one of "),
    (["--batch", "9"], "Sequences of a run must be at most 8 on configuration binary-tiny, not 9"),
    (["--config", "tiny"], "Batch is for binary encoders; give --sequences with this configuration"),
])
def test_wrong_options_give_one_sentence(options, sentence):
    result = CliRunner().invoke(main, ["bench", "--config", "binary-tiny", "--shape", "digits", "--batch", "1", "--no-check", *(
        ["--batch", "2"] if options[0] == "--config" else []), *options])
    assert result.exit_code and sentence in result.stderr and result.stderr.strip().splitlines()[-1].count(". ") == 0
    assert "Traceback" not in result.output
