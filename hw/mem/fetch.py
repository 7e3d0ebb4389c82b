"""Fetches the descriptors of a program, some ahead of their use.

::

    start -> cutter (program_count descriptors, one burst each) -> issue -> AR ..memory.. R -> gather -> [queue 8] -> o

It stops at an END of every program, at ``stop``, or after program_count descriptors; what was asked for beyond that is thrown away.
"""

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..isa import DESCRIPTOR_BYTES, End, Header, Opcode
from ..regs import Error
from ..stream import Queue
from .axi import AxiRead
from .cutter import BurstCutter, check_port
from .links import ErrorReport, Fetched, Windows

__all__ = ["DescriptorFetch", "used_bits"]

_AHEAD = 8


def used_bits(words):
    """How many bits of a descriptor of the instruction set ``words`` mean something: the reserved ones at the end of every body are
    not kept."""
    return words.Header.as_shape().size + max(dict(body.as_shape())["reserved"].offset for body in words.BODIES.values())


class DescriptorFetch(wiring.Component):
    """Reads descriptors from the model window. Its requests have ID 0; :class:`ReadShare` gives them their own.

    Parameters
    ----------
    port_bytes, addr_bits : sizes of the port
    words : the instruction set, a module like ``celosia.hw.isa``; ``End.above`` is zero where it has no such field

    Members
    -------
    start : strobe: fetch ``program_count`` (1 .. 65536) descriptors from byte ``program_offset`` of the model window
    stop : the program has ended: ask for nothing more, until the next start
    o : stream of Fetched
    axi, windows, flush, idle : as in PortReader
    error : READ_WINDOW, AXI_READ; the index is that of the descriptor that could not be read
    count_beat : strobe: a beat came

    Paths: none.
    """

    def __init__(self, *, port_bytes, addr_bits, words=isa):
        self._used_bits = used_bits(words)
        self._burst_beats = DESCRIPTOR_BYTES // port_bytes
        check_port(port_bytes, addr_bits, self._burst_beats)
        self._port_bytes, self._addr_bits = port_bytes, addr_bits
        super().__init__({
            "start": In(1), "stop": In(1), "program_offset": In(40), "program_count": In(17),
            "o": Out(stream.Signature(Fetched)),
            "axi": Out(AxiRead(addr_bits=addr_bits, port_bytes=port_bytes)),
            "windows": In(Windows),
            "flush": In(1), "idle": Out(1),
            "error": Out(ErrorReport),
            "count_beat": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        cleared = ResetInserter(self.flush)
        beats_log2 = self._burst_beats.bit_length() - 1
        room_beats = _AHEAD * self._burst_beats
        stop = Signal()
        m.submodules.cutter = cutter = ResetInserter(self.flush | stop)(BurstCutter(
            port_bytes=self._port_bytes, addr_bits=self._addr_bits, burst_beats=self._burst_beats, tag=1))
        m.submodules.queue = queue = cleared(Queue(
            data.StructLayout({"bits": self._used_bits, "index": 16, "last": 1}), depth=_AHEAD, ram_style="distributed"))
        m.d.comb += [
            self.o.p.bits.eq(queue.o.p.bits), self.o.p.index.eq(queue.o.p.index), self.o.p.last.eq(queue.o.p.last),
            self.o.valid.eq(queue.o.valid), queue.o.ready.eq(self.o.ready),
        ]

        # Ask for one burst after another while the queue has room; count beats to know whose they are.
        ar, burst = self.axi.ar, cutter.o
        room = Signal(range(room_beats + 1), init=room_beats)
        outstanding = Signal(range(room_beats + 1))
        asked_beats = Signal(16 + beats_log2)
        last_index = Signal(16)
        issue, landed, leave = Signal(), Signal(), Signal()
        m.d.comb += [
            cutter.windows.eq(self.windows),
            cutter.i.valid.eq(self.start), cutter.i.p.offset.eq(self.program_offset),
            cutter.i.p.beats.eq(self.program_count << beats_log2),
            issue.eq(burst.valid & ~burst.p.bad & (burst.p.beats <= room) & (~ar.valid | ar.ready)
                     & ~self.flush & ~stop),
            burst.ready.eq(issue),
        ]
        with m.If(~ar.valid | ar.ready):
            m.d.sync += [ar.valid.eq(issue), ar.p.addr.eq(burst.p.addr), ar.p.len.eq(burst.p.beats - 1)]
        m.d.sync += [
            outstanding.eq(outstanding + issue - landed),
            room.eq(room - Mux(issue, burst.p.beats, 0) + (leave << beats_log2)),
        ]
        with m.If(issue):
            m.d.sync += asked_beats.eq(asked_beats + burst.p.beats)

        # Gather.
        r = self.axi.r
        gathered = Signal(8 * DESCRIPTOR_BYTES, reset_less=True)
        beat = Signal(beats_log2)
        index = Signal(16)
        header_bits = Header.as_shape().size
        header, end = data.View(Header, gathered[:header_bits]), data.View(End, gathered[header_bits:])
        full, take, at_end, stopped = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            at_end.eq(full & (header.opcode == Opcode.END) & (end.above == 0)), stop.eq(at_end | stopped),
            r.ready.eq(1), take.eq(r.valid & ~self.flush & ~stop), landed.eq(r.valid & r.p.last),
            queue.i.valid.eq(full), queue.i.p.bits.eq(gathered), queue.i.p.index.eq(index),
            queue.i.p.last.eq(index == last_index),
            leave.eq(queue.o.valid & queue.o.ready),
        ]
        m.d.sync += full.eq(take & beat.all())
        with m.If(take):
            m.d.sync += [gathered.eq(Cat(gathered[8 * self._port_bytes:], r.p.data)), beat.eq(beat + 1)]
        with m.If(full):
            m.d.sync += index.eq(index + 1)

        with m.If(self.start):
            m.d.sync += last_index.eq(self.program_count - 1)
        with m.If(at_end | self.stop):
            m.d.sync += stopped.eq(1)
        with m.If(self.flush | self.start):
            m.d.sync += [stopped.eq(0), room.eq(room_beats), asked_beats.eq(0), beat.eq(0), index.eq(0), full.eq(0)]

        m.d.comb += [self.idle.eq(outstanding == 0), self.count_beat.eq(take)]
        with m.If(take & r.p.resp[1]):
            m.d.comb += [self.error.valid.eq(1), self.error.code.eq(Error.AXI_READ), self.error.index.eq(index + full)]
        with m.Elif(burst.valid & burst.p.bad & (outstanding == 0) & ~full):
            # Only now is it sure that no END comes before it.
            m.d.comb += [self.error.valid.eq(~self.flush & ~stop), self.error.code.eq(Error.READ_WINDOW),
                         self.error.index.eq(asked_beats >> beats_log2)]
        return m
