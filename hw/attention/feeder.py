"""Takes the records of a slice apart, and says which tokens see them.

::

    i_past (memory) --+--> two elements a byte: a beat is two words --+--> o_key
    i_chunk ----------+-----------------------------------------------+--> o_scale
                                                                      +--> o_value

Records come in the order K, scales, V; those of the chunk have a byte an element always. One word a cycle.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..links import scale_beats
from .links import REACH, AttentionSizes, RecordScale, SliceJob, Viewers

__all__ = ["Feeder"]


def _unpacked(half):
    """Elements of four bits, one in the low bits of each byte."""
    return Cat(Cat(half.word_select(n, 4), half.word_select(n, 4)[3].replicate(4)) for n in range(len(half) // 4))


class Feeder(wiring.Component):
    """Takes the records of a job apart.

    Members
    -------
    start, job : In, as in Slice
    i_past, i_chunk : In, words of a port
    o_key, o_value : Out, words of K and V
    o_scale : Out(stream(RecordScale))
    o_viewers : Out(stream(Viewers)), one a record, taken before it ends
    """

    def __init__(self, *, sizes):
        if not isinstance(sizes, AttentionSizes):
            raise TypeError(f"sizes must be AttentionSizes, not {sizes!r}")
        self._sizes = sizes
        beat = stream.Signature(sizes.beat)
        super().__init__({
            "start": In(1), "job": In(SliceJob(sizes)), "i_past": In(beat), "i_chunk": In(beat),
            "o_key": Out(beat), "o_scale": Out(stream.Signature(RecordScale)), "o_value": Out(beat),
            "o_viewers": Out(stream.Signature(Viewers))})

    def elaborate(self, platform):
        m = Module()
        sizes, job, share = self._sizes, self.job, self.job.share
        past_left, chunk_left = Signal(16), Signal(5)
        word, low = Signal(6), Signal(32, reset_less=True)
        # Whether a record comes from memory or from the chunk, and what will be so at its end.
        past, chunk, past_more, chunk_more = Signal(), Signal(), Signal(), Signal()
        valid, taken, beat, last_word, record_end = Signal(), Signal(), Signal(sizes.beat), Signal(), Signal()
        # last_word is a register, made while the word before passes: whether a beat ends decides what the port's queue does.
        single, next_last = job.head_words == 1, word + 2 == job.head_words
        # A beat of two words is taken with the second; scales are never in four bits. Two bits choose one of four, a LUT a bit.
        packed, four, which, beat_end = Signal(), Signal(), Signal(), Signal()
        lower, upper = (_unpacked(self.i_past.p.word_select(half, 4 * sizes.port_bytes)) for half in (0, 1))
        m.d.comb += [
            packed.eq(past & four), which.eq(Mux(packed, word[0], past)),
            beat_end.eq(~packed | word[0] | last_word),
            beat.eq(Mux(packed, Mux(which, upper, lower), Mux(which, self.i_past.p, self.i_chunk.p))),
            valid.eq(Mux(past, self.i_past.valid, self.i_chunk.valid & chunk)),
            self.i_past.ready.eq(past & taken), self.i_chunk.ready.eq(chunk & taken),
            self.o_key.p.eq(beat), self.o_value.p.eq(beat),
        ]
        if scale_beats(sizes.port_bytes) == 2:
            m.d.comb += [self.o_scale.p.ks.eq(low), self.o_scale.p.vs.eq(beat)]
        else:
            m.d.comb += [self.o_scale.p.ks.eq(beat[:32]), self.o_scale.p.vs.eq(beat[32:64])]

        m.d.sync += [past_more.eq(past_left > 1), chunk_more.eq(Mux(past, chunk_left != 0, chunk_left > 1))]
        with m.FSM():
            with m.State("KEY"):
                m.d.comb += [four.eq(job.int4[0]), self.o_key.valid.eq(valid), taken.eq(self.o_key.ready & beat_end)]
                with m.If(valid & self.o_key.ready):
                    m.d.sync += [word.eq(Mux(last_word, 0, word + 1)), last_word.eq(Mux(last_word, single, next_last))]
                    with m.If(last_word):
                        m.next = "LOW" if scale_beats(sizes.port_bytes) == 2 else "SCALE"
            if scale_beats(sizes.port_bytes) == 2:
                with m.State("LOW"):
                    m.d.comb += taken.eq(1)
                    with m.If(valid):
                        m.d.sync += low.eq(beat)
                        m.next = "SCALE"
            with m.State("SCALE"):
                m.d.comb += [self.o_scale.valid.eq(valid), taken.eq(self.o_scale.ready)]
                with m.If(valid & taken):
                    m.next = "VALUE"
            with m.State("VALUE"):
                m.d.comb += [four.eq(job.int4[1]), self.o_value.valid.eq(valid), taken.eq(self.o_value.ready & beat_end)]
                with m.If(valid & self.o_value.ready):
                    m.d.sync += [word.eq(Mux(last_word, 0, word + 1)), last_word.eq(Mux(last_word, single, next_last))]
                    with m.If(last_word):
                        m.d.comb += record_end.eq(1)
                        m.d.sync += [past_left.eq(past_left - past), chunk_left.eq(chunk_left - chunk),
                                     past.eq(past & past_more), chunk.eq(~(past & past_more) & chunk_more)]
                        m.next = "KEY"
        with m.If(self.start):
            m.d.sync += [past_left.eq(share.n_past), chunk_left.eq(share.n_chunk),
                         past.eq(share.n_past != 0), chunk.eq((share.n_past == 0) & (share.n_chunk != 0)),
                         last_word.eq(single)]
        self._view(m, record_end, past, chunk)
        return m

    def _view(self, m, record_end, past, chunk):
        """Who sees the record at hand."""
        job, share, token, reach = self.job, self.job.share, Signal(4), Signal(REACH)
        viewers, windowed, begins, due = self.o_viewers, Signal(REACH), Signal(), Signal()
        sinks_left, before_left = Signal(16, reset_less=True), Signal(16, reset_less=True)
        sink, before = Signal(), Signal()       # a cycle late; a record takes three
        m.d.sync += [sink.eq(sinks_left != 0), before.eq(before_left != 0)]
        m.d.comb += [
            windowed.eq(Mux(before, 0, reach)),
            viewers.valid.eq(due & (past | chunk)), viewers.p.first.eq(Mux(chunk & ~job.bidirectional, token, 0)),
            viewers.p.until.eq(Mux(sink, 16, windowed)), viewers.p.rebased.eq(Mux(sink & job.rebased, windowed, 16)),
        ]
        m.d.sync += begins.eq(record_end | self.start)
        with m.If(begins):
            m.d.sync += due.eq(1)
        with m.Elif(self.start | (viewers.valid & viewers.ready)):
            m.d.sync += due.eq(0)
        with m.If(record_end):
            m.d.sync += [sinks_left.eq(sinks_left - sink), before_left.eq(before_left - before)]
            with m.If(~before & (reach < 16)):
                m.d.sync += reach.eq(reach + self._sizes.n_ports)
            with m.If(chunk):
                m.d.sync += token.eq(token + self._sizes.n_ports)
        with m.If(self.start):
            m.d.sync += [token.eq(share.first_token), reach.eq(share.reach), sinks_left.eq(share.n_sinks),
                         before_left.eq(share.n_before)]
