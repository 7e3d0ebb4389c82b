"""A slice: one port's share of the positions, for all queries. It keeps no step with the other slices.

::

                      +-- K words --> queue --> Scores --> Softmax --> queue of weights --+
    past, then chunk -+-- scales ---> queue ---^                                         v
                      +-- V words ----------------------------------------------------> Values --> running sums

Records come in the order K, scales, V. Scores of record j + 1 run while the values of record j are added; with enough
lanes (all queries in one pass) a beat a cycle is taken in. The weight queue's places are counted when a pass begins
(``space``), because nothing stalls between Scores and the queue.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..links import scale_beats
from ..stream import Queue, connect
from .links import AttentionSizes, LaneState, QueryWrite, RecordScale, SliceJob, TableWrite, WeightPass
from .q_memory import QueryMemory
from .scores import Scores
from .softmax import Softmax
from .values import Values

__all__ = ["Feeder", "Slice"]

_WEIGHT_PASSES = 32     # more than the latency from a pass to its weight
_SCALES = 4             # records whose scales may wait


class Feeder(wiring.Component):
    """Takes the records of a job apart.

    Members
    -------
    start, job : In, as in Slice
    i_past, i_chunk : In, words of a port
    o_key, o_value : Out, words of K and V
    o_scale : Out(stream(RecordScale))
    """

    def __init__(self, *, sizes):
        if not isinstance(sizes, AttentionSizes):
            raise TypeError(f"sizes must be AttentionSizes, not {sizes!r}")
        self._sizes = sizes
        beat = stream.Signature(sizes.beat)
        super().__init__({
            "start": In(1), "job": In(SliceJob(sizes)), "i_past": In(beat), "i_chunk": In(beat),
            "o_key": Out(beat), "o_scale": Out(stream.Signature(RecordScale)), "o_value": Out(beat)})

    def elaborate(self, platform):
        m = Module()
        sizes, job = self._sizes, self.job
        past_left, chunk_left, token = Signal(16), Signal(5), Signal(4)
        word, low = Signal(6), Signal(32, reset_less=True)
        past, chunk = Signal(), Signal()
        valid, taken, beat = Signal(), Signal(), Signal(sizes.beat)
        m.d.comb += [
            past.eq(past_left != 0), chunk.eq(~past & (chunk_left != 0)),
            beat.eq(Mux(past, self.i_past.p, self.i_chunk.p)),
            valid.eq(Mux(past, self.i_past.valid, self.i_chunk.valid & chunk)),
            self.i_past.ready.eq(past & taken), self.i_chunk.ready.eq(chunk & taken),
            self.o_key.p.eq(beat), self.o_value.p.eq(beat), self.o_scale.p.token.eq(Mux(past, 0, token)),
        ]
        if scale_beats(sizes.port_bytes) == 2:
            m.d.comb += [self.o_scale.p.ks.eq(low), self.o_scale.p.vs.eq(beat)]
        else:
            m.d.comb += [self.o_scale.p.ks.eq(beat[:32]), self.o_scale.p.vs.eq(beat[32:64])]

        last_word = word == job.head_words - 1
        with m.FSM():
            with m.State("KEY"):
                m.d.comb += [self.o_key.valid.eq(valid), taken.eq(self.o_key.ready)]
                with m.If(valid & taken):
                    m.d.sync += word.eq(Mux(last_word, 0, word + 1))
                    with m.If(last_word):
                        m.next = "LOW" if scale_beats(sizes.port_bytes) == 2 else "SCALE"
            if scale_beats(sizes.port_bytes) == 2:
                with m.State("LOW"):
                    m.d.comb += taken.eq(1)
                    with m.If(valid):
                        m.d.sync += low.eq(beat)
                        m.next = "SCALE"
            with m.State("SCALE"):
                m.d.comb += [self.o_scale.valid.eq(valid), taken.eq(self.o_scale.ready)]
                with m.If(valid & taken):
                    m.next = "VALUE"
            with m.State("VALUE"):
                m.d.comb += [self.o_value.valid.eq(valid), taken.eq(self.o_value.ready)]
                with m.If(valid & taken):
                    m.d.sync += word.eq(Mux(last_word, 0, word + 1))
                    with m.If(last_word):
                        m.d.sync += [past_left.eq(past_left - past), chunk_left.eq(chunk_left - chunk)]
                        with m.If(chunk):
                            m.d.sync += token.eq(token + sizes.n_ports)
                        m.next = "KEY"
        with m.If(self.start):
            m.d.sync += [past_left.eq(job.n_past), chunk_left.eq(job.n_chunk), token.eq(job.first_token)]
        return m


class Slice(wiring.Component):
    """Attention over one port's positions.

    Members
    -------
    start : In(1), begin ``job``, which is constant until idle; forgets the running state
    idle : Out(1)
    i_past, i_chunk : In, records of the port and of the chunk
    query_en, query, table_en, table : In, writes of the query memory and the pass table
    read_en, read_number, read_word : In, and sums (one cycle later), state (same cycle) : Out, a lane
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
            "read_en": In(1), "read_number": In(range(sizes.max_passes)), "read_word": In(sizes.head_words_log2),
            "sums": Out(sizes.acc_word).array(lanes), "state": Out(LaneState(sizes)).array(lanes)})

    def elaborate(self, platform):
        m = Module()
        sizes = self._sizes
        m.submodules.feeder = feeder = Feeder(sizes=sizes)
        m.submodules.queries = queries = QueryMemory(sizes=sizes)
        m.submodules.scores = scores = Scores(sizes=sizes)
        m.submodules.softmax = softmax = Softmax(sizes=sizes)
        m.submodules.values = values = Values(sizes=sizes)
        m.submodules.keys = keys = Queue(sizes.beat, depth=max(2, 1 << sizes.head_words_log2), ram_style="distributed")
        m.submodules.scales = scales = Queue(RecordScale, depth=_SCALES, ram_style="distributed")
        m.submodules.weights = weights = Queue(WeightPass(sizes), depth=_WEIGHT_PASSES, ram_style="distributed")

        connect(m, self.i_past, feeder.i_past)
        connect(m, self.i_chunk, feeder.i_chunk)
        connect(m, feeder.o_key, keys.i)
        connect(m, keys.o, scores.i_key)
        connect(m, feeder.o_scale, scales.i)
        connect(m, scales.o, scores.i_scale)
        connect(m, feeder.o_value, values.i_value)
        connect(m, weights.o, values.i_weight)
        m.d.comb += [
            feeder.start.eq(self.start), values.start.eq(self.start), softmax.clear.eq(self.start),
            feeder.job.eq(self.job), scores.job.eq(self.job), values.job.eq(self.job), self.idle.eq(values.idle),
            queries.write_en.eq(self.query_en), queries.write.eq(self.query), queries.bank.eq(self.job.bank),
            queries.word.eq(scores.q_word), scores.table_en.eq(self.table_en), scores.table.eq(self.table),
            softmax.i_valid.eq(scores.o_valid), softmax.i.eq(scores.o),
            weights.i.valid.eq(softmax.o_valid), weights.i.p.eq(softmax.o),
            values.read_en.eq(self.read_en), values.read_number.eq(self.read_number),
            values.read_word.eq(self.read_word), softmax.read_number.eq(self.read_number),
        ]
        for lane in range(sizes.query_lanes):
            m.d.comb += [
                queries.index[lane].eq(scores.q_index[lane]), scores.q_data[lane].eq(queries.data[lane]),
                queries.factor_index[lane].eq(softmax.factor_index[lane]),
                softmax.factor[lane].eq(queries.factor[lane]),
                self.sums[lane].eq(values.sums[lane]), self.state[lane].eq(softmax.state[lane]),
            ]

        # Places of the weight queue that are taken or promised.
        promised = Signal(range(_WEIGHT_PASSES + 1))
        m.d.comb += scores.space.eq(promised != _WEIGHT_PASSES)
        m.d.sync += promised.eq(promised + scores.issue - (weights.o.valid & weights.o.ready))
        return m
