"""Matmul engine: one stream of ternary weights against the activations of up to M token lanes.

    acc[t][n] = sum_k 3**(planes - 1 - k) * sum_c plane_k[n][c] * act[t][c]

     i_act ──► activation memory ──► table builders ──────┐ tables of the next column block
                     ▲ read                ▲ step         ▼
     i_command ──► build control ──────────┘   look-up (a round of lanes)
                     │ limits            codes ▲ │    ┌── token lane 0 .. M-1 ─────────┐
                     ▼                         │ └───►│  adder tree ──► partial sums   │
     i_weights ──► beat control, decode ───────┴─────►│                       │        │
                                               counts └───────────────────────┼────────┘
     o, done  ◄── drain ◄─────────────────────────────────────────────────────┘

The activations of a column block of C columns stay in the tables while the row groups of the row block stream by, one
beat of R rows x C columns a cycle. Rate: a column block takes max(row groups, 14 x rounds of lanes) cycles. Latency:
the last word of a single lane leaves about 20 cycles after the last beat.
"""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..formats import TRITS_PER_BYTE
from ..links import DrainWord, MatmulCommand, QuantWord
from ..stream import Buffer, Queue, connect
from .activations import ActivationMemory
from .beats import BeatControl
from .build import BuildControl
from .decode import BeatDecode
from .drain import Drain
from .lane import LaneDot
from .lookup import LookUp
from .partial import PartialSums
from .tables import TableBuilder
from .words import Block, Limits

__all__ = ["MatmulEngine"]

assert BeatDecode.COUNT_LAG == LookUp.LATENCY, "counts must come with what was looked up"
_QUEUED = 4     # commands whose tables may be built ahead, and row blocks that may wait to leave


class MatmulEngine(wiring.Component):
    """The matmul engine.

    Parameters
    ----------
    vector_lanes, token_lanes : int
        Elements of a vector word (L); activation vectors that share the weights (M).
    engine_rows, beat_bytes : int
        Rows of a beat (R); bytes of a beat. Columns of a beat: C = 5 beat_bytes / R, a multiple of L.
    max_columns : int
        Longest activation vector, a multiple of C.
    max_row_groups : int
        Row groups of a row block, a power of two.
    accumulator_bits : int
        Width of a sum. Sums that do not fit wrap; it is for the compiler to refuse them.
    table_builders : int
        Token lanes whose tables are built at once; divides ``token_lanes``.

    Members
    -------
    i_command : commands, run in order; every count is at least 1 and within the sizes above.
    i_weights : beats, the bytes of port 0 lowest. Paths: none from valid to ready.
    i_act : words for activation bank ``bank`` of lane ``token``; always ready. A bank must not be written while a
        command that reads it is not done.
    o : sums, in the order row block, token lane, word.
    done : the last word of a command was taken, one cycle ago.
    count_busy, count_wait_weights, count_wait_tables, count_wait_drain : a beat was accepted, or why not, one cycle
        ago.
    """

    def __init__(self, *, vector_lanes, token_lanes, engine_rows, beat_bytes, max_columns, max_row_groups,
                 accumulator_bits=32, table_builders=1):
        columns = TRITS_PER_BYTE * beat_bytes // engine_rows
        if beat_bytes % engine_rows or columns % vector_lanes:
            raise ValueError(f"A beat must be {engine_rows} rows of a multiple of {vector_lanes} columns, "
                             f"not {beat_bytes} bytes")
        if token_lanes & (token_lanes - 1) or token_lanes % table_builders:
            raise ValueError(f"Token lanes must be a power of two and a multiple of {table_builders} table builders, "
                             f"not {token_lanes}")
        if max_columns % columns:
            raise ValueError(f"Maximal columns must be a multiple of {columns}, not {max_columns}")
        self._lanes, self._tokens, self._builders = vector_lanes, token_lanes, table_builders
        self._rows, self._bytes, self._columns = engine_rows, beat_bytes, columns
        self._max_words, self._max_col_blocks = max_columns // vector_lanes, max_columns // columns
        self._groups, self._bits = max_row_groups, accumulator_bits
        super().__init__({
            "i_command": In(stream.Signature(MatmulCommand)),
            "i_weights": In(stream.Signature(8 * beat_bytes)),
            "i_act": In(stream.Signature(QuantWord(vector_lanes))),
            "o": Out(stream.Signature(DrainWord(vector_lanes))),
            "done": Out(1),
            "count_busy": Out(1), "count_wait_weights": Out(1), "count_wait_tables": Out(1), "count_wait_drain": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.build = build = BuildControl(
            block_words=self._columns // self._lanes, max_words=self._max_words, max_col_blocks=self._max_col_blocks,
            max_row_groups=self._groups, token_lanes=self._tokens, table_builders=self._builders)
        m.submodules.beats = beats = BeatControl(
            max_col_blocks=self._max_col_blocks, max_row_groups=self._groups, token_lanes=self._tokens)
        m.submodules.decode = decode = BeatDecode(engine_rows=self._rows, beat_bytes=self._bytes)
        m.submodules.drain = drain = Drain(
            vector_lanes=self._lanes, token_lanes=self._tokens, engine_rows=self._rows, accumulator_bits=self._bits,
            max_row_groups=self._groups)
        m.submodules.limits = limits = Queue(Limits(self._max_col_blocks, self._tokens), depth=_QUEUED)
        m.submodules.blocks = blocks = Queue(Block(self._groups, self._tokens), depth=_QUEUED)
        connect(m, build.o_limits, limits.i)
        connect(m, limits.o, beats.i_limits)
        connect(m, beats.o_block, blocks.i)
        m.submodules.next_block = next_block = Buffer(Block(self._groups, self._tokens))
        connect(m, blocks.o, next_block.i)
        connect(m, next_block.o, drain.i_block)

        builders = [self._builder(m, b, build) for b in range(self._builders)]
        m.d.comb += [
            build.i_command.p.eq(self.i_command.p), build.i_command.valid.eq(self.i_command.valid),
            self.i_command.ready.eq(build.i_command.ready),
            beats.built.eq(build.built), build.used.eq(beats.used), beats.freed.eq(drain.freed),
            beats.weights_valid.eq(self.i_weights.valid), self.i_weights.ready.eq(beats.weights_ready),
            decode.beat.eq(self.i_weights.p), self.i_act.ready.eq(1),
            self.o.p.eq(drain.o.p), self.o.valid.eq(drain.o.valid), drain.o.ready.eq(self.o.ready),
            self.done.eq(drain.done),
            self.count_busy.eq(beats.count_busy), self.count_wait_weights.eq(beats.count_wait_weights),
            self.count_wait_tables.eq(beats.count_wait_tables), self.count_wait_drain.eq(beats.count_wait_drain),
        ]
        self._lanes_of_tokens(m, builders, build, beats, decode, drain)
        return m

    def _builder(self, m, b, build):
        """Activation memory and table builder of the token lanes b, b + builders, ..."""
        m.submodules[f"activations{b}"] = acts = ActivationMemory(
            vector_lanes=self._lanes, token_lanes=self._tokens // self._builders, max_words=self._max_words)
        m.submodules[f"builder{b}"] = builder = TableBuilder(vector_lanes=self._lanes, columns=self._columns)
        word = self.i_act.p
        builder_log2 = (self._builders - 1).bit_length()
        m.d.sync += [
            acts.write_en.eq(self.i_act.valid & (word.token[:builder_log2] == b)), acts.write_bank.eq(word.bank),
            acts.write_lane.eq(word.token[builder_log2:]), acts.write_word.eq(word.word),
            acts.write_data.eq(Cat(*(word.data[k] for k in range(self._lanes)))),
        ]
        m.d.comb += [
            acts.read_en.eq(build.read_en), acts.read_bank.eq(build.read_bank), acts.read_lane.eq(build.read_round),
            acts.read_word.eq(build.read_word),
            builder.shift.eq(build.shift), builder.word.eq(acts.data), builder.step.eq(build.step),
        ]
        return builder

    def _lanes_of_tokens(self, m, builders, build, beats, decode, drain):
        """The token lanes, and the tags of the beats that reach them."""
        look_ups = []
        for k in range(self._tokens // self._builders):
            m.submodules[f"lookup{k}"] = look_up = LookUp(
                engine_rows=self._rows, columns=self._columns, token_lanes=self._builders)
            m.d.comb += [
                look_up.codes.eq(decode.codes),
                look_up.table_en.eq(build.table_en & (build.table_round == k)), look_up.table_addr.eq(build.table_addr),
                *(look_up.entries[b].eq(builder.entries) for b, builder in enumerate(builders)),
            ]
            look_ups.append(look_up)
        sums = []
        for t in range(self._tokens):
            m.submodules[f"lane{t}"] = lane = LaneDot(engine_rows=self._rows, columns=self._columns)
            m.submodules[f"sums{t}"] = partial = PartialSums(
                engine_rows=self._rows, dot_bits=lane.dot_bits, accumulator_bits=self._bits,
                max_row_groups=self._groups)
            if t == 0:
                latency = BeatDecode.LATENCY + LookUp.LATENCY + lane.latency
                tags = self._tags(m, beats.tag, latency + PartialSums.WRITE_LAG)
                codes, reads, keeps, triples, writes = (tags[k] for k in (
                    BeatDecode.LATENCY, latency - PartialSums.READ_LEAD, latency - PartialSums.KEEP_LEAD,
                    latency - PartialSums.TRIPLE_LEAD, latency + PartialSums.WRITE_LAG))
            look_up = look_ups[t // self._builders]
            m.d.comb += [
                lane.found.eq(look_up.found[t % self._builders]), lane.inverts.eq(look_up.inverts),
                *(lane.counts[row].eq(decode.counts[row]) for row in range(self._rows)),
                *(partial.dots[row].eq(lane.dots[row]) for row in range(self._rows)),
                partial.read_en.eq(reads.valid & reads.keep), partial.read_group.eq(reads.group),
                partial.keep.eq(keeps.keep), partial.triple.eq(triples.triple),
                partial.write_en.eq(writes.valid & ~writes.drains), partial.write_group.eq(writes.group),
                partial.finish_en.eq(writes.valid & writes.drains), partial.finish_addr.eq(drain.finish_addr),
                partial.drain_en.eq(drain.read_en), partial.drain_addr.eq(drain.read_addr),
                partial.drain_take.eq(drain.take), partial.drain_own.eq(drain.own[t]),
            ]
            sums.append(partial.drained)
        m.d.comb += [
            *(look_up.half.eq(codes.half) for look_up in look_ups),
            drain.sums.eq(Cat(*sums)), drain.landed.eq(writes.valid & writes.drains),
        ]

    def _tags(self, m, tag, n_cycles):
        """The tag of the beat that was accepted 0 .. n_cycles cycles ago."""
        tags = [tag]
        for k in range(1, n_cycles + 1):
            later = Signal.like(tag, name=f"tag{k}")
            m.d.sync += later.eq(tags[-1])
            tags.append(later)
        return tags
