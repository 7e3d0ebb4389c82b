"""One plan becomes one read job for every port.

The product and the first sum take 5 cycles, then a job leaves every cycle, port 0 first. An address beyond 40 bits becomes
the highest one, which no window holds.
"""

from itertools import product

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..links import ReadJob
from .links import ReadPlan

__all__ = ["ReadExpander"]

_PRODUCT_CYCLES = 5         # with the first offset
_DSP = {"use_dsp": "yes"}


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

        # 32 x 32 bits from four products of halves: one register a line.
        low, high = (plan.factor_a[:16], plan.factor_a[16:]), (plan.factor_b[:16], plan.factor_b[16:])
        parts = [Signal(32, name=f"part_{i}{j}", reset_less=True) for i in range(2) for j in range(2)]
        m.d.sync += [part.eq(a * b) for part, (a, b) in zip(parts, product(low, high))]
        middle_sum, upper_sum = Signal(33, attrs=_DSP), Signal(48, attrs=_DSP)
        middle, whole = Signal(33, reset_less=True), Signal(64, reset_less=True)
        m.d.comb += [middle_sum.eq(parts[1] + parts[2]), upper_sum.eq(Cat(parts[0][16:], parts[3]) + middle)]
        m.d.sync += [middle.eq(middle_sum), whole.eq(Cat(parts[0][:16], upper_sum))]
        shift, base_beats = Signal(40, reset_less=True), Signal(32, reset_less=True)
        too_large = Signal(reset_less=True)
        m.d.sync += [shift.eq(Mux(plan.scaled, whole, 0)), base_beats.eq(Mux(plan.scaled, plan.beats, whole)),
                     too_large.eq(plan.scaled & whole[40:].any())]

        offset = Signal(40, reset_less=True)
        first_offset, next_offset = Signal(41, attrs=_DSP), Signal(41, attrs=_DSP)
        m.d.comb += [first_offset.eq(plan.addr + shift), next_offset.eq(offset + plan.port_stride)]
        step = Signal(range(_PRODUCT_CYCLES))
        port = Signal(range(max(2, self._n_ports)))
        job = Signal(ReadJob)
        m.d.comb += [
            job.offset.eq(offset), job.cache.eq(plan.cache), job.dest.eq(plan.dest), job.index.eq(plan.index),
            job.beats.eq(base_beats + Mux(port < plan.n_longer, plan.extra_beats, 0)),
        ]
        m.d.comb += [output.p.eq(job) for output in self.o_jobs]

        with m.FSM():
            with m.State("MULTIPLY"):
                m.d.sync += [step.eq(step + self.i.valid), offset.eq(first_offset), port.eq(0)]
                with m.If(first_offset[40] | too_large):
                    m.d.sync += offset.eq(-1)
                with m.If(step == _PRODUCT_CYCLES - 1):
                    m.d.sync += step.eq(0)
                    m.next = "JOBS"
            with m.State("JOBS"):
                for number, output in enumerate(self.o_jobs):
                    with m.If(port == number):
                        m.d.comb += output.valid.eq(1)
                        with m.If(output.ready):
                            m.d.sync += [offset.eq(next_offset), port.eq(number + 1)]
                            with m.If(next_offset[40]):
                                m.d.sync += offset.eq(-1)
                            if number == self._n_ports - 1:
                                m.d.comb += self.i.ready.eq(1)
                                m.next = "MULTIPLY"
        return m
