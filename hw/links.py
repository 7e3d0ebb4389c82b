"""The words that travel between units: one named payload class a link."""

from amaranth.hdl import signed, unsigned
from amaranth.lib import data, enum

from .isa import Sink

__all__ = ["CAP_BITS", "PLANS_AHEAD", "Lane", "Launch", "ReadJob", "Dest", "MatmulCommand", "AttendCommand", "RecordCommand",
           "PageAsk", "PageAnswer", "DrainWord", "AttendWord", "ParamWrite", "QuantWord", "TopkWord", "record_beats", "row_beats",
           "scale_beats", "visited_rows"]

CAP_BITS = 30       # of a soft-cap, in units of 2**-16
PLANS_AHEAD = 16    # reads that descriptors may ask for while an ATTEND's past has no place yet


def scale_beats(port_bytes):
    """Beats that the two scales of a cache record take."""
    return max(1, 8 // port_bytes)


def row_beats(head_words, four_bits):
    """Beats of the key or the value in one cache record."""
    return -(-head_words // 2) if four_bits else head_words


def record_beats(head_words, port_bytes, int4=0):
    """Beats of one cache record: K, scales, V. ``int4``: four bits an element, bit 0 of K, bit 1 of V."""
    return row_beats(head_words, int4 & 1) + scale_beats(port_bytes) + row_beats(head_words, int4 >> 1)


def visited_rows(first_position, window, sinks, n_ports):
    """Which past rows of n_ports positions ATTEND reads for a segment: (start_row, sink_rows).

    Visited are rows 0 .. sink_rows - 1, then those from ``start_row`` on, up to the last position before ``first_position``, the
    position of the segment's first token; (0, 0): all. With a window, positions from first_position - window + 1 on and the first
    ``sinks`` are wanted; rows between them are left out where there are any. ``celosia.hw.ctrl.visit`` does the same in hardware.
    """
    lowest = first_position - window + 1
    start_row, sink_rows = lowest // n_ports, -(-sinks // n_ports)
    return (start_row, sink_rows) if window and lowest > 0 and start_row > sink_rows else (0, 0)


class Lane(data.Struct):
    """A token lane of a run."""
    position: unsigned(16)
    slot: unsigned(4)       # of its sequence
    first: unsigned(1)      # the first lane of a segment: of lanes of one slot, side by side, whose positions follow one another
    last: unsigned(1)       # the last lane of a segment


class Launch(data.Struct):
    """What the host says of one run; constant while a program runs. Lanes from n_tokens on mean nothing."""
    n_tokens: unsigned(5)   # 1 .. token_lanes
    lanes: data.ArrayLayout(Lane, 16)


class Dest(enum.Enum, shape=unsigned(2)):
    """Who takes the data of a read job."""
    LOADER = 0
    MATMUL = 1
    ATTEND = 2


class ReadJob(data.Struct):
    """One contiguous read of one port. ``offset`` counts bytes in window ``cache`` (1) or model (0)."""
    offset: unsigned(40)
    cache: unsigned(1)
    beats: unsigned(32)
    dest: Dest
    index: unsigned(16)  # descriptor index, for error reports


class MatmulCommand(data.Struct):
    n_row_groups: unsigned(16)
    n_col_blocks: unsigned(16)
    planes: unsigned(4)
    bank: unsigned(1)
    n_lanes: unsigned(5)  # token lanes at work, 1 .. token_lanes


class AttendCommand(data.Struct):
    """As in ``isa.Attend``."""
    group: unsigned(6)
    head_words: unsigned(6)
    bank: unsigned(1)
    int4: unsigned(2)
    bidirectional: unsigned(1)
    window: unsigned(16)
    sinks: unsigned(16)
    cap: unsigned(CAP_BITS)
    rebased: unsigned(1)


class RecordCommand(data.Struct):
    """Where the records of a run go: accompanies every VECTOR descriptor with the V sink."""
    offset: unsigned(40)       # of row 0 on port 0, in the cache window
    port_stride: unsigned(32)
    head_words: unsigned(6)
    int4: unsigned(2)
    index: unsigned(16)        # descriptor index


class PageAsk(data.Struct):
    """Which page holds a position of a sequence?"""
    slot: unsigned(4)
    index: unsigned(12)        # position div page_positions


class PageAnswer(data.Struct):
    """``ok``: the table has the page, and it may be read (for who reads) or belongs to the slot (for who writes)."""
    page: unsigned(12)
    ok: unsigned(1)


class DrainWord(data.StructLayout):
    """L sums of one token. Order: row block, token lane, word of the block."""
    def __init__(self, lanes):
        super().__init__({"acc": data.ArrayLayout(signed(32), lanes)})


class AttendWord(data.StructLayout):
    """L outputs of one token and query head: value = acc * scale. Order: token, head of the group, word of the head."""
    def __init__(self, lanes):
        super().__init__({"acc": data.ArrayLayout(signed(32), lanes), "scale": unsigned(32)})


class ParamWrite(data.StructLayout):
    """A word for the parameter scratch."""
    def __init__(self, lanes):
        super().__init__({"addr": unsigned(16), "data": data.ArrayLayout(unsigned(32), lanes)})


class QuantWord(data.StructLayout):
    """L quantised elements for sink ACT, Q, K or V, in order of ``word`` for each token.

    ``scale`` is the binary32 factor of the row (Q: s[scale_scalar] * imm1; K, V: s[scale_scalar]; ACT: unused).
    """
    def __init__(self, lanes):
        super().__init__({"sink": Sink, "bank": 1, "token": unsigned(4), "head": unsigned(6), "word": unsigned(16),
                          "last": 1, "scale": unsigned(32), "data": data.ArrayLayout(signed(8), lanes)})


class TopkWord(data.StructLayout):
    """L logits of one token; element 0 has number ``first``; elements numbered ``n_valid`` or more do not count. ``rescore``: the
    numbers count through the row quanta of the token's shortlist, rank by rank."""
    def __init__(self, lanes):
        super().__init__({"token": unsigned(4), "first": unsigned(20), "n_valid": unsigned(20), "rescore": 1,
                          "logits": data.ArrayLayout(unsigned(32), lanes)})
