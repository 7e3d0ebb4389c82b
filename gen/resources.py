"""What a configuration takes of its part, block by block, by the open synthesis flow; command ``resources``.

    Accelerator ──► RTLIL ── cut (synthesis) ──► modules ── Yosys ──► netlists ── count, levels (netlist) ──► report
                                                                                   times the number of instances

Figures are of Yosys, not of a vendor's tool.  docs/resources.md has the rules of counting and the tables.
"""

import hashlib
import importlib.metadata
import json
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import click
from amaranth.back import rtlil
from tqdm import tqdm

import celosia.hw
from celosia.hw.binary.config import BinaryConfig
from celosia.hw.configs import config_of

from . import netlist, parts, synthesis
from .cache import cache_folder
from .marks import replaced
from .parts import KINDS, XCK26

__all__ = ["engine_modules", "report", "resources", "table"]

_TOP = "celosia"
_HOLDERS = (_TOP, f"{_TOP}.core")      # what they hold are the blocks
# What a configuration for the part should keep to: shares of the part, LUTs a multiply-add, levels.
_GOALS = {"lut": 0.75, "bram36": 0.9, "uram": 0.9, "dsp": 0.9, "lut_per_mac": 7, "logic_levels": 8}
_LUT_PER_BINARY_MAC = 1.5
_COUNTED = (*KINDS, "lut_cells")
_PAGE = Path(__file__).resolve().parents[1] / "docs" / "resources.md"


def _text(config):
    from celosia.hw.top import Accelerator

    top = Accelerator(config)
    return rtlil.convert(top, name=_TOP, ports=top.ports(), emit_src=False)


def _digest(config):
    """Of everything that the report depends on."""
    digest = hashlib.sha256(config.digest.encode())
    for package in ("amaranth", "pyosys"):
        try:
            digest.update(importlib.metadata.version(package).encode())
        except importlib.metadata.PackageNotFoundError:
            digest.update(b"none")
    for folder in celosia.hw.__path__:
        for source in sorted(Path(folder).rglob("*.py")):
            digest.update(source.relative_to(folder).as_posix().encode() + b"\0" + source.read_bytes())
    for module in (__file__, netlist.__file__, parts.__file__, synthesis.__file__):
        digest.update(Path(module).read_bytes())
    return digest.hexdigest()[:16]


def report(config, *, part=XCK26, progress=True):
    """Counts, shares and levels of the whole accelerator, as the command prints them with ``--json``.

    Kept under the digest of the hardware's sources, the configuration and the versions of the tools.

    Raises
    ------
    RuntimeError
        With one sentence when Yosys is not installed or stops.
    """
    kept = cache_folder("resources") / f"report_{part.name}_{_digest(config)}.json"
    if not kept.exists():
        figures = _figures(config, _text(config), part, progress)
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(figures))
        partial.replace(kept)
    return json.loads(kept.read_text()) | {"config": config.name}


def _figures(config, text, part, progress):
    cuts = synthesis.cut(text, holders=_HOLDERS)
    counts, timings, arrays = _modules(cuts, progress)
    instances = _instances(cuts)

    blocks: dict[str, dict] = {}
    for (block, module), times in instances.items():
        into = blocks.setdefault(block, dict.fromkeys(_COUNTED, 0) | {"logic_levels": 0})
        for kind in _COUNTED:
            into[kind] += times * counts[module][kind]
        into["logic_levels"] = max(into["logic_levels"], timings[module].levels)
    total = {kind: sum(block[kind] for block in blocks.values()) for kind in _COUNTED}
    for block in blocks.values():
        block["share"] = {kind: block[kind] / getattr(part, kind) for kind in KINDS}

    times_in_all = Counter()
    for (_, module), times in instances.items():
        times_in_all[module] += times
    worst = max(timings, key=lambda module: timings[module].levels)
    largest = max(arrays, key=lambda array: array["words"] * array["bits"], default=None)
    figures = {
        "digest": config.digest, "part": part.name, "yosys": importlib.metadata.version("pyosys"), "clock_mhz": config.clock_mhz,
        **total, "share": {kind: total[kind] / getattr(part, kind) for kind in KINDS},
        "multiply_adds": config.multiply_adds, "lut_per_mac": blocks["engine"]["lut"] / config.multiply_adds,
        "logic_levels": max(timings[worst].levels, timings[_TOP].with_pins),
        "longest_path": {"module": worst, "cells": list(timings[worst].path)},
        "largest_register_array": largest,
        "blocks": dict(sorted(blocks.items(), key=lambda item: -item[1]["lut"])),
        "modules": [
            {"module": module, "instances": times_in_all[module], **counts[module], "logic_levels": timings[module].levels}
            for module in sorted(counts, key=lambda module: (-times_in_all[module] * counts[module]["lut"], module))]}
    goals = _GOALS | ({"lut_per_mac": _LUT_PER_BINARY_MAC} if isinstance(config, BinaryConfig) else {})
    found = {goal: figures["share"].get(goal, figures[goal]) for goal in goals}
    return figures | {"goals": {goal: {"at_most": goals[goal], "found": found[goal], "met": found[goal] <= goals[goal]}
                                for goal in goals}}


def _modules(cuts, progress):
    """({module: counts}, {module: Timing}, memories that became registers), leaves first."""
    counts, timings, arrays = {}, {}, []
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(
            total=len(cuts), desc="synthesis", unit="module", leave=False, disable=None if progress else True) as bar:
        netlists = pool.map(synthesis.synthesise, cuts.values())
        try:
            for name, mapped in zip(cuts, netlists):
                counts[name] = netlist.count(mapped["cells"])
                timings[name] = netlist.timing(mapped, timings)
                arrays += [{"module": name, "words": words, "bits": bits} for _, words, bits in mapped["registers"]]
                bar.set_postfix_str(name.removeprefix(f"{_TOP}."), refresh=False)
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return counts, timings, arrays


def _instances(cuts):
    """{(block, module): instances}; a block is what stands in the top or the core, numbers at its end left out."""
    found = Counter()

    def walk(module, path, times):
        steps = path.split(".")
        steps = steps[1:] if steps[0] == "core" else steps
        block = re.sub(r"_?\d+$", "", steps[0]) if steps and steps[0] else ("core" if path else "top")
        found[block, module] += times
        for instance, child in cuts[module].children:
            walk(child, f"{path}.{instance}" if path else instance, times)

    walk(_TOP, "", 1)
    return found


def engine_modules(figures):
    """Rows of ``modules`` that belong to the matmul engine."""
    return [row for row in figures["modules"] if row["module"].startswith(f"{_TOP}.core.engine")]


_HEADER = ("LUT", "FF", "CARRY8", "BRAM36", "URAM", "DSP", "levels")


def _row(counts):
    return [*(f"{counts[kind]:,g}" if kind == "bram36" else f"{counts[kind]:,.0f}" for kind in KINDS), str(counts["logic_levels"])]


def _tables(figures):
    """(blocks, modules): two lists of rows of text, headers first."""
    part = XCK26
    blocks = [("block", *_HEADER)]
    blocks += [(name, *_row(block)) for name, block in figures["blocks"].items()]
    blocks.append(("all", *_row(figures)))
    blocks.append((f"of {figures['part']}", *(f"{getattr(part, kind):,}" for kind in KINDS), ""))
    blocks.append(("share", *(f"{100 * figures['share'][kind]:.1f} %" for kind in KINDS), ""))
    modules = [("module, one instance", "instances", *_HEADER)]
    modules += [(row["module"].removeprefix(f"{_TOP}."), str(row["instances"]), *_row(row)) for row in figures["modules"]
                if row["instances"] * row["lut"] >= 0.005 * figures["lut"] or row["bram36"] or row["uram"]]
    return blocks, modules


def _sentences(figures):
    cells = [f"{cell} x {n}" if n > 1 else cell
             for cell, group in groupby(figures["longest_path"]["cells"]) if (n := len(list(group)))]
    array = figures["largest_register_array"]
    goals = []
    for goal, verdict in figures["goals"].items():
        if goal in figures["share"]:
            text = f"{_HEADER[KINDS.index(goal)]} {100 * verdict['found']:.1f} % of at most {100 * verdict['at_most']:g} %"
        else:
            text = f"{goal.replace('_', ' ')} {verdict['found']:.3g} of at most {verdict['at_most']:g}"
        goals.append(text + ("" if verdict["met"] else " (**missed**)"))
    long = [f"{row['module'].removeprefix(f'{_TOP}.')} ({row['logic_levels']})" for row in sorted(
        figures["modules"], key=lambda row: -row["logic_levels"]) if row["logic_levels"] > _GOALS["logic_levels"]]
    return [
        f"Goals: {'; '.join(goals)}.",
        f"Modules with ways of more than {_GOALS['logic_levels']} levels: {', '.join(long) or 'none'}.",
        f"{figures['lut_per_mac']:.2f} LUT a multiply-add: {figures['blocks']['engine']['lut']:,} LUT of the engine, "
        f"{figures['multiply_adds']:,} multiply-adds a cycle.",
        f"Yosys mapped {figures['lut_cells']:,} LUT cells; {figures['lut_cells'] - figures['lut']:,} of them are second outputs of "
        f"another one's LUT.",
        f"{figures['logic_levels']} levels between registers at most, in {figures['longest_path']['module']}: {', '.join(cells)}.",
        "No memory became registers." if array is None else
        f"The largest memory that became registers has {array['words']} words of {array['bits']} bits, in {array['module']}."]


def table(figures):
    """The report as text for a terminal."""
    blocks, modules = _tables(figures)
    lines = [f"configuration {figures['config']} ({figures['digest']}), Yosys {figures['yosys']}, family xcup; no vendor tool"]
    for rows in (blocks, modules):
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines.append("")
        lines += ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join([*lines, "", *_sentences(figures)])


def _markdown(figures):
    parts_ = [f"Configuration `{figures['config']}`, digest {figures['digest']}, Yosys {figures['yosys']}."]
    for rows in _tables(figures):
        lines = [rows[0], ("---", *("---:" for _ in rows[0][1:])), *rows[1:]]
        parts_.append("\n".join("| " + " | ".join(row) + " |" for row in lines))
    return "\n\n".join([*parts_, *_sentences(figures)])


def _attention_markdown(figures):
    """The parts of the attention unit, and its sum."""
    rows = [("module, one instance", "instances", *_HEADER), ("---", *("---:" for _ in range(1 + len(_HEADER))))]
    rows += [(row["module"].removeprefix(f"{_TOP}.core."), str(row["instances"]), *_row(row)) for row in figures["modules"]
             if row["module"].startswith(f"{_TOP}.core.attention")]
    rows.append(("all", "", *_row(figures["blocks"]["attention"])))
    return f"Configuration `{figures['config']}`, digest {figures['digest']}:\n\n" + \
        "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _write_docs(figures):
    """Put the tables of a configuration between its marks in docs/resources.md, and those of attention where its page has them."""
    begin = f"<!-- Written by `celosia resources --config {figures['config']} --write-docs`. -->"
    end = f"<!-- End of {figures['config']}. -->"
    if not _PAGE.exists():
        raise FileNotFoundError(f"The tables are written into a source tree, and there is no {_PAGE}")
    _PAGE.write_text(replaced(_PAGE.read_text(), _PAGE, begin, end, _markdown(figures)))
    page = _PAGE.with_name("attention.md")
    if page.exists() and begin in page.read_text():
        page.write_text(replaced(page.read_text(), page, begin, end, _attention_markdown(figures)))


@click.command()
@click.option("--config", "config_name", default="tiny", show_default=True, help="Configuration of the accelerator.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option("--write-docs", is_flag=True, help="Write the tables into docs/resources.md.")
def resources(config_name, as_json, write_docs):
    """Count LUTs, registers, memories and logic levels by the open synthesis flow."""
    try:
        figures = report(config_of(config_name), progress=not as_json)
        if write_docs:
            _write_docs(figures)
    except (ValueError, RuntimeError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(figures) if as_json else table(figures))
