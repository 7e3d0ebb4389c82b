"""The chunk's own keys and values: gathered into records, which go to memory and to the slices.

::

    i (K and V rows) --> chunk buffer [half][token][K/V][word]          --> beats of a record --+--> o_write (memory)
                     --> scales [half][token]                           -->                     +--> o_chunk[j mod P]
    i_record (where the chunk goes) --> RecordPlaces <--> page table --------> offset, port

The K rows of all tokens come before their V rows, tokens in order. A record begins to leave when its V row is
complete; one beat a cycle, two cycles between records. The buffer has two halves: rows of the next chunk are taken in
while this one leaves. The first word of a beat sets the rest of the beat to zero, so a row that ends within a beat is
padded. In four bits two words make a beat for memory; the slices take the words as they are.

A record whose page is not the slot's own is an error, and nothing is written after it.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..isa import Sink
from ..links import Launch, PageAnswer, PageAsk, QuantWord, RecordCommand, scale_beats
from ..mem.links import ErrorReport, WriteWord
from ..regs import Error
from ..stream import Buffer, connect
from .links import AttentionSizes
from .place import RecordPlaces

__all__ = ["RecordGather", "place_in_beat"]


def place_in_beat(word, elements, *, beat_words):
    """(part enables, beat) for word number ``word`` of a row: the first of a beat clears the others."""
    part = word[:ceil_log2(beat_words)]
    enables, places = [], []
    for number in range(beat_words):
        enables.append((part == 0) | (part == number))
        places.append(Mux((part == 0) & (number != 0), 0, elements))
    return Cat(*enables), Cat(*places)


def _packed(word):
    """The low four bits of every byte."""
    return Cat(word.word_select(n, 8)[:4] for n in range(len(word) // 8))


class RecordGather(wiring.Component):
    """Gathers and writes the records of a chunk.

    Members
    -------
    i : In(stream(QuantWord)), sinks K and V
    i_record : In(stream(RecordCommand)), one a chunk
    launch : In(Launch)
    o_write : Out(stream(WriteWord))
    o_chunk : Out(stream), a port: words of the records of its slice, a byte an element
    page_ask : Out(PageAsk), and page_answer : In(PageAnswer) page_cycles later
    error : Out(ErrorReport)
    """

    def __init__(self, *, sizes):
        if not isinstance(sizes, AttentionSizes):
            raise TypeError(f"sizes must be AttentionSizes, not {sizes!r}")
        self._sizes = sizes
        super().__init__({
            "i": In(stream.Signature(QuantWord(sizes.vector_lanes))), "i_record": In(stream.Signature(RecordCommand)),
            "launch": In(Launch), "o_write": Out(stream.Signature(WriteWord(sizes.port_bytes))),
            "o_chunk": Out(stream.Signature(sizes.beat)).array(sizes.n_ports),
            "page_ask": Out(PageAsk), "page_answer": In(PageAnswer), "error": Out(ErrorReport)})

    def elaborate(self, platform):
        m = Module()
        sizes = self._sizes
        token_log2, n_scale_beats = ceil_log2(sizes.token_lanes), scale_beats(sizes.port_bytes)
        last_token = Signal(4)
        m.d.comb += last_token.eq(self.launch.n_tokens - 1)

        # Rows in.
        full, fill_half = Signal(2), Signal()
        is_value, take, row_end = Signal(), Signal(), Signal()
        m.d.comb += [
            is_value.eq(self.i.p.sink == Sink.V),
            self.i.ready.eq(~full.bit_select(fill_half, 1)),
            take.eq(self.i.valid & self.i.ready),
            row_end.eq(take & is_value & self.i.p.last),
        ]
        token = self.i.p.token[:token_log2]
        buffer_depth = 4 * sizes.token_lanes << sizes.head_words_log2
        m.submodules.rows = rows = memory.Memory(shape=sizes.beat, depth=buffer_depth, init=[],
                                                 attrs={"ram_style": "block"} if buffer_depth >= 256 else {})
        row_write, row_read = rows.write_port(granularity=8 * sizes.vector_lanes), rows.read_port(domain="sync")
        enables, beat = place_in_beat(self.i.p.word, self.i.p.data.as_value(), beat_words=sizes.beat_words)
        part_log2 = ceil_log2(sizes.beat_words)
        row_enables, row_address = Signal(sizes.beat_words), Signal(row_write.addr.shape(), reset_less=True)
        row_data = Signal(sizes.beat, reset_less=True)
        m.d.sync += [
            row_enables.eq(Mux(take, enables, 0)), row_data.eq(beat),
            row_address.eq(Cat(self.i.p.word[part_log2:part_log2 + sizes.head_words_log2], is_value, token, fill_half)),
        ]
        m.d.comb += [row_write.en.eq(row_enables), row_write.addr.eq(row_address), row_write.data.eq(row_data)]
        scale_reads = []
        for name, mine in (("ks", ~is_value), ("vs", is_value)):
            m.submodules[name] = scales = memory.Memory(shape=32, depth=2 * sizes.token_lanes, init=[])
            write, read = scales.write_port(), scales.read_port(domain="comb")
            m.d.comb += [write.en.eq(take & mine), write.addr.eq(Cat(token, fill_half)), write.data.eq(self.i.p.scale)]
            scale_reads.append(read)

        # Where the chunk goes.
        m.submodules.places = places = RecordPlaces(sizes=sizes)
        command, place = self.i_record.p, places.o
        leave_half, leave_token = Signal(), Signal(token_log2)
        port, offset, record_beats = Signal.like(place.p.port), Signal(40, reset_less=True), Signal(8, reset_less=True)
        row_beats = [Mux(four, (command.head_words + 1)[1:], command.head_words) for four in command.int4]
        m.d.sync += record_beats.eq(row_beats[0] + row_beats[1] + n_scale_beats)
        m.d.comb += [
            places.command_valid.eq(self.i_record.valid), places.command.eq(command), places.restart.eq(self.i_record.ready),
            places.record_beats.eq(record_beats), places.launch.eq(self.launch),
            self.page_ask.eq(places.page_ask), places.page_answer.eq(self.page_answer),
        ]

        # Beats out: `a` is the beat that is read, `b` the beat that waits to be taken.
        complete, begin, done = Signal(range(2 * sizes.token_lanes + 1)), Signal(), Signal()
        a_valid, a_word, a_kind = Signal(), Signal(6), Signal(2)
        a_last_word, move = Signal(), Signal()
        b_valid, b_taken = Signal(), Signal()
        b_first, b_last, b_row, b_packed, b_upper, b_whole = (
            Signal(reset_less=True, name=f"b_{n}") for n in ("first", "last", "row", "packed", "upper", "whole"))
        b_port, b_scales = Signal.like(port, reset_less=True), Signal(sizes.beat, reset_less=True)
        m.d.sync += complete.eq(complete + row_end - begin)
        with m.If(row_end & (self.i.p.token == last_token)):
            m.d.sync += [full.bit_select(fill_half, 1).eq(1), fill_half.eq(~fill_half)]
        with m.If(done):
            m.d.sync += [full.bit_select(leave_half, 1).eq(0), leave_half.eq(~leave_half)]

        is_scale, four = a_kind == 1, Mux(a_kind[1], command.int4[1], command.int4[0])
        m.d.comb += [
            a_last_word.eq(a_word == Mux(is_scale, n_scale_beats - 1, command.head_words - 1)),
            move.eq(a_valid & (~b_valid | b_taken)),
            row_read.en.eq(move),
            row_read.addr.eq(Cat(a_word[:sizes.head_words_log2], a_kind[1], leave_token, leave_half)),
        ]
        m.d.comb += [read.addr.eq(Cat(leave_token, leave_half)) for read in scale_reads]
        both = Cat(*(read.data for read in scale_reads))
        with m.If(move):
            m.d.sync += [
                b_first.eq((a_kind == 0) & Mux(command.int4[0], a_word[1:] == 0, a_word == 0)),
                b_last.eq(a_kind[1] & a_last_word), b_row.eq(~is_scale),
                b_packed.eq(four & ~is_scale), b_upper.eq(a_word[0]),
                b_whole.eq(~four | is_scale | a_word[0] | a_last_word),
                b_port.eq(port), b_scales.eq(both if n_scale_beats == 1 else both.word_select(a_word[0], 32)),
                a_word.eq(Mux(a_last_word, 0, a_word + 1)), a_kind.eq(a_kind + a_last_word),
                b_valid.eq(1),
            ]
        with m.Elif(b_taken):
            m.d.sync += b_valid.eq(0)

        with m.FSM():
            with m.State("RECORD"):
                m.d.sync += [offset.eq(place.p.offset), port.eq(place.p.port), a_kind.eq(0)]
                with m.If((complete != 0) & place.valid):
                    with m.If(place.p.ok):
                        m.d.comb += [begin.eq(1), place.ready.eq(1)]
                        m.next = "BEATS"
                    with m.Else():
                        m.d.comb += [self.error.valid.eq(1), self.error.code.eq(Error.OWNER), self.error.index.eq(command.index)]
                        m.next = "FAULT"
            with m.State("BEATS"):
                m.d.comb += a_valid.eq(1)
                with m.If(move & a_kind[1] & a_last_word):
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += leave_token.eq(leave_token + 1)
                with m.If(leave_token == last_token):
                    m.d.comb += [done.eq(1), self.i_record.ready.eq(1)]
                    m.d.sync += leave_token.eq(0)
                m.next = "RECORD"
            with m.State("FAULT"):
                pass

        # To memory and to the slice: a word is taken when both have a place. In four bits the first of two waits for the second.
        m.submodules.out = out = Buffer(WriteWord(sizes.port_bytes))
        connect(m, out.o, self.o_write)
        chunk_ready, word_out, beat_out = Signal(), Signal(sizes.beat), Signal(sizes.beat)
        lower = Signal(4 * sizes.port_bytes, reset_less=True)
        m.d.comb += [
            word_out.eq(Mux(b_row, row_read.data, b_scales)),
            beat_out.eq(Mux(b_packed,
                            Mux(b_upper, Cat(lower, _packed(row_read.data)), _packed(row_read.data)), word_out)),
            chunk_ready.eq(Array(chunk.ready for chunk in self.o_chunk)[b_port]),
            b_taken.eq(b_valid & out.i.ready & chunk_ready),
            out.i.valid.eq(b_valid & chunk_ready & b_whole),
            out.i.p.data.eq(beat_out), out.i.p.first.eq(b_first), out.i.p.last.eq(b_last),
        ]
        with m.If(b_taken):
            m.d.sync += lower.eq(_packed(row_read.data))
        with m.If(b_first):
            m.d.comb += [out.i.p.offset.eq(offset), out.i.p.beats.eq(record_beats), out.i.p.index.eq(command.index)]
        for number, chunk in enumerate(self.o_chunk):
            m.d.comb += [chunk.p.eq(word_out), chunk.valid.eq(b_valid & out.i.ready & (b_port == number))]
        return m
