# amaranth: UnusedElaboratable=no
"""What becomes of the rows of a binary MATMUL, against the golden functions."""

import pytest
from amaranth.hdl import Assert, Assume, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from celosia.hw.binary.collect import Collector
from celosia.hw.binary.isa import ROW_BITS, Matmul, Post, ThresholdParam
from celosia.hw.binary.post import BinaryPost
from celosia.hw.binary.post_control import RowParam, row_param
from celosia.hw.binary.post_lane import PostLane
from celosia.hw.binary.visible import VisibleLanes
from celosia.sim_tb.proof import prove
from celosia.sim_tb.run import simulate


@pytest.mark.sim
@pytest.mark.parametrize("token_lanes, columns", [(4, 32), (8, 8), (8, 64)])
def test_collector_matches_golden(token_lanes, columns):
    simulate(Collector(token_lanes=token_lanes, columns=columns), "celosia.sim_tb.tb_binary_collect",
             name=f"binary_collect_{columns}", parameters={"token_lanes": token_lanes, "columns": columns})


@pytest.mark.sim
@pytest.mark.parametrize("sizes", [
    {"token_lanes": 8, "engine_rows": 2, "columns": 32, "port_bytes": 8, "max_sequences": 16, "softmax": True},
    {"token_lanes": 16, "engine_rows": 8, "columns": 8, "port_bytes": 16, "max_sequences": 4, "softmax": True},
    {"token_lanes": 8, "engine_rows": 4, "columns": 64, "port_bytes": 4, "max_sequences": 5, "softmax": False},
], ids=["tiny", "narrow", "without_softmax"])
def test_post_matches_golden(sizes):
    simulate(BinaryPost(**sizes), "celosia.sim_tb.tb_binary_post", name=f"binary_post_{sizes['token_lanes']}_{sizes['columns']}",
             parameters=sizes | {"n_commands": 50})


@pytest.mark.parametrize("sizes, rule", [
    ({"token_lanes": 0}, "token_lanes must be"),
    ({"columns": 20}, "columns must be"),
    ({"columns": 264}, "columns must be"),
])
def test_collector_rejects_sizes(sizes, rule):
    with pytest.raises(ValueError, match=rule):
        Collector(**({"token_lanes": 8, "columns": 64} | sizes))


@pytest.mark.parametrize("sizes, rule", [
    ({"token_lanes": 6}, "token_lanes must be a power of two"),
    ({"engine_rows": 3}, "engine_rows must be"),
    ({"columns": 24}, "columns must be"),
    ({"port_bytes": 64}, "port_bytes must be"),
])
def test_post_rejects_sizes(sizes, rule):
    with pytest.raises(ValueError, match=rule):
        BinaryPost(**({"token_lanes": 8, "engine_rows": 2, "columns": 32, "port_bytes": 8, "max_sequences": 4} | sizes))


def held(m, value):
    """``value`` as it was in the first cycle; and not before the second."""
    first, kept = Signal(init=1), Signal.like(value, name="kept")
    m.d.sync += first.eq(0)
    with m.If(first):
        m.d.sync += kept.eq(value)
    return kept, ~first


class AnyThreshold(wiring.Component):
    """Any word of P, any row of a SIGN.  Asserts: the bit of the lane, three cycles on, is (y >= level) ^ flip."""

    LATENCY = 4

    def __init__(self):
        super().__init__({"word": In(64), "y": In(signed(ROW_BITS))})

    def elaborate(self, platform):
        m = Module()
        word, settled = held(m, self.word)
        y, _ = held(m, self.y)
        self.lane_bit(m, word, y, settled)
        return m

    def lane_bit(self, m, word, y, settled):
        """The Assert; returns the bit, and whether it is of ``word`` and ``y``."""
        m.submodules.lane = lane = PostLane()
        fields, param, age = Signal(Matmul), Signal(RowParam), Signal(range(self.LATENCY + 1))
        m.d.comb += [
            fields.post.eq(Post.SIGN), row_param(param, word, fields),
            lane.en.eq(1), lane.y.eq(y), lane.control.mult.eq(param.mult), lane.control.bias.eq(param.bias),
        ]
        with m.If(settled & (age != self.LATENCY)):
            m.d.sync += age.eq(age + 1)
        bit, old = ~lane.total[-1] ^ param.flip, age == self.LATENCY
        bar = ThresholdParam(word)
        m.d.comb += Assert(~old | (bit == ((y >= bar.level) ^ bar.flip)))
        return bit, old


class AnyFold(AnyThreshold):
    """Any small fractions scale = a / d and offset = b / d, any y, and the level and flip that they are folded to.

    Asserts: the bit of the lane is whether scale y + offset >= 0.
    """

    BITS = 6

    def __init__(self, *, shifted=0):
        self._shifted = shifted
        wiring.Component.__init__(self, {"a": In(signed(self.BITS)), "b": In(signed(self.BITS)), "y": In(signed(self.BITS)),
                                         "level": In(signed(self.BITS + 2))})

    def elaborate(self, platform):
        m = Module()
        a, settled = held(m, self.a)
        b, _ = held(m, self.b)
        y, _ = held(m, self.y)
        level, _ = held(m, self.level)
        # a > 0: level = ceil(-b / a).  a < 0: flipped, level = floor(b / -a) + 1.  a = 0: always or never.
        size = Mux(a < 0, -a, a)
        up, down = (((level - 1) * size < -b) & (level * size >= -b)), (((level - 1) * size <= b) & (level * size > b))
        word = Signal(ThresholdParam)
        m.d.comb += [
            word.level.eq(Mux(a == 0, -(1 << 31), level + self._shifted)), word.flip.eq((a < 0) | ((a == 0) & (b < 0))),
            Assume(~settled | (a == 0) | Mux(a < 0, down, up)),
        ]
        bit, old = self.lane_bit(m, word.as_value(), y, settled)
        m.d.comb += Assert(~old | (bit == (a * y + b >= 0)))
        return m


class AnyRow(wiring.Component):
    """Any row and chunk of a map, four lanes, eight sequences of any lengths.

    Asserts: a lane that sees the row is of its sequence, the row is valid, and with ``causal`` not later; and the other way round.
    """

    LANES, SEQUENCES, TOKEN_BITS = 4, 8, 5

    def __init__(self):
        lane_bits = self.LANES.bit_length() - 1
        super().__init__({"row": In(self.TOKEN_BITS), "chunk": In(self.TOKEN_BITS - lane_bits), "causal": In(1), "seq_log2": In(3),
                          "length": In(self.TOKEN_BITS + 1), "sequence": In(3)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.visible = visible = VisibleLanes(token_lanes=self.LANES, max_sequences=self.SEQUENCES)
        row, settled = held(m, self.row)
        chunk, causal, seq_log2, length, sequence = (held(m, value)[0] for value in (
            self.chunk, self.causal, self.seq_log2, self.length, self.sequence))
        age = Signal(range(4))
        with m.If(settled & (age != 3)):
            m.d.sync += age.eq(age + 1)
        # One of the sequences has tokens; whichever it is.
        m.d.comb += [
            visible.en.eq(1), visible.row.eq(row), visible.chunk.eq(chunk), visible.causal.eq(causal),
            visible.seq_log2.eq(seq_log2), visible.lengths.tokens[sequence].eq(length),
        ]
        own = row >> seq_log2
        valid = (own == sequence) & (row - (own << seq_log2) < length)
        for lane in range(self.LANES):
            token = chunk * self.LANES + lane
            sees = valid & (token >> seq_log2 == own) & (~causal | (row <= token))
            m.d.comb += Assert((age != 3) | (visible.seen[lane] == sees))
        return m


def test_bit_is_the_comparison():
    prove(AnyThreshold(), depth=8)


def test_fold_is_the_sign():
    prove(AnyFold(), depth=8)


def test_a_fold_beside_it_is_found():
    with pytest.raises(AssertionError, match="does not hold"):
        prove(AnyFold(shifted=1), depth=8)


def test_lanes_see_their_sequence():
    prove(AnyRow(), depth=6)
