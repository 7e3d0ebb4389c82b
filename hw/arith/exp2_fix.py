"""2**z of a fixed-point number, for softmax: mantissa * 2**(exponent - 15) ~ 2**(i / 2**16).

::

    i --> whole part -------------------------------------------------------> exponent
      --> fraction: top 7 bits --> table --> c0 -------------------> + round --> mantissa
                    low 9 bits ------------> c1 * (low - 256) >> 9 ->

The straight line through the centres of ``exp2``'s segments, unit 2**-20, rounded half up to 16
bits: within one unit of the mantissa. One result a cycle, latency 3 enabled edges. Golden: ``func.exp2_fix``.
"""

from amaranth.hdl import Cat, Module, Signal, signed, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from ..tables import EXP2_BASE, EXP2_FIX_FRAC_BITS, EXP2_FIX_MANTISSA_BITS, SEGMENT_LOG2, func_table

__all__ = ["Exp2Fix"]


_DROPPED_BITS = 8       # of the table's 2**-28
_LOW_BITS = EXP2_FIX_FRAC_BITS - SEGMENT_LOG2


class _Line(data.Struct):
    c0: unsigned(21)
    c1: unsigned(15)


class Exp2Fix(wiring.Component):
    """mantissa, exponent of 2**(i / 2**16).

    Parameters
    ----------
    width : int
        Bits of the argument, 18 to 48.

    Members
    -------
    i : In(signed(width))
        Units of 2**-16.
    mantissa : Out(16)
        2**15..2**16-1.
    exponent : Out(signed(width - 16))
        floor(i / 2**16).
    en : In(1)
        Clock enable of every register.
    """

    LATENCY = 3

    def __init__(self, *, width=32):
        if not isinstance(width, int) or not 18 <= width <= 48:
            raise ValueError(f"The width of Exp2Fix must be an integer in 18..48, not {width!r}")
        self._width = width
        super().__init__({
            "i": In(signed(width)),
            "mantissa": Out(EXP2_FIX_MANTISSA_BITS),
            "exponent": Out(signed(width - EXP2_FIX_FRAC_BITS)),
            "en": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        words = func_table()[EXP2_BASE:EXP2_BASE + (1 << SEGMENT_LOG2)]
        m.submodules.table = table = memory.Memory(
            shape=_Line, depth=len(words),
            init=[{"c0": c0 >> _DROPPED_BITS, "c1": c1 >> _DROPPED_BITS} for c0, c1, _ in words])
        read = table.read_port(domain="sync", transparent_for=())

        whole = self.i[EXP2_FIX_FRAC_BITS:].as_signed()
        low = self.i[:_LOW_BITS]
        s1_whole, s2_whole, s3_whole = (Signal.like(self.exponent, name=f"s{k}_whole", reset_less=True)
                                        for k in (1, 2, 3))
        s1_offset = Signal(signed(_LOW_BITS), reset_less=True)
        s2_rise = Signal(signed(15 + _LOW_BITS), reset_less=True)
        s2_c0 = Signal(21, reset_less=True)
        s3_mantissa = Signal(EXP2_FIX_MANTISSA_BITS, reset_less=True)
        value = s2_c0 + (s2_rise >> _LOW_BITS)
        m.d.comb += read.en.eq(self.en), read.addr.eq(self.i[_LOW_BITS:EXP2_FIX_FRAC_BITS])
        with m.If(self.en):
            m.d.sync += [
                s1_whole.eq(whole),
                s1_offset.eq(Cat(low[:-1], ~low[-1])),
                s2_whole.eq(s1_whole),
                s2_rise.eq(read.data.c1 * s1_offset),
                s2_c0.eq(read.data.c0),
                s3_whole.eq(s2_whole),
                s3_mantissa.eq((value + (1 << 4)) >> 5),
            ]
        m.d.comb += self.mantissa.eq(s3_mantissa), self.exponent.eq(s3_whole)
        return m
