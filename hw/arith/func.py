"""exp2, reciprocal, reciprocal square root and sigmoid of binary32, by table and parabola.

::

    stage 1       2            3              4               5               6            7        8
    i --> shift --> table c2 --> c2 * offset --> c1 + .. >> 17 --> .. * offset --> c0 +- .. --> leading --> shift, --> o
                          c1 ------------------>                                >> 17     zeros    round
                          c0 --------------------------------------------------->

    r = c0 + ((c1 + ((c2 * offset) >> 17)) * offset >> 17)      unit 2**-28, >> rounds down
    offset in -2**16..2**16: distance from the segment's centre, a segment is 2**17

    op        table word                  offset + 2**16             o = value * 2**power
    EXP2      bits 17..23 of f            bits 0..16 of f (+ 1)      r * 2**(f >> 24)
    RECIP     top 7 bits of mantissa      the other 16, doubled      r * 2**-e
    RSQRT     parity of e, top 7 bits     the other 16, doubled      r * 2**-floor(e/2)
    SIGMOID   bits 17..25 of f            bits 0..16 of f            r, or 1 - r where i < 0

e is the unbiased exponent. f is |i| in units of 2**-24 (EXP2) or 2**-22 (SIGMOID), the rest cut off.
EXP2 of a negative argument looks up the complement of f and adds the 1 that is missing to the offset, so
that the table's address does not wait for a carry. Rounding to 24 bits is half up.

One result a cycle, latency 9 enabled edges; op may change every cycle. Errors and special cases:
the golden functions ``func.exp2``, ``func.recip``, ``func.rsqrt``, ``func.sigmoid``.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ..formats import F32, F32_BIAS, F32_INF, F32_NAN, F32_ONE
from ..tables import (
    EXP2_BASE,
    OFFSET_BITS,
    RECIP_BASE,
    RSQRT_BASE,
    SIGMOID_BASE,
    TABLE_FRAC_BITS,
    TABLE_WORDS,
    FuncOp,
    FuncWord,
    func_table,
)
from .bits import leading_zeros

__all__ = ["Func"]


_VALUE_BITS = TABLE_FRAC_BITS + 2       # r may reach 2


class Func(wiring.Component):
    """o = op(i).

    Parameters
    ----------
    ops : iterable of FuncOp
        The functions that are built; all of them by default.

    Members
    -------
    op : In(FuncOp)
        One of ``ops``.
    i : In(F32)
    o : Out(F32)
    en : In(1)
        Clock enable of every register.
    """

    LATENCY = 9

    def __init__(self, *, ops=tuple(FuncOp)):
        self._ops = tuple(FuncOp(op) for op in ops)
        if not self._ops:
            raise ValueError("Func must have a function, not none")
        super().__init__({"op": In(FuncOp), "i": In(F32), "o": Out(F32), "en": In(1)})

    def _is(self, op):
        """Whether op is selected: a constant where only one function, or not this one, is built."""
        return (self.op == op) if op in self._ops and len(self._ops) > 1 else Const(op in self._ops, 1)

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = memory.Memory(
            shape=FuncWord, depth=TABLE_WORDS,
            init=[dict(zip(("c0", "c1", "c2"), word)) for word in func_table()])
        read = table.read_port(domain="sync", transparent_for=())

        def register(name, shape=1):
            return Signal(shape, name=name, reset_less=True)

        # What goes past the table: power, special result, sign.
        power = [None] + [register(f"s{k}_power", signed(10)) for k in range(1, 9)]
        special = [None] + [register(f"s{k}_special") for k in range(1, 9)]
        result = [None] + [register(f"s{k}_result", 32) for k in range(1, 9)]
        sign = [None] + [register(f"s{k}_sign") for k in range(1, 9)]
        flip = [None] + [register(f"s{k}_flip") for k in range(1, 6)]

        # Stage 1: fixed-point argument, address.
        is_exp2, is_recip = self._is(FuncOp.EXP2), self._is(FuncOp.RECIP)
        is_sigmoid = self._is(FuncOp.SIGMOID)
        exponent, mantissa = self.i.exponent, self.i.mantissa
        large_exponent = Mux(is_exp2, 134, 131)     # |i| >= 128, |i| >= 16
        distance = (large_exponent - 1 - exponent)[:8]
        fixed = Signal(31)
        m.d.comb += fixed.eq(Mux(distance >= 31, 0, Cat(Const(0, 7), mantissa, 1) >> distance[:5]))
        f = Signal(31)
        m.d.comb += f.eq(Mux(is_exp2, Mux(self.i.sign, ~fixed, fixed), fixed >> 5))
        unbiased = (exponent - F32_BIAS).as_signed()

        s1_word, s1_low = register("s1_word", 10), register("s1_low", OFFSET_BITS)
        s1_more = register("s1_more")
        with m.If(self.en):
            with m.If(is_exp2 | is_sigmoid):
                m.d.sync += s1_low.eq(f)
            with m.Else():
                m.d.sync += s1_low.eq(Cat(Const(0, 1), mantissa[:16]))
            with m.If(is_exp2):
                m.d.sync += s1_word.eq(EXP2_BASE + f[17:24]), power[1].eq(f[24:] - (self.i.sign << 7))
            with m.If(is_recip):
                m.d.sync += s1_word.eq(RECIP_BASE | mantissa[16:]), power[1].eq(-unbiased)
            with m.If(self._is(FuncOp.RSQRT)):
                m.d.sync += s1_word.eq(RSQRT_BASE | Cat(mantissa[16:], ~exponent[0]))
                m.d.sync += power[1].eq(-(unbiased >> 1))
            with m.If(is_sigmoid):
                m.d.sync += s1_word.eq(SIGMOID_BASE | f[17:26]), power[1].eq(0)
            m.d.sync += [
                s1_more.eq(is_exp2 & self.i.sign),
                sign[1].eq(is_recip & self.i.sign),
                flip[1].eq(is_sigmoid & self.i.sign),
            ]
            m.d.sync += self._special(special[1], result[1], large_exponent)

        # Stage 2: table; offset from the centre. EXP2 of less than -126: the complement is below 2 less the last place.
        under = Signal()
        m.d.comb += under.eq(s1_more & ~power[1][1:7].any() & ~(power[1][0] & s1_word[:7].all() & s1_low.all()))
        offset = [None, None] + [register(f"s{k}_offset", signed(OFFSET_BITS + 1)) for k in range(2, 5)]
        m.d.comb += read.en.eq(self.en), read.addr.eq(s1_word)
        with m.If(self.en):
            m.d.sync += [
                offset[2].eq(Cat(s1_low[:-1], ~s1_low[-1]).as_signed() + s1_more),
                special[2].eq(special[1] | under),
                result[2].eq(Mux(under, 0, result[1])),
            ]

        # Stages 3 to 6: the parabola.
        s3_bend = register("s3_bend", signed(16 + OFFSET_BITS + 1))
        s4_slope = register("s4_slope", signed(25))
        s5_rise = register("s5_rise", signed(25 + OFFSET_BITS + 1))
        c1 = register("s3_c1", signed(24))
        c0 = [None] * 3 + [register(f"s{k}_c0", unsigned(29)) for k in range(3, 6)]
        s6_value = register("s6_value", _VALUE_BITS)
        rise = s5_rise >> OFFSET_BITS
        with m.If(self.en):
            m.d.sync += [
                s3_bend.eq(read.data.c2 * offset[2]),
                c1.eq(read.data.c1),
                c0[3].eq(Mux(flip[2], (1 << TABLE_FRAC_BITS) - read.data.c0, read.data.c0)),
                s4_slope.eq(c1 + (s3_bend >> OFFSET_BITS)),
                s5_rise.eq(s4_slope * offset[4]),
                s6_value.eq(Mux(flip[5], c0[5] - rise, c0[5] + rise)),
                offset[3].eq(offset[2]), offset[4].eq(offset[3]),
                c0[4].eq(c0[3]), c0[5].eq(c0[4]),
                flip[2].eq(flip[1]), flip[3].eq(flip[2]), flip[4].eq(flip[3]), flip[5].eq(flip[4]),
            ]

        # Stages 7 to 9: normalise, round half up, pack.
        s7_value, s7_zeros = register("s7_value", _VALUE_BITS), register("s7_zeros", 5)
        s8_value, s9_bits = register("s8_value", 24), register("s9_bits", 32)
        s8_below, s8_least = register("s8_below"), register("s8_least")     # power less than 0, equal to 0
        zeros, shifted, packed = Signal(5), Signal(_VALUE_BITS), Signal(31)
        late_power = Signal(signed(10))
        tiny = s8_below | (s8_least & ~packed[23])
        m.d.comb += [
            zeros.eq(leading_zeros(s6_value)),
            shifted.eq(s7_value << s7_zeros),
            late_power.eq(power[7] - s7_zeros),
            packed.eq(Cat(s8_value[1:], power[8][:8]) + s8_value[0]),
        ]
        with m.If(self.en):
            m.d.sync += [
                s7_value.eq(s6_value),
                s7_zeros.eq(zeros),
                power[7].eq(power[6] + (F32_BIAS + 1)), power[8].eq(late_power),
                s8_below.eq(late_power[-1]), s8_least.eq(late_power == 0),
                special[7].eq(special[6] | (s6_value == 0)),
                result[7].eq(Mux(special[6], result[6], 0)),
                s8_value.eq(shifted[-25:-1]),
                s9_bits.eq(Mux(special[8], result[8], Cat(Mux(tiny, 0, packed), sign[8]))),
            ]
            for k in range(2, 9):
                m.d.sync += sign[k].eq(sign[k - 1])
                if k < 7:
                    m.d.sync += power[k].eq(power[k - 1])
                if k > 2 and k != 7:
                    m.d.sync += special[k].eq(special[k - 1]), result[k].eq(result[k - 1])
        m.d.comb += self.o.eq(s9_bits)
        return m

    def _special(self, special, result, large_exponent):
        """Statements: does the result not come from the table, and what is it."""
        zero, top = self.i.exponent == 0, self.i.exponent == 0xFF
        nan = top & self.i.mantissa.any()
        large = self.i.exponent >= large_exponent
        sign_bit = Cat(Const(0, 31), self.i.sign)
        inf = F32_INF | sign_bit
        cases = {
            FuncOp.EXP2: (zero | large, Mux(zero, F32_ONE, Mux(self.i.sign, 0, F32_INF))),
            FuncOp.RECIP: (zero | top, Mux(zero, inf, sign_bit)),
            FuncOp.RSQRT: (zero | top | self.i.sign, Mux(zero, inf, Mux(self.i.sign, F32_NAN, 0))),
            FuncOp.SIGMOID: (large, Mux(self.i.sign, 0, F32_ONE)),
        }
        is_special, value = Const(0), Const(0, 32)
        for op, (condition, bits) in cases.items():
            is_special = Mux(self._is(op), condition, is_special)
            value = Mux(self._is(op), bits, value)
        return [special.eq(is_special | nan), result.eq(Mux(nan, F32_NAN, value))]
