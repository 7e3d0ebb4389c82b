"""One lane: three multiplications and an addition, one element a cycle, latency S_Y - S_ISSUE cycles, never stopping.

::

    acc > FromInt +                   pair's a --+          sigmoid, m2, RELU, aux, +-1 --+
    X ------------+ a ------------+              |                                        |
    P ------------+               |              |                                        |
    k1: P or the common one ----> M1 --> m1 ----> M2 --> m2 ---------------- delay -----> M3 --> m3 --+
                                   `--+   k2 -----^                                                   ADD --> y
    X -------------------- delay --> aux: X or m1 ------------------------- delay -------> k4: aux ---+

In RoPE m1 = a * cos goes past the second multiplier in place of X, which makes m2 = (the pair's a) * sin; the third
turns its sign in even lanes. A reduction takes the adder: ``add_a`` while it folds, ``add_b`` always.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from ..arith.convert import FromInt
from ..arith.fadd import FAdd
from ..arith.fmul import FMul
from ..formats import F32_NEG_ZERO, F32_ONE
from ..isa import Add, Mul1, Mul2, Mul3, Reduce, Source
from .words import S_M1, S_M2, S_M3, S_MUL1, S_MUL2, S_SIGMOID, S_WORDS, delay

__all__ = ["Lane", "LaneControl", "lane_control"]


class Third(enum.Enum, shape=unsigned(2)):
    """The factor of the third product."""
    ONE = 0
    MAIN = 1
    SIGMOID = 2
    AUX = 3


class LaneControl(data.Struct):
    """What the lanes need to know of a descriptor."""
    from_x: 1       # a is X
    from_p: 1       # a is P
    k1_p: 1         # the first factor is P rather than the common one
    k2_p: 1         # the second factor is P rather than the common one
    rope: 1
    k3: Third
    relu: 1         # a negative third factor is 0
    sums: 1         # the adder adds to the slots
    adds: 1         # the adder adds aux


def lane_control(f):
    """Dict of the fields of LaneControl, from those of a descriptor (isa.Vector)."""
    relu = f.mul3 == Mul3.RELU
    return {
        "from_x": f.source == Source.X, "from_p": f.source == Source.P,
        "k1_p": f.mul1 == Mul1.P, "k2_p": (f.mul2 == Mul2.P) | (f.mul2 == Mul2.ROPE), "rope": f.add == Add.ROPE,
        "k3": Mux((f.mul3 == Mul3.SELF) | relu, Third.MAIN, Mux(f.mul3 == Mul3.SIGMOID, Third.SIGMOID, Mux(
            f.mul3 == Mul3.X, Third.AUX, Third.ONE))),
        "relu": relu, "sums": f.reduce == Reduce.RMS, "adds": f.add != Add.NONE}


class Lane(wiring.Component):
    """A lane of the pipeline.

    Parameters
    ----------
    odd : bool
        Lane 2j + 1 of its pair (2j, 2j + 1) rather than 2j.
    turn : int
        Cycles after S_M2 at which the shared sigmoid takes this lane.

    Members
    -------
    control : In(LaneControl)
        Constant while a descriptor runs.
    acc : In(signed(32))
        Element of the integer stream, at S_ISSUE.
    x, p, p_pair : In(32)
        Elements of X and P, and the P element of the pair's other lane, at S_WORDS.
    k1, k2 : In(32)
        Factors that all lanes have in common, at S_WORDS; for products without P.
    a, a_pair : Out(32), In(32)
        This lane's source, and that of the pair's other lane, at S_MUL1.
    m2, sigmoid : Out(32), In(32)
        At S_M2 + turn, and its sigmoid at S_SIGMOID.
    folding : In(1); add_a, add_b : In(32)
        Operands of the adder from the reducer, one stage before S_ADD.
    y : Out(32)
        At S_Y.
    """

    def __init__(self, *, odd, turn):
        if not isinstance(odd, bool):
            raise TypeError(f"odd must be a bool, not {odd!r}")
        if not isinstance(turn, int) or not 0 <= turn < S_SIGMOID - S_M2:
            raise ValueError(f"turn must be an integer in 0..{S_SIGMOID - S_M2 - 1}, not {turn!r}")
        self._odd, self._turn = odd, turn
        super().__init__({
            "control": In(LaneControl), "acc": In(signed(32)), "x": In(32), "p": In(32), "p_pair": In(32),
            "k1": In(32), "k2": In(32), "a": Out(32), "a_pair": In(32), "m2": Out(32), "sigmoid": In(32),
            "folding": In(1), "add_a": In(32), "add_b": In(32), "y": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        c = self.control
        m.submodules.from_int = from_int = FromInt()
        m.submodules.mul1 = mul1 = FMul()
        m.submodules.mul2 = mul2 = FMul()
        m.submodules.mul3 = mul3 = FMul()
        m.submodules.add = add = FAdd()
        for unit in (from_int, mul1, mul2, mul3, add):
            m.d.comb += unit.en.eq(1)

        def register(name):
            return Signal(32, name=name, reset_less=True)

        # Operands of the first product, and the second factor.
        s_mul1_k, s_mul1_k2 = register("s_mul1_k"), register("s_mul1_k2")
        cos, sin = (self.p_pair, self.p) if self._odd else (self.p, self.p_pair)
        m.d.comb += from_int.i.eq(self.acc)
        m.d.sync += [
            self.a.eq(Mux(c.from_x, self.x, Mux(c.from_p, self.p, from_int.o.as_value()))),
            s_mul1_k.eq(Mux(c.k1_p, Mux(c.rope, cos, self.p), self.k1)),
            s_mul1_k2.eq(Mux(c.k2_p, Mux(c.rope, sin, self.p), self.k2)),
        ]
        m.d.comb += [mul1.a.eq(self.a), mul1.b.eq(s_mul1_k)]

        # Operands of the second product, and what goes past it.
        s_mul2_a, s_mul2_aux = register("s_mul2_a"), register("s_mul2_aux")
        m1 = mul1.o.as_value()
        m.d.sync += [
            s_mul2_a.eq(Mux(c.rope, delay(m, self.a_pair, S_M1 - S_MUL1), m1)),
            s_mul2_aux.eq(Mux(c.rope, m1, delay(m, self.x, S_M1 - S_WORDS))),
        ]
        m.d.comb += [mul2.a.eq(s_mul2_a), mul2.b.eq(delay(m, s_mul1_k2, S_MUL2 - S_MUL1))]

        # Operands of the third product.
        s_mul3_a, s_mul3_k = register("s_mul3_a"), register("s_mul3_k")
        m.d.comb += self.m2.eq(delay(m, mul2.o.as_value(), self._turn))
        main = delay(m, self.m2, S_SIGMOID - S_M2 - self._turn)
        aux = delay(m, s_mul2_aux, S_SIGMOID - S_MUL2)
        m.d.sync += s_mul3_a.eq(main)
        with m.Switch(c.k3):
            with m.Case(Third.MAIN):
                m.d.sync += s_mul3_k.eq(main)
            with m.Case(Third.SIGMOID):
                m.d.sync += s_mul3_k.eq(self.sigmoid)
            with m.Case(Third.AUX):
                m.d.sync += s_mul3_k.eq(aux)
            with m.Default():
                m.d.sync += s_mul3_k.eq(Cat(Const(F32_ONE, 31), 0 if self._odd else c.rope))
        with m.If(c.relu & main[31]):
            m.d.sync += s_mul3_k.eq(0)
        m.d.comb += [mul3.a.eq(s_mul3_a), mul3.b.eq(s_mul3_k)]

        # Sum.
        s_add_a, s_add_b = register("s_add_a"), register("s_add_b")
        m.d.sync += [
            s_add_a.eq(Mux(self.folding, self.add_a, mul3.o.as_value())),
            s_add_b.eq(Mux(c.sums, self.add_b, delay(m, aux, S_M3 - S_SIGMOID))),
        ]
        with m.If(~c.sums & ~c.adds):
            m.d.sync += s_add_b.eq(F32_NEG_ZERO)
        m.d.comb += [add.a.eq(s_add_a), add.b.eq(s_add_b), self.y.eq(add.o)]
        return m
