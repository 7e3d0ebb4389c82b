"""Running exponents, one a query: the largest so far, and how far a sum and a new term must be shifted to meet.

::

    i_valid, i_place, i_exponent --> read --> subtract, compare --> grow, fresh, amount     o two cycles later
                                      ^                          |
                                      +-------- write <----------+

fresh: nothing was added since the place was cleared. grow: the new exponent is larger, or fresh; then the sum is
shifted down by ``amount`` and the exponent is the new one; otherwise the term is shifted. Visits of the same place lie
three cycles apart at least.
"""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .links import EXPONENT, SHIFT_BITS, shift_amount

__all__ = ["RunningExponent"]


class RunningExponent(wiring.Component):
    """Exponents of the running sums of a slice.

    Parameters
    ----------
    places : int

    Members
    -------
    clear, clear_place : In, forget what the place holds; not while a term is under way
    i_valid, i_place, i_exponent : In, a term that counts; ``i_place`` alone reads
    top, seen : Out, state of place i_place, in the same cycle
    grow, fresh, amount : Out, two cycles later
    """

    LATENCY = 2

    def __init__(self, *, places):
        if not isinstance(places, int) or places < 1:
            raise ValueError(f"places must be a positive integer, not {places!r}")
        self._places = places
        super().__init__({
            "clear": In(1), "clear_place": In(range(places)),
            "i_valid": In(1), "i_place": In(range(places)), "i_exponent": In(EXPONENT),
            "top": Out(EXPONENT), "seen": Out(1), "grow": Out(1), "fresh": Out(1), "amount": Out(SHIFT_BITS)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.tops = tops = memory.Memory(shape=data.StructLayout({"top": EXPONENT, "seen": 1}),
                                                 depth=self._places, init=[])
        write, read = tops.write_port(), tops.read_port(domain="comb")
        m.d.comb += [read.addr.eq(self.i_place), self.top.eq(read.data.top), self.seen.eq(read.data.seen)]

        s1_valid, s1_seen = Signal(), Signal(reset_less=True)
        s1_place = Signal.like(self.i_place, reset_less=True)
        s1_top, s1_new = Signal(EXPONENT, reset_less=True), Signal(EXPONENT, reset_less=True)
        m.d.sync += [s1_valid.eq(self.i_valid), s1_place.eq(self.i_place), s1_seen.eq(self.seen),
                     s1_top.eq(self.top), s1_new.eq(self.i_exponent)]

        over, under = Signal(signed(17)), Signal(signed(17))
        s2_valid, s2_place = Signal(), Signal.like(self.i_place, reset_less=True)
        s2_new = Signal(EXPONENT, reset_less=True)
        m.d.comb += [over.eq(s1_new - s1_top), under.eq(s1_top - s1_new)]
        m.d.sync += [
            s2_valid.eq(s1_valid), s2_place.eq(s1_place), s2_new.eq(s1_new),
            self.fresh.eq(~s1_seen),
            self.grow.eq(~s1_seen | under[-1]),
            self.amount.eq(shift_amount(Mux(over[-1], under[:16], over[:16]))),
        ]
        m.d.comb += [
            write.en.eq(self.clear | (s2_valid & self.grow)), write.addr.eq(Mux(self.clear, self.clear_place, s2_place)),
            write.data.top.eq(s2_new), write.data.seen.eq(~self.clear),
        ]
        return m
