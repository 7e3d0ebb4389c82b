"""Packed weights to look-up codes.

    byte ──► high (thresholds) ──┬──► low = byte - 27 high ──► (entry, sign) of the low three trits
                                 └──► with those of other bytes of the row ──► (entry, sign) of three high trits
                                                                                   signs of a row ──► count

A byte is 27 high + low with high = w3' + 3 w4' and low = w0' + 3 w1' + 9 w2' (w' = w + 1). Of three bytes A, B, C of a row
the high trits make two groups: both of A with the lower one of B, the upper one of B with both of C. Only those of B are
taken apart.

Rate: a beat a cycle. Latency: ``BeatDecode.LATENCY`` cycles. Bytes above 242 give some codes or other.
"""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..formats import TRITS_PER_BYTE
from .words import GROUP_COLUMNS, GroupCode, column_groups, entry_of

__all__ = ["TritByte", "BeatDecode"]

_LOW_NUMBERS = 3**GROUP_COLUMNS                         # numbers of the low part
_HIGH_TRITS = TRITS_PER_BYTE - GROUP_COLUMNS
_HIGH_NUMBERS = 3**_HIGH_TRITS
_NO_TRIT, _NO_PAIR = Const(1, 2), Const(4, 4)           # weights 0
_COUNTED = 6                                            # signs that are counted at a time: the inputs of a LUT


def _choose(m, code, key, numbers):
    """Set ``code`` to that of the group whose ternary number is ``numbers[key]``."""
    with m.Switch(key):
        for value, number in numbers.items():
            entry, negate = entry_of([number // 3**place % 3 - 1 for place in range(GROUP_COLUMNS)])
            with m.Case(value):
                m.d.sync += [code.entry.eq(entry), code.negate.eq(negate)]


class TritByte(wiring.Component):
    """The number of the high two trits of a byte after ``HIGH_LATENCY`` cycles, the code of the low three after
    ``LATENCY``."""

    HIGH_LATENCY, LATENCY = 2, 4

    def __init__(self):
        super().__init__({"byte": In(8), "high": Out(range(_HIGH_NUMBERS)), "code": Out(GroupCode)})

    def elaborate(self, platform):
        m = Module()
        s1_byte = Signal(8, reset_less=True)
        m.d.sync += s1_byte.eq(self.byte)

        s2_high, s2_low = Signal.like(self.high, reset_less=True), Signal(5, reset_less=True)
        m.d.sync += s2_low.eq(s1_byte[:5])
        with m.Switch(s1_byte):
            for byte in range(1 << 8):
                with m.Case(byte):
                    m.d.sync += s2_high.eq(min(byte // _LOW_NUMBERS, _HIGH_NUMBERS - 1))

        s2_away = Signal(5)         # 27 high modulo 32
        with m.Switch(s2_high):
            for high in range(_HIGH_NUMBERS):
                with m.Case(high):
                    m.d.comb += s2_away.eq(_LOW_NUMBERS * high % 32)
        s3_low = Signal(5, reset_less=True)
        m.d.sync += s3_low.eq(s2_low - s2_away)

        s4_code = Signal(GroupCode, reset_less=True)
        _choose(m, s4_code, s3_low, {number: number for number in range(_LOW_NUMBERS)})
        m.d.comb += [self.high.eq(s2_high), self.code.eq(s4_code)]
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
            row_codes, highs = [], []
            for k in range(row * self._row_bytes, (row + 1) * self._row_bytes):
                m.submodules[f"byte{k}"] = byte = TritByte()
                m.d.comb += byte.byte.eq(self.beat[8 * k:8 * k + 8])
                row_codes.append(byte.code)
                highs.append(byte.high)
            for k in range(0, len(highs), 3):
                row_codes += self._high_codes(m, f"row{row}_high{k}", highs[k:k + 3])
            self._count(m, row, [code.negate for code in row_codes])
            codes += row_codes
        m.d.comb += self.codes.eq(Cat(*codes))
        return m

    def _high_codes(self, m, name, highs):
        """Codes of the high trits of up to three bytes."""
        s3_first, s3_last = (Signal(range(_HIGH_NUMBERS), name=f"{name}_s3_{end}", reset_less=True) for end in ("first", "last"))
        s3_lower, s3_upper = (Signal(2, name=f"{name}_s3_{which}", reset_less=True) for which in ("lower", "upper"))
        m.d.sync += s3_first.eq(highs[0])
        lower, upper, last = _NO_TRIT, _NO_TRIT, _NO_PAIR
        if len(highs) > 1:
            lower, upper = s3_lower, s3_upper
            with m.Switch(highs[1]):
                for number in range(_HIGH_NUMBERS):
                    with m.Case(number):
                        m.d.sync += [s3_lower.eq(number % 3), s3_upper.eq(number // 3)]
        if len(highs) > 2:
            last = s3_last
            m.d.sync += s3_last.eq(highs[2])
        pairs_and_trits = [(pair, trit) for pair in range(_HIGH_NUMBERS) for trit in range(3)]
        s4_codes = [Signal(GroupCode, name=f"{name}_s4_code{k}", reset_less=True) for k in range(min(len(highs), 2))]
        _choose(m, s4_codes[0], Cat(s3_first, lower), {pair | trit << 4: pair + 9 * trit for pair, trit in pairs_and_trits})
        if len(highs) > 1:
            _choose(m, s4_codes[1], Cat(upper, last), {trit | pair << 2: trit + 3 * pair for pair, trit in pairs_and_trits})
        return s4_codes

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
