"""The words that travel between the units of the binary machine."""

from amaranth.hdl import signed, unsigned
from amaranth.lib import data

from .isa import ROW_BITS, X_BITS, AffineParam, Kind, Matmul, Operand

__all__ = ["UNITS", "EngineCommand", "MatmulCommand", "RowWord", "ActWrite", "VWrite", "XRow", "XWrite", "ParamWrite", "ParamPair",
           "LoadCommand", "Lengths"]

UNITS = ("load", "matmul", "norm")


class EngineCommand(data.Struct):
    """What the engine needs of a MATMUL; fields as in ``isa.Matmul``."""
    n_row_groups: unsigned(12)
    n_col_blocks: unsigned(8)
    w_planes: unsigned(4)
    a_bits: unsigned(4)
    operand: Operand
    kind: Kind
    n_const: unsigned(24)
    a_base: unsigned(12)
    k_base: unsigned(12)
    k_stride: unsigned(8)
    v_blocks: unsigned(4)


class MatmulCommand(data.StructLayout):
    """A MATMUL and its descriptor index, for error reports."""
    def __init__(self):
        fields = {name: field.shape for name, field in data.Layout.cast(Matmul) if name != "reserved"}
        super().__init__({"index": unsigned(16), **fields})


class RowWord(data.StructLayout):
    """A row of a product: an integer of every lane. Order: rows from 0 on."""
    def __init__(self, token_lanes):
        super().__init__({"y": data.ArrayLayout(signed(ROW_BITS), token_lanes)})


class ActWrite(data.StructLayout):
    """A byte column of a line of ACT: eight columns of every lane, the first in bit 0."""
    def __init__(self, token_lanes):
        super().__init__({"line": unsigned(12), "column": unsigned(5), "data": data.ArrayLayout(unsigned(8), token_lanes)})


class VWrite(data.StructLayout):
    """A row of the values of a chunk, a bit a lane: to the chunk's columns of a bank of a word of V."""
    def __init__(self, token_lanes):
        super().__init__({"word": unsigned(12), "bank": unsigned(4), "chunk": unsigned(8), "bits": unsigned(token_lanes)})


class XRow(data.StructLayout):
    """A row of X."""
    def __init__(self, token_lanes):
        super().__init__({"x": data.ArrayLayout(signed(X_BITS), token_lanes)})


class XWrite(data.StructLayout):
    """A row for X."""
    def __init__(self, token_lanes):
        super().__init__({"addr": unsigned(16), "row": XRow(token_lanes)})


class ParamWrite(data.StructLayout):
    """Words for P, from ``addr`` on, a multiple of ``n_words`` (a power of two)."""
    def __init__(self, n_words):
        super().__init__({"addr": unsigned(16), "words": data.ArrayLayout(unsigned(64), n_words)})


class ParamPair(data.Struct):
    """The two words of P of a row of NORM: gain and bias, and what makes an activation of the element."""
    gain: AffineParam
    act: unsigned(64)


class LoadCommand(data.Struct):
    """As in ``isa.Load``."""
    n_beats: unsigned(16)
    d_base: unsigned(16)
    target: unsigned(2)


class Lengths(data.StructLayout):
    """Valid tokens of every sequence of the run; constant while a program runs."""
    def __init__(self, max_sequences):
        super().__init__({"tokens": data.ArrayLayout(unsigned(13), max_sequences)})
