"""The program compiler: a decoder as a list of descriptors.

    model sizes ── schedule ──► operations ── tables: LOADs ahead of their use ──► waits ──► 64-byte descriptors

Programs of a decoder (``PROGRAMS``): ``prefill`` fills the cache for the tokens of its lanes (its last layer ends after attention:
nobody reads what would follow), ``decode`` does the same and the head for the last lane, ``batch`` the head for all lanes. All
serve any number of token lanes of any sequences. A bidirectional model has one program, ``encode``: whole texts, and the head for
all lanes.

Scalar registers of a token: 0, 1 scales of a query, key or value; 2, 3 scales of the activations that the matmul engine
holds. ``docs/program.md`` tells the order and why it cannot lock up.
"""

import itertools
from collections import deque
from dataclasses import dataclass, field, replace

from celosia.hw import isa
from celosia.hw.formats import bits_of
from celosia.hw.isa import LANE_INDEXES, Add, Index, Mul1, Mul2, Mul3, Opcode, Reduce, Sink, Source, Tokens

from .lockup import check_reads_ahead, check_shortlist, check_streams, drains_of
from .model import EXACT, HeadPlan
from .place import Address, Layout
from .scratch import Scratch, Tracker

__all__ = ["PROGRAMS", "Matrix", "Placement", "Program", "Step", "Table", "compile_program", "compile_programs",
           "main_program"]

# Name: lanes that have a head.
PROGRAMS = {"decode": Tokens.LAST, "prefill": None, "batch": Tokens.ALL, "encode": Tokens.ALL}
LAST_LANE = 15      # of a gather: a lane from n_tokens on stands for the last one
INT4_STEP = 127 / 7     # one step of a code within -7 .. 7, in steps of a code within -127 .. 127
LOOK_AHEAD = 2      # tables that are loaded before the one in use is done with
HEAD_SHARE = 4      # the row scales of a piece of the head take at most this part of P


@dataclass(frozen=True)
class Matrix:
    """A packed matrix in the model window. ``scale`` is one binary32 for all rows, or None where a table holds them; with
    ``gathered`` it is packed in row blocks of ``row_quantum`` rows, of which a program reads those of its shortlist."""
    address: Address
    rows: int
    columns: int
    planes: int
    scale: float | None
    gathered: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of binary32 words in the model window; ``index`` selects the row, ``n_words`` is its length; with index CANDIDATE
    ``rank`` says of which candidate of token lane ``lane``, with index REBASED ``limit`` is the last row that is selected."""
    address: Address
    n_words: int
    index: Index = Index.NONE
    rank: int = 0
    lane: int = 0
    limit: int = 0

    @property
    def per_token(self):
        """Whether every token lane has a row of its own in P."""
        return self.index in LANE_INDEXES


@dataclass(frozen=True)
class Placement:
    """Where the compiler finds things, by name: matrices, tables, cache regions by (layer, KV head).

    Matrix ``head`` is that of the logits. With a shortlist it is gathered, and matrix ``coarse`` makes the shortlist.
    """
    layout: Layout
    matrices: dict
    tables: dict
    cache: dict
    plan: HeadPlan = EXACT


@dataclass
class Step:
    """One descriptor. ``table`` names what p_base points at, ``producer`` is the step whose stream a VECTOR takes."""
    opcode: Opcode
    fields: dict
    label: str
    table: str | None = None
    producer: "Step | None" = None
    waits: tuple = (0, 0, 0, 0)


@dataclass(frozen=True)
class Program:
    """A compiled program, with the scratch words it needs and who holds them at the peak."""
    name: str
    steps: list
    x_words: int
    p_words: int
    held: dict = field(default_factory=dict)    # "X" or "P": {buffer: words}

    def encode(self):
        """The bytes of all descriptors."""
        return b"".join(isa.pack(step.opcode, step.waits, **step.fields) for step in self.steps)

    def listing(self):
        """The program for people: a line a descriptor."""
        return "\n".join([f"program {self.name}: {len(self.steps)} descriptors, {self.x_words} words of X, "
                          f"{self.p_words} words of P", *(_line(i, step) for i, step in enumerate(self.steps))]) + "\n"


def compile_programs(placement):
    """{name: program} of all programs of ``PROGRAMS`` that the model has."""
    return {name: compile_program(placement, name) for name in PROGRAMS
            if (name == "encode") == placement.layout.model.bidirectional}


def main_program(programs):
    """Of all programs of a model the one that gives candidates after a token at least."""
    return programs["decode" if "decode" in programs else "encode"]


def compile_program(placement, name):
    """Compile a program of ``PROGRAMS``."""
    tokens = PROGRAMS[name]
    lanes = {None: [], Tokens.LAST: [LAST_LANE], Tokens.ALL: range(placement.layout.accel.token_lanes)}[tokens]
    placement, pieces = _split_head(_with_ranks(_with_rebased(placement), lanes))
    schedule = _Schedule(placement, pieces if tokens else None, tokens, lanes)
    schedule.run()
    steps, p_scratch = _insert_loads(schedule.steps, placement)
    tracker = Tracker(placement.layout.accel.token_lanes)
    for step in steps:
        step.waits = tracker.issue(step.opcode, step.fields)
    check_streams(steps)
    check_reads_ahead(steps, placement.layout.accel.token_lanes)
    check_shortlist(steps)
    return Program(name, steps, schedule.x.peak, p_scratch.peak,
                   {"X": schedule.x.held, "P": p_scratch.held})


def _with_rebased(placement):
    """The placement with a table ``rope.N`` for each position N to which queries of a layer are re-based."""
    rope, model = placement.tables["rope"], placement.layout.model
    limits = {model.rebased(layer) for layer in range(model.n_layers)} - {None}
    return replace(placement, tables=placement.tables | {
        f"rope.{limit}": replace(rope, index=Index.REBASED, limit=limit) for limit in sorted(limits)
        if limit < placement.layout.context - 1})


def _with_ranks(placement, lanes):
    """The placement with a matrix and a table for each lane and rank of the shortlists: ``head.0.0``, ``head.0.0.scales``, ..."""
    matrix, scales = placement.matrices["head"], placement.tables.get("head.scales")
    if not matrix.gathered:
        return placement
    rows = [(lane, rank) for lane in lanes for rank in range(placement.plan.candidates)]
    piece = replace(matrix, rows=placement.layout.accel.row_quantum)
    tables = {f"head.{lane}.{rank}.scales": replace(scales, rank=rank, lane=lane) for lane, rank in rows if scales is not None}
    return replace(placement, matrices=placement.matrices | {f"head.{lane}.{rank}": piece for lane, rank in rows},
                   tables=placement.tables | tables)


def _split_head(placement):
    """The matrix that is read for every token as pieces of whole row blocks whose row scales fit a share of P: (placement that
    knows the pieces, [(piece, its first word)]). A matrix that fits, or has one scale for all rows, is one piece."""
    whole = "coarse" if placement.matrices["head"].gathered else "head"
    accel, matrix = placement.layout.accel, placement.matrices[whole]
    block_words = placement.layout.words(accel.row_block_rows)
    piece_rows = max(1, accel.p_words // HEAD_SHARE // block_words) * accel.row_block_rows
    if matrix.scale is not None or matrix.rows <= piece_rows:
        return placement, [(whole, 0)]
    row_bytes = matrix.columns // accel.columns * matrix.planes * accel.port_bytes // accel.engine_rows     # on a port
    word_bytes = 4 * accel.vector_lanes // accel.n_ports
    scales = placement.tables[f"{whole}.scales"]
    matrices, tables, pieces = dict(placement.matrices), dict(placement.tables), []
    for first in range(0, matrix.rows, piece_rows):
        name, rows = f"{whole}{first // piece_rows}", min(piece_rows, matrix.rows - first)
        words = placement.layout.words(first), placement.layout.words(rows)
        matrices[name] = replace(matrix, rows=rows, address=_later(matrix.address, first * row_bytes))
        tables[f"{name}.scales"] = replace(scales, n_words=words[1], address=_later(scales.address, words[0] * word_bytes))
        pieces.append((name, words[0]))
    return replace(placement, matrices=matrices, tables=tables), pieces


def _later(address, port_bytes):
    return replace(address, offset=address.offset + port_bytes)


class _Schedule:
    """All descriptors but LOADs, in program order, with X allocated and P still by name. ``head`` lists its pieces, ``tokens`` and
    ``lanes`` say which token lanes have it."""

    def __init__(self, placement, head, tokens, lanes):
        self.place, self.head, self.head_tokens, self.head_lanes = placement, head, tokens, lanes
        self.layout, self.model = placement.layout, placement.layout.model
        self.accel = self.layout.accel
        self.x = Scratch(self.accel.x_words)
        self.steps = []
        self._strides = {}          # X buffer: words a token
        self._act_bank = 0

    # Emitters

    def buffer(self, name, words):
        self.x.take(name, words * self.accel.token_lanes)
        self._strides[name] = words

    def _x(self, prefix, name, offset=0):
        return {f"{prefix}_base": self.x.base(name) + offset, f"{prefix}_stride": self._strides[name]}

    def vector(self, label, n_words, *, x=None, d=None, table=None, producer=None, **fields):
        """One VECTOR step. ``x`` and ``d`` are X buffers or (buffer, first word); ``table`` is what it reads from P, from word
        ``p_base`` of the table on."""
        default = dict(addr=0, port_stride=0, x_base=0, x_stride=0, p_base=0, p_stride=0, d_base=0, d_stride=0, imm0=0,
                       imm1=0, source=Source.X, mul1=Mul1.ONE, mul1_scalar=0, mul2=Mul2.ONE, mul3=Mul3.ONE,
                       add=Add.NONE, reduce=Reduce.NONE, reduce_scalar=0, sink=Sink.NONE, scale_scalar=0, bank=0, head=0,
                       tokens=Tokens.ALL, lane=0, int4=0)
        block_words = min(n_words, self.layout.words(self.accel.row_block_rows)) if producer is not None and \
            producer.opcode is Opcode.MATMUL else n_words
        for prefix, at in (("x", x), ("d", d)):
            if at is not None:
                default |= self._x(prefix, *((at,) if isinstance(at, str) else at))
        self.steps.append(Step(Opcode.VECTOR, default | {"n_words": n_words, "block_words": block_words} | fields, label,
                               table, producer))

    def matmul(self, name, tokens=Tokens.ALL, lane=0, rank=0):
        """One MATMUL step on the bank that was quantised last; ``rank`` and ``lane`` name the candidate whose rows it reads."""
        matrix = self.place.matrices[name]
        step = Step(Opcode.MATMUL, dict(
            addr=matrix.address.offset, port_stride=matrix.address.port_stride,
            n_row_groups=matrix.rows // self.accel.engine_rows, n_col_blocks=matrix.columns // self.accel.columns,
            planes=matrix.planes, bank=self._act_bank, tokens=tokens, gather=int(matrix.gathered), rank=rank,
            lane=lane), name)
        self.steps.append(step)
        return step

    def dequantise(self, step, *, words=None, tokens=Tokens.ALL, **fields):
        """Sums of a MATMUL to numbers: times the activations' scale, times the rows' scale. ``words`` (first, end): those
        of a row that this step takes; default all. Where they go is the caller's."""
        matrix = self.place.matrices[step.label]
        first, end = words or (0, self.layout.words(matrix.rows))
        scale, table = {"mul2": Mul2.P, "p_base": first}, f"{step.label}.scales"
        if matrix.scale is not None:
            scale, table = {"mul2": Mul2.IMM, "imm1": bits_of(matrix.scale)}, None
        self.vector(f"{step.label}: dequantise", end - first, producer=step, table=table, source=Source.MATMUL,
                    mul1=Mul1.SCALAR, mul1_scalar=3, tokens=tokens, **scale, **fields)

    def _gain(self, gain, first=0):
        """Fields that multiply by a norm's gain, from its word ``first`` on; none for a norm that the model has not."""
        return {"table": gain, "mul2": Mul2.P, "p_base": first} if gain in self.place.tables else {}

    def absmax(self, gain, source, words, *, more=False, tokens=Tokens.ALL):
        """Words (first, end) of X buffer ``source``, times gain: into the search for the largest magnitude, whose end
        (unless there is ``more`` to come) gives scalars 2 and 3."""
        first, end = words
        self.vector(f"{gain}: absmax", end - first, x=(source, first), reduce=Reduce.KEEP if more else Reduce.ABSMAX,
                    reduce_scalar=2, tokens=tokens, **self._gain(gain, first))

    def fill_bank(self, gain, source, n_words, **which):
        """X buffer ``source`` times gain and scalar 2, as int8 into the activation bank that is not in use."""
        self._act_bank ^= 1
        self.vector(f"{gain}: quantise", n_words, x=source, mul1=Mul1.SCALAR, mul1_scalar=2, sink=Sink.ACT,
                    bank=self._act_bank, **which, **self._gain(gain))

    def quantise(self, gain, source, n_words, n_elements, tokens=Tokens.ALL):
        """RMS norm of X buffer ``source``, whose largest magnitude is in scalars 2 and 3, as int8 into the activation bank
        that is not in use. The factor of the norm is the same for a whole row: it goes into scalar 3, after the bank."""
        self.fill_bank(gain, source, n_words, tokens=tokens)
        if gain in self.place.tables:
            self.vector(f"{gain}: mean square", n_words, x=source, mul3=Mul3.SELF, reduce=Reduce.RMS, reduce_scalar=3,
                        scale_scalar=3, imm0=bits_of(1.0 / n_elements), imm1=bits_of(self.model.norm_eps), tokens=tokens)

    def dequantise_and_search(self, step, buffer, gain, *, tokens=Tokens.ALL, **fields):
        """Sums of a MATMUL into X buffer ``buffer``, with X there as the second operand; of all but the last row blocks the
        largest magnitude (times ``gain``, of ``tokens``) is sought while the engine works on those behind."""
        for words in self._parts(self.place.matrices[step.label].rows):
            at = (buffer, words[0])
            self.dequantise(step, words=words, x=at, d=at, sink=Sink.X, **fields)
            self.absmax(gain, buffer, words, more=words[1] < self.layout.words(self.place.matrices[step.label].rows),
                        tokens=tokens)

    def _parts(self, rows):
        """Words (first, end) of the parts of ``rows`` rows: whole row blocks, in quarters, the last one on its own."""
        n_blocks = -(-rows // self.accel.row_block_rows)
        ends = sorted({*(n_blocks * quarter // 4 for quarter in (1, 2, 3)), n_blocks - 1, n_blocks} - {0})
        ends = [min(end * self.accel.row_block_rows, rows) for end in ends]
        return [(self.layout.words(first), self.layout.words(end)) for first, end in zip([0, *ends], ends)]

    # The decoder

    def run(self):
        layout, model = self.layout, self.model
        hidden_words = layout.words(layout.hidden_rows)
        self.buffer("residual", hidden_words)
        self.vector("embedding", hidden_words, source=Source.P, table="embedding", sink=Sink.X, d="residual",
                    p_stride=hidden_words)
        self.absmax("layer0.attn_norm", "residual", (0, hidden_words))
        for layer in range(model.n_layers):
            last_layer = layer == model.n_layers - 1
            self.quantise(f"layer{layer}.attn_norm", "residual", hidden_words, model.hidden_size)
            self.attention(layer)
            if last_layer and not self.head:
                break
            self.quantise(f"layer{layer}.attn_sub_norm", "attn", layout.words(layout.attn_columns), model.attn_size)
            self.x.free("attn")
            self.dequantise_and_search(self.matmul(f"layer{layer}.o"), "residual", f"layer{layer}.ffn_norm", add=Add.X)
            self.ffn(layer)
            self.dequantise_and_search(
                self.matmul(f"layer{layer}.down"), "residual", "final_norm" if last_layer else f"layer{layer + 1}.attn_norm",
                tokens=self.head_tokens if last_layer else Tokens.ALL, add=Add.X)
        if self.head:
            self.quantise("final_norm", "residual", hidden_words, model.hidden_size, self.head_tokens)
            for piece, first_word in self.head:
                self.dequantise(self.matmul(piece, self.head_tokens), tokens=self.head_tokens, sink=Sink.TOPK, d_base=first_word,
                                imm0=model.vocab_size)
            if self.place.matrices["head"].gathered:
                for lane in self.head_lanes:
                    self.rescore(lane)
        self.end("end")

    def end(self, label, above=0):
        self.steps.append(Step(Opcode.END, {"above": above}, label))

    def rescore(self, lane):
        """The exact logit of each candidate of a lane's shortlist. Every lane's activations come to lane 0 of the engine for it,
        and no lane follows when the run has no more."""
        which = {"tokens": Tokens.LANE, "lane": lane} if self.head_tokens is Tokens.ALL else {"tokens": Tokens.LAST}
        if self.head_tokens is Tokens.ALL and lane:
            self.end(f"end of {lane} lanes", above=lane)
            self.fill_bank("final_norm", "residual", self.layout.words(self.layout.hidden_rows), **which)
        for rank in range(self.place.plan.candidates):
            step = self.matmul(f"head.{lane}.{rank}", which["tokens"], lane, rank)
            self.dequantise(step, **which, sink=Sink.RESCORE, d_base=rank * self.layout.words(self.accel.row_quantum))

    def attention(self, layer):
        """All KV heads. While head h is attended to, the matrix of head h + 1 is in the engine and then its queries, key and
        value are made; the output of head h is taken after that, or before where the re-based queries of a head take the bank of
        the next. The largest magnitude of all heads but the last is sought while the last is attended to."""
        layout, heads, rebased = self.layout, self.model.n_kv_heads, self._rebased(layer)
        self.buffer("attn", layout.words(layout.attn_columns))
        if rebased:
            self.buffer("rebased", layout.head_words)
        attends = {}
        step = self.matmul(f"layer{layer}.qkv{0}")
        for head in range(heads):
            self.buffer(f"qkv{head % 2}", layout.words(layout.qkv_rows))
            self.dequantise(step, d=f"qkv{head % 2}", sink=Sink.X)
            if head + 1 < heads:
                step = self.matmul(f"layer{layer}.qkv{head + 1}")
            if head and rebased:
                self.attended(layer, head - 1, attends[head - 1])
            self.queries(layer, head)
            attends[head] = self.attend(layer, head)
            if head and not rebased:
                self.attended(layer, head - 1, attends[head - 1])
            self.x.free(f"qkv{head % 2}")
        if rebased:
            self.x.free("rebased")
        searched = layer < self.model.n_layers - 1 or bool(self.head)
        first, end = ((heads - n) * self.model.group * layout.head_words for n in (1, 0))
        if searched and first:
            self.absmax(f"layer{layer}.attn_sub_norm", "attn", (0, first), more=True)
        self.attended(layer, heads - 1, attends[heads - 1])
        if searched:
            self.absmax(f"layer{layer}.attn_sub_norm", "attn", (first, end))
        else:
            self.x.free("attn")

    def _rebased(self, layer):
        """The table with the rotary pairs of a layer's re-based queries; None where queries have one position alone."""
        name = f"rope.{self.model.rebased(layer)}"
        return name if name in self.place.tables else None

    def rotate(self, label, words, into=None, table="rope"):
        self.vector(f"{label}: rotate", self.layout.head_words, x=words, d=into or words, table=table, mul1=Mul1.P,
                    mul2=Mul2.ROPE, add=Add.ROPE, p_stride=self.layout.head_words, sink=Sink.X, reduce=Reduce.ABSMAX,
                    reduce_scalar=0)

    def queries(self, layer, head):
        """The queries of a group into the head's bank, and once more into the other one where they are re-based."""
        layout, table = self.layout, self._rebased(layer)
        factor = self.model.query_factor * (INT4_STEP if layout.int4 & 1 else 1)

        def quantise(label, at, bank):
            self.vector(f"{label}: quantise", layout.head_words, x=at, mul1=Mul1.SCALAR, mul1_scalar=0, sink=Sink.Q,
                        scale_scalar=1, imm1=bits_of(factor), bank=bank, head=query)

        for query in range(self.model.group):
            at, label = (f"qkv{head % 2}", query * layout.head_words), f"layer{layer}.q{head}.{query}"
            if table:
                self.rotate(f"{label}, re-based", at, "rebased", table)
                quantise(f"{label}, re-based", "rebased", (head + 1) % 2)
            self.rotate(label, at)
            quantise(label, at, head % 2)

    def attend(self, layer, head):
        """Key and value of the chunk, then ATTEND."""
        layout, region = self.layout, self.place.cache[layer, head]
        key, value = ((f"qkv{head % 2}", (self.model.group + i) * layout.head_words) for i in range(2))
        where = {"addr": region.offset, "port_stride": region.port_stride}
        quantise, to_four = {"mul1": Mul1.SCALAR, "mul1_scalar": 0, "scale_scalar": 1}, {"mul2": Mul2.IMM, "imm1": bits_of(7 / 127)}
        self.rotate(f"layer{layer}.k{head}", key)
        self.vector(f"layer{layer}.k{head}: quantise", layout.head_words, x=key, sink=Sink.K,
                    **quantise, **(to_four if layout.int4 & 1 else {}))
        self.vector(f"layer{layer}.v{head}: absmax", layout.head_words, x=value, reduce=Reduce.ABSMAX, reduce_scalar=0)
        self.vector(f"layer{layer}.v{head}: quantise", layout.head_words, x=value, sink=Sink.V,
                    int4=layout.int4, **quantise, **(to_four if layout.int4 >> 1 else {}), **where)
        window = self.model.window(layer)
        step = Step(Opcode.ATTEND, dict(
            where, group=self.model.group, head_words=layout.head_beats, bank=head % 2, int4=layout.int4,
            bidirectional=int(self.model.bidirectional), window=window, sinks=self.model.sinks if window else 0,
            cap=self.model.cap, rebased=int(self._rebased(layer) is not None)), f"layer{layer}.attend{head}")
        self.steps.append(step)
        return step

    def attended(self, layer, head, step):
        words = self.model.group * self.layout.head_words
        step_size = {"mul2": Mul2.IMM, "imm1": bits_of(INT4_STEP)} if self.layout.int4 >> 1 else {}
        self.vector(f"{step.label}: take", words, producer=step, source=Source.ATTEND, mul1=Mul1.STREAM, sink=Sink.X,
                    d=("attn", head * words), **step_size)

    def ffn(self, layer):
        """Up to the activations of the down matrix."""
        layout, model = self.layout, self.model
        ffn_words = layout.words(layout.ffn_rows)
        self.quantise(f"layer{layer}.ffn_norm", "residual", layout.words(layout.hidden_rows), model.hidden_size)
        self.buffer("gate", ffn_words)
        self.dequantise(self.matmul(f"layer{layer}.gate"), d="gate", sink=Sink.X,
                        mul3={"relu2": Mul3.RELU, "silu": Mul3.SIGMOID}[model.act])
        self.dequantise_and_search(self.matmul(f"layer{layer}.up"), "gate", f"layer{layer}.ffn_sub_norm", mul3=Mul3.X)
        self.quantise(f"layer{layer}.ffn_sub_norm", "gate", ffn_words, model.ffn_size)
        self.x.free("gate")


def _insert_loads(steps, placement):
    """Put a LOAD for every table into the program, LOOK_AHEAD tables early where P has room. Returns steps and scratch.

    A table that is used before some stream is drained must be loaded before the step that fills the stream (see
    ``check_streams``): that step is where it is needed at the latest. A row of the shortlist is not loaded before all candidates
    have come, and none before an END that its lane would not pass.
    """
    lanes, scratch = placement.layout.accel.token_lanes, Scratch(placement.layout.accel.p_words, rotate=True)
    first, last = {}, {}
    for i, step in enumerate(steps):
        if step.table is not None:
            first.setdefault(step.table, i)
            last[step.table] = i
    filled = {drain: source for source, drain in drains_of(steps).items()}
    due, earliest = {}, len(steps)      # earliest: first step that fills a stream which is drained at this step or later
    for i in reversed(range(len(steps))):
        earliest = min(i, earliest, filled.get(i, i))
        if steps[i].table is not None:
            due[steps[i].table] = earliest
    for name in due:
        if placement.tables[name].index is Index.REBASED:   # a row a lane: more reads than may lie between two ATTENDs
            due[name] = min(due[name], due["rope"])
    waiting = deque(sorted(first, key=lambda name: (due[name], first[name])))
    ends_before = list(itertools.accumulate((step.opcode is Opcode.END for step in steps), initial=0))
    shortlisted = max((i + 1 for i, step in enumerate(steps) if step.fields.get("sink") is Sink.TOPK), default=0)
    in_use, out = [], []

    def load():
        name = waiting.popleft()
        table = placement.tables[name]
        base = scratch.take(name, table.n_words * (lanes if table.per_token else 1))
        out.append(Step(Opcode.LOAD, dict(
            addr=table.address.offset, port_stride=table.address.port_stride, index_stride=table.address.index_stride,
            index=table.index, n_words=table.n_words, d_base=base, d_stride=table.n_words if table.per_token else 0,
            rank=table.rank, lane=table.lane, limit=table.limit), name))
        in_use.append(name)

    for i, step in enumerate(steps):
        while waiting and due[waiting[0]] <= i:
            load()
        while waiting and sum(first[name] > i for name in in_use) < LOOK_AHEAD:
            table = placement.tables[waiting[0]]
            if not scratch.fits(table.n_words * (lanes if table.per_token else 1)):
                break
            if table.index is Index.CANDIDATE and (i < shortlisted or ends_before[first[waiting[0]]] > ends_before[i]):
                break
            load()
        if step.table is not None:
            step.fields["p_base"] += scratch.base(step.table)
        out.append(step)
        for name in [name for name in in_use if last[name] == i]:
            scratch.free(name)
            in_use.remove(name)
    return out, scratch


def _line(i, step):
    """Index, opcode, waits (load, matmul, vector, attend), label, fields that are not their default."""
    shown = []
    for name, value in step.fields.items():
        if name in ("imm0", "imm1") and value:
            shown.append(f"{name}={value:#010x}")
        elif hasattr(value, "name"):
            shown += [f"{name}={value.name}"] if value.name not in ("ONE", "NONE", "ALL") else []
        elif value:
            shown.append(f"{name}={value}")
    waits = ",".join(str(n) for n in step.waits)
    return f"{i:5} {step.opcode.name:6} [{waits}] {step.label:32} {' '.join(shown)}".rstrip()
