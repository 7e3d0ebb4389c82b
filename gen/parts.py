"""What a part holds, and what a cell of the open synthesis flow takes of it."""

from dataclasses import dataclass

__all__ = ["COST", "DSP_SUMS", "KINDS", "XCK26", "Part"]

KINDS = ("lut", "ff", "carry8", "bram36", "uram", "dsp")


@dataclass(frozen=True)
class Part:
    """A part and how much of every kind of resource it has (AMD DS890, product table of Zynq UltraScale+)."""

    name: str
    lut: int
    ff: int
    carry8: int
    bram36: int
    uram: int
    dsp: int


# The part of the Kria K26 module: the programmable logic of a ZU5EV, eight LUTs and one CARRY8 a slice.
XCK26 = Part(name="XCK26", lut=117_120, ff=234_240, carry8=14_640, bram36=144, uram=64, dsp=1_248)

# Cell -> (kind, how many). LUTs that are memories or shift registers are LUTs.
COST: dict[str, tuple[str, float]] = {
    **{f"LUT{inputs}": ("lut", 1) for inputs in range(1, 7)},
    "SRL16E": ("lut", 1), "SRLC32E": ("lut", 1), "CFGLUT5": ("lut", 1),
    "RAM32X1S": ("lut", 1), "RAM64X1S": ("lut", 1), "RAM128X1S": ("lut", 2), "RAM256X1S": ("lut", 4), "RAM512X1S": ("lut", 8),
    "RAM32X1D": ("lut", 2), "RAM64X1D": ("lut", 2), "RAM128X1D": ("lut", 4), "RAM256X1D": ("lut", 8),
    "RAM32M": ("lut", 4), "RAM64M": ("lut", 4), "RAM32M16": ("lut", 8), "RAM64M8": ("lut", 8),
    "RAM32X16DR8": ("lut", 8), "RAM64X8SW": ("lut", 8),
    "FDRE": ("ff", 1), "FDSE": ("ff", 1), "FDCE": ("ff", 1), "FDPE": ("ff", 1),
    "RAMB18E2": ("bram36", 0.5), "RAMB36E2": ("bram36", 1), "URAM288": ("uram", 1), "DSP48E2": ("dsp", 1),
}

# Sums that are marked for DSPs: cell -> how many share a DSP48E2 (its modes FOUR12, TWO24 and ONE48).
DSP_SUMS = {"DSP_SUM12": 4, "DSP_SUM24": 2, "DSP_SUM48": 1}
