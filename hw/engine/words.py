"""Words that travel inside the matmul engine, and the one table that its builder and its decoder share.

A group of three columns with weights (w0, w1, w2) needs the sum w0 a + w1 b + w2 c. With v = w0 + 3 w1 + 9 w2 the sums
of v and -v are opposite, so a table holds entries 0 .. 13 = abs(v) and the sign of v says whether to negate. The
builder walks through the entries so that each differs from the one before by one activation, added or taken away.

The columns of a group need not be neighbours. The low three trits of a byte are a group, so that it is decoded from what
is left of the byte once its high two trits are taken away; the high trits of a row make groups of their own.
"""

from amaranth.hdl import unsigned
from amaranth.lib import data

from ..formats import TRITS_PER_BYTE

__all__ = ["GROUP_COLUMNS", "WALK", "entry_of", "column_groups", "entry_bits", "GroupCode", "Limits", "BeatTag", "BuildStep",
           "Block"]

GROUP_COLUMNS = 3

# Weights of the entries, in the order in which the builder makes them.
WALK = ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (-1, 1, 0), (-1, 1, 1), (0, 1, 1), (1, 1, 1), (1, 0, 1), (0, 0, 1),
        (-1, 0, 1), (-1, -1, 1), (0, -1, 1), (1, -1, 1))


def entry_of(weights):
    """(entry, negate) of three weights."""
    value = sum(weight * 3**place for place, weight in enumerate(weights))
    return abs(value), value < 0


def column_groups(columns):
    """Columns of each group of a row: the low three of every byte, then the high two of all bytes by threes. The last
    group may have one or two."""
    firsts = range(0, columns, TRITS_PER_BYTE)
    high = [first + place for first in firsts for place in range(GROUP_COLUMNS, TRITS_PER_BYTE)]
    return [tuple(range(first, first + GROUP_COLUMNS)) for first in firsts] + [
        tuple(high[k:k + GROUP_COLUMNS]) for k in range(0, len(high), GROUP_COLUMNS)]


def entry_bits(size):
    """Bits of a table entry of ``size`` columns: a signed number in -128 size .. 128 size - 1. An entry's highest weight
    is never -1, so +128 size does not occur."""
    return (128 * size - 1).bit_length() + 1


class GroupCode(data.Struct):
    """What to look up for a group of columns of one row."""
    entry: unsigned(4)
    negate: unsigned(1)


class Limits(data.StructLayout):
    """A command as its loops want it: the last number of each."""
    def __init__(self, max_col_blocks, token_lanes):
        super().__init__({"row_group": 16, "col_block": range(max_col_blocks), "plane": 4, "lane": range(token_lanes)})


class BeatTag(data.StructLayout):
    """What goes down the pipeline with a beat.

    ``half`` of the tables; ``keep`` adds to the sum so far and ``triple`` to three times it; ``drains`` says that the
    sum is complete; ``group`` is the row group within its block.
    """
    def __init__(self, max_row_groups):
        super().__init__({"valid": 1, "half": 1, "keep": 1, "triple": 1, "drains": 1,
                          "group": range(max_row_groups)})


class BuildStep(data.Struct):
    """Control of all table builders: load new activations, and make the next entry of the walk."""
    load: unsigned(1)
    clear: unsigned(1)                  # entry 0
    select: unsigned(2)                 # which activation of the group
    negate: unsigned(1)


class Block(data.StructLayout):
    """A row block that is to leave: its last row group, the last token lane, and whether it ends its command."""
    def __init__(self, max_row_groups, token_lanes):
        super().__init__({"last_group": range(max_row_groups), "last_lane": range(token_lanes), "ends": 1})
