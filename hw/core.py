"""The units and what joins them: everything between the port shells and the descriptor fetch.

::

    i_fetched --> dispatch --jobs--> o_jobs (one a port)
                    | commands
       +------------+-----------+----------------+
       v            v           v                v
    i_loader --> loader -P-> vector unit --Q,K,V--> attention <-- i_attend
                              ^   |  ^ +--ACT--+       | |
                              |   |  +---------|-------+ +--> o_write (cache records)
                      sums    |   |            v
                              |   |          matmul engine <-- join <-- i_matmul
                              +---|------------+
                                  +--> o_topk

A word leaves a room from a register, and nothing that a room gives out follows from its inputs alone, so a combinational path
crosses one border, and ``ready`` is what comes back over it.
"""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .attention.unit import AttentionUnit
from .ctrl.dispatch import Dispatch
from .ctrl.pages import PageTable
from .engine.engine import MatmulEngine
from .isa import Sink
from .links import Launch, PageAnswer, PageAsk, ReadJob, TopkWord
from .mem.join import Join
from .mem.links import ErrorReport, Fetched, WriteWord
from .mem.loader import Loader
from .stream import connect
from .vector.unit import VectorUnit

__all__ = ["Core"]


class Core(wiring.Component):
    """All units of one configuration. Reset it before every program.

    Members
    -------
    i_fetched : stream of Fetched
    i_loader, i_matmul, i_attend : a stream of port words a port, by destination
    o_jobs : a stream of ReadJob a port
    o_write : stream of WriteWord
    o_topk : stream of TopkWord
    launch : constant while a program runs
    token_lane, token : the lane whose token id is wanted, and the id, one cycle later
    keep, settled, lane, rank, number : as of dispatch; ``settled`` knows nothing of words that have not left the core
    read_ask, read_answer, write_ask, write_answer : of the page table
    errors : of dispatch and of the attention unit
    ended : END was reached; ``finished`` : and everything issued is finished; ``quiet`` : no record is on its way out
    issue, done : strobes: a descriptor was issued; one a unit (load, matmul, vector, attend)
    oldest : index of the oldest descriptor that is not finished
    count_* : strobes for the counters
    """

    def __init__(self, config):
        self._config = config
        words = In(stream.Signature(8 * config.port_bytes)).array(config.n_ports)
        lanes = config.vector_lanes
        super().__init__({
            "i_fetched": In(stream.Signature(Fetched)),
            "i_loader": words, "i_matmul": words, "i_attend": words,
            "o_jobs": Out(stream.Signature(ReadJob)).array(config.n_ports),
            "o_write": Out(stream.Signature(WriteWord(config.port_bytes))),
            "o_topk": Out(stream.Signature(TopkWord(lanes))),
            "launch": In(Launch), "token_lane": Out(4), "token": In(32),
            "keep": Out(1), "settled": In(1), "lane": Out(4), "rank": Out(8), "number": In(20),
            "read_ask": Out(PageAsk), "read_answer": In(PageAnswer), "write_ask": Out(PageAsk), "write_answer": In(PageAnswer),
            "errors": Out(ErrorReport).array(2), "ended": Out(1), "finished": Out(1), "quiet": Out(1),
            "issue": Out(1), "done": Out(4), "oldest": Out(16),
            **{f"count_{name}": Out(1) for name in (
                "matmul_busy", "matmul_wait_weights", "matmul_wait_tables", "matmul_wait_drain", "vector_busy", "vector_wait",
                "attend_busy")},
        })

    def elaborate(self, platform):
        m = Module()
        c = self._config
        lanes = c.vector_lanes
        m.submodules.dispatch = dispatch = Dispatch(
            n_ports=c.n_ports, port_bytes=c.port_bytes, token_lanes=c.token_lanes, vector_lanes=lanes, engine_rows=c.engine_rows,
            columns=c.columns, max_columns=c.max_columns, accumulator_bits=c.accumulator_bits, x_words=c.x_words,
            p_words=c.p_words, max_queries=c.max_queries, max_head_words=c.max_head_words, top_k=c.top_k,
            page_positions=c.page_positions, page_cycles=PageTable.LATENCY)
        m.submodules.loader = loader = Loader(n_ports=c.n_ports, port_bytes=c.port_bytes, vector_lanes=lanes)
        m.submodules.join = join = Join(n_ports=c.n_ports, port_bytes=c.port_bytes)
        m.submodules.engine = engine = MatmulEngine(
            vector_lanes=lanes, token_lanes=c.token_lanes, engine_rows=c.engine_rows, beat_bytes=c.beat_bytes,
            max_columns=c.max_columns, max_row_groups=c.max_row_groups, accumulator_bits=c.accumulator_bits,
            table_builders=c.table_builders)
        m.submodules.vector = vector = VectorUnit(
            vector_lanes=lanes, token_lanes=c.token_lanes, x_words=c.x_words, p_words=c.p_words)
        m.submodules.attention = attention = AttentionUnit(
            n_ports=c.n_ports, port_bytes=c.port_bytes, vector_lanes=lanes, token_lanes=c.token_lanes,
            query_lanes=c.query_lanes, max_queries=c.max_queries, max_head_words=c.max_head_words,
            max_positions=c.max_positions, page_positions=c.page_positions, page_cycles=PageTable.LATENCY)

        # Words between rooms.
        for source, sink in (
                (join.o, engine.i_weights), (engine.o, vector.i_matmul), (attention.o, vector.i_attend), (loader.o, vector.i_param),
                (attention.o_write, wiring.flipped(self.o_write)), (vector.o_topk, wiring.flipped(self.o_topk))):
            connect(m, source, sink)
        m.d.comb += self.quiet.eq(~attention.o_write.valid & ~vector.o_topk.valid)

        # Quantised words go where their sink says.
        quant = vector.o_quant
        to_engine = quant.p.sink == Sink.ACT
        m.d.comb += [
            engine.i_act.p.eq(quant.p), attention.i_quant.p.eq(quant.p),
            engine.i_act.valid.eq(quant.valid & to_engine), attention.i_quant.valid.eq(quant.valid & ~to_engine),
            quant.ready.eq((to_engine & engine.i_act.ready) | (~to_engine & attention.i_quant.ready)),
        ]

        # Commands, jobs, port words.
        connect(m, wiring.flipped(self.i_fetched), dispatch.i)
        connect(m, dispatch.o_load, loader.i_command)
        connect(m, dispatch.o_matmul, engine.i_command)
        connect(m, dispatch.o_vector, vector.i_command)
        connect(m, dispatch.o_attend, attention.i_command)
        connect(m, dispatch.o_record, attention.i_record)
        for p in range(c.n_ports):
            connect(m, dispatch.o_jobs[p], wiring.flipped(self.o_jobs[p]))
            connect(m, wiring.flipped(self.i_loader[p]), loader.i_ports[p])
            connect(m, wiring.flipped(self.i_matmul[p]), join.i[p])
            connect(m, wiring.flipped(self.i_attend[p]), attention.i_past[p])

        done = Signal(4)
        m.d.sync += done.eq(Cat(loader.done, engine.done, vector.done, attention.done))
        m.d.comb += [
            dispatch.launch.eq(self.launch), vector.launch.eq(self.launch), attention.launch.eq(self.launch),
            dispatch.token.eq(self.token), self.token_lane.eq(dispatch.token_lane),
            dispatch.settled.eq(self.settled & ~self.o_topk.valid), self.keep.eq(dispatch.keep),
            dispatch.number.eq(self.number), self.rank.eq(dispatch.rank), self.lane.eq(dispatch.lane),
            self.read_ask.eq(dispatch.page_ask), dispatch.page_answer.eq(self.read_answer),
            self.write_ask.eq(attention.page_ask), attention.page_answer.eq(self.write_answer),
            dispatch.done.eq(done), self.done.eq(done),
            self.errors[0].eq(dispatch.error), self.errors[1].eq(attention.error), self.ended.eq(dispatch.ended),
            self.finished.eq(dispatch.finished), self.issue.eq(dispatch.issue),
            self.oldest.eq(dispatch.oldest),
            self.count_matmul_busy.eq(engine.count_busy), self.count_matmul_wait_weights.eq(engine.count_wait_weights),
            self.count_matmul_wait_tables.eq(engine.count_wait_tables), self.count_matmul_wait_drain.eq(engine.count_wait_drain),
            self.count_vector_busy.eq(vector.count_busy), self.count_vector_wait.eq(vector.count_wait),
            self.count_attend_busy.eq(attention.count_busy),
        ]
        return m
