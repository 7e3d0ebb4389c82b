"""Expected texts, and the helpers of this folder."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))      # random_models


def pytest_addoption(parser):
    parser.addoption("--update-expected", action="store_true", help="write the texts of tests/expected anew")


@pytest.fixture
def expected(request):
    """Compare a text with a file of tests/expected: ``expected("program.txt", text)``."""
    folder = Path(__file__).resolve().parents[1] / "expected"
    update = request.config.getoption("--update-expected", default=False)

    def check(name, text):
        path = folder / name
        if update:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert text == path.read_text(), f"{name} has changed: run pytest tests/gen --update-expected and read the difference"

    return check
