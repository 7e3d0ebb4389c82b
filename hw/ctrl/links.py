"""The words inside control."""

from amaranth.hdl import unsigned
from amaranth.lib import data

__all__ = ["UNITS", "Waits", "Gated", "ReadPlan", "ReadRequest", "PageRead", "PageCommand"]


UNITS = ("load", "matmul", "vector", "attend")      # of the decoder; another machine names its own


class Waits(data.StructLayout):
    """A count of completed descriptors for each unit, modulo 2**16."""
    def __init__(self, units=UNITS):
        super().__init__({unit: unsigned(16) for unit in units})


class Gated(data.StructLayout):
    """A command and what must have been completed before it may start."""
    def __init__(self, shape, units=UNITS):
        super().__init__({"waits": Waits(units), "command": shape})


class ReadPlan(data.Struct):
    """One contiguous read on every port.

    Port p reads from ``addr + p * port_stride``, plus ``factor_a * factor_b`` when ``scaled`` (all but MATMUL without gather),
    ``beats`` beats, ports below ``n_longer`` ``extra_beats`` more; else the product is the number of beats.
    """
    addr: unsigned(40)
    port_stride: unsigned(32)
    factor_a: unsigned(32)
    factor_b: unsigned(32)
    scaled: unsigned(1)
    beats: unsigned(24)
    n_longer: unsigned(2)
    extra_beats: unsigned(8)
    cache: unsigned(1)
    dest: unsigned(2)
    index: unsigned(16)


class ReadRequest(data.Struct):
    """A plan; with ``attend`` one for every page that the segments of the run visit: ``factor_b`` is then the bytes of a record,
    ``extra_beats`` its beats, and row, ``beats`` and ``n_longer`` are those of the page."""
    plan: ReadPlan
    attend: unsigned(1)
    window: unsigned(16)
    sinks: unsigned(16)


class PageRead(data.Struct):
    """Rows of one page that a segment reads: on every port ``n_rows`` records from row ``row`` of its region on, on ports below
    ``n_longer`` one more."""
    row: unsigned(28)
    n_rows: unsigned(16)
    n_longer: unsigned(2)


class PageCommand(data.Struct):
    """A word of the register PAGE; ``op`` as in ``celosia.hw.regs.PageOp``."""
    page: unsigned(12)
    index: unsigned(12)
    slot: unsigned(4)
    op: unsigned(4)
