"""Vector unit.  y = ((a * k1) * k2) * k3 + k4 over a row, then reduced and/or sent: one descriptor, L elements a cycle.

::

    i_command --> Issue --- addresses --> X, P ---+
    i_matmul, i_attend ------- integers ----------+--> L lanes --> y --+--> X
    i_param --> P                                 |     ^              +--> Sinks --> o_quant, o_topk
                     ScalarUnit -- s[r] ----------+     |              |
                         ^---- total ---- Reducer <-----+--------------+

The pipeline never stops and has no clock enable: a missing word of a stream is a bubble, and a word whose sink may
refuse it is issued only when there is room. A descriptor starts when the one before has left the pipeline.

Rate: a word a cycle; with a sigmoid, which four lanes share, a word every four cycles. A descriptor takes 37 cycles more
than it has words (42 with a stream sink), and 2 more for every row block after the first; for reductions see docs/units/vector.md.

Golden: ``celosia.gen.golden.vector.run_vector``.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..formats import F32_ONE
from ..isa import Mul1, Mul2, Sink, Vector
from ..links import AttendWord, DrainWord, Launch, ParamWrite, QuantWord, TopkWord
from .issue import Issue
from .lane import Lane, LaneControl, lane_control
from .reduce import ROW_SETS, Reducer
from .scalar import ScalarUnit
from .sigmoid import SharedSigmoid
from .sinks import Sinks
from .words import S_ISSUE, S_M2, S_WORDS, S_Y, SIGMOID_LANES, WordControl, delay, fit

__all__ = ["VectorUnit"]

_QUANT_WORDS = 64                       # queue: the whole pipeline may be under way to it
_TOPK_WORDS = 16                        # queue: TopK takes L cycles a word
_ULTRA_WORDS = 4096                     # depth of the large memory blocks


class VectorUnit(wiring.Component):
    """The vector unit.

    Parameters
    ----------
    vector_lanes : int
        L: 2, 4, 8 or 16.
    token_lanes : int
        Tokens with scalar registers; a power of two of at most 16.
    x_words, p_words : int
        Words of the scratches, at most 65536.

    Members
    -------
    i_command : In(stream of isa.Vector)
    i_matmul, i_attend : In(stream of DrainWord, AttendWord)
    i_param : In(stream of ParamWrite)
        Writes P; always ready.
    o_quant, o_topk : Out(stream of QuantWord, TopkWord)
    launch : In(Launch)
        Constant while a descriptor runs.
    done : Out(1)
        Strobe: all of a descriptor has left or landed.
    count_busy, count_wait : Out(1)
        A descriptor is at work; a word could not be issued for its stream or its sink.

    Paths: i_matmul.ready and i_attend.ready come from registers; otherwise none.
    """

    def __init__(self, *, vector_lanes, token_lanes, x_words, p_words):
        if vector_lanes not in (2, 4, 8, 16):
            raise ValueError(f"vector_lanes must be 2, 4, 8 or 16, not {vector_lanes!r}")
        if token_lanes not in (1, 2, 4, 8, 16):
            raise ValueError(f"token_lanes must be a power of two of at most 16, not {token_lanes!r}")
        for name, words in (("x_words", x_words), ("p_words", p_words)):
            if not isinstance(words, int) or not 2 <= words <= 65536:
                raise ValueError(f"{name} must be an integer in 2..65536, not {words!r}")
        self._lanes, self._token_lanes = vector_lanes, token_lanes
        self._x_words, self._p_words = x_words, p_words
        super().__init__({
            "i_command": In(stream.Signature(Vector)),
            "i_matmul": In(stream.Signature(DrainWord(vector_lanes))),
            "i_attend": In(stream.Signature(AttendWord(vector_lanes))),
            "i_param": In(stream.Signature(ParamWrite(vector_lanes))),
            "o_quant": Out(stream.Signature(QuantWord(vector_lanes))),
            "o_topk": Out(stream.Signature(TopkWord(vector_lanes))),
            "launch": In(Launch), "done": Out(1), "count_busy": Out(1), "count_wait": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.issue = issue = Issue(quant_room=_QUANT_WORDS, topk_room=_TOPK_WORDS, rows_at_once=ROW_SETS - 1,
                                           sigmoid_spacing=SIGMOID_LANES)
        m.submodules.reducer = reducer = Reducer(vector_lanes=self._lanes, token_lanes=self._token_lanes)
        m.submodules.scalars = scalars = ScalarUnit(token_lanes=self._token_lanes)
        m.submodules.sinks = sinks = Sinks(vector_lanes=self._lanes, quant_words=_QUANT_WORDS, topk_words=_TOPK_WORDS)
        f = issue.fields
        m.d.comb += [
            issue.i_command.p.eq(self.i_command.p), issue.i_command.valid.eq(self.i_command.valid),
            self.i_command.ready.eq(issue.i_command.ready),
            issue.launch.eq(self.launch),
            issue.matmul_valid.eq(self.i_matmul.valid), self.i_matmul.ready.eq(issue.matmul_ready),
            issue.attend_valid.eq(self.i_attend.valid), self.i_attend.ready.eq(issue.attend_ready),
            self.done.eq(issue.done), self.count_busy.eq(issue.count_busy), self.count_wait.eq(issue.count_wait),
        ]

        # What travels with a word, at every stage from S_ISSUE to S_Y.
        valid, word = {S_ISSUE: issue.valid}, {S_ISSUE: issue.word}
        for stage in range(S_ISSUE + 1, S_Y + 1):
            valid[stage] = Signal(name=f"valid_{stage}")
            word[stage] = Signal(WordControl, name=f"word_{stage}", reset_less=True)
            m.d.sync += [valid[stage].eq(valid[stage - 1]), word[stage].eq(word[stage - 1])]

        x_word, p_word = self._scratches(m, issue, valid[S_Y], word[S_Y], sinks.y)
        m.d.comb += [
            scalars.read_scalar.eq(f.mul1_scalar), scalars.read_token.eq(word[S_WORDS - 1].token),
            scalars.scale_scalar.eq(f.scale_scalar), scalars.scale_token.eq(word[sinks.S_SCALE].token),
        ]
        acc = Signal(data.ArrayLayout(self.i_matmul.p.acc.shape().elem_shape, self._lanes), reset_less=True)
        with m.If(self.i_matmul.ready):
            m.d.sync += acc.eq(self.i_matmul.p.acc)
        with m.Else():
            m.d.sync += acc.eq(self.i_attend.p.acc)
        control = Signal(LaneControl, reset_less=True)
        k1, k2 = Signal(32, reset_less=True), Signal(32, reset_less=True)
        scale = delay(m, self.i_attend.p.scale, S_WORDS - 1)
        m.d.sync += [
            *(control[name].eq(value) for name, value in lane_control(f).items()),
            k2.eq(Mux(f.mul2 == Mul2.IMM, f.imm1, F32_ONE)),
        ]
        with m.Switch(f.mul1):
            with m.Case(Mul1.SCALAR):
                m.d.sync += k1.eq(scalars.read_data)
            with m.Case(Mul1.IMM):
                m.d.sync += k1.eq(f.imm0)
            with m.Case(Mul1.STREAM):
                m.d.sync += k1.eq(scale)
            with m.Default():
                m.d.sync += k1.eq(F32_ONE)

        lanes = [Lane(odd=bool(lane % 2), turn=lane % SIGMOID_LANES) for lane in range(self._lanes)]
        for first in range(0, self._lanes, SIGMOID_LANES):
            group = lanes[first:first + SIGMOID_LANES]
            sigmoid = m.submodules[f"sigmoid_{first // SIGMOID_LANES}"] = SharedSigmoid(lanes=len(group))
            m.d.comb += sigmoid.start.eq(valid[S_M2 - 1])
            for turn, lane in enumerate(group):
                m.d.comb += [sigmoid.i[turn].eq(lane.m2), lane.sigmoid.eq(sigmoid.o[turn])]
        for number, lane in enumerate(lanes):
            m.submodules[f"lane_{number}"] = lane
            m.d.comb += [
                lane.control.eq(control), lane.acc.eq(acc[number]),
                lane.x.eq(x_word[number]), lane.p.eq(p_word[number]), lane.p_pair.eq(p_word[number ^ 1]),
                lane.k1.eq(k1), lane.k2.eq(k2),
                lane.a_pair.eq(lanes[number ^ 1].a),
                lane.folding.eq(reducer.folding),
                lane.add_a.eq(reducer.add_a[number]), lane.add_b.eq(reducer.add_b[number]),
                reducer.y[number].eq(lane.y), sinks.y[number].eq(lane.y),
            ]
        m.d.comb += [
            reducer.reduce.eq(f.reduce), reducer.n_words.eq(f.n_words),
            reducer.read_valid.eq(valid[reducer.S_READ]), reducer.read_last.eq(word[reducer.S_READ].last),
            reducer.y_valid.eq(valid[S_Y]), reducer.y_last.eq(word[S_Y].last),
            reducer.y_token.eq(word[S_Y].token),
            scalars.reduce.eq(f.reduce), scalars.imm0.eq(f.imm0), scalars.imm1.eq(f.imm1),
            scalars.reduce_scalar.eq(f.reduce_scalar), scalars.token.eq(reducer.total_token),
            scalars.total.eq(reducer.total), scalars.start.eq(reducer.total_valid),
            issue.reduced.eq(scalars.done),
            sinks.fields.eq(f), sinks.scale.eq(scalars.scale_data),
            sinks.valid.eq(valid[S_Y]), sinks.word.eq(word[S_Y]),
            issue.retired.eq(sinks.retired),
        ]
        for inner, outer in ((sinks.o_quant, self.o_quant), (sinks.o_topk, self.o_topk)):
            m.d.comb += [outer.p.eq(inner.p), outer.valid.eq(inner.valid), inner.ready.eq(outer.ready)]
        return m

    def _scratches(self, m, issue, y_valid, y_word, y):
        """X and P with their ports; returns their words at S_WORDS."""
        shape = data.ArrayLayout(32, self._lanes)

        def scratch(words):
            return memory.Memory(shape=shape, depth=words, init=[],
                                 attrs={"ram_style": "ultra" if words >= _ULTRA_WORDS else "block"})

        m.submodules.x = x = scratch(self._x_words)
        m.submodules.p = p = scratch(self._p_words)
        x_write, x_read = x.write_port(), x.read_port()
        p_write, p_read = p.write_port(), p.read_port()
        m.d.comb += [
            x_read.addr.eq(fit(issue.x_addr, self._x_words)),
            x_write.addr.eq(fit(y_word.where, self._x_words)),
            x_write.data.eq(y),
            x_write.en.eq(y_valid & (issue.fields.sink == Sink.X)),
            p_read.addr.eq(fit(issue.p_addr, self._p_words)),
            p_write.addr.eq(fit(self.i_param.p.addr, self._p_words)),
            p_write.data.eq(self.i_param.p.data),
            p_write.en.eq(self.i_param.valid),
            self.i_param.ready.eq(1),
        ]
        x_word, p_word = Signal(shape, reset_less=True), Signal(shape, reset_less=True)
        m.d.sync += [x_word.eq(x_read.data), p_word.eq(p_read.data)]
        return x_word, p_word
