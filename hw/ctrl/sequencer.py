"""Walks through the program: judges a descriptor, issues it to its unit, plans its memory reads, goes on to the next.

::

    i --> wait for the verdict --+--> END of this run: stop here
                                 +--> END of shorter runs: next
                                 +--> bad: report, stop here
                                 +--> (the first that gathers: end of the shortlist)
                                 +--> scoreboard --> station of its unit --> (V sink) record --> read requests --> next

The shortlist ends when all that was issued is complete and the candidates have stood still for some cycles, so that no
logit is between two rooms; then their numbers are put aside.

A command goes out before its reads, so that the room in the port queues never decides whether a unit may start.
Rate: about 13 cycles a descriptor, and 5 + n_ports a row of LOAD (the expander's).
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..isa import Index, Opcode, Sink, Tokens
from ..links import AttendCommand, Dest, Launch, MatmulCommand, RecordCommand, scale_beats
from ..mem.links import ErrorReport, Fetched, LoadCommand
from ..regs import Error
from .check import DescriptorCheck, bodies
from .links import Gated, ReadRequest

__all__ = ["Sequencer"]

_STILL_CYCLES = 8

_UNIT_OF = {Opcode.LOAD: 0, Opcode.MATMUL: 1, Opcode.VECTOR: 2, Opcode.ATTEND: 3}       # places in UNITS


class Sequencer(wiring.Component):
    """
    Members
    -------
    i : stream of Fetched
    code : verdict of DescriptorCheck on ``i.p.bits``
    launch : constant while a program runs
    token_lane, token : the lane whose token id is wanted, and the id, one cycle later
    complete : everything issued is finished
    keep, settled, lane, rank, number : as of dispatch
    o_order : stream of the unit of each descriptor issued
    o_load, o_matmul, o_vector, o_attend : streams of Gated commands
    o_record : stream of RecordCommand
    o_request : stream of ReadRequest
    error : OPCODE, SIZE, FETCH (the last descriptor of the program was not its END; its index), until a reset
    ended : END was reached
    issue : strobe: a descriptor was issued

    Paths: none.
    """

    def __init__(self, *, n_ports, port_bytes, vector_lanes, engine_rows):
        self._n_ports, self._port_bytes, self._lanes = n_ports, port_bytes, vector_lanes
        self._quantum_log2 = max(engine_rows, vector_lanes).bit_length() - 1
        self._groups_log2 = max(1, vector_lanes // engine_rows).bit_length() - 1    # row groups of a row quantum
        super().__init__({
            "i": In(stream.Signature(Fetched)), "code": In(4),
            "launch": In(Launch), "token_lane": Out(4), "token": In(32),
            "complete": In(1), "keep": Out(1), "settled": In(1), "lane": Out(4), "rank": Out(8), "number": In(20),
            "o_order": Out(stream.Signature(2)),
            "o_load": Out(stream.Signature(Gated(LoadCommand))),
            "o_matmul": Out(stream.Signature(Gated(MatmulCommand))),
            "o_vector": Out(stream.Signature(Gated(isa.Vector))),
            "o_attend": Out(stream.Signature(Gated(AttendCommand))),
            "o_record": Out(stream.Signature(RecordCommand)),
            "o_request": Out(stream.Signature(ReadRequest)),
            "error": Out(ErrorReport), "ended": Out(1), "issue": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        header, body = bodies(self.i.p.bits)
        end, load, matmul, vector, attend = (
            body[opcode] for opcode in (Opcode.END, Opcode.LOAD, Opcode.MATMUL, Opcode.VECTOR, Opcode.ATTEND))
        row, last_lane, lane = Signal(4), Signal(4), Signal(4)
        last_row = Signal(4)
        by_rank, gathers = Signal(), Signal()
        position = Signal(16, reset_less=True)
        m.d.sync += [last_lane.eq(self.launch.n_tokens - 1), position.eq(self.launch.lanes[row].position)]
        m.d.comb += [
            by_rank.eq(load.index == Index.CANDIDATE),
            last_row.eq(Mux((load.index == Index.NONE) | by_rank, 0, last_lane)), self.token_lane.eq(row),
            gathers.eq(Mux(header.opcode == Opcode.LOAD, by_rank, (header.opcode == Opcode.MATMUL) & matmul.gather)),
            self.rank.eq(Mux(header.opcode == Opcode.LOAD, load.rank, matmul.rank)),
            lane.eq(Mux(header.opcode == Opcode.LOAD, load.lane, matmul.lane)),
        ]
        m.d.sync += self.lane.eq(Mux(lane > last_lane, last_lane, lane))
        self._commands(m, header, load, matmul, vector, attend, last_row)
        request = self._request(m, header, load, matmul, attend, position)

        outputs = {Opcode.LOAD: self.o_load, Opcode.MATMUL: self.o_matmul, Opcode.VECTOR: self.o_vector,
                   Opcode.ATTEND: self.o_attend}
        waited = Signal(range(DescriptorCheck.LATENCY + 1))
        shortlisted, rests, still = Signal(), Signal(), Signal(range(_STILL_CYCLES))
        m.d.sync += rests.eq(self.complete & self.settled)
        with m.If(rests):
            m.d.sync += still.eq(still + 1)
        with m.Else():
            m.d.sync += still.eq(0)
        with m.FSM():
            with m.State("JUDGE"):
                with m.If(self.i.valid):
                    m.d.sync += waited.eq(waited + 1)
                with m.If(waited == DescriptorCheck.LATENCY):
                    m.d.sync += [waited.eq(0), row.eq(0)]
                    with m.If(self.code != Error.NONE):
                        m.d.sync += self.error.code.eq(self.code)
                        m.next = "FAILED"
                    with m.Elif(header.opcode == Opcode.END):
                        m.next = "NEXT"
                        with m.If((end.above == 0) | (self.launch.n_tokens <= end.above)):
                            m.next = "ENDED"
                    with m.Elif(gathers & ~shortlisted):
                        m.d.sync += [still.eq(0), shortlisted.eq(1)]
                        m.next = "SHORTLIST"
                    with m.Else():
                        m.next = "ORDER"
            with m.State("SHORTLIST"):
                with m.If(still == _STILL_CYCLES - 1):
                    m.d.comb += self.keep.eq(1)
                    m.next = "KEEP"
            with m.State("KEEP"):
                with m.If(self.settled):
                    m.next = "NUMBER"
            with m.State("NUMBER"):
                m.next = "ORDER"
            with m.State("ORDER"):
                m.d.comb += self.o_order.valid.eq(1)
                with m.If(self.o_order.ready):
                    m.next = "COMMAND"
            with m.State("COMMAND"):
                with m.Switch(header.opcode.as_value()):
                    for opcode, output in outputs.items():
                        with m.Case(opcode.value):
                            m.d.comb += output.valid.eq(1)
                            with m.If(output.ready):
                                m.d.comb += self.issue.eq(1)
                                m.next = "NEXT" if opcode is Opcode.VECTOR else "PLAN"
                                if opcode is Opcode.VECTOR:
                                    with m.If(vector.sink == Sink.V):
                                        m.next = "RECORD"
                                    with m.If(vector.sink == Sink.TOPK):
                                        m.d.sync += shortlisted.eq(0)
            with m.State("RECORD"):
                m.d.comb += self.o_record.valid.eq(1)
                with m.If(self.o_record.ready):
                    m.next = "NEXT"
            with m.State("PLAN"):
                with m.If(~self.o_request.valid):
                    m.d.sync += [self.o_request.p.eq(request), self.o_request.valid.eq(1), row.eq(row + 1)]
                    m.next = "TOKEN"
                    with m.If((header.opcode != Opcode.LOAD) | (row == last_row)):
                        m.next = "NEXT"
            with m.State("TOKEN"):
                m.next = "PLAN"
            with m.State("NEXT"):
                m.d.comb += self.i.ready.eq(~self.i.p.last)
                with m.If(self.i.p.last):
                    m.d.sync += self.error.code.eq(Error.FETCH)
                    m.next = "FAILED"
                with m.Else():
                    m.next = "JUDGE"
            with m.State("FAILED"):
                m.d.comb += self.error.valid.eq(1)
            with m.State("ENDED"):
                m.d.comb += self.ended.eq(1)
        with m.If(self.o_request.valid & self.o_request.ready):
            m.d.sync += self.o_request.valid.eq(0)
        with m.Switch(header.opcode.as_value()):
            for opcode, unit in _UNIT_OF.items():
                with m.Case(opcode.value):
                    m.d.comb += self.o_order.p.eq(unit)
        m.d.comb += self.error.index.eq(self.i.p.index)
        return m

    def _commands(self, m, header, load, matmul, vector, attend, last_row):
        """What each unit is told; valid is given elsewhere."""
        outputs = {0: self.o_load, 1: self.o_matmul, 2: self.o_vector, 3: self.o_attend}
        for output in outputs.values():
            m.d.comb += [getattr(output.p.waits, unit).eq(getattr(header, f"wait_{unit}"))
                         for unit in ("load", "matmul", "vector", "attend")]
        command = self.o_load.p.command
        m.d.comb += [command.n_words.eq(load.n_words), command.d_base.eq(load.d_base),
                     command.d_stride.eq(load.d_stride), command.n_rows.eq(last_row + 1)]
        command = self.o_matmul.p.command
        m.d.comb += [command.n_row_groups.eq(matmul.n_row_groups), command.n_col_blocks.eq(matmul.n_col_blocks),
                     command.planes.eq(matmul.planes), command.bank.eq(matmul.bank),
                     command.n_lanes.eq(Mux(matmul.tokens == Tokens.ALL, self.launch.n_tokens, 1))]
        m.d.comb += self.o_vector.p.command.eq(vector)
        command = self.o_attend.p.command
        m.d.comb += [getattr(command, name).eq(getattr(attend, name))
                     for name in ("group", "head_words", "bank", "int4", "bidirectional", "window", "sinks", "cap", "rebased")]
        record = self.o_record.p
        head_shift = (self._port_bytes // self._lanes).bit_length() - 1
        m.d.comb += [record.offset.eq(vector.addr), record.port_stride.eq(vector.port_stride),
                     record.head_words.eq(vector.n_words >> head_shift), record.int4.eq(vector.int4),
                     record.index.eq(self.i.p.index)]

    def _request(self, m, header, load, matmul, attend, position):
        """What is read, on every port; of a LOAD by position, the one given."""
        request = Signal(ReadRequest)
        plan = request.plan
        beat_shift = (4 * self._lanes // (self._n_ports * self._port_bytes)).bit_length() - 1
        quantum = Signal(20)
        group_beats = Signal(20)            # of one row group; a row quantum takes a few
        m.d.comb += [quantum.eq(self.number >> self._quantum_log2), group_beats.eq(matmul.n_col_blocks * matmul.planes)]
        record_beats = Signal(8, reset_less=True)
        row_beats = [Mux(four, (attend.head_words + 1) >> 1, attend.head_words) for four in attend.int4]
        m.d.sync += record_beats.eq(row_beats[0] + row_beats[1] + scale_beats(self._port_bytes))
        m.d.comb += [plan.index.eq(self.i.p.index), request.window.eq(attend.window), request.sinks.eq(attend.sinks)]
        with m.Switch(header.opcode.as_value()):
            with m.Case(Opcode.LOAD.value):
                m.d.comb += [
                    plan.addr.eq(load.addr), plan.port_stride.eq(load.port_stride), plan.dest.eq(Dest.LOADER),
                    plan.factor_b.eq(load.index_stride), plan.scaled.eq(1), plan.beats.eq(load.n_words << beat_shift),
                ]
                with m.If(load.index == Index.TOKEN):
                    m.d.comb += plan.factor_a.eq(self.token)
                with m.Elif(load.index == Index.POSITION):
                    m.d.comb += plan.factor_a.eq(position)
                with m.Elif(load.index == Index.REBASED):
                    m.d.comb += plan.factor_a.eq(Mux(position > load.limit, load.limit, position))
                with m.Elif(load.index == Index.CANDIDATE):
                    m.d.comb += plan.factor_a.eq(quantum)
            with m.Case(Opcode.MATMUL.value):
                m.d.comb += [
                    plan.addr.eq(matmul.addr), plan.port_stride.eq(matmul.port_stride), plan.dest.eq(Dest.MATMUL),
                    plan.factor_a.eq(matmul.n_row_groups), plan.factor_b.eq(group_beats),
                ]
                with m.If(matmul.gather):
                    m.d.comb += [
                        plan.factor_a.eq(quantum), plan.beats.eq(group_beats << self._groups_log2), plan.scaled.eq(1),
                        plan.factor_b.eq(group_beats << self._groups_log2 + self._port_bytes.bit_length() - 1),
                    ]
            with m.Default():
                m.d.comb += [
                    plan.addr.eq(attend.addr), plan.port_stride.eq(attend.port_stride), plan.dest.eq(Dest.ATTEND), plan.cache.eq(1),
                    plan.factor_b.eq(record_beats << self._port_bytes.bit_length() - 1), plan.scaled.eq(1),
                    plan.extra_beats.eq(record_beats), request.attend.eq(1),
                    plan.n_longer.eq(0),        # of the page, which the planner knows
                ]
        return request
