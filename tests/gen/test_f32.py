"""Binary32 golden functions against numpy, whose binary32 is the processor's own, and the stated error bounds."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from celosia.gen.golden import f32, func
from celosia.hw import formats
from celosia.hw.tables import func_table

EDGES = [bits | sign << 31 for sign in (0, 1) for bits in (
    0, 1, 0x7F_FFFF, 0x80_0000, 0x80_0001, 0xFF_FFFF, 0x100_0000, 0x3F7F_FFFF, 0x3F80_0000, 0x3F80_0001,
    0x3380_0000, 0x3300_0000, 0x3300_0001, 0x32FF_FFFF, 0x4B7F_FFFF, 0x4B80_0000, 0x7E80_0000, 0x7F00_0000,
    0x7F7F_FFFF, 0x7F80_0000, 0x7F80_0001, 0x7FC0_0000, 0x7FFF_FFFF)]
TABLE_DIGEST = 0x1e81_4879_f839_e8e1     # of every coefficient in turn
OPERATIONS = [(f32.mul, np.multiply), (f32.add, np.add), (f32.sub, np.subtract)]


def random_bits(n, seed):
    return torch.randint(0, 1 << 32, (n,), generator=torch.Generator().manual_seed(seed))


def flushed(x):
    """numpy float32 array, subnormals made signed zeros."""
    return np.where(np.abs(x) < np.float32(2.0 ** -126), np.copysign(np.float32(0), x), x)


def assert_like_numpy(golden, reference, a, b):
    """Equal bit for bit wherever no subnormal is produced; those must be zero or rounded up to 2**-126."""
    ours = f32.to_bits(golden(f32.from_bits(a), f32.from_bits(b))).numpy()
    with np.errstate(all="ignore"):
        x, y = (flushed(f32.from_bits(bits).numpy()) for bits in (a, b))
        theirs = reference(x, y)
        wide = reference(x.astype(np.float64), y.astype(np.float64))
    tiny = (theirs != 0) & (np.abs(theirs) < 2.0 ** -126)
    tiny |= (np.abs(wide) < 2.0 ** -126 * (1 - 2.0 ** -25))
    theirs = np.where(tiny, np.copysign(np.float32(0), theirs), theirs)
    bits = np.where(np.isnan(theirs), formats.F32_NAN, theirs.view(np.uint32))
    wrong = np.nonzero(ours != bits)[0]
    assert not len(wrong), f"{hex(a[wrong[0]])}, {hex(b[wrong[0]])}: {hex(ours[wrong[0]])}, not {hex(bits[wrong[0]])}"


@pytest.mark.parametrize("golden, reference", OPERATIONS)
def test_matches_numpy_on_all_pairs_of_edges(golden, reference):
    a, b = (torch.tensor(column) for column in zip(*itertools.product(EDGES, EDGES)))
    assert_like_numpy(golden, reference, a, b)


@pytest.mark.parametrize("golden, reference", OPERATIONS)
def test_matches_numpy_on_random_numbers(golden, reference):
    a, b = random_bits(400_000, 1), random_bits(400_000, 2)
    near = (a ^ 1 << 31) + random_bits(400_000, 3) % (1 << 26) - (1 << 25) & 0xFFFF_FFFF
    assert_like_numpy(golden, reference, a, b)
    assert_like_numpy(golden, reference, a, near)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 0xFFFF_FFFF), st.integers(0, 0xFFFF_FFFF), st.sampled_from(OPERATIONS))
def test_matches_numpy_on_hypotheses(a, b, operation):
    assert_like_numpy(*operation, torch.tensor([a]), torch.tensor([b]))


def nearest_even(value):
    """Bits of an exact Fraction rounded to 24 bits with unbounded exponent, then flushed: no floating point."""
    if value == 0:
        return 0
    sign, value, exponent = (value < 0) << 31, abs(value), 0
    while value >= 2:
        value, exponent = value / 2, exponent + 1
    while value < 1:
        value, exponent = value * 2, exponent - 1
    significand = round(value * (1 << 23))          # Python rounds to even
    if significand == 1 << 24:
        significand, exponent = 1 << 23, exponent + 1
    if exponent < -126:
        return sign
    return sign | (formats.F32_INF if exponent > 127 else exponent + 127 << 23 | significand & 0x7F_FFFF)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 254), st.integers(1, 254), st.integers(0, (1 << 24) - 1), st.integers(0, (1 << 24) - 1))
def test_products_and_sums_are_exact_fractions_rounded_once(ea, eb, ma, mb):
    a, b = (e << 23 | m & 0x7F_FFFF | m >> 23 << 31 for e, m in ((ea, ma), (eb, mb)))
    x, y = (Fraction(formats.float_of(bits)) for bits in (a, b))
    a, b = f32.from_bits([a]), f32.from_bits([b])
    product, total = (int(f32.to_bits(f(a, b))) for f in (f32.mul, f32.add))
    assert product == nearest_even(x * y)
    assert total == nearest_even(x + y)


def test_product_just_below_the_smallest_number():
    """Tiny is decided after rounding with unbounded exponent: (1 - 2**-25) 2**-126 and more is not tiny."""
    for k, bits in ((1, 0x0080_0000), (1448, 0x0080_0000), (1449, 0), (1 << 20, 0)):
        a = f32.from_bits([0x2000_0000 | k])                        # (1 + k 2**-23) 2**-63
        b = f32.from_bits([0x1F80_0000 | 0x80_0000 - 2 * k])        # (1 - k 2**-23) 2**-63
        assert f32.to_bits(f32.mul(a, b)).tolist() == [bits]
        assert f32.to_bits(f32.mul(-a, b)).tolist() == [bits | 1 << 31]
        assert nearest_even(Fraction(float(a)) * Fraction(float(b))) == bits


def test_flags_of_torch_do_not_matter():
    a, b = f32.from_bits(random_bits(50_000, 4)), f32.from_bits(random_bits(50_000, 5))
    before = [f32.to_bits(f(a, b)) for f in (f32.mul, f32.add, f32.maximum)]
    torch.set_flush_denormal(True)
    try:
        after = [f32.to_bits(f(a, b)) for f in (f32.mul, f32.add, f32.maximum)]
    finally:
        torch.set_flush_denormal(False)
    assert all(torch.equal(x, y) for x, y in zip(before, after))


def test_maximum():
    a, b = (f32.from_bits(column) for column in zip(*itertools.product(EDGES, EDGES)))
    ours = f32.maximum(a, b)
    with np.errstate(all="ignore"):
        theirs = np.maximum(flushed(a.numpy()), flushed(b.numpy()))
    assert np.array_equal(ours.numpy(), theirs, equal_nan=True)
    zeros = f32.maximum(f32.from_bits([formats.F32_ZERO, formats.F32_NEG_ZERO]), torch.tensor([-0.0, 0.0]))
    assert f32.to_bits(zeros).tolist() == [0, 0]
    assert set(f32.to_bits(ours[ours.isnan()]).tolist()) == {formats.F32_NAN}


def test_negation_and_flush():
    x = f32.from_bits([1, 0x8000_0001, 0x3F80_0000, 0x7F80_0001, formats.F32_INF])
    assert f32.to_bits(f32.flush(x)).tolist() == [0, 0x8000_0000, 0x3F80_0000, formats.F32_NAN, formats.F32_INF]
    assert f32.to_bits(f32.neg(x)).tolist() == [0x8000_0000, 0, 0xBF80_0000, formats.F32_NAN, formats.F32_NEG_INF]


def test_integers_to_numbers():
    x = torch.tensor([0, 1, -1, (1 << 24) + 1, (1 << 24) + 3, -(1 << 24) - 1, (1 << 31) - 1, -(1 << 31)])
    assert torch.equal(f32.from_int32(x), torch.from_numpy(x.numpy().astype(np.float32)))
    assert float(f32.from_int32(x)[3]) == 2.0 ** 24 and float(f32.from_int32(x)[4]) == 2.0 ** 24 + 4
    x = torch.randint(-(1 << 47), 1 << 47, (10_000,), generator=torch.Generator().manual_seed(6))
    assert [int(v) for v in f32.to_bits(f32.from_int(x))] == [nearest_even(Fraction(int(v))) for v in x]
    with pytest.raises(AssertionError, match="32-bit"):
        f32.from_int32(torch.tensor([1 << 31]))


def test_numbers_to_integers():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.4, 127.5, 1e30, -128.5, -129.0, -1e30, math.nan, math.inf])
    assert f32.to_int8(x).tolist() == [0, 2, 2, 0, -2, 126, 127, 127, 127, -128, -128, -128, 0, 127]
    x = torch.rand(10_000, generator=torch.Generator().manual_seed(7)) * 300 - 150
    assert f32.to_int(x, -128, 127).tolist() == [max(-128, min(127, round(v))) for v in x.tolist()]


@pytest.mark.parametrize("n", [0, 1, 127, 128, 129, 300, 1000])
def test_sum_slots_is_the_written_order(n):
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(8)) * 1000
    for row, total in zip(x, f32.sum_slots(x)):
        slots = [np.float32(0)] * f32.SUM_SLOTS
        for e, value in enumerate(row.numpy()):
            slots[e % f32.SUM_SLOTS] = slots[e % f32.SUM_SLOTS] + value
        half = f32.SUM_SLOTS // 2
        while half:
            slots = [slots[s] + slots[s + half] for s in range(half)]
            half //= 2
        assert float(slots[0]) == float(total)
    if n > 1:
        assert torch.equal(f32.sum_slots(x, n - 1), f32.sum_slots(x[:, :n - 1]))


def worst(x, golden, exact, relative):
    """Largest error of golden(x) against binary64."""
    y, truth = golden(x).double(), exact(x.double())
    error = (y - truth).abs()
    return float((error / truth if relative else error).max())


def uniform(low, high, n=1_000_000, seed=9):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) * (high - low) + low


def mantissas():
    """Every mantissa, at two neighbouring exponents, with a step that is coprime to the segments."""
    steps = torch.arange(0, 1 << 24, 7)
    return f32.from_bits((steps >> 23) + 127 << 23 | steps & 0x7F_FFFF)


def test_exp2_error():
    for x in (uniform(-126, 127.999), uniform(-1, 1), uniform(-1e-5, 1e-5), torch.arange(0, 1 << 24, 7) / 2 ** 24):
        assert worst(x, func.exp2, torch.exp2, relative=True) <= 2.0 ** -22
    whole = torch.arange(-126, 128).float()
    assert torch.equal(func.exp2(whole).double(), torch.exp2(whole.double()))


def test_recip_and_rsqrt_error():
    anything = f32.from_bits(random_bits(1_000_000, 10) & 0x7FFF_FFFF)
    anything = anything[(anything >= 2.0 ** -126) & (anything <= 2.0 ** 126)]
    for x in (mantissas(), anything):
        assert worst(x, func.recip, lambda x: 1 / x, relative=True) <= 2.0 ** -22
        assert worst(x, func.rsqrt, lambda x: 1 / x.sqrt(), relative=True) <= 2.0 ** -22
        assert torch.equal(func.recip(-x), -func.recip(x))
    powers = torch.exp2(torch.arange(-126, 126, 2).double()).float()
    assert torch.equal(func.recip(powers).double(), 1 / powers.double())
    assert torch.equal(func.rsqrt(powers).double(), 1 / powers.double().sqrt())


def test_sigmoid_error():
    for x in (uniform(-20, 20), uniform(-1, 1), uniform(-100, 100), uniform(-1e-6, 1e-6)):
        assert worst(x, func.sigmoid, torch.sigmoid, relative=False) <= 2.0 ** -22
    y = func.sigmoid(torch.linspace(-18, 18, 1_000_001))
    assert float(y.min()) == 0 and float(y.max()) == 1 and float(y.diff().min()) >= -2.0 ** -24


@pytest.mark.parametrize("function, cases", [
    (func.exp2, {0: 0x3F80_0000, 1: 0x3F80_0000, 0x4300_0000: 0x7F80_0000, 0x7F80_0000: 0x7F80_0000, 0xFF80_0000: 0,
                 0xC2FC_0000: 0x0080_0000, 0xC2FC_0001: 0, 0xC300_0000: 0, 0x42FF_FFFF: 0x7F7F_FFA7}),
    (func.recip, {0: 0x7F80_0000, 0x8000_0000: 0xFF80_0000, 1: 0x7F80_0000, 0x7F80_0000: 0, 0xFF80_0000: 0x8000_0000,
                  0x7E80_0000: 0x0080_0000, 0x7F00_0000: 0, 0x0080_0000: 0x7E80_0000}),
    (func.rsqrt, {0: 0x7F80_0000, 0x8000_0000: 0xFF80_0000, 0x7F80_0000: 0, 0xBF80_0000: 0x7FC0_0000,
                  0xFF80_0000: 0x7FC0_0000, 0x4080_0000: 0x3F00_0000}),
    (func.sigmoid, {0: 0x3F00_0000, 0x8000_0001: 0x3F00_0000, 0x4180_0000: 0x3F80_0000, 0xC180_0000: 0,
                    0x7F80_0000: 0x3F80_0000, 0xFF80_0000: 0}),
])
def test_special_cases(function, cases):
    cases = {**cases, **dict.fromkeys((0x7FC0_0000, 0x7F80_0001, 0xFFFF_FFFF), formats.F32_NAN)}
    assert f32.to_bits(function(f32.from_bits(list(cases)))).tolist() == list(cases.values())


def test_exp2_fix():
    z = torch.arange(-3 << 16, 2 << 16)
    mantissa, exponent = func.exp2_fix(z)
    assert torch.equal(exponent, torch.div(z, 1 << 16, rounding_mode="floor"))
    assert int(mantissa.min()) == 1 << 15 and int(mantissa.max()) == (1 << 16) - 1
    assert float((mantissa - torch.exp2(z.double() / (1 << 16) - exponent + 15)).abs().max()) < 1
    assert torch.equal(mantissa[z & 0xFFFF == 0], torch.full((5,), 1 << 15))


@pytest.mark.parametrize("cap", [0, 1, 1 << 16, 3_000_001, 4_727_111, (1 << 30) - 1])
def test_soft_cap(cap):
    """Every 13th argument up to 9 on either side, the ends of the pieces, and far beyond."""
    ends = torch.tensor([x << 22 for x in (-256, -8, -4, -2, 0, 2, 4, 8, 256)])
    u = torch.cat((torch.arange(-9 << 22, 9 << 22, 13), *(ends + near for near in range(-3, 4)))).clamp(-1 << 30, 1 << 30)
    capped = func.soft_cap(u, cap)
    assert (capped - cap * torch.tanh(u.double() / (1 << 22))).abs().max() <= 0.5 + cap * 2.0 ** -20
    assert torch.equal(func.soft_cap(~u, cap), -capped) and capped.abs().max() <= cap


def test_table_is_the_same_on_every_machine():
    digest = 0
    for word in func_table():
        for coefficient in word:
            digest = (digest * 1_000_003 + coefficient) % (1 << 61)
    assert digest == TABLE_DIGEST


def test_words_of_numbers_and_trits():
    for bits in (0, 0x8000_0000, formats.F32_ONE, formats.F32_MAX, formats.F32_MIN_NORMAL, formats.F32_NEG_INF):
        assert formats.bits_of(formats.float_of(bits)) == bits
    assert formats.bits_of(1e39) == formats.F32_INF and formats.bits_of(-1e39) == formats.F32_NEG_INF
    assert formats.F32.from_bits(formats.bits_of(-1.5)).as_value().value == 0xBFC0_0000
    for byte in range(formats.TRIT_BYTES):
        assert formats.pack_trit_byte(formats.unpack_trit_byte(byte)) == byte
    assert formats.pack_trit_byte([1, -1, -1, -1, -1]) == 2
    for call, sentence in (
            (lambda: formats.pack_trit_byte([0] * 4), "A trit byte must hold 5 weights, not 4"),
            (lambda: formats.pack_trit_byte([2] * 5), r"A ternary weight must be -1, 0 or \+1, not 2"),
            (lambda: formats.unpack_trit_byte(243), "A trit byte must be in 0..242, not 243"),
            (lambda: formats.float_of(-1), r"A binary32 bit pattern must be in 0..2\*\*32-1, not -1")):
        with pytest.raises(ValueError, match=f"^{sentence}$"):
            call()
