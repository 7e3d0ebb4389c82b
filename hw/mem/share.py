"""Two readers on one AXI4 read port: requests of ``b`` go first, answers find their way by ID.

::

    a (ID 0) --AR--+
                   +--[Buffer]--> axi.ar          axi.r --+-- ID 0 --> a.r
    b (ID 1) --AR--+                                      +-- ID 1 --> b.r
"""

from amaranth.hdl import Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..stream import Buffer, connect
from .axi import AxiRead

__all__ = ["ReadShare"]


class ReadShare(wiring.Component):
    """``a`` and ``b`` read through ``axi``. ``b`` should ask seldom: it is never made to wait for ``a``.

    Answers of the two IDs may come interleaved. Paths: axi.r -> a.r, b.r; a.r.ready, b.r.ready -> axi.r.ready.
    """

    def __init__(self, *, port_bytes, addr_bits):
        port = AxiRead(addr_bits=addr_bits, port_bytes=port_bytes)
        super().__init__({"a": In(port), "b": In(port), "axi": Out(port)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.ar = ar = Buffer(self.axi.ar.p.shape())
        first, second, r = self.b.ar, self.a.ar, self.axi.r
        m.d.comb += [
            ar.i.valid.eq(first.valid | second.valid),
            ar.i.p.addr.eq(Mux(first.valid, first.p.addr, second.p.addr)),
            ar.i.p.len.eq(Mux(first.valid, first.p.len, second.p.len)),
            ar.i.p.id.eq(first.valid),
            first.ready.eq(ar.i.ready),
            second.ready.eq(ar.i.ready & ~first.valid),
            self.a.r.valid.eq(r.valid & ~r.p.id), self.a.r.p.eq(r.p),
            self.b.r.valid.eq(r.valid & r.p.id), self.b.r.p.eq(r.p),
            r.ready.eq(Mux(r.p.id, self.b.r.ready, self.a.r.ready)),
        ]
        connect(m, ar.o, self.axi.ar)
        return m
