"""The attention unit: every query head of one KV head, all tokens of a run, in one command.

::

    i_quant -- Q --> query memories of the slices
            -- K, V --> RecordGather --> o_write (records for memory)
    i_record ------------^    |
                              +--> queue of port p --+
    i_past[p] ---------------------------------------+--> Slice p --+
    i_command --> walk the queries (pass tables) --> start --^      +--> Merge --> o

A command runs one segment of the token lanes after the other, each from its pass tables to its last word. A command runs alone: its
words leave before the next begins. The rows of later heads are taken in meanwhile: queries into the other bank, records into the
queues of the ports and the gather's buffer (two chunks); beyond that i_quant waits, so a program may write at most two heads
further than the attention stream that it has taken.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..isa import Sink
from ..links import AttendCommand, AttendWord, Launch, PageAnswer, PageAsk, QuantWord, RecordCommand, record_beats
from ..mem.links import ErrorReport, WriteWord
from ..stream import Queue, connect
from .links import VISIT_GAP, AttentionSizes, QueryWrite, SliceJob, TableWrite
from .merge import Merge
from .record import RecordGather, place_in_beat
from .segment import Segment
from .slice import Slice
from .walk import QueryWalk

__all__ = ["AttentionUnit"]


class AttentionUnit(wiring.Component):
    """Fused attention of one KV head and the writer of its cache records.

    Parameters
    ----------
    n_ports, port_bytes, vector_lanes, token_lanes, query_lanes, max_queries, max_head_words, max_positions : int
        As in ``AccelConfig``. The group of a command is at most max_queries / token_lanes heads.
    page_positions, page_cycles : int
        Positions of a page; cycles from page_ask to page_answer.

    Members
    -------
    i_command : In(stream(AttendCommand))
    i_past : In(stream), a port: the records of its cached positions, segment after segment, in order
    i_quant : In(stream(QuantWord)), sinks Q, K and V
    i_record : In(stream(RecordCommand)), one with the V rows of every chunk
    o : Out(stream(AttendWord)), head_words * port_bytes / vector_lanes words for every token and head
    o_write : Out(stream(WriteWord))
    page_ask : Out(PageAsk), where a position is to be written, held until page_answer : In(PageAnswer) has come
    error : Out(ErrorReport), OWNER: the page is not the slot's own; no record is written after it
    launch : In(Launch), constant during a run
    done : Out(1), for one cycle when the last word of a command was accepted
    count_busy : Out(1), a command runs
    """

    def __init__(self, *, n_ports, port_bytes, vector_lanes, token_lanes, query_lanes, max_queries, max_head_words,
                 max_positions, page_positions, page_cycles):
        self._sizes = sizes = AttentionSizes(
            n_ports=n_ports, port_bytes=port_bytes, vector_lanes=vector_lanes, token_lanes=token_lanes,
            query_lanes=query_lanes, max_queries=max_queries, max_head_words=max_head_words,
            max_positions=max_positions, page_positions=page_positions, page_cycles=page_cycles)
        super().__init__({
            "i_command": In(stream.Signature(AttendCommand)),
            "i_past": In(stream.Signature(sizes.beat)).array(n_ports),
            "i_quant": In(stream.Signature(QuantWord(vector_lanes))),
            "i_record": In(stream.Signature(RecordCommand)),
            "o": Out(stream.Signature(AttendWord(vector_lanes))),
            "o_write": Out(stream.Signature(WriteWord(port_bytes))),
            "page_ask": Out(PageAsk), "page_answer": In(PageAnswer), "error": Out(ErrorReport),
            "launch": In(Launch), "done": Out(1), "count_busy": Out(1)})

    def elaborate(self, platform):
        m = Module()
        sizes = self._sizes
        m.submodules.gather = gather = RecordGather(sizes=sizes)
        m.submodules.walk = walk = QueryWalk(sizes=sizes)
        m.submodules.merge = merge = Merge(sizes=sizes)
        slices = []
        chunk_beats = -(-sizes.token_lanes // sizes.n_ports) * record_beats(sizes.max_head_words, sizes.port_bytes)
        for number in range(sizes.n_ports):
            m.submodules[f"chunk_{number}"] = chunk = Queue(
                sizes.beat, depth=1 << ceil_log2(2 * chunk_beats), ram_style="block")
            m.submodules[f"slice_{number}"] = slice_ = Slice(sizes=sizes)
            connect(m, gather.o_chunk[number], chunk.i)
            connect(m, chunk.o, slice_.i_chunk)
            connect(m, self.i_past[number], slice_.i_past)
            slices.append(slice_)
        connect(m, self.i_record, gather.i_record)
        connect(m, gather.o_write, self.o_write)
        connect(m, merge.o, self.o)
        m.d.comb += [gather.launch.eq(self.launch), self.page_ask.eq(gather.page_ask), gather.page_answer.eq(self.page_answer),
                     self.error.eq(gather.error)]

        self._route_rows(m, gather, slices)
        self._run(m, walk, merge, slices)
        return m

    def _route_rows(self, m, gather, slices):
        """Queries to the slices' memories, keys and values to the gather."""
        sizes, row = self._sizes, self.i_quant.p
        is_query = Signal()
        m.d.comb += [
            is_query.eq(row.sink == Sink.Q),
            gather.i.p.eq(row), gather.i.valid.eq(self.i_quant.valid & ~is_query),
            self.i_quant.ready.eq(is_query | gather.i.ready),
        ]
        write_en, write = Signal(), Signal(QueryWrite(sizes), reset_less=True)
        enables, beat = place_in_beat(row.word, row.data.as_value(), beat_words=sizes.beat_words)
        m.d.sync += [
            write_en.eq(self.i_quant.valid & is_query),
            write.lane.eq(sizes.slots.lane(row.token, row.head)),
            write.index.eq(sizes.slots.index(row.token, row.head)),
            write.bank.eq(row.bank), write.word.eq(row.word[ceil_log2(sizes.beat_words):]),
            write.part.eq(enables), write.data.eq(beat), write.with_factor.eq(row.last), write.factor.eq(row.scale),
        ]
        for slice_ in slices:
            m.d.comb += [slice_.query_en.eq(write_en), slice_.query.eq(write)]

    def _run(self, m, walk, merge, slices):
        """One command, segment after segment: the pass tables, the slices, the merge."""
        sizes, launch = self._sizes, self.launch
        m.submodules.segment = segment = Segment(sizes=sizes)
        command = Signal(AttendCommand, reset_less=True)
        job = Signal(SliceJob(sizes), reset_less=True)
        table_en, table = Signal(), Signal(TableWrite(sizes), reset_less=True)
        passes, start, idle = Signal(6), Signal(), Signal()
        first_lane, position, n_tokens = Signal(4), Signal(16, reset_less=True), Signal(5, reset_less=True)
        last_segment, lanes = Signal(), [launch.lanes[n] for n in range(sizes.token_lanes)]
        m.d.comb += [
            walk.first.eq(first_lane), walk.ends.eq(Cat(lane.last for lane in lanes)), walk.group.eq(command.group),
            segment.position.eq(position), segment.n_tokens.eq(n_tokens),
            segment.window.eq(command.window), segment.sinks.eq(command.sinks),
            last_segment.eq(first_lane + n_tokens == launch.n_tokens),
            idle.eq(Cat(slice_.idle for slice_ in slices).all()),
            merge.head_words.eq(command.head_words), merge.lane.eq(walk.lane), merge.number.eq(walk.number),
            merge.last.eq(walk.last),
        ]
        m.d.sync += [
            table_en.eq(0), table.lane.eq(walk.lane), table.number.eq(walk.number), table.token.eq(walk.token - first_lane),
            table.index.eq(sizes.slots.index(walk.token, walk.head)),
            job.head_words.eq(command.head_words), job.bank.eq(command.bank), job.int4.eq(command.int4),
            job.bidirectional.eq(command.bidirectional), job.cap.eq(command.cap), job.rebased.eq(command.rebased),
        ]
        for number, slice_ in enumerate(slices):
            m.d.comb += [
                slice_.start.eq(start), slice_.job.eq(job), slice_.job.share.eq(segment.o[number]),
                slice_.table_en.eq(table_en), slice_.table.eq(table),
                slice_.read_lane.eq(walk.lane), slice_.read_number.eq(walk.number), merge.state[number].eq(slice_.state),
                slice_.drain_en.eq(merge.drain_en), slice_.drain_lane.eq(merge.drain_lane),
                slice_.drain_number.eq(merge.drain_number),
                slice_.drain_half.eq(merge.drain_half), slice_.drain_shift.eq(merge.drain_shift[number]),
            ]
            for lane in range(sizes.query_lanes):
                m.d.comb += merge.sums[number * sizes.query_lanes + lane].eq(slice_.sums[lane])

        with m.FSM() as fsm:
            m.d.comb += self.count_busy.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                m.d.comb += self.i_command.ready.eq(1)
                m.d.sync += [command.eq(self.i_command.p), first_lane.eq(0)]
                with m.If(self.i_command.valid):
                    m.next = "SEGMENT"
            with m.State("SEGMENT"):
                m.d.comb += walk.restart.eq(1)
                m.d.sync += [position.eq(Array(lane.position for lane in lanes)[first_lane]), passes.eq(0)]
                m.next = "WALK"
            with m.State("WALK"):
                m.d.comb += walk.step.eq(1)
                m.d.sync += [table_en.eq(1), n_tokens.eq(walk.token - first_lane + 1)]
                with m.If(walk.number >= passes):
                    m.d.sync += passes.eq(walk.number + 1)
                with m.If(walk.last):
                    m.next = "JOB"
            with m.State("JOB"):
                visits = passes[:3] * command.head_words[:3]
                m.d.sync += [
                    job.n_passes.eq(passes), job.lane_passes.eq(Cat(walk.counts)),
                    job.rest.eq(Mux((passes >= VISIT_GAP) | (command.head_words >= VISIT_GAP) | (visits >= VISIT_GAP),
                                    0, VISIT_GAP - visits)),
                ]
                m.d.comb += walk.restart.eq(1)
                m.next = "SHARE"
            with m.State("SHARE"):
                m.next = "START"
            with m.State("START"):
                m.d.comb += start.eq(1)
                m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += walk.restart.eq(1)
                with m.If(idle):
                    m.d.comb += merge.start.eq(1)
                    m.next = "MERGE"
            with m.State("MERGE"):
                m.d.comb += walk.step.eq(merge.step)
                with m.If(merge.idle):
                    m.d.sync += first_lane.eq(first_lane + n_tokens)
                    m.d.comb += self.done.eq(last_segment)
                    m.next = "SEGMENT"
                    with m.If(last_segment):
                        m.next = "IDLE"
