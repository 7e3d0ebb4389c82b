"""The writer of a port: records in, AXI bursts out; each burst is asked for when all its data are here.

::

    i --+--> [data queue 32] ---------------------------> W (filler with no strobes in a flush)
        +--> [offset, beats, index] -> cutter -> issue -> AW          B -> answered

Rate: a beat a cycle inside a burst, one cycle between bursts. W never waits for data once its burst has begun.
"""

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..regs import Error
from ..stream import Queue, connect
from .axi import AxiWrite
from .cutter import BurstCutter, Transfer, check_port
from .links import ErrorReport, Windows, WriteWord

__all__ = ["PortWriter"]

_DATA_BEATS = 32
_RECORDS = 4
_OUTSTANDING = 8


class PortWriter(wiring.Component):
    """Writes records into the cache window through one AXI4 port, with ID 0.

    Members
    -------
    i : stream of WriteWord; a record's first word says where and how long
    axi : AxiWrite
    windows : Windows
    flush : begin nothing more, finish what has begun, drop the rest; keep it up until ``idle``
    idle : all that came in has been written and answered
    error : WRITE_WINDOW (nothing more is written), AXI_WRITE; with the record's index
    count_beat : strobe: a beat went out

    Paths: none.
    """

    def __init__(self, *, port_bytes, addr_bits, burst_beats=16):
        check_port(port_bytes, addr_bits, burst_beats)
        if burst_beats > _DATA_BEATS // 2:
            raise ValueError(f"burst_beats of a writer must be at most {_DATA_BEATS // 2}, not {burst_beats!r}")
        self._port_bytes, self._addr_bits, self._burst_beats = port_bytes, addr_bits, burst_beats
        super().__init__({
            "i": In(stream.Signature(WriteWord(port_bytes))),
            "axi": Out(AxiWrite(addr_bits=addr_bits, port_bytes=port_bytes)),
            "windows": In(Windows),
            "flush": In(1), "idle": Out(1),
            "error": Out(ErrorReport),
            "count_beat": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        cleared = ResetInserter(self.flush)
        m.submodules.words = words = cleared(Queue(8 * self._port_bytes, depth=_DATA_BEATS, ram_style="distributed"))
        m.submodules.records = records = cleared(Queue(Transfer(16), depth=_RECORDS, ram_style="distributed"))
        m.submodules.flights = flights = cleared(Queue(16, depth=_OUTSTANDING, ram_style="distributed"))
        m.submodules.cutter = cutter = cleared(BurstCutter(
            port_bytes=self._port_bytes, addr_bits=self._addr_bits, burst_beats=self._burst_beats, tag=16))
        connect(m, records.o, cutter.i)
        m.d.comb += [
            cutter.windows.eq(self.windows),
            self.i.ready.eq(words.i.ready & records.i.ready),
            words.i.valid.eq(self.i.valid & records.i.ready), words.i.p.eq(self.i.p.data),
            records.i.valid.eq(self.i.valid & self.i.p.first & words.i.ready),
            records.i.p.offset.eq(self.i.p.offset), records.i.p.cache.eq(1),
            records.i.p.beats.eq(self.i.p.beats), records.i.p.tag.eq(self.i.p.index),
        ]

        aw, w, b, burst = self.axi.aw, self.axi.w, self.axi.b, cutter.o
        left_beats = Signal(range(self._burst_beats + 1))
        outstanding = Signal(range(_OUTSTANDING + 1))
        issue, send, answered = Signal(), Signal(), Signal()
        m.d.comb += [
            issue.eq(burst.valid & ~burst.p.bad & (left_beats == 0) & (words.level >= burst.p.beats)
                     & (outstanding != _OUTSTANDING) & flights.i.ready & (~aw.valid | aw.ready) & ~self.flush),
            burst.ready.eq(issue),
            flights.i.valid.eq(issue), flights.i.p.eq(burst.p.tag),
            send.eq((left_beats != 0) & (~w.valid | w.ready) & (words.o.valid | self.flush)),
            words.o.ready.eq(send),
            b.ready.eq(flights.o.valid | self.flush),
            answered.eq(b.valid & b.ready),
            flights.o.ready.eq(answered),
        ]
        with m.If(~aw.valid | aw.ready):
            m.d.sync += [aw.valid.eq(issue), aw.p.addr.eq(burst.p.addr), aw.p.len.eq(burst.p.beats - 1)]
        with m.If(~w.valid | w.ready):
            m.d.sync += [w.valid.eq(send), w.p.data.eq(words.o.p), w.p.last.eq(left_beats == 1),
                         w.p.strb.eq(Mux(self.flush, 0, -1))]
        m.d.sync += outstanding.eq(outstanding + issue - answered)
        with m.If(issue):
            m.d.sync += left_beats.eq(burst.p.beats)
        with m.Elif(send):
            m.d.sync += left_beats.eq(left_beats - 1)

        m.d.comb += [
            self.idle.eq((outstanding == 0) & (words.level == 0) & (records.level == 0) & cutter.idle & ~burst.valid),
            self.count_beat.eq(w.valid & w.ready),
        ]
        with m.If(answered & b.p.resp[1]):
            m.d.comb += [self.error.valid.eq(~self.flush), self.error.code.eq(Error.AXI_WRITE),
                         self.error.index.eq(flights.o.p)]
        with m.Elif(burst.valid & burst.p.bad):
            m.d.comb += [self.error.valid.eq(~self.flush), self.error.code.eq(Error.WRITE_WINDOW),
                         self.error.index.eq(burst.p.tag)]
        return m
