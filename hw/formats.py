"""Number formats: the words that gates, golden functions and the packer share.

``F32``      IEEE binary32, subnormals flushed to zero of the same sign, one canonical NaN.
``Trit``     a ternary weight, written w + 1 in 0..2.
trit byte    five trits, ``byte = sum (w_j + 1) 3**j`` with j = 0 first in its row: 1.6 bits a weight.
"""

import struct

from amaranth.lib import data

__all__ = ["F32", "F32_BIAS", "F32_ZERO", "F32_NEG_ZERO", "F32_ONE", "F32_NEG_ONE", "F32_INF",
           "F32_NEG_INF", "F32_NAN", "F32_MIN_NORMAL", "F32_MAX", "bits_of", "float_of",
           "KV_FORMATS", "TRIT_BITS", "TRITS_PER_BYTE", "TRIT_BYTES", "pack_trit_byte", "unpack_trit_byte"]


class F32(data.Struct):
    """IEEE binary32. Value (-1)**sign * (1 + mantissa/2**23) * 2**(exponent - 127); exponent 0 is
    zero whatever the mantissa; exponent 255 is infinity, or NaN where the mantissa is not zero."""
    mantissa: 23
    exponent: 8
    sign: 1


F32_BIAS = 127

F32_ZERO = 0x0000_0000
F32_NEG_ZERO = 0x8000_0000
F32_ONE = 0x3F80_0000
F32_NEG_ONE = 0xBF80_0000
F32_INF = 0x7F80_0000
F32_NEG_INF = 0xFF80_0000
F32_NAN = 0x7FC0_0000           # the only NaN that a unit produces
F32_MIN_NORMAL = 0x0080_0000    # 2**-126: the smallest magnitude that is not zero
F32_MAX = 0x7F7F_FFFF           # (2 - 2**-23) * 2**127


def bits_of(value):
    """Bit pattern (int, 0 <= bits < 2**32) of the binary32 nearest to a Python float."""
    try:
        return struct.unpack("<I", struct.pack("<f", value))[0]
    except OverflowError:
        return F32_INF if value > 0 else F32_NEG_INF


def float_of(bits):
    """Python float with the value of a binary32 bit pattern; the inverse of ``bits_of``."""
    if not 0 <= bits < 1 << 32:
        raise ValueError(f"A binary32 bit pattern must be in 0..2**32-1, not {bits!r}")
    return struct.unpack("<f", struct.pack("<I", bits))[0]


# Of the KV cache: whether an element takes four bits, bit 0 of keys, bit 1 of values; a byte otherwise.
KV_FORMATS = {"int8": 0b00, "int4": 0b11, "k8v4": 0b10}

TRIT_BITS = 2           # a trit on wires: w + 1, code 3 never occurs
TRITS_PER_BYTE = 5      # 3**5 = 243 <= 256
TRIT_BYTES = 3 ** TRITS_PER_BYTE    # bytes TRIT_BYTES..255 are not legal


def pack_trit_byte(weights):
    """Byte of five weights in -1..+1, first weight in the least significant place."""
    weights = list(weights)
    if len(weights) != TRITS_PER_BYTE:
        raise ValueError(f"A trit byte must hold {TRITS_PER_BYTE} weights, not {len(weights)}")
    byte = 0
    for weight in reversed(weights):
        if weight not in (-1, 0, 1):
            raise ValueError(f"A ternary weight must be -1, 0 or +1, not {weight!r}")
        byte = byte * 3 + int(weight) + 1
    return byte


def unpack_trit_byte(byte):
    """Five weights in -1..+1 of one trit byte; the inverse of ``pack_trit_byte``."""
    if not 0 <= byte < TRIT_BYTES:
        raise ValueError(f"A trit byte must be in 0..{TRIT_BYTES - 1}, not {byte!r}")
    return [byte // 3 ** place % 3 - 1 for place in range(TRITS_PER_BYTE)]
