"""Beat control: accepts the weight beats of a command when all that they need is there.

    a beat is accepted when   its column block's tables are built,
                              the sum that it adds to is back in its place,
                              and, if its sum will be finished, there is room for it among the finished sums.

Loops: row block, plane, column block, row group. Rate: a beat a cycle, also from block to block and from command to
command.
"""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .partial import PartialSums
from .words import BeatTag, Block, Limits

__all__ = ["BeatControl"]


class BeatControl(wiring.Component):
    """Sequencer of the weight beats.

    Parameters
    ----------
    max_col_blocks, max_row_groups, token_lanes : int
        As in the engine; ``max_row_groups`` is a power of two.

    Members: ``i_limits`` is taken with the last beat of its command; ``tag`` is valid in the cycle in which a beat is
    accepted. ``count_*`` strobe one cycle late. Paths: none from ``weights_valid`` to ``weights_ready``.
    """

    def __init__(self, *, max_col_blocks, max_row_groups, token_lanes):
        if max_row_groups & (max_row_groups - 1) or max_row_groups < 1:
            raise ValueError(f"Row groups of a block must be a power of two, not {max_row_groups}")
        self._groups = max_row_groups
        super().__init__({
            "i_limits": In(stream.Signature(Limits(max_col_blocks, token_lanes))),
            "o_block": Out(stream.Signature(Block(max_row_groups, token_lanes))),
            "weights_valid": In(1), "weights_ready": Out(1), "tag": Out(BeatTag(max_row_groups)),
            "built": In(1), "used": Out(1), "freed": In(1),
            "count_busy": Out(1), "count_wait_weights": Out(1), "count_wait_tables": Out(1), "count_wait_drain": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        limits = self.i_limits.p
        group_log2 = ceil_log2(self._groups)
        group, row_block = Signal(range(self._groups)), Signal(16 - group_log2)
        plane, col_block = Signal.like(limits.plane), Signal.like(limits.col_block)
        n_built, half = Signal(range(3)), Signal()
        turn = Signal(range(PartialSums.TURNAROUND))            # cycles until the sums of a short block are back
        n_finished = Signal(range(2 * self._groups + 1))        # places taken among the finished sums; all: the top bit

        last_block, last_group, last_col, last_plane, drains = (Signal() for _ in range(5))
        tables, room, fire = Signal(), Signal(), Signal()
        m.d.comb += [
            last_block.eq(row_block == limits.row_group[group_log2:]),
            last_group.eq((group == self._groups - 1) | (last_block & (group == limits.row_group[:group_log2]))),
            last_col.eq(col_block == limits.col_block),
            last_plane.eq(plane == limits.plane),
            drains.eq(last_col & last_plane),
            tables.eq((n_built != 0) & (turn == 0)),
            room.eq(~drains | (~n_finished[-1] & (~self.o_block.valid | self.o_block.ready))),
            self.weights_ready.eq(self.i_limits.valid & tables & room),
            fire.eq(self.weights_ready & self.weights_valid),
            self.i_limits.ready.eq(fire & last_group & drains & last_block),
            self.tag.valid.eq(fire), self.tag.half.eq(half), self.tag.group.eq(group), self.tag.drains.eq(drains),
            self.tag.keep.eq((col_block != 0) | (plane != 0)), self.tag.triple.eq((col_block == 0) & (plane != 0)),
        ]

        m.d.sync += [
            n_built.eq(n_built + self.built - (fire & last_group)),
            n_finished.eq(n_finished + (fire & drains) - self.freed),
            self.used.eq(fire & last_group),
        ]
        with m.If(fire):
            m.d.sync += group.eq(group + 1)
            with m.If(last_group):
                m.d.sync += [group.eq(0), half.eq(~half), col_block.eq(col_block + 1)]
                with m.If(last_col):
                    m.d.sync += [col_block.eq(0), plane.eq(plane + 1)]
                with m.If(drains):
                    m.d.sync += [plane.eq(0), row_block.eq(row_block + 1)]
                    with m.If(last_block):
                        m.d.sync += row_block.eq(0)
        with m.If(turn != 0):
            m.d.sync += turn.eq(turn - 1)
        with m.If(fire & last_group & (group < PartialSums.TURNAROUND - 1)):
            m.d.sync += turn.eq(PartialSums.TURNAROUND - 1)

        with m.If(self.o_block.ready):
            m.d.sync += self.o_block.valid.eq(0)
        with m.If(fire & drains & (group == 0)):
            ends_at = Cat(limits.row_group[:group_log2] | ~last_block.replicate(group_log2))
            m.d.sync += [self.o_block.valid.eq(1), self.o_block.p.last_group.eq(ends_at),
                         self.o_block.p.last_lane.eq(limits.lane), self.o_block.p.ends.eq(last_block)]

        waits = self.i_limits.valid & self.weights_valid
        m.d.sync += [
            self.count_busy.eq(fire),
            self.count_wait_weights.eq(self.weights_ready & ~self.weights_valid),
            self.count_wait_tables.eq(waits & ~tables),
            self.count_wait_drain.eq(waits & tables & ~room),
        ]
        return m
