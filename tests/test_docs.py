"""The pages: generated ones are fresh, links lead somewhere, every page can be found, code in them is code."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from celosia.gen import docs

TREE = Path(__file__).resolve().parents[1]
ROOMS = ("hw", "gen", "host", "sim_tb")
STARTS = ("README.md", "docs/README.md")
FOLDERS = (".", "docs", "docs/units", "docs/decisions", "bitstreams", "notebooks", "models", "models/demo")
PAGES = sorted(path.relative_to(TREE).as_posix() for folder in FOLDERS for path in (TREE / folder).glob("*.md"))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"(?:hw|gen|host|sim_tb|tests|tools|docs|models)/[\w./-]+\.\w+")
NAME = re.compile(rf"celosia\.(?:{'|'.join(ROOMS)})(?:\.\w+)*")


def prose(page):
    """Text of a page without its blocks of code."""
    return FENCE.sub("", (TREE / page).read_text())


def links(page):
    """(link as written, file it leads to, anchor) of every relative link of a page."""
    for link in LINK.findall(CODE.sub("", prose(page))):
        if not re.match(r"[a-z]+:", link):
            target, _, anchor = link.partition("#")
            yield link, (TREE / page).parent / target if target else TREE / page, anchor


def anchors(path):
    """Anchors of the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def resolves(name):
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for n in range(len(parts), 1, -1):
        try:
            found = importlib.util.find_spec(".".join(parts[:n])) is not None
        except ModuleNotFoundError:
            found = False
        if found:
            thing = importlib.import_module(".".join(parts[:n])) if n < len(parts) else None
            for attribute in parts[n:]:
                if not hasattr(thing, attribute):
                    return False
                thing = getattr(thing, attribute)
            return True
    return False


def imported(tree):
    """Dotted names that a block of code imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path,text", docs.pages().items(), ids=docs.pages())
def test_generated_pages_are_fresh(path, text):
    assert (TREE / path).read_text() == text, f"{path} is stale; run: python -m celosia.gen.docs"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    dead = [link for link, target, anchor in links(page)
            if not target.exists() or (anchor and anchor not in anchors(target))]
    assert not dead, f"{page} links to nothing: {', '.join(dead)}"


def test_every_page_can_be_found():
    found, todo = set(), [TREE / page for page in STARTS]
    while todo:
        page = todo.pop()
        name = page.relative_to(TREE).as_posix()
        if name not in found and name in PAGES:
            found.add(name)
            todo += [target.resolve() for _, target, _ in links(name) if target.suffix == ".md"]
    lost = sorted(set(PAGES) - found)
    assert not lost, f"no way leads from {' or '.join(STARTS)} to {', '.join(lost)}"


@pytest.mark.parametrize("page", PAGES)
def test_files_and_names_exist(page):
    spans = CODE.findall(prose(page))
    missing = [span for span in spans if FILE.fullmatch(span) and not (TREE / span).exists()]
    missing += [span for span in spans if NAME.fullmatch(span) and not resolves(span)]
    assert not missing, f"{page} names what is not there: {', '.join(missing)}"


@pytest.mark.parametrize("page", PAGES)
def test_code_compiles_and_its_imports_resolve(page):
    for language, code in FENCE.findall((TREE / page).read_text()):
        if language == "python":
            names = set(imported(ast.parse(code, filename=page)))
            strangers = sorted(name for name in names if name.startswith("celosia.") and not resolves(name))
            assert not strangers, f"{page} imports what is not there: {', '.join(strangers)}"


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_left_to_fill_in(page):
    left = re.findall(r"@[A-Z_]+@|\bTODO\b|\bTBD\b", (TREE / page).read_text())
    assert not left, f"{page} still says {', '.join(left)}"


@pytest.mark.parametrize("text,anchor", [("## Who waits for whom", "who-waits-for-whom"), ("### `Mul1`", "mul1")])
def test_anchors_are_those_of_headings(tmp_path, text, anchor):
    (tmp_path / "page.md").write_text(text + "\n")
    assert anchors(tmp_path / "page.md") == {anchor}


def test_names_that_are_not_there_do_not_resolve():
    assert resolves("celosia.hw.isa.Vector") and resolves("celosia.gen.docs")
    assert not resolves("celosia.hw.isa.Vektor") and not resolves("celosia.hw.nowhere")
