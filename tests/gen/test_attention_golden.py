"""The golden attention: against its own specification word by word, against exact softmax, and its records."""

import math

import pytest
import torch

from celosia.gen.golden import f32, func
from celosia.gen.golden.attention import attend, pack_record, record_bytes, unpack_record


def case(seed, *, n_tokens, group, head_dim, first_position, factor=0.01, spread=1.0, zeros=0.0):
    """Random arguments of `attend`, without n_slices."""
    g = torch.Generator().manual_seed(seed)

    def vectors(*shape):
        return torch.randint(-128, 128, shape, generator=g).to(torch.int8)

    def scales(*shape, centre):
        x = centre * torch.exp2(spread * torch.randn(shape, generator=g))
        return torch.where(torch.rand(shape, generator=g) < zeros, 0.0, x).to(torch.float32)

    n_positions = first_position + n_tokens
    return (vectors(n_tokens, group, head_dim), scales(n_tokens, group, centre=factor),
            vectors(n_positions, head_dim), scales(n_positions, centre=factor),
            vectors(n_positions, head_dim), scales(n_positions, centre=0.01), first_position)


def add(state, x, e):
    """The running sum of the specification, on Python integers: state is [sums, exponent or None]."""
    sums, top = state
    if top is None or e > top:
        shift = 0 if top is None else e - top
        return [[0 if shift >= 48 else s >> shift for s in sums], e], 16 * x
    return state, 0 if top - e >= 48 else math.floor(16 * x / 2 ** (top - e) + 0.5)


def total(parts, top):
    """Sums of the slices' [sums, exponent or None] at exponent ``top``."""
    return [sum(0 if top - e >= 48 else sums[d] >> (top - e) for sums, e in parts if e is not None)
            for d in range(len(parts[0][0]))]


def literal(q, qf, k, ks, v, vs, first_position, n_slices, *, window=0, sinks=0, bidirectional=False, rebased=None, cap=0):
    """The specification in plain loops."""
    n_tokens, group, head_dim = q.shape
    acc, scale = torch.zeros(q.shape, dtype=torch.int32), torch.zeros(n_tokens, group)
    for t in range(n_tokens):
        for h in range(group):
            slices = [([[0] * head_dim, None], [[0], None]) for _ in range(n_slices)]
            i = first_position + t
            for j in range(k.shape[0] if bidirectional else i + 1):
                if window and j <= i - window and j >= sinks:
                    continue
                query, factor = rebased if rebased and window and j < sinks and j <= i - window else (q, qf)
                s = int((query[t, h].to(torch.int64) * k[j].to(torch.int64)).sum())
                z = float(f32.mul(f32.mul(f32.from_int(torch.tensor(s)), factor[t, h]), ks[j]))
                unit = 2 ** (22 if cap else 16)
                fixed = max(-2 ** 30, min(2 ** 30, round(z * unit))) if math.isfinite(z) else \
                    (0 if math.isnan(z) else int(math.copysign(2 ** 30, z)))
                if cap:
                    fixed = int(func.soft_cap(torch.tensor(fixed), cap))
                mant, e = (int(x) for x in func.exp2_fix(torch.tensor(fixed)))
                o, l = slices[j % n_slices]
                l, x = add(l, mant, e)
                l[0][0] += x
                bits = int(f32.to_bits(vs[j]))
                if bits >> 23 & 0xFF:
                    w, ew = mant * (bits & 0x7FFFFF | 0x800000) >> 23, e + (bits >> 23 & 0xFF) - 127
                    if w >> 16:
                        w, ew = w >> 1, ew + 1
                    o, x = add(o, w, ew)
                    o[0] = [a + x * int(b) for a, b in zip(o[0], v[j])]
                slices[j % n_slices] = (o, l)
            top = [max((s[i][1] for s in slices if s[i][1] is not None), default=0) for i in (0, 1)]

            totals = [total([s[i] for s in slices], top[i]) for i in (0, 1)]
            acc[t, h] = torch.tensor([x >> 12 for x in totals[0]])
            power = math.ldexp(1.0, max(-400, min(400, top[0] - top[1] + 11)))
            exact = float(func.recip(f32.from_int(torch.tensor(totals[1][0] >> 1)))) * power
            scale[t, h] = torch.tensor(0.0 if exact < 2.0 ** -126 else exact, dtype=torch.float64).to(torch.float32)
    return acc, scale


def exact_attention(q, qf, k, ks, v, vs, first_position, cap=0):
    """Softmax attention in binary64 of the same numbers (base 2)."""
    z = (q.double() @ k.double().T) * qf.double()[..., None] * ks.double()
    if cap:
        z = cap / 65536 * torch.tanh(z)
    seen = torch.arange(k.shape[0]) <= first_position + torch.arange(q.shape[0])[:, None, None]
    weights = torch.softmax(torch.where(seen, z, -math.inf) * math.log(2), -1)
    return weights @ (v.double() * vs.double()[:, None])


def relative_error(arguments, n_slices, cap=0):
    """Largest error in units of the largest value, 127 max |vs|."""
    acc, scale = attend(*arguments, n_slices, cap=cap)
    got = acc.double() * scale.double()[..., None]
    return float((got - exact_attention(*arguments, cap=cap)).abs().max() / (127 * arguments[5].abs().max()))


@pytest.mark.parametrize("seed", range(12))
def test_is_its_specification(seed):
    arguments = case(seed, n_tokens=1 + seed % 4, group=1 + seed % 3, head_dim=4, first_position=(7 * seed) % 23,
                     factor=(0.005, 0.05, 1.0)[seed % 3], spread=(1.0, 8.0, 30.0)[seed // 4], zeros=0.2 * (seed % 2))
    n_slices = (1, 2, 4)[seed % 3]
    sight = {"window": (0, 1, 3, 8, 40)[seed % 5], "sinks": (0, 1, 4)[seed // 4], "bidirectional": seed % 4 == 3,
             "rebased": case(seed + 99, n_tokens=1 + seed % 4, group=1 + seed % 3, head_dim=4, first_position=0,
                             factor=0.05)[:2] if seed % 3 else None,
             "cap": (0, 1 << 16, 70 << 16)[seed // 2 % 3]}
    acc, scale = attend(*arguments, n_slices, **sight)
    acc_literal, scale_literal = literal(*arguments, n_slices, **sight)
    assert torch.equal(acc, acc_literal)
    assert torch.equal(f32.to_bits(scale), f32.to_bits(scale_literal))


@pytest.mark.parametrize("n_slices", [1, 2, 4])
def test_chunks_do_not_matter(n_slices):
    q, qf, k, ks, v, vs, _ = case(1, n_tokens=24, group=3, head_dim=16, first_position=0)
    acc, scale = attend(q, qf, k, ks, v, vs, 0, n_slices)
    first = 0
    for n in (1, 5, 2, 7, 8, 1):
        last = first + n
        part = attend(q[first:last], qf[first:last], k[:last], ks[:last], v[:last], vs[:last], first, n_slices)
        assert torch.equal(part[0], acc[first:last]) and torch.equal(part[1], scale[first:last])
        first = last
    assert first == 24


@pytest.mark.parametrize("window,sinks,first", [(1, 4, 3), (3, 1, 2), (2, 3, 0), (8, 4, 6), (4, 12, 9)])
def test_rebased_queries_are_their_specification(window, sinks, first):
    arguments = case(window, n_tokens=4, group=2, head_dim=4, first_position=first)
    sight = {"window": window, "sinks": sinks, "rebased": case(9, n_tokens=4, group=2, head_dim=4, first_position=0)[:2]}
    (acc, scale), (acc_literal, scale_literal) = attend(*arguments, 2, **sight), literal(*arguments, 2, **sight)
    assert torch.equal(acc, acc_literal) and torch.equal(scale, scale_literal)


@pytest.mark.parametrize("n_tokens", [1, 9])
def test_rebased_queries_matter_for_sinks_before_the_window_alone(n_tokens):
    q, qf, k, ks, v, vs, first = case(2, n_tokens=n_tokens, group=2, head_dim=16, first_position=40)
    other = case(3, n_tokens=n_tokens, group=2, head_dim=16, first_position=0)[:2]

    def found(rebased, **sight):
        return attend(q, qf, k, ks, v, vs, first, 4, rebased=rebased, **sight)

    for sight in ({}, {"window": 5}, {"window": 50, "sinks": 3}, {"sinks": 4}):
        assert all(torch.equal(a, b) for a, b in zip(found(other, **sight), found(None, **sight)))
    sight = {"window": 5, "sinks": 3}
    assert not torch.equal(found(other, **sight)[0], found(None, **sight)[0])
    assert all(torch.equal(a, b) for a, b in zip(found((q, qf), **sight), found(None, **sight)))


@pytest.mark.parametrize("window,sinks", [(1, 0), (5, 0), (5, 1), (16, 4), (64, 3)])
def test_what_no_token_sees_does_not_matter(window, sinks):
    q, qf, k, ks, v, vs, first = case(window, n_tokens=3, group=2, head_dim=16, first_position=40)
    want = attend(q, qf, k, ks, v, vs, first, 4, window=window, sinks=sinks)
    lowest = max(first - window + 1, sinks)
    k[sinks:lowest], v[sinks:lowest], ks[sinks:lowest], vs[sinks:lowest] = 99, -99, 1e9, 1e9
    got = attend(q, qf, k, ks, v, vs, first, 4, window=window, sinks=sinks)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


@pytest.mark.parametrize("n_slices", [1, 4])
@pytest.mark.parametrize("factor", [0.001, 0.01, 0.03])
@pytest.mark.parametrize("first_position", [0, 60, 1500])
def test_close_to_exact_softmax(first_position, factor, n_slices):
    arguments = case(first_position, n_tokens=4, group=2, head_dim=64, first_position=first_position, factor=factor)
    assert relative_error(arguments, n_slices) <= 2.0 ** -13


@pytest.mark.parametrize("cap", [0.5, 20.0, 50 * math.log2(math.e)])
@pytest.mark.parametrize("factor", [0.001, 0.01, 0.1])
def test_close_to_exact_capped_softmax(factor, cap):
    q, qf, *rest = case(5, n_tokens=4, group=2, head_dim=64, first_position=300, factor=factor)
    assert relative_error((q, qf / cap, *rest), 4, cap=round(cap * 65536)) <= 2.0 ** -13


@pytest.mark.parametrize("n_slices", [1, 4])
def test_one_hot_and_flat(n_slices):
    q, qf, k, ks, v, vs, first = case(3, n_tokens=2, group=2, head_dim=64, first_position=300)
    k[:] = 0
    assert relative_error((q, qf, k, ks, v, vs, first), n_slices) <= 2.0 ** -13      # flat: all weights equal
    k[137] = q[1, 0]
    qf[:], ks[:] = 0.05, 0.05
    acc, scale = attend(q, qf, k, ks, v, vs, first, n_slices)                         # z of the query itself is large
    got = f32.mul(f32.from_int(acc), scale[..., None])[1, 0]
    want = v[137].float() * vs[137]
    assert (got - want).abs().max() <= 127 * vs[137] * 2.0 ** -14


def test_extremes():
    q = torch.full((1, 1, 256), -128, dtype=torch.int8)
    k = torch.full((4096, 256), -128, dtype=torch.int8)
    ones = torch.ones(4096)
    acc, scale = attend(q, torch.full((1, 1), 1e9), k, ones, k, ones, 4095, 4)        # saturated scores, all equal
    assert torch.equal(f32.mul(f32.from_int(acc), scale[..., None]), torch.full((1, 1, 256), -128.0))
    acc, scale = attend(q, torch.ones(1, 1), k, ones, k, torch.zeros(4096), 4095, 4)
    assert not acc.any() and torch.isfinite(scale).all()


@pytest.mark.parametrize("head_dim,port_bytes,int4,n_beats", [
    (64, 16, 0, 9), (96, 8, 0, 25), (6, 4, 0, 6), (20, 16, 0, 5), (128, 16, 2, 13), (20, 16, 1, 4), (7, 8, 2, 3),
    (64, 16, 3, 5), (96, 8, 3, 13), (6, 4, 3, 4), (7, 8, 3, 3), (8, 16, 3, 3), (256, 16, 3, 17)])
def test_records(head_dim, port_bytes, int4, n_beats):
    lowest = [-8 if int4 >> bit & 1 else -128 for bit in (0, 1)]
    k, v = (torch.randint(least, -least, (head_dim,)).to(torch.int8) for least in lowest)
    ks, vs = torch.tensor(0.125), torch.tensor(-3.5)
    raw = pack_record(k, ks, v, vs, port_bytes, int4)
    assert len(raw) == record_bytes(head_dim, port_bytes, int4) == n_beats * port_bytes
    back = unpack_record(raw, head_dim, port_bytes, int4)
    assert all(torch.equal(a, b) for a, b in zip(back, (k, ks, v, vs)))
    row = len(pack_record(k, ks, k, vs, port_bytes, 3 * (int4 & 1))) // 2 - max(port_bytes, 8) // 2
    assert raw[row:row + 8] == bytes.fromhex("0000003e000060c0")
    if int4 & 1:
        assert raw[0] == int(k[0]) & 15 | (int(k[1]) & 15) << 4
    with pytest.raises(ValueError, match="A record must be"):
        unpack_record(raw[:-1], head_dim, port_bytes, int4)


def test_int4_record_refuses_what_does_not_fit():
    k = torch.tensor([0, 8], dtype=torch.int8)
    with pytest.raises(ValueError, match=r"within -8 .. 7, not 0 .. 8"):
        pack_record(k, 1.0, k, 1.0, 4, int4=2)
