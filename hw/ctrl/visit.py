"""Which past rows a segment reads, and where in a page a position lies: rules that the reading and the writing side share."""

from amaranth.hdl import Cat, Mux, Signal
from amaranth.utils import ceil_log2

__all__ = ["page_row", "visit"]


def visit(m, first_position, window, sinks, n_ports):
    """(start_row, sink_rows, all) of ``celosia.hw.links.visited_rows`` as Signals that follow the 16-bit inputs at once; the two
    rows are zero when ``all``. Two carry chains long: give them a register."""
    ports_log2 = ceil_log2(n_ports)
    below, lowest = Signal(17), Signal(16)
    start_row, sink_rows, everything = Signal(16), Signal(16), Signal()
    sink_end = Signal(17)
    m.d.comb += [
        below.eq(first_position - window), lowest.eq(below + 1), sink_end.eq((sinks + (n_ports - 1)) >> ports_log2),
        everything.eq((window == 0) | below[-1] | ((lowest >> ports_log2) <= sink_end)),
        start_row.eq(Mux(everything, 0, lowest >> ports_log2)), sink_rows.eq(Mux(everything, 0, sink_end)),
    ]
    return start_row, sink_rows, everything


def page_row(page, position, *, page_positions, n_ports):
    """Row of ``position`` in the region of its port: (page G + position mod G) // P, in which nothing is added."""
    return Cat(position[ceil_log2(n_ports):ceil_log2(page_positions)], page)
