"""Puts the data of a LOAD together: beats of all ports side by side, several beats a word, words of a row in order.

::

    port 0 --+
      ...    +--> beat of n_ports port_bytes bytes --> word of vector_lanes elements --> P at d_base + r d_stride + i
    port P-1-+    (port p at bits 8 port_bytes p)        (first beat: lowest lanes)

Rate: a beat a cycle.
"""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..links import ParamWrite
from .links import LoadCommand

__all__ = ["Loader"]


class Loader(wiring.Component):
    """The unit of LOAD.

    Parameters
    ----------
    n_ports, port_bytes, vector_lanes : 4 vector_lanes is a multiple of n_ports * port_bytes

    Members
    -------
    i_command : stream of LoadCommand
    i_ports : n_ports streams of port_bytes bytes
    o : stream of ParamWrite
    done : strobe: the last word of a command was taken

    Paths: i_ports[*].valid -> i_ports[*].ready; o.ready -> i_ports[*].ready.
    """

    def __init__(self, *, n_ports, port_bytes, vector_lanes):
        if n_ports not in (1, 2, 4):
            raise ValueError(f"n_ports must be 1, 2 or 4, not {n_ports!r}")
        if port_bytes not in (4, 8, 16):
            raise ValueError(f"port_bytes must be 4, 8 or 16, not {port_bytes!r}")
        if vector_lanes not in (2, 4, 8, 16) or 4 * vector_lanes % (n_ports * port_bytes):
            raise ValueError("vector_lanes must be 2, 4, 8 or 16, and 4 vector_lanes a multiple of n_ports port_bytes, "
                             f"not {vector_lanes!r}")
        self._n_ports, self._port_bytes, self._lanes = n_ports, port_bytes, vector_lanes
        super().__init__({
            "i_command": In(stream.Signature(LoadCommand)),
            "i_ports": In(stream.Signature(8 * port_bytes)).array(n_ports),
            "o": Out(stream.Signature(ParamWrite(vector_lanes))),
            "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        beats = 4 * self._lanes // (self._n_ports * self._port_bytes)
        command = Signal(LoadCommand, reset_less=True)
        busy, take = Signal(), Signal()
        beat = Signal(range(max(2, beats)))
        row_addr, addr = Signal(16, reset_less=True), Signal(16, reset_less=True)
        left_words = Signal(16, reset_less=True)
        last = Signal(reset_less=True)

        free = ~self.o.valid | self.o.ready
        m.d.comb += take.eq(busy & free & Cat(port.valid for port in self.i_ports).all())
        m.d.comb += [port.ready.eq(take) for port in self.i_ports]
        beat_bits = 8 * self._n_ports * self._port_bytes
        word = self.o.p.data.as_value()

        with m.If(free):
            m.d.sync += self.o.valid.eq(take & (beat == beats - 1))
        with m.If(take):
            m.d.sync += [
                word.eq(Cat(word, *(port.p for port in self.i_ports))[beat_bits:]),
                self.o.p.addr.eq(addr),
                beat.eq(0 if beats == 1 else beat + 1),
            ]
            with m.If(beat == beats - 1):
                m.d.sync += [addr.eq(addr + 1), left_words.eq(left_words - 1), last.eq(0)]
                with m.If(left_words == 1):
                    m.d.sync += [
                        addr.eq(row_addr + command.d_stride), row_addr.eq(row_addr + command.d_stride),
                        left_words.eq(command.n_words), command.n_rows.eq(command.n_rows - 1),
                    ]
                    with m.If(command.n_rows == 1):
                        m.d.sync += [busy.eq(0), last.eq(1)]
        m.d.comb += self.done.eq(self.o.valid & self.o.ready & last)

        # A command begins when the words of the one before it have left.
        m.d.comb += self.i_command.ready.eq(~busy & ~self.o.valid)
        with m.If(self.i_command.valid & self.i_command.ready):
            new = self.i_command.p
            m.d.sync += [
                busy.eq(1), command.eq(new), row_addr.eq(new.d_base), addr.eq(new.d_base), left_words.eq(new.n_words),
            ]
        return m
