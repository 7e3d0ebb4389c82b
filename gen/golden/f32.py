"""Binary32 arithmetic of the vector unit: round to nearest even, subnormals flushed.

All functions take and give ``torch.float32`` tensors of any shape (and broadcast), on the CPU.

- A subnormal input counts as zero of the same sign.
- A result that is below 2**-126 after rounding with unbounded exponent becomes zero of the same
  sign; this is what a processor does that flushes inputs and outputs (x86: FTZ and DAZ).
- Overflow gives infinity. A NaN in gives a NaN out; every NaN out is 0x7FC00000.

Products of two binary32 numbers are exact in binary64, and rounding a binary64 sum of two binary32
numbers once more to binary32 changes nothing (53 >= 2 * 24 + 2, Figueroa 1995); so the operations
below are exact, and no global flag of torch is read or set.
"""

import torch

__all__ = ["SUM_SLOTS", "to_bits", "from_bits", "flush", "mul", "add", "sub", "neg", "maximum",
           "from_int", "from_int32", "to_int", "to_int8", "sum_slots"]


SUM_SLOTS = 128     # partial sums of every reduction

_MIN_NORMAL = 2.0 ** -126
_MIN_ROUNDED = 2.0 ** -126 * (1 - 2.0 ** -25)   # least magnitude that rounds up to 2**-126


def to_bits(x):
    """Bit patterns of a float32 tensor, as int64 in 0..2**32-1."""
    return x.contiguous().view(torch.int32).to(torch.int64) & 0xFFFF_FFFF


def from_bits(bits):
    """float32 tensor of bit patterns given as integers in 0..2**32-1; the inverse of ``to_bits``."""
    bits = torch.as_tensor(bits, dtype=torch.int64)
    return torch.where(bits >= 1 << 31, bits - (1 << 32), bits).to(torch.int32).view(torch.float32)


def _wide(x):
    """Inputs as binary64, subnormals flushed."""
    x = torch.as_tensor(x)
    assert x.dtype == torch.float32, f"binary32 operations take float32 tensors, not {x.dtype}"
    x = x.to(torch.float64)
    return torch.where(x.abs() < _MIN_NORMAL, x * 0.0, x)


def _narrow(x, least):
    """Binary64 to binary32: magnitudes under `least` become signed zero, every NaN the same one."""
    x = torch.where(x.abs() < least, x * 0.0, x).to(torch.float32)
    return torch.where(x.isnan(), torch.full_like(x, float("nan")), x)


def flush(x):
    """Subnormals to zero of the same sign, every NaN to 0x7FC00000."""
    return _narrow(_wide(x), _MIN_NORMAL)


def mul(a, b):
    """a * b."""
    return _narrow(_wide(a) * _wide(b), _MIN_ROUNDED)


def add(a, b):
    """a + b. An exact zero sum is +0, unless both are -0."""
    return _narrow(_wide(a) + _wide(b), _MIN_NORMAL)


def neg(a):
    """-a: the sign bit inverted, and flushed; a NaN stays 0x7FC00000."""
    return _narrow(-_wide(a), _MIN_NORMAL)


def sub(a, b):
    """a - b = a + (-b)."""
    return _narrow(_wide(a) - _wide(b), _MIN_NORMAL)


def maximum(a, b):
    """The larger; -0 is less than +0; NaN where either is NaN."""
    a, b = torch.broadcast_tensors(_wide(a), _wide(b))
    take_a = (a > b) | ((a == b) & ~torch.signbit(a))
    larger = torch.where(take_a, a, b)
    return _narrow(torch.where(a.isnan() | b.isnan(), torch.full_like(a, float("nan")), larger), _MIN_NORMAL)


def from_int(x):
    """Integer tensor, magnitudes up to 2**52, to float32, rounded to nearest even."""
    assert not x.dtype.is_floating_point, f"from_int takes integers, not {x.dtype}"
    x = x.to(torch.float64)
    assert not x.numel() or x.abs().max() <= 2.0 ** 52, "from_int takes magnitudes up to 2**52"
    return x.to(torch.float32)


def from_int32(x):
    """``from_int``, of accumulators in -2**31..2**31-1."""
    x = torch.as_tensor(x).to(torch.int64)
    assert not x.numel() or -1 << 31 <= x.min() and x.max() < 1 << 31, "from_int32 takes 32-bit values"
    return from_int(x)


def to_int(x, low, high):
    """float32 to int64: round half to even, then clamp to low..high; NaN gives 0."""
    x = _wide(x)
    x = torch.where(x.isnan(), torch.zeros_like(x), x)
    return torch.round(x).clamp(low, high).to(torch.int64)


def to_int8(x):
    """float32 to int8: round half to even, then clamp to -128..127; NaN gives 0."""
    return to_int(x, -128, 127).to(torch.int8)


def sum_slots(x, n=None):
    """Sum of the first n elements of the last axis (all of them without n), in the fixed order.

    Element e is added to slot e mod SUM_SLOTS, in order of e, each slot starting from +0; then for
    h = 64, 32, .. 1 the slots fold: slot s takes slot s + h, for s < h. Shape (..., n) to (...).
    """
    n = x.shape[-1] if n is None else n
    assert 0 <= n <= x.shape[-1], f"sum_slots takes 0..{x.shape[-1]} elements, not {n}"
    slots = torch.zeros(*x.shape[:-1], SUM_SLOTS, dtype=torch.float32)
    for start in range(0, n, SUM_SLOTS):
        count = min(SUM_SLOTS, n - start)
        slots[..., :count] = add(slots[..., :count], x[..., start:start + count])
    half = SUM_SLOTS // 2
    while half:
        slots = add(slots[..., :half], slots[..., half:2 * half])
        half //= 2
    return slots[..., 0]
