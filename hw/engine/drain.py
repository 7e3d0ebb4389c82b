"""Drain: finished sums to words of L sums of one token lane.

    row blocks ──► for each token lane, row group ──► finished sums, zero in all lanes but one ──► or ──► L sums ──► o

The order is row block, token lane, word. Row groups are taken as soon as they have landed, so that the sums of the
first lane leave while the last column block still streams. With L < R a row group gives R / L words, with L > R it
takes L / R row groups to make one. Rate: one row group, or one word where that is less, a cycle.
"""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..links import DrainWord
from ..stream import Buffer
from .words import Block

__all__ = ["Drain"]


class Drain(wiring.Component):
    """Reads the finished sums of all lanes and sends them.

    Parameters
    ----------
    vector_lanes, token_lanes, engine_rows, accumulator_bits, max_row_groups : int
        As in the engine. Rows and vector lanes divide one another.

    Members: ``i_block`` in the order of the beats; ``landed`` strobes when a row group is written at ``finish_addr``;
    ``freed`` when its place may be used again (one cycle late). A cycle after ``read_en`` or later, ``take`` moves what was
    read on to ``sums``: the word of the lane whose bit in ``own`` is set, and zero in all others. ``done`` strobes after the
    last word of a command was taken. Paths: none between ``o`` and the rest.
    """

    def __init__(self, *, vector_lanes, token_lanes, engine_rows, accumulator_bits, max_row_groups):
        if vector_lanes % engine_rows and engine_rows % vector_lanes:
            raise ValueError(f"Vector lanes must divide {engine_rows} engine rows or be a multiple of them, "
                             f"not {vector_lanes}")
        self._lanes, self._tokens, self._rows = vector_lanes, token_lanes, engine_rows
        self._bits, self._groups = accumulator_bits, max_row_groups
        places = range(2 * max_row_groups)
        super().__init__({
            "i_block": In(stream.Signature(Block(max_row_groups, token_lanes))),
            "landed": In(1), "finish_addr": Out(places), "freed": Out(1),
            "read_en": Out(1), "read_addr": Out(places), "take": Out(1), "own": Out(token_lanes),
            "sums": In(data.ArrayLayout(engine_rows * accumulator_bits, token_lanes)),
            "o": Out(stream.Signature(DrainWord(vector_lanes))), "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        slices = max(1, self._rows // self._lanes)      # words that a row group gives
        pieces = max(1, self._lanes // self._rows)      # row groups that a word takes
        block = self.i_block.p

        # s0: which word. `arrived` counts the row groups of this block and later ones that have landed.
        arrived = Signal(range(2 * self._groups + 1))
        group, lane = Signal(range(self._groups)), Signal(range(self._tokens))
        part = Signal(range(max(slices, 2)))
        base = Signal(range(2 * self._groups))
        advance, step = Signal(), Signal()
        last_part, last_group, last_lane = Signal(), Signal(), Signal()
        m.d.comb += [
            step.eq(advance & self.i_block.valid & (group < arrived)),
            last_part.eq(part == slices - 1),
            last_group.eq(last_part & (group == block.last_group)),
            last_lane.eq(lane == block.last_lane),
            self.i_block.ready.eq(step & last_group & last_lane),
            self.read_en.eq(step),
        ]
        m.d.sync += self.freed.eq(step & last_part & last_lane)
        m.d.sync += arrived.eq(arrived + self.landed - Mux(self.i_block.ready, block.last_group + 1, 0))
        with m.If(self.landed):
            m.d.sync += self.finish_addr.eq(self.finish_addr + 1)
        with m.If(step):
            m.d.sync += part.eq(part + 1)
        with m.If(step & last_part):
            m.d.sync += [part.eq(0), group.eq(group + 1), self.read_addr.eq(self.read_addr + 1)]
        with m.If(step & last_group):
            m.d.sync += [group.eq(0), lane.eq(lane + 1), self.read_addr.eq(base)]
        with m.If(self.i_block.ready):
            m.d.sync += [lane.eq(0), base.eq(self.read_addr + 1), self.read_addr.eq(self.read_addr + 1)]

        # s1: read; s2: the sums of one lane, zero in the others.
        s1_valid, s1_full, s1_ends, s1_part = (
            Signal(), Signal(reset_less=True), Signal(reset_less=True), Signal.like(part, reset_less=True))
        s2_valid, s2_full, s2_ends, s2_part = (
            Signal(), Signal(reset_less=True), Signal(reset_less=True), Signal.like(part, reset_less=True))
        with m.If(advance):
            m.d.sync += [
                s1_valid.eq(step), s1_full.eq(group[:ceil_log2(pieces)] == pieces - 1),
                s1_ends.eq(self.i_block.ready & block.ends), s1_part.eq(part),
                self.own.eq(Cat(lane == t for t in range(self._tokens))),
                s2_valid.eq(s1_valid), s2_full.eq(s1_full), s2_ends.eq(s1_ends), s2_part.eq(s1_part),
            ]

        # The part of them that belongs to a word; a word of such pieces.
        piece_bits = min(self._lanes, self._rows) * self._bits
        m.submodules.buffer = buffer = Buffer(data.StructLayout({"piece": piece_bits, "full": 1, "ends": 1}))
        one_lane = reduce(or_, (self.sums[t] for t in range(self._tokens)))
        m.d.comb += [
            self.take.eq(advance), advance.eq(~s2_valid | buffer.i.ready),
            buffer.i.valid.eq(s2_valid), buffer.i.p.full.eq(s2_full), buffer.i.p.ends.eq(s2_ends),
            buffer.i.p.piece.eq(one_lane.word_select(s2_part, piece_bits)),
            buffer.o.ready.eq(~self.o.valid | self.o.ready),
        ]
        word, ends = Signal(pieces * piece_bits, reset_less=True), Signal(reset_less=True)
        with m.If(buffer.o.ready):
            m.d.sync += [self.o.valid.eq(buffer.o.valid & buffer.o.p.full), ends.eq(buffer.o.p.ends)]
            with m.If(buffer.o.valid):
                m.d.sync += word.eq(Cat(word, buffer.o.p.piece)[piece_bits:])
        m.d.comb += [self.o.p.acc[k].eq(word[k * self._bits:(k + 1) * self._bits].as_signed()) for k in range(self._lanes)]
        m.d.sync += self.done.eq(self.o.valid & self.o.ready & ends)
        return m
