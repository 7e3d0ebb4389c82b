"""V, the memory of transposed values: words of R rows of C columns, columns are tokens.

    (word, bank, chunk, a bit of every lane) ──► columns of the chunk in a row of a word       M bits
    word ──────────────────────────────────────► R rows of C columns, one cycle later

With more lanes than columns a chunk fills M / C words one after the other, so words are dealt out to as many arrays. Rate: a row
of a chunk in and a word out every cycle.
"""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .links import VWrite

__all__ = ["ValueMemory"]


class ValueMemory(wiring.Component):
    """Values of a run.

    Parameters
    ----------
    token_lanes, columns, engine_rows, v_words : int
        As in the configuration.

    Members: ``i`` is always ready; what it takes can be read two cycles later. ``data`` follows ``read_en`` after a cycle: row r at
    bits r * columns.
    """

    def __init__(self, *, token_lanes, columns, engine_rows, v_words):
        if token_lanes % columns and columns % token_lanes:
            raise ValueError(f"Token lanes must divide {columns} columns or be a multiple of them, not {token_lanes}")
        self._tokens, self._columns, self._rows, self._words = token_lanes, columns, engine_rows, v_words
        self._shares = max(1, token_lanes // columns)           # words of a chunk
        if v_words % self._shares:
            raise ValueError(f"Words must be a multiple of the {self._shares} of a chunk, not {v_words}")
        super().__init__({"i": In(stream.Signature(VWrite(token_lanes))),
                          "read_en": In(1), "read_word": In(range(v_words)), "data": Out(engine_rows * columns)})

    def elaborate(self, platform):
        m = Module()
        shares_log2 = exact_log2(self._shares)
        parts = max(1, self._columns // self._tokens)           # chunks of a row of a word
        part_bits = self._columns // parts
        taken, valid = Signal.like(self.i.p, reset_less=True), Signal()
        m.d.comb += self.i.ready.eq(1)
        m.d.sync += [taken.eq(self.i.p), valid.eq(self.i.valid)]

        read_share = Signal(shares_log2, reset_less=True)
        with m.If(self.read_en):
            m.d.sync += read_share.eq(self.read_word)
        words = []
        for share in range(self._shares):
            # This array has word `taken.word + offset` of the chunk's.
            offset = Signal(shares_log2, name=f"offset{share}")
            word = Signal.like(taken.word, name=f"word{share}")
            m.d.comb += [offset.eq(share - taken.word), word.eq(taken.word + offset)]
            rows = []
            for row in range(self._rows):
                array = memory.Memory(shape=self._columns, depth=self._words // self._shares, init=[],
                                      attrs={"ram_style": "block"})
                m.submodules[f"share{share}_row{row}"] = array
                write, read = array.write_port(granularity=part_bits), array.read_port()
                here = valid & (taken.bank == row)
                m.d.comb += [
                    write.en.eq(Cat(here & (taken.chunk[:exact_log2(parts)] == part) for part in range(parts))),
                    write.addr.eq(word >> shares_log2),
                    write.data.eq(taken.bits.word_select(offset, part_bits).replicate(parts)),
                    read.en.eq(self.read_en), read.addr.eq(self.read_word >> shares_log2),
                ]
                rows.append(read.data)
            words.append(Cat(*rows))
        m.d.comb += self.data.eq(Cat(*words).word_select(read_share, self._rows * self._columns))
        return m
