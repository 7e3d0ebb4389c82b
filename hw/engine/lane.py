"""One token lane: the dot products of R rows x C columns with its activations, by looking sums up.

            codes of a row          a, b, c of every group
                 │                        │
      ┌──────────▼───────────┐            │
      │ entry ──► table 0 ─x─┼─┐   tables: 2 halves of 16 entries in distributed RAM,
      │ entry ──► table 1 ─x─┼─+─┐ written through one port, read once a row
      │ entry ──► table 2 ─x─┼─┐ +─┐
      │ entry ──► table 3 ─x─┼─+─┘ +──► dot, carry
      │   ...                │   ──┘
      └──────────────────────┘

    -t = ~t + 1: where a group is to be negated, its sum is inverted on the way into the adder, and the 1 becomes the
    carry into some adder of the tree. There is one adder less than groups, so one carry is left: dot product = dot +
    carry.

The module has no constant of its own lane: all lanes of an engine are the same. Rate: a beat a cycle.
"""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .words import GroupCode, entry_bits, group_sizes, sum_bits

__all__ = ["LaneDot"]


class LaneDot(wiring.Component):
    """Tables and adder trees of one token lane.

    Parameters
    ----------
    engine_rows, columns : int
        Rows and columns of a beat.

    Members: ``codes`` and the table ``half`` they are meant for; ``dots`` and ``carries`` of the rows ``latency``
    cycles later. ``table_en`` writes ``entries`` at ``table_addr`` (half, entry): codes that are given
    ``WRITE_LATENCY`` or more cycles later find them.
    """

    WRITE_LATENCY = 1

    def __init__(self, *, engine_rows, columns):
        self._rows, self._sizes = engine_rows, group_sizes(columns)
        n_groups = len(self._sizes)
        self.dot_bits = sum_bits(columns)
        self.latency = 2 + (n_groups - 1).bit_length()
        super().__init__({
            "codes": In(data.ArrayLayout(GroupCode, engine_rows * n_groups)), "half": In(1),
            "table_en": In(1), "table_addr": In(5), "entries": In(data.ArrayLayout(entry_bits(3), n_groups)),
            "dots": Out(signed(self.dot_bits)).array(engine_rows), "carries": Out(1).array(engine_rows),
        })

    def elaborate(self, platform):
        m = Module()
        codes, half = Signal(self.codes.shape(), reset_less=True), Signal(reset_less=True)
        table_en, table_addr = Signal(), Signal(5, reset_less=True)
        entries = Signal(self.entries.shape(), reset_less=True)
        m.d.sync += [codes.eq(self.codes), half.eq(self.half), table_en.eq(self.table_en),
                     table_addr.eq(self.table_addr), entries.eq(self.entries)]

        leaves = [[] for _ in range(self._rows)]        # of each row: (value, inverted when, columns)
        for g, size in enumerate(self._sizes):
            m.submodules[f"table{g}"] = table = memory.Memory(
                shape=signed(entry_bits(size)), depth=32, init=[], attrs={"ram_style": "distributed"})
            write = table.write_port()
            m.d.comb += [write.en.eq(table_en), write.addr.eq(table_addr), write.data.eq(entries[g])]
            for row in range(self._rows):
                code = codes[row * len(self._sizes) + g]
                read = table.read_port(domain="comb")
                found = Signal(signed(entry_bits(size)), name=f"row{row}_found{g}", reset_less=True)
                invert = Signal(name=f"row{row}_invert{g}", reset_less=True)
                m.d.comb += read.addr.eq(Cat(code.entry, half))
                m.d.sync += [found.eq(read.data), invert.eq(code.negate)]
                leaves[row].append((found, invert, size))

        for row in range(self._rows):
            dot, carry = self._tree(m, row, leaves[row])
            m.d.comb += [self.dots[row].eq(dot), self.carries[row].eq(carry)]
        return m

    def _tree(self, m, row, nodes):
        """Sum of the leaves of one row, a register a level; (sum without the last carry, that carry)."""
        waiting = []            # carries that no adder has taken yet
        level = 0
        while len(nodes) > 1:
            level += 1
            new_nodes = []
            fresh = []
            for k in range(0, len(nodes) - 1, 2):
                pair = nodes[k:k + 2]
                fresh += [invert for _, invert, _ in pair if invert is not None]
                carry = waiting.pop() if waiting else fresh.pop()
                columns = pair[0][2] + pair[1][2]
                total = Signal(signed(sum_bits(columns)), name=f"row{row}_level{level}_sum{k // 2}", reset_less=True)
                left, right = (self._inverted(m, value, invert) for value, invert, _ in pair)
                m.d.sync += total.eq(left + right + carry)
                new_nodes.append((total, None, columns))
            if len(nodes) % 2:
                value, invert, columns = nodes[-1]
                later = Signal.like(value, name=f"row{row}_level{level}_rest", reset_less=True)
                m.d.sync += later.eq(value)
                new_nodes.append((later, self._later(m, invert, f"row{row}_level{level}_invert"), columns))
            waiting = [self._later(m, carry, f"row{row}_level{level}_carry{k}")
                       for k, carry in enumerate(waiting + fresh)]
            nodes = new_nodes
        (value, invert, _), = nodes
        if invert is not None:              # a row of one group has no adder at all
            return self._inverted(m, value, invert), invert
        carry, = waiting
        return value, carry

    def _inverted(self, m, value, when):
        if when is None:
            return value
        result = Signal.like(value)
        m.d.comb += result.eq(value ^ when.replicate(len(value)))
        return result

    def _later(self, m, bit, name):
        if bit is None:
            return None
        later = Signal(name=name, reset_less=True)
        m.d.sync += later.eq(bit)
        return later
