"""One token lane: the dot products of R rows x C columns with its activations, from sums that were looked up.

    found ─x─┐
             +──reg──┐
    found ─x─┘       +──reg──┐
    found ─x─┐       │       + ...
             +──reg──┘       │        last pair of a row: found ─x─ + count
    found ─x─┘        ...  ──┘
     LUTs               DSPs

-t = ~t + 1: where a group is to be negated, its sum is inverted on the way into the first adder; how often that happens in
a row is the same for all lanes, and comes as one more number to add (``counts``). The adders behind the first have plain
operands of 12 bits and a little more, and are marked for DSPs, four or two of them in one.

The module has no constant of its own lane: all lanes of an engine are the same. Rate: a beat a cycle.
"""

from amaranth.hdl import Cat, Const, Module, Shape, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .words import GROUP_COLUMNS, column_groups, entry_bits

__all__ = ["LaneDot"]


def _sum(left, right):
    """Sum of two signed numbers, in carry bits as many as the wider one has: both are lifted by half their range, and the
    highest bit of their sum is the last carry, inverted."""
    bits = max(len(left), len(right))
    lifted = []
    for value in (left, right):
        wide = Cat(value, value[-1].replicate(bits - len(value)))
        lifted.append(Cat(wide[:-1], ~wide[-1]))
    total = lifted[0] + lifted[1]
    return Cat(total[:bits], ~total[bits]).as_signed()


class LaneDot(wiring.Component):
    """Adder trees of one token lane.

    Parameters
    ----------
    engine_rows, columns : int
        Rows and columns of a beat.

    Members: ``found`` and ``inverts`` of all groups, row by row, ``counts`` the inverts that are set in each row;
    ``dots`` of the rows ``latency`` cycles later.
    """

    def __init__(self, *, engine_rows, columns):
        self._rows, self._sizes = engine_rows, [len(group) for group in column_groups(columns)]
        n_groups = len(self._sizes)
        self.dot_bits = Shape.cast(range(-128 * columns, 128 * columns + 1)).width
        self.latency = n_groups.bit_length()        # leaves: the groups and the count
        n_codes = engine_rows * n_groups
        super().__init__({
            "found": In(data.ArrayLayout(signed(entry_bits(GROUP_COLUMNS)), n_codes)), "inverts": In(n_codes),
            "counts": In(range(n_groups + 1)).array(engine_rows), "dots": Out(signed(self.dot_bits)).array(engine_rows),
        })

    def elaborate(self, platform):
        m = Module()
        n_groups = len(self._sizes)
        for row in range(self._rows):
            nodes = []              # (value, least value, greatest value)
            for g, size in enumerate(self._sizes):
                at, bits = row * n_groups + g, entry_bits(size)
                value = Signal(signed(bits), name=f"row{row}_leaf{g}")
                m.d.comb += value.eq(self.found[at][:bits] ^ self.inverts[at].replicate(bits))
                nodes.append((value, -128 * size, 128 * size - 1))
            nodes.append((Cat(self.counts[row], Const(0, 1)).as_signed(), 0, n_groups))
            m.d.comb += self.dots[row].eq(self._tree(m, row, nodes))
        return m

    def _tree(self, m, row, nodes):
        """Sum of the nodes of one row, a register a level."""
        level = 0
        while len(nodes) > 1:
            level += 1
            sums = []
            for k in range(0, len(nodes), 2):
                values, least, greatest = zip(*nodes[k:k + 2])
                shape = Shape.cast(range(sum(least), sum(greatest) + 1))
                name = f"row{row}_level{level}_{k // 2}"
                later = Signal(shape, name=name, reset_less=True)
                if len(values) < 2:
                    m.d.sync += later.eq(values[0])
                elif level == 1:
                    m.d.sync += later.eq(_sum(*values))
                else:
                    total = Signal(shape, name=f"{name}_sum", attrs={"use_dsp": "simd"})
                    m.d.comb += total.eq(values[0] + values[1])
                    m.d.sync += later.eq(total)
                sums.append((later, sum(least), sum(greatest)))
            nodes = sums
        return nodes[0][0]
