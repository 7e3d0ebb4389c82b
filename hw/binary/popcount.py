"""Columns in which two rows of bits agree, counted: C pairs of bits to two numbers whose sum is the count.

    w, a ──► Agreements: three columns to a count of 2 bits, two LUT6 ──reg──► Counters, a register a level ──► two numbers

The counters are short carry chains, until no weight has more than two bits. A chain begins with a bit that comes in as its carry,
and goes on upwards while a weight has two bits or more that no chain has taken:

    five (or four) bits   in two places: their parity, and the two carries of counting them       2 LUTs take three bits away
    two bits              in one place                                                            1 LUT takes one bit away

Between two registers lies one LUT, or one LUT and a carry chain. For 64 columns: 43 and 27 LUTs. Rate: a pair of rows a cycle.
"""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Agreements", "Counters", "counter_levels"]

_GROUP_COLUMNS = 3      # what a LUT6 takes


def _full_add(a, b, c):
    """(sum, carry) of three bits."""
    return a ^ b ^ c, (a & b) | (a & c) | (b & c)


def _first_counts(columns):
    """Bits of each weight (of 2**weight) that the agreements give."""
    groups, rest = divmod(columns, _GROUP_COLUMNS)
    return [groups + (rest > 0), groups + (rest > 1)]


class Agreements(wiring.Component):
    """Counts of three columns at a time of all rows of a beat, one cycle later.

    Parameters
    ----------
    engine_rows, columns : int
        Rows of a beat, at least 2 columns of each.

    Members: ``w`` all rows, row 0 lowest; ``a`` the activations of the lane; ``ones`` and ``twos`` of each row.
    """

    def __init__(self, *, engine_rows, columns):
        if columns < 2:
            raise ValueError(f"A row must have at least 2 columns, not {columns}")
        self._rows, self._columns = engine_rows, columns
        ones, twos = _first_counts(columns)
        super().__init__({"w": In(engine_rows * columns), "a": In(columns),
                          "ones": Out(ones).array(engine_rows), "twos": Out(twos).array(engine_rows)})

    def elaborate(self, platform):
        m = Module()
        for row in range(self._rows):
            agree = ~(self.w.word_select(row, self._columns) ^ self.a)
            ones, twos = [], []
            for first in range(0, self._columns, _GROUP_COLUMNS):
                group = [agree[k] for k in range(first, min(first + _GROUP_COLUMNS, self._columns))]
                if len(group) == 1:
                    ones += group
                else:
                    one, two = _full_add(*group, *[Const(0, 1)] * (_GROUP_COLUMNS - len(group)))
                    ones.append(one)
                    twos.append(two)
            for register, bits in (self.ones[row], ones), (self.twos[row], twos):
                m.d.sync += register.eq(Cat(*bits))
        return m


def _chain(left, weight):
    """The sum of a chain that begins at a weight, taken from the bits that are ``left`` of each."""
    carry, at, a, b = left[weight].pop(), weight, [], []
    inside = {0: 0, 1: 0, 2: 2, 3: 2, 4: 4}.get(len(left[weight]), 5)
    while inside:
        here, left[at] = left[at][:inside], left[at][inside:]
        if inside == 2:
            a.append(here[0])
            b.append(here[1])
        else:
            parity, first = _full_add(*here[:3])
            parity, second = _full_add(parity, here[3], here[4] if inside == 5 else Const(0, 1))
            a += parity, first
            b += Const(0, 1), second
        at = weight + len(a)
        inside = {0: 0, 1: 0, 2: 2, 3: 2, 4: 2}.get(len(left.get(at, ())), 5)
    return (Cat(carry, *a) + Cat(carry, *b))[1:]    # the carry enters at a place of its own


def _level(bits, n_weights):
    """Bits of each weight behind one level of chains."""
    left, sums = dict(enumerate(map(list, bits))), []
    for weight in range(len(bits)):
        while len(left[weight]) > 2:
            sums.append((weight, _chain(left, weight)))
    after = [left.get(weight, []) for weight in range(n_weights)]
    for weight, total in sums:
        for place in range(min(len(total), n_weights - weight)):
            after[weight + place].append(total[place])
    return after


def counter_levels(columns):
    """Levels of chains, each with a register behind it."""
    bits, levels = [[Const(0, 1)] * n for n in _first_counts(columns)], 0
    while max(map(len, bits)) > 2:
        bits, levels = _level(bits, columns.bit_length()), levels + 1
    return levels


class Counters(wiring.Component):
    """Sums of the bits of equal weight, for one row.

    Parameters
    ----------
    columns : int
        As in :class:`Agreements`.

    Members: ``ones`` and ``twos``; ``left`` and ``right``, whose sum is the count, ``latency`` cycles later.
    """

    def __init__(self, *, columns):
        self.bits, self.latency = columns.bit_length(), counter_levels(columns)
        ones, twos = _first_counts(columns)
        super().__init__({"ones": In(ones), "twos": In(twos), "left": Out(self.bits), "right": Out(self.bits)})

    def elaborate(self, platform):
        m = Module()
        bits = [list(self.ones), list(self.twos)]
        for level in range(self.latency):
            kept = []
            for weight, values in enumerate(_level(bits, self.bits)):
                kept.append([Signal(name=f"level{level}_{1 << weight}s_{k}", reset_less=True) for k in range(len(values))])
                m.d.sync += [register.eq(value) for register, value in zip(kept[-1], values)]
            bits = kept
        for k, number in enumerate((self.left, self.right)):
            m.d.comb += number.eq(Cat(here[k] if k < len(here) else Const(0, 1) for here in bits))
        return m
