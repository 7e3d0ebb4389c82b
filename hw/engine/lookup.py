"""Tables of the token lanes of one round, and the look-up in them.

            codes of all rows                entries of the lanes that are built together
                 │                                     │
      ┌──────────▼────────────┐                        │
      │ row 0 ──► table 0 ─x──┼─┐   one RAM a group and row, two halves of 16 entries,
      │ row 1 ──► table 0 ─x──┼─+─┐ a word of it has the entries of all lanes,
      │ ...                   │   │ written and read together
      │ row 3 ──► table 26 ───┼─┐ │
      └───────────────────────┘ +─┴─► found of lane 0, of lane 1, ...;  inverts

All lanes look the same code up in the same cycle, and the lanes of a round are written in the same cycle: their entries
lie side by side in one word, which leaves fewer bits of a slice of LUT RAM (14 of 32 words) unused. Rate: a beat a cycle.
"""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .words import GROUP_COLUMNS, GroupCode, column_groups, entry_bits

__all__ = ["LookUp"]


class LookUp(wiring.Component):
    """Tables of ``token_lanes`` lanes.

    Parameters
    ----------
    engine_rows, columns : int
        Rows and columns of a beat.
    token_lanes : int
        Lanes whose tables are built together.

    Members: ``codes`` and the table ``half`` they are meant for; ``found`` of the lanes, and what is to be inverted of it
    in all of them (``inverts``), row by row, ``LATENCY`` cycles later. ``table_en`` writes ``entries`` at ``table_addr``
    (half, entry): codes that are given ``WRITE_LATENCY`` or more cycles later find them.
    """

    LATENCY = 2
    WRITE_LATENCY = 1

    def __init__(self, *, engine_rows, columns, token_lanes):
        self._rows, self._sizes = engine_rows, [len(group) for group in column_groups(columns)]
        self._tokens = token_lanes
        n_groups, bits = len(self._sizes), entry_bits(GROUP_COLUMNS)
        n_codes = engine_rows * n_groups
        super().__init__({
            "codes": In(data.ArrayLayout(GroupCode, n_codes)), "half": In(1),
            "table_en": In(1), "table_addr": In(5),
            "entries": In(data.ArrayLayout(data.ArrayLayout(bits, n_groups), token_lanes)),
            "found": Out(data.ArrayLayout(data.ArrayLayout(signed(bits), n_codes), token_lanes)), "inverts": Out(n_codes),
        })

    def elaborate(self, platform):
        m = Module()
        codes, half = Signal(self.codes.shape(), reset_less=True), Signal(reset_less=True)
        table_en, table_addr = Signal(), Signal(5, reset_less=True)
        entries = Signal(self.entries.shape(), reset_less=True)
        m.d.sync += [codes.eq(self.codes), half.eq(self.half), table_en.eq(self.table_en),
                     table_addr.eq(self.table_addr), entries.eq(self.entries)]

        n_groups = len(self._sizes)
        inverts = Signal(self.inverts.shape(), reset_less=True)
        m.d.sync += inverts.eq(Cat(*(codes[k].negate for k in range(self._rows * n_groups))))
        m.d.comb += self.inverts.eq(inverts)
        for g, size in enumerate(self._sizes):
            bits = entry_bits(size)
            m.submodules[f"table{g}"] = table = memory.Memory(
                shape=self._tokens * bits, depth=32, init=[], attrs={"ram_style": "distributed"})
            write = table.write_port()
            m.d.comb += [write.en.eq(table_en), write.addr.eq(table_addr),
                         write.data.eq(Cat(*(entries[t][g][:bits] for t in range(self._tokens))))]
            for row in range(self._rows):
                at = row * n_groups + g
                read = table.read_port(domain="comb")
                found = Signal(self._tokens * bits, name=f"row{row}_found{g}", reset_less=True)
                m.d.comb += read.addr.eq(Cat(codes[at].entry, half))
                m.d.sync += found.eq(read.data)
                m.d.comb += [self.found[t][at].eq(found[t * bits:(t + 1) * bits].as_signed()) for t in range(self._tokens)]
        return m
