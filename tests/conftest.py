"""What all tests share: seeded random numbers, and the folders of the tree."""

import os
import random
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before torch is imported: the test processes share the cores among themselves, and nothing is compiled behind them.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, however busy the machine.
settings.register_profile("celosia", deadline=None, derandomize=True, database=None,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("celosia")


@pytest.fixture
def rng(request) -> random.Random:
    """Random numbers that depend on nothing but the name of the test."""
    return random.Random(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(scope="session")
def tree() -> Path:
    """Root of the source tree."""
    return Path(__file__).resolve().parents[1]
