"""Walks through a program of the binary machine: judges a descriptor, issues it to its unit, plans its memory reads, goes on.

::

    i --> wait for the verdict --+--> END: stop here
                                 +--> bad: report, stop here
                                 +--> scoreboard --> station of its unit --> LOAD, MATMUL from the ports: read plan --> next

A command goes out before its reads, so that the room in the port queues never decides whether a unit may start. Rate: about 10
cycles a descriptor.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..ctrl.check import bodies
from ..ctrl.links import Gated, ReadPlan
from ..links import Dest
from ..mem.links import ErrorReport, Fetched
from ..regs import Error
from . import isa
from .check import DescriptorCheck
from .isa import Opcode, Operand
from .links import UNITS, LoadCommand, MatmulCommand

__all__ = ["Sequencer"]

_UNIT_OF = {Opcode.LOAD: "load", Opcode.MATMUL: "matmul", Opcode.NORM: "norm"}


class Sequencer(wiring.Component):
    """
    Members
    -------
    i : stream of Fetched
    code : verdict of DescriptorCheck on ``i.p.bits``
    o_order : stream of the unit (place in ``UNITS``) of each descriptor issued
    o_load, o_matmul, o_norm : streams of Gated commands: LoadCommand, MatmulCommand, isa.Norm
    o_plan : stream of ReadPlan
    error : OPCODE, SIZE, FETCH (the last descriptor of the program was not END; its index), until a reset
    ended : END was reached
    issue : strobe: a descriptor was issued

    Paths: none.
    """

    def __init__(self):
        super().__init__({
            "i": In(stream.Signature(Fetched)), "code": In(4),
            "o_order": Out(stream.Signature(range(len(UNITS)))),
            "o_load": Out(stream.Signature(Gated(LoadCommand, UNITS))),
            "o_matmul": Out(stream.Signature(Gated(MatmulCommand(), UNITS))),
            "o_norm": Out(stream.Signature(Gated(isa.Norm, UNITS))),
            "o_plan": Out(stream.Signature(ReadPlan)),
            "error": Out(ErrorReport), "ended": Out(1), "issue": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        header, body = bodies(self.i.p.bits, isa)
        self._commands(m, header, body)
        plan, reads = self._plan(m, header, body[Opcode.LOAD], body[Opcode.MATMUL])
        waited = Signal(range(DescriptorCheck.LATENCY + 1))
        with m.FSM():
            with m.State("JUDGE"):
                with m.If(self.i.valid):
                    m.d.sync += waited.eq(waited + 1)
                with m.If(waited == DescriptorCheck.LATENCY):
                    m.d.sync += waited.eq(0)
                    m.next = "ORDER"
                    with m.If(self.code != Error.NONE):
                        m.d.sync += self.error.code.eq(self.code)
                        m.next = "FAILED"
                    with m.Elif(header.opcode == Opcode.END):
                        m.next = "ENDED"
            with m.State("ORDER"):
                m.d.comb += self.o_order.valid.eq(1)
                with m.If(self.o_order.ready):
                    m.next = "COMMAND"
            with m.State("COMMAND"):
                with m.Switch(header.opcode.as_value()):
                    for opcode, unit in _UNIT_OF.items():
                        output = getattr(self, f"o_{unit}")
                        with m.Case(opcode.value):
                            m.d.comb += output.valid.eq(1)
                            with m.If(output.ready):
                                m.d.comb += self.issue.eq(1)
                                m.next = "NEXT"
                                with m.If(reads):
                                    m.next = "PLAN"
            with m.State("PLAN"):
                with m.If(~self.o_plan.valid):
                    m.d.sync += [*(self.o_plan.p[name].eq(value) for name, value in plan.items()), self.o_plan.valid.eq(1)]
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.comb += self.i.ready.eq(~self.i.p.last)
                m.next = "JUDGE"
                with m.If(self.i.p.last):
                    m.d.sync += self.error.code.eq(Error.FETCH)
                    m.next = "FAILED"
            with m.State("FAILED"):
                m.d.comb += self.error.valid.eq(1)
            with m.State("ENDED"):
                m.d.comb += self.ended.eq(1)
        with m.If(self.o_plan.valid & self.o_plan.ready):
            m.d.sync += self.o_plan.valid.eq(0)
        m.d.comb += self.error.index.eq(self.i.p.index)
        return m

    def _commands(self, m, header, body):
        """What each unit is told; valid is given elsewhere."""
        with m.Switch(header.opcode.as_value()):
            for opcode, unit in _UNIT_OF.items():
                with m.Case(opcode.value):
                    m.d.comb += self.o_order.p.eq(UNITS.index(unit))
        for unit in UNITS:
            waits = getattr(self, f"o_{unit}").p.waits
            m.d.comb += [waits[other].eq(getattr(header, f"wait_{other}")) for other in UNITS]
        load, command = body[Opcode.LOAD], self.o_load.p.command
        m.d.comb += [command.n_beats.eq(load.n_beats), command.d_base.eq(load.d_base), command.target.eq(load.target)]
        command = self.o_matmul.p.command
        m.d.comb += [command.index.eq(self.i.p.index),
                     *(command[name].eq(body[Opcode.MATMUL][name]) for name, _ in MatmulCommand() if name != "index")]
        m.d.comb += self.o_norm.p.command.eq(body[Opcode.NORM])

    def _plan(self, m, header, load, matmul):
        """(a register's next value: what is read on every port, field by field; whether anything is): beats are the product of the
        two factors."""
        is_load = header.opcode == Opcode.LOAD
        plan = {
            "addr": Mux(is_load, load.addr, matmul.addr), "port_stride": Mux(is_load, load.port_stride, matmul.port_stride),
            "cache": is_load & load.cache, "dest": Mux(is_load, Dest.LOADER, Dest.MATMUL), "index": self.i.p.index,
            "factor_a": Mux(is_load, load.n_beats, matmul.n_row_groups),
            "factor_b": Mux(is_load, 1, matmul.n_col_blocks * matmul.w_planes),
        }
        return plan, is_load | ((header.opcode == Opcode.MATMUL) & (matmul.operand == Operand.PORTS))
