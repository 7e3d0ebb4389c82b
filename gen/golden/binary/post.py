"""What becomes of the rows of a binary MATMUL: thresholds, affine maps, attention maps.

A product comes as y, int64 (N, M): row n, an integer for each of the M lanes. Parameter words of P are int64, the 64 bits as a
signed number. All shifts round down.

    SIGN       bit = (y >= level_n) ^ flip_n
    QUANT      min(max((y mult_n + bias_n) >> shift, lo), hi)
    RESIDUAL   x_n = sat18(x_n + ((y mult_n + bias_n) >> shift))
    RAW        y
    MAP        seen & ((y >= level) ^ flip)            the word P[p_base], for all rows
    SUM        sum_i = sum of T[(y + D) / 2] over the rows j that lane i sees;
               cut_i = the least c of 0 .. D with U[c] > sum_i >> 8, D + 1 if there is none
    CUT        seen & ((y + D) / 2 >= cut_i)           cuts of the SUM before

Lane i of a chunk is token chunk M + i of the run, row j is token first_row + j. A token sees another one that is valid and in the
same sequence; with ``causal`` none that comes later.
"""

from dataclasses import dataclass

import torch

from celosia.hw.binary.isa import ROW_BITS, SHIFTS, X_BITS, Into, Post

__all__ = ["PostState", "affine", "collect", "cuts", "post", "saturate", "sums", "threshold", "visible"]


@dataclass
class PostState:
    """What rows are computed with, and where they go; changed in place.

    Attributes
    ----------
    act : uint8 (act_lines, M, C), bits
    v : uint8 (v_words, R, C), bits
    x : int64 (x_words, M)
    p : int64 (p_words,), words of 64 bits
    lengths : int64 (sequences,), valid tokens of every sequence; of one beyond there are none
    cuts : int64 (M,), of the last SUM
    """

    act: torch.Tensor
    v: torch.Tensor
    x: torch.Tensor
    p: torch.Tensor
    lengths: torch.Tensor
    cuts: torch.Tensor


def saturate(value, bits):
    """``value`` within the signed numbers of so many bits."""
    return value.clamp(-1 << bits - 1, (1 << bits - 1) - 1)


def threshold(y, words):
    """Bits 0 or 1 of ``y`` by ThresholdParam words, which are broadcast to it."""
    level = (words & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000
    return (y >= level).to(torch.int64) ^ (words >> 32 & 1)


def affine(y, words, shift):
    """(y mult + bias) >> shift by AffineParam words, which are broadcast to ``y``; |y| < 2**26."""
    if shift not in SHIFTS:
        raise ValueError(f"shift must be one of {', '.join(map(str, SHIFTS))}, not {shift}")
    mult = (words & 0x3_FFFF ^ 0x2_0000) - 0x2_0000
    return y * mult + (words >> 18) >> shift


def visible(n_rows, n_lanes, lengths, *, chunk, first_row, causal, seq_log2):
    """bool (n_rows, n_lanes): whether the token of a lane of ``chunk`` sees that of a row."""
    i = chunk * n_lanes + torch.arange(n_lanes)
    j = first_row + torch.arange(n_rows)[:, None]
    sequence, place = j >> seq_log2, j & (1 << seq_log2) - 1
    known = torch.cat([lengths, torch.zeros(1, dtype=torch.int64)])
    valid = place < known[sequence.clamp(max=len(lengths))]
    return (i >> seq_log2 == sequence) & valid & ((j <= i) | (not causal))


def sums(index, seen, words):
    """Sums of the weights of the TableParam ``words`` over the rows that are seen, int64 (M,); each must be below 2**40."""
    total = torch.where(seen, (words & 0xFFFF_FFFF)[index], 0).sum(0)
    assert (total < 1 << 40).all(), f"sums of a table must be below 2**40, not {int(total.max())}"
    return total


def cuts(total, words):
    """The least index whose bound is above a sum; the number of words where there is none."""
    above = (words >> 32 & 0xFFFF_FFFF) > (total >> 8)[:, None]
    return torch.where(above.any(1), above.to(torch.uint8).argmax(1), len(words))


def collect(act, values, *, d_base, d_first, line_rows, fill, a_bits):
    """Write ``values`` (N, M), of ``a_bits`` bits, into consecutive columns of lines of ``act``, and the zeros behind them.

    A line that has all its ``line_rows`` is zero from there on; with ``fill`` so is the rest of the line of the last row.
    """
    n_rows = values.shape[0]
    if n_rows % 8 or line_rows % 8 or not 8 * d_first < line_rows <= act.shape[2]:
        raise ValueError("rows and line_rows must be multiples of 8, and 8 d_first < line_rows <= C, "
                         f"not {n_rows} rows, line_rows {line_rows}, d_first {d_first}, C {act.shape[2]}")
    begin, end = 8 * d_first, 8 * d_first + n_rows
    for plane in range(a_bits):
        bits = (values >> plane & 1).to(torch.uint8)
        for top in range(0, end, line_rows):
            first, last = max(begin, top), min(end, top + line_rows)
            line = act[d_base + top // line_rows * a_bits + plane]
            line[:, first - top:last - top] = bits[first - begin:last - begin].T
            if fill or last - top == line_rows:
                line[:, last - top:] = 0


def _keep_values(v, bits, fields):
    """Bits (N, M) of a chunk into the memory of transposed values."""
    n_banks, columns = v.shape[1:]
    n_rows, n_lanes = bits.shape
    token = fields["chunk"] * n_lanes + torch.arange(n_lanes)
    row = torch.arange(n_rows)[:, None]
    word = fields["d_base"] + row // n_banks * fields["v_blocks"] + token // columns
    v[word, row % n_banks, token % columns] = bits.to(torch.uint8)


def post(fields, y, state):
    """One MATMUL's rows: ``fields`` of ``isa.Matmul``, y int64 (N, M). Returns the rows as int32 (RAW), else None.

    Raises ValueError on a descriptor that the machine refuses.
    """
    if y.abs().max() >= 1 << ROW_BITS - 1:
        raise ValueError(f"y must be less than 2**{ROW_BITS - 1} in magnitude, not {int(y.abs().max())}")
    mode, p_base = Post(fields["post"]), fields["p_base"]
    n_rows, n_lanes = y.shape
    words = state.p[p_base:p_base + n_rows, None]
    if mode == Post.RAW:
        return y.to(torch.int32)
    if mode == Post.RESIDUAL:
        rows = slice(fields["d_base"], fields["d_base"] + n_rows)
        state.x[rows] = saturate(state.x[rows] + affine(y, words, fields["shift"]), X_BITS)
        return None
    if mode == Post.QUANT:
        values = affine(y, words, fields["shift"]).clamp(min=fields["lo"]).clamp(max=fields["hi"])
    elif mode == Post.SIGN:
        values = threshold(y, words)
    else:
        seen = visible(n_rows, n_lanes, state.lengths, chunk=fields["chunk"], first_row=fields["first_row"],
                       causal=fields["causal"], seq_log2=fields["seq_log2"])
        if mode == Post.MAP:
            values = seen & (threshold(y, state.p[p_base]) == 1)
        else:
            d = fields["n_index"]
            index, table = y + d >> 1, state.p[p_base:p_base + d + 1]
            if (index < 0).any() or (index > d).any():
                raise ValueError(f"(y + {d}) / 2 must be 0 .. {d}, not {int(index.min())} .. {int(index.max())}")
            if mode == Post.SUM:
                state.cuts = cuts(sums(index, seen, table), table)
                return None
            values = seen & (index >= state.cuts)
        values = values.to(torch.int64)
    if Into(fields["into"]) == Into.V:
        _keep_values(state.v, values, fields)
    else:
        bits = 8 if mode == Post.QUANT else 1
        collect(state.act, values, a_bits=bits, **{name: fields[name] for name in ("d_base", "d_first", "line_rows", "fill")})
    return None
