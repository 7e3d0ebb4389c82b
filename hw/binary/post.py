"""What becomes of the rows of a MATMUL: bits, small integers, a part of the residual stream, attention maps, or what they are.

::

                 P --> parameters --> decode
                                        | mult, bias, flip
    i_command --> control               v
    i --------------------> M x PostLane (1 .. 3) --+--> (4, 5) --+--> Collector --> o_act
                                  |       |         |             +--> o_v
                                  |       +--> RawRows --> o_raw  +--> X
                                  +--> M x CutLane --> reaches
    lengths --> VisibleLanes --> seen

All stages move together; a row that its sink does not take holds them. Rate: a row a cycle, but for RAW, which sends
4 M / port_bytes words a row. Latency: 5 cycles to the sink. A command begins when the one before has left, with its first
parameters at hand; SUM takes D + 1 cycles more before its rows, for the table, and as many behind them, for the cuts.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..mem.links import WriteWord
from ..stream import connect
from . import isa
from .collect import Collector
from .cut_lane import CutLane, index_bits
from .cut_walk import CutWalk
from .isa import Into, Post
from .links import ActWrite, Lengths, RowWord, VWrite, XRow
from .post_control import PostControl
from .post_lane import PostLane, shift_control
from .raw import RawRows
from .visible import VisibleLanes

__all__ = ["BinaryPost"]


class BinaryPost(wiring.Component):
    """The unit behind the engine.

    Parameters
    ----------
    token_lanes, engine_rows, columns, port_bytes, max_sequences, softmax : as in ``BinaryConfig``
        Without ``softmax`` there are no SUM and CUT.

    Members
    -------
    i_command, index : stream of isa.Matmul, and the index of its descriptor, for the writer
    i : stream of RowWord, the rows of the commands
    lengths : In(Lengths), constant while a program runs
    p_addr, p_data : read port of P: a word and, a cycle later, its bits
    x_want, x_grant : of X, from when the first row of RESIDUAL is there to its end: who has X waits for no memory
    x_read_en, x_read_addr, x_read_data : a row of X, a cycle later, until the next read
    x_write_en, x_write_addr, x_write_data : a row of X
    o_act, o_v, o_raw : streams of ActWrite, VWrite, WriteWord
    done : strobe: all of a command has left

    Paths: o_act.ready, o_v.ready, o_raw.ready -> i.ready; i.valid -> i.ready.
    """

    def __init__(self, *, token_lanes, engine_rows, columns, port_bytes, max_sequences, softmax=True):
        for name, value in (("token_lanes", token_lanes), ("engine_rows", engine_rows), ("columns", columns)):
            if value < 2 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two of at least 2, not {value!r}")
        if port_bytes % 4 or 4 * token_lanes % port_bytes:
            raise ValueError(f"port_bytes must be a multiple of 4 that divides 4 token_lanes, not {port_bytes!r}")
        self._lanes, self._rows, self._columns, self._port_bytes = token_lanes, engine_rows, columns, port_bytes
        self._sequences, self._softmax = max_sequences, softmax
        super().__init__({
            "i_command": In(stream.Signature(isa.Matmul)), "index": In(16),
            "i": In(stream.Signature(RowWord(token_lanes))), "lengths": In(Lengths(max_sequences)),
            "p_addr": Out(16), "p_data": In(64),
            "x_want": Out(1), "x_grant": In(1),
            "x_read_en": Out(1), "x_read_addr": Out(16), "x_read_data": In(XRow(token_lanes)),
            "x_write_en": Out(1), "x_write_addr": Out(16), "x_write_data": Out(XRow(token_lanes)),
            "o_act": Out(stream.Signature(ActWrite(token_lanes))), "o_v": Out(stream.Signature(VWrite(token_lanes))),
            "o_raw": Out(stream.Signature(WriteWord(port_bytes))),
            "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.control = control = PostControl(engine_rows=self._rows, softmax=self._softmax)
        f, mode = control.fields, control.fields.post
        m.d.comb += [
            control.i_command.p.eq(self.i_command.p), control.i_command.valid.eq(self.i_command.valid),
            self.i_command.ready.eq(control.i_command.ready), control.index.eq(self.index),
            self.p_addr.eq(control.p_addr), control.p_data.eq(self.p_data),
            self.x_want.eq(control.x_want), control.x_grant.eq(self.x_grant), self.done.eq(control.done),
        ]

        # Rows in the stages; bit 0: on the way into stage 1.
        valid, last, advance = Signal(6), Signal(6), Signal()
        m.d.comb += [
            control.offered.eq(self.i.valid), self.i.ready.eq(control.opens & advance),
            control.take.eq(self.i.valid & self.i.ready), valid[0].eq(control.take), last[0].eq(control.last),
        ]
        to_memory = mode == Post.RAW        # from stage 3
        with m.If(advance):
            m.d.sync += [valid[1:].eq(Cat(valid[:3], valid[3] & ~to_memory, valid[4])), last[1:].eq(last[:5])]

        lanes, seen = self._lane_stages(m, control, valid, advance)
        reaches = self._softmax_lanes(m, control, lanes, seen, valid) if self._softmax else Const(0, self._lanes)
        flip = self._later(m, control.param.flip, "flip", 3, advance)
        for at, lane in enumerate(lanes):
            m.d.comb += lane.bit.eq(Mux(mode == Post.CUT, reaches[at], ~lane.total[-1] ^ flip) & seen[at])

        m.submodules.raw = raw = RawRows(token_lanes=self._lanes, port_bytes=self._port_bytes)
        connect(m, raw.o, self.o_raw)
        m.d.comb += [
            raw.start.eq(control.start), raw.offset.eq(f.out), raw.index.eq(control.fields_index),
            raw.valid.eq(valid[3] & to_memory),
            *(row.eq(lane.total) for row, lane in zip(raw.y, lanes)),
        ]
        taken, idle = self._sinks(m, control, lanes, valid[5], last[5])
        self._residual(m, control, lanes, valid, advance)
        m.d.comb += [
            advance.eq((~valid[5] | taken) & (~raw.valid | raw.taken)),
            control.drained.eq(~valid[1:].any() & idle),
        ]
        return m

    def _later(self, m, value, name, stages, advance):
        for stage in range(1, stages + 1):
            register = Signal.like(value, name=f"s{stage}_{name}", reset_less=True)
            with m.If(advance):
                m.d.sync += register.eq(value)
            value = register
        return value

    def _lane_stages(self, m, control, valid, advance):
        """The lanes with what they share, and the bit of each lane that a row in stage 3 needs to be set."""
        f, mode = control.fields, control.fields.post
        mult = self._later(m, control.param.mult, "mult", 1, advance)
        bias = self._later(m, control.param.bias, "bias", 2, advance)
        place, guards = shift_control(f.shift)
        lanes = []
        for at in range(self._lanes):
            m.submodules[f"lane{at}"] = lane = PostLane()
            shared = lane.control
            m.d.comb += [
                lane.en.eq(advance), lane.y.eq(self.i.p.y[at]), shared.mult.eq(mult), shared.bias.eq(bias), shared.place.eq(place),
                shared.guards.eq(guards), shared.quant.eq(mode == Post.QUANT), shared.lo.eq(f.lo), shared.hi.eq(f.hi),
            ]
            lanes.append(lane)
        m.submodules.visible = visible = VisibleLanes(token_lanes=self._lanes, max_sequences=self._sequences)
        token, seen = Signal(12), Signal(self._lanes)
        with m.If(control.start):
            m.d.sync += token.eq(f.first_row)
        with m.Elif(advance & valid[1]):
            m.d.sync += token.eq(token + 1)
        is_map = (mode == Post.MAP) | (mode == Post.SUM) | (mode == Post.CUT)
        m.d.comb += [
            visible.en.eq(advance), visible.row.eq(token), visible.chunk.eq(f.chunk), visible.causal.eq(f.causal),
            visible.seq_log2.eq(f.seq_log2), visible.lengths.eq(self.lengths),
            seen.eq(visible.seen | (~is_map).replicate(self._lanes)),
        ]
        return lanes, seen

    def _softmax_lanes(self, m, control, lanes, seen, valid):
        """Whether each lane's index in stage 3 reaches its cut; SUM is never held."""
        f = control.fields
        m.submodules.walk = walk = CutWalk(columns=self._columns)
        connect(m, control.table, walk.i)
        m.d.comb += [walk.load.eq(control.load), walk.scan.eq(control.scan), walk.last_index.eq(f.n_index),
                     control.table_idle.eq(walk.idle)]
        reaches = Signal(self._lanes)
        for at, lane in enumerate(lanes):
            m.submodules[f"cut{at}"] = cut = CutLane(columns=self._columns)
            m.d.comb += [
                cut.control.eq(walk.control), cut.index.eq(lane.total[1:1 + index_bits(self._columns)]),
                cut.adds.eq(seen[at] & valid[3] & (f.post == Post.SUM)), reaches[at].eq(cut.reaches),
            ]
        return reaches

    def _sinks(self, m, control, lanes, valid, last):
        """Rows in stage 5 to ACT or V. Returns (the row is taken or goes elsewhere, nothing waits behind the stages)."""
        f, mode = control.fields, control.fields.post
        m.submodules.collector = collector = Collector(token_lanes=self._lanes, columns=self._columns)
        connect(m, collector.o, self.o_act)
        is_bits = (mode == Post.SIGN) | (mode == Post.MAP) | (mode == Post.CUT)
        to_v, to_act = Signal(), Signal()
        m.d.comb += [
            to_v.eq(is_bits & (f.into == Into.V)), to_act.eq((is_bits & ~to_v) | (mode == Post.QUANT)),
            collector.place.d_base.eq(f.d_base), collector.place.d_first.eq(f.d_first), collector.place.line_rows.eq(f.line_rows),
            collector.place.fill.eq(f.fill), collector.place.a_bits.eq(Mux(mode == Post.QUANT, 8, 1)),
            collector.i.valid.eq(valid & to_act), collector.i.p.last.eq(last),
            *(value.eq(lane.value) for value, lane in zip(collector.i.p.value, lanes)),
        ]

        word, bank = Signal(12), Signal(4)
        chunk_words_log2 = self._columns.bit_length() - self._lanes.bit_length()
        block = f.chunk << -chunk_words_log2 if chunk_words_log2 < 0 else f.chunk >> chunk_words_log2
        with m.If(control.start):
            m.d.sync += [word.eq(f.d_base + block), bank.eq(0)]
        with m.Elif(self.o_v.valid & self.o_v.ready):
            m.d.sync += bank.eq(bank + 1)
            with m.If(bank == self._rows - 1):
                m.d.sync += [bank.eq(0), word.eq(word + f.v_blocks)]
        m.d.comb += [
            self.o_v.valid.eq(valid & to_v), self.o_v.p.word.eq(word), self.o_v.p.bank.eq(bank), self.o_v.p.chunk.eq(f.chunk),
            self.o_v.p.bits.eq(Cat(lane.value[0] for lane in lanes)),
        ]
        return Mux(to_act, collector.i.ready, ~to_v | self.o_v.ready), ~collector.busy

    def _residual(self, m, control, lanes, valid, advance):
        """Rows of X: read for stage 4, written from stage 5. RESIDUAL is never held."""
        active = control.fields.post == Post.RESIDUAL
        with m.If(control.start):
            m.d.sync += [self.x_read_addr.eq(control.fields.d_base), self.x_write_addr.eq(control.fields.d_base)]
        with m.Else():
            m.d.sync += [self.x_read_addr.eq(self.x_read_addr + self.x_read_en),
                         self.x_write_addr.eq(self.x_write_addr + self.x_write_en)]
        m.d.comb += [self.x_read_en.eq(active & valid[3] & advance), self.x_write_en.eq(active & valid[5])]
        for at, lane in enumerate(lanes):
            m.d.comb += [lane.x.eq(self.x_read_data.x[at]), self.x_write_data.x[at].eq(lane.x_new)]
