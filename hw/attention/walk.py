"""Queries of a segment in order: token outside, head inside, with the lane and pass of each.

``lane = (token + head) mod A``; ``number`` is how many queries of that lane came before. One query a ``step``.
"""

from amaranth.hdl import Array, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .links import AttentionSizes

__all__ = ["QueryWalk"]


class QueryWalk(wiring.Component):
    """Counters over the queries of a segment.

    Members
    -------
    restart : In(1), go to the first query
    step : In(1), go to the next
    first : In(4), the first token of the segment
    ends : In(1), a token: the last of a segment
    group : In, at least 1
    token, head, lane, number, last : Out, the query at hand
    counts : Out, a lane: its queries before the one at hand
    """

    def __init__(self, *, sizes):
        if not isinstance(sizes, AttentionSizes):
            raise TypeError(f"sizes must be AttentionSizes, not {sizes!r}")
        self._sizes = sizes
        counts = Out(range(sizes.max_passes + 1)).array(sizes.query_lanes)
        super().__init__({
            "restart": In(1), "step": In(1), "first": In(4), "ends": In(self._sizes.token_lanes), "group": In(6),
            "token": Out(4), "head": Out(6), "lane": Out(range(sizes.query_lanes)),
            "number": Out(range(sizes.max_passes + 1)), "last": Out(1), "counts": counts})

    def elaborate(self, platform):
        m = Module()
        last_head = self.head == self.group - 1
        m.d.comb += [
            self.lane.eq(self._sizes.slots.lane(self.token, self.head)),
            self.number.eq(Array(self.counts)[self.lane]),
            self.last.eq(last_head & self.ends.bit_select(self.token, 1)),
        ]
        with m.If(self.step):
            m.d.sync += [self.head.eq(Mux(last_head, 0, self.head + 1)), self.token.eq(self.token + last_head)]
            for lane, count in enumerate(self.counts):
                m.d.sync += count.eq(count + (self.lane == lane))
        with m.If(self.restart):
            m.d.sync += [self.head.eq(0), self.token.eq(self.first)]
            m.d.sync += [count.eq(0) for count in self.counts]
        return m
