"""P: parameter words of 64 bits, in two copies, so that the rows of a product and those of a norm are read in the same cycle.

::

    i: beat of words --+--> copy --> word --> post
                       +--> copy --> pair --> norm
"""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .links import ParamPair, ParamWrite

__all__ = ["ParamMemory"]

_ULTRA_WORDS = 4096


class ParamMemory(wiring.Component):
    """The memory of parameters.

    Parameters
    ----------
    p_words : int
        Words of 64 bits.
    beat_words : int
        Words that are written together: 1, 2, 4 or 8.

    Members
    -------
    i : stream of ParamWrite(beat_words), always ready
    post_addr, post_data : a word and, a cycle later, its bits
    norm_addr, norm_data : a pair of words, by the number of the pair, and a cycle later their bits

    A word that is written in the cycle in which it is read is read as it was or as it will be. Rate: all three every cycle.
    """

    def __init__(self, *, p_words, beat_words):
        if beat_words not in (1, 2, 4, 8):
            raise ValueError(f"beat_words must be 1, 2, 4 or 8, not {beat_words!r}")
        if not 2 <= p_words <= 1 << 16:
            raise ValueError(f"p_words must be 2 to 65536, not {p_words!r}")
        self._words, self._beat_words = p_words, beat_words
        super().__init__({
            "i": In(stream.Signature(ParamWrite(beat_words))),
            "post_addr": In(16), "post_data": Out(64), "norm_addr": In(15), "norm_data": Out(ParamPair),
        })

    def elaborate(self, platform):
        m = Module()
        line_words = max(2, self._beat_words)
        log2 = line_words.bit_length() - 1
        m.d.comb += self.i.ready.eq(1)
        words = self.i.p.words.as_value().replicate(line_words // self._beat_words)
        first = self.i.p.addr[:log2] if self._beat_words == 1 else 0
        readers = ("post", self.post_addr, self.post_data, 64), ("norm", self.norm_addr, self.norm_data, 128)
        for name, addr, value, bits in readers:
            copy = m.submodules[name] = memory.Memory(
                shape=data.ArrayLayout(64, line_words), depth=-(-self._words // line_words), init=[],
                attrs={"ram_style": "ultra" if self._words >= _ULTRA_WORDS else "block"})
            write = copy.write_port(granularity=self._beat_words)
            read = copy.read_port()
            part_log2 = log2 - (bits.bit_length() - 7)
            part = Signal(max(1, part_log2), name=f"{name}_part", reset_less=True)
            m.d.sync += part.eq(addr[:part_log2])
            m.d.comb += [
                write.addr.eq(self.i.p.addr[log2:]), write.data.eq(words), write.en.eq(self.i.valid << first),
                read.addr.eq(addr[part_log2:]), value.eq(read.data.as_value().word_select(part, bits)),
            ]
        return m
