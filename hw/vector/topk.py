"""Top-k: the k largest of the logits that come, one element a cycle.

A row of k cells, each with one candidate, best first. An element walks along the cells, one a cycle. Where it is
better than the cell's candidate it stays, and the old candidate walks on; that one is at least as good as all that
follow, so from there on it takes the place of every next cell without a question.

::

    i --> word --> element --> [cell 0] --> [cell 1] --> ... --> [cell k - 1] --> dropped
                    key

Keys are unsigned and in the order of the numbers: sign bit inverted, all bits where the number is negative; NaN is 0.
So -0 is less than +0. Equal elements keep the order in which they came: lower number first.

Rescoring: ``keep`` puts the numbers of the candidates aside, best first, and empties the cells. Then words may come with new
logits: those of the row quantum in which the number of rank k lies have the element numbers k row_quantum and up. Of a row
quantum one element counts, as a candidate with the number that was put aside.

::

    candidate 0 .. k - 1 --keep--> shortlist --+--> number of rank ``rank``
                                               +--> of the rank of an element: does it count?
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
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
    row_quantum : int
        Elements of a row quantum, a power of two.

    Members
    -------
    i : In(stream of TopkWord)
        Numbers ascend. A word takes vector_lanes cycles.
    clear : In(1)
        Strobe: forget everything, the word at work too.
    keep : In(1)
        Strobe, only while ``idle``: put the candidates' numbers aside, in top_k + 1 cycles, and forget the candidates.
    idle : Out(1)
        No element is under way, no number is being put aside: all is final until the next word.
    rank : In(range(top_k)); number : Out(20)
        Number that was put aside, by rank, one cycle later; meaningless from ``count`` at that time on.
    read_index : In(range(top_k)); read_token : Out(20), read_logit : Out(32)
        Candidate by rank, best first; combinational; meaningless from ``count`` on. A NaN reads as 0x7FC00000.
    count : Out(range(top_k + 1))

    While numbers are put aside, ``read_index`` is not heard. Paths: read_index to read_token and read_logit. Latency: top_k + 2 cycles.
    """

    def __init__(self, *, vector_lanes, top_k, row_quantum):
        for name, value, least in (("vector_lanes", vector_lanes, 1), ("top_k", top_k, 1)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
        if not isinstance(row_quantum, int) or row_quantum < 1 or row_quantum & (row_quantum - 1):
            raise ValueError(f"row_quantum must be a power of two, not {row_quantum!r}")
        self._lanes, self._top_k, self._quantum_log2 = vector_lanes, top_k, row_quantum.bit_length() - 1
        super().__init__({
            "i": In(stream.Signature(TopkWord(vector_lanes))), "clear": In(1), "keep": In(1), "idle": Out(1),
            "rank": In(range(top_k)), "number": Out(20),
            "read_index": In(range(top_k)), "read_token": Out(20), "read_logit": Out(32),
            "count": Out(range(top_k + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._lanes

        # The word at work: its first element is in lane 0, the rest moves down.
        logits = Signal(data.ArrayLayout(32, lanes), reset_less=True)
        number, n_valid, left = Signal(20, reset_less=True), Signal(20, reset_less=True), Signal(range(lanes + 1))
        rescore = Signal(reset_less=True)
        m.d.comb += self.i.ready.eq(left <= 1)
        with m.If(self.i.valid & self.i.ready & ~self.clear):
            m.d.sync += [logits.eq(self.i.p.logits), number.eq(self.i.p.first), n_valid.eq(self.i.p.n_valid),
                         rescore.eq(self.i.p.rescore), left.eq(lanes)]
        with m.Else():
            m.d.sync += [logits.as_value().eq(logits.as_value() >> 32), number.eq(number + 1),
                         left.eq(Mux(self.clear | (left == 0), 0, left - 1))]

        # The numbers put aside. Of a row quantum the element counts whose place is that of the number.
        low = self._quantum_log2
        place, keeping, kept_all = Signal(range(self._top_k)), Signal(), Signal()
        m.submodules.shortlist = shortlist = memory.Memory(
            shape=20, depth=self._top_k, init=[], attrs={"ram_style": "distributed"})
        write, by_element, by_rank = shortlist.write_port(), shortlist.read_port(domain="comb"), shortlist.read_port(domain="comb")
        m.d.comb += [by_element.addr.eq(number >> low), by_rank.addr.eq(self.rank), kept_all.eq(place == self._top_k - 1)]
        m.d.sync += self.number.eq(by_rank.data)
        with m.If(keeping):
            m.d.sync += [place.eq(place + 1), keeping.eq(~kept_all)]
        with m.Else():
            m.d.sync += [place.eq(0), keeping.eq(self.keep)]
        with m.If(self.clear):
            m.d.sync += keeping.eq(0)
        counts = Mux(rescore, number[:low] == by_element.data[:low], number < n_valid)

        # Its first element as a candidate.
        element = Signal(F32)
        candidate, valid = Signal(_Candidate, reset_less=True), Signal()
        m.d.comb += element.eq(logits[0])
        bits = element.as_value()
        is_nan = (element.exponent == 0xFF) & element.mantissa.any()
        m.d.sync += [
            candidate.key.eq(Mux(is_nan, 0, Mux(element.sign, ~bits, Cat(bits[:31], 1)))),
            candidate.number.eq(Mux(rescore, by_element.data, number)),
            valid.eq((left != 0) & counts & ~self.clear),
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
            with m.If(self.clear | (keeping & kept_all)):
                m.d.sync += mine_full.eq(0)
            kept.append(mine)
            full.append(mine_full)
            walking.append(onward_valid)
            candidate, valid, shifted = onward, onward_valid, displaced

        chosen = Signal(_Candidate)
        m.d.comb += [
            chosen.eq(Array(kept)[Mux(keeping, place, self.read_index)]),
            write.addr.eq(place), write.data.eq(chosen.number), write.en.eq(keeping),
            self.read_token.eq(chosen.number),
            self.read_logit.eq(Mux(chosen.key == 0, F32_NAN, Mux(chosen.key[31], chosen.key[:31], ~chosen.key))),
            self.count.eq(sum(full)),
            self.idle.eq((left == 0) & ~keeping & ~Cat(walking).any()),
        ]
        return m
