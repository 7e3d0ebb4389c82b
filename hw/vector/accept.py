"""Accept: which lanes got the token that the lane before them would have chosen.

A draft of some tokens is run as one segment. Lane t is accepted when its token is the best candidate of lane t - 1, and the lanes
of its segment before it are, but for the first, which nobody chose here.

::

    lane t --> token_lane, read_lane = t - 1 --(a cycle)--> token == best? --> good --> accepted[t]
                                                                               |
                                                            lane t + 1 <-------+

Golden: ``celosia.gen.golden.vector.accepted``.
"""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..links import Launch

__all__ = ["Accept"]


class Accept(wiring.Component):
    """
    Members
    -------
    start : In(1)
        Strobe, while the candidates stand still: walk the lanes.
    launch : In(Launch)
        Constant from start on.
    token_lane : Out(4); token : In(32)
        The lane whose token id is wanted, and the id, one cycle later.
    read_lane : Out(4); best : In(20), has_best : In(1)
        The lane whose best candidate is wanted, and one cycle later its number and whether there is one.
    accepted : Out(16)
        Bit t as in register ACCEPTED; lanes from n_tokens on are 0. Final when ``busy`` falls.
    busy : Out(1)
        From the cycle after ``start`` for n_tokens + 1 cycles.

    Paths: none.
    """

    def __init__(self):
        super().__init__({
            "start": In(1), "launch": In(Launch), "token_lane": Out(4), "token": In(32),
            "read_lane": Out(4), "best": In(20), "has_best": In(1), "accepted": Out(16), "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        n_asked, asked, lane = Signal(5), Signal(), Signal(4)       # lanes asked for; the answer of `lane` is there
        good, last = Signal(), Signal()
        m.d.comb += [
            self.token_lane.eq(n_asked), self.read_lane.eq(n_asked - 1), last.eq(asked & (n_asked == self.launch.n_tokens)),
        ]
        m.d.sync += lane.eq(n_asked)
        with m.If(self.start):
            m.d.sync += [self.busy.eq(1), self.accepted.eq(0), n_asked.eq(0), asked.eq(0)]
        with m.Elif(self.busy):
            m.d.sync += [n_asked.eq(n_asked + 1), asked.eq(1), self.busy.eq(~last)]

        first = Array(self.launch.lanes[t].first for t in range(16))[lane]
        chosen = good & self.has_best & (self.token == self.best)
        with m.If(asked & self.busy):
            m.d.sync += [good.eq(first | chosen), self.accepted.bit_select(lane, 1).eq(chosen & ~first)]
        return m
