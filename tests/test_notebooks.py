"""The notebooks: stored without outputs, and they run to their ends on a device (CELOSIA_BACKEND; here the simulator)."""

import importlib
import json
import os
from pathlib import Path

import nbformat
import pytest
import tomllib
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
LIMIT_S = 300

# Run before the last cell of 02_chat: a message typed into the window, and a hostile one.
TYPED = """
window._max_new = 6
window._field.value = "<b>Hello</b>"
window._thread.join(250)
assert "&lt;b&gt;Hello" in window._talk.value and "<b>assistant</b>" in window._talk.value and window._stop.disabled
assert len(chat.messages) == 2 and chat.messages[1]["content"]
window.clear()
assert chat.messages == [] and window._talk.value == ""
"""


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setenv("CELOSIA_BACKEND", os.environ.get("CELOSIA_BACKEND", "sim"))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.delenv("CELOSIA_CONFIG", raising=False)
    monkeypatch.delenv("CELOSIA_MODEL", raising=False)
    return os.environ["CELOSIA_BACKEND"]


def test_all_are_there():
    assert [name[:2] for name in NAMES] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("name", NAMES)
def test_is_clean(name):
    """No outputs, no counts, the same bytes when it is written again."""
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    notebook = json.loads(text)
    nbformat.validate(notebook)
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert all(len(line) <= 133 for cell in code for line in cell["source"])


@pytest.mark.sim
@pytest.mark.parametrize("name", NAMES)
def test_runs(name, device, tmp_path):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    if name == "02_chat":
        notebook.cells.insert(-1, nbformat.v4.new_code_cell(TYPED))
    NotebookClient(notebook, timeout=LIMIT_S, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    if name == "01_first_text":
        assert "The Treasury on the part" in printed
    if name == "03_what_limits_the_speed":
        assert pictures == (2 if device == "golden" else 3)
        assert ("golden counts nothing" in printed) == (device == "golden")
    if name == "04_a_layer_against_the_golden_model":
        assert printed.count("the same bits") == 10


def test_pynq_can_find_them():
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
    (module,) = project["entry-points"]["pynq.notebooks"].values()
    assert {path.stem for path in Path(importlib.import_module(module).__path__[0]).glob("*.ipynb")} == set(NAMES)
