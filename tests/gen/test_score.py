"""Logits of every token: those of the golden model, bit for bit, from the bytes and descriptors of an image."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import SMALL, golden_of, head_plans, machine_of, mixed_planes, model_configs, random_image

from celosia.gen.golden.machine import MachineError, lanes_of
from celosia.gen.golden.score import score
from celosia.gen.model import HeadPlan
from celosia.hw.configs import duo, kv260, tiny

CONTEXT = 32
ACCELS = [tiny, duo, kv260]


def right_logits(golden, plan, tokens):
    hidden = golden.hidden(tokens, 0)
    return golden.coarse_logits(hidden) if plan.kind == "ternary" else golden.logits(hidden)


def chunks(tokens, size):
    return [(start, tokens[start:start + size]) for start in range(0, len(tokens), size)]


@pytest.mark.parametrize("accel", ACCELS, ids=lambda accel: accel.name)
@pytest.mark.parametrize("plan", [HeadPlan(), HeadPlan("ternary", 1, 2), HeadPlan("shortlist", 3)], ids=lambda plan: plan.kind)
def test_scores_are_the_models(accel, plan):
    config = replace(SMALL, vocab_size=2500, n_layers=1)    # several pieces of a head, and no whole row blocks
    data, _, model = random_image(config, accel, 5, CONTEXT, plan, mixed_planes(5))
    tokens = torch.randint(2500, (11,), generator=torch.Generator().manual_seed(1)).tolist()
    machine = machine_of(data, accel)
    found = torch.cat([score(machine, "decode", part, lanes_of(start, len(part)))
                       for start, part in chunks(tokens, accel.token_lanes)])
    assert torch.equal(found, right_logits(golden_of(model, accel), plan, tokens))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.data())
def test_any_model_any_chunk(data):
    accel = data.draw(st.sampled_from(ACCELS))
    config = data.draw(model_configs(max_group=accel.max_queries // accel.token_lanes))
    plan = data.draw(head_plans(config, accel))
    image, _, model = random_image(config, accel, data.draw(st.integers(0, 99)), CONTEXT, plan)
    tokens = data.draw(st.lists(st.integers(0, config.vocab_size - 1), min_size=1, max_size=9))
    machine, size = machine_of(image, accel), data.draw(st.integers(1, accel.token_lanes))
    found = torch.cat([score(machine, "decode", part, lanes_of(start, len(part))) for start, part in chunks(tokens, size)])
    assert torch.equal(found, right_logits(golden_of(model, accel), plan, tokens))


def test_a_run_after_a_score_finds_its_candidates():
    data, _, _ = random_image(SMALL, tiny, 1, CONTEXT, HeadPlan("shortlist", 4))
    alone, mixed = machine_of(data, tiny), machine_of(data, tiny)
    logits = score(mixed, "decode", [3, 1, 4], lanes_of(0, 3))
    assert mixed.candidates() == []
    alone.run("prefill", [3, 1, 4], lanes_of(0, 3))
    found = mixed.run("decode", [1], lanes_of(3, 1))
    assert found == alone.run("decode", [1], lanes_of(3, 1))
    assert torch.equal(logits, score(alone, "decode", [3, 1, 4], lanes_of(0, 3)))
    after = score(mixed, "decode", [1], lanes_of(3, 1))[0]
    assert found == [(token, float(after[token])) for token, _ in found]


def test_errors_are_those_of_a_run():
    data, _, _ = random_image(SMALL, tiny, 1, CONTEXT)
    with pytest.raises(MachineError, match="LAUNCH"):
        score(machine_of(data, tiny), "decode", [1] * 5, lanes_of(0, 5))
