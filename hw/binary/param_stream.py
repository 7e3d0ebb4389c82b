"""Reads parameter words ahead of the rows that need them.

::

    i: base, count --> address --> P --> [queue 8] --> o: words in order

Rate: a word a cycle. Latency: 4 cycles from a request to its first word.
"""

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import Queue, connect

__all__ = ["ParamRequest", "ParamStream"]

_DEPTH = 8


class ParamRequest(data.Struct):
    """``count`` words from ``base`` on."""
    base: unsigned(16)
    count: unsigned(16)


class ParamStream(wiring.Component):
    """The reader of P.

    Members
    -------
    i : stream of ParamRequest, taken when all words of the one before have been read; their words follow one another in ``o``
    p_addr, p_data : read port of P: the word of an address a cycle later
    o : stream of 64 bits

    Paths: none.
    """

    def __init__(self):
        super().__init__({"i": In(stream.Signature(ParamRequest)), "p_addr": Out(16), "p_data": In(64),
                          "o": Out(stream.Signature(64))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = Queue(64, depth=_DEPTH, ram_style="distributed")
        connect(m, queue.o, self.o)
        left, fetch, fetched = Signal(16), Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(left == 0),
            fetch.eq((left != 0) & (queue.level < _DEPTH - 1)),     # one is on its way
            queue.i.valid.eq(fetched), queue.i.p.eq(self.p_data),
        ]
        m.d.sync += fetched.eq(fetch)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [left.eq(self.i.p.count), self.p_addr.eq(self.i.p.base)]
        with m.Elif(fetch):
            m.d.sync += [left.eq(left - 1), self.p_addr.eq(self.p_addr + 1)]
        return m
