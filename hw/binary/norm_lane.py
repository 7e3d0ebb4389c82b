"""What NORM has of every lane: its sums, and the way of an element.

::

    x -->| x |--- - mean, clamp -->| d |--- d or r -->|    |
         |   |                     |   |------------->| a, b |--> a b -->| + sum |--> sum of squares, or
         | + |--> sum                                                          >> 14, clamp -->| n |
                                                                                                 |
          q, bit <--| clamp |<-- + bias2 <-- y mult2 <--| y |<-- clamp <-- + bias <-- n mult <---+

In the first pass mean is 0 and both factors are d: the sum is that of squares. In the second the sum stands at 2**13, half a unit
of n. Multiplications, and the sums behind them, are DSP blocks. One element a cycle; ``S_Y`` and so on are cycles after x.
"""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .isa import X_BITS
from .norm_params import BIAS_BITS, MULT_BITS, TAKEN_FROM
from .norm_scale import R_BITS, SQUARES_BITS, SUM_BITS, overflows, saturated

__all__ = ["NormLane"]

_N_SHIFT = 14


class NormLane(wiring.Component):
    """One token lane.

    Members
    -------
    clear, second : In(1)
        Forget sums and mean (before a pass); the second pass is at work.
    x : In(18)
    sum_en, square_en : In(1)
        First pass: an element is at S_SUM, at S_SQUARE.
    sum, squares : Out
        From S_SQUARE + 1 of the last element on.
    mean_push, mean_i, mean_o, r_push, r_i, r_o
        Mean and scale go from lane to lane, a step a push.
    mult, bias, mult2, bias2, flip : In
        Parameters of the row, at S_N, S_N + 1, S_Y, S_Y + 1 and S_Q - 1.
    bits, lo, hi : In
        Whether a bit is asked for, and the bounds of integers; constant.
    y : Out(18)
        At S_Y.
    q : Out(8)
        At S_Q: integer, or a bit in the lowest place.
    """

    S_SUM, S_SQUARE, S_N, S_Y, S_Q = 1, 4, 6, 9, 12

    clear: In(1)
    second: In(1)
    x: In(signed(X_BITS))
    sum_en: In(1)
    square_en: In(1)
    sum: Out(signed(SUM_BITS))
    squares: Out(SQUARES_BITS)
    mean_push: In(1)
    mean_i: In(signed(X_BITS))
    mean_o: Out(signed(X_BITS))
    r_push: In(1)
    r_i: In(R_BITS)
    r_o: Out(R_BITS)
    mult: In(signed(MULT_BITS))
    bias: In(signed(BIAS_BITS))
    mult2: In(signed(MULT_BITS))
    bias2: In(signed(BIAS_BITS))
    flip: In(1)
    bits: In(1)
    lo: In(signed(8))
    hi: In(signed(8))
    y: Out(signed(X_BITS))
    q: Out(8)

    def elaborate(self, platform):
        m = Module()

        def register(name, shape):
            return Signal(shape, name=name, reset_less=True)

        mean, r, total = (Signal.like(port, reset_less=True) for port in (self.mean_o, self.r_o, self.sum))
        m.d.comb += [self.mean_o.eq(mean), self.r_o.eq(r), self.sum.eq(total)]
        with m.If(self.r_push):
            m.d.sync += r.eq(self.r_i)

        s1_x, s2_d = register("s1_x", signed(X_BITS)), register("s2_d", signed(X_BITS))
        s3_a, s3_b = register("s3_a", signed(R_BITS + 1)), register("s3_b", signed(X_BITS))
        s4_product, s5_n = register("s4_product", signed(R_BITS + X_BITS)), register("s5_n", signed(R_BITS + X_BITS + 1 - _N_SHIFT))
        s6_n = register("s6_n", signed(X_BITS))
        squares = register("squares", signed(SQUARES_BITS + 1))
        grown = Signal.like(squares, attrs={"use_dsp": "yes"})
        m.d.comb += [self.squares.eq(squares), grown.eq(squares + s4_product)]
        m.d.sync += [
            s1_x.eq(self.x), s2_d.eq(saturated(s1_x - mean, X_BITS)),
            s3_a.eq(Mux(self.second, r, s2_d)), s3_b.eq(s2_d),
            s4_product.eq(s3_a * s3_b), s5_n.eq(grown[_N_SHIFT:]), s6_n.eq(saturated(s5_n, X_BITS)),
        ]
        with m.If(self.mean_push):
            m.d.sync += mean.eq(self.mean_i)
        with m.If(self.sum_en):
            m.d.sync += total.eq(total + s1_x)
        with m.If(self.square_en):
            m.d.sync += squares.eq(grown)
        with m.If(self.clear):
            m.d.sync += [total.eq(0), squares.eq(self.second << _N_SHIFT - 1)]
        with m.If(self.clear & ~self.second):
            m.d.sync += mean.eq(0)

        s8_y, s9_y = self._affine(m, "y", s6_n, self.mult, self.bias), register("s9_y", signed(X_BITS))
        m.d.sync += s9_y.eq(saturated(s8_y, X_BITS))
        s11_q = self._affine(m, "q", s9_y, self.mult2, self.bias2)
        s12_q = register("s12_q", 8)
        negative, place = s11_q[-1], s11_q[:8].as_signed()
        over = overflows(s11_q, 8)
        with m.If(Mux(over, negative, place < self.lo)):
            m.d.sync += s12_q.eq(self.lo)
        with m.Elif(Mux(over, ~negative, place > self.hi)):
            m.d.sync += s12_q.eq(self.hi)
        with m.Else():
            m.d.sync += s12_q.eq(place)
        with m.If(self.bits):
            m.d.sync += s12_q[0].eq(~negative ^ self.flip)
        m.d.comb += [self.y.eq(s9_y), self.q.eq(s12_q)]
        return m

    def _affine(self, m, name, value, mult, bias):
        """(value * mult + bias) >> TAKEN_FROM, two cycles after ``value`` and ``mult``, one after ``bias``."""
        product = Signal(signed(X_BITS + MULT_BITS), name=f"{name}_product", reset_less=True)
        total = Signal(signed(48), name=f"{name}_total", attrs={"use_dsp": "yes"})
        result = Signal(signed(48 - TAKEN_FROM), name=f"{name}_result", reset_less=True)
        m.d.comb += total.eq(product + bias)
        m.d.sync += [product.eq(value * mult), result.eq(total[TAKEN_FROM:])]
        return result
