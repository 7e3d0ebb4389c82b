"""From descriptors to commands of the binary machine: the sequencer, the stations before the units, and the scoreboard.

::

    i --> sequencer --+--> station (8)  --> o_load              done strobes --> scoreboard --> stations
          ^           +--> station (8)  --> o_matmul
          check       +--> station (8)  --> o_norm
                      +--> expander --> o_jobs, one a port
"""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..ctrl.expand import ReadExpander
from ..ctrl.scoreboard import Scoreboard
from ..ctrl.station import Station
from ..links import ReadJob
from ..mem.links import ErrorReport, Fetched
from ..stream import connect
from .check import DescriptorCheck
from .isa import Norm
from .links import UNITS, LoadCommand, MatmulCommand
from .sequencer import Sequencer

__all__ = ["Dispatch"]

_COMMANDS = {"load": LoadCommand, "matmul": MatmulCommand(), "norm": Norm}
_DEPTH = 8


class Dispatch(wiring.Component):
    """Everything between the descriptor fetch and the units. Reset it before every program.

    Parameters: as in ``BinaryConfig``.

    Members
    -------
    i : stream of Fetched
    o_load, o_matmul, o_norm : streams of LoadCommand, MatmulCommand, isa.Norm
    o_jobs : a stream of ReadJob a port
    done : strobes of the units; bit 0 load, 1 matmul, 2 norm
    error : OPCODE, SIZE, FETCH
    ended, finished : END was reached; and nothing that was issued is unfinished
    issue : strobe: a descriptor was issued
    oldest : index of the oldest descriptor that is not finished
    """

    def __init__(self, *, n_ports, **sizes):
        self._n_ports, self._sizes = n_ports, sizes
        super().__init__({
            "i": In(stream.Signature(Fetched)),
            **{f"o_{unit}": Out(stream.Signature(shape)) for unit, shape in _COMMANDS.items()},
            "o_jobs": Out(stream.Signature(ReadJob)).array(n_ports),
            "done": In(len(UNITS)), "error": Out(ErrorReport),
            "ended": Out(1), "finished": Out(1), "issue": Out(1), "oldest": Out(16),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.check = check = DescriptorCheck(**self._sizes)
        m.submodules.sequencer = sequencer = Sequencer()
        m.submodules.scoreboard = scoreboard = Scoreboard(UNITS)
        m.submodules.expander = expander = ReadExpander(n_ports=self._n_ports)
        m.d.comb += [
            check.bits.eq(self.i.p.bits), sequencer.code.eq(check.code), scoreboard.done.eq(self.done),
            self.error.eq(sequencer.error), self.ended.eq(sequencer.ended), self.issue.eq(sequencer.issue),
            self.finished.eq(sequencer.ended & scoreboard.empty), self.oldest.eq(scoreboard.oldest),
        ]
        connect(m, wiring.flipped(self.i), sequencer.i)
        connect(m, sequencer.o_order, scoreboard.i)
        connect(m, sequencer.o_plan, expander.i)
        for source, sink in zip(expander.o_jobs, self.o_jobs):
            connect(m, source, wiring.flipped(sink))
        for unit, shape in _COMMANDS.items():
            m.submodules[f"{unit}_station"] = station = Station(shape, depth=_DEPTH, units=UNITS)
            m.d.comb += station.done_counts.eq(scoreboard.done_counts)
            connect(m, getattr(sequencer, f"o_{unit}"), station.i)
            connect(m, station.o, wiring.flipped(getattr(self, f"o_{unit}")))
        return m
