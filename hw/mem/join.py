"""One beat from each port makes one beat of all ports; port p at bits 8 port_bytes p."""

from amaranth.hdl import Cat, Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import Buffer, connect

__all__ = ["Join"]


class Join(wiring.Component):
    """``n_ports`` streams ``i`` into one stream ``o``, as fast as the slowest.

    Paths: i[*].valid -> i[*].ready. Latency: 1 cycle. Rate: 1 beat a cycle.
    """

    def __init__(self, *, n_ports, port_bytes):
        if n_ports not in (1, 2, 4):
            raise ValueError(f"n_ports must be 1, 2 or 4, not {n_ports!r}")
        if port_bytes not in (4, 8, 16):
            raise ValueError(f"port_bytes must be 4, 8 or 16, not {port_bytes!r}")
        super().__init__({
            "i": In(stream.Signature(8 * port_bytes)).array(n_ports),
            "o": Out(stream.Signature(8 * n_ports * port_bytes)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.buffer = buffer = Buffer(self.o.p.shape())
        m.d.comb += [
            buffer.i.p.eq(Cat(port.p for port in self.i)),
            buffer.i.valid.eq(Cat(port.valid for port in self.i).all()),
        ]
        m.d.comb += [port.ready.eq(buffer.i.ready & buffer.i.valid) for port in self.i]
        connect(m, buffer.o, self.o)
        return m
