# amaranth: UnusedElaboratable=no
"""The vector unit and TopK against their golden functions, and what the golden function refuses."""

import pytest
import torch

from celosia.gen.golden.vector import VectorState, accepted, check_vector, run_vector, topk
from celosia.hw.isa import Add, Mul1, Mul2, Reduce, Sink, Source, Tokens
from celosia.hw.vector.topk import TopK
from celosia.hw.vector.unit import VectorUnit
from celosia.sim_tb.run import simulate


def run_bench(*, lanes, token_lanes, n_descriptors, n_runs):
    x_words, p_words = 512, 256
    unit = VectorUnit(vector_lanes=lanes, token_lanes=token_lanes, x_words=x_words, p_words=p_words)
    simulate(unit, "celosia.sim_tb.tb_vector", name=f"vector_{lanes}",
             parameters={"lanes": lanes, "token_lanes": token_lanes, "x_words": x_words, "p_words": p_words,
                         "n_descriptors": n_descriptors, "n_runs": n_runs})


@pytest.mark.sim
@pytest.mark.parametrize("lanes, token_lanes", [(2, 4), (4, 2)])
def test_unit_matches_golden(lanes, token_lanes):
    run_bench(lanes=lanes, token_lanes=token_lanes, n_descriptors=60, n_runs=3)


@pytest.mark.sim
@pytest.mark.slow
def test_unit_of_16_lanes_matches_golden():
    run_bench(lanes=16, token_lanes=16, n_descriptors=60, n_runs=3)


@pytest.mark.sim
@pytest.mark.parametrize("lanes, top_k, row_quantum", [(2, 16, 4), (4, 3, 4), (2, 1, 2)])
def test_topk_matches_golden(lanes, top_k, row_quantum):
    simulate(TopK(vector_lanes=lanes, top_k=top_k, row_quantum=row_quantum), "celosia.sim_tb.tb_topk",
             name=f"topk_{lanes}_{top_k}_{row_quantum}",
             parameters={"lanes": lanes, "top_k": top_k, "row_quantum": row_quantum})


def test_topk_orders_ties_zeros_and_nan():
    logits = torch.tensor([[1.0, 2.0, -0.0, 0.0], [float("nan"), 2.0, 5.0, -float("inf")]])
    numbers, _ = topk(logits, torch.tensor([0, 4]), 8, 8)
    assert numbers.tolist() == [6, 1, 5, 0, 3, 2, 7, 4]


@pytest.mark.parametrize("is_first, token_ids, best, bits", [
    ([1, 0, 0, 0], [9, 5, 6, 7], [5, 6, 7, 8], 0b1110),
    ([1, 0, 0, 0], [9, 5, 4, 7], [5, 6, 7, 8], 0b0010),       # nothing after the first that differs
    ([1, 0, 1, 0], [9, 4, 3, 7], [5, 3, 7, 8], 0b1000),       # each segment by itself
    ([1, 1, 1, 1], [9, 5, 6, 7], [5, 6, 7, 8], 0),
    ([1, 0], [9, 0], [None, None], 0),
])
def test_accepted_are_the_best_of_the_lane_before(is_first, token_ids, best, bits):
    assert accepted(is_first, token_ids, best) == bits


@pytest.mark.parametrize("fields", [
    {"n_words": 0, "block_words": 1},
    {"n_words": 8, "block_words": 4, "source": Source.X},
    {"mul1": Mul1.STREAM, "source": Source.MATMUL},
    {"add": Add.ROPE, "mul1": Mul1.P},
    {"mul2": Mul2.ROPE, "mul1": Mul1.P},
    {"reduce": Reduce.RMS, "source": Source.MATMUL},
    {"reduce": Reduce.RMS, "sink": Sink.X},
    {"reduce": Reduce.ABSMAX, "sink": Sink.ACT},
])
def test_refuses_combinations_that_do_not_exist(fields):
    with pytest.raises(ValueError, match="A VECTOR descriptor must"):
        check_vector({"n_words": 4, "block_words": 4} | fields)


@pytest.mark.parametrize("fields, rule", [
    ({"x_base": 30}, "Scratch X has 32 words"),
    ({"source": Source.P, "p_base": 14}, "Scratch P has 16 words"),
    ({"source": Source.MATMUL}, "takes 8 words of the matmul stream, and 0 came"),
    ({"source": Source.MATMUL, "tokens": Tokens.LANE, "lane": 1}, "takes 4 words of the matmul stream, and 0 came"),
    ({"tokens": Tokens.LANE, "lane": 2}, "works on lane 2, and the run has 2"),
    ({"sink": Sink.X, "d_base": 16, "d_stride": 2, "x_stride": 4}, "must not write a word of X twice"),
    ({"sink": Sink.X, "d_base": 1, "d_stride": 4, "x_stride": 4}, "must not read a word of X that it wrote before"),
])
def test_refuses_what_the_unit_cannot_do(fields, rule):
    state = VectorState.zeros(vector_lanes=2, x_words=32, p_words=16)
    with pytest.raises(ValueError, match=rule):
        run_vector({"n_words": 4, "block_words": 4} | fields, 2, state)


@pytest.mark.parametrize("sizes, rule", [
    ({"vector_lanes": 3}, "vector_lanes must be"),
    ({"token_lanes": 3}, "token_lanes must be"),
    ({"x_words": 1}, "x_words must be"),
])
def test_rejects_sizes(sizes, rule):
    with pytest.raises(ValueError, match=rule):
        VectorUnit(**({"vector_lanes": 2, "token_lanes": 2, "x_words": 64, "p_words": 64} | sizes))
