"""Walks through the past of all segments of a run, page by page: which rows ATTEND reads, in which order.

::

    lane --> first of a segment, with a past? --> rows to visit --> page of the row --> its rows --> next page of the segment
     ^                                                ^                 | not there                        |
     |                                                |                 v                                  |
     +--- next lane                                   |              missing                               |
                                                      +---- behind the sinks, the rows of the window <-----+

The rule is ``celosia.hw.links.visited_rows``. Rate: 6 + page_cycles cycles a page at most, 3 a lane, and 2 more a segment.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..links import Lane, PageAnswer, PageAsk
from .links import PageRead
from .visit import visit

__all__ = ["SegmentWalk"]


class SegmentWalk(wiring.Component):
    """
    Parameters
    ----------
    n_ports, page_positions : as in ``AccelConfig``
    page_cycles : from an ask to its answer

    Members
    -------
    start : strobe: walk
    n_tokens, window, sinks : constant from ``start`` until ``done``
    token, lane : the token lane that is looked at, and what the launch says of it, one cycle later
    o : stream of PageRead; a word stands still for a cycle before it is valid
    done : strobe: the last word was taken
    idle : there is nothing to walk
    missing : a page was not found, until a reset; nothing of it is read
    ask, answer : PageAsk, held; PageAnswer, page_cycles later

    Paths: o.ready -> done.
    """

    def __init__(self, *, n_ports, page_positions, page_cycles):
        if n_ports not in (1, 2, 4):
            raise ValueError(f"n_ports must be 1, 2 or 4, not {n_ports!r}")
        if page_positions & (page_positions - 1) or not n_ports <= page_positions <= 1 << 16:
            raise ValueError(f"page_positions must be a power of two of {n_ports} to 65536, not {page_positions!r}")
        if page_cycles < 1:
            raise ValueError(f"page_cycles must be at least 1, not {page_cycles!r}")
        self._n_ports, self._page_cycles = n_ports, page_cycles
        # Members, so that a proof can look in: of the segment; of the page, and whether it is among the sinks'.
        self.position, self.row, self.in_sinks, self.in_page = Signal(16), Signal(16), Signal(), Signal()
        self._rows_log2 = ceil_log2(page_positions) - ceil_log2(n_ports)
        super().__init__({
            "start": In(1), "n_tokens": In(5), "window": In(16), "sinks": In(16), "token": Out(4), "lane": In(Lane),
            "o": Out(stream.Signature(PageRead)), "done": Out(1), "idle": Out(1), "missing": Out(1),
            "ask": Out(PageAsk), "answer": In(PageAnswer),
        })

    def elaborate(self, platform):
        m = Module()
        ports_log2, rows_log2 = ceil_log2(self._n_ports), self._rows_log2
        position, lane = self.position, self.lane

        # Of the segment: `end_row` is the first row that is not whole, of which ports below `n_longer` have a record.
        visited = visit(m, position, self.window, self.sinks, self._n_ports)
        start_row, sink_rows, last_past_row, last_sink_row = (
            Signal(16, name=name) for name in ("start_row", "sink_rows", "last_past_row", "last_sink_row"))
        end_row, n_longer = position[ports_log2:], position[:ports_log2]
        nothing_left = Signal()                 # behind the sinks: a window of one token, itself, that begins a row
        m.d.sync += [
            nothing_left.eq((self.window == 1) & ~visited[2] & ~n_longer.any()),
            start_row.eq(visited[0]), sink_rows.eq(visited[1]), last_sink_row.eq(sink_rows - 1),
            last_past_row.eq(end_row - ~n_longer.any()),
        ]

        # Of the page: rows from `row` on, up to `stop`, which is its end or that of the sinks or of the past.
        row, in_sinks, last = self.row, self.in_sinks, Signal()
        next_page, stop = Signal(17), Signal(17)
        m.d.sync += last.eq(row[rows_log2:] == Mux(in_sinks, last_sink_row, last_past_row)[rows_log2:])
        m.d.comb += [
            next_page.eq((row[rows_log2:] + 1) << rows_log2),
            stop.eq(Mux(last, Mux(in_sinks, sink_rows, end_row), next_page)),
            self.ask.index.eq(row[rows_log2:]),
        ]
        wait = Signal(range(self._page_cycles + 1))
        read = self.o.p
        m.d.sync += wait.eq(0)
        with m.FSM() as fsm:
            m.d.comb += [self.idle.eq(fsm.ongoing("IDLE")),
                         self.in_page.eq(fsm.ongoing("ASK") | fsm.ongoing("REST") | fsm.ongoing("OFFER"))]
            with m.State("IDLE"):
                m.d.sync += self.token.eq(0)
                with m.If(self.start):
                    m.next = "AIM"
            with m.State("AIM"):
                m.next = "LANE"
            with m.State("LANE"):
                m.d.sync += [position.eq(lane.position), self.ask.slot.eq(lane.slot)]
                m.next = "NEXT"
                with m.If(lane.first & (lane.position != 0)):
                    m.next = "VISIT"
            with m.State("VISIT"):
                m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.sync += [in_sinks.eq(sink_rows != 0), row.eq(Mux(sink_rows != 0, 0, start_row))]
                m.next = "ASK"
                with m.If((sink_rows == 0) & nothing_left):
                    m.next = "NEXT"
            with m.State("ASK"):
                m.d.sync += wait.eq(wait + 1)
                with m.If(wait == self._page_cycles):
                    m.d.sync += [
                        read.row.eq(Cat(row[:rows_log2], self.answer.page)), read.n_rows.eq(stop - row),
                        read.n_longer.eq(Mux(last & ~in_sinks, n_longer, 0)),
                    ]
                    m.next = "REST"
                    with m.If(~self.answer.ok):
                        m.next = "MISSING"
            with m.State("REST"):
                m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += row.eq(next_page)
                    m.next = "ASK"
                    with m.If(last):
                        m.next = "NEXT"
                        with m.If(in_sinks & ~nothing_left):
                            m.d.sync += [in_sinks.eq(0), row.eq(start_row)]
                            m.next = "ASK"
            with m.State("NEXT"):
                m.d.sync += self.token.eq(self.token + 1)
                m.next = "AIM"
                with m.If(self.token == self.n_tokens - 1):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
            with m.State("MISSING"):
                m.d.comb += self.missing.eq(1)
        return m
