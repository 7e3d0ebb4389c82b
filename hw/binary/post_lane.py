"""One lane of the rows of a product: an affine map, and what follows it.

::

    y --> * mult --> + bias --+--> sign ^ flip, or map --> bit --------+
          (one DSP)           |                                        +--> value
                              +--> >> shift, 19 bits ----> lo .. hi ---+
                                                     +---> + x --> 18 bits ---> x_new

A threshold is an affine map too: mult 1, bias -level; its bit is the sign. 19 bits are enough for a sum with x that is cut to 18.
The module has no constant of its own lane.

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

        # The part of the total that the shift leaves, within 19 bits.
        sign = self.total[-1]
        wide = Cat(self.total, sign.replicate(SHIFTS[-1] + _PART_BITS - TOTAL_BITS))
        places = [wide[shift:shift + _PART_BITS] for shift in SHIFTS]
        for select in control.place:
            places = [Mux(select, high, low) for low, high in zip(places[::2], places[1::2])]
        first_guard = SHIFTS.start + _PART_BITS - 1
        guards = Cat((wide[at:at + SHIFTS.step] ^ sign.replicate(SHIFTS.step)).any()
                     for at in range(first_guard, first_guard + _GUARDS * SHIFTS.step, SHIFTS.step))
        limit = Cat((~sign).replicate(_PART_BITS - 1), sign)

        part, bit = Signal(signed(_PART_BITS), reset_less=True), Signal(reset_less=True)
        total_x = Signal(signed(_PART_BITS + 1), reset_less=True)
        byte, rest = part[:8].as_signed(), part[7:]
        is_byte = (rest ^ part[-1].replicate(len(rest))) == 0
        above, below = Mux(is_byte, byte > control.hi, ~part[-1]), Mux(is_byte, byte < control.lo, part[-1])
        with m.If(self.en):
            m.d.sync += [
                y.eq(self.y), product.eq(y * control.mult), self.total.eq(total),
                part.eq(Mux((guards & control.guards).any(), limit, places[0])), bit.eq(self.bit),
                total_x.eq(part + self.x),
                self.value.eq(Mux(control.quant, Mux(above, control.hi, Mux(below, control.lo, byte)), bit)),
            ]
        x_sign = total_x[-1]
        too_large = total_x[X_BITS - 1:-1] != x_sign.replicate(2)
        m.d.comb += self.x_new.eq(Mux(too_large, Cat((~x_sign).replicate(X_BITS - 1), x_sign), total_x[:X_BITS]))
        return m
