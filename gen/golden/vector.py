"""The vector unit: what one VECTOR descriptor does to X, S and the streams, word for word as the hardware does it.

For every token t and word i of L lanes, in binary32 (``celosia.gen.golden.f32``)::

    a  = source                                        int32 sources: from_int32
    m1 = mul(a, k1)        k1: 1, s[t], imm0, scale of the stream, P word
    m2 = mul(m1, k2)       k2: 1, P word, imm1
    m3 = mul(m2, k3)       k3: 1, m2, maximum(m2, +0), sigmoid(m2), X word
    y  = add(m3, k4)       k4: -0, X word

A factor of 1 and a term of -0 leave a number as it is (and flush a subnormal that came out of P). RoPE replaces the
chain, with the pairs (cos, sin) of the P word in lanes (2j, 2j + 1)::

    y[2j]     = add(mul(a[2j],     cos), neg(mul(a[2j + 1], sin)))
    y[2j + 1] = add(mul(a[2j + 1], cos),     mul(a[2j],     sin))

    Reduce.RMS      s[r] = mul(s[scale_scalar], rsqrt(add(mul(sum_slots(y), imm0), imm1)))
    Reduce.KEEP     k = maximum(k, max |y|)
    Reduce.ABSMAX   c = maximum(maximum(k, max |y|), 1e-5);  k = 0
                    s[r] = mul(127, recip(c));  s[(r + 1) mod 4] = mul(c, 1/127)

Tensors are (tokens, n_words, L) inside; words of streams are in hardware order: blocks of block_words, in a block the
tokens, of a token the words.
"""

from dataclasses import dataclass, field

import torch

from celosia.gen.golden import f32, func
from celosia.hw.formats import F32_NAN, F32_NEG_ZERO, F32_ONE, bits_of
from celosia.hw.isa import Add, Mul1, Mul2, Mul3, Reduce, Sink, Source, Tokens, Vector

__all__ = ["N_SCALARS", "VectorState", "QuantWords", "TopkWords", "accepted", "best", "check_vector", "run_vector", "topk"]

N_SCALARS = 4           # scalar registers of a token
_MAX_TOKENS = 16

_LEAST_ABSMAX = f32.from_bits(bits_of(1e-5))
_INT8_TOP = f32.from_bits(bits_of(127.0))
_INT8_STEP = f32.from_bits(bits_of(1 / 127))
_ONE = f32.from_bits(F32_ONE)
_NEG_ZERO = f32.from_bits(F32_NEG_ZERO)

_QUANT_SINKS = (Sink.ACT, Sink.Q, Sink.K, Sink.V)


@dataclass
class VectorState:
    """What lives between descriptors. Attributes:

    x, p : float32 (x_words, L), (p_words, L)
    scalars : float32 (N_SCALARS, 16): register s of token t is ``scalars[s, t]``
    kept : float32 (16,): magnitude that a token keeps, zero when a program begins
    matmul : int64 (n, L), words of the drain stream that have not been taken
    attend, attend_scale : int64 (n, L) and float32 (n,), words of the attention stream that have not been taken
    """

    x: torch.Tensor
    p: torch.Tensor
    scalars: torch.Tensor = field(default_factory=lambda: torch.zeros(N_SCALARS, _MAX_TOKENS))
    kept: torch.Tensor = field(default_factory=lambda: torch.zeros(_MAX_TOKENS))
    matmul: torch.Tensor = None
    attend: torch.Tensor = None
    attend_scale: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def __post_init__(self):
        lanes = self.x.shape[1]
        if self.p.shape[1] != lanes:
            raise ValueError(f"Words of P must have {lanes} elements as those of X, not {self.p.shape[1]}")
        self.matmul = torch.zeros(0, lanes, dtype=torch.int64) if self.matmul is None else self.matmul
        self.attend = torch.zeros(0, lanes, dtype=torch.int64) if self.attend is None else self.attend

    @classmethod
    def zeros(cls, *, vector_lanes, x_words, p_words):
        """All zero, no word waiting."""
        return cls(torch.zeros(x_words, vector_lanes), torch.zeros(p_words, vector_lanes))

    def push_matmul(self, acc):
        """Append words (n, L) to the drain stream."""
        self.matmul = torch.cat((self.matmul, acc.to(torch.int64)))

    def push_attend(self, acc, scale):
        """Append words (n, L) with their scales (n,) float32 to the attention stream."""
        self.attend = torch.cat((self.attend, acc.to(torch.int64)))
        self.attend_scale = torch.cat((self.attend_scale, scale))


@dataclass
class QuantWords:
    """``links.QuantWord`` of a whole descriptor, in order: token, word, last int64 (n,); scale float32 (n,);
    data int8 (n, L)."""

    sink: Sink
    bank: int
    head: int
    token: torch.Tensor
    word: torch.Tensor
    last: torch.Tensor
    scale: torch.Tensor
    data: torch.Tensor


@dataclass
class TopkWords:
    """``links.TopkWord`` of a whole descriptor, in order: token, first int64 (n,), n_valid int, logits float32 (n, L).
    """

    token: torch.Tensor
    first: torch.Tensor
    n_valid: int
    logits: torch.Tensor
    rescore: bool = False

    def offer(self, shortlists=None, row_quantum=1):
        """{token: (numbers int64 (n,), logits float32 (n,))}: the elements of every token that count, in order of arrival.

        When they are rescored, element k row_quantum + (shortlist[k] mod row_quantum) is the logit of shortlist[k], where
        ``shortlist`` is ``shortlists[token]``, a list of numbers.
        """
        return {token: self._offer(self.token == token, shortlists and shortlists[token], row_quantum)
                for token in self.token.unique().tolist()}

    def _offer(self, chosen, shortlist, row_quantum):
        numbers, logits = self.first[chosen, None] + torch.arange(self.logits.shape[1]), self.logits[chosen]
        if not self.rescore:
            counts = numbers < self.n_valid
            return numbers[counts], logits[counts]
        wanted = torch.tensor(list(shortlist), dtype=torch.int64)[numbers // row_quantum]
        counts = numbers % row_quantum == wanted % row_quantum
        return wanted[counts], logits[counts]


def check_vector(fields):
    """The fields of a descriptor, absent ones 0, codes as enums.

    Raises ValueError on a combination that does not exist.
    """
    shapes = {name: part.shape for name, part in Vector.as_shape() if name != "reserved"}
    unknown = set(fields) - set(shapes)
    if unknown:
        raise ValueError(f"VECTOR has no field {sorted(unknown)}")
    f = {name: (shape if isinstance(shape, type) else int)(fields.get(name, 0)) for name, shape in shapes.items()}

    def need(ok, rule):
        if not ok:
            raise ValueError(f"A VECTOR descriptor must {rule}, not {fields}")

    rope = f["add"] is Add.ROPE
    need(f["n_words"] > 0 and f["block_words"] > 0, "have n_words and block_words of at least 1")
    need(f["source"] is Source.MATMUL or f["block_words"] >= f["n_words"], "have one block unless its source is MATMUL")
    need(f["mul1"] is not Mul1.STREAM or f["source"] is Source.ATTEND, "take mul1 STREAM from source ATTEND only")
    need(rope == (f["mul2"] is Mul2.ROPE), "use mul2 ROPE and add ROPE together")
    need(not rope or (f["mul1"] is Mul1.P and f["mul3"] is Mul3.ONE), "have mul1 P and mul3 ONE with add ROPE")
    need(f["reduce"] is Reduce.NONE or f["source"] in (Source.X, Source.P), "reduce source X or P only")
    need(f["reduce"] is not Reduce.RMS or (f["add"] is Add.NONE and f["sink"] is Sink.NONE),
         "have add NONE and sink NONE with reduce RMS")
    need(f["reduce"] not in (Reduce.ABSMAX, Reduce.KEEP) or f["sink"] in (Sink.NONE, Sink.X),
         "have sink NONE or X with reduce ABSMAX or KEEP")
    return f


def run_vector(fields, n_tokens, state):
    """Run one descriptor: change ``state``, return its QuantWords, TopkWords or None.

    ``fields`` is a dict of the fields of ``isa.Vector`` (absent ones 0), ``n_tokens`` the token lanes of the run.
    Raises ValueError where the combination does not exist, where ``lane`` is beyond the run, where an address is outside a
    scratch, where a stream is short of words, or where the result would depend on when the hardware reads what it writes.
    """
    f = check_vector(fields)
    tokens = _tokens(f, n_tokens)
    n_words, lanes = f["n_words"], state.x.shape[1]
    row, word = _order(len(tokens), n_words, f["block_words"])     # (n,): hardware order of the words

    x_rows = p_rows = None
    x_used = f["source"] is Source.X or f["mul3"] is Mul3.X or f["add"] is Add.X
    if x_used:
        x_at = _addresses(f["x_base"], f["x_stride"], tokens, n_words, state.x, "X")
        x_rows = state.x[x_at]                                      # (tokens, n_words, L)
    if f["source"] is Source.P or f["mul1"] is Mul1.P or f["mul2"] in (Mul2.P, Mul2.ROPE):
        p_rows = state.p[_addresses(f["p_base"], f["p_stride"], tokens, n_words, state.p, "P")]

    a, stream_scale = _source(f, state, x_rows, p_rows, row, word, len(tokens))
    y = _chain(f, a, stream_scale, state.scalars[f["mul1_scalar"], tokens][:, None, None], x_rows, p_rows)

    r = f["reduce_scalar"]
    if f["reduce"] is Reduce.RMS:
        total = f32.sum_slots(y.reshape(len(tokens), -1))
        imm0, imm1 = f32.from_bits(f["imm0"]), f32.from_bits(f["imm1"])
        factor = func.rsqrt(f32.add(f32.mul(total, imm0), imm1))
        state.scalars[r, tokens] = f32.mul(state.scalars[f["scale_scalar"], tokens], factor)
    elif f["reduce"] is not Reduce.NONE:
        peak = torch.where(y.isnan(), f32.from_bits(F32_NAN), y.abs()).reshape(len(tokens), -1).amax(dim=1)
        peak = torch.maximum(peak, state.kept[tokens])
        state.kept[tokens] = peak if f["reduce"] is Reduce.KEEP else 0.0
    if f["reduce"] is Reduce.ABSMAX:
        c = f32.maximum(peak, _LEAST_ABSMAX)
        state.scalars[r, tokens] = f32.mul(_INT8_TOP, func.recip(c))
        state.scalars[(r + 1) % N_SCALARS, tokens] = f32.mul(c, _INT8_STEP)

    if f["sink"] is Sink.X:
        d_at = _addresses(f["d_base"], f["d_stride"], tokens, n_words, state.x, "X")
        _check_hazards(x_at if x_used else None, d_at, row, word)
        state.x[d_at] = y
    elif f["sink"] in (Sink.TOPK, Sink.RESCORE):
        return TopkWords(token=tokens[row], first=(f["d_base"] + word) * lanes, n_valid=f["imm0"] & 0xF_FFFF, logits=y[row, word],
                         rescore=f["sink"] is Sink.RESCORE)
    elif f["sink"] in _QUANT_SINKS:
        return _quantise(f, y, state.scalars[f["scale_scalar"], tokens], tokens, row, word)
    return None


def topk(logits, first, n_valid, top_k):
    """The ``top_k`` best of the words that came: (numbers int64, logits float32), best first.

    ``logits`` float32 (n, L) and ``first`` (n,) in the order of arrival, numbers ascending; elements numbered n_valid
    or more do not count.
    """
    first = torch.as_tensor(first)
    return best(*TopkWords(torch.zeros_like(first), first, n_valid, logits).offer()[0], top_k)


def best(number, logits, top_k):
    """The ``top_k`` best of numbers int64 (n,) with logits float32 (n,), in order of arrival: (numbers, logits).

    Larger first, equal ones in order of arrival; -0 is less than +0, NaN less than everything.
    """
    bits = f32.to_bits(logits)
    is_nan = bits & 0x7FFF_FFFF > 0x7F80_0000
    key = torch.where(bits >> 31 == 1, bits ^ 0xFFFF_FFFF, bits | 1 << 31)
    order = torch.sort(torch.where(is_nan, 0, key), descending=True, stable=True).indices[:top_k]
    return number[order], f32.from_bits(torch.where(is_nan, F32_NAN, bits)[order])


def accepted(is_first, token_ids, best_numbers):
    """Bits of ACCEPTED: bit t where lane t is not the first of its segment, its token id is the best candidate of lane t - 1,
    and so for all lanes of the segment between.

    A list entry a lane: whether it is the first of its segment; its token id; the number of its best candidate, or None.
    """
    bits, good = 0, True
    for t, (first, token) in enumerate(zip(is_first, token_ids, strict=True)):
        good = first or (good and token == best_numbers[t - 1])
        bits |= (good and not first) << t
    return bits


def _tokens(f, n_tokens):
    """Token lanes that a descriptor works on, int64 (n,)."""
    if f["tokens"] is Tokens.LANE and f["lane"] >= n_tokens:
        raise ValueError(f"A descriptor works on lane {f['lane']}, and the run has {n_tokens}")
    return {Tokens.ALL: torch.arange(n_tokens), Tokens.LAST: torch.tensor([n_tokens - 1]),
            Tokens.LANE: torch.tensor([f["lane"]])}[f["tokens"]]


def _order(n_rows, n_words, block_words):
    """Row and word of every word of a descriptor, in hardware order: (n,) int64 each."""
    rows, words = [], []
    for start in range(0, n_words, block_words):
        block = torch.arange(start, min(start + block_words, n_words))
        rows.append(torch.arange(n_rows).repeat_interleave(len(block)))
        words.append(block.repeat(n_rows))
    return torch.cat(rows), torch.cat(words)


def _addresses(base, stride, tokens, n_words, scratch, name):
    """Scratch addresses (tokens, n_words)."""
    addresses = base + tokens[:, None] * stride + torch.arange(n_words)
    if addresses.max() >= len(scratch):
        raise ValueError(f"Scratch {name} has {len(scratch)} words: a descriptor must not use word "
                         f"{int(addresses.max())}")
    return addresses


def _take(words, n, name):
    if len(words) < n:
        raise ValueError(f"A descriptor takes {n} words of the {name} stream, and {len(words)} came")
    return words[:n], words[n:]


def _source(f, state, x_rows, p_rows, row, word, n_rows):
    """a (tokens, n_words, L), and the stream's scale (tokens, n_words, 1) where there is one."""
    if f["source"] is Source.X:
        return x_rows, None
    if f["source"] is Source.P:
        return p_rows, None
    a = torch.empty(n_rows, f["n_words"], state.x.shape[1])
    scale = None
    if f["source"] is Source.MATMUL:
        acc, state.matmul = _take(state.matmul, len(row), "matmul")
    else:
        acc, state.attend = _take(state.attend, len(row), "attention")
        taken, state.attend_scale = _take(state.attend_scale, len(row), "attention")
        scale = torch.empty(n_rows, f["n_words"], 1)
        scale[row, word, 0] = taken
    a[row, word] = f32.from_int32(acc)
    return a, scale


def _chain(f, a, stream_scale, scalar, x_rows, p_rows):
    """y (tokens, n_words, L)."""
    if f["add"] is Add.ROPE:
        cos, sin = p_rows[..., 0::2], p_rows[..., 1::2]
        y = torch.empty_like(a)
        y[..., 0::2] = f32.add(f32.mul(a[..., 0::2], cos), f32.neg(f32.mul(a[..., 1::2], sin)))
        y[..., 1::2] = f32.add(f32.mul(a[..., 1::2], cos), f32.mul(a[..., 0::2], sin))
        return y
    imm0, imm1 = f32.from_bits(f["imm0"]), f32.from_bits(f["imm1"])
    k1 = {Mul1.ONE: _ONE, Mul1.SCALAR: scalar, Mul1.IMM: imm0, Mul1.STREAM: stream_scale, Mul1.P: p_rows}[f["mul1"]]
    k2 = {Mul2.ONE: _ONE, Mul2.P: p_rows, Mul2.IMM: imm1}[f["mul2"]]
    m2 = f32.mul(f32.mul(a, k1), k2)
    if f["mul3"] is Mul3.RELU:
        k3 = f32.maximum(m2, torch.zeros(()))
    elif f["mul3"] is Mul3.SIGMOID:
        k3 = func.sigmoid(m2)
    else:
        k3 = {Mul3.ONE: _ONE, Mul3.SELF: m2, Mul3.X: x_rows}[f["mul3"]]
    return f32.add(f32.mul(m2, k3), x_rows if f["add"] is Add.X else _NEG_ZERO)


def _quantise(f, y, scale, tokens, row, word):
    factor = f32.from_bits(f["imm1"]) if f["sink"] is Sink.Q else _ONE
    to_lane_0 = f["sink"] is Sink.ACT and f["tokens"] is not Tokens.ALL
    return QuantWords(
        sink=f["sink"], bank=f["bank"], head=f["head"],
        token=torch.zeros_like(row) if to_lane_0 else tokens[row],
        word=word + f["d_base"] if f["sink"] is Sink.ACT else word,
        last=(word == f["n_words"] - 1).to(torch.int64),
        scale=f32.mul(scale, factor)[row],
        data=f32.to_int8(y)[row, word])


def _check_hazards(x_at, d_at, row, word):
    """The unit reads ahead of its writes: a word must be written once, and not be read after that."""
    written = d_at[row, word]
    if len(written.unique()) != len(written):
        raise ValueError("A descriptor must not write a word of X twice")
    if x_at is None:
        return
    order = torch.arange(len(written))
    last_read = torch.full((int(max(x_at.max(), d_at.max())) + 1,), -1)
    last_read.scatter_reduce_(0, x_at[row, word], order, "amax")
    if (last_read[written] > order).any():
        raise ValueError("A descriptor must not read a word of X that it wrote before")
