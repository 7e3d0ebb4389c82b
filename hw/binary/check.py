"""Is a descriptor of the binary machine legal? Codes must exist, and every size must fit the configuration.

::

    bits --> what the ranges are made of --> products --> ends of ranges --> comparisons --> code      a register each

======  ================================================================================================================
LOAD    n_beats >= 1, whole rows of X or lines of ACT; d_base + what they hold <= the memory;
        PARAM: d_base is a multiple of the words of a beat
MATMUL  n_row_groups, n_col_blocks >= 1; 1 <= w_planes, a_bits <= 8; one plane of activations without INTS, more with;
        columns 2**(w_planes + a_bits - 1) <= 2**(ROW_BITS - 1): no sum is longer than ROW_BITS bits;
        a_base + n_col_blocks a_bits <= act_lines; chunk < max_tokens / M;
        KEYS: one block, one plane of weights and of activations; the line of the last row < act_lines
        VALUES: one weight plane; the last word < v_words
        parameters: p_base + words <= p_words; QUANT, RESIDUAL: shift is one of SHIFTS
        ACT: a multiple of 8 rows; 8 d_first < line_rows <= C, a multiple of 8; the last line < act_lines
        V: with SIGN alone; the last word < v_words
        RESIDUAL: d_base + rows <= x_words
        maps: first_row + rows <= max_tokens; SUM, CUT: n_index <= C, and a machine with softmax (else OPCODE)
NORM    1 <= n_rows <= 4096; x_base + n_rows <= x_words; p_base even, p_base + 2 n_rows <= p_words; shift is one of NORM_SHIFTS;
        17 <= mean_shift <= 32; imm is a positive normal number;
        ACT: a multiple of 8 rows; a_bits 1, or 8 with shift2 one of NORM_SHIFTS; the last line < act_lines
======  ================================================================================================================
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..ctrl.check import bodies, known
from ..regs import Error
from . import isa
from .isa import NORM_SHIFTS, ROW_BITS, SHIFTS, Into, Kind, Opcode, Operand, Post, Target

__all__ = ["DescriptorCheck"]

_MAX_NORM_ROWS = 4096
_MEAN_SHIFTS = range(17, 33)
_LAST_EXPONENT = 254        # of a binary32 number that is none of the special ones
_Y_LOG2 = ROW_BITS - 1


def _log2(n):
    return n.bit_length() - 1


def _within(value, legal):
    """Whether ``value`` is one of a range, whose first is a multiple of its step."""
    return (value[:_log2(legal.step)] == 0) & (value >= legal.start) & (value <= legal[-1])


class DescriptorCheck(wiring.Component):
    """``code`` (celosia.hw.regs.Error: NONE, OPCODE, SIZE) of ``bits``, LATENCY cycles after ``bits`` is at rest.

    Parameters: as in ``BinaryConfig``.
    """

    LATENCY = 5

    def __init__(self, *, token_lanes, engine_rows, columns, beat_bytes, act_lines, v_words, x_words, p_words, max_tokens, softmax):
        self._lanes, self._rows_log2, self._columns, self._beat_bytes = token_lanes, _log2(engine_rows), columns, beat_bytes
        self._act_lines, self._v_words, self._x_words, self._p_words = act_lines, v_words, x_words, p_words
        self._max_tokens, self._softmax = max_tokens, softmax
        super().__init__({"bits": In(512), "code": Out(4)})

    def elaborate(self, platform):
        m = Module()
        header, body = bodies(self.bits, isa)
        checks = {Opcode.END: (0, 0), Opcode.LOAD: self._load(m, body[Opcode.LOAD]),
                  Opcode.MATMUL: self._matmul(m, body[Opcode.MATMUL]), Opcode.NORM: self._norm(m, body[Opcode.NORM])}
        code_bad, size_bad = Signal(reset_less=True), Signal(reset_less=True)
        with m.Switch(header.opcode.as_value()):
            for opcode, (bad_code, bad_size) in checks.items():
                with m.Case(opcode.value):
                    m.d.sync += [code_bad.eq(bad_code), size_bad.eq(bad_size)]
            with m.Default():
                m.d.sync += code_bad.eq(1)
        m.d.sync += self.code.eq(Mux(code_bad, Error.OPCODE, Mux(size_bad, Error.SIZE, Error.NONE)))
        return m

    @staticmethod
    def _later(m, value, bits, name):
        """``value`` in a register."""
        kept = Signal(bits, name=name, reset_less=True)
        m.d.sync += kept.eq(value)
        return kept

    def _load(self, m, load):
        """(bad code, bad size)"""
        words_log2 = _log2(self._beat_bytes // 8)                           # words of P in a beat
        row_log2 = _log2(2 * self._lanes // self._beat_bytes)               # beats of a row of X
        line_log2 = _log2(self._lanes * self._columns // 8 // self._beat_bytes)
        n_things, uneven = Signal(20), Signal()
        with m.Switch(load.target.as_value()):
            with m.Case(Target.PARAM.value):
                m.d.comb += [n_things.eq(load.n_beats << words_log2), uneven.eq(load.d_base[:words_log2].any())]
            with m.Case(Target.X.value):
                m.d.comb += [n_things.eq(load.n_beats >> row_log2), uneven.eq(load.n_beats[:row_log2].any())]
            with m.Default():
                m.d.comb += [n_things.eq(load.n_beats >> line_log2), uneven.eq(load.n_beats[:line_log2].any())]
        held = self._later(m, n_things, 20, "load_things")
        end = self._later(m, load.d_base + held, 21, "load_end")
        beyond = Signal()
        with m.Switch(load.target.as_value()):
            for target, size in ((Target.PARAM, self._p_words), (Target.X, self._x_words), (Target.ACT, self._act_lines)):
                with m.Case(target.value):
                    m.d.comb += beyond.eq(end > size)
        return ~known(load.target, Target), (load.n_beats == 0) | uneven | beyond

    def _matmul(self, m, matmul):
        """(bad code, bad size)"""
        def post(*modes):
            return matmul.post.as_value().matches(*(mode.value for mode in modes))

        lanes_log2, groups = _log2(self._lanes), matmul.n_row_groups
        rows = groups << self._rows_log2
        keys, values = matmul.operand == Operand.KEYS, matmul.operand == Operand.VALUES
        into_v = post(Post.SIGN) & (matmul.into == Into.V)
        into_act = post(Post.SIGN, Post.QUANT, Post.MAP, Post.CUT) & (matmul.into == Into.ACT)
        row_bits = len(rows)

        # Cycle 1.
        last_group = self._later(m, groups - 1, 12, "last_group")
        a_lines = self._later(m, matmul.n_col_blocks * matmul.a_bits, 12, "a_lines")
        y_log2 = self._later(m, matmul.w_planes + matmul.a_bits - 1, 4, "y_log2")
        room = self._later(m, Mux(matmul.d_base > self._act_lines, 0, self._act_lines - matmul.d_base), 13, "act_room")
        p_count = Signal(row_bits + 1)
        with m.Switch(matmul.post.as_value()):
            with m.Case(Post.SIGN.value, Post.QUANT.value, Post.RESIDUAL.value):
                m.d.comb += p_count.eq(rows)
            with m.Case(Post.MAP.value):
                m.d.comb += p_count.eq(1)
            with m.Case(Post.SUM.value):
                m.d.comb += p_count.eq(matmul.n_index + 1)
        p_count = self._later(m, p_count, row_bits + 1, "p_count")
        act_rows = self._later(m, rows + (matmul.d_first << 3), row_bits + 1, "act_rows")

        # Cycle 2: products.
        key_lines = self._later(m, (last_group >> (lanes_log2 - self._rows_log2)) * matmul.k_stride, 20, "key_lines")
        v_offset = self._later(m, last_group * matmul.v_blocks, 16, "v_offset")
        v_read = self._later(m, matmul.k_base + matmul.n_col_blocks, 13, "v_read")
        v_write = self._later(m, matmul.d_base + (matmul.chunk << lanes_log2 >> _log2(self._columns)), 17, "v_write")
        act_room = self._later(m, Mux(post(Post.QUANT), room >> 3, room) * matmul.line_rows, 22, "act_room_rows")
        y_size = self._later(m, matmul.n_col_blocks << y_log2, 23, "y_size")

        # Cycle 3: ends, exclusive but for the line of the last key and the word of the last value that is written.
        a_end = self._later(m, matmul.a_base + a_lines, 13, "a_end")
        p_end = self._later(m, matmul.p_base + p_count, 18, "p_end")
        x_end = self._later(m, matmul.d_base + rows, 18, "x_end")
        key_last = self._later(m, matmul.k_base + key_lines, 21, "key_last")
        read_end = self._later(m, v_read + v_offset, 17, "v_read_end")
        write_last = self._later(m, v_write + v_offset, 18, "v_write_last")
        token_end = self._later(m, matmul.first_row + rows, row_bits + 1, "token_end")
        act_short = self._later(m, act_rows > act_room, 1, "act_short")

        # Cycle 4: comparisons.
        shape_bad = (
            (groups == 0) | (matmul.n_col_blocks == 0) | (matmul.w_planes == 0) | (matmul.w_planes > 8) | (matmul.a_bits == 0)
            | (matmul.a_bits > 8) | ((matmul.kind == Kind.INTS) ^ (matmul.a_bits > 1))
            | (y_size > (1 << _Y_LOG2) // self._columns) | (matmul.chunk >= self._max_tokens // self._lanes)
            | ((keys | values) & (matmul.w_planes != 1)) | (keys & ((matmul.n_col_blocks != 1) | (matmul.a_bits != 1))))
        lines_bad = (
            rows[:3].any() | matmul.line_rows[:3].any() | (matmul.line_rows > self._columns)
            | (matmul.d_first >= matmul.line_rows[3:]) | act_short)
        maps = post(Post.MAP, Post.SUM, Post.CUT)
        bad = (
            shape_bad | (a_end > self._act_lines) | (p_end > self._p_words)
            | (keys & (key_last >= self._act_lines)) | (values & (read_end > self._v_words))
            | (post(Post.QUANT, Post.RESIDUAL) & ~_within(matmul.shift, SHIFTS)) | (into_act & lines_bad)
            | (post(Post.QUANT, Post.MAP, Post.CUT) & (matmul.into == Into.V)) | (into_v & (write_last >= self._v_words))
            | (post(Post.RESIDUAL) & (x_end > self._x_words)) | (maps & (token_end > self._max_tokens))
            | (post(Post.SUM, Post.CUT) & (matmul.n_index > self._columns)))
        modes = list(Post) if self._softmax else [Post.SIGN, Post.QUANT, Post.RESIDUAL, Post.RAW, Post.MAP]
        return ~(known(matmul.operand, Operand) & known(matmul.kind, Kind) & known(matmul.post, modes)), bad

    def _norm(self, m, norm):
        """(bad code, bad size)"""
        blocks = self._later(m, (norm.n_rows + self._columns - 1) >> _log2(self._columns), 11, "norm_blocks")
        lines = self._later(m, Mux(norm.a_bits == 8, blocks << 3, blocks), 14, "norm_lines")
        act_end = self._later(m, norm.d_base + lines, 15, "norm_act_end")
        x_end = self._later(m, norm.x_base + norm.n_rows, 17, "norm_x_end")
        p_end = self._later(m, norm.p_base + (norm.n_rows << 1), 17, "norm_p_end")
        act_bad = (norm.n_rows[:3].any() | (act_end > self._act_lines)
                   | ~((norm.a_bits == 1) | ((norm.a_bits == 8) & _within(norm.shift2, NORM_SHIFTS))))
        return 0, ((norm.n_rows == 0) | (norm.n_rows > _MAX_NORM_ROWS) | (x_end > self._x_words) | (p_end > self._p_words)
                   | norm.p_base[0] | ~_within(norm.shift, NORM_SHIFTS) | ~_within(norm.mean_shift, _MEAN_SHIFTS)
                   | norm.imm[31] | (norm.imm[23:31] == 0) | (norm.imm[23:31] > _LAST_EXPONENT) | (norm.to_act & act_bad))
