"""Small combinational pieces that the arithmetic units share."""

from amaranth.hdl import Cat, Const, Mux, Signal, Value

__all__ = ["leading_zeros", "step_shift", "round_up"]


def leading_zeros(value):
    """Zeros above the highest one of a value of at least 2 bits, by halving; means nothing where the value is 0."""
    value = Value.cast(value)
    size = 1 << (len(value) - 1).bit_length()
    return _leading_zeros(Cat(Const(0, size - len(value)), value))


def _leading_zeros(value):
    half = len(value) // 2
    low, high = value[:half], value[half:]
    if half == 1:
        return ~high
    high_any = high.any()
    return Cat(Mux(high_any, _leading_zeros(high), _leading_zeros(low)), ~high_any)


def step_shift(m, value, step, *, below=0):
    """(a value moved up by 0 to 3 steps, as many as are without a one at its top; how many: 2 bits).

    The value has more than three steps; the bit ``below`` comes in behind it. ``keep``: mapping ends a LUT at the number of
    steps, so that each bit moved is one LUT of six inputs.
    """
    value, below = Value.cast(value), Value.cast(below)[:1]
    one, two, three = (~value[len(value) - k * step:len(value) - (k - 1) * step].any() for k in (1, 2, 3))
    steps = Signal(2, attrs={"keep": 1})
    m.d.comb += steps.eq(Cat(one & (~two | three), one & two))
    moved = [Cat(below.replicate(k * step), value)[:len(value)] for k in range(4)]
    return Mux(steps[1], Mux(steps[0], moved[3], moved[2]), Mux(steps[0], moved[1], moved[0])), steps


def round_up(lsb, guard, sticky):
    """1 where round to nearest even adds one to the kept bits."""
    return guard & (sticky | lsb)
