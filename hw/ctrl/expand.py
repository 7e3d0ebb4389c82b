"""One plan becomes one read job for every port.

The product takes 4 cycles, then a job leaves every cycle, port 0 first. An address beyond 40 bits becomes the highest
one, which no window holds.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..links import ReadJob
from .links import ReadPlan

__all__ = ["ReadExpander"]

_PRODUCT_CYCLES = 4


class ReadExpander(wiring.Component):
    """``i``: stream of ReadPlan; ``o_jobs``: a stream of ReadJob for each of ``n_ports``.

    Paths: o_jobs.ready -> i.ready.
    """

    def __init__(self, *, n_ports):
        if n_ports not in (1, 2, 4):
            raise ValueError(f"n_ports must be 1, 2 or 4, not {n_ports!r}")
        self._n_ports = n_ports
        super().__init__({
            "i": In(stream.Signature(ReadPlan)),
            "o_jobs": Out(stream.Signature(ReadJob)).array(n_ports),
        })

    def elaborate(self, platform):
        m = Module()
        plan = self.i.p
        a, b = Signal(32, reset_less=True), Signal(32, reset_less=True)
        whole, product, too_large = Signal(64, reset_less=True), Signal(40, reset_less=True), Signal(reset_less=True)
        m.d.sync += [a.eq(plan.factor_a), b.eq(plan.factor_b), whole.eq(a * b),
                     product.eq(whole), too_large.eq(whole[40:].any())]

        offset = Signal(43, reset_less=True)            # three bits more than an address, so that it never wraps
        step = Signal(range(_PRODUCT_CYCLES))
        port = Signal(range(max(2, self._n_ports)))
        job = Signal(ReadJob)
        m.d.comb += [
            job.offset.eq(Mux(offset[40:].any() | (plan.scaled & too_large), -1, offset[:40])),
            job.cache.eq(plan.cache), job.dest.eq(plan.dest), job.index.eq(plan.index),
            job.beats.eq(Mux(plan.scaled, plan.beats, product[:32] + Mux(port < plan.n_longer, plan.beats, 0))),
        ]
        m.d.comb += [output.p.eq(job) for output in self.o_jobs]

        with m.FSM():
            with m.State("MULTIPLY"):
                m.d.sync += [
                    step.eq(step + self.i.valid), offset.eq(plan.addr + Mux(plan.scaled, product, 0)), port.eq(0),
                ]
                with m.If(step == _PRODUCT_CYCLES - 1):
                    m.next = "JOBS"
            with m.State("JOBS"):
                for number, output in enumerate(self.o_jobs):
                    with m.If(port == number):
                        m.d.comb += output.valid.eq(1)
                        with m.If(output.ready):
                            m.d.sync += [offset.eq(offset + plan.port_stride), port.eq(number + 1)]
                            if number == self._n_ports - 1:
                                m.d.comb += self.i.ready.eq(1)
                                m.next = "MULTIPLY"
        return m
