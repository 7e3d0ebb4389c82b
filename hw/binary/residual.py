"""X: rows of the residual stream, and who may use them.

::

    post --- want ---> grant --+--> one read port
    norm --- want ---> grant --+--> one write port
    i (loader) ----------------> the write port, in cycles in which neither writes
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .links import XRow, XWrite

__all__ = ["ResidualMemory"]

_ULTRA_WORDS = 1024


class ResidualMemory(wiring.Component):
    """The memory of the residual stream.

    Parameters
    ----------
    token_lanes, x_words : elements of a row; rows

    Members, for ``c`` in post and norm
    -----------------------------------
    c_want, c_grant
        The memory is c's from ``grant`` on until it drops ``want``; of two that want it norm comes first. Its other members count
        only meanwhile.
    c_read_en, c_read_addr, c_read_data : a row, a cycle later, until the next read
    c_write_en, c_write_addr, c_write_data : a row

    ``i`` is a stream of XWrite. It waits for a cycle in which nobody writes and needs no grant: rows that are loaded do not wait
    for a unit that has X and waits for memory itself.
    """

    def __init__(self, *, token_lanes, x_words):
        if not 2 <= x_words <= 1 << 16:
            raise ValueError(f"x_words must be 2 to 65536, not {x_words!r}")
        self._lanes, self._words = token_lanes, x_words
        row = XRow(token_lanes)
        clients = {}
        for name in ("post", "norm"):
            clients |= {
                f"{name}_want": In(1), f"{name}_grant": Out(1),
                f"{name}_read_en": In(1), f"{name}_read_addr": In(16), f"{name}_read_data": Out(row),
                f"{name}_write_en": In(1), f"{name}_write_addr": In(16), f"{name}_write_data": In(row)}
        super().__init__({**clients, "i": In(stream.Signature(XWrite(token_lanes)))})

    def elaborate(self, platform):
        m = Module()
        style = "ultra" if self._words >= _ULTRA_WORDS else "block"
        m.submodules.array = array = memory.Memory(shape=XRow(self._lanes), depth=self._words, init=[], attrs={"ram_style": style})
        read, write = array.read_port(), array.write_port()

        with m.If(~(self.post_grant & self.post_want)):
            m.d.sync += self.norm_grant.eq(self.norm_want)
        with m.If(~(self.norm_grant & self.norm_want)):
            m.d.sync += self.post_grant.eq(self.post_want & (self.post_grant | ~self.norm_want))

        norm, written = self.norm_grant, Signal()
        m.d.comb += [
            read.en.eq(Mux(norm, self.norm_read_en, self.post_read_en & self.post_grant)),
            read.addr.eq(Mux(norm, self.norm_read_addr, self.post_read_addr)),
            self.post_read_data.eq(read.data), self.norm_read_data.eq(read.data),
            written.eq((self.norm_write_en & norm) | (self.post_write_en & self.post_grant)),
            self.i.ready.eq(~written), write.en.eq(written | self.i.valid),
        ]
        with m.If(~written):
            m.d.comb += [write.addr.eq(self.i.p.addr), write.data.eq(self.i.p.row)]
        with m.Elif(norm):
            m.d.comb += [write.addr.eq(self.norm_write_addr), write.data.eq(self.norm_write_data)]
        with m.Else():
            m.d.comb += [write.addr.eq(self.post_write_addr), write.data.eq(self.post_write_data)]
        return m
