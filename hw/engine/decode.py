"""Packed weights to look-up codes.

    byte ──► high trits (thresholds) ──┬──► byte - 27 high ──► (entry, sign) of the low three trits
                                       └──► trits of other bytes ──► (entry, sign) of three high trits
                                                                       signs of a row ──► count

A byte is 27 h + l with h = w3' + 3 w4' and l = w0' + 3 w1' + 9 w2' (w' = w + 1). Rate: a beat a cycle. Latency:
``BeatDecode.LATENCY`` cycles. Bytes above 242 give some codes or other.
"""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..formats import TRITS_PER_BYTE
from .words import GROUP_COLUMNS, GroupCode, column_groups, entry_of

__all__ = ["TritByte", "TritGroup", "BeatDecode"]

_LOW_NUMBERS = 3**GROUP_COLUMNS                         # numbers of the low part
_HIGH = TRITS_PER_BYTE - GROUP_COLUMNS                  # trits of the high part
_COUNTED = 6                                            # signs that are counted at a time: the inputs of a LUT


def _trit_codes(number, n_trits):
    """Two bits a trit: ordinary ternary digits, the lowest first."""
    return sum((number // 3**place % 3) << 2 * place for place in range(n_trits))


def _code_of(number):
    """(entry, negate) of a group by its ternary number."""
    return entry_of([number // 3**place % 3 - 1 for place in range(GROUP_COLUMNS)])


class TritByte(wiring.Component):
    """The code of the low three trits of a byte after ``LATENCY`` cycles; its high two trits, two bits each (w + 1), one
    cycle sooner."""

    LATENCY = 4

    def __init__(self):
        super().__init__({"byte": In(8), "high": Out(2 * _HIGH), "code": Out(GroupCode)})

    def elaborate(self, platform):
        m = Module()
        s1_byte = Signal(8, reset_less=True)
        m.d.sync += s1_byte.eq(self.byte)

        # h = number of thresholds that the byte reaches, at once as two trits
        reaches = [Const(1)] + [s1_byte >= _LOW_NUMBERS * high for high in range(1, 9)] + [Const(0)]
        high = [reaches[k] & ~reaches[k + 1] for k in range(9)]
        s2_high, s2_low = Signal(2 * _HIGH, reset_less=True), Signal(5, reset_less=True)
        m.d.sync += [
            s2_high.eq(Cat(high[1] | high[4] | high[7], high[2] | high[5] | high[8],
                           reaches[3] & ~reaches[6], reaches[6])),
            s2_low.eq(s1_byte[:5]),
        ]

        s2_away = Signal(5)         # 27 h modulo 32
        with m.Switch(s2_high):
            for h in range(9):
                with m.Case(_trit_codes(h, _HIGH)):
                    m.d.comb += s2_away.eq(_LOW_NUMBERS * h % 32)
            with m.Default():
                m.d.comb += s2_away.eq(_LOW_NUMBERS * 8 % 32)
        s3_high, s3_low = Signal(2 * _HIGH, reset_less=True), Signal(5, reset_less=True)
        m.d.sync += [s3_high.eq(s2_high), s3_low.eq(s2_low - s2_away)]

        s4_code = Signal(GroupCode, reset_less=True)
        with m.Switch(s3_low):
            for number in range(_LOW_NUMBERS):
                entry, negate = _code_of(number)
                with m.Case(number):
                    m.d.sync += [s4_code.entry.eq(entry), s4_code.negate.eq(negate)]
        m.d.comb += [self.high.eq(s3_high), self.code.eq(s4_code)]
        return m


class TritGroup(wiring.Component):
    """The code of three trits, one cycle later."""

    def __init__(self):
        super().__init__({"trits": In(2 * GROUP_COLUMNS), "code": Out(GroupCode)})

    def elaborate(self, platform):
        m = Module()
        code = Signal(GroupCode, reset_less=True)
        m.d.comb += self.code.eq(code)
        with m.Switch(self.trits):
            for number in range(_LOW_NUMBERS):
                entry, negate = _code_of(number)
                with m.Case(_trit_codes(number, GROUP_COLUMNS)):
                    m.d.sync += [code.entry.eq(entry), code.negate.eq(negate)]
        return m


class BeatDecode(wiring.Component):
    """A beat of bytes to the codes of its rows; codes are counted row by row.

    Parameters
    ----------
    engine_rows : int
        Rows of a beat.
    beat_bytes : int
        Bytes of a beat, a multiple of the rows.

    Members: ``beat``: bytes, the first lowest; ``codes``: one a group, as in :func:`column_groups`; ``counts``: how many
    codes of each row are negated, ``COUNT_LAG`` cycles after the codes.
    """

    LATENCY = TritByte.LATENCY
    COUNT_LAG = 2

    def __init__(self, *, engine_rows, beat_bytes):
        if beat_bytes % engine_rows:
            raise ValueError(f"Beat bytes must be a multiple of the engine rows ({engine_rows}), not {beat_bytes}")
        self._rows, self._row_bytes = engine_rows, beat_bytes // engine_rows
        self._n_groups = len(column_groups(TRITS_PER_BYTE * self._row_bytes))
        super().__init__({
            "beat": In(8 * beat_bytes), "codes": Out(data.ArrayLayout(GroupCode, engine_rows * self._n_groups)),
            "counts": Out(range(self._n_groups + 1)).array(engine_rows),
        })

    def elaborate(self, platform):
        m = Module()
        codes = []
        for row in range(self._rows):
            low, high = [], []
            for k in range(row * self._row_bytes, (row + 1) * self._row_bytes):
                m.submodules[f"byte{k}"] = byte = TritByte()
                m.d.comb += byte.byte.eq(self.beat[8 * k:8 * k + 8])
                low.append(byte.code)
                high += [byte.high[2 * place:2 * place + 2] for place in range(_HIGH)]
            high += [Const(1, 2)] * (-len(high) % GROUP_COLUMNS)        # weight 0
            for g in range(len(high) // GROUP_COLUMNS):
                m.submodules[f"row{row}_high{g}"] = group = TritGroup()
                m.d.comb += group.trits.eq(Cat(*high[g * GROUP_COLUMNS:(g + 1) * GROUP_COLUMNS]))
                low.append(group.code)
            self._count(m, row, [code.negate for code in low])
            codes += low
        m.d.comb += self.codes.eq(Cat(*codes))
        return m

    def _count(self, m, row, signs):
        """The number of signs of a row that are set."""
        parts = []
        for k in range(0, len(signs), _COUNTED):
            some = Cat(*signs[k:k + _COUNTED])
            s5_part = Signal(range(len(some) + 1), name=f"row{row}_s5_part{k // _COUNTED}", reset_less=True)
            with m.Switch(some):
                for value in range(1 << len(some)):
                    with m.Case(value):
                        m.d.sync += s5_part.eq(value.bit_count())
            parts.append(s5_part)
        s6_count = Signal(range(self._n_groups + 1), name=f"row{row}_s6_count", reset_less=True)
        m.d.sync += s6_count.eq(sum(parts))
        m.d.comb += self.counts[row].eq(s6_count)
