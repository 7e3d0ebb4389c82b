"""ACT, the memory of activation bits: lines of C columns of every token lane.

    (line, byte column, a byte of every lane) ──► array of the byte column ─┐
                                                   C / 8 of them            ├──► a line, one cycle after its number
    line ─────────────────────────────────────────────────────────────────┘

What has been read stays at the port until the next read. Rate: a byte column in and a line out every cycle.
"""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .links import ActWrite

__all__ = ["ActMemory"]


class ActMemory(wiring.Component):
    """Activations of all lanes.

    Parameters
    ----------
    token_lanes, columns, act_lines : int
        As in the configuration.

    Members: ``i`` is always ready; what it takes can be read two cycles later. ``data`` follows ``read_en`` after a cycle: lane t
    at bits t * columns.
    """

    def __init__(self, *, token_lanes, columns, act_lines):
        if columns % 8:
            raise ValueError(f"The columns of a line must be whole bytes, not {columns} bits")
        self._tokens, self._columns, self._lines = token_lanes, columns, act_lines
        super().__init__({"i": In(stream.Signature(ActWrite(token_lanes))),
                          "read_en": In(1), "read_line": In(range(act_lines)), "data": Out(token_lanes * columns)})

    def elaborate(self, platform):
        m = Module()
        taken, valid = Signal.like(self.i.p, reset_less=True), Signal()
        m.d.comb += self.i.ready.eq(1)
        m.d.sync += [taken.eq(self.i.p), valid.eq(self.i.valid)]
        for column in range(self._columns // 8):
            array = memory.Memory(shape=8 * self._tokens, depth=self._lines, init=[], attrs={"ram_style": "block"})
            m.submodules[f"column{column}"] = array
            write, read = array.write_port(), array.read_port()
            m.d.comb += [
                write.en.eq(valid & (taken.column == column)), write.addr.eq(taken.line), write.data.eq(Cat(*taken.data)),
                read.en.eq(self.read_en), read.addr.eq(self.read_line),
            ]
            for lane in range(self._tokens):
                m.d.comb += self.data[lane * self._columns + 8 * column:][:8].eq(read.data[8 * lane:8 * lane + 8])
        return m
