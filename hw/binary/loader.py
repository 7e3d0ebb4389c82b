"""Puts the data of a LOAD together: beats of all ports side by side, several beats a word, words in order.

::

    port 0 --+                            +--> o_p    words of P, of a beat (at least one)       PARAM
      ...    +--> beat --> 2 M bytes -----+--> o_x    row of X, M elements of 16 bits            X
    port P-1-+    (port p at bits         +--> o_act  byte column of a line of ACT, M bytes      ACT
                   8 port_bytes p)

Rate: a beat a cycle.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .isa import Target
from .links import ActWrite, LoadCommand, ParamWrite, XWrite

__all__ = ["BinaryLoader"]


class BinaryLoader(wiring.Component):
    """The unit of LOAD.

    Parameters
    ----------
    n_ports, port_bytes : read ports and their width
    token_lanes : M, a multiple of n_ports * port_bytes
    columns : C, columns of a line of ACT, a multiple of 8

    Members
    -------
    i_command : stream of LoadCommand; beats make whole words, rows or lines
    i_ports : n_ports streams of port_bytes bytes
    o_p : stream of ParamWrite(beat_words)
    o_x : stream of XWrite(token_lanes)
    o_act : stream of ActWrite(token_lanes)
    done : strobe: the last word of a command was taken

    Paths: i_ports[*].valid -> i_ports[*].ready; o_*.ready -> i_ports[*].ready.
    """

    def __init__(self, *, n_ports, port_bytes, token_lanes, columns):
        if n_ports not in (1, 2, 4):
            raise ValueError(f"n_ports must be 1, 2 or 4, not {n_ports!r}")
        if port_bytes not in (4, 8, 16):
            raise ValueError(f"port_bytes must be 4, 8 or 16, not {port_bytes!r}")
        if token_lanes < 1 or token_lanes % (n_ports * port_bytes):
            raise ValueError(f"token_lanes must be a multiple of the {n_ports * port_bytes} bytes of a beat, not {token_lanes!r}")
        if columns % 8 or not 8 <= columns <= 256:
            raise ValueError(f"columns must be a multiple of 8, from 8 to 256, not {columns!r}")
        self._beat_bytes, self._lanes, self._line_bytes = n_ports * port_bytes, token_lanes, columns // 8
        self.beat_words = max(1, self._beat_bytes // 8)
        super().__init__({
            "i_command": In(stream.Signature(LoadCommand)),
            "i_ports": In(stream.Signature(8 * port_bytes)).array(n_ports),
            "o_p": Out(stream.Signature(ParamWrite(self.beat_words))),
            "o_x": Out(stream.Signature(XWrite(token_lanes))),
            "o_act": Out(stream.Signature(ActWrite(token_lanes))),
            "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        outputs = {Target.PARAM: self.o_p, Target.X: self.o_x, Target.ACT: self.o_act}
        word_bytes = {Target.PARAM: 8 * self.beat_words, Target.X: 2 * self._lanes, Target.ACT: self._lanes}

        target = Signal(2, reset_less=True)
        left_beats = Signal(16, reset_less=True)
        addr, next_addr = Signal(16, reset_less=True), Signal(16, reset_less=True)
        column, next_column = Signal(5, reset_less=True), Signal(5, reset_less=True)
        busy, last = Signal(), Signal(reset_less=True)
        beat, last_beat = Signal(range(max(2, 2 * self._lanes // self._beat_bytes))), Signal()
        row = Signal(16 * self._lanes, reset_less=True)

        taken, waits, take, whole = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            taken.eq(Cat(o.valid & o.ready for o in outputs.values()).any()),
            waits.eq(Cat(o.valid & ~o.ready for o in outputs.values()).any()),
            take.eq(busy & ~waits & Cat(port.valid for port in self.i_ports).all()),
            whole.eq(take & last_beat),
        ]
        m.d.comb += [port.ready.eq(take) for port in self.i_ports]
        for value, o in outputs.items():
            n_beats = word_bytes[value] // self._beat_bytes
            with m.If(target == value):
                m.d.comb += last_beat.eq(beat == n_beats - 1)
            with m.If(~waits):
                m.d.sync += o.valid.eq(whole & (target == value))
        with m.If(take):
            m.d.sync += [
                row.eq(Cat(row, *(port.p for port in self.i_ports))[8 * self._beat_bytes:]),
                beat.eq(Mux(last_beat, 0, beat + 1)), left_beats.eq(left_beats - 1), last.eq(left_beats == 1),
            ]
            with m.If(left_beats == 1):
                m.d.sync += busy.eq(0)
        with m.If(whole):
            m.d.sync += [addr.eq(next_addr), column.eq(next_column), next_column.eq(next_column + 1)]
            with m.If(target == Target.PARAM):
                m.d.sync += next_addr.eq(next_addr + self.beat_words)
            with m.Elif((target == Target.X) | (next_column == self._line_bytes - 1)):
                m.d.sync += [next_addr.eq(next_addr + 1), next_column.eq(0)]

        def newest(n_bytes):
            return row[-8 * n_bytes:]

        m.d.comb += [
            self.o_p.p.addr.eq(addr), self.o_p.p.words.eq(newest(word_bytes[Target.PARAM])),
            self.o_x.p.addr.eq(addr),
            self.o_act.p.line.eq(addr), self.o_act.p.column.eq(column), self.o_act.p.data.eq(newest(word_bytes[Target.ACT])),
            self.done.eq(taken & last),
        ]
        m.d.comb += [self.o_x.p.row.x[lane].eq(row.word_select(lane, 16).as_signed()) for lane in range(self._lanes)]

        # A command begins when the words of the one before it have left.
        m.d.comb += self.i_command.ready.eq(~busy & ~Cat(o.valid for o in outputs.values()).any())
        with m.If(self.i_command.valid & self.i_command.ready):
            new = self.i_command.p
            m.d.sync += [
                busy.eq(1), target.eq(new.target), left_beats.eq(new.n_beats), next_addr.eq(new.d_base), next_column.eq(0),
            ]
        return m
