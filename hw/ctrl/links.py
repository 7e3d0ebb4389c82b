"""The words inside control."""

from amaranth.hdl import unsigned
from amaranth.lib import data

__all__ = ["Waits", "Gated", "ReadPlan"]


class Waits(data.Struct):
    """A count of completed descriptors for each unit, modulo 2**16."""
    load: unsigned(16)
    matmul: unsigned(16)
    vector: unsigned(16)
    attend: unsigned(16)


class Gated(data.StructLayout):
    """A command and what must have been completed before it may start."""
    def __init__(self, shape):
        super().__init__({"waits": Waits, "command": shape})


class ReadPlan(data.Struct):
    """One contiguous read on every port.

    Port p reads from ``addr + p * port_stride``, plus ``factor_a * factor_b`` when ``scaled`` (LOAD, gather), ``beats`` beats;
    else (MATMUL, ATTEND) the product is the number of beats, and ports below ``n_longer`` read ``beats`` more.
    """
    addr: unsigned(40)
    port_stride: unsigned(32)
    factor_a: unsigned(32)
    factor_b: unsigned(32)
    scaled: unsigned(1)
    beats: unsigned(18)
    n_longer: unsigned(2)
    cache: unsigned(1)
    dest: unsigned(2)
    index: unsigned(16)
