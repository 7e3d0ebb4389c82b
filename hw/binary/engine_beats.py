"""Beat control of the binary engine: which beat is next, and when.

Loops, from outside: row group, weight plane, up to ``pass_blocks`` column blocks, plane of the activations, column block. The inner
two are a pass; its first plane takes new beats and the others the same ones again.

    a beat is taken when   PORTS: it is there,
                           at the end of a pass: the rows of the one before have been read (R cycles),
                           at the end of a row group: there is room for its rows.

KEYS: a read of ACT makes the query the activations; then every M / R row groups a read of the next line of keys. Rate: a beat a
cycle, also from command to command.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..stream import Buffer
from .engine_words import BeatTag, Source, pass_blocks
from .isa import Kind, Operand
from .links import EngineCommand

__all__ = ["BinaryBeats"]


class BinaryBeats(wiring.Component):
    """Sequencer of the beats.

    Parameters
    ----------
    token_lanes, engine_rows, columns, act_lines, v_words : int
        As in the engine.
    row_room : int
        Rows that may be under way to the output; a power of two, at least two row groups.
    turnaround : int
        Cycles after which a row can be added to again.

    Members: ``tag`` is valid in the cycle in which a beat is taken; ``left`` strobes when a row has left. ``count_*`` strobe one
    cycle late. Paths: none from ``weights_valid`` to ``weights_ready``.
    """

    def __init__(self, *, token_lanes, engine_rows, columns, act_lines, v_words, row_room, turnaround):
        self._rows, self._room, self._turnaround = engine_rows, row_room, turnaround
        self._blocks_log2, self._keys_log2 = exact_log2(pass_blocks(columns)), exact_log2(token_lanes // engine_rows)
        super().__init__({
            "i_command": In(stream.Signature(EngineCommand)),
            "weights_valid": In(1), "weights_ready": Out(1), "left": In(1),
            "tag": Out(BeatTag(act_lines=act_lines, v_words=v_words, index_bits=max(self._blocks_log2, self._keys_log2))),
            "count_busy": Out(1), "count_wait_weights": Out(1), "count_wait_rows": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.commands = commands = Buffer(EngineCommand)
        command = commands.o.p
        m.d.comb += [commands.i.p.eq(self.i_command.p), commands.i.valid.eq(self.i_command.valid),
                     self.i_command.ready.eq(commands.i.ready)]

        # Loops: numbers from 1 on.
        group, plane, bit, block = (Signal(len(value), name=name, init=1) for name, value in (
            ("group", command.n_row_groups), ("plane", command.w_planes), ("bit", command.a_bits), ("block", command.n_col_blocks)))
        pass_block, first = Signal.like(block), Signal(init=1)
        last_block, last, last_bit, last_plane, last_group, final = (Signal() for _ in range(6))
        m.d.comb += [
            last_block.eq(block == command.n_col_blocks), last.eq(last_block | (block[:self._blocks_log2] == 0)),
            last_bit.eq(bit == command.a_bits), last_plane.eq(plane == command.w_planes),
            last_group.eq(group == command.n_row_groups), final.eq(last & last_block & last_bit & last_plane),
        ]

        # Whether a beat may be taken. Behind a reset a pass of no beats reads the counts from which the next ones go on (`clear`).
        clear, queried = Signal(init=1), Signal()
        n_free, pause = Signal(range(self._room + 1), init=self._room), Signal(range(max(self._rows, self._turnaround)))
        keys, new, room, may, fire, query = (Signal() for _ in range(6))
        m.d.comb += [
            keys.eq(command.operand == Operand.KEYS), new.eq((command.operand == Operand.PORTS) & (bit == 1)),
            room.eq(~last | ((pause == 0) & (~final | n_free[exact_log2(self._rows):].any()))),
            query.eq(commands.o.valid & keys & ~queried & ~clear),
            may.eq(commands.o.valid & (~keys | queried) & ~clear & room),
            self.weights_ready.eq(may & new), fire.eq(may & (~new | self.weights_valid)),
            commands.o.ready.eq(fire & final & last_group),
        ]
        m.d.sync += [clear.eq(0), n_free.eq(n_free + self.left - Mux(fire & final, self._rows, 0))]
        with m.If(query):
            m.d.sync += queried.eq(1)
        with m.If(pause != 0):
            m.d.sync += pause.eq(pause - 1)
        with m.If(clear | (fire & last)):
            m.d.sync += pause.eq(Mux(final & ~clear, self._rows, max(self._rows, self._turnaround)) - 1)

        with m.If(fire):
            m.d.sync += block.eq(block + 1)
            with m.If(last):
                m.d.sync += [first.eq(0), bit.eq(bit + 1), block.eq(pass_block)]
                with m.If(last_bit):
                    m.d.sync += [bit.eq(1), block.eq(block + 1), pass_block.eq(block + 1)]
                    with m.If(last_block):
                        m.d.sync += [plane.eq(plane + 1), block.eq(1), pass_block.eq(1)]
            with m.If(final):
                m.d.sync += [first.eq(1), plane.eq(1), group.eq(group + 1)]
                with m.If(last_group):
                    m.d.sync += [group.eq(1), queried.eq(0)]

        # Lines of activations from a_base on; lines of keys, or words of V, from k_base on.
        line, pass_line, key_line, group_word = (Signal(len(command.a_base), name=name) for name in (
            "line", "pass_line", "key_line", "group_word"))
        key = Signal(self._keys_log2)
        with m.If(fire & ~keys):
            m.d.sync += line.eq(line + command.a_bits)
            with m.If(last):
                m.d.sync += line.eq(pass_line + bit)
                with m.If(last_bit):
                    m.d.sync += [line.eq(line + 1), pass_line.eq(line + 1)]
                    with m.If(last_block):
                        m.d.sync += [line.eq(0), pass_line.eq(0)]
        with m.If(fire):
            with m.If(keys):
                m.d.sync += key.eq(key + 1)
                with m.If(key.all()):
                    m.d.sync += key_line.eq(key_line + command.k_stride)
            with m.If(final):
                m.d.sync += group_word.eq(group_word + command.v_blocks)
                with m.If(last_group):
                    m.d.sync += [key.eq(0), key_line.eq(0), group_word.eq(0)]

        tag, sums = self.tag, self.tag.sums
        m.d.comb += [
            tag.valid.eq(fire), tag.last.eq(clear | (fire & last)),
            tag.act_en.eq(query | (fire & (~keys | (key == 0)))), tag.load.eq(query | (fire & ~keys)),
            tag.act_line.eq(Mux(keys & queried, command.k_base + key_line, command.a_base + line)),
            tag.v_en.eq(fire & (command.operand == Operand.VALUES)), tag.keep.eq(fire & new),
            tag.v_word.eq(command.k_base + group_word + (block - 1)),
            tag.index.eq(Mux(keys, key, block[:self._blocks_log2])),
            sums.first.eq(first), sums.final.eq(final & ~clear), sums.ends.eq(last_group),
            sums.exponent.eq(plane + bit + (command.kind == Kind.SIGNS) - 2),
            sums.negative.eq((command.kind == Kind.INTS) & last_bit), sums.with_ones.eq(command.kind != Kind.SIGNS),
            sums.n.eq(Mux(command.kind == Kind.INTS, command.n_const, -command.n_const)),
        ]

        with m.Switch(command.operand):
            with m.Case(Operand.PORTS):
                m.d.comb += tag.source.eq(Source.PORTS)
            with m.Case(Operand.KEYS):
                m.d.comb += tag.source.eq(Mux(key[-1:], Source.HIGH_KEYS, Source.LOW_KEYS))
            with m.Default():
                m.d.comb += tag.source.eq(Source.VALUES)

        ready = commands.o.valid & (~new | self.weights_valid)
        m.d.sync += [
            self.count_busy.eq(fire), self.count_wait_weights.eq(self.weights_ready & ~self.weights_valid),
            self.count_wait_rows.eq(ready & ~room),
        ]
        return m
