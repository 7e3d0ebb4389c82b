"""`celosia roofline`: operations, ceilings, points, shares; text, JSON and picture."""

import json

import pytest
from click.testing import CliRunner

from celosia.gen.shapes import SHAPES
from celosia.sim_tb.commands import roofline as command
from celosia.sim_tb.published import SYSTEMS
from celosia.sim_tb.roofline import BOARD_BYTES_PER_S, operations, prefill_operations, read_runs, roofline

RUN = {"config": "kv260", "shape": "bitnet-2b4t", "head": "exact", "context": 0, "prompt_tokens": 4, "extrapolated": True,
       "decode_tokens_per_s": 20.0, "bytes_per_token": 480e6, "prefill_bytes": 500e6, "time_to_first_token_s": 0.1,
       "pure_read_bytes_per_s": 15.9e9}


def test_operations_are_those_of_the_published_sizes():
    for shape in ("bitnet-2b4t", "bitnet-0.73b"):
        weights = {system.weights for system in SYSTEMS if system.shape == shape and system.weights}
        model = SHAPES[shape].model
        assert {(operations(model, 0) - 4 * model.n_layers * model.attn_size) // 2} == weights
        assert operations(model, 10) - operations(model, 0) == 10 * 4 * model.n_layers * model.attn_size
        assert prefill_operations(model, 1) == operations(model, 0)
        head = 2 * model.vocab_size * model.hidden_size
        assert prefill_operations(model, 2) == operations(model, 0) + operations(model, 1) - head


def test_ceilings_points_and_shares():
    found = roofline("kv260", [RUN], SHAPES)
    ceilings = found["ceilings"]
    assert ceilings["port_bytes_per_s"] == 16e9 and ceilings["pure_read_bytes_per_s"] == 15.9e9
    assert ceilings["ops_per_s"] == 16 * ceilings["ops_per_s_one_lane"] == 2 * 5120 * 250e6
    decode, prefill = (point for point in found["points"] if point["kind"] == "simulated")
    ops = operations(SHAPES["bitnet-2b4t"].model, 0)
    assert decode["ops_per_byte"] == ops / 480e6 and decode["ops_per_s"] == 20 * ops
    assert prefill["ops_per_s"] == prefill_operations(SHAPES["bitnet-2b4t"].model, 4) / 0.1
    assert found["shares"][0]["share"] == pytest.approx(20 * 480e6 / BOARD_BYTES_PER_S)
    assert found["shares"][0]["ceiling_tokens_per_s"] == pytest.approx(40)
    published = [share for share in found["shares"] if share["kind"] == "published"]
    assert len(published) == sum(system.bytes_per_token is not None for system in SYSTEMS)
    assert all(0 < share["share"] < 1 for share in published)


def test_other_configurations_have_no_published_systems():
    found = roofline("tiny", [RUN], SHAPES)
    assert found["points"] == found["shares"] == [] and found["ceilings"]["pure_read_bytes_per_s"] is None


def test_every_published_figure_has_its_source():
    for system in SYSTEMS:
        assert system.source, system
        assert system.bytes_per_token is None or (system.bytes_from and system.weights), system
        assert system.shape is None or system.shape in SHAPES, system


@pytest.mark.parametrize("runs", [[RUN], []])
@pytest.mark.parametrize("config", ["kv260", "tiny"])
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_command_draws(tmp_path, runs, config, kind):
    bench, picture = tmp_path / "bench.json", tmp_path / f"roofline.{kind}"
    bench.write_text(json.dumps({"runs": runs}))
    found = CliRunner().invoke(command, ["--config", config, "--bench", str(bench), "-o", str(picture)], catch_exceptions=False)
    assert found.exit_code == 0 and "Gop/s" in found.stdout
    assert picture.read_bytes()[:4] == {"png": b"\x89PNG", "svg": b"<?xm"}[kind]


def test_command_prints_json_of_one_shape(tmp_path):
    bench = tmp_path / "bench.json"
    bench.write_text(json.dumps(RUN))
    found = CliRunner().invoke(command, ["--shape", "bitnet-0.73b", "--bench", str(bench), "--json"], catch_exceptions=False)
    points = json.loads(found.stdout)["points"]
    assert points and all("0.73B" in point["name"] for point in points)
    measured = json.loads(CliRunner().invoke(command, ["--json"], catch_exceptions=False).stdout)
    assert any(point["kind"] == "simulated" for point in measured["points"])


def test_bad_files_and_names_have_their_sentence(tmp_path):
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"runs": [1]}')
    with pytest.raises(ValueError, match="must hold results of `celosia bench --json`"):
        read_runs([wrong])
    for options, sentence in ((["-o", "roof.pdf"], "must end in .png or .svg"), (["--config", "huge"], "must be one of")):
        with pytest.raises(ValueError, match=sentence):
            CliRunner().invoke(command, options, catch_exceptions=False)
