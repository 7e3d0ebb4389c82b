"""Build control: reads the activations of the next column block and has the table builders make its tables.

    command ──► for row block, plane, column block, round of lanes: read C activations ──► staging ──► 14 steps
            └─► limits, for the beats

All builders work in step, each on a lane of its own: round k builds the token lanes k * table_builders and up. There
are two halves of tables; a half is taken for a column block when its first round begins and given back when the last
beat of the block was accepted. Rate: a round in max(14, C / L + 3) cycles.
"""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..links import MatmulCommand
from .activations import ActivationMemory
from .decode import BeatDecode
from .lookup import LookUp
from .tables import TableBuilder
from .words import WALK, BuildStep, Limits, entry_of

__all__ = ["BuildControl"]

_STEPS = len(WALK)
# A beat accepted in the cycle after `built` reaches the tables this many cycles after the last entry was due there:
# `built` may strobe in an earlier step, and must not be earlier than the beats are late.
_EARLY = BeatDecode.LATENCY - TableBuilder.LATENCY - LookUp.WRITE_LATENCY + 1
_BUILT_STEP = _STEPS - 1 - max(0, min(_EARLY, _STEPS - 1))
# After the last beat of a block was accepted: `used` takes a cycle, `free` one and `load` one until the first step of
# the next tables in the same half. The beat's own look-up must not be later than their first entry.
assert 3 + TableBuilder.LATENCY + LookUp.WRITE_LATENCY >= BeatDecode.LATENCY + 1


def _moves():
    """(select, negate) of each step of the walk; the first step makes zero."""
    moves = [(0, 0)]
    for before, after in zip(WALK, WALK[1:]):
        (place, change), = ((k, b - a) for k, (a, b) in enumerate(zip(before, after)) if a != b)
        moves.append((place, int(change < 0)))
    return moves


class BuildControl(wiring.Component):
    """Control of the activation memories and table builders.

    Parameters
    ----------
    block_words : int
        Words of activations of a column block (C / L).
    max_words, max_col_blocks, max_row_groups, token_lanes, table_builders : int
        As in the engine.

    Members: ``read_*`` to the activation memories, ``shift`` and ``step`` to the builders, ``table_*`` to the lanes of
    round ``table_round``. ``built`` strobes when a column block's tables may be used, ``used`` when they are no longer
    needed.
    """

    def __init__(self, *, block_words, max_words, max_col_blocks, max_row_groups, token_lanes, table_builders):
        self._block_words, self._max_words = block_words, max_words
        self._group_log2 = ceil_log2(max_row_groups)
        self._rounds, self._builder_log2 = token_lanes // table_builders, ceil_log2(table_builders)
        self._limits = Limits(max_col_blocks, token_lanes)
        super().__init__({
            "i_command": In(stream.Signature(MatmulCommand)), "o_limits": Out(stream.Signature(self._limits)),
            "read_en": Out(1), "read_bank": Out(1), "read_round": Out(range(self._rounds)),
            "read_word": Out(range(max_words)),
            "shift": Out(1), "step": Out(BuildStep),
            "table_en": Out(1), "table_addr": Out(5), "table_round": Out(range(self._rounds)),
            "built": Out(1), "used": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        staged, load = Signal(), Signal()
        staged_round, staged_last = Signal(range(self._rounds), reset_less=True), Signal(reset_less=True)
        self._fetch(m, staged, staged_round, staged_last, load)
        self._build(m, staged, staged_round, staged_last, load)
        return m

    def _fetch(self, m, staged, staged_round, staged_last, load):
        """The loops of a command around one round: C / L words into staging, when it is free."""
        active, bank, limits = Signal(), Signal(reset_less=True), Signal(self._limits, reset_less=True)
        command = self.i_command.p
        m.d.comb += self.i_command.ready.eq(~active & ~self.o_limits.valid)
        with m.If(self.o_limits.ready):
            m.d.sync += self.o_limits.valid.eq(0)
        with m.If(self.i_command.valid & self.i_command.ready):
            m.d.sync += [
                active.eq(1), bank.eq(command.bank), self.o_limits.valid.eq(1),
                limits.row_group.eq(command.n_row_groups - 1), limits.col_block.eq(command.n_col_blocks - 1),
                limits.plane.eq(command.planes - 1), limits.lane.eq(command.n_lanes - 1),
            ]
        m.d.comb += self.o_limits.p.eq(limits)

        word, lane_round = Signal(range(self._block_words)), Signal(range(self._rounds))
        col_block, plane = Signal.like(limits.col_block), Signal.like(limits.plane)
        row_block, base = Signal(16 - self._group_log2), Signal(range(self._max_words))
        busy = Signal()                 # staging waits for words, or they wait there
        last_word, last_round, last_col, last_plane, last_block = (Signal() for _ in range(5))
        m.d.comb += [
            self.read_en.eq(active & ((word != 0) | ~busy)), self.read_bank.eq(bank),
            self.read_round.eq(lane_round), self.read_word.eq(base + word),
            last_word.eq(self.read_en & (word == self._block_words - 1)),
            last_round.eq(last_word & (lane_round == limits.lane >> self._builder_log2)),
            last_col.eq(last_round & (col_block == limits.col_block)),
            last_plane.eq(last_col & (plane == limits.plane)),
            last_block.eq(last_plane & (row_block == limits.row_group[self._group_log2:])),
        ]
        with m.If(self.read_en):
            m.d.sync += [busy.eq(1), word.eq(word + 1)]
        with m.Elif(load):
            m.d.sync += busy.eq(0)
        with m.If(last_word):
            m.d.sync += [word.eq(0), lane_round.eq(lane_round + 1), staged_round.eq(lane_round),
                         staged_last.eq(last_round)]
        with m.If(last_round):
            m.d.sync += [lane_round.eq(0), col_block.eq(col_block + 1), base.eq(base + self._block_words)]
        with m.If(last_col):
            m.d.sync += [col_block.eq(0), plane.eq(plane + 1), base.eq(0)]
        with m.If(last_plane):
            m.d.sync += [plane.eq(0), row_block.eq(row_block + 1)]
        with m.If(last_block):
            m.d.sync += [row_block.eq(0), active.eq(0)]

        shifts = _delay(m, "shift", self.read_en, ActivationMemory.LATENCY)
        full = _delay(m, "full", last_word, ActivationMemory.LATENCY)
        m.d.comb += self.shift.eq(shifts)
        with m.If(load):
            m.d.sync += staged.eq(0)
        with m.If(full):
            m.d.sync += staged.eq(1)

    def _build(self, m, staged, staged_round, staged_last, load):
        """The steps of a round, and the halves of the tables."""
        building, number = Signal(), Signal(range(_STEPS))
        build_round, build_last = Signal.like(staged_round, reset_less=True), Signal(reset_less=True)
        half, free = Signal(), Signal(range(3), init=2)
        last_step, takes = Signal(), Signal()
        m.d.comb += [
            last_step.eq(number == _STEPS - 1),
            takes.eq(staged_round == 0),
            load.eq(staged & (~building | last_step) & (~takes | (free != 0))),
            self.built.eq(building & build_last & (number == _BUILT_STEP)),
        ]
        m.d.sync += free.eq(free - (load & takes) + self.used)
        with m.If(building):
            m.d.sync += number.eq(number + 1)
            with m.If(last_step):
                m.d.sync += [building.eq(0), number.eq(0)]
                with m.If(build_last):
                    m.d.sync += half.eq(~half)
        with m.If(load):
            m.d.sync += [building.eq(1), build_round.eq(staged_round), build_last.eq(staged_last)]

        move, entry = Signal(3), Signal(4)
        with m.Switch(number):
            for k, ((place, negate), weights) in enumerate(zip(_moves(), WALK)):
                with m.Case(k):
                    m.d.comb += [move.eq(place | negate << 2), entry.eq(entry_of(weights)[0])]
        m.d.comb += [
            self.step.load.eq(load), self.step.clear.eq(number == 0),
            self.step.select.eq(move[:2]), self.step.negate.eq(move[2]),
            self.table_en.eq(_delay(m, "table_en", building, TableBuilder.LATENCY)),
            self.table_addr.eq(_delay(m, "table_addr", Cat(entry, half), TableBuilder.LATENCY)),
            self.table_round.eq(_delay(m, "table_round", build_round, TableBuilder.LATENCY)),
        ]


def _delay(m, name, value, n_cycles):
    for k in range(1, n_cycles + 1):
        later = Signal(len(value), name=f"{name}_{k}")
        m.d.sync += later.eq(value)
        value = later
    return value
