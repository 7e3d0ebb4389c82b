"""Scores of one slice: every K word stays while the passes go by.  s[q] = sum_d Q[q][d] K[d], exact.

::

    for each record, for each word w of K, for each pass i:
                 +---- K word ----------------------+
    pass i --> table --> query memory --> A x B products --> adder tree --> partial[i] (+)= --> after the last word: o
              s0        s1          s2                s3                ..  sum

One pass a cycle, once it is known who sees the record: a token that sees it with its re-based query finds that in the other
bank. The passes of the last word also need a place for the weight (``space``). After the issue of a pass nothing stalls: ``o``
comes a fixed number of cycles later, without a handshake.
"""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .links import AttentionSizes, ScorePass, SliceJob, TableWrite, Viewers, delay

__all__ = ["Scores"]


def _tree(m, terms):
    """Registered sum of signed terms, two at a time; returns (sum, stages)."""
    stages = 0
    while len(terms) > 1:
        sums = []
        for a, b in zip(terms[::2], terms[1::2]):
            # The later half of the sums, which are wider, go into DSPs.
            part = Signal((a + b).shape(), attrs={"use_dsp": "simd"} if stages else {})
            total = Signal(part.shape(), reset_less=True)
            m.d.comb += part.eq(a + b)
            m.d.sync += total.eq(part)
            sums.append(total)
        terms, stages = sums, stages + 1
    return terms[0], stages


class Scores(wiring.Component):
    """Dot products of a slice's K words with all queries.

    Members
    -------
    job : In(SliceJob), constant while a command runs
    table_en, table : In, writes of the pass table
    start : In(1), the next record is the first of a job
    i_key : In(stream), words of K, head_words a record
    i_viewers : In(stream(Viewers)), one a record: the tokens that see it
    odd : Out(1), the record at hand is the second, the fourth, ..
    space : In(1), one more pass of weights of this record has a place
    issue : Out(1), a pass of weights was begun
    q_word, q_index, q_bank : Out, and q_data : In one cycle later: the query memory
    o_valid, o : Out, scores of a pass
    """

    def __init__(self, *, sizes):
        if not isinstance(sizes, AttentionSizes):
            raise TypeError(f"sizes must be AttentionSizes, not {sizes!r}")
        self._sizes = sizes
        lanes = sizes.query_lanes
        super().__init__({
            "start": In(1), "job": In(SliceJob(sizes)), "table_en": In(1), "table": In(TableWrite(sizes)),
            "i_key": In(stream.Signature(sizes.beat)), "i_viewers": In(stream.Signature(Viewers)),
            "odd": Out(1), "space": In(1), "issue": Out(1),
            "q_word": Out(sizes.head_words_log2), "q_index": Out(sizes.slots.index_bits).array(lanes),
            "q_bank": Out(1).array(lanes), "q_data": In(sizes.beat).array(lanes),
            "o_valid": Out(1), "o": Out(ScorePass(sizes)),
        })

    def elaborate(self, platform):
        m = Module()
        sizes, job = self._sizes, self.job

        # s0: one pass of one word.
        number, word, rest = Signal(range(sizes.max_passes)), Signal(6), Signal(3)
        last_word, last_pass, go = Signal(), Signal(), Signal()
        m.d.comb += [
            last_word.eq(word == job.head_words - 1),
            last_pass.eq(number == job.n_passes - 1),
            go.eq(self.i_key.valid & self.i_viewers.valid & (rest == 0) & (~last_word | self.space)),
            self.issue.eq(go & last_word),
            self.i_key.ready.eq(go & last_pass),
            self.i_viewers.ready.eq(go & last_pass & last_word),
        ]
        with m.If(rest != 0):
            m.d.sync += rest.eq(rest - 1)
        with m.If(go):
            m.d.sync += number.eq(Mux(last_pass, 0, number + 1))
            with m.If(last_pass):
                m.d.sync += word.eq(Mux(last_word, 0, word + 1))
                with m.If(last_word):
                    m.d.sync += [rest.eq(job.rest), self.odd.eq(~self.odd)]
        with m.If(self.start):
            m.d.sync += self.odd.eq(0)

        s1_go, s1_first, s1_last = Signal(), Signal(reset_less=True), Signal(reset_less=True)
        s1_odd, s1_last_pass = Signal(reset_less=True), Signal(reset_less=True)
        s1_number, s1_key = Signal.like(number, reset_less=True), Signal(sizes.beat, reset_less=True)
        s1_viewers = Signal(Viewers, reset_less=True)
        m.d.sync += [s1_go.eq(go), s1_first.eq(word == 0), s1_last.eq(last_word), s1_number.eq(number),
                     s1_key.eq(self.i_key.p), s1_viewers.eq(self.i_viewers.p), self.q_word.eq(word),
                     s1_odd.eq(self.odd), s1_last_pass.eq(last_pass)]
        s2_key = delay(m, s1_key, 1)

        dots = []
        for lane in range(sizes.query_lanes):
            table = memory.Memory(shape=data.StructLayout({"token": 4, "index": sizes.slots.index_bits}),
                                  depth=sizes.max_passes, init=[])
            m.submodules[f"table_{lane}"] = table
            write, read = table.write_port(), table.read_port(domain="comb")
            s1_token, s1_index = Signal(4, reset_less=True), Signal(sizes.slots.index_bits, reset_less=True)
            s1_used, s1_bank = Signal(reset_less=True), Signal(reset_less=True)
            m.d.comb += [
                write.en.eq(self.table_en & (self.table.lane == lane)), write.addr.eq(self.table.number),
                write.data.token.eq(self.table.token), write.data.index.eq(self.table.index),
                read.addr.eq(number), self.q_index[lane].eq(s1_index), self.q_bank[lane].eq(s1_bank),
            ]
            m.d.sync += [s1_token.eq(read.data.token), s1_index.eq(read.data.index),
                         s1_used.eq(number < job.lane_passes[lane]),
                         s1_bank.eq(job.bank ^ (read.data.token >= self.i_viewers.p.rebased))]
            s2_seen = Signal(reset_less=True)
            m.d.sync += s2_seen.eq(s1_used & (s1_token >= s1_viewers.first) & (s1_token < s1_viewers.until))

            products = []
            for element in range(sizes.port_bytes):
                product = Signal(signed(16), reset_less=True)
                m.d.sync += product.eq(self.q_data[lane].word_select(element, 8).as_signed()
                                       * s2_key.word_select(element, 8).as_signed())
                products.append(product)
            dot, stages = _tree(m, products)
            dots.append((dot, delay(m, s1_index, 2 + stages), delay(m, s1_bank, 2 + stages), delay(m, s2_seen, 1 + stages)))

        # The sum over the words of a head.
        late = 2 + stages
        sum_go, sum_last = delay(m, s1_go, late, reset_less=False), delay(m, s1_last, late)
        sum_first, sum_number = delay(m, s1_first, late), delay(m, s1_number, late)
        result = Signal(ScorePass(sizes), reset_less=True)
        m.d.comb += self.o.eq(result)
        m.d.sync += [self.o_valid.eq(sum_go & sum_last), result.number.eq(sum_number),
                     result.odd.eq(delay(m, s1_odd, late)), result.last.eq(delay(m, s1_last_pass, late))]
        for lane, (dot, index, bank, seen) in enumerate(dots):
            partial = memory.Memory(shape=signed(sizes.score_bits), depth=sizes.max_passes, init=[])
            m.submodules[f"partial_{lane}"] = partial
            write, read = partial.write_port(), partial.read_port(domain="comb")
            total = Signal(signed(sizes.score_bits))
            m.d.comb += [read.addr.eq(sum_number), total.eq(Mux(sum_first, 0, read.data) + dot),
                         write.en.eq(sum_go), write.addr.eq(sum_number), write.data.eq(total)]
            m.d.sync += [result.score[lane].eq(total), result.index[lane].eq(index), result.bank[lane].eq(bank),
                         result.seen[lane].eq(seen)]
        return m
