"""Rows of a product to memory, as they are: a record a row, lane 0 first, four bytes each, little endian.

::

    row of M lanes --> word of port_bytes / 4 lanes after the other --> o
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..mem.links import WriteWord
from .isa import ROW_BITS

__all__ = ["RawRows"]


class RawRows(wiring.Component):
    """Sends a row that stands still.

    Parameters
    ----------
    token_lanes, port_bytes : 4 token_lanes is a multiple of port_bytes

    Members
    -------
    start : strobe: the next row goes to ``offset``, the others behind it; ``index`` as in WriteWord, constant from then on
    valid, y : a row; both hold until ``taken``
    taken : strobe: its last word was taken
    o : stream of WriteWord

    Path: valid, y -> o; o.ready -> taken.
    """

    def __init__(self, *, token_lanes, port_bytes):
        if port_bytes % 4 or 4 * token_lanes % port_bytes:
            raise ValueError("port_bytes must be a multiple of 4, and 4 token_lanes a multiple of it, "
                             f"not {port_bytes!r} and {token_lanes!r}")
        self._lanes, self._port_bytes = token_lanes, port_bytes
        super().__init__({
            "start": In(1), "offset": In(40), "index": In(16),
            "valid": In(1), "y": In(data.ArrayLayout(signed(ROW_BITS), token_lanes)), "taken": Out(1),
            "o": Out(stream.Signature(WriteWord(port_bytes))),
        })

    def elaborate(self, platform):
        m = Module()
        word_lanes, row_bytes = self._port_bytes // 4, 4 * self._lanes
        n_beats = row_bytes // self._port_bytes
        beat, last = Signal(range(max(2, n_beats))), Signal()
        offset = Signal(40, reset_less=True)
        words = Array(Cat(self.y[at + lane] for lane in range(word_lanes)) for at in range(0, self._lanes, word_lanes))
        word = Signal(data.ArrayLayout(signed(ROW_BITS), word_lanes))
        m.d.comb += [
            word.eq(words[beat]),
            last.eq(beat == n_beats - 1),
            self.o.valid.eq(self.valid), self.taken.eq(self.o.ready & last),
            self.o.p.data.eq(Cat(Cat(y, y[-1].replicate(32 - ROW_BITS)) for y in word)),
            self.o.p.offset.eq(offset), self.o.p.first.eq(beat == 0), self.o.p.last.eq(last),
            self.o.p.beats.eq(n_beats), self.o.p.index.eq(self.index),
        ]
        with m.If(self.start):
            m.d.sync += offset.eq(self.offset)
        with m.Elif(self.valid & self.o.ready):
            m.d.sync += beat.eq(Mux(last, 0, beat + 1))
            with m.If(last):
                m.d.sync += offset.eq(offset + row_bytes)
        return m
