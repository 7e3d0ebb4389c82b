"""Top-k: the k largest of the logits that come, one element a cycle.

A row of k cells, each with one candidate, best first. An element walks along the cells, one a cycle. Where it is
better than the cell's candidate it stays, and the old candidate walks on; that one is at least as good as all that
follow, so from there on it takes the place of every next cell without a question.

::

    i --> word --> element --> [cell 0] --> [cell 1] --> ... --> [cell k - 1] --> dropped
                    key

Keys are unsigned and in the order of the numbers: sign bit inverted, all bits where the number is negative; NaN is 0.
So -0 is less than +0. Equal elements keep the order in which they came: lower number first.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..formats import F32, F32_NAN
from ..links import TopkWord

__all__ = ["TopK"]


class _Candidate(data.Struct):
    key: 32
    number: 20


class TopK(wiring.Component):
    """The ``top_k`` best candidates.

    Parameters
    ----------
    vector_lanes : int
        Elements of a word.
    top_k : int
        Cells.

    Members
    -------
    i : In(stream of TopkWord)
        Numbers ascend. A word takes vector_lanes cycles.
    clear : In(1)
        Strobe: forget everything, the word at work too.
    idle : Out(1)
        No element is under way: ``count`` and all candidates are final until the next word.
    read_index : In(range(top_k)); read_token : Out(20), read_logit : Out(32)
        Candidate by rank, best first; combinational; meaningless from ``count`` on. A NaN reads as 0x7FC00000.
    count : Out(range(top_k + 1))

    Paths: read_index to read_token and read_logit. Latency: top_k + 2 cycles.
    """

    def __init__(self, *, vector_lanes, top_k):
        for name, value, least in (("vector_lanes", vector_lanes, 1), ("top_k", top_k, 1)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
        self._lanes, self._top_k = vector_lanes, top_k
        super().__init__({
            "i": In(stream.Signature(TopkWord(vector_lanes))), "clear": In(1), "idle": Out(1),
            "read_index": In(range(top_k)), "read_token": Out(20), "read_logit": Out(32),
            "count": Out(range(top_k + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._lanes

        # The word at work: its first element is in lane 0, the rest moves down.
        logits = Signal(data.ArrayLayout(32, lanes), reset_less=True)
        number, n_valid, left = Signal(20, reset_less=True), Signal(20, reset_less=True), Signal(range(lanes + 1))
        m.d.comb += self.i.ready.eq(left <= 1)
        with m.If(self.i.valid & self.i.ready & ~self.clear):
            m.d.sync += [logits.eq(self.i.p.logits), number.eq(self.i.p.first), n_valid.eq(self.i.p.n_valid),
                         left.eq(lanes)]
        with m.Else():
            m.d.sync += [logits.as_value().eq(logits.as_value() >> 32), number.eq(number + 1),
                         left.eq(Mux(self.clear | (left == 0), 0, left - 1))]

        # Its first element as a candidate.
        element = Signal(F32)
        candidate, valid = Signal(_Candidate, reset_less=True), Signal()
        m.d.comb += element.eq(logits[0])
        bits = element.as_value()
        is_nan = (element.exponent == 0xFF) & element.mantissa.any()
        m.d.sync += [
            candidate.key.eq(Mux(is_nan, 0, Mux(element.sign, ~bits, Cat(bits[:31], 1)))),
            candidate.number.eq(number),
            valid.eq((left != 0) & (number < n_valid) & ~self.clear),
        ]

        # The cells.
        kept, full, walking = [], [], [valid]
        shifted = 0
        for rank in range(self._top_k):
            mine = Signal(_Candidate, reset_less=True, name=f"kept_{rank}")
            mine_full = Signal(name=f"full_{rank}")
            onward = Signal(_Candidate, reset_less=True, name=f"onward_{rank}")
            onward_valid = Signal(name=f"onward_valid_{rank}")
            displaced, stays = Signal(name=f"displaced_{rank}", reset_less=True), Signal(name=f"stays_{rank}")
            m.d.comb += stays.eq(valid & (~mine_full | shifted | (candidate.key > mine.key)))
            with m.If(stays):
                m.d.sync += [mine.eq(candidate), mine_full.eq(1)]
            m.d.sync += [
                onward.eq(Mux(stays, mine.as_value(), candidate.as_value())),
                onward_valid.eq(valid & (~stays | mine_full) & ~self.clear),
                displaced.eq(stays),
            ]
            with m.If(self.clear):
                m.d.sync += mine_full.eq(0)
            kept.append(mine)
            full.append(mine_full)
            walking.append(onward_valid)
            candidate, valid, shifted = onward, onward_valid, displaced

        chosen = Signal(_Candidate)
        m.d.comb += [
            chosen.eq(Array(kept)[self.read_index]),
            self.read_token.eq(chosen.number),
            self.read_logit.eq(Mux(chosen.key == 0, F32_NAN, Mux(chosen.key[31], chosen.key[:31], ~chosen.key))),
            self.count.eq(sum(full)),
            self.idle.eq((left == 0) & ~Cat(walking).any()),
        ]
        return m
