"""Read plans in the order of the program; an ATTEND's become one for each page that its segments visit.

::

    i --> [queue] --+--------------------------------------------> o
                    +--> ATTEND: walk of the segments --> pages ---^

The queue lets the sequencer go on while the ports are full of an ATTEND's past: the unit that is to take it may wait for a
descriptor further on, such as the one that takes the output of the ATTEND before.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..links import PLANS_AHEAD, Lane, Launch, PageAnswer, PageAsk
from ..mem.links import ErrorReport
from ..regs import Error
from ..stream import Queue, connect
from .links import ReadPlan, ReadRequest
from .segments import SegmentWalk

__all__ = ["ReadPlanner"]


class ReadPlanner(wiring.Component):
    """
    Parameters
    ----------
    n_ports, page_positions, page_cycles : as of SegmentWalk

    Members
    -------
    launch : constant while a program runs
    i : stream of ReadRequest
    o : stream of ReadPlan
    page_ask, page_answer : as of SegmentWalk
    error : PAGE, until a reset

    Paths: none. Rate: a request every 2 cycles, a page as of SegmentWalk.
    """

    def __init__(self, *, n_ports, page_positions, page_cycles):
        self._walk = {"n_ports": n_ports, "page_positions": page_positions, "page_cycles": page_cycles}
        super().__init__({
            "launch": In(Launch), "i": In(stream.Signature(ReadRequest)), "o": Out(stream.Signature(ReadPlan)),
            "page_ask": Out(PageAsk), "page_answer": In(PageAnswer), "error": Out(ErrorReport)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.walk = walk = SegmentWalk(**self._walk)
        m.submodules.queue = queue = Queue(ReadRequest, depth=PLANS_AHEAD, ram_style="distributed")
        connect(m, wiring.flipped(self.i), queue.i)
        request, plan, pages = queue.o.p, Signal(ReadPlan), walk.o.p
        lane, page_beats, walking = Signal(Lane, reset_less=True), Signal(24, reset_less=True), Signal()
        m.d.sync += [lane.eq(self.launch.lanes[walk.token]), page_beats.eq(pages.n_rows * request.plan.extra_beats)]
        m.d.comb += [
            walk.n_tokens.eq(self.launch.n_tokens), walk.lane.eq(lane),
            walk.window.eq(request.window), walk.sinks.eq(request.sinks),
            self.page_ask.eq(walk.ask), walk.answer.eq(self.page_answer),
            plan.eq(request.plan), self.error.index.eq(request.plan.index),
        ]
        with m.If(walk.missing):
            m.d.comb += [self.error.valid.eq(1), self.error.code.eq(Error.PAGE)]
        with m.If(walking):
            m.d.comb += [plan.factor_a.eq(pages.row), plan.beats.eq(page_beats), plan.n_longer.eq(pages.n_longer)]

        free = ~self.o.valid
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(Mux(walking, walk.o.valid & walk.o.ready, queue.o.valid & queue.o.ready)):
            m.d.sync += [self.o.p.eq(plan), self.o.valid.eq(1)]
        with m.FSM():
            with m.State("REQUEST"):
                m.d.comb += [walk.start.eq(queue.o.valid & request.attend), queue.o.ready.eq(free & ~request.attend)]
                with m.If(queue.o.valid & request.attend):
                    m.next = "PAGES"
            with m.State("PAGES"):
                m.d.comb += [walking.eq(1), walk.o.ready.eq(free)]
                with m.If(walk.done):
                    m.next = "TAKEN"
            with m.State("TAKEN"):
                # The request was needed until the last page was out; nothing is offered in its place.
                m.d.comb += [walking.eq(1), queue.o.ready.eq(1)]
                m.next = "REQUEST"
        return m
