"""Walks through the program: judges a descriptor, issues it to its unit, plans its memory reads, goes on to the next.

::

    i --> wait for the verdict --+--> END of this run: stop here
                                 +--> END of shorter runs: next
                                 +--> bad: report, stop here
                                 +--> (the first that gathers: end of the shortlist)
                                 +--> scoreboard --> station of its unit --> (V sink) record --> read plans --> next
                                                                                                     ^
                                                                            ATTEND: pages <-- walk of the segments

The shortlist ends when all that was issued is complete and the candidates have stood still for some cycles, so that no
logit is between two rooms; then their numbers are put aside.

A command goes out before its reads, so that the room in the port queues never decides whether a unit may start.
Rate: about 13 cycles a descriptor, and 5 + n_ports a row of LOAD or a page of ATTEND (the expander's; the next plan is made
meanwhile).
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..isa import Index, Opcode, Sink, Tokens
from ..links import AttendCommand, Dest, Lane, Launch, MatmulCommand, PageAnswer, PageAsk, RecordCommand, scale_beats
from ..mem.links import ErrorReport, Fetched, LoadCommand
from ..regs import Error
from .check import DescriptorCheck, bodies
from .links import Gated, ReadPlan
from .segments import SegmentWalk

__all__ = ["Sequencer"]

_STILL_CYCLES = 8

_UNIT_OF = {Opcode.LOAD: 0, Opcode.MATMUL: 1, Opcode.VECTOR: 2, Opcode.ATTEND: 3}       # places in scoreboard.UNITS


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
    page_ask, page_answer : as of SegmentWalk
    o_order : stream of the unit of each descriptor issued
    o_load, o_matmul, o_vector, o_attend : streams of Gated commands
    o_record : stream of RecordCommand
    o_plan : stream of ReadPlan
    error : OPCODE, SIZE, PAGE, FETCH (the last descriptor of the program was not its END; its index), until a reset
    ended : END was reached
    issue : strobe: a descriptor was issued

    Paths: none.
    """

    def __init__(self, *, n_ports, port_bytes, vector_lanes, engine_rows, page_positions, page_cycles):
        self._walk = {"n_ports": n_ports, "page_positions": page_positions, "page_cycles": page_cycles}
        self._n_ports, self._port_bytes, self._lanes = n_ports, port_bytes, vector_lanes
        self._quantum_log2 = max(engine_rows, vector_lanes).bit_length() - 1
        self._groups_log2 = max(1, vector_lanes // engine_rows).bit_length() - 1    # row groups of a row quantum
        super().__init__({
            "i": In(stream.Signature(Fetched)), "code": In(4),
            "launch": In(Launch), "token_lane": Out(4), "token": In(32),
            "complete": In(1), "keep": Out(1), "settled": In(1), "lane": Out(4), "rank": Out(8), "number": In(20),
            "page_ask": Out(PageAsk), "page_answer": In(PageAnswer),
            "o_order": Out(stream.Signature(2)),
            "o_load": Out(stream.Signature(Gated(LoadCommand))),
            "o_matmul": Out(stream.Signature(Gated(MatmulCommand))),
            "o_vector": Out(stream.Signature(Gated(isa.Vector))),
            "o_attend": Out(stream.Signature(Gated(AttendCommand))),
            "o_record": Out(stream.Signature(RecordCommand)),
            "o_plan": Out(stream.Signature(ReadPlan)),
            "error": Out(ErrorReport), "ended": Out(1), "issue": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        header, body = bodies(self.i.p.bits)
        end, load, matmul, vector, attend = (
            body[opcode] for opcode in (Opcode.END, Opcode.LOAD, Opcode.MATMUL, Opcode.VECTOR, Opcode.ATTEND))
        m.submodules.walk = walk = SegmentWalk(**self._walk)
        row, last_lane, lane = Signal(4), Signal(4), Signal(4)
        last_row = Signal(4)
        by_rank, gathers = Signal(), Signal()
        # One choice of a lane for both that walk over them: LOAD's rows, and the segments of ATTEND.
        chosen, walking = Signal(Lane, reset_less=True), Signal()
        m.d.sync += [last_lane.eq(self.launch.n_tokens - 1), chosen.eq(self.launch.lanes[Mux(walking, walk.token, row)])]
        m.d.comb += [
            by_rank.eq(load.index == Index.CANDIDATE),
            last_row.eq(Mux((load.index == Index.NONE) | by_rank, 0, last_lane)), self.token_lane.eq(row),
            gathers.eq(Mux(header.opcode == Opcode.LOAD, by_rank, (header.opcode == Opcode.MATMUL) & matmul.gather)),
            self.rank.eq(Mux(header.opcode == Opcode.LOAD, load.rank, matmul.rank)),
            lane.eq(Mux(header.opcode == Opcode.LOAD, load.lane, matmul.lane)),
            walk.n_tokens.eq(self.launch.n_tokens), walk.lane.eq(chosen),
            walk.window.eq(attend.window), walk.sinks.eq(attend.sinks),
            self.page_ask.eq(walk.ask), walk.answer.eq(self.page_answer),
        ]
        m.d.sync += self.lane.eq(Mux(lane > last_lane, last_lane, lane))
        self._commands(m, header, load, matmul, vector, attend, last_row)
        plan = self._plan(m, header, load, matmul, attend, chosen.position, walk.o.p)

        outputs = {Opcode.LOAD: self.o_load, Opcode.MATMUL: self.o_matmul, Opcode.VECTOR: self.o_vector,
                   Opcode.ATTEND: self.o_attend}
        waited = Signal(range(DescriptorCheck.LATENCY + 1))
        shortlisted, still = Signal(), Signal(range(_STILL_CYCLES))
        with m.If(self.complete & self.settled):
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
                                m.next = {Opcode.VECTOR: "NEXT", Opcode.ATTEND: "PAGES"}.get(opcode, "PLAN")
                                if opcode is Opcode.ATTEND:
                                    m.d.comb += walk.start.eq(1)
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
                with m.If(~self.o_plan.valid):
                    m.d.sync += [self.o_plan.p.eq(plan), self.o_plan.valid.eq(1), row.eq(row + 1)]
                    m.next = "TOKEN"
                    with m.If((header.opcode != Opcode.LOAD) | (row == last_row)):
                        m.next = "NEXT"
            with m.State("TOKEN"):
                m.next = "PLAN"
            with m.State("PAGES"):
                m.d.comb += [walking.eq(1), walk.o.ready.eq(~self.o_plan.valid)]
                with m.If(walk.o.valid & walk.o.ready):
                    m.d.sync += [self.o_plan.p.eq(plan), self.o_plan.valid.eq(1)]
                with m.If(walk.missing):
                    m.d.sync += self.error.code.eq(Error.PAGE)
                    m.next = "FAILED"
                with m.Elif(walk.done):
                    m.next = "NEXT"
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
        with m.If(self.o_plan.valid & self.o_plan.ready):
            m.d.sync += self.o_plan.valid.eq(0)
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
                     for name in ("group", "head_words", "bank", "int4", "bidirectional", "window", "sinks")]
        record = self.o_record.p
        head_shift = (self._port_bytes // self._lanes).bit_length() - 1
        m.d.comb += [record.offset.eq(vector.addr), record.port_stride.eq(vector.port_stride),
                     record.head_words.eq(vector.n_words >> head_shift), record.int4.eq(vector.int4),
                     record.index.eq(self.i.p.index)]

    def _plan(self, m, header, load, matmul, attend, position, pages):
        """What is read, on every port; of a LOAD by position, the one given; of an ATTEND, ``pages``, a PageRead that stood still
        for a cycle."""
        plan = Signal(ReadPlan)
        beat_shift = (4 * self._lanes // (self._n_ports * self._port_bytes)).bit_length() - 1
        quantum = Signal(20)
        group_beats = Signal(20)            # of one row group; a row quantum takes a few
        m.d.comb += [quantum.eq(self.number >> self._quantum_log2), group_beats.eq(matmul.n_col_blocks * matmul.planes)]
        record_beats, page_beats = Signal(8, reset_less=True), Signal(18, reset_less=True)
        row_beats = [Mux(four, (attend.head_words + 1) >> 1, attend.head_words) for four in attend.int4]
        m.d.sync += [record_beats.eq(row_beats[0] + row_beats[1] + scale_beats(self._port_bytes)),
                     page_beats.eq(pages.n_rows * record_beats)]
        m.d.comb += plan.index.eq(self.i.p.index)
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
                    plan.factor_a.eq(pages.row), plan.factor_b.eq(record_beats << self._port_bytes.bit_length() - 1),
                    plan.scaled.eq(1), plan.beats.eq(page_beats), plan.n_longer.eq(pages.n_longer),
                    plan.extra_beats.eq(record_beats),
                ]
        return plan
