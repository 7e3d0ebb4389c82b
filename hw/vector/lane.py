"""One lane: three multiplications and an addition, one element a cycle, latency S_Y - S_ISSUE cycles, never stopping.

::

    acc > FromInt +                            pair's a              sigmoid >--+ SELF, RELU
    X ------------+ a ----------------+---- delay --+                           |
    P ------------+          |        |             |    main:       main       |   main
    k1: 1 s imm0 scale P --> M1 --> m1 or a_pair -> M2 -> m2 or m1 -- delay --> M3 --> m3 ----+
                             k2: 1 P imm1 ----------^       |                                 ADD --> y
    X -------------------------- delay -------------- aux: X or +-m2 --- delay --> k4: aux ---+

RoPE takes m1 = a * cos past the second multiplier, which makes m2 = (the pair's a) * sin; that one travels in place
of X, with its sign turned in even lanes. A reduction takes the adder: ``add_a`` while it folds, ``add_b`` always.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..arith.convert import FromInt
from ..arith.fadd import FAdd
from ..arith.fmul import FMul
from ..arith.func import Func
from ..formats import F32_NEG_ZERO, F32_ONE
from ..isa import Add, Mul1, Mul2, Mul3, Reduce, Source, Vector
from ..tables import FuncOp
from .words import S_M1, S_M2, S_M3, S_MUL1, S_MUL2, S_SIGMOID, S_WORDS, delay

__all__ = ["Lane"]


class Lane(wiring.Component):
    """A lane of the pipeline.

    Parameters
    ----------
    odd : bool
        Lane 2j + 1 of its pair (2j, 2j + 1) rather than 2j.

    Members
    -------
    fields : In(Vector)
        The descriptor; constant while it runs.
    acc : In(signed(32))
        Element of the integer stream, at S_ISSUE.
    x, p, p_pair : In(32)
        Elements of X and P, and the P element of the pair's other lane, at S_WORDS.
    scalar, scale : In(32)
        Scalar register of the token, scale of the attention stream, at S_WORDS.
    a, a_pair : Out(32), In(32)
        This lane's source, and that of the pair's other lane, at S_MUL1.
    folding : In(1); add_a, add_b : In(32)
        Operands of the adder from the reducer, one stage before S_ADD.
    y : Out(32)
        At S_Y.
    """

    def __init__(self, *, odd):
        if not isinstance(odd, bool):
            raise TypeError(f"odd must be a bool, not {odd!r}")
        self._odd = odd
        super().__init__({
            "fields": In(Vector), "acc": In(signed(32)), "x": In(32), "p": In(32), "p_pair": In(32),
            "scalar": In(32), "scale": In(32), "a": Out(32), "a_pair": In(32),
            "folding": In(1), "add_a": In(32), "add_b": In(32), "y": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        f = self.fields
        rope = f.add == Add.ROPE
        m.submodules.from_int = from_int = FromInt()
        m.submodules.mul1 = mul1 = FMul()
        m.submodules.mul2 = mul2 = FMul()
        m.submodules.sigmoid = sigmoid = Func()
        m.submodules.mul3 = mul3 = FMul()
        m.submodules.add = add = FAdd()
        for unit in (from_int, mul1, mul2, sigmoid, mul3, add):
            m.d.comb += unit.en.eq(1)

        def register(name):
            return Signal(32, name=name, reset_less=True)

        # First product.
        s_mul1_k = register("s_mul1_k")
        cos, sin = (self.p_pair, self.p) if self._odd else (self.p, self.p_pair)
        m.d.comb += from_int.i.eq(self.acc)
        with m.Switch(f.source):
            with m.Case(Source.X):
                m.d.sync += self.a.eq(self.x)
            with m.Case(Source.P):
                m.d.sync += self.a.eq(self.p)
            with m.Default():
                m.d.sync += self.a.eq(from_int.o)
        with m.Switch(f.mul1):
            with m.Case(Mul1.SCALAR):
                m.d.sync += s_mul1_k.eq(self.scalar)
            with m.Case(Mul1.IMM):
                m.d.sync += s_mul1_k.eq(f.imm0)
            with m.Case(Mul1.STREAM):
                m.d.sync += s_mul1_k.eq(self.scale)
            with m.Case(Mul1.P):
                m.d.sync += s_mul1_k.eq(Mux(rope, cos, self.p))
            with m.Default():
                m.d.sync += s_mul1_k.eq(F32_ONE)
        m.d.comb += [mul1.a.eq(self.a), mul1.b.eq(s_mul1_k)]

        # Second product, and what goes past it.
        s_mul2_a, s_mul2_k, s_mul2_m1 = register("s_mul2_a"), register("s_mul2_k"), register("s_mul2_m1")
        s_m1_p = delay(m, Mux(rope, sin, self.p), S_M1 - S_WORDS)
        s_m1_pair = delay(m, self.a_pair, S_M1 - S_MUL1)
        m.d.sync += [
            s_mul2_m1.eq(mul1.o),
            s_mul2_a.eq(Mux(rope, s_m1_pair, mul1.o.as_value())),
        ]
        with m.Switch(f.mul2):
            with m.Case(Mul2.P, Mul2.ROPE):
                m.d.sync += s_mul2_k.eq(s_m1_p)
            with m.Case(Mul2.IMM):
                m.d.sync += s_mul2_k.eq(f.imm1)
            with m.Default():
                m.d.sync += s_mul2_k.eq(F32_ONE)
        m.d.comb += [mul2.a.eq(s_mul2_a), mul2.b.eq(s_mul2_k)]
        s_m2_m1 = delay(m, s_mul2_m1, S_M2 - S_MUL2)
        s_m2_x = delay(m, self.x, S_M2 - S_WORDS)
        m2 = mul2.o.as_value()
        s_m2_main, s_m2_aux = Signal(32), Signal(32)
        m.d.comb += [
            s_m2_main.eq(Mux(rope, s_m2_m1, m2)),
            s_m2_aux.eq(Mux(rope, m2 if self._odd else Cat(m2[:31], ~m2[31]), s_m2_x)),
        ]

        # Third product.
        s_mul3_a, s_mul3_k = register("s_mul3_a"), register("s_mul3_k")
        m.d.comb += [sigmoid.op.eq(FuncOp.SIGMOID), sigmoid.i.eq(m2)]
        main = delay(m, s_m2_main, S_SIGMOID - S_M2)
        s_sigmoid_aux = delay(m, s_m2_aux, S_SIGMOID - S_M2)
        m.d.sync += s_mul3_a.eq(main)
        with m.Switch(f.mul3):
            with m.Case(Mul3.SELF):
                m.d.sync += s_mul3_k.eq(main)
            with m.Case(Mul3.RELU):
                m.d.sync += s_mul3_k.eq(Mux(main[31], 0, main))
            with m.Case(Mul3.SIGMOID):
                m.d.sync += s_mul3_k.eq(sigmoid.o)
            with m.Case(Mul3.X):
                m.d.sync += s_mul3_k.eq(s_sigmoid_aux)
            with m.Default():
                m.d.sync += s_mul3_k.eq(F32_ONE)
        m.d.comb += [mul3.a.eq(s_mul3_a), mul3.b.eq(s_mul3_k)]

        # Sum.
        s_add_a, s_add_b = register("s_add_a"), register("s_add_b")
        s_m3_aux = delay(m, s_sigmoid_aux, S_M3 - S_SIGMOID)
        m.d.sync += s_add_a.eq(Mux(self.folding, self.add_a, mul3.o.as_value()))
        with m.If(f.reduce == Reduce.RMS):
            m.d.sync += s_add_b.eq(self.add_b)
        with m.Elif(f.add == Add.NONE):
            m.d.sync += s_add_b.eq(F32_NEG_ZERO)
        with m.Else():
            m.d.sync += s_add_b.eq(s_m3_aux)
        m.d.comb += [add.a.eq(s_add_a), add.b.eq(s_add_b), self.y.eq(add.o)]
        return m
