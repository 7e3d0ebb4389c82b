"""Fused attention of one KV head, and the records of its cache: what the attention unit computes, in integers.

Positions are shared out over ``n_slices`` slices, position j to slice j mod n_slices, in ascending order. A query of the
token at position i sees positions j <= i, or with ``bidirectional`` all of its segment too; with a window W > 0 only those with
j > i - W or j < sinks. What a query does not see adds nothing to it. Where queries are given a second time (``rebased``: as they
are when positions count within what is kept), a query that sees j only as a sink, j < sinks and j <= i - W, meets it with its
second vector and factor. For one query (int8 vector q, binary32 factor qf) and one position (int8 vectors k, v, binary32 scales
ks, vs):

    s = sum_d q[d] k[d]                                 exact
    z = to_fixed((f32(s) * qf) * ks)                    binary32 products; then 16 fraction bits, half to even,
                                                        saturated to +-2**30
    or with a cap > 0:
    z = soft_cap(to_fixed((f32(s) * qf) * ks), cap)     the same with 22 fraction bits; then cap * tanh of it, 16 fraction bits
    (mant, e) = exp2_fix(z)                             weight = mant * 2**(e - 15), mant in [2**15, 2**16)
    w = (mant * mv) >> 23                               mv: 24-bit significand of vs; ev: its exponent
    ew = e + ev, or where w >= 2**16: w >>= 1, ew = e + ev + 1

Two running sums a slice and query, each scaled by its own running exponent (the largest so far), in units of 2**-G of the last
bit of a term, with G = 4 guard bits:

    l (unsigned) of mant, exponent El from e            all positions seen
    o[d] (signed) of w * v[d], exponent Eo from ew      positions seen whose vs is not zero

    add (x, e) to (sum, E):  e > E or nothing added yet:  sum = (sum >> (e - E)) + (x << G), E = e
                             else                         sum = sum + round((x << G) >> (E - e))     (w alone, then times v)

and then over the slices, with Em and Lm the largest exponents (Em = 0 where no slice has one):

    O[d] = sum_p o_p[d] >> (Em - Eo_p)      L = sum_p l_p >> (Lm - El_p)
    acc[d] = saturate_int32(O[d] >> 8 + G)      scale = recip(f32(L >> 1)) * 2**(Em - Lm + 7 + G)      value = f32(acc) * scale

A term that is shifted is rounded half up, a sum down; a shift of 48 or more gives 0. Scales are not negative (the sign is
ignored); subnormals are zero.

Against exact softmax attention of the same int8 vectors and scales, with |z| up to 2**10 and V = 127 max_j |vs_j|, the error
measured on random rows of up to 1,500 positions is below V * 2**-13.5 (the tests allow 2**-13). Its sources: 15 bits of mantissa,
16 fraction bits of z and 24 bits of its binary32 products, and up to half a unit, 2**-20 of the largest weight, a position.
"""

import torch

from celosia.gen.golden import f32, func
from celosia.hw.links import record_beats, row_beats, scale_beats

__all__ = ["attend", "visible", "pack_record", "unpack_record", "record_bytes"]

FIXED_LIMIT = 1 << 30
GUARD_BITS = 4
NO_EXPONENT = -(1 << 40)
LONGEST_SHIFT = 48


def _shift_down(x, amount):
    """x >> amount, 0 where amount is LONGEST_SHIFT or more."""
    return torch.where(amount >= LONGEST_SHIFT, torch.zeros_like(x), x >> amount.clamp(0, LONGEST_SHIFT - 1))


def _weights(q, qf, k, ks, cap):
    """Mantissas and exponents of 2**z, both int64 (T, G, J)."""
    s = (q.to(torch.float64) @ k.to(torch.float64).T).to(torch.int64)   # exact: |s| < 2**53
    z = f32.mul(f32.mul(f32.from_int(s), qf[..., None]), ks)
    fixed = f32.to_int(f32.mul(z, torch.tensor(2.0 ** (22 if cap else 16))), -FIXED_LIMIT, FIXED_LIMIT)
    return func.exp2_fix(func.soft_cap(fixed, cap) if cap else fixed)


def _times_scale(mant, e, vs):
    """(w, ew, not zero): the weight times the value's scale."""
    bits = f32.to_bits(vs)
    exponent, significand = bits >> 23 & 0xFF, bits & 0x7F_FFFF | 0x80_0000
    w = mant * significand >> 23
    carry = w >> 16
    return w >> carry, e + (exponent - 127) + carry, (exponent != 0).expand_as(w)


def _by_slice(x, n_slices, fill):
    """(T, G, J) to (n, P, T, G): position j = n P + p; positions past the end hold ``fill``."""
    t, g, n_positions = x.shape
    n = -(-n_positions // n_slices)
    padded = torch.full((t, g, n * n_slices), fill, dtype=torch.int64)
    padded[..., :n_positions] = x
    return padded.view(t, g, n, n_slices).permute(2, 3, 0, 1)


def _running(x, e, seen, n_slices):
    """Terms as they are added, (n, P, T, G), the shift of the sum before each, and the last exponent (P, T, G)."""
    halves = _by_slice(torch.where(seen, x, torch.zeros_like(x)), n_slices, 0) << GUARD_BITS + 1
    e = _by_slice(torch.where(seen, e, torch.full_like(e, NO_EXPONENT)), n_slices, NO_EXPONENT)
    largest = e.cummax(0).values
    before = torch.cat([torch.full_like(largest[:1], NO_EXPONENT), largest[:-1]])
    grow = torch.where(before == NO_EXPONENT, torch.zeros_like(before), largest - before)
    return _shift_down(halves, largest - e) + 1 >> 1, grow, largest[-1]


def _accumulate(terms, grow, v):
    """The sums of one side: terms and grow (n, P, T, G), v (n, P, D); gives (P, T, G, D)."""
    n, p, t, g = terms.shape
    total = torch.zeros(p, t, g, v.shape[-1], dtype=torch.int64)
    rescales = [0, *grow.flatten(1).any(1).nonzero().flatten().tolist(), n]
    terms, v = terms.to(torch.float64), v.to(torch.float64)
    for first, last in zip(rescales[:-1], rescales[1:]):    # between two rescales order does not matter: one product
        if first == last:
            continue
        total = _shift_down(total, grow[first, ..., None])
        part = torch.einsum("nptg,npd->ptgd", terms[first:last], v[first:last])     # exact: below 2**53
        total += part.to(torch.int64)
    return total


def _merge(sums, exponents):
    """Sum over the slices at the largest exponent: sums (P, T, G, D), exponents (P, T, G)."""
    largest = exponents.amax(0)
    return _shift_down(sums, (largest - exponents)[..., None]).sum(0), \
        torch.where(largest == NO_EXPONENT, torch.zeros_like(largest), largest)


def visible(first_position, n_tokens, *, window=0, sinks=0, bidirectional=False):
    """Which positions 0 .. first_position + n_tokens - 1 each token of a segment sees: bool (T, J)."""
    own = first_position + torch.arange(n_tokens)[:, None]
    j = torch.arange(first_position + n_tokens)
    seen = (j <= own) | bool(bidirectional)
    return seen & ((j < sinks) | (j > own - window)) if window else seen


def _only_sinks(first_position, n_tokens, window, sinks):
    """Which positions a token of a segment sees only because they are sinks: bool (T, J)."""
    own = first_position + torch.arange(n_tokens)[:, None]
    j = torch.arange(first_position + n_tokens)
    return (j < sinks) & (j <= own - window)


def attend(q, qf, k, ks, v, vs, first_position, n_slices, *, window=0, sinks=0, bidirectional=False, rebased=None, cap=0):
    """Attention of the query heads of one KV head, for one segment.

    Parameters
    ----------
    q : int8 (T, G, D), the queries of T tokens and G heads; qf : float32 (T, G), their factors
    k, v : int8 (J, D); ks, vs : float32 (J,); J = first_position + T: the cached positions, then those of the T tokens
    first_position : int, position of token 0
    n_slices : int, slices (ports) the positions are shared out over
    window, sinks, bidirectional : what a token sees, as above
    cap : int, soft-cap of the logarithms of the weights in units of 2**-16, as above; 0: none
    rebased : (q, qf) once more for sinks before the window, or None: the same

    Returns (acc, scale): int32 (T, G, D) and float32 (T, G); the output is acc * scale[..., None] in binary32.
    """
    n_tokens, group, head_dim = q.shape
    n_positions = first_position + n_tokens
    assert q.dtype == k.dtype == v.dtype == torch.int8, f"vectors must be int8, not {q.dtype}, {k.dtype}, {v.dtype}"
    assert k.shape == v.shape == (n_positions, head_dim), \
        f"k and v must be {(n_positions, head_dim)}, not {tuple(k.shape)} and {tuple(v.shape)}"
    assert ks.shape == vs.shape == (n_positions,) and qf.shape == (n_tokens, group)
    mant, e = _weights(q, qf, k, ks, cap)
    if rebased is not None and window:
        only_sinks = _only_sinks(first_position, n_tokens, window, sinks)[:, None]
        mant, e = (torch.where(only_sinks, other, usual) for usual, other in zip((mant, e), _weights(*rebased, k, ks, cap)))
    w, ew, not_zero = _times_scale(mant, e, vs)
    seen = visible(first_position, n_tokens, window=window, sinks=sinks, bidirectional=bidirectional)
    seen = seen[:, None].expand_as(mant)

    n = -(-n_positions // n_slices)
    values = torch.zeros(n * n_slices, head_dim, dtype=torch.int64)
    values[:n_positions] = v
    terms, grow, exponent_o = _running(w, ew, seen & not_zero, n_slices)
    o = _accumulate(terms, grow, values.view(n, n_slices, head_dim))
    terms, grow, exponent_l = _running(mant, e, seen, n_slices)
    l = _accumulate(terms, grow, torch.ones(n, n_slices, 1))

    total_o, top_o = _merge(o, exponent_o)
    total_l, top_l = _merge(l, exponent_l)
    acc = (total_o >> 8 + GUARD_BITS).clamp(-1 << 31, (1 << 31) - 1).to(torch.int32)
    return acc, _times_power(func.recip(f32.from_int(total_l[..., 0] >> 1)), top_o - top_l + 7 + GUARD_BITS)


def _times_power(x, exponent):
    """x * 2**exponent for positive normal x: infinity from 2**128 on, zero below 2**-126."""
    bits = f32.to_bits(x)
    biased = (bits >> 23) + exponent
    bits = (biased.clamp(0, 255) << 23) + (bits & 0x7F_FFFF)
    bits = torch.where(biased >= 255, torch.full_like(bits, 0x7F80_0000), bits)
    return f32.from_bits(torch.where(biased <= 0, torch.zeros_like(bits), bits))


def record_bytes(head_dim, port_bytes, int4=0):
    """Bytes of one record of the cache; ``int4`` as in :func:`pack_record`."""
    return record_beats(-(-head_dim // port_bytes), port_bytes, int4) * port_bytes


def pack_record(k, ks, v, vs, port_bytes, int4=0):
    """The record of one position: K, scales (ks then vs, binary32, little endian), V; each padded to whole beats.

    k, v : int8 (D,); ks, vs : float32 scalars. Returns bytes. An element takes a byte, or, in four bits, half a byte, the first of
    two in the low bits, and must be within -8 .. 7. ``int4``: bit 0 says so of k, bit 1 of v.
    """
    def row(x, four_bits):
        if four_bits:
            if x.min() < -8 or x.max() > 7:
                raise ValueError(f"Elements in four bits must be within -8 .. 7, not {int(x.min())} .. {int(x.max())}")
            nibbles = [*(x & 15).tolist(), 0]
            x = [low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2])]
        else:
            x = x.to(torch.uint8).tolist()
        return bytes(x).ljust(row_beats(-(-len(k) // port_bytes), four_bits) * port_bytes, b"\0")

    scales = f32.to_bits(torch.stack([torch.as_tensor(ks), torch.as_tensor(vs)]).to(torch.float32)).tolist()
    packed = b"".join(bits.to_bytes(4, "little") for bits in scales)
    return row(k, int4 & 1) + packed.ljust(scale_beats(port_bytes) * port_bytes, b"\0") + row(v, int4 >> 1)


def unpack_record(raw, head_dim, port_bytes, int4=0):
    """(k, ks, v, vs) of one record; the inverse of :func:`pack_record`."""
    n_bytes = record_bytes(head_dim, port_bytes, int4)
    if len(raw) != n_bytes:
        raise ValueError(f"A record must be {n_bytes} bytes, not {len(raw)}")
    key_bytes, value_bytes = (row_beats(-(-head_dim // port_bytes), four) * port_bytes for four in (int4 & 1, int4 >> 1))
    scales = raw[key_bytes:key_bytes + 8]
    ks, vs = f32.from_bits([int.from_bytes(scales[i:i + 4], "little") for i in (0, 4)])

    def row(part, four_bits):
        if four_bits:
            part = [nibble - 16 if nibble > 7 else nibble for byte in part for nibble in (byte & 15, byte >> 4)]
            return torch.tensor(part[:head_dim], dtype=torch.int8)
        return torch.tensor(list(part[:head_dim]), dtype=torch.uint8).to(torch.int8)

    return row(raw[:key_bytes], int4 & 1), ks, row(raw[-value_bytes:], int4 >> 1), vs
