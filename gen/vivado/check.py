"""Checks a project for Vivado without Vivado: its script runs against ``stub.tcl``, and what it asked for is judged.

    build.tcl ── tclsh stub.tcl ──► record ──┐
    Verilog ── interfaces ───────────────────┴──► problems, a sentence each; none: the design is wired as it should be
"""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from .interfaces import interfaces

__all__ = ["Design", "check", "judge", "record"]

_STUB = Path(__file__).with_name("stub.tcl")
_LIMIT_S = 60
_REGISTER_WINDOW = range(0xA000_0000, 0xB000_0000)      # of HPM0
_KIB = 1 << 10
# Pins that every cell of a kind must have on the fabric's clock and reset.
_CLOCKS = {"proc_sys_reset": ["slowest_sync_clk"], "smartconnect": ["aclk"], "axi_intc": ["s_axi_aclk"],
           "zynq_ultra_ps_e": ["maxihpm0_fpd_aclk"]}
_RESETS = {"smartconnect": ["aresetn"], "axi_intc": ["s_axi_aresetn"]}


@dataclass
class Design:
    """What a script asked for: cells {name: IP or module}, properties {(object, key): value}, interface nets [(from, to)], nets
    [[pin]], addresses [(space, segment, offset, bytes)], excluded [(space, segment)], exit status."""
    cells: dict = field(default_factory=dict)
    properties: dict = field(default_factory=dict)
    links: list = field(default_factory=list)
    nets: list = field(default_factory=list)
    addresses: list = field(default_factory=list)
    excluded: list = field(default_factory=list)
    validated: bool = False
    status: int | None = None
    message: str = ""


def check(folder, board, setup_slack_ns=0.1):
    """Problems of the project in ``folder`` for ``board``, as sentences; RuntimeError where there is no ``tclsh``."""
    verilog, = Path(folder).glob("*.v")
    try:
        found = interfaces(verilog.read_text())
    except ValueError as error:
        return [str(error)]
    return judge(record(folder, board, setup_slack_ns), found, board)


def record(folder, board, setup_slack_ns=0.1):
    """The :class:`Design` that ``build.tcl`` asks for, run in a copy of ``folder``."""
    if shutil.which("tclsh") is None:
        raise RuntimeError("tclsh must be installed to check a project without Vivado (Debian: apt install tcl)")
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "project"
        shutil.copytree(folder, copy)
        environment = os.environ | {"STUB_IO_PLL_MHZ": str(board.io_pll_mhz), "STUB_SETUP_NS": str(setup_slack_ns),
                                    "STUB_IO_PLL_FEEDBACK": str(board.io_pll_feedback)}
        done = subprocess.run(["tclsh", str(_STUB), "build.tcl", "../record"], cwd=copy, env=environment, text=True,
                              capture_output=True, timeout=_LIMIT_S)
        design = _read((Path(place) / "record").read_text())
    design.status, design.message = done.returncode, done.stderr.strip()
    return design


def _read(text):
    design = Design()
    for line in text.splitlines():
        kind, *rest = line.split("\t")
        if kind == "cell":
            design.cells[rest[0]] = rest[2].split(":")[2] if rest[1] == "ip" else rest[2]
        elif kind == "property":
            design.properties[rest[0], rest[1]] = rest[2]
        elif kind == "interface":
            design.links.append(tuple(rest))
        elif kind == "net":
            design.nets.append(rest)
        elif kind == "address":
            design.addresses.append((rest[0], rest[1], int(rest[2], 0), int(rest[3].removesuffix("K")) * _KIB))
        elif kind == "exclude":
            design.excluded.append(tuple(rest))
        elif kind == "validate":
            design.validated = True
    return design


def judge(design, found, board):
    """Problems of a :class:`Design` whose accelerator has the interfaces ``found``, as sentences."""
    if design.status != 0:
        return [f"The script must end with status 0, not {design.status}: {design.message}"]
    modules = [name for name, kind in design.cells.items() if kind == "celosia"]
    if len(modules) != 1:
        return [f"The design must have one accelerator, not {len(modules)}"]
    problems = [] if design.validated else ["The design must be validated, and is not"]
    problems += _processor(design)
    problems += _wiring(design, found, modules[0])
    problems += _memory(design, found, modules[0])
    problems += _addresses(design, found, modules[0])
    if board.fan_pin and not any("fan/Dout" in net and "/fan_en_b" in net for net in design.nets):
        problems.append("The fan's pin must be driven, and is not")
    return problems


def _ps(design, key):
    return design.properties.get(("ps", f"CONFIG.{key}"), "")


def _processor(design):
    wanted = {"PSU__CRL_APB__PL0_REF_CTRL__SRCSEL": "IOPLL", "PSU__USE__M_AXI_GP0": "1", "PSU__USE__M_AXI_GP1": "0",
              "PSU__FPGA_PL0_ENABLE": "1", "PSU__USE__IRQ0": "1"}
    return [f"Property {key} of the processing system must be {value}, not {_ps(design, key) or 'unset'}"
            for key, value in wanted.items() if _ps(design, key) != value]


def _wiring(design, found, module):
    """Clocks, resets, interrupt, and that no interface of the accelerator is left over."""
    problems, net_of = [], {}
    for number, net in enumerate(design.nets):
        for pin in net:
            if pin in net_of:
                problems.append(f"Pin {pin} must be on one net, and is on two")
            net_of[pin] = number

    def on(pin, driver, what):
        if driver not in net_of or net_of.get(pin) != net_of[driver]:
            problems.append(f"Pin {pin} must be on the {what} {driver}, and is not")

    for name, kind in design.cells.items():
        for pin in _CLOCKS.get(kind, ()):
            on(f"{name}/{pin}", "ps/pl_clk0", "clock")
        for pin in _RESETS.get(kind, ()):
            on(f"{name}/{pin}", "reset/peripheral_aresetn", "reset")
    on("reset/ext_reset_in", "ps/pl_resetn0", "reset")
    on("interrupts/irq", "ps/pl_ps_irq0", "interrupt")
    linked = {end for link in design.links for end in link}
    wires = {"clock": ("ps/pl_clk0", "clock"), "reset": ("reset/peripheral_aresetn", "reset"),
             "interrupt": ("interrupts/intr", "interrupt")}
    for name, interface in found.items():
        kind = interface.vlnv.split(":")[2]
        if kind in wires:
            for pin, _, _ in interface.fields.values():
                on(f"{module}/{pin}", *wires[kind])
        elif f"{module}/{name}" not in linked:
            problems.append(f"Interface {name} of the accelerator must be connected, and is not")
    expected = {"s_axil", *(name for name in found if name.startswith("m_axi_"))}
    told = set(found["clk"].parameters.get("ASSOCIATED_BUSIF", "").split(":")) if "clk" in found else set()
    if told != expected:
        problems.append(f"The clock must be associated with {', '.join(sorted(expected))}, not {', '.join(sorted(told))}")
    return problems


def _memory(design, found, module):
    """Every memory port of the accelerator must reach a port of the processing system that is open, as wide, and its own."""
    problems, ends = [], {}
    for name, interface in found.items():
        if not name.startswith("m_axi_"):
            continue
        pin = interface.fields.get("ARADDR", ("", "", 0)), interface.fields.get("RDATA", ("", "", 0))
        for what, bits in (("ADDR_WIDTH", pin[0][2]), ("DATA_WIDTH", pin[1][2])):
            if interface.parameters.get(what) != str(bits):
                problems.append(f"{what} of {name} must be the {bits} bits of its pins, not {interface.parameters.get(what)}")
        end = _follow(design, f"{module}/{name}")
        if not end.startswith("ps/S_AXI_HP"):
            problems.append(f"Interface {name} must reach a memory port of the processing system, and ends at {end}")
            continue
        port = int(end.removeprefix("ps/S_AXI_HP").removesuffix("_FPD"))
        if end in ends:
            problems.append(f"Interfaces {ends[end]} and {name} must have a memory port each, and share {end}")
        ends[end] = name
        gp = port + 2
        width = _ps(design, f"PSU__SAXIGP{gp}__DATA_WIDTH")
        if width != interface.parameters.get("DATA_WIDTH"):
            problems.append(f"Memory port HP{port} must be {interface.parameters.get('DATA_WIDTH')} bits wide as {name} is, "
                            f"not {width or 'unset'}")
        if _ps(design, f"PSU__USE__S_AXI_GP{gp}") != "1":
            problems.append(f"Memory port HP{port} must be open, and is not")
        if not any("ps/pl_clk0" in net and f"ps/saxihp{port}_fpd_aclk" in net for net in design.nets):
            problems.append(f"Pin ps/saxihp{port}_fpd_aclk must be on the clock ps/pl_clk0, and is not")
        excluded = {segment for space, segment in design.excluded if space == f"{module}/{name}"}
        for segment in ("QSPI", "LPS_OCM"):
            if f"ps/SAXIGP{gp}/HP{port}_{segment}" not in excluded:
                problems.append(f"Interface {name} must reach DDR alone, and reaches HP{port}_{segment}")
        if any("DDR" in segment for segment in excluded):
            problems.append(f"Interface {name} must reach DDR, and it is excluded")
    return problems


def _follow(design, start):
    """Where an interface ends, through SmartConnects of one master."""
    links = dict(design.links)
    end = links.get(start, "nowhere")
    cell = end.partition("/")[0]
    if design.cells.get(cell) == "smartconnect":
        return links.get(f"{cell}/M00_AXI", "nowhere")
    return end


def _addresses(design, found, module):
    problems, spans = [], []
    for space, segment, offset, size in design.addresses:
        if space != "ps/Data":
            problems.append(f"Segment {segment} must be in the processors' address space, not in {space}")
        if offset not in _REGISTER_WINDOW or offset + size - 1 not in _REGISTER_WINDOW:
            problems.append(f"Segment {segment} must lie in the window of HPM0, 0xA0000000 to 0xAFFFFFFF, not at 0x{offset:08X}")
        if offset % size:
            problems.append(f"Segment {segment} must begin at a multiple of its size, not at 0x{offset:08X}")
        for other, first, last in spans:
            if offset < last and first < offset + size:
                problems.append(f"Segments {other} and {segment} must not overlap, and do")
        spans.append((segment, offset, offset + size))
    registers = [size for _, segment, _, size in design.addresses if segment.startswith(f"{module}/s_axil/")]
    needed = 1 << int(found["s_axil"].parameters.get("ADDR_WIDTH", 0)) if "s_axil" in found else 0
    if len(registers) != 1 or registers[0] < needed:
        problems.append(f"The registers must have one segment of at least {needed} bytes, not {registers or 'none'}")
    return problems
