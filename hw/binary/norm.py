"""NORM: layer norm of the elements of M tokens in two passes over X, into X and into ACT.

::

    X --> M lanes: sum, sum of squares --> NormScale, a lane a cycle --> mean, scale of every lane
    X --> M lanes: (x - mean) * scale * gain + bias ---------------------------------------------> X
    P --> NormParams --------^                    \\--> threshold or quantise --> queue --> Collector --> ACT

Golden: ``gen/golden/binary/norm.py``. A row a cycle in both passes, one descriptor after the other: 2 n_rows + token_lanes + 55
cycles each, and what zeros at the end of a line take.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import Queue, connect
from .collect import Collector, CollectWord
from .isa import Norm
from .links import ActWrite, ParamPair, XRow
from .norm_lane import NormLane
from .norm_params import NormParams
from .norm_scale import SQUARES_BITS, SUM_BITS, NormScale

__all__ = ["NormUnit"]

_QUEUE_ROWS = 32


def _chosen(values, number):
    """The value of that number, of two or four."""
    for bit in number:
        values = [Mux(bit, high, low) for low, high in zip(values[::2], values[1::2])]
    return values[0]


class NormUnit(wiring.Component):
    """The unit of NORM.

    Parameters
    ----------
    token_lanes, columns : M, and C of a line of ACT

    Members
    -------
    i_command : stream of isa.Norm; not checked here
    p_addr, p_data : a pair of words of P by its number, and a cycle later its bits
    x_want, x_grant, x_read_*, x_write_* : X, as ``ResidualMemory`` says
    o_act : stream of ActWrite
    done : strobe: everything of the command has left
    """

    def __init__(self, *, token_lanes, columns):
        if token_lanes < 2 or token_lanes & (token_lanes - 1):
            raise ValueError(f"token_lanes must be a power of two of at least 2, not {token_lanes!r}")
        self._lanes, self._columns = token_lanes, columns
        row = XRow(token_lanes)
        super().__init__({
            "i_command": In(stream.Signature(Norm)),
            "p_addr": Out(15), "p_data": In(ParamPair),
            "x_want": Out(1), "x_grant": In(1),
            "x_read_en": Out(1), "x_read_addr": Out(16), "x_read_data": In(row),
            "x_write_en": Out(1), "x_write_addr": Out(16), "x_write_data": Out(row),
            "o_act": Out(stream.Signature(ActWrite(token_lanes))), "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.scale = scale = NormScale()
        m.submodules.queue = queue = Queue(CollectWord(self._lanes), depth=_QUEUE_ROWS, ram_style="distributed")
        m.submodules.collector = collector = Collector(token_lanes=self._lanes, columns=self._columns)
        connect(m, queue.o, collector.i)
        lanes = [NormLane() for _ in range(self._lanes)]

        fields, second = Signal(Norm, reset_less=True), Signal()
        issue, take = Signal(), Signal()        # a row of X is asked for; a word leaves the queue
        stages = NormLane.S_Q + 1
        flow, ends = Signal(stages), Signal(stages)     # a row at a stage; the last one
        left_rows, waiting = Signal(13, reset_less=True), Signal(range(_QUEUE_ROWS + 1))
        write_addr = Signal(16, reset_less=True)
        lane_number, scanning = Signal(range(self._lanes)), Signal()
        m.d.sync += [flow.eq(Cat(issue, flow)), ends.eq(Cat(issue & (left_rows == 1), ends))]
        m.d.comb += [
            take.eq(queue.o.valid & queue.o.ready),
            self.x_read_en.eq(issue),
            self.x_write_en.eq(flow[NormLane.S_Y] & second & fields.write_x), self.x_write_addr.eq(write_addr),
            queue.i.valid.eq(flow[-1] & second & fields.to_act), queue.i.p.last.eq(ends[-1]),
            scale.fields.eq(fields),
        ]
        with m.If(issue):
            m.d.sync += [self.x_read_addr.eq(self.x_read_addr + 1), left_rows.eq(left_rows - 1)]
        with m.If(issue & second & fields.to_act & ~take):
            m.d.sync += waiting.eq(waiting + 1)
        with m.Elif(take & ~(issue & second & fields.to_act)):
            m.d.sync += waiting.eq(waiting - 1)

        clear = Signal()
        m.d.sync += clear.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i_command.ready.eq(1)
                with m.If(self.i_command.valid):
                    m.d.sync += [fields.eq(self.i_command.p), second.eq(0), clear.eq(1), self.x_want.eq(1)]
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.sync += [
                    self.x_read_addr.eq(fields.x_base), write_addr.eq(fields.x_base), self.p_addr.eq(fields.p_base >> 1),
                    left_rows.eq(fields.n_rows),
                ]
                with m.If(self.x_grant):
                    m.next = "PASS"
            with m.State("PASS"):
                m.d.comb += issue.eq(~waiting[-1])
                with m.If(issue & (left_rows == 1)):
                    m.next = "PASSED"
            with m.State("PASSED"):
                with m.If(~second & ends[NormLane.S_SQUARE + 1]):
                    m.next = "SCAN"
                with m.If(second & ends[NormLane.S_Y]):
                    m.d.sync += self.x_want.eq(0)
                with m.If(second & ends[-1]):
                    m.next = "FLUSH"
            with m.State("SCAN"):
                m.d.comb += scanning.eq(1)
                m.d.sync += lane_number.eq(lane_number + 1)
                with m.If(lane_number == self._lanes - 1):
                    m.next = "SCALE"
            with m.State("SCALE"):
                with m.If(scale.r_last):
                    m.d.sync += [second.eq(1), clear.eq(1)]
                    m.next = "BEGIN"
            with m.State("FLUSH"):
                with m.If((queue.level == 0) & ~collector.busy):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"

        with m.If(flow[2] & second):
            m.d.sync += self.p_addr.eq(self.p_addr + 1)
        with m.If(flow[NormLane.S_Y]):
            m.d.sync += write_addr.eq(write_addr + 1)

        self._scan(m, scale, lanes, fields, lane_number, scanning)
        gain, act = self._params(m, fields)
        for number, lane in enumerate(lanes):
            m.submodules[f"lane{number}"] = lane
            after = lanes[number + 1] if number + 1 < self._lanes else None
            m.d.comb += [
                lane.clear.eq(clear), lane.second.eq(second), lane.x.eq(self.x_read_data.x[number]),
                lane.sum_en.eq(flow[NormLane.S_SUM] & ~second), lane.square_en.eq(flow[NormLane.S_SQUARE] & ~second),
                lane.mean_push.eq(scale.mean_valid), lane.mean_i.eq(after.mean_o if after else scale.mean),
                lane.r_push.eq(scale.r_valid), lane.r_i.eq(after.r_o if after else scale.r),
                lane.mult.eq(gain.mult), lane.bias.eq(gain.bias), lane.mult2.eq(act.mult), lane.bias2.eq(act.bias),
                lane.flip.eq(act.flip), lane.bits.eq(act.threshold), lane.lo.eq(fields.lo), lane.hi.eq(fields.hi),
                self.x_write_data.x[number].eq(lane.y), queue.i.p.value[number].eq(lane.q),
            ]

        m.d.comb += [
            collector.place.d_base.eq(fields.d_base), collector.place.line_rows.eq(self._columns), collector.place.fill.eq(1),
            collector.place.a_bits.eq(fields.a_bits),
        ]
        connect(m, collector.o, wiring.flipped(self.o_act))
        return m

    def _scan(self, m, scale, lanes, fields, number, valid):
        """The sums of lane ``number`` to the statistics: one of four a cycle."""
        words = [Cat(lane.sum, lane.squares) for lane in lanes]
        last = number == self._lanes - 1
        stage = 0
        while len(words) > 1:
            stage += 1
            bits = min(2, len(words).bit_length() - 1)
            groups = [words[first:first + (1 << bits)] for first in range(0, len(words), 1 << bits)]
            words = [Signal(SUM_BITS + SQUARES_BITS, name=f"s{stage}_sums{i}", reset_less=True) for i in range(len(groups))]
            m.d.sync += [word.eq(_chosen(group, number[:bits])) for word, group in zip(words, groups)]
            later = Signal(len(number[bits:]) + 2, name=f"s{stage}_number")
            m.d.sync += later.eq(Cat(valid, last, number[bits:]))
            valid, last, number = later[0], later[1], later[2:]
        m.d.comb += [
            scale.valid.eq(valid), scale.last.eq(last),
            scale.s1.eq(Mux(fields.center, words[0][:SUM_BITS].as_signed(), 0)), scale.s2.eq(words[0][SUM_BITS:]),
        ]

    def _params(self, m, fields):
        """The parameters of gain and bias, and of the activation; their words are asked for when the row of X is at stage 2."""
        m.submodules.gain = gain = NormParams()
        m.submodules.act = act = NormParams()
        s4_gain = Signal(64, reset_less=True)
        later = [Signal(64, name=f"s{stage}_act", reset_less=True) for stage in range(4, NormLane.S_Y - NormParams.LATENCY + 1)]
        m.d.sync += [s4_gain.eq(self.p_data.gain), later[0].eq(self.p_data.act)]
        m.d.sync += [after.eq(before) for before, after in zip(later, later[1:])]
        m.d.comb += [
            gain.word.eq(s4_gain), gain.shift.eq(fields.shift),
            act.word.eq(later[-1]), act.shift.eq(fields.shift2), act.threshold.eq(fields.a_bits == 1),
        ]
        return gain, act
