"""Boards: one row of facts each. Nothing here was tried on a board; ``source`` says where the facts come from."""

from dataclasses import dataclass

__all__ = ["BOARDS", "Board"]


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board.

    Parameters
    ----------
    name, title : str
        As on the command line, and in full.
    part : str
        Vivado's name of the device.
    board_part : str
        Pattern of Vivado's board files; the newest that is installed is taken.
    board_connections : str
        Carrier that the board files need to know of; empty: none.
    family : str
        ``zynqmp`` (Zynq UltraScale+) or ``zynq7000``.
    ports, port_bits : int
        Memory ports of the fabric that go straight to the DDR controller, and their width.
    lut, bram36, uram, dsp : int
        What the device has.
    ddr_bytes : int
        Memory of the board.
    io_pll_mhz : float
        Clock of the IO PLL as the boot firmware sets it: ``pl_clk0`` is a fraction of it. 0: not known; then only Vivado's own
        figure is checked.
    io_pll_feedback : int
        Multiplier of the IO PLL that goes with it; 0: not known.
    fan_pin : str
        Pin of the fan's control; empty: none that the fabric must drive.
    source : str
    """

    name: str
    title: str
    part: str
    board_part: str
    board_connections: str = ""
    family: str = "zynqmp"
    ports: int = 4
    port_bits: int = 128
    lut: int
    bram36: int
    uram: int
    dsp: int
    ddr_bytes: int
    io_pll_mhz: float = 0.0
    io_pll_feedback: int = 0
    fan_pin: str = ""
    source: str


_K26 = {"part": "xck26-sfvc784-2LV-c", "lut": 117_120, "bram36": 144, "uram": 64, "dsp": 1_248, "ddr_bytes": 4 << 30,
        "io_pll_mhz": 1000.0, "io_pll_feedback": 60, "fan_pin": "A12"}

BOARDS = {board.name: board for board in (
    Board(name="kv260", title="AMD Kria KV260", board_part="*:kv260_som:*",
          board_connections="som240_1_connector xilinx.com:kv260_carrier:som240_1_connector:1.3",
          source="DS987, UG1090, XilinxBoardStore", **_K26),
    Board(name="kr260", title="AMD Kria KR260", board_part="*:kr260_som:*",
          source="DS987, XilinxBoardStore", **_K26),
    Board(name="ultra96v2", title="Avnet Ultra96-V2", part="xczu3eg-sbva484-1-i", board_part="*:ultra96v2:*",
          lut=70_560, bram36=216, uram=0, dsp=360, ddr_bytes=2 << 30, source="FINN's board table; Avnet's board files"),
    Board(name="zcu104", title="AMD ZCU104", part="xczu7ev-ffvc1156-2-e", board_part="*:zcu104:*",
          lut=230_400, bram36=312, uram=96, dsp=1_728, ddr_bytes=2 << 30, source="UG1267; FINN's board table"),
    Board(name="pynq-z2", title="TUL PYNQ-Z2", part="xc7z020clg400-1", board_part="*:pynq-z2:*", family="zynq7000", port_bits=64,
          lut=53_200, bram36=140, uram=0, dsp=220, ddr_bytes=512 << 20, source="DS190; TUL's board files"),
)}
