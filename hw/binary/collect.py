"""Rows to byte columns of ACT: eight rows of up to eight bits a lane become planes of eight bits a lane.

::

    i: row n, 8 bits a lane --> turn (8 x 8 bits, a row in, a plane out) --+--> o: (line, byte column, a byte of every lane)
                                                                           |
                                place: line, column, planes -- zeros up to the line's end

A line holds C columns. Rows begin at byte ``d_first`` of line ``d_base``; when the line has ``line_rows`` rows, counted from its
byte 0, the next line follows a_bits further on. Plane k of a line lies at line + k. A line that is complete is filled with zeros
up to column C - 1; with ``fill`` so is the one in which the last row lies.

Rate: a row a cycle, as long as no more than a write a row is needed: zeros go out in the cycles that rows leave free. Latency:
1 cycle from the eighth row to its first plane.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .links import ActWrite

__all__ = ["ActPlace", "CollectWord", "Collector"]


class ActPlace(data.Struct):
    """Where rows go, as in ``isa.Matmul``; constant from the first row to the end of ``busy``."""
    d_base: unsigned(12)  # line
    d_first: unsigned(5)  # byte column of row 0, below line_rows / 8
    line_rows: unsigned(9)  # a multiple of 8, at most C
    fill: unsigned(1)
    a_bits: unsigned(4)  # planes: 1 .. 8


class CollectWord(data.StructLayout):
    """A row: the low ``a_bits`` bits of ``value`` count. ``last`` marks the last row, which is an eighth one."""
    def __init__(self, token_lanes):
        super().__init__({"value": data.ArrayLayout(unsigned(8), token_lanes), "last": 1})


class PlaneTurn(wiring.Component):
    """Turns a block of 8 x 8 bits: a row of bits in, and seven steps after row 0, one after the other, the planes out.

    Three exchanges of halves, over 4, 2 and 1 steps: the lower half waits before, the upper half behind the exchange, which takes
    place in steps that have the bit of the distance set.

    Members: ``en`` makes a step, number ``step`` within a block; ``i`` row ``step``; ``o`` plane step + 1 mod 8. Path: i -> o.
    """

    def __init__(self):
        super().__init__({"en": In(1), "step": In(3), "i": In(8), "o": Out(8)})

    def elaborate(self, platform):
        m = Module()
        bits = list(self.i)
        for level in (2, 1, 0):
            distance = 1 << level
            swap = self.step[level]
            for lower in [at for at in range(8) if at & distance]:
                upper = lower - distance
                low = self._delayed(m, bits[lower], distance, f"low{level}_{lower}")
                bits[upper], bits[lower] = (
                    self._delayed(m, Mux(swap, low, bits[upper]), distance, f"high{level}_{upper}"), Mux(swap, bits[upper], low))
        m.d.comb += self.o.eq(Cat(bits))
        return m

    def _delayed(self, m, bit, steps, name):
        line = Signal(steps, name=name, reset_less=True)
        with m.If(self.en):
            m.d.sync += line.eq(Cat(bit, line)[:steps])
        return line[-1]


class Collector(wiring.Component):
    """Writes rows of bits or of integers into ACT.

    Parameters
    ----------
    token_lanes, columns : M and C; C is a multiple of 8 and at most 256

    Members
    -------
    i : stream of CollectWord, a multiple of eight rows
    place : In(ActPlace)
    o : stream of ActWrite
    busy : rows, planes or zeros are still here, or a write has not been taken

    After the last row none is taken until it is no longer ``busy``. Path: o.ready -> i.ready.
    """

    def __init__(self, *, token_lanes, columns):
        if token_lanes < 1:
            raise ValueError(f"token_lanes must be at least 1, not {token_lanes!r}")
        if columns % 8 or not 8 <= columns <= 256:
            raise ValueError(f"columns must be a multiple of 8, from 8 to 256, not {columns!r}")
        self._lanes, self._line_bytes = token_lanes, columns // 8
        super().__init__({
            "i": In(stream.Signature(CollectWord(token_lanes))), "place": In(ActPlace),
            "o": Out(stream.Signature(ActWrite(token_lanes))), "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        place, last_column = self.place, self._line_bytes - 1
        begun = Signal()                        # from the first row to the last plane
        step, turning = Signal(3), Signal()     # turning: planes from 1 on of a block are still to leave
        ending = Signal()                       # that block is the last one
        line, column = Signal(12, reset_less=True), Signal(5, reset_less=True)
        filling = Signal()
        fill_line, fill_column, fill_plane = (Signal(bits, reset_less=True) for bits in (12, 5, 3))

        plane, whole, gives, leaves, line_ends = Signal(3), Signal(), Signal(), Signal(), Signal()
        final, wants_fill, can, go, zero = Signal(), Signal(), Signal(), Signal(), Signal()
        free = ~self.o.valid | self.o.ready
        m.d.comb += [
            plane.eq(step + 1),
            whole.eq(step == 7), gives.eq(whole | turning), leaves.eq(gives & (plane == place.a_bits - 1)),
            final.eq(Mux(whole, self.i.p.last, ending)),
            line_ends.eq(column == place.line_rows[3:] - 1),
            wants_fill.eq(leaves & (line_ends | (place.fill & final)) & (column != last_column)),
            can.eq((~gives | free) & ~(wants_fill & filling)),
            go.eq(can & (ending | self.i.valid)),
            zero.eq(filling & free & ~(go & gives)),
            self.i.ready.eq(can & ~ending),
            self.busy.eq(begun | filling | self.o.valid),
        ]
        with m.If(go):
            m.d.sync += [step.eq(plane), begun.eq(~(leaves & final))]
            with m.If(whole):
                m.d.sync += [turning.eq(place.a_bits != 1), ending.eq(self.i.p.last & (place.a_bits != 1))]
            with m.Elif(leaves):
                m.d.sync += [turning.eq(0), ending.eq(0)]
                with m.If(ending):
                    m.d.sync += step.eq(0)

        with m.If(~begun):
            m.d.sync += [line.eq(place.d_base), column.eq(place.d_first)]
        with m.Elif(go & leaves):
            m.d.sync += column.eq(Mux(line_ends, 0, column + 1))
            with m.If(line_ends):
                m.d.sync += line.eq(line + place.a_bits)

        with m.If(go & wants_fill):
            m.d.sync += [filling.eq(1), fill_line.eq(line), fill_column.eq(column + 1), fill_plane.eq(0)]
        with m.Elif(zero):
            m.d.sync += fill_plane.eq(fill_plane + 1)
            with m.If(fill_plane == place.a_bits - 1):
                m.d.sync += [fill_plane.eq(0), fill_column.eq(fill_column + 1), filling.eq(fill_column != last_column)]

        with m.If(free):
            m.d.sync += [
                self.o.valid.eq((go & gives) | zero),
                self.o.p.line.eq(Mux(zero, fill_line + fill_plane, line + plane)),
                self.o.p.column.eq(Mux(zero, fill_column, column)),
            ]
        for lane in range(self._lanes):
            m.submodules[f"turn{lane}"] = turn = PlaneTurn()
            m.d.comb += [turn.en.eq(go), turn.step.eq(step), turn.i.eq(self.i.p.value[lane])]
            with m.If(free):
                m.d.sync += self.o.p.data[lane].eq(turn.o & ~zero.replicate(8))
        return m
