"""Packed weights to look-up codes.

    byte ──► high trits (9 thresholds) ──► low part = byte - 27 high ──► 5 trits ──┐
    byte ──►                                                                     ──┴─► (entry, sign) a group of 3

A byte is 27 h + l with h = w3' + 3 w4' and l = w0' + 3 w1' + 9 w2' (w' = w + 1). A group of three columns may take
trits of two bytes. Rate: a beat a cycle. Latency: ``BeatDecode.LATENCY`` cycles. Bytes above 242 give some trits or
other.
"""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..formats import TRITS_PER_BYTE
from .words import GROUP_COLUMNS, GroupCode, entry_of, group_sizes

__all__ = ["TritByte", "TritGroup", "BeatDecode"]

_LOW = 3        # trits of the low part; two are left for the high part


def _trit_codes(number, n_trits):
    """Two bits a trit: ordinary ternary digits, the lowest first."""
    return sum((number // 3**place % 3) << 2 * place for place in range(n_trits))


class TritByte(wiring.Component):
    """Five trits of a byte, two bits each (w + 1). Latency: 4 cycles."""

    LATENCY = 4

    def __init__(self):
        super().__init__({"byte": In(8), "trits": Out(2 * TRITS_PER_BYTE)})

    def elaborate(self, platform):
        m = Module()
        s1_byte = Signal(8, reset_less=True)
        m.d.sync += s1_byte.eq(self.byte)

        # h = number of thresholds that the byte reaches, at once as two trits
        reaches = [Const(1)] + [s1_byte >= 27 * high for high in range(1, 9)] + [Const(0)]
        high = [reaches[k] & ~reaches[k + 1] for k in range(9)]
        s2_high, s2_low = Signal(4, reset_less=True), Signal(5, reset_less=True)
        m.d.sync += [
            s2_high.eq(Cat(high[1] | high[4] | high[7], high[2] | high[5] | high[8],
                           reaches[3] & ~reaches[6], reaches[6])),
            s2_low.eq(s1_byte[:5]),
        ]

        s2_away = Signal(5)         # 27 h modulo 32
        with m.Switch(s2_high):
            for h in range(9):
                with m.Case(_trit_codes(h, 2)):
                    m.d.comb += s2_away.eq(27 * h % 32)
            with m.Default():
                m.d.comb += s2_away.eq(27 * 8 % 32)
        s3_high, s3_low = Signal(4, reset_less=True), Signal(5, reset_less=True)
        m.d.sync += [s3_high.eq(s2_high), s3_low.eq(s2_low - s2_away)]

        low = Signal(2 * _LOW)
        with m.Switch(s3_low):
            for number in range(27):
                with m.Case(number):
                    m.d.comb += low.eq(_trit_codes(number, _LOW))
            with m.Default():
                m.d.comb += low.eq(_trit_codes(26, _LOW))
        s4_trits = Signal(2 * TRITS_PER_BYTE, reset_less=True)
        m.d.sync += s4_trits.eq(Cat(low, s3_high))
        m.d.comb += self.trits.eq(s4_trits)
        return m


class TritGroup(wiring.Component):
    """Table entry and sign of a group of three trits. Combinational."""

    def __init__(self):
        super().__init__({"trits": In(2 * GROUP_COLUMNS), "code": Out(GroupCode)})

    def elaborate(self, platform):
        m = Module()
        with m.Switch(self.trits):
            for number in range(3**GROUP_COLUMNS):
                weights = [number // 3**place % 3 - 1 for place in range(GROUP_COLUMNS)]
                entry, negate = entry_of(weights)
                with m.Case(_trit_codes(number, GROUP_COLUMNS)):
                    m.d.comb += [self.code.entry.eq(entry), self.code.negate.eq(negate)]
        return m


class BeatDecode(wiring.Component):
    """A beat of bytes to the codes of its rows; codes are counted row by row.

    Parameters
    ----------
    engine_rows : int
        Rows of a beat.
    beat_bytes : int
        Bytes of a beat, a multiple of the rows.

    Members: ``beat``: bytes, the first lowest; ``codes``: one a group, as in :func:`group_sizes`.
    """

    LATENCY = TritByte.LATENCY + 1

    def __init__(self, *, engine_rows, beat_bytes):
        if beat_bytes % engine_rows:
            raise ValueError(f"Beat bytes must be a multiple of the engine rows ({engine_rows}), not {beat_bytes}")
        self._rows, self._bytes = engine_rows, beat_bytes
        self._sizes = group_sizes(TRITS_PER_BYTE * beat_bytes // engine_rows)
        super().__init__({
            "beat": In(8 * beat_bytes),
            "codes": Out(data.ArrayLayout(GroupCode, engine_rows * len(self._sizes))),
        })

    def elaborate(self, platform):
        m = Module()
        trits = []
        for k in range(self._bytes):
            m.submodules[f"byte{k}"] = byte = TritByte()
            m.d.comb += byte.byte.eq(self.beat[8 * k:8 * k + 8])
            trits += [byte.trits[2 * place:2 * place + 2] for place in range(TRITS_PER_BYTE)]

        codes = []
        at = 0
        for row in range(self._rows):
            for g, size in enumerate(self._sizes):
                m.submodules[f"row{row}_group{g}"] = group = TritGroup()
                zero = [Const(1, 2)] * (GROUP_COLUMNS - size)
                m.d.comb += group.trits.eq(Cat(*trits[at:at + size], *zero))
                codes.append(group.code)
                at += size
        s5_codes = Signal(self.codes.shape(), reset_less=True)
        m.d.sync += s5_codes.eq(Cat(*codes))
        m.d.comb += self.codes.eq(s5_codes)
        return m
