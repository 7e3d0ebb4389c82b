"""Order of binary32 numbers, and the larger of two.

::

    F32 --> key: sign set: all bits inverted; clear: sign bit set --> unsigned order = numeric order

-0 comes before +0; subnormals are zeros. Golden: ``f32.maximum``.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import F32, F32_NAN

__all__ = ["flush", "is_nan", "sort_key", "fmax", "FMax"]


def flush(x):
    """32 bits of an F32 (a view or 32 bits), subnormals made zeros of the same sign."""
    bits = Value.cast(x)
    return Cat(Mux(bits[23:31].any(), bits[:23], 0), bits[23:])


def is_nan(x):
    """1 where an F32 (a view or 32 bits) is not a number."""
    bits = Value.cast(x)
    return bits[23:31].all() & bits[:23].any()


def sort_key(x):
    """unsigned(32) in the order of the numbers; means nothing for NaN."""
    bits = Value.cast(x)
    magnitude = flush(x)[:31]
    return Cat(Mux(bits[31], ~magnitude, magnitude), ~bits[31])


def fmax(a, b):
    """32 bits: the larger of two F32 (views or 32 bits); the canonical NaN where either is NaN."""
    larger = flush(Mux(sort_key(a) >= sort_key(b), Value.cast(a), Value.cast(b)))
    return Mux(is_nan(a) | is_nan(b), Const(F32_NAN, 32), larger)


class FMax(wiring.Component):
    """o = max(a, b), one a cycle, latency 1 enabled edge.

    Members
    -------
    a, b : In(F32)
    o : Out(F32)
    en : In(1)
        Clock enable of the register.
    """

    LATENCY = 1

    a: In(F32)
    b: In(F32)
    o: Out(F32)
    en: In(1)

    def elaborate(self, platform):
        m = Module()
        s1_bits = Signal(32, reset_less=True)
        with m.If(self.en):
            m.d.sync += s1_bits.eq(fmax(self.a, self.b))
        m.d.comb += self.o.eq(s1_bits)
        return m
