# amaranth: UnusedElaboratable=no
"""The matmul engine and its parts, at several sizes."""

from dataclasses import asdict, replace

import pytest

from celosia.hw.config import AccelConfig
from celosia.hw.configs import duo, kv260, tiny
from celosia.hw.engine.engine import MatmulEngine
from celosia.hw.engine.words import WALK, column_groups, entry_bits, entry_of
from celosia.sim_tb.run import simulate

# Rows and vector lanes of the same number, groups of three with a rest of two columns.
mid = replace(duo, name="mid", n_ports=1, port_bytes=16, token_lanes=2, vector_lanes=4, engine_rows=4, max_columns=320,
              max_row_groups=16, accumulator_bits=26)
# A vector word takes two row groups; two lanes are built at once.
wide = replace(duo, name="wide", n_ports=2, port_bytes=16, token_lanes=4, vector_lanes=8, engine_rows=4,
               table_builders=2, max_columns=480, max_row_groups=8, queue_beats=32)
# One token lane, a row block of four row groups.
single = replace(duo, name="single", n_ports=1, port_bytes=4, token_lanes=1, vector_lanes=2, engine_rows=2,
                 max_columns=160, max_row_groups=4)


def engine(config: AccelConfig) -> MatmulEngine:
    return MatmulEngine(vector_lanes=config.vector_lanes, token_lanes=config.token_lanes,
                        engine_rows=config.engine_rows, beat_bytes=config.beat_bytes, max_columns=config.max_columns,
                        max_row_groups=config.max_row_groups, accumulator_bits=config.accumulator_bits,
                        table_builders=config.table_builders)


def run(config, *, n_jobs, **options):
    simulate(engine(config), "celosia.sim_tb.tb_engine", name=f"engine_{config.name}",
             parameters={"config": asdict(config), "n_jobs": n_jobs}, **options)


@pytest.mark.sim
@pytest.mark.parametrize("config", [tiny, duo, mid, wide, single], ids=lambda config: config.name)
def test_engine(config):
    run(config, n_jobs=12)


@pytest.mark.sim
@pytest.mark.slow
def test_engine_of_the_kv260():
    run(kv260, n_jobs=6, timeout_s=1800)


def test_walk_makes_every_entry_once():
    assert sorted(entry_of(weights)[0] for weights in WALK) == list(range(14))
    assert not any(entry_of(weights)[1] for weights in WALK)
    for before, after in zip(WALK, WALK[1:]):
        assert sum(abs(a - b) for a, b in zip(before, after)) == 1


def test_entries_fit_their_bits():
    assert [entry_bits(size) for size in (1, 2, 3)] == [8, 9, 10]


@pytest.mark.parametrize("columns, last", [(5, 2), (10, 1), (15, 3), (80, 2)])
def test_groups_have_every_column_once(columns, last):
    groups = column_groups(columns)
    assert sorted(column for group in groups for column in group) == list(range(columns))
    assert {len(group) for group in groups[:-1]} == {3} and len(groups[-1]) == last


@pytest.mark.parametrize("sizes, sentence", [
    ({"beat_bytes": 6}, "must be 4 rows of a multiple of 2 columns, not 6 bytes"),
    ({"token_lanes": 3}, "Token lanes must be a power of two"),
    ({"table_builders": 3}, "a multiple of 3 table builders"),
    ({"max_columns": 1285}, "Maximal columns must be a multiple of 10, not 1285"),
])
def test_refuses_sizes(sizes, sentence):
    good = {"vector_lanes": 2, "token_lanes": 4, "engine_rows": 4, "beat_bytes": 8, "max_columns": 1280,
            "max_row_groups": 64}
    MatmulEngine(**good)
    with pytest.raises(ValueError, match=sentence):
        MatmulEngine(**good | sizes)
