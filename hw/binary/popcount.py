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


def _named(m, value):
    """The value as a signal of its own, so that it is made once; without a module, where it is only counted, as it is."""
    if m is None:
        return value
    signal = Signal(len(value))
    m.d.comb += signal.eq(value)
    return signal


def _full_add(m, a, b, c):
    """(sum, carry) of three bits."""
    return _named(m, a ^ b ^ c), _named(m, (a & b) | (a & c) | (b & c))


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

    Members: ``w`` all rows, row 0 lowest; ``a`` the activations of the lane; ``ones`` and ``twos`` of all rows, in the same order.
    """

    def __init__(self, *, engine_rows, columns):
        if columns < 2:
            raise ValueError(f"A row must have at least 2 columns, not {columns}")
        self._rows, self._columns = engine_rows, columns
        ones, twos = _first_counts(columns)
        super().__init__({"w": In(engine_rows * columns), "a": In(columns),
                          "ones": Out(engine_rows * ones), "twos": Out(engine_rows * twos)})

    def elaborate(self, platform):
        m = Module()
        # The columns of a group are not neighbours, so that groups are added as whole vectors; one or two columns are left over.
        groups, rest = divmod(self._columns, _GROUP_COLUMNS)
        n_ones, n_twos = _first_counts(self._columns)
        for row in range(self._rows):
            agree = _named(m, ~(self.w.word_select(row, self._columns) ^ self.a))
            parts = [agree[part * groups:][:groups] for part in range(_GROUP_COLUMNS)]
            if rest:
                parts = [Cat(bits, agree[part - rest] if part < rest else Const(0, 1)) for part, bits in enumerate(parts)]
            ones, twos = _full_add(m, *parts)
            m.d.sync += [self.ones.word_select(row, n_ones).eq(ones), self.twos.word_select(row, n_twos).eq(twos)]
        return m


def _chain(m, left, weight, n_rows):
    """The sums of a chain that begins at a weight, of each row, taken from the bits that are ``left`` of each weight."""
    carry, at, a, b = left[weight].pop(), weight, [], []
    none = Const(0, n_rows)
    inside = {0: 0, 1: 0, 2: 2, 3: 2, 4: 4}.get(len(left[weight]), 5)
    while inside:
        here, left[at] = left[at][:inside], left[at][inside:]
        if inside == 2:
            a.append(here[0])
            b.append(here[1])
        else:
            parity, first = _full_add(m, *here[:3])
            parity, second = _full_add(m, parity, here[3], here[4] if inside == 5 else none)
            a += parity, first
            b += none, second
        at = weight + len(a)
        inside = {0: 0, 1: 0, 2: 2, 3: 2, 4: 2}.get(len(left.get(at, ())), 5)
    a, b = [carry, *a], [carry, *b]     # it enters at a place of its own
    return [_named(m, Cat(bits[row] for bits in a) + Cat(bits[row] for bits in b))[1:] for row in range(n_rows)]


def _level(m, bits, n_weights, n_rows):
    """Bits of each weight behind one level of chains; a bit is one of every row."""
    left, sums = dict(enumerate(map(list, bits))), []
    for weight in range(len(bits)):
        while len(left[weight]) > 2:
            sums.append((weight, _chain(m, left, weight, n_rows)))
    after = [left.get(weight, []) for weight in range(n_weights)]
    for weight, totals in sums:
        for place in range(min(len(totals[0]), n_weights - weight)):
            after[weight + place].append(Cat(total[place] for total in totals))
    return after


def counter_levels(columns):
    """Levels of chains, each with a register behind it."""
    bits, levels = [[Const(0, 1)] * n for n in _first_counts(columns)], 0
    while max(map(len, bits)) > 2:
        bits, levels = _level(None, bits, columns.bit_length(), 1), levels + 1
    return levels


class Counters(wiring.Component):
    """Sums of the bits of equal weight.

    Parameters
    ----------
    engine_rows, columns : int
        As in :class:`Agreements`.

    Members: ``ones`` and ``twos``; for each row ``left`` and ``right``, whose sum is the count, ``latency`` cycles later.
    """

    def __init__(self, *, engine_rows, columns):
        self._rows, self.bits, self.latency = engine_rows, columns.bit_length(), counter_levels(columns)
        ones, twos = _first_counts(columns)
        super().__init__({"ones": In(engine_rows * ones), "twos": In(engine_rows * twos),
                          "left": Out(self.bits).array(engine_rows), "right": Out(self.bits).array(engine_rows)})

    def elaborate(self, platform):
        m = Module()
        bits = [[Cat(of_rows.word_select(row, n)[k] for row in range(self._rows)) for k in range(n)]
                for of_rows in (self.ones, self.twos) for n in (len(of_rows) // self._rows,)]
        for level in range(self.latency):
            kept = []
            for weight, values in enumerate(_level(m, bits, self.bits, self._rows)):
                kept.append([Signal(self._rows, name=f"level{level}_{1 << weight}s_{k}", reset_less=True)
                             for k in range(len(values))])
                m.d.sync += [register.eq(value) for register, value in zip(kept[-1], values)]
            bits = kept
        for row in range(self._rows):
            for k, number in enumerate((self.left[row], self.right[row])):
                m.d.comb += number.eq(Cat(here[k][row] if k < len(here) else Const(0, 1) for here in bits))
        return m
