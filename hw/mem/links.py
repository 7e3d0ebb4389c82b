"""The words of the memory side that more than one unit knows."""

from amaranth.hdl import unsigned
from amaranth.lib import data

from ..isa import DESCRIPTOR_BYTES

__all__ = ["Windows", "ErrorReport", "LoadCommand", "WriteWord", "Fetched"]


class Windows(data.Struct):
    """What the host opened: bases and sizes in bytes. Constant while a program runs."""
    model_base: unsigned(64)
    model_size: unsigned(64)
    cache_base: unsigned(64)
    cache_size: unsigned(64)


class ErrorReport(data.Struct):
    """Something went wrong in this cycle; ``code`` as in ``celosia.hw.regs.Error``, ``index`` of the descriptor."""
    valid: unsigned(1)
    code: unsigned(4)
    index: unsigned(16)


class LoadCommand(data.Struct):
    """Rows of ``n_words`` vector words for P: word i of row r goes to d_base + r * d_stride + i. No size is zero."""
    n_words: unsigned(16)
    d_base: unsigned(16)
    d_stride: unsigned(16)
    n_rows: unsigned(5)


class WriteWord(data.StructLayout):
    """One beat of a record for memory. ``offset`` (bytes into the cache window), ``beats`` (of the whole record) and
    ``index`` (of the descriptor) count in the first word alone."""
    def __init__(self, port_bytes):
        super().__init__({"offset": unsigned(40), "data": unsigned(8 * port_bytes), "first": 1, "last": 1,
                          "beats": unsigned(16), "index": unsigned(16)})


class Fetched(data.Struct):
    """A descriptor as it lies in memory, but zero where every body is reserved; its index, and whether the program has no
    further one."""
    bits: unsigned(8 * DESCRIPTOR_BYTES)
    index: unsigned(16)
    last: unsigned(1)
