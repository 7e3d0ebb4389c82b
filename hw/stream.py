"""Joining streams: a checked ``connect``, a register that cuts every path, and a queue.

The rules of a stream: valid & ready is a transfer; once valid, valid and payload hold until it; valid never waits for ready.

======================  =====================  ===========  ========
link                    cuts valid and payload cuts ready   capacity
======================  =====================  ===========  ========
:func:`connect`         no                     no           0
:class:`Buffer`         yes                    yes          2
:class:`Queue`          yes                    yes          depth
======================  =====================  ===========  ========
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["connect", "Buffer", "Queue"]


def connect(m, source, sink):
    """Join an output stream to an input stream of the very same payload shape; raises TypeError when they differ."""
    if source.p.shape() != sink.p.shape():
        raise TypeError(f"Streams must carry the same payload, not {source.p.shape()!r} and {sink.p.shape()!r}")
    m.d.comb += [sink.p.eq(source.p), sink.valid.eq(source.valid), source.ready.eq(sink.ready)]


class Buffer(wiring.Component):
    """Two words that cut all combinational paths between two rooms.

    Paths: none. Latency: 1 cycle. Rate: 1 word a cycle.
    """

    def __init__(self, shape):
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        spare = Signal(self.i.p.shape(), reset_less=True)
        spare_full = Signal()
        m.d.comb += self.i.ready.eq(~spare_full)
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [
                self.o.valid.eq(spare_full | self.i.valid),
                self.o.p.eq(Mux(spare_full, spare, self.i.p)),
                spare_full.eq(0),
            ]
        with m.Elif(self.i.valid & self.i.ready):
            m.d.sync += [spare.eq(self.i.p), spare_full.eq(1)]
        return m


class Queue(wiring.Component):
    """A first-in first-out memory of ``depth`` words (a power of two), with a registered output.

    ``level`` counts the words that have been taken in and not yet left. ``ram_style`` is the synthesis attribute of the array
    ("distributed", "block", "ultra"). Paths: none. Latency: 2 cycles. Rate: 1 word a cycle.
    """

    def __init__(self, shape, *, depth, ram_style=None):
        if not isinstance(depth, int) or depth < 2 or depth & (depth - 1):
            raise ValueError(f"Queue depth must be a power of two of at least 2, not {depth!r}")
        self._shape, self._depth, self._ram_style = shape, depth, ram_style
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)),
                          "level": Out(range(depth + 4))})

    def elaborate(self, platform):
        m = Module()
        attrs = {"ram_style": self._ram_style} if self._ram_style else {}
        m.submodules.mem = mem = memory.Memory(shape=self._shape, depth=self._depth, init=[], attrs=attrs)
        write, read = mem.write_port(), mem.read_port(domain="sync")

        # The array holds `stored` words; a word read from it waits at the read port (`fetched`) until `o` is free.
        stored, fetched = Signal(range(self._depth + 1)), Signal()
        push, fetch, pass_on = Signal(), Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~stored[-1]),       # the depth is a power of two: the upper bit says full
            push.eq(self.i.valid & self.i.ready),
            write.en.eq(push), write.data.eq(self.i.p),
            pass_on.eq(fetched & (~self.o.valid | self.o.ready)),
            fetch.eq((stored != 0) & (~fetched | pass_on)),
            read.en.eq(fetch),
        ]
        m.d.sync += fetched.eq(fetch | (fetched & ~pass_on))
        leave = self.o.valid & self.o.ready
        for count, down in (stored, fetch), (self.level, leave):
            with m.If(push ^ down):
                m.d.sync += count.eq(count + Mux(push, 1, -1))
        with m.If(push):
            m.d.sync += write.addr.eq(write.addr + 1)
        with m.If(fetch):
            m.d.sync += read.addr.eq(read.addr + 1)
        with m.If(pass_on):
            m.d.sync += [self.o.valid.eq(1), self.o.p.eq(read.data)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
