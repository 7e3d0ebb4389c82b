"""A design cut into modules, and each of them mapped to the cells of the part by Yosys, once.

    component ── Amaranth ──► RTLIL, a module per instance ── cut ──► large modules, equal ones merged, small ones inside
    large module ── Yosys (family xcup) ──► cells of the part, kept under the digest of all that went in

RTLIL rather than Verilog, because Yosys takes a time quadratic in the size of a memory to read Verilog.  Yosys works in a
process of its own: it ends its process at an error, and gives its memory back only that way.
"""

import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .cache import cache_folder
from .parts import DSP_SUMS

__all__ = ["Cut", "cut", "synthesise"]

_RUNNER = """
import sys
from pyosys import libyosys as yosys
design = yosys.Design()
for command in sys.stdin.read().splitlines():
    yosys.run_pass(command, design)
"""
_SYNTH = "synth_xilinx -family xcup -flatten -noiopad -noclkbuf -top {top} -run "
# Hidden names: the mapper stops where a wire of its own meets one of the same name.  What is left as `$mem_v2` behind
# map_memory becomes registers.
_SCRIPT = (
    "read_rtlil {folder}/in.il", "read_verilog -lib {folder}/sums.v", "hierarchy -top {top}", "proc", "flatten",
    "select -set sums a:use_dsp=yes %ci2 t:$add t:$sub %u %i", "wreduce @sums", "techmap -D SIMD=0 -map {folder}/map.v @sums",
    "select -set sums a:use_dsp=simd %ci2 t:$add t:$sub %u %i", "wreduce @sums", "techmap -D SIMD=1 -map {folder}/map.v @sums",
    "rename -hide */w:* %x:+[Q] */x:* %d",
    _SYNTH + "begin:map_ffram", "tee -q -o {folder}/memories dump t:$mem_v2", _SYNTH + "map_ffram:check",
    "select {top}", "write_json -selected {folder}/out.json")
# Yosys packs no sums into the DSPs of this family. Those that are marked `use_dsp` become cells of their own: four, two or
# one of them a DSP.
_SUMS = "\n".join(f"module {name}(input [47:0] A, input [47:0] B, output [47:0] Y); endmodule" for name in DSP_SUMS)
_SUM_MAP = """
(* techmap_celltype = "$add $sub" *)
module sum_of_two(A, B, Y);
    parameter A_SIGNED = 0; parameter B_SIGNED = 0; parameter A_WIDTH = 0; parameter B_WIDTH = 0; parameter Y_WIDTH = 0;
    input [A_WIDTH-1:0] A; input [B_WIDTH-1:0] B; output [Y_WIDTH-1:0] Y;
    wire _TECHMAP_FAIL_ = Y_WIDTH > 48;
    generate
        if (`SIMD && Y_WIDTH <= 12) DSP_SUM12 _TECHMAP_REPLACE_ (.A(A), .B(B), .Y(Y));
        else if (`SIMD && Y_WIDTH <= 24) DSP_SUM24 _TECHMAP_REPLACE_ (.A(A), .B(B), .Y(Y));
        else DSP_SUM48 _TECHMAP_REPLACE_ (.A(A), .B(B), .Y(Y));
    endgenerate
endmodule
"""
_CELL = re.compile(r"  cell (\\\S+) (\S+)$")
_NUMBERED = re.compile(r"\\port\$\d+\$\d+(?=\s|$)")
_PORT = re.compile(r"  wire .*\b(?:input|output) \d+ ")


@dataclass(frozen=True)
class Cut:
    """One of the modules of a cut design.

    Attributes
    ----------
    name : str
        Of its first instance, ``celosia.core.engine.lane0``.
    text : str
        RTLIL of the module and of all small modules inside it.
    children : tuple of (instance path below this module, module) pairs
        The large modules that it instantiates, ports alone in ``text``.
    """

    name: str
    text: str
    children: tuple[tuple[str, str], ...]


def cut(text: str, *, holders=(), characters=25_000, block_characters=12_000) -> dict[str, Cut]:
    """Cut RTLIL text into modules, leaves first; the last one is the top.

    A module stands for itself when it has at least ``characters`` characters with all that is in it (initial contents of
    memories do not count), or ``block_characters`` right below one of the modules ``holders``, or a third of ``characters``
    and instances enough to make four times ``characters`` together.  The others become part of what holds them.
    """
    bodies = _shared(_modules(text))
    children = {name: [match.groups() for line in lines if (match := _CELL.match(line))] for name, lines in bodies.items()}
    sizes: dict[str, int] = {}
    for name, lines in bodies.items():
        sizes[name] = sum(len(line) for line in lines if not line.startswith("    connect \\DATA ")) + sum(
            sizes[child] for child, _ in children[name])
    top = next(reversed(bodies))
    instances = Counter({top: 1})
    for name in reversed(bodies):
        for child, _ in children[name]:
            instances[child] += instances[name]
    large = {name for name, size in sizes.items() if size >= characters or (
        3 * size >= characters and instances[name] * size >= 4 * characters)} | {top}
    for holder in holders:
        large |= {child for child, _ in children[f"\\{holder}"] if sizes[child] >= block_characters}

    def inside(module, path=""):
        """(small modules, large ones with their paths) below a module, itself among the small ones."""
        small, below = [module], []
        for child, instance in children[module]:
            here = f"{path}.{instance[1:]}" if path else instance[1:]
            if child in large:
                below.append((here, child[1:]))
            else:
                more = inside(child, here)
                small += more[0]
                below += more[1]
        return small, below

    cuts: dict[str, Cut] = {}
    for name in bodies:
        if name in large:
            small, below = inside(name)
            stubs = sorted({f"\\{child}" for _, child in below})
            parts = [_module(module, bodies[module]) for module in dict.fromkeys(small)]
            parts += ["attribute \\blackbox 1\n" + _module(stub, [line for line in bodies[stub] if _PORT.match(line)])
                      for stub in stubs]
            cuts[name[1:]] = Cut(name[1:], "\n".join(parts), tuple(below))
    return cuts


def _module(name, lines):
    return "\n".join([f"module {name}", *lines, "end", ""])


def _modules(text):
    """{module: lines}, without empty lines and the attributes of the module."""
    modules, lines = {}, None
    for line in text.split("\n"):
        if line.startswith("module "):
            lines = modules[line.split()[1]] = []
        elif line == "end":
            lines = None
        elif lines is not None and line:
            lines.append(line)
    return modules


def _shared(modules):
    """{module: lines} of distinct modules only, leaves first; two that differ in nothing but names of modules are one.

    Amaranth numbers ports without a name through the whole design; here each module numbers its own.
    """
    kept_name, port_names, by_text, result = {}, {}, {}, {}

    def visit(name):
        if name not in kept_name:
            own: dict[str, str] = {}

            def number(match):
                return own.setdefault(match[0], f"\\port${len(own)}")

            lines, child = [], None
            for line in modules[name]:
                match = _CELL.match(line)
                if match:
                    child, line = match[1], f"  cell {visit(match[1])} {match[2]}"
                elif line == "  end":
                    child = None
                elif child and line.startswith("    connect "):
                    connect, port, rest = line[:12], *line[12:].split(" ", 1)
                    line = f"{connect}{port_names[child].get(port, port)} {_NUMBERED.sub(number, rest)}"
                else:
                    line = _NUMBERED.sub(number, line)
                lines.append(line)
            port_names[name] = own
            kept_name[name] = kept = by_text.setdefault(hashlib.sha256("\n".join(lines).encode()).digest(), name)
            if kept == name:
                result[name] = lines
        return kept_name[name]

    instantiated = {match[1] for lines in modules.values() for line in lines if (match := _CELL.match(line))}
    for name in modules.keys() - instantiated:
        visit(name)
    return result


def synthesise(module: Cut) -> dict:
    """The netlist of a module: ``ports``, ``cells`` as [type, {port: bits}, name], ``names`` of bits, and ``registers``,
    the memories that became registers, as [name, words, bits].

    Raises
    ------
    RuntimeError
        With one sentence when Yosys is not installed or stops.
    """
    if importlib.util.find_spec("pyosys") is None:
        raise RuntimeError("Counting resources needs Yosys: install the package pyosys (extra `dev`)")
    version = importlib.metadata.version("pyosys")
    digest = hashlib.sha256("\n".join([version, *_SCRIPT, _SUM_MAP, module.text]).encode()).hexdigest()[:24]
    kept = cache_folder("resources") / f"netlist_{digest}.json.gz"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        netlist = _run_yosys(module)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_bytes(gzip.compress(json.dumps(netlist, separators=(",", ":")).encode(), 4, mtime=0))
        partial.replace(kept)
    return json.loads(gzip.decompress(kept.read_bytes()))


def _run_yosys(module):
    with tempfile.TemporaryDirectory(prefix="celosia_") as folder:
        for name, text in (("in.il", module.text), ("sums.v", _SUMS), ("map.v", _SUM_MAP)):
            (Path(folder) / name).write_text(text)
        script = "\n".join(_SCRIPT).format(folder=folder, top=f"\\{module.name}")
        done = subprocess.run([sys.executable, "-c", _RUNNER], input=script, text=True, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "ERROR" in line] or [f"exit status {done.returncode}"]
            raise RuntimeError(f"Yosys must map module {module.name}, and stopped: {said[-1]}")
        netlist = json.loads((Path(folder) / "out.json").read_text())["modules"][module.name]
        memories = (Path(folder) / "memories").read_text()
    cells = [[cell["type"], cell["connections"], name] for name, cell in sorted(netlist["cells"].items())]
    names = {bit: f"{name}[{i}]" if len(net["bits"]) > 1 else name
             for name, net in sorted(netlist["netnames"].items()) if not net.get("hide_name")
             for i, bit in enumerate(net["bits"]) if isinstance(bit, int)}
    registers = []
    for name, body in re.findall(r"cell \$mem_v2 (\S+)\n(.*?)\n\s*end", memories, re.S):
        words, bits, writers = (int(re.search(rf"parameter (?:signed )?\\{key} (\d+)", body)[1])
                                for key in ("SIZE", "WIDTH", "WR_PORTS"))
        if writers:     # one that is never written becomes LUTs
            registers.append([name.lstrip("\\"), words, bits])
    return {"ports": netlist["ports"], "cells": cells, "names": names, "registers": registers}
