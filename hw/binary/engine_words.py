"""Words that travel inside the binary engine.

A *pass* is a run of beats of one row group, one weight plane and one plane of the activations, of up to ``pass_blocks`` column
blocks. What its beats count for a row is at most ``PASS_COLUMNS``; a row is the sum of its passes, each times a power of two.
"""

from amaranth.hdl import signed, unsigned
from amaranth.lib import data, enum

__all__ = ["COUNT_BITS", "PASS_COLUMNS", "Source", "PassTag", "BeatTag", "pass_blocks"]

PASS_COLUMNS = 1024
COUNT_BITS = 11     # of a count of 0 .. PASS_COLUMNS


def pass_blocks(columns):
    """Column blocks of a pass, a power of two: its beats are kept to be used again."""
    return min(32, PASS_COLUMNS // columns)


class Source(enum.Enum, shape=unsigned(2)):
    """Where the rows of a beat come from."""
    LOW_KEYS = 0    # lanes of the lower half of a line
    HIGH_KEYS = 1
    PORTS = 2       # beats of the pass, new ones or kept
    VALUES = 3


class PassTag(data.Struct):
    """What becomes of the counts of a pass: y = {n or what there is} + (+-) 2**exponent * (count {+ ones})."""
    first: unsigned(1)      # of its rows
    final: unsigned(1)      # of its rows
    ends: unsigned(1)       # and these are the last of the command
    exponent: unsigned(4)
    negative: unsigned(1)
    with_ones: unsigned(1)  # adds the count of the lane of ones
    n: signed(25)


class BeatTag(data.StructLayout):
    """What goes down the pipeline with a beat: reads of ACT and V, what becomes of them, and how a pass ends."""
    def __init__(self, *, act_lines, v_words, index_bits):
        super().__init__({
            "valid": 1,                                     # counts
            "act_en": 1, "act_line": range(act_lines), "load": 1,   # the line read becomes the activations
            "v_en": 1, "v_word": range(v_words),
            "keep": 1,                                      # a new beat of the ports
            "source": Source, "index": index_bits,          # among the beats of the pass, or the rows of a line of keys
            "last": 1,                                      # of its pass
            "sums": PassTag})
