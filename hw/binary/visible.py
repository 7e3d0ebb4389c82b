"""Which lanes see a row of an attention map.

Lane i of a chunk is token chunk M + i, the row is token j. They see each other when both are of one sequence of 2**seq_log2 tokens,
j mod 2**seq_log2 < length of the sequence, and, if causal, j <= chunk M + i.

::

    j --+--> sequence --> length --+-- place < length -----------------------------+
        +--> place ----------------+                                               +--> seen
        +--> equal to the lane's number above bit seq_log2, and not above it ------+

M is a power of two, so that a lane's number is the low bits of its token's. Rate: a row a cycle. Latency: 2 cycles of ``en``.
"""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .links import Lengths

__all__ = ["VisibleLanes"]


class VisibleLanes(wiring.Component):
    """Parameters: ``token_lanes`` (a power of two), ``max_sequences``.

    Members
    -------
    en : the row moves on
    row : token of the row
    chunk, causal, seq_log2 : as in ``isa.Matmul``; constant while rows are under way
    lengths : In(Lengths)
    seen : a bit a lane, 2 cycles of ``en`` after ``row``
    """

    def __init__(self, *, token_lanes, max_sequences):
        if token_lanes < 2 or token_lanes & (token_lanes - 1):
            raise ValueError(f"token_lanes must be a power of two of at least 2, not {token_lanes!r}")
        self._lanes, self._sequences = token_lanes, max_sequences
        super().__init__({
            "en": In(1), "row": In(12), "chunk": In(8), "causal": In(1), "seq_log2": In(4), "lengths": In(Lengths(max_sequences)),
            "seen": Out(token_lanes),
        })

    def elaborate(self, platform):
        m = Module()
        lane_bits = self._lanes.bit_length() - 1
        within = Cat(self.seq_log2 > k for k in range(12))      # bits of the place in a sequence
        sequence, length = Signal(12), Signal(13)
        m.d.comb += sequence.eq(self.row >> self.seq_log2)
        lengths = Array([*self.lengths.tokens, Const(0, 13)])
        known = sequence < self._sequences
        m.d.comb += length.eq(lengths[Mux(known, sequence, self._sequences)])

        row_chunk, row_lane = self.row[lane_bits:], self.row[:lane_bits]
        s1_length, s1_place, s1_lane = Signal(13), Signal(12), Signal(lane_bits)
        s1_near, s1_free, s1_here = Signal(), Signal(), Signal()
        with m.If(self.en):
            m.d.sync += [
                s1_length.eq(length), s1_place.eq(self.row & within), s1_lane.eq(row_lane),
                # One sequence as far as chunks go; whatever lane; the row's token is of this chunk.
                s1_near.eq(((row_chunk ^ self.chunk) & ~within[lane_bits:]) == 0),
                s1_free.eq(~self.causal | (row_chunk < self.chunk)), s1_here.eq(row_chunk == self.chunk),
            ]

        s2_valid, s2_lanes = Signal(), Signal(self._lanes)
        with m.If(self.en):
            m.d.sync += s2_valid.eq((s1_place < s1_length) & s1_near)
            for lane in range(self._lanes):
                number = Const(lane, lane_bits)
                same = ((s1_lane ^ number) & ~within[:lane_bits]) == 0
                earlier = s1_lane <= number if lane < self._lanes - 1 else Const(1)
                m.d.sync += s2_lanes[lane].eq(same & (s1_free | (s1_here & earlier)))
        m.d.comb += self.seen.eq(s2_lanes & s2_valid.replicate(self._lanes))
        return m
