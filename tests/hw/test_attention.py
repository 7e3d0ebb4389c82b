# amaranth: UnusedElaboratable=no
"""The attention unit on the simulator, at several sizes, and its checks of parameters."""

import pytest

from celosia.hw.attention.unit import AttentionUnit
from celosia.sim_tb.run import simulate

SIZES = {
    "tiny": dict(n_ports=1, port_bytes=8, vector_lanes=2, token_lanes=4, query_lanes=1, max_queries=16, max_head_words=4,
                 max_positions=512),
    "duo": dict(n_ports=2, port_bytes=4, vector_lanes=2, token_lanes=2, query_lanes=2, max_queries=8, max_head_words=4,
                max_positions=256),
    "kv260": dict(n_ports=4, port_bytes=16, vector_lanes=16, token_lanes=4, query_lanes=2, max_queries=16, max_head_words=4,
                  max_positions=4096),
}


def run(name, seed, n_scenarios):
    sizes = SIZES[name]
    simulate(AttentionUnit(**sizes), "celosia.sim_tb.tb_attention", name=f"attention_{name}", seed=seed,
             parameters={"sizes": sizes, "n_scenarios": n_scenarios}, timeout_s=1200)


@pytest.mark.sim
@pytest.mark.parametrize("name", ["tiny", "duo"])
def test_matches_golden(name):
    run(name, seed=1, n_scenarios=14)


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("name,seed", [("tiny", 2), ("duo", 3), ("kv260", 1)])
def test_matches_golden_long(name, seed):
    run(name, seed=seed, n_scenarios=21)


@pytest.mark.parametrize("change,sentence", [
    ({"n_ports": 3}, "n_ports must be 1, 2 or 4, not 3"),
    ({"port_bytes": 12}, "port_bytes must be 4, 8 or 16, not 12"),
    ({"vector_lanes": 16}, "vector_lanes must be a power of two of at most port_bytes"),
    ({"token_lanes": 3}, "token_lanes must be a power of two of at most 16, not 3"),
    ({"query_lanes": 3}, "query_lanes must be a power of two, not 3"),
    ({"query_lanes": 8}, "query_lanes must be at most token_lanes or the heads of a token"),
    ({"max_queries": 12}, "max_queries must be token_lanes .4. times a power of two"),
    ({"max_head_words": 0}, "max_head_words must be an integer in 1..63, not 0"),
    ({"max_positions": 1 << 17}, "max_positions must be an integer in 1..65536"),
])
def test_refuses(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        AttentionUnit(**{**SIZES["tiny"], **change})
