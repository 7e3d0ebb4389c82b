"""Small combinational pieces that the arithmetic units share."""

from amaranth.hdl import Cat, Const, Mux, Value

from ..formats import F32_INF

__all__ = ["leading_zeros", "round_up", "pack"]


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


def round_up(lsb, guard, sticky):
    """1 where round to nearest even adds one to the kept bits."""
    return guard & (sticky | lsb)


def pack(sign, exponent, mantissa, increment):
    """The 32 bits of a significand 1.mantissa that takes one more unit where increment is 1.

    exponent is biased, signed and may lie outside 1..254: then bits are infinity or zero. A mantissa
    of ones carries into the exponent by itself, because the two are one number.
    """
    rounded = (Cat(mantissa, exponent).as_signed() + increment)[:23 + len(exponent)]
    biased = rounded[23:].as_signed()
    magnitude = Mux(biased >= 255, Const(F32_INF, 31), rounded[:31])
    return Cat(Mux(biased <= 0, 0, magnitude), sign)
