"""Operands of a beat: R rows of C columns, and the activations of all lanes.

    beat of the ports ───────────┐
    word of V ───────────────────┤
    beats of the pass, again ────┤ one ──reg──► rows ──┬──►
    line of ACT ──► R lanes ─────┘                     └──► kept to be used again
         └────────────────────────────reg──► activations
"""

from amaranth.hdl import Module, Signal
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

    Members: ``beat``, ``line`` and ``word`` come together with ``valid``, ``source``, ``index`` and ``load``, which makes the line
    the activations of this beat and the next ones; ``w`` and ``a`` a cycle later. A beat is used again two cycles later or more.
    """

    def __init__(self, *, token_lanes, engine_rows, columns):
        self._depth, width = pass_blocks(columns), engine_rows * columns
        self._groups = token_lanes // engine_rows
        super().__init__({
            "valid": In(1), "source": In(Source), "index": In(range(max(self._depth, self._groups))), "load": In(1),
            "beat": In(width), "line": In(token_lanes * columns), "word": In(width),
            "w": Out(width), "a": Out(token_lanes * columns),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.beats = beats = memory.Memory(
            shape=len(self.w), depth=self._depth, init=[], attrs={"ram_style": "distributed"})
        write, again = beats.write_port(), beats.read_port(domain="comb")
        keep, place = Signal(), Signal.like(write.addr, reset_less=True)
        w, a = Signal.like(self.w, reset_less=True), Signal.like(self.a, reset_less=True)
        m.d.comb += [
            again.addr.eq(self.index), write.en.eq(keep), write.addr.eq(place), write.data.eq(w), self.w.eq(w), self.a.eq(a),
        ]
        m.d.sync += [keep.eq(self.valid & (self.source != Source.AGAIN)), place.eq(self.index)]
        with m.Switch(self.source):
            with m.Case(Source.PORTS):
                m.d.sync += w.eq(self.beat)
            with m.Case(Source.KEYS):
                m.d.sync += w.eq(self.line.word_select(self.index[:(self._groups - 1).bit_length()], len(w)))
            with m.Case(Source.VALUES):
                m.d.sync += w.eq(self.word)
            with m.Default():
                m.d.sync += w.eq(again.data)
        with m.If(self.load):
            m.d.sync += a.eq(self.line)
        return m
