"""The wheel: it holds every file of the rooms, and what the board needs runs from it alone."""

import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOMS = ("hw", "gen", "host", "sim_tb", "bitstreams", "notebooks")


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for room in ROOMS:
        shutil.copytree(tree / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "LICENSE"):
        shutil.copy(tree / name, source)
    target = tmp_path_factory.mktemp("wheel")
    pip(["wheel", "--no-deps", "--no-build-isolation", "-w", str(target), str(source)])
    (result,) = target.glob("celosia-*.whl")
    return result


def pip(arguments):
    subprocess.run([sys.executable, "-m", "pip", "-qq", *arguments], check=True, timeout=300)


def test_wheel_holds_every_file(wheel, tree):
    here = {f"celosia/{path.relative_to(tree)}" for room in ROOMS for path in (tree / room).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts}
    there = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert there == here


def test_host_runs_from_the_wheel_alone(wheel, tmp_path):
    """In an environment without this tree, torch or amaranth: only the wheel, numpy and click are on the path."""
    pip(["install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)])
    for distribution in ("numpy", "click"):
        link_distribution(distribution, tmp_path / "site")
    script = (
        "import sys, pkgutil, importlib; sys.path.insert(0, 'site'); import celosia.host as host\n"
        "assert host.__file__.startswith(sys.argv[1]), host.__file__\n"
        "for m in pkgutil.walk_packages(host.__path__, 'celosia.host.'):\n"
        "    if m.name != 'celosia.host.board' and not m.name.startswith('celosia.host.serve.'): importlib.import_module(m.name)\n"
        "assert not {'torch', 'amaranth', 'celosia.hw', 'celosia.gen'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", script, str(tmp_path)], cwd=tmp_path, check=True, timeout=300)


def link_distribution(name, site):
    """Make an installed distribution importable from `site`, by links to its top-level files."""
    for top in {file.parts[0] for file in importlib.metadata.files(name)} - {".."}:
        source = Path(str(importlib.metadata.distribution(name).locate_file(top)))
        if source.exists() and not (site / top).exists():
            (site / top).symlink_to(source)
