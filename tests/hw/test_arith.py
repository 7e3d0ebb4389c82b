# amaranth: UnusedElaboratable=no
"""Arithmetic units: bit for bit against the golden functions, and what they refuse."""

import re

import pytest

from celosia.hw.arith.compare import FMax
from celosia.hw.arith.convert import FromInt, ToInt
from celosia.hw.arith.exp2_fix import Exp2Fix
from celosia.hw.arith.fadd import FAdd
from celosia.hw.arith.fmul import FMul
from celosia.hw.arith.func import Func
from celosia.sim_tb.run import simulate


@pytest.mark.parametrize("unit, width", [
    (FMul, None), (FAdd, None), (FMax, None), (FromInt, 32), (FromInt, 48), (ToInt, 8), (ToInt, 24), (ToInt, 27),
    (Func, None), (Exp2Fix, 32)])
def test_matches_golden(unit, width):
    component = unit() if width is None else unit(width=width)
    name = unit.__name__.lower() + ("" if width is None else f"_{width}")
    simulate(component, "celosia.sim_tb.tb_arith", name=name, parameters={
        "unit": unit.__name__, "latency": unit.LATENCY, "width": width or 0, "n": 20_000})


@pytest.mark.parametrize("unit, low, high", [(FromInt, 2, 48), (ToInt, 2, 27), (Exp2Fix, 18, 48)])
def test_rejects_widths_it_was_not_made_for(unit, low, high):
    for width in (low - 1, high + 1, 8.0):
        sentence = f"The width of {unit.__name__} must be an integer in {low}..{high}, not {width!r}"
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            unit(width=width)
