"""The soft-cap of scores: o = cap * tanh(u), by table and parabola, or z where there is no cap.

::

    stage 1     2            3              4               5               6              7            8        9
    u --> word --> table c2 --> c2 * offset --> c1 + .. >> 17 --> .. * offset --> c0 + .. >> 17 --> * cap in -> sum --> round, -> o
      `-> offset         c1 ------------------>                                                     two parts           sign
                         c0 ------------------------------------------------------>                                     ^
    z ------------------------------------------------------------------------------------------------------------------+

The same input is u, in units of 2**-22, or z, in units of 2**-16; cap and o have units of 2**-16. Up to 2 a segment of the table is
1/32, up to 4 it is 1/16, up to 8 it is 1/4; beyond, tanh is what it is just below 8. For a negative u its complement is looked up.
One result a cycle, latency 9. Error: half a unit and cap * 2**-20. Golden: ``func.soft_cap``.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from ..links import CAP_BITS
from ..tables import OFFSET_BITS, TANH_ARGUMENT_BITS, TANH_FRAC_BITS, tanh_table
from .links import delay

__all__ = ["SoftCap"]

_LOW_BITS = 17      # of cap in the first product: what a DSP block multiplies unsigned


class _Word(data.Struct):
    """One segment, in units of 2**-24."""
    c0: unsigned(24)
    c1: unsigned(19)
    c2: signed(14)


class SoftCap(wiring.Component):
    """What the exponential of a score is taken of.

    Members
    -------
    cap : In(CAP_BITS), constant while anything is under way; 0: o is i
    i : In(signed(32))
    o : Out(signed(32))
    """

    LATENCY = 9

    i: In(signed(32))
    cap: In(CAP_BITS)
    o: Out(signed(32))

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = memory.Memory(shape=_Word, depth=128, init=[
            dict(zip(("c0", "c1", "c2"), word)) for word in tanh_table()])
        read = table.read_port(domain="sync", transparent_for=())

        # Stage 1: which segment, where in it.
        one, sign = TANH_ARGUMENT_BITS, self.i[-1]
        magnitude = (self.i ^ sign.replicate(32))[:31]
        beyond, over_4, over_2 = magnitude[one + 3:].any(), magnitude[one + 2], magnitude[one + 1]
        s1_word, s1_offset = Signal(7, reset_less=True), Signal(OFFSET_BITS, reset_less=True)
        with m.If(beyond):
            m.d.sync += [s1_word.eq(len(tanh_table()) - 1), s1_offset.eq(-1)]
        with m.Elif(over_4):
            m.d.sync += [s1_word.eq(Cat(magnitude[one - 2:one + 2], 0, 1, 1)), s1_offset.eq(magnitude[3:])]
        with m.Elif(over_2):
            m.d.sync += [s1_word.eq(Cat(magnitude[one - 4:one + 1], 0, 1)), s1_offset.eq(magnitude[1:])]
        with m.Else():
            m.d.sync += [s1_word.eq(magnitude[one - 5:one + 1]), s1_offset.eq(magnitude)]

        # Stages 2 to 6: the parabola.
        s2_offset = Signal(signed(OFFSET_BITS), reset_less=True)
        s3_bend = Signal(signed(13 + OFFSET_BITS), reset_less=True)
        s4_slope = Signal(signed(21), reset_less=True)
        s5_rise = Signal(signed(21 + OFFSET_BITS), reset_less=True)
        s6_value = Signal(TANH_FRAC_BITS, reset_less=True)
        c0, c1 = delay(m, read.data.c0, 3), delay(m, read.data.c1, 1)
        m.d.comb += [read.en.eq(1), read.addr.eq(s1_word)]
        m.d.sync += [
            s2_offset.eq(Cat(s1_offset[:-1], ~s1_offset[-1])),
            s3_bend.eq(read.data.c2 * s2_offset),
            s4_slope.eq(c1 + (s3_bend >> OFFSET_BITS)),
            s5_rise.eq(s4_slope * delay(m, s2_offset, 2)),
            s6_value.eq(c0 + (s5_rise >> OFFSET_BITS)),
        ]

        # Stages 7 to 9: times cap. -(x + up) = ~x + (1 - up).
        s7_low = Signal(TANH_FRAC_BITS + _LOW_BITS, reset_less=True)
        s7_high = Signal(TANH_FRAC_BITS + CAP_BITS - _LOW_BITS, reset_less=True)
        total = Signal(len(s7_high), attrs={"use_dsp": "yes"})
        s8_total = Signal(len(s7_high), reset_less=True)
        s8_sign = delay(m, sign, 8)
        capped, s8_z = Signal(), delay(m, self.i, 8)
        m.d.comb += total.eq(s7_high + (s7_low >> _LOW_BITS))
        m.d.sync += [
            s7_low.eq(s6_value * self.cap[:_LOW_BITS]), s7_high.eq(s6_value * self.cap[_LOW_BITS:]), s8_total.eq(total),
            capped.eq(self.cap != 0),
        ]
        up, whole = s8_total[TANH_FRAC_BITS - _LOW_BITS - 1], Cat(s8_total[TANH_FRAC_BITS - _LOW_BITS:], 0, 0)
        m.d.sync += self.o.eq(Mux(capped, Mux(s8_sign, ~whole, whole), s8_z) + (capped & (up ^ s8_sign)))
        return m
