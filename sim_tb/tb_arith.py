"""Arithmetic units against their golden functions: every class of bit patterns, random clock enables.

Parameters: ``unit`` (a key of UNITS), ``latency``, ``width`` (converters and Exp2Fix), ``n`` vectors.
"""

import cocotb
import torch
from cocotb.triggers import RisingEdge

from celosia.gen.golden import f32, func
from celosia.hw.formats import bits_of
from celosia.hw.tables import FuncOp
from celosia.sim_tb.link import parameters, reset, rng, start_clock

_EDGES = [bits | sign << 31 for sign in (0, 1) for bits in (
    0x0000_0000, 0x0000_0001, 0x007F_FFFF,                  # zero, subnormals
    0x0080_0000, 0x0080_0001, 0x00FF_FFFF, 0x0100_0000,     # the smallest
    0x3EFF_FFFF, 0x3F00_0000, 0x3F00_0001, 0x3F7F_FFFF, 0x3F80_0000, 0x3F80_0001, 0x3FC0_0000,
    0x4000_0000, 0x4020_0000, 0x417F_FFFF, 0x4180_0000, 0x42FB_FFFF, 0x42FC_0000, 0x42FC_0001,
    0x42FD_FFFF, 0x42FE_0000, 0x42FF_0000, 0x42FF_FFFF, 0x4300_0000, 0x4B00_0000, 0x4B7F_FFFF,
    0x7E80_0000, 0x7E80_0001, 0x7F00_0000, 0x7F00_0001, 0x7F7F_FFFF,
    0x7F80_0000, 0x7F80_0001, 0x7FC0_0000, 0x7FFF_FFFF)]    # infinity, NaN

_BARELY_NORMAL = [(0x2000_0000 | k, 0x1F80_0000 | 0x80_0000 - 2 * k)        # products (1 - k**2 2**-46) 2**-126
                  for k in (1, 2, 1447, 1448, 1449, 1450)]


def _number(random, exponent):
    """Bits of a random number with this biased exponent, kept in 0..255; often few ones in the mantissa."""
    mantissa = random.choice((random.getrandbits(23), random.getrandbits(23) & -1 << random.randrange(24),
                              1 << random.randrange(23), -1 << random.randrange(23) & 0x7F_FFFF))
    return random.getrandbits(1) << 31 | max(0, min(255, exponent)) << 23 | mantissa


def _any(random):
    return random.choice((
        lambda: random.choice(_EDGES), lambda: random.getrandbits(32),
        lambda: _number(random, 127 + random.randrange(-30, 31)),
        lambda: _number(random, random.choice((0, 1, 2, 253, 254, 255)))))()


def product_pair(random):
    """Pairs near ties, and whose product is near the largest and the smallest number."""
    a = _any(random)
    exponent = a >> 23 & 0xFF
    near = random.choice((127 - exponent, 253 - exponent, -exponent)) + 127 + random.randrange(-2, 3)
    return a, random.choice((_any(random), _number(random, near), _number(random, near)))


def sum_pair(random):
    """Pairs with every gap of exponents that matters, and cancelling ones."""
    a = _any(random)
    exponent = a >> 23 & 0xFF
    gap = random.choice((0, 0, 1, 1, 2, 3, random.randrange(32), 23, 24, 25, 26, 27))
    close = (a ^ 1 << 31) + random.choice((0, 1, -1, 2, random.randrange(-1 << 24, 1 << 24))) & 0xFFFF_FFFF
    return a, random.choice((_any(random), close, _number(random, exponent - gap), _number(random, exponent + gap)))


def integer(random, width):
    """Signed integers of every length, close to ties, and the extremes."""
    low = -1 << width - 1
    length = random.randrange(width)
    pattern = random.getrandbits(length) | 1 << length
    if length > 25:
        pattern = pattern & -1 << length - 24 | random.choice((0, 1, (1 << length - 24) - 1, 1 << length - 25))
    value = random.choice((pattern, -pattern, random.choice((0, -1, 1, low, ~low, low + 1))))
    return max(low, min(~low, value))


def to_round(random, width):
    """Bits of numbers around the integers of a width: halves, their neighbours, and too large ones."""
    half = float(random.randrange(-3 << width, 3 << width)) / 2 / (1 << random.randrange(width))
    bits = int(f32.to_bits(torch.tensor(half)))
    return random.choice((_any(random), bits, max(0, bits + random.choice((-1, 1)))))


def function_input(random):
    """(op, bits): arguments where the functions live, and everywhere else."""
    return random.choice(list(FuncOp)).value, random.choice((
        lambda: _any(random), lambda: random.getrandbits(32),
        lambda: int(f32.to_bits(torch.tensor(random.uniform(-20, 20)))),
        lambda: int(f32.to_bits(torch.tensor(random.uniform(-130, 130)))),
        lambda: int(f32.to_bits(torch.tensor(float(random.randrange(-130, 130)))))))()


def every_segment(random):
    """(op, bits): both ends of every segment of every function's table, and two places between."""
    for segment in range(128):
        for offset in (0, 0xFFFF, random.getrandbits(16), random.getrandbits(16)):
            mantissa = segment << 16 | offset
            for exponent in (127, 128):
                yield FuncOp.RECIP.value, exponent << 23 | mantissa
                yield FuncOp.RSQRT.value, exponent << 23 | mantissa
            for value in (1 + mantissa / 2 ** 23, -2 + mantissa / 2 ** 23):
                yield FuncOp.EXP2.value, bits_of(value)
    for segment in range(512):
        for offset in (0, 0x1_FFFF, random.getrandbits(17), random.getrandbits(17)):
            value = (segment << 17 | offset) / 2 ** 22
            yield FuncOp.SIGMOID.value, bits_of(random.choice((value, -value)))


def _binary(function):
    def golden(a, b, width):
        return [f32.to_bits(function(f32.from_bits(a), f32.from_bits(b)))]
    return golden


def _func(ops, x, width):
    y = [f32.to_bits(f(f32.from_bits(x))) for f in (func.exp2, func.recip, func.rsqrt, func.sigmoid)]
    return [torch.stack(y).gather(0, ops[None])[0]]


_PAIR, _I, _O = ("a", "b"), ("i",), ("o",)
# unit: input ports, output ports, generator of one vector, golden function of columns to columns
UNITS = {
    "FMul": (_PAIR, _O, lambda r, w: product_pair(r), _binary(f32.mul)),
    "FAdd": (_PAIR, _O, lambda r, w: sum_pair(r), _binary(f32.add)),
    "FMax": (_PAIR, _O, lambda r, w: sum_pair(r), _binary(f32.maximum)),
    "FromInt": (_I, _O, lambda r, w: (integer(r, w),), lambda i, width: [f32.to_bits(f32.from_int(i))]),
    "ToInt": (_I, _O, lambda r, w: (to_round(r, w),),
              lambda i, width: [f32.to_int(f32.from_bits(i), -1 << width - 1, (1 << width - 1) - 1)]),
    "Func": (("op", "i"), _O, lambda r, w: function_input(r), _func),
    "Exp2Fix": (_I, ("mantissa", "exponent"), lambda r, w: (integer(r, w),),
                lambda i, width: func.exp2_fix(i)),
}


@cocotb.test()
async def matches_golden(dut):
    given = parameters()
    inputs, outputs, generate, golden = UNITS[given["unit"]]
    width, latency, n = given.get("width", 0), given["latency"], given["n"]
    random = rng("vectors")
    if inputs == _PAIR:
        vectors = [(a, b) for a in _EDGES for b in _EDGES] + _BARELY_NORMAL
    elif given["unit"] == "Func":
        vectors = [(op.value, x) for op in FuncOp for x in _EDGES] + list(every_segment(random))
    elif given["unit"] == "ToInt":
        vectors = [(x,) for x in _EDGES]
    else:
        vectors = []
    vectors += [generate(random, width) for _ in range(n)]
    columns = [torch.tensor(column, dtype=torch.int64) for column in zip(*vectors)]
    expected = list(zip(*(column.tolist() for column in golden(*columns, width=width))))

    start_clock(dut)
    dut.en.value = 0
    for name in inputs:
        getattr(dut, name).value = 0
    await reset(dut)
    ports = [getattr(dut, name) for name in inputs]
    masks = [(1 << len(port)) - 1 for port in ports]
    results = [getattr(dut, name) for name in outputs]
    signs = [1 << len(port) if name == "exponent" or given["unit"] == "ToInt" else 0
             for name, port in zip(outputs, results)]
    stalls, edge = rng("stalls"), RisingEdge(dut.clk)
    sent = 0                    # edges with en high so far; vector k is on the ports at edge k
    while sent < len(vectors) + latency:
        enable = stalls.random() < 0.8
        vector = vectors[sent] if enable and sent < len(vectors) else [stalls.getrandbits(32)] * len(ports)
        for port, mask, value in zip(ports, masks, vector):
            port.value = value & mask
        dut.en.value = enable
        await edge              # reads below see the registers before this edge
        if sent >= latency:
            got = tuple(int(port.value) for port in results)
            got = tuple(v - sign if sign and v >= sign >> 1 else v for v, sign in zip(got, signs))
            index = sent - latency
            assert got == expected[index], (
                f"{given['unit']} vector {index}, inputs {[hex(v) for v in vectors[index]]}: "
                f"expected {[hex(v) for v in expected[index]]}, got {[hex(v) for v in got]}")
        sent += enable
