"""The words inside the attention unit, the records it writes, and where a query vector is kept.

A query of token t and head h is kept in *lane* (t + h) mod A at *index* ``QuerySlots.index``: the lanes fill evenly
whether a command has many heads or many tokens, though a query is written before its group is known. A *pass* is one
query a lane; pass i of a lane is its i-th query in the order t * group + h, and the pass table of a slice says which
one that is.
"""

from amaranth.hdl import Cat, Signal, signed, unsigned
from amaranth.lib import data
from amaranth.utils import ceil_log2

from ..links import CAP_BITS

__all__ = ["QuerySlots", "AttentionSizes", "Share", "SliceJob", "QueryWrite", "TableWrite", "Viewers", "RecordScale",
           "ScorePass", "LaneWeight", "WeightPass", "QueryState", "DrainShift", "EXPONENT", "GUARD_BITS", "SHIFT_BITS", "STEP",
           "VISIT_GAP", "REACH", "WEIGHT_BITS", "delay", "shift_amount"]

EXPONENT = signed(16)   # of a weight or a running sum: |e| <= 2**14 + 129
GUARD_BITS = 4          # of a sum, below the last bit of the largest weight
WEIGHT_BITS = 16 + GUARD_BITS
SHIFT_BITS = 6          # of a shift; 48 and more give 0
STEP = 3                # longest shift of one stage of Values
VISIT_GAP = 6           # cycles a record takes at least
REACH = signed(6)       # of a window, in tokens of a segment: 16 and more is all of them


def _power_of_two(value):
    return isinstance(value, int) and value > 0 and value & (value - 1) == 0


class QuerySlots:
    """Lane and index of the query of a token and head."""

    def __init__(self, *, token_lanes, query_lanes, max_queries):
        if not _power_of_two(token_lanes) or token_lanes > 16:
            raise ValueError(f"token_lanes must be a power of two of at most 16, not {token_lanes!r}")
        if not _power_of_two(query_lanes):
            raise ValueError(f"query_lanes must be a power of two, not {query_lanes!r}")
        if not _power_of_two(max_queries) or max_queries < token_lanes or max_queries > 64 * token_lanes:
            raise ValueError(f"max_queries must be token_lanes ({token_lanes}) times a power of two of at most 64, "
                             f"not {max_queries!r}")
        self.heads = max_queries // token_lanes
        if query_lanes > max(self.heads, token_lanes):
            raise ValueError(f"query_lanes must be at most token_lanes or the heads of a token ({self.heads}), "
                             f"not {query_lanes!r}")
        self.query_lanes, self.max_passes = query_lanes, max_queries // query_lanes
        self.place_bits = ceil_log2(max_queries)
        self._lane_log2 = ceil_log2(query_lanes)
        self._token_log2, self._head_log2 = ceil_log2(token_lanes), ceil_log2(self.heads)
        self.index_bits = ceil_log2(self.max_passes)

    def lane(self, token, head):
        """(token + head) mod A."""
        return (token + head)[:self._lane_log2]

    def index(self, token, head):
        """Place in the lane: the bits of token and head that the lane does not say."""
        if self.query_lanes <= self.heads:
            return Cat(head[self._lane_log2:self._head_log2], token[:self._token_log2])
        return Cat(head[:self._head_log2], token[self._lane_log2:self._token_log2])


class AttentionSizes:
    """Sizes of the unit, checked once, and the widths that follow from them.

    page_positions : of a page of the cache; page_cycles : from the question for a page to the answer.
    score_bits : a dot product; sum_bits : a running sum l; acc_bits : a running sum o.
    """

    def __init__(self, *, n_ports, port_bytes, vector_lanes, token_lanes, query_lanes, max_queries, max_head_words,
                 max_positions, page_positions, page_cycles):
        if n_ports not in (1, 2, 4):
            raise ValueError(f"n_ports must be 1, 2 or 4, not {n_ports!r}")
        if port_bytes not in (4, 8, 16):
            raise ValueError(f"port_bytes must be 4, 8 or 16, not {port_bytes!r}")
        if not _power_of_two(vector_lanes) or vector_lanes > port_bytes:
            raise ValueError(f"vector_lanes must be a power of two of at most port_bytes ({port_bytes}), "
                             f"not {vector_lanes!r}")
        if not isinstance(max_head_words, int) or not 1 <= max_head_words <= 63:
            raise ValueError(f"max_head_words must be an integer in 1..63, not {max_head_words!r}")
        if not isinstance(max_positions, int) or not n_ports <= max_positions <= 1 << 16:
            raise ValueError(f"max_positions must be an integer in {n_ports}..65536, not {max_positions!r}")
        if not _power_of_two(page_positions) or page_positions < n_ports:
            raise ValueError(f"page_positions must be a power of two of at least n_ports ({n_ports}), not {page_positions!r}")
        if not isinstance(page_cycles, int) or page_cycles < 1:
            raise ValueError(f"page_cycles must be a positive integer, not {page_cycles!r}")
        self.slots = QuerySlots(token_lanes=token_lanes, query_lanes=query_lanes, max_queries=max_queries)
        self.n_ports, self.port_bytes, self.vector_lanes = n_ports, port_bytes, vector_lanes
        self.token_lanes, self.query_lanes = token_lanes, query_lanes
        self.page_positions, self.page_cycles = page_positions, page_cycles
        self.max_head_words, self.max_passes = max_head_words, self.slots.max_passes
        self.head_words_log2 = ceil_log2(max_head_words)
        self.half = port_bytes // 2
        self.beat_words = port_bytes // vector_lanes
        positions_log2 = ceil_log2(-(-max_positions // n_ports))
        self.score_bits = 14 + ceil_log2(port_bytes * max_head_words) + 2
        self.sum_bits, self.acc_bits = WEIGHT_BITS + positions_log2, WEIGHT_BITS + 8 + positions_log2

    @property
    def beat(self):
        """A word of a port."""
        return unsigned(8 * self.port_bytes)

    @property
    def acc_half(self):
        """The running sums of half a word of a head."""
        return data.ArrayLayout(signed(self.acc_bits), self.half)


class Share(data.Struct):
    """What a slice takes of a segment: ``n_past`` records from memory, then ``n_chunk`` of tokens first_token, + P, ..

    Tokens count from the first of the segment. The first ``n_sinks`` records are seen whatever the window. Of the others no token
    sees the first ``n_before``; after those come, one after the other, the records that tokens below ``reach``, reach + P, .. see.
    """
    n_past: unsigned(16)
    n_chunk: unsigned(5)
    first_token: unsigned(4)
    n_sinks: unsigned(16)
    n_before: unsigned(16)
    reach: REACH


class SliceJob(data.StructLayout):
    """A slice's part of a command, for one segment."""
    def __init__(self, sizes):
        super().__init__({
            "share": Share, "head_words": 6, "bank": 1, "int4": 2, "bidirectional": 1, "cap": CAP_BITS, "rebased": 1,
            "n_passes": range(sizes.max_passes + 1),
            "lane_passes": data.ArrayLayout(range(sizes.max_passes + 1), sizes.query_lanes),
            "rest": 3,      # idle cycles after a record, so that it takes VISIT_GAP
        })


class QueryWrite(data.StructLayout):
    """Elements of a query for the memories of all slices, or (``with_factor``) its factor too."""
    def __init__(self, sizes):
        super().__init__({
            "lane": range(sizes.query_lanes), "index": sizes.slots.index_bits, "bank": 1, "word": sizes.head_words_log2,
            "part": data.ArrayLayout(1, sizes.beat_words), "data": 8 * sizes.port_bytes,
            "with_factor": 1, "factor": 32})


class TableWrite(data.StructLayout):
    """One entry of the pass tables: the query of a lane's pass. ``token`` counts from the first of the segment."""
    def __init__(self, sizes):
        super().__init__({"lane": range(sizes.query_lanes), "number": range(sizes.max_passes), "token": 4,
                          "index": sizes.slots.index_bits})


class Viewers(data.Struct):
    """The tokens that see a record, counted from the first of the segment: first .. until - 1; those from ``rebased`` on with
    their re-based queries."""
    first: unsigned(4)
    until: REACH
    rebased: REACH


class RecordScale(data.Struct):
    """Scales of one record, binary32."""
    ks: unsigned(32)
    vs: unsigned(32)


class ScorePass(data.StructLayout):
    """The scores of one pass and record. ``index`` and ``bank`` say where the queries are, ``seen`` which lanes count; ``odd`` and
    ``last`` are of the record."""
    def __init__(self, sizes):
        lanes = sizes.query_lanes
        super().__init__({"number": range(sizes.max_passes), "score": data.ArrayLayout(signed(sizes.score_bits), lanes),
                          "index": data.ArrayLayout(sizes.slots.index_bits, lanes), "bank": data.ArrayLayout(1, lanes),
                          "seen": data.ArrayLayout(1, lanes), "odd": 1, "last": 1})


class LaneWeight(data.Struct):
    """What the values of a record are added with in one lane: o = (fresh ? 0 : o >> shift) + weight * V."""
    weight: unsigned(WEIGHT_BITS)
    shift: unsigned(SHIFT_BITS)
    fresh: unsigned(1)


class WeightPass(data.StructLayout):
    """The weights of one pass and record."""
    def __init__(self, sizes):
        super().__init__({"lanes": data.ArrayLayout(LaneWeight, sizes.query_lanes)})


class QueryState(data.StructLayout):
    """Running state of one query in one slice, for the merge."""
    def __init__(self, sizes):
        super().__init__({"o_exponent": EXPONENT, "o_seen": 1,
                          "l_exponent": EXPONENT, "l_seen": 1, "l": sizes.sum_bits})


class DrainShift(data.Struct):
    """How far a slice shifts the sums that the merge reads: by ``first`` and by ``second``, or all bits away."""
    first: unsigned(2)
    second: unsigned(2)
    drop: unsigned(1)


def delay(m, value, cycles, *, reset_less=True):
    """``value``, ``cycles`` later."""
    for _ in range(cycles):
        late = Signal(value.shape(), reset_less=reset_less)
        m.d.sync += late.eq(value)
        value = late
    return value


def shift_amount(difference):
    """A difference of exponents that is not negative, cut to SHIFT_BITS bits of ones."""
    return difference[:SHIFT_BITS] | difference[SHIFT_BITS:].any().replicate(SHIFT_BITS)
