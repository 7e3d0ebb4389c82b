"""Which records of a segment every slice takes, and who sees them.

::

    position --> rows that are read, start of the window --> share of each slice
                                                      stage 1             stage 2

With f the position of the first token and a window W > 0, the first token sees positions from lowest = f - W + 1 on and the sinks. A
slice reads the rows that ``visited_rows`` says; of those the ones below row lowest div P (``n_before``) hold sinks at most. From there on
record j is seen by tokens below j + W - f, its ``reach``.
"""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..ctrl.visit import visit
from .links import REACH, AttentionSizes, Share

__all__ = ["Segment"]

_ALL = 16               # a reach of all tokens


class Segment(wiring.Component):
    """Shares of the slices.

    Members
    -------
    position : In, of the first token; window, sinks : In, of the command
    n_tokens : In, of the segment
    o : Out(Share), a slice; two cycles after position, one after n_tokens
    """

    def __init__(self, *, sizes):
        if not isinstance(sizes, AttentionSizes):
            raise TypeError(f"sizes must be AttentionSizes, not {sizes!r}")
        self._sizes = sizes
        super().__init__({"position": In(16), "window": In(16), "sinks": In(16), "n_tokens": In(5),
                          "o": Out(Share).array(sizes.n_ports)})

    def elaborate(self, platform):
        m = Module()
        n_ports, port_log2 = self._sizes.n_ports, ceil_log2(self._sizes.n_ports)
        start_row, sink_rows, everything = visit(m, self.position, self.window, self.sinks, n_ports)
        below, lowest, windowed = Signal(signed(17)), Signal(signed(17)), Signal()
        # How far the first row of the window begins before lowest: the records of a slice count from there.
        back = Signal(REACH, reset_less=True)
        n_skipped, n_before = Signal(16, reset_less=True), Signal(16, reset_less=True)
        m.d.comb += [below.eq(self.position - self.window), lowest.eq(below + 1), windowed.eq((self.window != 0) & (below >= 0))]
        m.d.sync += [
            n_skipped.eq(start_row - sink_rows),
            n_before.eq(Mux(everything, Mux(windowed, lowest >> port_log2, 0), sink_rows)),
            back.eq(Mux(windowed, lowest[:port_log2], Mux((self.window == 0) | (lowest < -_ALL), -_ALL, lowest))),
        ]
        for number, share in enumerate(self.o):
            before = n_ports - 1 - number
            first = (number - self.position)[:port_log2]
            m.d.sync += [
                share.n_past.eq(((self.position + before) >> port_log2) - n_skipped),
                share.first_token.eq(first),
                share.n_chunk.eq((self.n_tokens + (n_ports - 1) - first) >> port_log2),
                share.n_sinks.eq((self.sinks + before) >> port_log2), share.n_before.eq(n_before),
                share.reach.eq(number + 1 - back),
            ]
        return m
