"""Commands of the unit behind the engine, one after the other: when rows may come, and what multiplies and shifts them.

::

    i_command --> next --> fields
                    |
                    +--> P, ahead --+--> a word a row, or one for all --> mult, bias, flip
                                    +--> table: weights before the rows, bounds behind them (SUM)

    WAIT --> (TABLE) --> ROWS --> DRAIN --> (CUTS) --> WAIT, done
"""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .isa import AffineParam, Matmul, Post, TableParam, ThresholdParam
from .param_stream import ParamStream

__all__ = ["PostControl", "RowParam", "row_param"]


class RowParam(data.Struct):
    """What a row is multiplied with, what is added, and whether its bit is inverted."""
    mult: signed(18)
    bias: signed(46)
    flip: 1


def row_param(param, word, fields):
    """Statements: what a parameter word says to a row of a command; a threshold is taken off, so that the sign is the bit."""
    affine, bar = AffineParam(word), ThresholdParam(word)
    mode = fields.post
    is_affine = (mode == Post.QUANT) | (mode == Post.RESIDUAL)
    is_bar = (mode == Post.SIGN) | (mode == Post.MAP)
    is_table = (mode == Post.SUM) | (mode == Post.CUT)
    return [
        param.mult.eq(Mux(is_affine, affine.mult, 1)),
        param.bias.eq(Mux(is_affine, affine.bias, Mux(is_bar, -bar.level, Mux(is_table, fields.n_index, 0)))),
        param.flip.eq(is_bar & bar.flip),
    ]


class PostControl(wiring.Component):
    """Parameters: ``engine_rows``, a power of two; ``softmax``: whether SUM has a table.

    Members
    -------
    i_command, index : as of ``BinaryPost``
    p_addr, p_data : read port of P: a word and, a cycle later, its bits
    fields, fields_index : the command at work; constant from ``start`` (strobe, a cycle later) to ``done`` (strobe)
    offered : there is a row
    opens : a row may be taken, with ``param``; it is the ``last`` one
    take : strobe: it is taken
    drained : no row that was taken is still under way
    table : stream of TableParam; load, scan, table_idle : as of ``CutWalk``
    x_want, x_grant : as of ``BinaryPost``

    Paths: take -> done; drained, table_idle -> done.
    """

    def __init__(self, *, engine_rows, softmax):
        if engine_rows < 1 or engine_rows & (engine_rows - 1):
            raise ValueError(f"engine_rows must be a power of two, not {engine_rows!r}")
        self._rows_log2, self._softmax = engine_rows.bit_length() - 1, softmax
        super().__init__({
            "i_command": In(stream.Signature(Matmul)), "index": In(16), "p_addr": Out(16), "p_data": In(64),
            "fields": Out(Matmul), "fields_index": Out(16), "start": Out(1),
            "offered": In(1), "opens": Out(1), "param": Out(RowParam), "last": Out(1), "take": In(1), "drained": In(1),
            "table": Out(stream.Signature(TableParam)), "load": Out(1), "scan": Out(1), "table_idle": In(1),
            "x_want": Out(1), "x_grant": In(1), "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.params = params = ParamStream()
        m.d.comb += [self.p_addr.eq(params.p_addr), params.p_data.eq(self.p_data)]
        f, new, word = self.fields, self.i_command.p, params.o
        following, following_index, waiting = Signal(Matmul), Signal(16), Signal()      # the next command
        left = Signal(12 + self._rows_log2)
        begin, idle, in_table = Signal(), Signal(), Signal()
        m.d.comb += self.last.eq(left == 1)
        m.d.comb += row_param(self.param, word.p, f)

        per_row, has_word, adds = Signal(), Signal(), Signal()
        m.d.comb += [
            adds.eq(f.post == Post.RESIDUAL),
            per_row.eq((f.post == Post.SIGN) | (f.post == Post.QUANT) | (f.post == Post.RESIDUAL)),
            has_word.eq(per_row | (f.post == Post.MAP)),
            self.table.p.eq(word.p), self.table.valid.eq(word.valid & in_table),
            word.ready.eq(Mux(in_table, self.table.ready, self.take & (per_row | (has_word & self.last)))),
        ]
        with m.FSM():
            with m.State("WAIT"):
                m.d.comb += idle.eq(1)
                with m.If(begin):
                    m.next = "START"
            with m.State("START"):
                m.d.comb += self.start.eq(1)
                m.d.sync += left.eq(f.n_row_groups << self._rows_log2)
                m.next = "ROWS"
                if self._softmax:
                    with m.If(f.post == Post.SUM):
                        m.d.comb += self.load.eq(1)
                        m.next = "TABLE"
            with m.State("ROWS"):
                m.d.comb += self.opens.eq((word.valid | ~has_word) & (~adds | (self.x_want & self.x_grant)))
                with m.If(adds & self.offered):
                    m.d.sync += self.x_want.eq(1)
                with m.If(self.take):
                    m.d.sync += left.eq(left - 1)
                    with m.If(self.last):
                        m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.comb += self.done.eq(self.drained)
                with m.If(self.drained):
                    m.next = "WAIT"
                if self._softmax:
                    with m.If(self.drained & (f.post == Post.SUM)):
                        m.d.comb += [self.done.eq(0), self.scan.eq(1)]
                        m.next = "CUTS"
                with m.If(begin):
                    m.next = "START"
            if self._softmax:
                with m.State("TABLE"):
                    m.d.comb += in_table.eq(1)
                    with m.If(self.table_idle):
                        m.next = "ROWS"
                with m.State("CUTS"):
                    m.d.comb += [in_table.eq(1), self.done.eq(self.table_idle)]
                    with m.If(self.done):
                        m.next = "WAIT"
                    with m.If(begin):
                        m.next = "START"

        # The next command's parameters are asked for when it is taken in; not before a SUM has asked for its table twice.
        wants_table, request = Signal(), params.i
        m.d.comb += [
            begin.eq(waiting & (idle | self.done)),
            self.i_command.ready.eq(~waiting & request.ready & ~wants_table),
            request.valid.eq((self.i_command.valid & self.i_command.ready) | self.scan),
            request.p.base.eq(Mux(self.scan, f.p_base, new.p_base)),
        ]
        with m.If(self.scan | (new.post == Post.SUM)):
            m.d.comb += request.p.count.eq(Mux(self.scan, f.n_index, new.n_index) + 1)
        with m.Elif((new.post == Post.RAW) | (new.post == Post.CUT)):
            m.d.comb += request.p.count.eq(0)
        with m.Else():
            m.d.comb += request.p.count.eq(Mux(new.post == Post.MAP, 1, new.n_row_groups << self._rows_log2))
        with m.If(begin):
            m.d.sync += [
                f.eq(following), self.fields_index.eq(following_index), waiting.eq(0),
                wants_table.eq(self._softmax & (following.post == Post.SUM)),
            ]
        with m.If(self.done):
            m.d.sync += self.x_want.eq(0)
        with m.If(self.scan):
            m.d.sync += wants_table.eq(0)
        with m.If(self.i_command.valid & self.i_command.ready):
            m.d.sync += [following.eq(new), following_index.eq(self.index), waiting.eq(1)]
        return m
