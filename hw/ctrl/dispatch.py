"""From descriptors to commands: the sequencer, the stations before the units, and the scoreboard.

::

    i --> sequencer --+--> station (8)  --> o_load              done strobes --> scoreboard --> stations
          ^           +--> station (8)  --> o_matmul
          check       +--> station (32) --> o_vector
                      +--> station (8)  --> o_attend
                      +--> queue (8)    --> o_record
                      +--> planner --> expander --> o_jobs, one a port
"""

from amaranth.hdl import Module, Mux
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..links import AttendCommand, Launch, MatmulCommand, PageAnswer, PageAsk, ReadJob, RecordCommand
from ..mem.links import ErrorReport, Fetched, LoadCommand
from ..stream import Queue, connect
from .check import DescriptorCheck
from .expand import ReadExpander
from .planner import ReadPlanner
from .scoreboard import Scoreboard
from .sequencer import Sequencer
from .station import Station

__all__ = ["Dispatch"]

_COMMANDS = {"load": (LoadCommand, 8), "matmul": (MatmulCommand, 8), "vector": (isa.Vector, 32),
             "attend": (AttendCommand, 8)}


class Dispatch(wiring.Component):
    """Everything between the descriptor fetch and the units. Reset it before every program.

    Parameters: as in ``AccelConfig``; ``columns`` is ``AccelConfig.columns``, ``page_cycles`` the time from an ask to its answer.

    Members
    -------
    i : stream of Fetched
    launch : constant while a program runs
    token_lane, token : the lane whose token id is wanted, and the id, one cycle later
    keep : strobe: the candidates are the shortlist, to be put aside
    settled : no logit is on its way to the candidates, and no number is being put aside
    lane, rank, number : the candidate of a token lane's shortlist whose number is wanted, and the number, one cycle later
    page_ask, page_answer : a page that is to be read, and what the table says, page_cycles later
    o_load, o_matmul, o_vector, o_attend : streams of LoadCommand, MatmulCommand, isa.Vector, AttendCommand
    o_record : stream of RecordCommand
    o_jobs : a stream of ReadJob a port
    done : strobes of the units; bit 0 load, 1 matmul, 2 vector, 3 attend
    error : OPCODE, SIZE, FETCH, PAGE
    ended, finished : END was reached; and nothing that was issued is unfinished
    issue : strobe: a descriptor was issued
    oldest : index of the oldest descriptor that is not finished
    """

    def __init__(self, *, n_ports, port_bytes, token_lanes, vector_lanes, engine_rows, columns, max_columns,
                 accumulator_bits, x_words, p_words, max_queries, max_head_words, top_k, page_positions, page_cycles):
        self._n_ports = n_ports
        self._sequencer = {"n_ports": n_ports, "port_bytes": port_bytes, "vector_lanes": vector_lanes,
                           "engine_rows": engine_rows}
        self._pages = {"n_ports": n_ports, "page_positions": page_positions, "page_cycles": page_cycles}
        self._check = {"token_lanes": token_lanes, "vector_lanes": vector_lanes, "engine_rows": engine_rows,
                       "columns": columns, "port_bytes": port_bytes, "max_columns": max_columns,
                       "accumulator_bits": accumulator_bits, "x_words": x_words, "p_words": p_words,
                       "max_queries": max_queries, "max_head_words": max_head_words, "top_k": top_k}
        super().__init__({
            "i": In(stream.Signature(Fetched)),
            "launch": In(Launch), "token_lane": Out(4), "token": In(32),
            "keep": Out(1), "settled": In(1), "lane": Out(4), "rank": Out(8), "number": In(20),
            "page_ask": Out(PageAsk), "page_answer": In(PageAnswer),
            **{f"o_{unit}": Out(stream.Signature(shape)) for unit, (shape, _) in _COMMANDS.items()},
            "o_record": Out(stream.Signature(RecordCommand)),
            "o_jobs": Out(stream.Signature(ReadJob)).array(n_ports),
            "done": In(4), "error": Out(ErrorReport),
            "ended": Out(1), "finished": Out(1), "issue": Out(1), "oldest": Out(16),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.check = check = DescriptorCheck(**self._check)
        m.submodules.sequencer = sequencer = Sequencer(**self._sequencer)
        m.submodules.scoreboard = scoreboard = Scoreboard()
        m.submodules.planner = planner = ReadPlanner(**self._pages)
        m.submodules.expander = expander = ReadExpander(n_ports=self._n_ports)
        m.submodules.records = records = Queue(RecordCommand, depth=8, ram_style="distributed")

        m.d.comb += [
            sequencer.i.p.eq(self.i.p), sequencer.i.valid.eq(self.i.valid), self.i.ready.eq(sequencer.i.ready),
            check.bits.eq(self.i.p.bits), check.launch.eq(self.launch), sequencer.code.eq(check.code),
            sequencer.launch.eq(self.launch), sequencer.token.eq(self.token), self.token_lane.eq(sequencer.token_lane),
            sequencer.settled.eq(self.settled), self.keep.eq(sequencer.keep), sequencer.complete.eq(scoreboard.empty),
            sequencer.number.eq(self.number), self.rank.eq(sequencer.rank), self.lane.eq(sequencer.lane),
            planner.launch.eq(self.launch), self.page_ask.eq(planner.page_ask), planner.page_answer.eq(self.page_answer),
            scoreboard.done.eq(self.done),
            self.error.eq(Mux(planner.error.valid, planner.error, sequencer.error)), self.ended.eq(sequencer.ended),
            self.issue.eq(sequencer.issue),
            self.finished.eq(sequencer.ended & scoreboard.empty), self.oldest.eq(scoreboard.oldest),
        ]
        connect(m, sequencer.o_order, scoreboard.i)
        connect(m, sequencer.o_request, planner.i)
        connect(m, planner.o, expander.i)
        connect(m, sequencer.o_record, records.i)
        connect(m, records.o, self.o_record)
        for source, sink in zip(expander.o_jobs, self.o_jobs):
            connect(m, source, sink)
        for unit, (shape, depth) in _COMMANDS.items():
            m.submodules[f"{unit}_station"] = station = Station(shape, depth=depth)
            m.d.comb += station.done_counts.eq(scoreboard.done_counts)
            connect(m, getattr(sequencer, f"o_{unit}"), station.i)
            connect(m, station.o, getattr(self, f"o_{unit}"))
        return m
