"""Is a descriptor legal? Codes must exist, and every size must fit the configuration.

::

    i, launch --> operands --> products, offset ends --> ends of ranges --> comparisons --> code    a register each

=========  ==========================================================================================================
all        tokens LANE: lane < n_tokens
LOAD       n_words >= 1; d_base + (rows - 1) d_stride + n_words <= p_words; CANDIDATE: rank < top_k
MATMUL     n_row_groups >= 1 and whole vector words; planes 1 .. 5;
           1 <= n_col_blocks <= what sums of that many planes hold;
           gather: rank < top_k, n_row_groups = max(R, L) / R
VECTOR     n_words >= 1, block_words >= 1;
           X and P ranges that are used: base + (n_tokens - 1) stride + n_words <= memory;
           ACT: (d_base + n_words) vector_lanes <= max_columns; Q, K, V: whole beats, at most max_head_words;
           Q: head < max_queries / token_lanes; RESCORE: (d_base + n_words) L <= top_k max(R, L)
ATTEND     1 <= group <= max_queries / token_lanes; 1 <= head_words <= max_head_words
=========  ==========================================================================================================
"""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..isa import Add, Index, Mul1, Mul2, Mul3, Opcode, Sink, Source, Tokens
from ..links import Launch
from ..regs import Error

__all__ = ["DescriptorCheck", "bodies", "known"]

_DSP = {"use_dsp": "simd"}


def bodies(bits, words=isa):
    """(header, {Opcode: body}) views of the 512 bits of a descriptor of the instruction set ``words``."""
    header_bits = words.Header.as_shape().size
    header = data.View(words.Header, bits[:header_bits])
    return header, {opcode: data.View(shape, bits[header_bits:]) for opcode, shape in words.BODIES.items()}


def known(field, codes):
    """A code of the enumeration, whose codes begin at 0."""
    value, last = field.as_value(), max(code.value for code in codes)
    return value <= last if last < 2**len(value) - 1 else Const(1)


class DescriptorCheck(wiring.Component):
    """``code`` (celosia.hw.regs.Error: NONE, OPCODE, SIZE) of ``bits``, LATENCY cycles after the inputs are at rest."""

    LATENCY = 5

    def __init__(self, *, token_lanes, vector_lanes, engine_rows, columns, port_bytes, max_columns, accumulator_bits,
                 x_words, p_words, max_queries, max_head_words, top_k):
        self._top_k, self._rescore_words = top_k, top_k * max(1, engine_rows // vector_lanes)
        self._lanes, self._x_words, self._p_words = vector_lanes, x_words, p_words
        self._groups_quantum = max(1, vector_lanes // engine_rows)
        self._act_words = max_columns // vector_lanes
        self._word_heads = port_bytes // vector_lanes                   # vector words in a beat of a head
        self._max_head_words, self._max_group = max_head_words, max_queries // token_lanes
        longest = [((1 << (accumulator_bits - 1)) - 1) // (64 * (3**planes - 1)) for planes in range(1, 6)]
        self._max_col_blocks = [min(max_columns, columns_) // columns for columns_ in longest]
        super().__init__({"bits": In(512), "launch": In(Launch), "code": Out(4)})

    def elaborate(self, platform):
        m = Module()
        header, body = bodies(self.bits)
        load, matmul, vector, attend = (body[o] for o in (Opcode.LOAD, Opcode.MATMUL, Opcode.VECTOR, Opcode.ATTEND))
        is_load = header.opcode == Opcode.LOAD

        # Cycle 1: what the ranges are made of.
        last_token, last_row = Signal(4, reset_less=True), Signal(4, reset_less=True)
        d_stride, d_base, n_words = (Signal(16, reset_less=True) for _ in range(3))
        m.d.sync += [
            last_token.eq(self.launch.n_tokens - 1),
            last_row.eq(Mux(is_load & ((load.index == Index.NONE) | (load.index == Index.CANDIDATE)), 0,
                            self.launch.n_tokens - 1)),
            d_stride.eq(Mux(is_load, load.d_stride, vector.d_stride)),
            d_base.eq(Mux(is_load, load.d_base, vector.d_base)),
            n_words.eq(Mux(is_load, load.n_words, vector.n_words)),
        ]

        # Cycles 2 and 3: where the first row ends, how far away the last one begins; where that one ends.
        def end(base, stride, rows):
            offset, first_end = Signal(20, reset_less=True), Signal(17, reset_less=True)
            first_sum, last_sum = Signal(17, attrs=_DSP), Signal(22, attrs=_DSP)
            last_end = Signal(22, reset_less=True)
            m.d.comb += [first_sum.eq(base + n_words), last_sum.eq(first_end + offset)]
            m.d.sync += [offset.eq(stride * rows), first_end.eq(first_sum), last_end.eq(last_sum)]
            return first_end, last_end

        _, x_end = end(vector.x_base, vector.x_stride, last_token)
        _, p_end = end(vector.p_base, vector.p_stride, last_token)
        act_end, d_end = end(d_base, d_stride, last_row)

        # Cycle 4: comparisons.
        uses_x = (vector.source == Source.X) | (vector.mul3 == Mul3.X) | (vector.add == Add.X)
        uses_p = ((vector.source == Source.P) | (vector.mul1 == Mul1.P) | (vector.mul2 == Mul2.P)
                  | (vector.mul2 == Mul2.ROPE) | (vector.add == Add.ROPE))
        quantised_head = (vector.sink == Sink.Q) | (vector.sink == Sink.K) | (vector.sink == Sink.V)
        beat_log2 = self._word_heads.bit_length() - 1
        head_bad = (vector.n_words[:beat_log2].any() | ((vector.n_words >> beat_log2) > self._max_head_words)
                    | ((vector.sink == Sink.Q) & (vector.head >= self._max_group)))
        bad_code, bad_size = {}, {}

        def absent(body):
            return (body.tokens == Tokens.LANE) & (body.lane > last_token)

        max_col_blocks = Signal(16)
        with m.Switch(matmul.planes):
            for planes, blocks in enumerate(self._max_col_blocks, start=1):
                with m.Case(planes):
                    m.d.comb += max_col_blocks.eq(blocks)
        quantum_log2 = self._groups_quantum.bit_length() - 1
        bad_code[Opcode.END] = bad_size[Opcode.END] = 0
        bad_code[Opcode.LOAD] = ~known(load.index, Index)
        bad_size[Opcode.LOAD] = ((load.n_words == 0) | (d_end > self._p_words)
                                 | ((load.index == Index.CANDIDATE) & (load.rank >= self._top_k)))
        bad_code[Opcode.MATMUL] = ~known(matmul.tokens, Tokens)
        bad_size[Opcode.MATMUL] = (absent(matmul) | (matmul.n_row_groups == 0) | matmul.n_row_groups[:quantum_log2].any()
                                   | (matmul.n_col_blocks == 0) | (matmul.n_col_blocks > max_col_blocks)
                                   | (matmul.gather & ((matmul.rank >= self._top_k)
                                                       | (matmul.n_row_groups != self._groups_quantum))))
        bad_code[Opcode.VECTOR] = ~(known(vector.mul1, Mul1) & known(vector.mul3, Mul3) & known(vector.add, Add)
                                    & known(vector.sink, Sink) & known(vector.tokens, Tokens))
        bad_size[Opcode.VECTOR] = (
            absent(vector) | (vector.n_words == 0) | (vector.block_words == 0)
            | (uses_x & (x_end > self._x_words)) | (uses_p & (p_end > self._p_words))
            | ((vector.sink == Sink.X) & (d_end > self._x_words))
            | ((vector.sink == Sink.ACT) & (act_end > self._act_words)) | (quantised_head & head_bad)
            | ((vector.sink == Sink.RESCORE) & (act_end > self._rescore_words)))
        bad_code[Opcode.ATTEND] = 0
        bad_size[Opcode.ATTEND] = ((attend.group == 0) | (attend.group > self._max_group)
                                   | (attend.head_words == 0) | (attend.head_words > self._max_head_words))
        code_bad, size_bad = Signal(reset_less=True), Signal(reset_less=True)
        with m.Switch(header.opcode.as_value()):
            for opcode in Opcode:
                with m.Case(opcode.value):
                    m.d.sync += [code_bad.eq(bad_code[opcode]), size_bad.eq(bad_size[opcode])]
            with m.Default():
                m.d.sync += code_bad.eq(1)

        # Cycle 5: the verdict.
        m.d.sync += self.code.eq(Mux(code_bad, Error.OPCODE, Mux(size_bad, Error.SIZE, Error.NONE)))
        return m
