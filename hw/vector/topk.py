"""Top-k: the k largest logits of every token lane, one element a cycle.

A row of k cells, each with one candidate of every token, best first. An element walks along the cells, one a cycle. Where it is
better than the cell's candidate of its token it stays, and the old candidate walks on; that one is at least as good as all that
follow, so from there on it takes the place of every next cell without a question.

::

    i --> word --> element --> [cell 0] --> [cell 1] --> ... --> [cell k - 1] --> dropped
                   key, before

A cell is a LUT RAM with a row a token, which an element reads and writes in one cycle: tokens may follow one another in any order.
With an element goes ``before``, how many of its token came before it (k at most): so many cells are full.

Keys are unsigned and in the order of the numbers: sign bit inverted, all bits where the number is negative; NaN is 0.
So -0 is less than +0. Equal elements keep the order in which they came: lower number first.

Rescoring: ``keep`` puts the numbers of all candidates aside, best first, and empties the cells. Then words may come with new
logits: those of the row quantum in which the number of rank k lies have the element numbers k row_quantum and up. Of a row
quantum one element counts, as a candidate with the number that was put aside.

::

    candidates of the tokens --keep--> shortlists --+--> number of rank ``rank`` of token lane ``lane``
                                                    +--> of the rank and token of an element: does it count?
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..formats import F32, F32_NAN
from ..links import TopkWord
from .words import fit

__all__ = ["TopK"]


class _Candidate(data.Struct):
    key: 32
    number: 20


class TopK(wiring.Component):
    """The ``top_k`` best candidates of every token lane.

    Parameters
    ----------
    vector_lanes : int
        Elements of a word.
    top_k : int
        Cells.
    row_quantum : int
        Elements of a row quantum, a power of two.
    token_lanes : int
        Tokens with candidates; a power of two of at most 16.

    Members
    -------
    i : In(stream of TopkWord)
        The numbers of a token ascend. A word takes vector_lanes cycles.
    clear : In(1)
        Strobe: forget everything, the word at work too.
    keep : In(1)
        Strobe, only while ``idle``: put the numbers of all candidates aside and forget the candidates. Takes 2 cycles and
        token_lanes times top_k, rounded up to a power of two.
    idle : Out(1)
        No element is under way, no number is being put aside: all is final until the next word.
    lane : In(4), rank : In(range(top_k)); number : Out(20)
        Number of token lane ``lane`` that was put aside, by rank, one cycle later; meaningless from ``count`` at that time on.
    read_lane : In(4), read_index : In(range(top_k)); read_token : Out(20), read_logit : Out(32)
        Candidate of a token lane by rank, best first, two cycles later; meaningless from ``count`` on and while not ``idle``.
        A NaN reads as 0x7FC00000.
    best : Out(20), has_best : Out(1)
        Number of rank 0 of ``read_lane``, one cycle later, and whether the lane has candidates.
    count : Out(range(top_k + 1))
        Candidates of the token whose element came last.

    Paths: none. Latency: an element is in its place at most top_k + 2 cycles after the word before it is through.
    """

    def __init__(self, *, vector_lanes, top_k, row_quantum, token_lanes):
        for name, value, least in (("vector_lanes", vector_lanes, 1), ("top_k", top_k, 1)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
        if not isinstance(row_quantum, int) or row_quantum < 1 or row_quantum & (row_quantum - 1):
            raise ValueError(f"row_quantum must be a power of two, not {row_quantum!r}")
        if token_lanes not in (1, 2, 4, 8, 16):
            raise ValueError(f"token_lanes must be a power of two of at most 16, not {token_lanes!r}")
        self._lanes, self._top_k, self._tokens = vector_lanes, top_k, token_lanes
        self._quantum_log2 = row_quantum.bit_length() - 1
        super().__init__({
            "i": In(stream.Signature(TopkWord(vector_lanes))), "clear": In(1), "keep": In(1), "idle": Out(1),
            "lane": In(4), "rank": In(range(top_k)), "number": Out(20),
            "read_lane": In(4), "read_index": In(range(top_k)), "read_token": Out(20), "read_logit": Out(32),
            "best": Out(20), "has_best": Out(1), "count": Out(range(top_k + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes, top_k = self._lanes, self._top_k
        token_shape = range(self._tokens)
        rank_bits = (top_k - 1).bit_length()

        # The word at work: its first element is in lane 0, the rest moves down.
        logits = Signal(data.ArrayLayout(32, lanes), reset_less=True)
        number, n_valid, left = Signal(20, reset_less=True), Signal(20, reset_less=True), Signal(range(lanes + 1))
        word_token, rescore = Signal(token_shape, reset_less=True), Signal(reset_less=True)
        keeping = Signal()
        m.d.comb += self.i.ready.eq((left <= 1) & ~keeping)
        with m.If(self.i.valid & self.i.ready & ~self.clear):
            m.d.sync += [logits.eq(self.i.p.logits), number.eq(self.i.p.first), n_valid.eq(self.i.p.n_valid),
                         word_token.eq(self.i.p.token), rescore.eq(self.i.p.rescore), left.eq(lanes)]
        with m.Else():
            m.d.sync += [logits.as_value().eq(logits.as_value() >> 32), number.eq(number + 1),
                         left.eq(Mux(self.clear | (left == 0), 0, left - 1))]

        # The numbers put aside. Of a row quantum the element counts whose place is that of the number.
        low = self._quantum_log2
        m.submodules.shortlist = shortlist = memory.Memory(
            shape=20, depth=self._tokens << rank_bits, init=[], attrs={"ram_style": "distributed"})
        by_element, by_rank = shortlist.read_port(domain="comb"), shortlist.read_port(domain="comb")

        def row(token, rank):
            return Cat(rank[:rank_bits], fit(token, self._tokens))

        m.d.comb += [by_element.addr.eq(row(word_token, number >> low)), by_rank.addr.eq(row(self.lane, self.rank))]
        m.d.sync += self.number.eq(by_rank.data)
        counts = Mux(rescore, number[:low] == by_element.data[:low], number < n_valid)

        # Its first element as a candidate, and how many came before it.
        seen = Array(Signal(range(top_k + 1), name=f"seen_{token}") for token in range(self._tokens))
        element, entering, more = Signal(F32), Signal(), Signal(range(top_k + 1))
        candidate, valid = Signal(_Candidate, reset_less=True), Signal()
        before = Signal(range(top_k + 1), reset_less=True)
        m.d.comb += [
            element.eq(logits[0]), entering.eq((left != 0) & counts & ~self.clear),
            more.eq(seen[word_token] + (seen[word_token] != top_k)),
        ]
        bits = element.as_value()
        is_nan = (element.exponent == 0xFF) & element.mantissa.any()
        m.d.sync += [
            candidate.key.eq(Mux(is_nan, 0, Mux(element.sign, ~bits, Cat(bits[:31], 1)))),
            candidate.number.eq(Mux(rescore, by_element.data, number)),
            before.eq(seen[word_token]), valid.eq(entering),
        ]
        kept_all = Signal()
        with m.If(entering):
            m.d.sync += [seen[word_token].eq(more), self.count.eq(more)]
        with m.If(self.clear | kept_all):
            m.d.sync += [self.count.eq(0), *(each.eq(0) for each in seen)]

        # While no element is under way, every cell shows the candidate of the token that is asked for.
        asked, still, place = Signal(token_shape), Signal(), Signal(self._tokens.bit_length() - 1 + rank_bits)
        token = Signal(token_shape, reset_less=True)
        m.d.comb += asked.eq(Mux(keeping, place >> rank_bits, self.read_lane))
        m.d.sync += token.eq(Mux(still, asked, word_token))

        # The cells.
        kept, walking, shifted = [], [valid], 0
        for rank in range(top_k):
            m.submodules[f"cell_{rank}"] = cell = memory.Memory(
                shape=_Candidate, depth=self._tokens, init=[], attrs={"ram_style": "distributed"})
            write, read = cell.write_port(), cell.read_port(domain="comb")
            mine, stays, full = read.data, Signal(name=f"stays_{rank}"), Signal(name=f"full_{rank}")
            m.d.comb += [
                full.eq(before != rank), stays.eq(valid & (~full | shifted | (candidate.key > mine.key))),
                read.addr.eq(token), write.addr.eq(token), write.data.eq(candidate), write.en.eq(stays),
            ]
            kept.append(mine)
            onward = Signal(_Candidate, reset_less=True, name=f"onward_{rank}")
            onward_valid, displaced = Signal(name=f"onward_valid_{rank}"), Signal(name=f"displaced_{rank}", reset_less=True)
            onward_token = Signal(token_shape, reset_less=True, name=f"token_{rank}")
            onward_before = Signal(before.shape(), reset_less=True, name=f"before_{rank}")
            m.d.sync += [
                onward.eq(Mux(stays, mine.as_value(), candidate.as_value())), onward_valid.eq(valid & full & ~self.clear),
                displaced.eq(stays), onward_token.eq(Mux(still, asked, token)), onward_before.eq(before),
            ]
            walking.append(onward_valid)
            candidate, valid, shifted, token, before = onward, onward_valid, displaced, onward_token, onward_before

        # Reading, by the host or to put the numbers aside: the cells' words of the token, and of them one.
        index, chosen = Signal(range(top_k)), Signal(_Candidate)
        m.d.sync += [
            index.eq(Mux(keeping, place[:rank_bits], self.read_index)),
            self.has_best.eq(Cat(each.any() for each in seen).bit_select(asked, 1)),
            self.read_token.eq(chosen.number),
            self.read_logit.eq(Mux(chosen.key == 0, F32_NAN, Mux(chosen.key[31], chosen.key[:31], ~chosen.key))),
        ]
        m.d.comb += [
            still.eq((left == 0) & ~Cat(walking).any()), self.idle.eq(still & ~keeping),
            chosen.eq(Array(kept)[index]), self.best.eq(kept[0].number),
        ]
        self._keep(m, keeping, place, kept_all, shortlist.write_port(), chosen.number)
        return m

    def _keep(self, m, keeping, place, kept_all, write, number):
        """Walks ``place`` over the rows of the shortlists; the number of a row is there a cycle later."""
        last, place_late, writing = Signal(), Signal.like(place), Signal()
        n_rows = self._tokens << (self._top_k - 1).bit_length()
        m.d.comb += [
            kept_all.eq(writing & last), write.addr.eq(place_late), write.data.eq(number), write.en.eq(writing),
        ]
        m.d.sync += [place_late.eq(place), writing.eq(keeping & ~kept_all & ~self.clear), last.eq(place == n_rows - 1)]
        with m.If(keeping):
            m.d.sync += [place.eq(place + 1), keeping.eq(~kept_all)]
        with m.Else():
            m.d.sync += [place.eq(0), keeping.eq(self.keep)]
        with m.If(self.clear):
            m.d.sync += keeping.eq(0)
