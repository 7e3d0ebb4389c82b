"""Operands of a beat: R rows of C columns, and the activations of all lanes.

    beat of the ports ──► beats of the pass ──┐
    word of V ────────────────────────────────┤ one ──reg──► rows
    line of ACT ──┬──► R lanes, of each half ─┘
                  └────────────────────────────────reg──► activations

A beat of the ports is kept, so that all planes of the activations can use it.
"""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from .engine_words import Source, pass_blocks

__all__ = ["BinaryOperands"]


class BinaryOperands(wiring.Component):
    """What the lanes multiply.

    Parameters
    ----------
    token_lanes, engine_rows, columns : int
        As in the engine.

    Members: ``keep_en`` writes ``beat`` at ``keep_index`` among those of the pass. From the next cycle on ``source`` and ``index``
    may ask for it; ``line`` and ``word`` come together with these and with ``load``, which makes the line the activations of this
    beat and the next ones. ``w`` and ``a`` follow a cycle later.
    """

    def __init__(self, *, token_lanes, engine_rows, columns):
        self._depth, width = pass_blocks(columns), engine_rows * columns
        self._groups = token_lanes // engine_rows
        super().__init__({
            "keep_en": In(1), "keep_index": In(range(self._depth)), "beat": In(width),
            "source": In(Source), "index": In(range(max(self._depth, self._groups))), "load": In(1),
            "line": In(token_lanes * columns), "word": In(width),
            "w": Out(width), "a": Out(token_lanes * columns),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.beats = beats = memory.Memory(
            shape=len(self.w), depth=self._depth, init=[], attrs={"ram_style": "distributed"})
        write, read = beats.write_port(), beats.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(self.keep_en), write.addr.eq(self.keep_index), write.data.eq(self.beat), read.addr.eq(self.index)]

        # Two LUTs a bit for eight groups of lanes, and one for the four sources.
        half = max(1, self._groups // 2)
        place = self.index[:(half - 1).bit_length()]
        low, high = (self.line[first * len(self.w):][:half * len(self.w)] for first in (0, self._groups - half))
        w, a = Signal.like(self.w, reset_less=True), Signal.like(self.a, reset_less=True)
        sources = Array([low.word_select(place, len(w)), high.word_select(place, len(w)), read.data, self.word])
        m.d.sync += w.eq(sources[self.source.as_value()])
        with m.If(self.load):
            m.d.sync += a.eq(self.line)
        m.d.comb += [self.w.eq(w), self.a.eq(a)]
        return m
