"""Binary engine: rows of +-1 times the activations of M token lanes, by XNOR and popcount.

    P[t][n] = sum_q sum_k 2**q coef(k) popcount(xnor(w_q[n], a_k[t]))       y = 2 P - n,  P + P1 - n  or  P - P1 + n

     i_command ──► beat control ──┬─────────────┐
     i_weights ───────────────────┼─────────────┼─► operands ─┬─► lane 0 .. M-1 ──► row sums of each ──► queue ──► o
     i_v ────► V ◄────────────────┤ reads       │     ▲       │      counts              ▲ ones
     i_act ──► ACT ◄──────────────┘             │ ────┘       └─► lane of ones ──────────┘
                                                └ what becomes of the counts

A beat is R rows of C columns, for all lanes. The lanes count agreements and know nothing of planes; the rows of a pass of beats
leave them one a cycle, and only then are they multiplied by the power of two of their planes and added up. P1, the count of a lane
of ones, joins there too: the values of the planes of a two's complement number add up to -1, so that

    P - P1 = sum_q 2**q sum_k coef(k) (popcount(xnor(w_q, a_k)) + popcount(w_q)).

Rate: a beat a cycle; a pass takes at least R cycles. Latency: about 20 cycles from the last beat of a row group to its first row.
"""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..stream import Queue
from .act_memory import ActMemory
from .engine_beats import BinaryBeats
from .engine_lane import BinaryLane
from .engine_operands import BinaryOperands
from .engine_rows import RowStep, RowSums
from .engine_words import PassTag
from .links import ActWrite, EngineCommand, RowWord, VWrite
from .value_memory import ValueMemory

__all__ = ["BinaryEngine"]

_OPERANDS = 3           # cycles from a beat that is taken to its operands
_READ = 2               # cycles from the strobe that takes the counts of a pass to its row 0


class BinaryEngine(wiring.Component):
    """The engine, with the memories ACT and V.

    Parameters
    ----------
    token_lanes, engine_rows, columns : int
        Activation vectors that share a beat (M); rows (R) and columns (C) of a beat. R divides M.
    act_lines, v_words : int
        Lines of ACT, words of V.

    Members
    -------
    i_command : commands, run in order. INTS has two planes of activations or more, SIGNS and BITS one; KEYS one of each and one
        column block; VALUES one weight plane.
    i_weights : beats in the order row group, weight plane, column block; row r at bits r C. Paths: none from valid to ready.
    i_act, i_v : writes, always ready. What a command reads must be written before the command is given.
    o : rows.
    done : the last row of a command was taken, one cycle ago.
    count_busy, count_wait_weights, count_wait_rows : a beat was taken, or why not, one cycle ago.
    """

    def __init__(self, *, token_lanes, engine_rows, columns, act_lines, v_words):
        for name, value in (("token lanes", token_lanes), ("rows", engine_rows), ("columns", columns)):
            if value < 2 or value & (value - 1):
                raise ValueError(f"The number of {name} must be a power of two of at least 2, not {value}")
        if token_lanes % engine_rows:
            raise ValueError(f"Token lanes must be a multiple of {engine_rows} rows of a beat, not {token_lanes}")
        self._tokens, self._rows, self._columns = token_lanes, engine_rows, columns
        self._lines, self._words = act_lines, v_words
        super().__init__({
            "i_command": In(stream.Signature(EngineCommand)), "i_weights": In(stream.Signature(engine_rows * columns)),
            "i_act": In(stream.Signature(ActWrite(token_lanes))), "i_v": In(stream.Signature(VWrite(token_lanes))),
            "o": Out(stream.Signature(RowWord(token_lanes))), "done": Out(1),
            "count_busy": Out(1), "count_wait_weights": Out(1), "count_wait_rows": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = [BinaryLane(engine_rows=self._rows, columns=self._columns) for _ in range(self._tokens + 1)]
        sums = [RowSums(engine_rows=self._rows) for _ in lanes]     # the last one is the lane of ones
        # Rows under way: from the beat that ends them to the credit that comes back, and those of another row group.
        take_lag = _OPERANDS + lanes[0].take_lag
        room = 1 << ceil_log2(take_lag + _READ + RowSums.LATENCY + self._rows + 6)
        m.submodules.beats = beats = BinaryBeats(
            token_lanes=self._tokens, engine_rows=self._rows, columns=self._columns, act_lines=self._lines, v_words=self._words,
            row_room=room, turnaround=RowSums.TURNAROUND)
        m.submodules.act = act = ActMemory(token_lanes=self._tokens, columns=self._columns, act_lines=self._lines)
        m.submodules.values = values = ValueMemory(
            token_lanes=self._tokens, columns=self._columns, engine_rows=self._rows, v_words=self._words)
        m.submodules.operands = operands = BinaryOperands(
            token_lanes=self._tokens, engine_rows=self._rows, columns=self._columns)
        queue_shape = data.StructLayout({"row": self.o.p.shape(), "ends": 1})
        m.submodules.queue = queue = Queue(queue_shape, depth=room, ram_style="distributed")

        # s1: reads; s2: what was read.
        s1_tag, s2_tag = (Signal.like(beats.tag, name=name, reset_less=True) for name in ("s1_tag", "s2_tag"))
        s1_beat = Signal(len(self.i_weights.p), reset_less=True)
        adds = _delayed(m, "add", beats.tag.valid, _OPERANDS + lanes[0].add_lag)
        takes = _delayed(m, "take", beats.tag.last, take_lag + 1)
        pass_tags = _delayed(m, "pass", beats.tag.sums, take_lag + 1)
        m.d.sync += [s1_tag.eq(beats.tag), s2_tag.eq(s1_tag), s1_beat.eq(self.i_weights.p)]
        m.d.comb += [
            beats.i_command.p.eq(self.i_command.p), beats.i_command.valid.eq(self.i_command.valid),
            self.i_command.ready.eq(beats.i_command.ready),
            beats.weights_valid.eq(self.i_weights.valid), self.i_weights.ready.eq(beats.weights_ready),
            act.i.p.eq(self.i_act.p), act.i.valid.eq(self.i_act.valid), self.i_act.ready.eq(act.i.ready),
            values.i.p.eq(self.i_v.p), values.i.valid.eq(self.i_v.valid), self.i_v.ready.eq(values.i.ready),
            act.read_en.eq(s1_tag.act_en), act.read_line.eq(s1_tag.act_line),
            values.read_en.eq(s1_tag.v_en), values.read_word.eq(s1_tag.v_word),
            operands.keep_en.eq(s1_tag.keep), operands.keep_index.eq(s1_tag.index), operands.beat.eq(s1_beat),
            operands.source.eq(s2_tag.source), operands.index.eq(s2_tag.index), operands.load.eq(s2_tag.load),
            operands.line.eq(act.data), operands.word.eq(values.data),
            self.count_busy.eq(beats.count_busy), self.count_wait_weights.eq(beats.count_wait_weights),
            self.count_wait_rows.eq(beats.count_wait_rows),
        ]

        # The rows of a pass, one a cycle.
        active, row, pass_tag = Signal(), Signal(range(self._rows)), Signal(PassTag, reset_less=True)
        with m.If(active):
            m.d.sync += row.eq(row + 1)
            with m.If(row == self._rows - 1):
                m.d.sync += active.eq(0)
        with m.If(takes[take_lag + 1]):
            m.d.sync += [active.eq(1), row.eq(0), pass_tag.eq(pass_tags[-1])]
        step, push, ends = self._steps(m, active, row, pass_tag, sums[-1].difference)

        for t, (lane, lane_sums) in enumerate(zip(lanes, sums)):
            name = str(t) if t < self._tokens else "_of_ones"
            m.submodules[f"lane{name}"], m.submodules[f"sums{name}"] = lane, lane_sums
            a = operands.a.word_select(t, self._columns) if t < self._tokens else Const(-1, self._columns)
            m.d.comb += [
                lane.w.eq(operands.w), lane.a.eq(a), lane.add.eq(adds[-1]), lane.take.eq(takes[take_lag]), lane.row.eq(row),
                lane_sums.count.eq(lane.count), lane_sums.step.eq(step),
            ]
        m.d.comb += [
            *(queue.i.p.row.y[t].eq(lane_sums.y) for t, lane_sums in enumerate(sums[:-1])),
            queue.i.valid.eq(push), queue.i.p.ends.eq(ends),
            self.o.p.eq(queue.o.p.row), self.o.valid.eq(queue.o.valid), queue.o.ready.eq(self.o.ready),
        ]
        m.d.sync += [beats.left.eq(self.o.valid & self.o.ready), self.done.eq(self.o.valid & self.o.ready & queue.o.p.ends)]
        return m

    def _steps(self, m, active, row, pass_tag, ones):
        """What the stages of a row are told; whether a finished row is there, and whether it ends its command. Its number is given
        in s0, its count comes in s1."""
        state = data.StructLayout({"active": 1, "row": row.shape(), "sums": PassTag})
        now = Signal(state)
        m.d.comb += [now.active.eq(active), now.row.eq(row), now.sums.eq(pass_tag)]
        s = _delayed(m, "row", now, 1 + RowSums.LATENCY)
        step, last = Signal(RowStep(self._rows)), s[-1]
        power = Signal(16)
        m.d.comb += power.eq(1 << s[2].sums.exponent)
        coefficient, n = Signal.like(step.coefficient, reset_less=True), Signal.like(step.n, reset_less=True)
        m.d.sync += [coefficient.eq(Mux(s[2].sums.negative, -power, power)), n.eq(Mux(s[3].sums.first, s[3].sums.n, 0))]
        m.d.comb += [
            step.count_en.eq(s[1].active), step.count_row.eq(s[1].row),
            step.ones.eq(Mux(s[2].sums.with_ones, ones, 0)),
            step.coefficient.eq(coefficient),
            step.n.eq(n), step.base_row.eq(s[4].row), step.clear.eq(s[4].sums.first),
            step.write_en.eq(last.active & ~last.sums.final), step.write_row.eq(last.row),
        ]
        return step, last.active & last.sums.final, last.sums.ends & (last.row == self._rows - 1)


def _delayed(m, name, value, n_cycles):
    """The value, and the same 1 .. n_cycles later."""
    values = [value]
    for k in range(1, n_cycles + 1):
        values.append(Signal.like(value, name=f"{name}_{k}"))
        m.d.sync += values[k].eq(values[k - 1])
    return values
