"""Which records of a segment every slice takes, and who sees them.

::

    position, window --> lowest --> rows that are read, start of the window --> share of each slice
                      stage 1                                            stage 2                  stage 3

With f the position of the first token and a window W > 0, the first token sees positions from lowest = f - W + 1 on and the
sinks. A slice reads the rows that ``visited_rows`` says; of those the ones below row lowest div P (``n_before``) hold sinks at
most. From there on record j is seen by tokens below j + W - f, its ``reach``.
"""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .links import REACH, AttentionSizes, Share

__all__ = ["Segment"]

_ALL = 16               # a reach of all tokens


class Segment(wiring.Component):
    """Shares of the slices.

    Members
    -------
    window, sinks : In, of the command, a cycle before position : In, of the first token
    n_tokens : In, of the segment
    o : Out(Share), a slice; three cycles after position, one after n_tokens
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
        # What the command says, a cycle later; then the first position that the window shows.
        window, before_window, sink_rows = Signal(), Signal(16, reset_less=True), Signal(16, reset_less=True)
        lowest, windowed, start_row, skipping = Signal(signed(17), reset_less=True), Signal(), Signal(16), Signal()
        m.d.sync += [window.eq(self.window != 0), before_window.eq(self.window - 1),
                     sink_rows.eq((self.sinks + n_ports - 1) >> port_log2), lowest.eq(self.position - before_window)]

        # Rows that are left out, rows before the window, and how far the first row of the window begins before lowest: the records
        # of a slice count from there.
        n_skipped, n_before, back = Signal(16, reset_less=True), Signal(16, reset_less=True), Signal(REACH, reset_less=True)
        m.d.comb += [windowed.eq(window & (lowest > 0)), start_row.eq(Mux(windowed, lowest >> port_log2, 0)),
                     skipping.eq(start_row > sink_rows)]
        m.d.sync += [
            n_skipped.eq(Mux(skipping, start_row - sink_rows, 0)), n_before.eq(Mux(skipping, sink_rows, start_row)),
            back.eq(Mux(windowed, lowest[:port_log2], Mux(~window | (lowest < -_ALL), -_ALL, lowest))),
        ]
        for number, share in enumerate(self.o):
            before, n_rows = n_ports - 1 - number, Signal(16, name=f"n_rows_{number}", reset_less=True)
            first = (number - self.position)[:port_log2]
            m.d.sync += [
                n_rows.eq((self.position + before) >> port_log2), share.n_past.eq(n_rows - n_skipped),
                share.first_token.eq(first), share.n_chunk.eq((self.n_tokens + (n_ports - 1) - first) >> port_log2),
                share.n_sinks.eq((self.sinks + before) >> port_log2), share.n_before.eq(n_before),
                share.reach.eq(number + 1 - back),
            ]
        return m
