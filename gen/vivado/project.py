"""Writes a project for Vivado: Verilog, build script, constraints, device tree overlay, Makefile, manifest.

    configuration ── accelerator ──► Verilog ──┐
    board ─────────────────────────────────────┴── templates ──► {file: text}
"""

import hashlib
import json
import re
import shutil
from pathlib import Path

import jinja2

from celosia.gen import image
from celosia.gen.manifest import build_manifest
from celosia.gen.verilog import accelerator, memory_tiles

from .boards import BOARDS

__all__ = ["REGISTER_BASE", "STRATEGIES", "board_of", "collect", "files", "refusals", "write"]

REGISTER_BASE, INTERRUPT_BASE = 0xA000_0000, 0xA001_0000
STRATEGIES = ("Performance_ExplorePostRoutePhysOpt", "Performance_ExtraTimingOpt", "Performance_NetDelay_low",
              "Performance_ExploreWithRemap")
_FIRST_GP = 2               # PSU__SAXIGP2 is HP0
_AFI_CODES = {128: 0, 64: 1, 32: 2}
_AFI_HPM0_128 = 0xA00       # HPM0 and HPM1 of 128 bits: the preset of the board files
_templates = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
                                undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                                keep_trailing_newline=True, autoescape=False)


def refusals(config, board, clock_mhz=None):
    """Why ``config`` cannot be built for ``board``, as sentences; none where nothing speaks against it."""
    if board.family != "zynqmp":
        return [f"{board.title} has a Zynq-7000: its memory ports are AXI3 with {board.port_bits} bits and 32-bit addresses, and "
                f"those of the accelerator AXI4 with {config.addr_bits}-bit addresses; use a Zynq UltraScale+ board"]
    found = []
    if config.n_ports > board.ports or 8 * config.port_bytes > board.port_bits:
        found.append(f"Configuration {config.name} needs {config.n_ports} memory ports of {8 * config.port_bytes} bits, "
                     f"and {board.title} has {board.ports} of {board.port_bits}")
    tiles = memory_tiles(accelerator(config))
    for kind, needed, has in (("UltraRAM", tiles["ultra"], board.uram), ("block RAM", tiles["block"], board.bram36)):
        if needed > has:
            found.append(f"Configuration {config.name} needs at least {needed} {kind} tiles, and {board.title} has {has}; "
                         "choose a smaller configuration")
    clock_mhz = config.clock_mhz if clock_mhz is None else clock_mhz
    divider = board.io_pll_mhz / clock_mhz      # 0: not known
    if abs(divider - round(divider)) > 1e-3 * divider:
        fractions = ", ".join(f"{board.io_pll_mhz / n:g}" for n in range(3, 11))
        found.append(f"The clock must be a whole fraction of the board's IO PLL ({board.io_pll_mhz:g} MHz): {fractions} MHz, "
                     f"not {clock_mhz:g}")
    return found


def files(config, board, *, clock_mhz=None, interconnect="smartconnect", strategies=STRATEGIES):
    """{file name: text} of a project. ValueError, one sentence, where the board cannot hold the configuration."""
    if interconnect not in ("smartconnect", "direct"):
        raise ValueError(f"Interconnect must be smartconnect or direct, not {interconnect!r}")
    if found := refusals(config, board, clock_mhz):
        raise ValueError(found[0])
    clock_mhz = config.clock_mhz if clock_mhz is None else clock_mhz
    name = f"celosia_{config.name}"
    ports = [{"number": p, "master": f"m_axi_{p}", "slave": f"S_AXI_HP{p}_FPD", "clock": f"saxihp{p}_fpd_aclk", "gp": _FIRST_GP + p,
              "bits": 8 * config.port_bytes} for p in range(config.n_ports)]
    afi = [0] * 14 + [_AFI_HPM0_128, 0]
    for port in ports:
        afi[2 * port["gp"]] = afi[2 * port["gp"] + 1] = _AFI_CODES[port["bits"]]
    facts = {"board": board, "config": config, "name": name, "verilog": f"{name}.v", "clock_mhz": f"{clock_mhz:g}",
             "clock_hz": round(clock_mhz * 1e6), "ports": ports, "afi": afi, "interconnect": interconnect,
             "strategies": list(strategies), "register_base": REGISTER_BASE, "interrupt_base": INTERRUPT_BASE}
    text = accelerator(config)
    out = {f"{name}.v": text, "build.tcl": _render("build.tcl", facts), "Makefile": _render("Makefile", facts),
           f"{name}.dtso": _render("overlay.dtso", facts),
           "shell.json": json.dumps({"shell_type": "XRT_FLAT", "num_slots": "1"}, indent=2) + "\n"}
    if board.fan_pin:
        out["fan.xdc"] = _render("fan.xdc", facts)
    manifest = build_manifest(config) | {
        "board": board.name, "part": board.part, "clock_mhz": clock_mhz, "register_base": REGISTER_BASE,
        "vlnv": "xilinx.com:module_ref:celosia:1.0", "interconnect": interconnect,
        "files": {key: hashlib.sha256(value.encode()).hexdigest() for key, value in sorted(out.items())}}
    out["manifest.json"] = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    return out


def _render(name, facts):
    return _templates.get_template(f"{name}.j2").render(facts)


def write(folder, found):
    """Write the files of a project."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in found.items():
        image.write(folder / name, text.encode())


def collect(folder, output):
    """Put a built project's bitstream, hardware description, reports and manifest with digests into a folder of ``output``, whose
    name says board, configuration and digest; returns it. ValueError when something is missing.

    What loads the fabric without PYNQ lies in a folder below: PYNQ would insert a device tree overlay that lies beside a bitstream.
    """
    folder = Path(folder)
    manifest_file = folder / "manifest.json"
    if not manifest_file.exists():
        raise ValueError(f"{folder} must be a project of `celosia vivado`, and has no manifest.json")
    manifest = json.loads(manifest_file.read_text())
    name = f"celosia_{manifest['config_name']}"
    built = [f"{name}.bit", f"{name}.hwh", f"{name}.bit.bin"]
    missing = [file for file in (*built, "result.json") if not (folder / file).exists()]
    if missing:
        raise ValueError(f"{folder} must have been built, and has no {', '.join(missing)}: run make there, where Vivado is")
    result = json.loads((folder / "result.json").read_text())
    digests = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in built}
    place = Path(output) / re.sub(r"\W", "_", f"{manifest['board']}_{manifest['config_name']}_{manifest['digest']}")
    place.mkdir(parents=True, exist_ok=True)
    apart = place / "without_pynq"
    apart.mkdir(exist_ok=True)
    for target, kept in ((place, (f"{name}.bit", f"{name}.hwh", "timing.rpt", "utilization.rpt", "power.rpt")),
                         (apart, (f"{name}.bit.bin", f"{name}.dtbo", "shell.json"))):
        for file in kept:
            if (folder / file).exists():
                shutil.copy(folder / file, target / file)
    whole = manifest | {"build": result, "overlay_files": digests}
    image.write(place / f"{name}.json", (json.dumps(whole, indent=2, sort_keys=True) + "\n").encode())
    return place


def board_of(name):
    """A :class:`Board` by name; ValueError."""
    if name not in BOARDS:
        raise ValueError(f"Board must be one of {', '.join(BOARDS)}, not {name!r}")
    return BOARDS[name]
