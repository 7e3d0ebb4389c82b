"""A slice: one port's share of the positions, for all queries. It keeps no step with the other slices.

::

                      +-- K words --> queue --> Scores --> queue --> Softmax --> queues of weights --+
    past, then chunk -+-- scales ---> queue -----------------------^             (odd, even records) v
                      +-- V words ---------------------------------------------------------------> Values --> sums

Records come in the order K, scales, V. Values adds two records at a time, while the scores of the next two run; with
enough lanes (all queries in one pass) a beat a cycle is taken in. The places of the queues behind Scores and behind
Softmax are counted when a pass begins (``space``), because nothing stalls on the way there.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..stream import Queue, connect
from .feeder import Feeder
from .links import (
    AttentionSizes,
    DrainShift,
    QueryState,
    QueryWrite,
    RecordScale,
    ScorePass,
    SliceJob,
    TableWrite,
    Viewers,
    WeightPass,
    delay,
)
from .q_memory import QueryMemory
from .scores import Scores
from .softmax import Softmax
from .values import Values

__all__ = ["Slice"]

_SHORTEST = 32          # places of a queue: more than the records that are between two units at once


class Slice(wiring.Component):
    """Attention over one port's positions.

    Members
    -------
    start : In(1), begin ``job``, which is constant until idle
    idle : Out(1)
    i_past, i_chunk : In, records of the port and of the chunk
    query_en, query, table_en, table : In, writes of the query memory and the pass table
    read_lane, read_number : In, and state : Out, in the same cycle; drain_en, .. : In, and sums : Out, as in Values
        For the merge, while idle.
    """

    def __init__(self, *, sizes):
        if not isinstance(sizes, AttentionSizes):
            raise TypeError(f"sizes must be AttentionSizes, not {sizes!r}")
        self._sizes = sizes
        beat, lanes = stream.Signature(sizes.beat), sizes.query_lanes
        super().__init__({
            "start": In(1), "job": In(SliceJob(sizes)), "idle": Out(1), "i_past": In(beat), "i_chunk": In(beat),
            "query_en": In(1), "query": In(QueryWrite(sizes)), "table_en": In(1), "table": In(TableWrite(sizes)),
            "read_lane": In(range(lanes)), "read_number": In(range(sizes.max_passes)), "state": Out(QueryState(sizes)),
            "drain_en": In(1), "drain_lane": In(range(lanes)), "drain_number": In(range(sizes.max_passes)),
            "drain_half": In(sizes.head_words_log2 + 1), "drain_shift": In(DrainShift), "sums": Out(sizes.acc_half).array(lanes)})

    def elaborate(self, platform):
        m = Module()
        sizes = self._sizes
        m.submodules.feeder = feeder = Feeder(sizes=sizes)
        m.submodules.queries = queries = QueryMemory(sizes=sizes)
        m.submodules.scores = scores = Scores(sizes=sizes)
        m.submodules.softmax = softmax = Softmax(sizes=sizes)
        m.submodules.values = values = Values(sizes=sizes)
        m.submodules.keys = keys = Queue(sizes.beat, depth=max(2, 1 << sizes.head_words_log2), ram_style="distributed")
        weight_places = 1 << ceil_log2(max(_SHORTEST, 2 * sizes.max_passes))
        score_places = 1 << ceil_log2(max(_SHORTEST, sizes.max_passes))

        def queue(shape, depth):
            return Queue(shape, depth=depth, ram_style="distributed")

        # A record's viewers come before its scales and leave before them, so that they find a place where those before have one.
        m.submodules.viewers = viewers = queue(Viewers, 2 * _SHORTEST)
        m.submodules.scales = scales = queue(RecordScale, _SHORTEST)
        m.submodules.passes = passes = queue(ScorePass(sizes), score_places)
        m.submodules.even = even = queue(WeightPass(sizes), weight_places)
        m.submodules.odd = odd = queue(WeightPass(sizes), weight_places)

        connect(m, self.i_past, feeder.i_past)
        connect(m, self.i_chunk, feeder.i_chunk)
        connect(m, feeder.o_key, keys.i)
        connect(m, keys.o, scores.i_key)
        connect(m, feeder.o_scale, scales.i)
        connect(m, feeder.o_viewers, viewers.i)
        connect(m, viewers.o, scores.i_viewers)
        connect(m, scales.o, softmax.i_scale)
        connect(m, passes.o, softmax.i)
        connect(m, feeder.o_value, values.i_value)
        connect(m, even.o, values.i_first)
        connect(m, odd.o, values.i_second)
        m.d.comb += [
            feeder.start.eq(self.start), scores.start.eq(self.start), values.start.eq(self.start),
            feeder.job.eq(self.job), scores.job.eq(self.job), values.job.eq(self.job), softmax.cap.eq(self.job.cap),
            self.idle.eq(values.idle),
            queries.write_en.eq(self.query_en), queries.write.eq(self.query),
            queries.word.eq(scores.q_word), queries.factor_lane.eq(softmax.factor_lane),
            queries.factor_index.eq(softmax.factor_index), queries.factor_bank.eq(softmax.factor_bank),
            softmax.factor.eq(queries.factor),
            scores.table_en.eq(self.table_en), scores.table.eq(self.table),
            softmax.table_en.eq(self.table_en), softmax.table.eq(self.table),
            passes.i.valid.eq(scores.o_valid), passes.i.p.eq(scores.o),
            even.i.valid.eq(softmax.o_valid & ~softmax.o_odd), even.i.p.eq(softmax.o),
            odd.i.valid.eq(softmax.o_valid & softmax.o_odd), odd.i.p.eq(softmax.o),
            softmax.read_lane.eq(self.read_lane), softmax.read_number.eq(self.read_number), self.state.eq(softmax.state),
            values.drain_en.eq(self.drain_en), values.drain_lane.eq(self.drain_lane),
            values.drain_number.eq(self.drain_number),
            values.drain_half.eq(self.drain_half), values.drain_shift.eq(self.drain_shift),
        ]
        for lane in range(sizes.query_lanes):
            m.d.comb += [queries.index[lane].eq(scores.q_index[lane]), queries.bank[lane].eq(scores.q_bank[lane]),
                         scores.q_data[lane].eq(queries.data[lane]),
                         self.sums[lane].eq(values.sums[lane])]

        # Places that are taken or promised, freed a cycle late; three more passes may have been begun when they are counted.
        begun = delay(m, scores.issue, 1, reset_less=False)
        begun_odd = delay(m, scores.odd, 1)

        def room(places, count, link):
            promised, found, left = Signal(range(places + 1)), Signal(), Signal()
            m.d.sync += [left.eq(link.valid & link.ready), promised.eq(promised + count - left), found.eq(promised <= places - 3)]
            return found

        m.d.comb += scores.space.eq(
            room(score_places, begun, passes.o)
            & Mux(scores.odd, room(weight_places, begun & begun_odd, odd.o), room(weight_places, begun & ~begun_odd, even.o)))
        return m
