# amaranth: UnusedElaboratable=no
"""What becomes of the rows of a binary MATMUL, against the golden functions."""

import pytest

from celosia.hw.binary.collect import Collector
from celosia.hw.binary.post import BinaryPost
from celosia.sim_tb.run import simulate


@pytest.mark.sim
@pytest.mark.parametrize("token_lanes, columns", [(4, 32), (8, 8), (8, 64)])
def test_collector_matches_golden(token_lanes, columns):
    simulate(Collector(token_lanes=token_lanes, columns=columns), "celosia.sim_tb.tb_binary_collect",
             name=f"binary_collect_{columns}", parameters={"token_lanes": token_lanes, "columns": columns})


@pytest.mark.sim
@pytest.mark.parametrize("sizes", [
    {"token_lanes": 8, "engine_rows": 2, "columns": 32, "port_bytes": 8, "max_sequences": 16, "softmax": True},
    {"token_lanes": 16, "engine_rows": 8, "columns": 8, "port_bytes": 16, "max_sequences": 4, "softmax": True},
    {"token_lanes": 8, "engine_rows": 4, "columns": 64, "port_bytes": 4, "max_sequences": 5, "softmax": False},
], ids=["tiny", "narrow", "without_softmax"])
def test_post_matches_golden(sizes):
    simulate(BinaryPost(**sizes), "celosia.sim_tb.tb_binary_post", name=f"binary_post_{sizes['token_lanes']}_{sizes['columns']}",
             parameters=sizes | {"n_commands": 25})


@pytest.mark.parametrize("sizes, rule", [
    ({"token_lanes": 0}, "token_lanes must be"),
    ({"columns": 20}, "columns must be"),
    ({"columns": 264}, "columns must be"),
])
def test_collector_rejects_sizes(sizes, rule):
    with pytest.raises(ValueError, match=rule):
        Collector(**({"token_lanes": 8, "columns": 64} | sizes))
