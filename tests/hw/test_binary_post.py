# amaranth: UnusedElaboratable=no
"""What becomes of the rows of a binary MATMUL, against the golden functions."""

import pytest

from celosia.hw.binary.collect import Collector
from celosia.sim_tb.run import simulate


@pytest.mark.sim
@pytest.mark.parametrize("token_lanes, columns", [(4, 32), (8, 8), (8, 64)])
def test_collector_matches_golden(token_lanes, columns):
    simulate(Collector(token_lanes=token_lanes, columns=columns), "celosia.sim_tb.tb_binary_collect",
             name=f"binary_collect_{columns}", parameters={"token_lanes": token_lanes, "columns": columns})


@pytest.mark.parametrize("sizes, rule", [
    ({"token_lanes": 0}, "token_lanes must be"),
    ({"columns": 20}, "columns must be"),
    ({"columns": 264}, "columns must be"),
])
def test_collector_rejects_sizes(sizes, rule):
    with pytest.raises(ValueError, match=rule):
        Collector(**({"token_lanes": 8, "columns": 64} | sizes))
