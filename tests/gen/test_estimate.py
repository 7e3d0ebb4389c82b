"""The performance model beside what the simulated accelerator was measured to do."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
from random_models import SMALL, random_image

from celosia.gen import checkpoint, fit
from celosia.gen.assemble import assemble
from celosia.gen.estimate import decode_beats, simulate_program, tokens_per_s
from celosia.gen.model import HeadPlan, ModelConfig
from celosia.gen.place import Layout
from celosia.gen.program import compile_program
from celosia.gen.quantise import quantise
from celosia.gen.shapes import SHAPES
from celosia.gen.window import place
from celosia.hw.configs import CONFIGS, duo, kv260, tiny

ROOT = Path(__file__).resolve().parents[2]
MEASURED = json.loads((ROOT / "docs" / "performance.json").read_text())
DIGITS = re.findall(r"^\| (\d) \| (\d\d,\d{3}) \|", (ROOT / "docs" / "digits.md").read_text(), re.M)  # planes, cycles
RUNS = [run for run in MEASURED["runs"] if run["extrapolated"]]


class Scales(dict):
    """Of ternary layers: one scale a matrix, but a table of them for queries, keys and values, and for the head."""

    def __missing__(self, name):
        return None if "qkv" in name or name in ("coarse", "head") else 1.0


@cache
def compiled(shape, head):
    """(programs, layout) of a shape on kv260, in the context of the runs."""
    model = SHAPES[shape].model
    plan, layout = fit.head_plan(model, kv260, head), Layout(model, kv260, 1025)
    placement, _, _ = place(layout, Scales(), plan=plan)
    return {name: compile_program(placement, name) for name in ("decode", "prefill")}, layout


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run['shape']}-{run['head']}-{run['context']}")
def test_decoding_is_predicted(run):
    programs, layout = compiled(run["shape"], run["head"])
    found = simulate_program(programs["decode"], layout, 1, run["context"])
    assert found.moved_bytes == pytest.approx(run["bytes_per_token"], rel=1e-3)
    assert found.cycles == pytest.approx(run["cycles_per_token"], rel=0.01)
    assert tokens_per_s(programs, layout, run["context"]) == pytest.approx(run["decode_tokens_per_s"], rel=0.01)


def test_the_published_figures():
    speeds = [tokens_per_s(*compiled(shape, "shortlist"), position)
              for position in (0, 1024) for shape in ("bitnet-2b4t", "bitnet-0.73b")]
    assert speeds == pytest.approx([32.51, 102.1, 30.04, 67.4], rel=0.05)


@pytest.mark.parametrize("run", [run for run in RUNS if run["prompt_tokens"]], ids=lambda run: run["shape"])
def test_prefill_is_predicted(run):
    programs, layout = compiled(run["shape"], run["head"])
    runs = [simulate_program(programs["decode" if first == 112 else "prefill"], layout, 16, first) for first in range(0, 128, 16)]
    assert sum(each.moved_bytes for each in runs) == pytest.approx(run["prefill_bytes"], rel=1e-3)
    assert sum(each.cycles for each in runs) / 250e6 == pytest.approx(run["time_to_first_token_s"], rel=0.04)


def test_the_demo_is_predicted():
    made = assemble(quantise(checkpoint.load(ROOT / "models" / "demo"), planes="auto"), tiny, 512)
    for step in MEASURED["demo"]["steps"]:
        found = simulate_program(made.programs["decode"], made.placement.layout, 1, step["position"])
        assert found.cycles == pytest.approx(step["CYCLES"], rel=0.02)
    prompt = [simulate_program(made.programs["decode" if first == 28 else "prefill"], made.placement.layout, 4, first)
              for first in range(0, 32, 4)]
    assert sum(run.cycles for run in prompt) == pytest.approx(MEASURED["demo"]["prefill"]["cycles"], rel=0.02)


@pytest.mark.parametrize("planes, cycles", DIGITS)
def test_digit_planes_are_predicted(planes, cycles):
    """The figures for stories260K on tiny: mean of 15 tokens after a prompt of 5. Its sizes are enough, weights take no time."""
    config = ModelConfig(hidden_size=64, ffn_size=172, n_layers=5, n_heads=8, n_kv_heads=4, head_dim=8, vocab_size=512,
                         max_positions=512, act="silu", sub_norms=False)
    _, made, _ = random_image(config, tiny, 1, 256, planes=int(planes))
    found = [simulate_program(made.programs["decode"], made.placement.layout, 1, position).cycles for position in range(5, 20)]
    assert sum(found) / 15 == pytest.approx(int(cycles.replace(",", "")), rel=0.04)


def test_the_page_of_digits_has_its_figures():
    assert [planes for planes, _ in DIGITS] == list("12345")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_more_work_takes_longer(config):
    def cycles(plan, planes, n_tokens, position, program="decode"):
        _, made, _ = random_image(SMALL, config, 1, 32, plan, planes)
        return simulate_program(made.programs[program], made.placement.layout, n_tokens, position).cycles

    least = cycles(HeadPlan(), 1, 1, 0)
    assert least < cycles(HeadPlan(), 5, 1, 0) and least <= cycles(HeadPlan(), 1, 1, 31)
    assert least < cycles(HeadPlan(), 1, config.token_lanes, 0) and least > cycles(HeadPlan(), 1, 1, 0, "prefill")
    assert least < cycles(HeadPlan("shortlist", 4), 1, 1, 0)


def test_beats_of_a_token():
    _, made, _ = random_image(SMALL, duo, 1, 32)
    layout, program = made.placement.layout, made.programs["decode"]
    matrices = sum(m.rows // 4 * (m.columns // duo.columns) * m.planes for m in made.placement.matrices.values())
    assert decode_beats(program, layout) > matrices
    found, later = (simulate_program(program, layout, 1, position).moved_bytes for position in (0, 2))
    records = SMALL.n_layers * SMALL.n_kv_heads * layout.record_bytes
    assert found == 8 * decode_beats(program, layout) + 64 * len(program.steps) + records
    assert later - found == 2 * records
