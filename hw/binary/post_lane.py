"""One lane of the rows of a product: an affine map, and what follows it.

::

    y --> * mult --> + bias --+--> sign ^ flip, or map --> bit --------+
          (one DSP)           |                                        +--> value
                              +--> >> shift, 19 bits ----> lo .. hi ---+
                                                     +---> + x --> 18 bits ---> x_new

A threshold is an affine map too: mult 1, bias -level; its bit is the sign. What is beyond 19 bits makes a sum with x that is beyond
18, whatever x is. The module has no constant of its own lane.

| stage | register |
|---:|---|
| 1 | y |
| 2 | product |
| 3 | total |
| 4 | 19 bits of the affine map; bit |
| 5 | value; sum with x |
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .isa import ROW_BITS, SHIFTS, X_BITS

__all__ = ["TOTAL_BITS", "LaneControl", "PostLane", "shift_control"]

TOTAL_BITS = 47
_PART_BITS = X_BITS + 1
_GUARDS = len([shift for shift in SHIFTS if shift + _PART_BITS < TOTAL_BITS])


class LaneControl(data.Struct):
    """What all lanes share. The first two are of the row on the way into stages 2 and 3; the others are constant."""
    mult: signed(18)
    bias: signed(46)
    place: unsigned(3)  # number of the shift
    guards: unsigned(_GUARDS)  # bits above the part that must be as the sign, in fours
    quant: unsigned(1)  # value: the integer between lo and hi; else the bit
    lo: signed(8)
    hi: signed(8)


def shift_control(shift):
    """(place, guards) of a legal shift."""
    place = (shift - SHIFTS.start)[SHIFTS.step.bit_length() - 1:][:3]
    return place, Cat(place <= k for k in range(_GUARDS))


class PostLane(wiring.Component):
    """Members: ``en`` moves all stages; ``control``; ``y``, on the way into stage 1; ``total`` in stage 3; ``bit``, on the way into
    stage 4; ``x``, the element of X in stage 4; ``value`` and ``x_new`` in stage 5."""

    def __init__(self):
        super().__init__({
            "en": In(1), "control": In(LaneControl), "y": In(signed(ROW_BITS)), "total": Out(signed(TOTAL_BITS)), "bit": In(1),
            "x": In(signed(X_BITS)), "value": Out(8), "x_new": Out(signed(X_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        control = self.control
        y, product = Signal(signed(ROW_BITS), reset_less=True), Signal(signed(ROW_BITS + 18), reset_less=True)
        total = Signal(signed(TOTAL_BITS), attrs={"use_dsp": "yes"})
        m.d.comb += total.eq(product + control.bias)

        # The part of the total that the shift leaves, and whether the total is beyond its 19 bits.
        wide = Cat(self.total, self.total[-1].replicate(SHIFTS[-1] + _PART_BITS - TOTAL_BITS))
        places = [wide[shift:shift + _PART_BITS] for shift in SHIFTS]
        for select in control.place:
            places = [Mux(select, high, low) for low, high in zip(places[::2], places[1::2])]
        first_guard = SHIFTS.start + _PART_BITS - 1
        guards = Cat((wide[at:at + SHIFTS.step] ^ self.total[-1].replicate(SHIFTS.step)).any()
                     for at in range(first_guard, first_guard + _GUARDS * SHIFTS.step, SHIFTS.step))
        s4_part = Signal(signed(_PART_BITS), reset_less=True)
        s4_over, s4_sign, s4_bit = (Signal(name=f"s4_{name}", reset_less=True) for name in ("over", "sign", "bit"))
        with m.If(self.en):
            m.d.sync += [
                y.eq(self.y), product.eq(y * control.mult), self.total.eq(total),
                s4_part.eq(places[0]), s4_over.eq((guards & control.guards).any()), s4_sign.eq(self.total[-1]), s4_bit.eq(self.bit),
            ]

        byte, rest = s4_part[:8].as_signed(), s4_part[7:]
        is_byte = ~s4_over & ((rest ^ s4_sign.replicate(len(rest))) == 0)
        above, below = Mux(is_byte, byte > control.hi, ~s4_sign), Mux(is_byte, byte < control.lo, s4_sign)
        s5_sum = Signal(signed(_PART_BITS + 1), reset_less=True)
        s5_over, s5_sign = Signal(reset_less=True), Signal(reset_less=True)
        with m.If(self.en):
            m.d.sync += [
                self.value.eq(Mux(control.quant, Mux(above, control.hi, Mux(below, control.lo, byte)), s4_bit)),
                s5_sum.eq(s4_part + self.x), s5_over.eq(s4_over), s5_sign.eq(s4_sign),
            ]
        beyond = s5_over | (s5_sum[X_BITS - 1:-1] != s5_sum[-1].replicate(2))
        negative = Mux(s5_over, s5_sign, s5_sum[-1])
        m.d.comb += self.x_new.eq(Mux(beyond, Cat((~negative).replicate(X_BITS - 1), negative), s5_sum[:X_BITS]))
        return m
