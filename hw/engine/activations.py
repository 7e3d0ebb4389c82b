"""Activation memory of the token lanes of one table builder: two banks of int8 vectors.

    (bank, lane, word, L activations) ──► array ──► L activations, 2 cycles after their address

Paths: none. Rate: a word in and a word out every cycle.
"""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

__all__ = ["ActivationMemory"]

_ULTRA_BITS = 1 << 18       # from this size on the array is asked to be UltraRAM


class ActivationMemory(wiring.Component):
    """Activations of ``token_lanes`` lanes.

    Parameters
    ----------
    vector_lanes, token_lanes : int
        Activations in a word; token lanes kept here.
    max_words : int
        Longest vector in words.

    Members: ``write_*`` and ``read_*`` name a word by bank, lane and number; ``data`` follows a read after ``LATENCY``
    cycles.
    """

    LATENCY = 2

    def __init__(self, *, vector_lanes, token_lanes, max_words):
        self._bits, self._word_log2, self._lane_log2 = 8 * vector_lanes, ceil_log2(max_words), ceil_log2(token_lanes)
        port = {"en": 1, "bank": 1, "lane": range(token_lanes), "word": range(max_words)}
        super().__init__({
            **{f"write_{name}": In(shape) for name, shape in port.items()}, "write_data": In(self._bits),
            **{f"read_{name}": In(shape) for name, shape in port.items()}, "data": Out(self._bits),
        })

    def elaborate(self, platform):
        m = Module()
        depth = 1 << (1 + self._lane_log2 + self._word_log2)
        style = "ultra" if depth * self._bits >= _ULTRA_BITS else "block"
        m.submodules.array = array = memory.Memory(shape=self._bits, depth=depth, init=[], attrs={"ram_style": style})
        write, read = array.write_port(), array.read_port()
        s2_data = Signal(self._bits, reset_less=True)
        m.d.comb += [
            write.en.eq(self.write_en), write.data.eq(self.write_data),
            write.addr.eq(Cat(self.write_word[:self._word_log2], self.write_lane[:self._lane_log2], self.write_bank)),
            read.en.eq(self.read_en),
            read.addr.eq(Cat(self.read_word[:self._word_log2], self.read_lane[:self._lane_log2], self.read_bank)),
            self.data.eq(s2_data),
        ]
        m.d.sync += s2_data.eq(read.data)
        return m
