"""Running exponents, one a pass: the largest so far, and how far a sum and a new term must be shifted to meet.

::

    i_valid, i_number, i_exponent --> read --> subtract, compare --> grow, fresh, amount     o two cycles later
                                       ^                          |
                                       +-------- write <----------+

fresh: nothing was added since ``clear``. grow: the new exponent is larger, or fresh; then the sum is shifted down by
``amount`` and the exponent is the new one; otherwise the term is shifted. Visits of the same pass lie VISIT_GAP
cycles apart.
"""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from .links import EXPONENT, SHIFT_BITS, shift_amount

__all__ = ["RunningExponent"]


class RunningExponent(wiring.Component):
    """Exponents of the running sums of one lane.

    Parameters
    ----------
    max_passes : int

    Members
    -------
    clear : In(1), forget all
    i_valid, i_number, i_exponent : In, a term that counts; ``i_number`` alone reads
    top, seen : Out, state of pass i_number, in the same cycle
    grow, fresh, amount : Out, two cycles later
    """

    LATENCY = 2

    def __init__(self, *, max_passes):
        if not isinstance(max_passes, int) or max_passes < 1:
            raise ValueError(f"max_passes must be a positive integer, not {max_passes!r}")
        self._max_passes = max_passes
        super().__init__({
            "clear": In(1), "i_valid": In(1), "i_number": In(range(max_passes)), "i_exponent": In(EXPONENT),
            "top": Out(EXPONENT), "seen": Out(1), "grow": Out(1), "fresh": Out(1), "amount": Out(SHIFT_BITS)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.tops = tops = memory.Memory(shape=EXPONENT, depth=self._max_passes, init=[])
        write, read = tops.write_port(), tops.read_port(domain="comb")
        seen = Signal(self._max_passes)
        m.d.comb += [read.addr.eq(self.i_number), self.top.eq(read.data),
                     self.seen.eq(seen.bit_select(self.i_number, 1))]

        s1_valid, s1_seen = Signal(), Signal(reset_less=True)
        s1_number = Signal.like(self.i_number, reset_less=True)
        s1_top, s1_new = Signal(EXPONENT, reset_less=True), Signal(EXPONENT, reset_less=True)
        m.d.sync += [s1_valid.eq(self.i_valid), s1_number.eq(self.i_number), s1_seen.eq(self.seen),
                     s1_top.eq(self.top), s1_new.eq(self.i_exponent)]

        over, under = Signal(signed(17)), Signal(signed(17))
        s2_valid, s2_number = Signal(), Signal.like(self.i_number, reset_less=True)
        s2_new = Signal(EXPONENT, reset_less=True)
        m.d.comb += [over.eq(s1_new - s1_top), under.eq(s1_top - s1_new)]
        m.d.sync += [
            s2_valid.eq(s1_valid), s2_number.eq(s1_number), s2_new.eq(s1_new),
            self.fresh.eq(~s1_seen),
            self.grow.eq(~s1_seen | under[-1]),
            self.amount.eq(shift_amount(Mux(over[-1], under[:16], over[:16]))),
        ]
        m.d.comb += [write.en.eq(s2_valid & self.grow), write.addr.eq(s2_number), write.data.eq(s2_new)]
        with m.If(s2_valid):
            m.d.sync += seen.bit_select(s2_number, 1).eq(1)
        with m.If(self.clear):
            m.d.sync += seen.eq(0)
        return m
