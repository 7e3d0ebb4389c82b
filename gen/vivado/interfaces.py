"""Interface attributes of the accelerator's pins, as a block design reads them from Verilog; and their way back.

    pin of the accelerator ── attributes ──► (* X_INTERFACE_INFO = "VLNV INTERFACE FIELD" *) before the pin's declaration
                           ◄── interfaces ──

The names alone would do for Vivado's inference, but its defaults would be wrong: two reads in flight, narrow bursts.
Syntax: UG994, "Using X_INTERFACE attributes". The clock's frequency is left to the design.
"""

import re
from dataclasses import dataclass, field

__all__ = ["Interface", "attributes", "interfaces"]

_AXI = "xilinx.com:interface:aximm:1.0"
_WRITES_OUTSTANDING = 8


def attributes(config, pins):
    """{pin: {attribute: text}} for ``pins`` {name: bits} of the accelerator of ``config``."""
    ports = [f"m_axi_{p}" for p in range(config.n_ports)]
    parameters = {
        "clk": f"ASSOCIATED_BUSIF {':'.join(['s_axil', *ports])}, ASSOCIATED_RESET rst_n",
        "rst_n": "POLARITY ACTIVE_LOW", "irq": "SENSITIVITY LEVEL_HIGH",
        "s_axil": f"PROTOCOL AXI4LITE, DATA_WIDTH 32, ADDR_WIDTH {pins['s_axil_araddr']}, HAS_PROT 1"}
    for p, port in enumerate(ports):
        parameters[port] = (
            f"PROTOCOL AXI4, DATA_WIDTH {8 * config.port_bytes}, ADDR_WIDTH {config.addr_bits}, ID_WIDTH 1, "
            f"READ_WRITE_MODE {'READ_ONLY' if p else 'READ_WRITE'}, HAS_BURST 1, SUPPORTS_NARROW_BURST 0, HAS_LOCK 0, HAS_CACHE 1, "
            f"HAS_PROT 1, HAS_QOS 0, HAS_REGION 0, NUM_READ_OUTSTANDING {config.read_outstanding}, "
            f"NUM_WRITE_OUTSTANDING {0 if p else _WRITES_OUTSTANDING}, MAX_BURST_LENGTH {config.burst_beats}")
    special = {"clk": "xilinx.com:signal:clock:1.0 clk CLK", "rst_n": "xilinx.com:signal:reset:1.0 rst_n RST",
               "irq": "xilinx.com:signal:interrupt:1.0 irq INTERRUPT"}
    found, told = {}, set()
    for pin in pins:
        interface = pin if pin in special else pin.rpartition("_")[0]
        found[pin] = {"X_INTERFACE_INFO": special.get(pin) or f"{_AXI} {interface} {pin.rpartition('_')[2].upper()}"}
        if interface not in told:
            told.add(interface)
            found[pin]["X_INTERFACE_PARAMETER"] = f"XIL_INTERFACENAME {interface}, {parameters[interface]}"
    return found


@dataclass
class Interface:
    """An interface that attributes in Verilog declare: ``fields`` {logical name: (pin, direction, bits)}."""
    name: str
    vlnv: str
    parameters: dict = field(default_factory=dict)
    fields: dict = field(default_factory=dict)


_DECLARATION = re.compile(r"^  (input|output) (?:reg |wire )?(?:\[(\d+):0\] )?(\w+);")
_ATTRIBUTE = re.compile(r'^  \(\* (\w+) = "([^"]*)" \*\)$')


def interfaces(text, module="celosia"):
    """{name: :class:`Interface`} of ``module`` in Verilog text, from its attributes alone.

    Raises ValueError, one sentence, when a pin has no X_INTERFACE_INFO or an interface no X_INTERFACE_PARAMETER.
    """
    body = text[text.index(f"module {module}("):]
    found, pending = {}, {}
    for line in body[:body.index("\nendmodule")].splitlines():
        if match := _ATTRIBUTE.match(line):
            pending[match[1]] = match[2]
            continue
        if match := _DECLARATION.match(line):
            direction, top, pin = match[1], match[2], match[3]
            if "X_INTERFACE_INFO" not in pending:
                raise ValueError(f"Pin {pin} must carry X_INTERFACE_INFO, and does not")
            vlnv, name, logical = pending["X_INTERFACE_INFO"].split()
            interface = found.setdefault(name, Interface(name, vlnv))
            interface.fields[logical] = pin, direction, int(top or 0) + 1
            if "X_INTERFACE_PARAMETER" in pending:
                first, *rest = pending["X_INTERFACE_PARAMETER"].split(", ")
                if first != f"XIL_INTERFACENAME {name}":
                    raise ValueError(f"X_INTERFACE_PARAMETER of pin {pin} must begin with XIL_INTERFACENAME {name}, not {first!r}")
                interface.parameters = dict(item.split(" ", 1) for item in rest)
        pending = {}
    for name, interface in found.items():
        if not interface.parameters:
            raise ValueError(f"Interface {name} must carry X_INTERFACE_PARAMETER on one of its pins, and does not")
    return found
