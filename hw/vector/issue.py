"""Issue: takes a descriptor, walks its loop nest and sends one word a cycle into the pipeline.

::

    for block in row:                 # block_words words, the last may be shorter; two cycles between blocks
        for t in tokens:              # x_row, p_row, d_row: base + t * stride, by adding
            for i in block:
                issue (x_row + i, p_row + i, d_row + i)
        (a row that is reduced: one more cycle, ROW; one that is summed: a cycle without a word after every eighth,
         in which the row before folds, and the next row when fewer than rows_at_once are under way)

    IDLE -> SETUP -> SKIP* -> BLOCK -> RUN ... -> ROW -> (RUN or BLOCK or) DRAIN -> IDLE
              |        |        |       |          |                         |
              bases    |        ends    |          end of a block, or        until every word
                       |                |          row being reduced         has left or landed
                       |                a word a cycle, when its stream has one and the sink has room
                       Tokens.LAST, Tokens.LANE: a cycle for every token lane before the one

Because nothing in the pipeline stops, a word for an output queue is issued only when the queue has room for it and
for all that are on their way: ``in_flight`` counts from issue until the word is taken (or has landed in X), so valid
waits for nobody.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..isa import Mul3, Reduce, Sink, Source, Tokens, Vector
from ..links import Launch
from .words import WordControl

__all__ = ["Issue"]


class Issue(wiring.Component):
    """Walks the loop nest of a descriptor.

    Parameters
    ----------
    quant_room, topk_room : int
        Words that the two output queues hold.
    rows_at_once : int
        Rows that are summed at the same time.
    sigmoid_spacing : int
        Least number of cycles between two words of a descriptor with a sigmoid, at least 2.

    Members
    -------
    i_command, launch : as of the unit
    matmul_valid, attend_valid : In(1)
        A stream offers a word.
    matmul_ready, attend_ready : Out(1)
        It is taken.
    fields : Out(Vector)
        The descriptor at work.
    valid, x_addr, p_addr, word : Out
        A word enters stage S_ISSUE; registered.
    reduced : In(1)
        The scalar registers of a row are written.
    retired : In(1)
        A word has left or landed.
    done, count_busy, count_wait : Out(1)
    """

    def __init__(self, *, quant_room, topk_room, rows_at_once, sigmoid_spacing):
        for name, value in (("quant_room", quant_room), ("topk_room", topk_room), ("rows_at_once", rows_at_once)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        if not isinstance(sigmoid_spacing, int) or sigmoid_spacing < 2:
            raise ValueError(f"sigmoid_spacing must be an integer of at least 2, not {sigmoid_spacing!r}")
        self._quant_room, self._topk_room, self._rows_at_once = quant_room, topk_room, rows_at_once
        self._sigmoid_spacing = sigmoid_spacing
        super().__init__({
            "i_command": In(stream.Signature(Vector)), "launch": In(Launch),
            "matmul_valid": In(1), "attend_valid": In(1), "matmul_ready": Out(1), "attend_ready": Out(1),
            "fields": Out(Vector), "valid": Out(1), "x_addr": Out(16), "p_addr": Out(16), "word": Out(WordControl),
            "reduced": In(1), "retired": In(1),
            "done": Out(1), "count_busy": Out(1), "count_wait": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        f = self.fields

        token, last_token, last_lane, only_lane = Signal(4), Signal(), Signal(4), Signal(4)
        i, block_start, block_last, row_last = Signal(16), Signal(16), Signal(16), Signal(16)
        x_row, p_row, d_row = Signal(16), Signal(16), Signal(16)
        d_base, d_stride, to_topk = Signal(16), Signal(16), Signal()
        m.d.comb += [
            last_lane.eq(self.launch.n_tokens - 1),
            last_token.eq(token == last_lane),
            only_lane.eq(Mux(f.tokens == Tokens.LANE, f.lane, last_lane)),
            # The sinks that are no scratch count words from d_base (ACT, TOPK, RESCORE) or from 0.
            to_topk.eq((f.sink == Sink.TOPK) | (f.sink == Sink.RESCORE)),
            d_base.eq(Mux((f.sink == Sink.X) | (f.sink == Sink.ACT) | to_topk, f.d_base, 0)),
            d_stride.eq(Mux(f.sink == Sink.X, f.d_stride, 0)),
        ]
        restart = [token.eq(0), x_row.eq(f.x_base), p_row.eq(f.p_base), d_row.eq(d_base)]
        next_token = [token.eq(token + 1), x_row.eq(x_row + f.x_stride), p_row.eq(p_row + f.p_stride),
                      d_row.eq(d_row + d_stride)]

        # Room: in_flight counts up to the pipeline's length where the sink always takes.
        queued, full = Signal(), Signal()
        limit = max(self._quant_room, self._topk_room, 64)
        in_flight = Signal(range(limit + 1))
        room = Mux(to_topk, self._topk_room, self._quant_room)
        m.d.comb += [
            queued.eq((f.sink != Sink.NONE) & (f.sink != Sink.X)),
            full.eq(queued & (in_flight >= room)),
        ]
        # Pace: the cycles until the next word of a descriptor with a sigmoid.
        go, pause = Signal(), Signal(range(self._sigmoid_spacing))
        with m.If(go & (f.mul3 == Mul3.SIGMOID)):
            m.d.sync += pause.eq(self._sigmoid_spacing - 1)
        with m.Elif(pause != 0):
            m.d.sync += pause.eq(pause - 1)
        may_go = ~full & (pause == 0)
        m.d.sync += in_flight.eq(in_flight + go - self.retired)

        # The word of this cycle.
        offered = ((f.source != Source.MATMUL) | self.matmul_valid) & ((f.source != Source.ATTEND) | self.attend_valid)
        m.d.sync += [
            self.valid.eq(go),
            self.x_addr.eq(x_row + i),
            self.p_addr.eq(p_row + i),
            self.word.token.eq(token),
            self.word.where.eq(d_row + i),
            self.word.last.eq(i == row_last),
        ]

        # Rows on their way to the scalar registers.
        sums, reduces, gap = Signal(), Signal(), Signal()
        m.d.comb += [sums.eq(f.reduce == Reduce.RMS), reduces.eq(sums | (f.reduce == Reduce.ABSMAX))]
        m.d.sync += gap.eq(go & sums & i[:3].all())
        row_end, rows = Signal(), Signal(5)
        row_over = Signal()
        m.d.sync += rows.eq(rows + row_end - self.reduced)
        m.d.comb += row_over.eq(~sums | (rows < self._rows_at_once))

        alone, more_tokens = Signal(), Signal()
        m.d.comb += [alone.eq(f.tokens != Tokens.ALL), more_tokens.eq(~alone & ~last_token)]
        m.d.comb += self.count_busy.eq(1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.i_command.ready.eq(1), self.count_busy.eq(0)]
                m.d.sync += f.eq(self.i_command.p)
                with m.If(self.i_command.valid):
                    m.next = "SETUP"
            with m.State("SETUP"):
                m.d.sync += [*restart, block_start.eq(0), row_last.eq(f.n_words - 1)]
                m.next = "SKIP"
            with m.State("SKIP"):
                with m.If(alone & (token != only_lane)):
                    m.d.sync += next_token
                with m.Else():
                    m.next = "BLOCK"
            with m.State("BLOCK"):
                left = Signal(16)
                m.d.comb += left.eq(row_last - block_start)
                m.d.sync += [
                    i.eq(block_start),
                    block_last.eq(Mux(left < f.block_words, row_last, block_start + f.block_words - 1)),
                ]
                m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += [
                    go.eq(offered & may_go & ~gap),
                    self.matmul_ready.eq((f.source == Source.MATMUL) & may_go),
                    self.attend_ready.eq((f.source == Source.ATTEND) & may_go),
                    self.count_wait.eq(~go & (pause == 0) & ~gap),
                ]
                with m.If(go):
                    with m.If(i != block_last):
                        m.d.sync += i.eq(i + 1)
                    with m.Elif(~reduces & more_tokens):
                        m.d.sync += [i.eq(block_start), *next_token]
                    with m.Else():
                        m.d.comb += row_end.eq(reduces)
                        m.next = "ROW"
            with m.State("ROW"):
                with m.If(row_over):
                    with m.If(more_tokens):
                        m.d.sync += [i.eq(block_start), *next_token]
                        m.next = "RUN"
                    with m.Elif(block_last == row_last):
                        m.next = "DRAIN"
                    with m.Else():
                        m.d.sync += block_start.eq(block_last + 1)
                        with m.If(~alone):
                            m.d.sync += restart
                        m.next = "BLOCK"
            with m.State("DRAIN"):
                with m.If((in_flight == 0) & (rows == 0)):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
        return m
