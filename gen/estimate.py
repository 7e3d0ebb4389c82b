"""How long a program takes: a performance model of the accelerator, without simulation.

The descriptors of a compiled program are gone through once, in order. Every unit takes its own one after the other; a descriptor
begins when its unit is free, the waits in it are met and the stream that it takes has come, and it ends at the latest of what
it computes and what it reads. Rates and latencies are those of the pages of the units (docs/units):

    memory      one stream of beats in program order, ``READ_SHARE`` of a beat a cycle, at most ``queue_beats`` ahead
    sequencer   ``ISSUE_CYCLES`` a descriptor
    engine      max(row groups, 14 rounds) cycles a column block and digit plane; a drained word takes L / R cycles
    vector      a word a cycle and token (with a sigmoid four), and a latency; a logit a cycle into the candidates
    attention   a record in max(beats, max(head words, A) passes, 6) cycles of a slice, then the merge of every query
    shortlist   begins when all before it has ended

What is left out: rows and banks of the memory, refresh apart from what ``READ_SHARE`` has of it, writes of records, sums that wait
to leave the engine, attention whose scores grow by much, the host. Figures are predictions, not measurements.
"""

from bisect import bisect_left
from dataclasses import dataclass

from celosia.hw.isa import DESCRIPTOR_BYTES, LANE_INDEXES, Mul3, Opcode, Reduce, Sink, Source, Tokens
from celosia.hw.links import record_beats, visited_rows

from .lockup import gathers
from .program import main_program

__all__ = ["READ_SHARE", "Run", "decode_beats", "read_beats", "simulate_program", "tokens_per_s"]

READ_SHARE = 0.9977         # pure_read_bytes_per_cycle of docs/performance.json over 64: a program that only reads
ISSUE_CYCLES = 9            # docs/units/control.md
_MEMORY_CYCLES = 110        # from a read plan to the first beat
_START_CYCLES = 40
_TABLE_CYCLES = 14          # look-up tables of a round of lanes
_UNITS = (Opcode.LOAD, Opcode.MATMUL, Opcode.VECTOR, Opcode.ATTEND)


@dataclass(frozen=True)
class Run:
    """What a run takes: clock cycles, and bytes that it reads, descriptors included, and writes."""
    cycles: float
    moved_bytes: int


def read_beats(step, layout, n_tokens=1, first_position=0):
    """Beats of all ports together that a step of a program reads."""
    accel, f = layout.accel, step.fields
    if step.opcode is Opcode.MATMUL:
        return f["n_row_groups"] * f["n_col_blocks"] * f["planes"]
    if step.opcode is Opcode.LOAD:
        rows = n_tokens if f["index"] in LANE_INDEXES else 1
        return rows * f["n_words"] * 4 * accel.vector_lanes // accel.beat_bytes
    if step.opcode is Opcode.ATTEND:
        return _visited(f, first_position, first_position, accel) * (layout.record_bytes // accel.port_bytes)
    return 0


def _visited(f, first_position, end, accel):
    """Rows of positions below ``end`` that an ATTEND visits for tokens from ``first_position`` on."""
    start_row, sink_rows = visited_rows(first_position, f["window"], f["sinks"], accel.n_ports)
    return sink_rows + -(-end // accel.n_ports) - start_row


def decode_beats(program, layout):
    """Beats that a program reads for one token at position 0, all ports together counted as one."""
    return sum(read_beats(step, layout) for step in program.steps)


def simulate_program(program, layout, n_tokens=1, first_position=0):
    """:class:`Run` of a :class:`celosia.gen.program.Program` on ``n_tokens`` tokens behind ``first_position``."""
    model = _Model(layout, n_tokens, first_position)
    for step in program.steps:
        if step.opcode is Opcode.END and n_tokens <= step.fields.get("above", n_tokens):
            break
        model.step(step)
    records = layout.model.n_layers * layout.model.n_kv_heads * layout.record_bytes
    moved = model.beats * layout.accel.beat_bytes + len(program.steps) * DESCRIPTOR_BYTES + n_tokens * records
    return Run(_START_CYCLES + max(model.free.values()), int(moved))


def tokens_per_s(programs, layout, position):
    """Predicted tokens a second of decoding behind ``position`` positions."""
    return layout.accel.clock_mhz * 1e6 / simulate_program(main_program(programs), layout, 1, position).cycles


class _Model:
    """When every unit is free, in cycles from the start."""

    def __init__(self, layout, n_tokens, first_position):
        self.layout, self.accel = layout, layout.accel
        self.n_tokens, self.first_position = n_tokens, first_position
        self.free = dict.fromkeys(_UNITS, 0.0)
        self.beats = 0
        self._ends = {unit: [0.0] for unit in _UNITS}       # when the first n descriptors of a unit have ended
        self._issued = self._arrived = 0.0
        self._consumed = [(0, 0.0, 0.0)]                    # of every reader: last beat, its begin and end
        self._streams = {}                                  # id of a step: (begin, end, words, words taken)
        self._gathering = False

    def step(self, step):
        if step.opcode is Opcode.END:
            return
        self._issued += ISSUE_CYCLES
        if gathers(step.opcode, step.fields) and not self._gathering:
            self._gathering = True
            self._issued = max(self._issued, *self.free.values()) + 2 * self.accel.top_k + self.accel.vector_lanes + 16
            self._arrived = max(self._arrived, self._issued)
        waits = max(self._ends[unit][count] for unit, count in zip(_UNITS, step.waits))
        begin = max(self._issued, self.free[step.opcode], waits)
        end = {Opcode.LOAD: self._load, Opcode.MATMUL: self._matmul, Opcode.VECTOR: self._vector,
               Opcode.ATTEND: self._attend}[step.opcode](step, begin)
        self.free[step.opcode] = end
        self._ends[step.opcode].append(end)

    def _tokens(self, f):
        return self.n_tokens if f["tokens"] is Tokens.ALL else 1

    def _read(self, step, begin, cycles):
        """When a unit that begins has all beats and has computed for ``cycles``."""
        beats = read_beats(step, self.layout, self.n_tokens, self.first_position)
        fetched = DESCRIPTOR_BYTES / self.accel.beat_bytes
        self.beats += beats
        self._arrived = max(self._arrived + (beats + fetched) / READ_SHARE, self._issued + _MEMORY_CYCLES,
                            self._when_consumed(self.beats - self.accel.queue_beats))
        end = max(begin + cycles, self._arrived, begin + (beats - self.accel.queue_beats) / READ_SHARE)
        self._arrived = max(self._arrived, begin + (beats - self.accel.queue_beats) / READ_SHARE)
        if beats:
            self._consumed.append((self.beats, begin, end))
        return end

    def _when_consumed(self, beat):
        """When beat number ``beat`` of the run had been taken out of the queues."""
        at = bisect_left(self._consumed, beat, key=lambda each: each[0])
        if beat <= 0 or at == len(self._consumed):
            return 0.0
        (before, _, _), (last, begin, end) = self._consumed[at - 1], self._consumed[at]
        return begin + (end - begin) * (beat - before) / (last - before)

    def _load(self, step, begin):
        return self._read(step, begin, 0) + 4

    def _matmul(self, step, begin):
        c, f = self.accel, step.fields
        rounds = -(-self._tokens(f) // c.table_builders)
        blocks, rest = divmod(f["n_row_groups"], c.max_row_groups)
        groups = blocks * max(c.max_row_groups, _TABLE_CYCLES * rounds) + (max(rest, _TABLE_CYCLES * rounds) if rest else 0)
        first = begin + 20 + _TABLE_CYCLES * (rounds - 1)
        end = self._read(step, first, f["planes"] * f["n_col_blocks"] * groups)
        self._streams[id(step)] = [first, end, f["n_row_groups"] * c.engine_rows / c.vector_lanes, 0]
        return end

    def _attend(self, step, begin):
        c, f = self.accel, step.fields
        queries = self.n_tokens * f["group"]
        passes = -(-queries // c.query_lanes)
        pace = max(record_beats(f["head_words"], c.port_bytes), max(f["head_words"], c.query_lanes) * passes, 6)
        records = _visited(f, self.first_position, self.first_position + self.n_tokens, c)
        merge = queries * max(c.n_ports, 2 * f["head_words"], f["head_words"] * c.port_bytes / c.vector_lanes)
        end = self._read(step, begin, queries + 70 + records * pace) + 35 + merge
        self._streams[id(step)] = [end - merge, end, queries * f["head_words"] * c.port_bytes / c.vector_lanes, 0]
        return end

    def _vector(self, step, begin):
        c, f = self.accel, step.fields
        tokens, words = self._tokens(f), f["n_words"]
        pace = 4 if f["mul3"] is Mul3.SIGMOID else 1
        if f["sink"] in (Sink.TOPK, Sink.RESCORE):
            pace = c.vector_lanes
        latency = 38 if f["sink"] in (Sink.NONE, Sink.X) else 43
        if f["reduce"] is Reduce.ABSMAX:
            latency = 59 + tokens
        elif f["reduce"] is Reduce.RMS:
            latency = words / 8 + 130 + (tokens - 1) * (words / 8 + 1)
        if step.producer is None:
            return begin + pace * words * tokens + latency
        stream = self._streams[id(step.producer)]
        first, last, total, taken = stream
        stream[3] += words
        block, delay = words, 0
        if f["source"] is Source.MATMUL:
            block, delay = min(words, self.layout.words(c.row_block_rows)), 15
            pace = max(pace, c.vector_lanes / c.engine_rows)

        def came(n):
            return first + (last - first) * min(1, (taken + n) / total) + delay

        end = max(max(begin, came(block)) + pace * words * tokens, came(words) + pace * block * tokens)
        return end + latency
