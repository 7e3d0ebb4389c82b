"""Sinks: finished words to the quantised stream and to the candidates of the head.

::

    y at S_Y --+--> ToInt8 --------------------------------> at S_INT --> queue --> o_quant
               +--> (TOPK, RESCORE) --> queue --> o_topk
    s[scale_scalar] at S_INT - 4 --> * (Q: imm1, else 1) --> at S_INT

The queues never refuse a word: issue counts the room.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..arith.convert import ToInt
from ..arith.fmul import FMul
from ..formats import F32_ONE
from ..isa import Sink, Tokens, Vector
from ..links import QuantWord, TopkWord
from ..stream import Queue
from .words import S_INT, S_Y, WordControl, delay

__all__ = ["Sinks"]


class Sinks(wiring.Component):
    """Parameters: ``vector_lanes``; ``quant_words``, ``topk_words``: depths of the queues (powers of two).

    Members
    -------
    fields : In(Vector)
        The descriptor; constant while it runs.
    scale : In(32)
        Scalar register of the word's token, at S_SCALE, which is earlier than S_Y.
    valid, word, y : In
        A word at S_Y.
    retired : Out(1)
        A word was taken by its sink: by the receiver of a stream, or at S_Y where the sink is none.
    o_quant, o_topk
    """

    S_SCALE = S_INT - FMul.LATENCY - 1

    def __init__(self, *, vector_lanes, quant_words, topk_words):
        self._lanes, self._quant_words, self._topk_words = vector_lanes, quant_words, topk_words
        super().__init__({
            "fields": In(Vector), "scale": In(32), "valid": In(1), "word": In(WordControl),
            "y": In(data.ArrayLayout(32, vector_lanes)), "retired": Out(1),
            "o_quant": Out(stream.Signature(QuantWord(vector_lanes))),
            "o_topk": Out(stream.Signature(TopkWord(vector_lanes))),
        })

    def elaborate(self, platform):
        m = Module()
        f = self.fields
        to_topk, to_quant = Signal(), Signal()
        m.d.comb += [
            to_topk.eq((f.sink == Sink.TOPK) | (f.sink == Sink.RESCORE)),
            to_quant.eq((f.sink == Sink.ACT) | (f.sink == Sink.Q) | (f.sink == Sink.K) | (f.sink == Sink.V)),
        ]

        m.submodules.quants = quants = Queue(QuantWord(self._lanes), depth=self._quant_words, ram_style="distributed")
        late = S_INT - S_Y
        word = Signal(WordControl)
        m.d.comb += word.eq(delay(m, self.word.as_value(), late))
        q = quants.i.p
        for lane in range(self._lanes):
            to_int = m.submodules[f"to_int_{lane}"] = ToInt(width=8)
            m.d.comb += [to_int.en.eq(1), to_int.i.eq(self.y[lane]), q.data[lane].eq(to_int.o)]
        m.submodules.factor = factor = FMul()
        m.d.comb += [
            factor.en.eq(1),
            factor.a.eq(delay(m, self.scale, 1)),
            factor.b.eq(Mux(f.sink == Sink.Q, f.imm1, F32_ONE)),
            quants.i.valid.eq(delay(m, self.valid & to_quant, late, reset=True)),
            q.sink.eq(f.sink), q.bank.eq(f.bank), q.head.eq(f.head),
            q.token.eq(Mux((f.sink == Sink.ACT) & (f.tokens != Tokens.ALL), 0, word.token)),
            q.word.eq(word.where), q.last.eq(word.last), q.scale.eq(factor.o),
        ]

        m.submodules.candidates = candidates = Queue(TopkWord(self._lanes), depth=self._topk_words,
                                                     ram_style="distributed")
        c = candidates.i.p
        m.d.comb += [
            candidates.i.valid.eq(self.valid & to_topk),
            c.token.eq(self.word.token),
            c.first.eq(self.word.where << (self._lanes - 1).bit_length()),
            c.n_valid.eq(f.imm0), c.rescore.eq(f.sink == Sink.RESCORE),
            c.logits.eq(self.y),
        ]

        for queue, o in ((quants.o, self.o_quant), (candidates.o, self.o_topk)):
            m.d.comb += [o.p.eq(queue.p), o.valid.eq(queue.valid), queue.ready.eq(o.ready)]
        m.d.comb += self.retired.eq(
            (quants.o.valid & quants.o.ready) | (candidates.o.valid & candidates.o.ready)
            | (self.valid & ~to_topk & ~to_quant))
        return m
