"""The reader of a port: read jobs in, their data out, in order, to one of three places, as far ahead as there is room.

::

    i_job -> [queue 16] -> cutter -> issue -> AR ....memory.... R -> [queue of queue_beats] -> steer -> o_loader
                                       ^  (dest, index) of each burst in flight  ^                   -> o_matmul
                                       +---- room: beats neither promised nor held                   -> o_attend

A burst is asked for when its window allows it, when the queue has room for all of it, when fewer than
read_outstanding bursts are in flight, and when the port is not held; so memory never waits for the queue. Rate: a beat a
cycle with bursts of 3 beats or more.
"""

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..links import Dest, ReadJob
from ..regs import Error
from ..stream import Queue
from .axi import AxiRead, ReadData
from .cutter import BurstCutter, check_port
from .links import ErrorReport, Windows

__all__ = ["PortReader", "power_of_two"]

_JOBS = 16


def power_of_two(n):
    """The smallest power of two, of at least 2, that is not below ``n``."""
    return max(2, 1 << (n - 1).bit_length())


class _Tag(data.Struct):
    dest: Dest
    index: 16


class _Word(data.StructLayout):
    def __init__(self, port_bytes):
        super().__init__({"data": 8 * port_bytes, "dest": Dest})


class PortReader(wiring.Component):
    """Reads one AXI4 port, with ID 0.

    Parameters
    ----------
    port_bytes, addr_bits : sizes of the port
    queue_beats : beats that may be promised or held
    burst_beats : longest burst
    read_outstanding : bursts in flight

    Members
    -------
    i_job : stream of ReadJob
    o_loader, o_matmul, o_attend : streams of one beat
    axi : AxiRead
    windows : Windows, constant while anything is at work
    flush : stop asking, throw away what comes and what is held; keep it up until ``idle``
    room : beats neither promised nor held
    hold : ask for nothing
    idle : nothing outstanding
    error : READ_WINDOW (nothing is asked for any more), AXI_READ; with the index of the job's descriptor
    count_beat, count_full, count_idle : strobes: a beat came, a burst waited for room, there was nothing to ask for

    Paths: o.ready only into the queue; no input to an output.
    """

    def __init__(self, *, port_bytes, addr_bits, queue_beats, burst_beats, read_outstanding):
        check_port(port_bytes, addr_bits, burst_beats)
        if not isinstance(queue_beats, int) or queue_beats < burst_beats:
            raise ValueError(f"queue_beats must be an integer that holds a burst of {burst_beats}, not {queue_beats!r}")
        if not isinstance(read_outstanding, int) or read_outstanding < 1:
            raise ValueError(f"read_outstanding must be a positive integer, not {read_outstanding!r}")
        self._port_bytes, self._addr_bits = port_bytes, addr_bits
        self._queue_beats, self._burst_beats, self._read_outstanding = queue_beats, burst_beats, read_outstanding
        beat = stream.Signature(8 * port_bytes)
        super().__init__({
            "i_job": In(stream.Signature(ReadJob)),
            "o_loader": Out(beat), "o_matmul": Out(beat), "o_attend": Out(beat),
            "axi": Out(AxiRead(addr_bits=addr_bits, port_bytes=port_bytes)),
            "windows": In(Windows),
            "room": Out(range(queue_beats + 1), init=queue_beats), "hold": In(1),
            "flush": In(1), "idle": Out(1),
            "error": Out(ErrorReport),
            "count_beat": Out(1), "count_full": Out(1), "count_idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        cleared = ResetInserter(self.flush)
        depth = power_of_two(self._queue_beats)
        style = "ultra" if depth >= 2048 else "block" if depth >= 128 else "distributed"
        m.submodules.jobs = jobs = cleared(Queue(ReadJob, depth=_JOBS, ram_style="distributed"))
        m.submodules.cutter = cutter = cleared(BurstCutter(
            port_bytes=self._port_bytes, addr_bits=self._addr_bits, burst_beats=self._burst_beats, tag=_Tag))
        m.submodules.flights = flights = cleared(Queue(_Tag, depth=power_of_two(self._read_outstanding),
                                                       ram_style="distributed"))
        m.submodules.queue = queue = cleared(Queue(_Word(self._port_bytes), depth=depth, ram_style=style))

        job = jobs.o.p
        m.d.comb += [
            jobs.i.p.eq(self.i_job.p), jobs.i.valid.eq(self.i_job.valid), self.i_job.ready.eq(jobs.i.ready),
            cutter.i.p.offset.eq(job.offset), cutter.i.p.cache.eq(job.cache), cutter.i.p.beats.eq(job.beats),
            cutter.i.p.tag.dest.eq(job.dest), cutter.i.p.tag.index.eq(job.index),
            cutter.i.valid.eq(jobs.o.valid), jobs.o.ready.eq(cutter.i.ready),
            cutter.windows.eq(self.windows),
        ]

        # Ask. `room` and `outstanding` change when a burst is issued, before memory takes it.
        ar, burst = self.axi.ar, cutter.o
        room = self.room
        outstanding = Signal(range(self._read_outstanding + 1))
        fits, issue, leave, left, landed = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            fits.eq(burst.p.beats <= room),
            issue.eq(burst.valid & ~burst.p.bad & fits & (outstanding != self._read_outstanding)
                     & (~ar.valid | ar.ready) & flights.i.ready & ~self.hold & ~self.flush),
            burst.ready.eq(issue),
            flights.i.valid.eq(issue), flights.i.p.eq(burst.p.tag),
        ]
        with m.If(~ar.valid | ar.ready):
            m.d.sync += [ar.valid.eq(issue), ar.p.addr.eq(burst.p.addr), ar.p.len.eq(burst.p.beats - 1)]
        m.d.sync += [
            outstanding.eq(outstanding + issue - landed),
            left.eq(leave), room.eq(room - Mux(issue, burst.p.beats, 0) + left),
        ]
        with m.If(self.flush):
            m.d.sync += room.eq(self._queue_beats)

        # Take. A word waits in a register until its burst is known; there is always room for it in the queue.
        r = self.axi.r
        word = Signal(ReadData(self._port_bytes, 1), reset_less=True)
        word_valid, take = Signal(), Signal()
        m.d.comb += [
            take.eq(word_valid & (flights.o.valid | self.flush)),
            r.ready.eq(~word_valid | take),
            landed.eq(take & word.last),
            flights.o.ready.eq(landed),
            queue.i.valid.eq(word_valid & flights.o.valid),
            queue.i.p.data.eq(word.data), queue.i.p.dest.eq(flights.o.p.dest),
        ]
        with m.If(r.ready):
            m.d.sync += [word_valid.eq(r.valid), word.eq(r.p)]

        outputs = {Dest.LOADER: self.o_loader, Dest.MATMUL: self.o_matmul, Dest.ATTEND: self.o_attend}
        for dest, output in outputs.items():
            m.d.comb += [output.valid.eq(queue.o.valid & (queue.o.p.dest == dest)), output.p.eq(queue.o.p.data)]
            with m.If(queue.o.p.dest == dest):
                m.d.comb += queue.o.ready.eq(output.ready)
        m.d.comb += leave.eq(queue.o.valid & queue.o.ready)

        m.d.comb += [
            self.idle.eq(outstanding == 0),
            self.count_beat.eq(take & ~self.flush),
            self.count_full.eq(burst.valid & ~burst.p.bad & ~fits),
            self.count_idle.eq(~burst.valid & cutter.idle & ~jobs.o.valid),
        ]
        with m.If(take & word.resp[1]):
            m.d.comb += [self.error.valid.eq(~self.flush), self.error.code.eq(Error.AXI_READ),
                         self.error.index.eq(flights.o.p.index)]
        with m.Elif(burst.valid & burst.p.bad):
            m.d.comb += [self.error.valid.eq(~self.flush), self.error.code.eq(Error.READ_WINDOW),
                         self.error.index.eq(burst.p.tag.index)]
        return m
