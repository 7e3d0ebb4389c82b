"""Sigmoid of up to SIGMOID_LANES lanes, one after the other through one function unit.

::

    lane 0 at S_M2     --+
    lane 1 at S_M2 + 1 --+--> register --> Func --> lane 3 --> lane 2 --> lane 1 --> lane 0      all at S_SIGMOID
    ...                --+

Rate: a word every SIGMOID_LANES cycles.
"""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith.func import Func
from ..tables import FuncOp
from .words import SIGMOID_LANES, delay

__all__ = ["SharedSigmoid"]


class SharedSigmoid(wiring.Component):
    """Parameters: ``lanes``, 1 to SIGMOID_LANES.

    Members
    -------
    start : In(1)
        A word is one stage before S_M2.
    i : In(32 a lane)
        m2 of lane k at S_M2 + k.
    o : Out(32 a lane)
        At S_SIGMOID.
    """

    def __init__(self, *, lanes):
        if not isinstance(lanes, int) or not 1 <= lanes <= SIGMOID_LANES:
            raise ValueError(f"lanes must be an integer in 1..{SIGMOID_LANES}, not {lanes!r}")
        self._lanes = lanes
        words = data.ArrayLayout(32, lanes)
        super().__init__({"start": In(1), "i": In(words), "o": Out(words)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.func = func = Func(ops=(FuncOp.SIGMOID,))
        turn = Signal(range(SIGMOID_LANES))
        operand = Signal(32, reset_less=True)
        m.d.sync += [turn.eq(turn + 1), operand.eq(Array(self.i[lane] for lane in range(self._lanes))[turn])]
        with m.If(self.start):
            m.d.sync += turn.eq(0)
        m.d.comb += [func.en.eq(1), func.op.eq(FuncOp.SIGMOID), func.i.eq(operand)]
        for lane in range(self._lanes):
            m.d.comb += self.o[lane].eq(delay(m, func.o.as_value(), SIGMOID_LANES - 1 - lane))
        return m
