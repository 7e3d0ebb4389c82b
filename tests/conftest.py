"""What all tests share: seeded random numbers, and the folders of the tree."""

import os
import random
import zlib
from pathlib import Path

import pytest

# Before torch and transformers are imported: compiled graphs and spinning threads have no place in a test run.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture
def rng(request) -> random.Random:
    """Random numbers that depend on nothing but the name of the test."""
    return random.Random(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(scope="session")
def tree() -> Path:
    """Root of the source tree."""
    return Path(__file__).resolve().parents[1]
