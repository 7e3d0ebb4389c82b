"""The compiler: a binary encoder as a list of 64-byte descriptors.

    Layout + addresses ── schedule ──► LOAD, MATMUL, NORM in program order ── Tracker ──► waits

For a layer, chunk c, with p the chunk before it, whose feed-forward is still to come:

    QKV(c) of a group | maps and values of c, head by head | up(p) | o(c) | down(p) | norms of c and p | ...

so that the engine has a matrix of one chunk while the norm of the other is taken, and a matrix whose activations the one before it
makes is never next to it: the map of head h + 1 is issued before the values of head h. Parameters of a stage are loaded while the
one before it is at work. In a run of one group the last chunk is not parked from layer to layer. ``docs/binary.md`` tells the order
in full.
"""

from collections import deque
from dataclasses import dataclass

from celosia.hw.binary import isa
from celosia.hw.binary.isa import Into, Kind, Opcode, Operand, Post, Target

from .model import ImageInput
from .place import HEAD_BITS, DoesNotFit
from .waits import Tracker

__all__ = ["Places", "Program", "Step", "compile_program"]

_MAX_COUNT = 65535      # of a wait


@dataclass(frozen=True)
class Places:
    """What a program finds in memory: ``segments`` {name: Address} of the model window, ``input`` (Address of chunk 0, chunks one
    after the other) and ``output`` (offset) of the cache window."""
    segments: dict
    input: object
    output: int


@dataclass(frozen=True)
class Step:
    """One descriptor."""
    opcode: Opcode
    fields: dict
    waits: tuple
    label: str


@dataclass(frozen=True)
class Program:
    """A compiled program."""
    name: str
    layout: object
    steps: list

    def encode(self):
        """The bytes of all descriptors."""
        return b"".join(isa.pack(step.opcode, step.waits, **step.fields) for step in self.steps)

    def listing(self):
        """The program for people: a line a descriptor."""
        return "".join(f"{i:5} {step.opcode.name:<7}{str(step.waits):<18}{step.label}\n" for i, step in enumerate(self.steps))


def compile_program(name, layout, places):
    """The program of a :class:`Layout`. :class:`DoesNotFit` where its descriptors do not hold it."""
    schedule = _Schedule(layout, places)
    schedule.run()
    for opcode in (Opcode.LOAD, Opcode.MATMUL, Opcode.NORM):
        count = sum(step.opcode is opcode for step in schedule.steps)
        if count > _MAX_COUNT:
            raise DoesNotFit(f"Descriptors {opcode.name} of a program must be at most {_MAX_COUNT}, not {count}")
    return Program(name, layout, schedule.steps)


class _Schedule:
    """Descriptors in program order.

    A chunk whose attention is done and whose feed-forward is not is *parked*. An *entry* is the norm in front of a stage; it is
    issued as soon as its parameters are loaded and there is a place for what it makes.
    """

    def __init__(self, layout, places):
        self.layout, self.places, self.accel, self.config = layout, places, layout.accel, layout.config
        self.model, self.steps, self._tracker = layout.model, [], Tracker(layout.accel)
        self._parked = None             # (layer, chunk)
        self._loaded = -2               # stage whose parameters have been loaded last
        self._finished = -2             # stage that nothing behind belongs to
        self._entries = deque()         # (stage, chunk) whose rows are complete
        self._made = {}                 # (stage, chunk): (line, end) of an entry that nobody has read

    def run(self):
        n_chunks, size = self.layout.n_chunks, self.layout.group_chunks
        self._load_stage()
        self._inputs()
        for layer in range(self.config.n_layers):
            for first in range(0, n_chunks, size):
                group = range(first, min(first + size, n_chunks))
                if self._parked and self._parked[1] in group:   # its norm then has the products of the others to hide behind
                    self._feed_forward()
                for chunk in group:
                    self._qkv(layer, chunk)
                for chunk in group:
                    self._attend(layer, chunk)
        for chunk in range(n_chunks):
            self._head(chunk)
        self.steps.append(Step(Opcode.END, {}, (0, 0, 0), "end"))

    # Emitters

    def _emit(self, opcode, label, **fields):
        self.steps.append(Step(opcode, fields, self._tracker.issue(opcode, fields), label))

    def _load(self, label, address, target, d_base, n_bytes, *, cache=0, skip=0):
        """``n_bytes`` of all ports together, from ``skip`` bytes of them on."""
        n_ports = self.accel.n_ports
        self._emit(Opcode.LOAD, label, addr=address.offset + skip // n_ports, port_stride=address.port_stride,
                   n_beats=n_bytes // self.accel.beat_bytes, d_base=d_base, target=target, cache=cache)

    def _matmul(self, label, *, rows, columns, a_base, a_bits, kind, post, n_const, **fields):
        default = dict(addr=0, port_stride=0, out=0, w_planes=1, operand=Operand.PORTS, k_base=0, k_stride=0, into=Into.ACT,
                       p_base=0, shift=0, lo=0, hi=0, d_base=0, d_first=0, line_rows=self.accel.columns, fill=1, v_blocks=0,
                       chunk=0, first_row=0, causal=0, seq_log2=0, n_index=0)
        self._emit(Opcode.MATMUL, label, **default | dict(
            n_row_groups=-(-rows // self.accel.engine_rows), n_col_blocks=self.layout.blocks(columns), a_base=a_base, a_bits=a_bits,
            kind=kind, post=post, n_const=n_const) | fields)

    def _weights(self, label, linear, a_base, a_bits, kind, **fields):
        """A MATMUL with the matrix of segment ``label``."""
        rows, columns = linear.weights.shape
        address, padded = self.places.segments[label], self.layout.blocks(columns) * self.accel.columns
        self._matmul(label, rows=rows, columns=columns, a_base=a_base, a_bits=a_bits, kind=kind, addr=address.offset,
                     port_stride=address.port_stride, w_planes=linear.planes,
                     n_const=(columns if kind is Kind.SIGNS else padded) * ((1 << linear.planes) - 1), **fields)

    def _after(self, stage, name, out, mode, **fields):
        """Fields that say what becomes of the rows: ``mode`` for the parameters ``out`` of a name."""
        found = {"p_base": self.layout.p_base(stage, name), "post": mode}
        if mode in (Post.QUANT, Post.RESIDUAL):
            found |= {"shift": out.shift, "lo": out.low, "hi": out.high}
        return found | fields

    @property
    def _kind(self):
        """Of +-1, or of int8."""
        return Kind.SIGNS if self.config.act_bits == 1 else Kind.INTS

    @property
    def _mode(self):
        """What makes activations."""
        return Post.SIGN if self.config.act_bits == 1 else Post.QUANT

    def _x_base(self, chunk):
        return chunk * self.config.hidden_size

    # Stages

    def _load_stage(self):
        """Parameters of the next stage, where P has room for them and there is one. Returns whether."""
        stage = self._loaded + 1
        if stage > self.config.n_layers or self._finished < stage - self.layout.p_slots:
            return False
        self._loaded = stage
        parts = self.layout.stages[stage]
        if parts:
            segment = self.places.segments[f"stage{stage}.parameters"]
            self._load(f"stage{stage}.parameters", segment, Target.PARAM,
                       (stage + 1) % self.layout.p_slots * self.layout.stage_words, segment.port_bytes * self.accel.n_ports)
        self._advance()
        return True

    def _inputs(self):
        """The residual of every chunk in front of the first layer."""
        accel, layout, hidden = self.accel, self.layout, self.config.hidden_size
        row_bytes, image = 2 * accel.token_lanes, isinstance(self.config.input, ImageInput)
        for chunk in range(layout.n_chunks):
            x = self._x_base(chunk)
            if image:
                n_bytes = layout.act["patches"].lines * accel.line_bytes
                pattern = chunk % max(1, layout.seq_tokens // accel.token_lanes)
                self._load(f"positions: chunk {chunk}", self.places.segments["positions"], Target.X, x, hidden * row_bytes,
                           skip=pattern * hidden * row_bytes)
                line = layout.act["patches"].line(chunk)
                self._load(f"patches: chunk {chunk}", self.places.input, Target.ACT, line, n_bytes, cache=1, skip=chunk * n_bytes)
                self._weights("patch", self.model.patch, line, self.config.input.bits, Kind.INTS, d_base=x,
                              **self._after(-1, "patch", self.model.patch.after, Post.RESIDUAL))
            else:
                self._load(f"tokens: chunk {chunk}", self.places.input, Target.X, x, hidden * row_bytes, cache=1,
                           skip=chunk * hidden * row_bytes)
            self._complete(0, chunk)

    def _complete(self, stage, chunk):
        """The residual of a chunk is complete in front of a stage."""
        if chunk == self.layout.n_chunks - 1:
            self._finished = stage - 1
        if stage > self._loaded and chunk == 0:
            self._load_stage()
        self._entries.append((stage, chunk))
        self._advance()

    def _advance(self):
        """Issue the entries that can be."""
        while self._entries:
            stage, chunk = self._entries[0]
            at_head = stage == self.config.n_layers
            region = self.layout.act["head_entries" if at_head else "entries"]
            line, end = region.line(chunk), region.line(chunk) + region.lines
            if stage > self._loaded or any(line < other and first < end for first, other in self._made.values()):
                return
            self._entries.popleft()
            self._norm(stage, "entry", self.model.entries[stage], chunk, line, HEAD_BITS if at_head else self.config.act_bits)
            self._made[stage, chunk] = line, end

    def _entry(self, stage, chunk):
        """First line of the activations in front of a stage, which are to be read now."""
        while (stage, chunk) not in self._made:
            if self._loaded >= stage or not self._load_stage():
                assert self._parked, f"Entry {stage} of chunk {chunk} must be issued by now"
                self._feed_forward()
        return self._made.pop((stage, chunk))[0]

    def _norm(self, stage, name, norm, chunk, line, a_bits):
        second = {"shift2": norm.gain.shift, "lo": 0, "hi": 0}
        if a_bits > 1:
            second = {"shift2": norm.out.shift, "lo": norm.out.low, "hi": norm.out.high}
        self._emit(Opcode.NORM, f"stage{stage}.{name}: chunk {chunk}", x_base=self._x_base(chunk), n_rows=self.config.hidden_size,
                   p_base=self.layout.p_base(stage, name), **norm.scalars, shift=norm.gain.shift, write_x=int(norm.replaces),
                   to_act=1, a_bits=a_bits, d_base=line, **second)

    # A layer

    def _qkv(self, layer, chunk):
        """Queries, keys and values of a chunk."""
        line, of, layout = self._entry(layer, chunk), self.model.layers[layer], self.layout
        act = line, self.config.act_bits, self._kind
        for name, base in (("k", layout.key_line(chunk, 0)), ("q", layout.query_line(chunk, 0)), ("v", 0)):
            into = {"into": Into.V, "v_blocks": layout.v_blocks, "chunk": chunk} if name == "v" else {
                "line_rows": self.config.head_dim}
            self._weights(f"layer{layer}.{name}", getattr(of, name), *act, d_base=base,
                          **self._after(layer, name, getattr(of, name).after, Post.SIGN), **into)
        self._advance()

    def _attend(self, layer, chunk):
        """Attention of a chunk up to the residual, around the feed-forward of the one that is parked."""
        heads = self.config.n_heads
        self._map(layer, chunk, 0)
        for head in range(heads):
            if head + 1 < heads:
                self._map(layer, chunk, head + 1)
            self._values(layer, chunk, head)
        self._load_stage()
        parked, of = self._parked, self.model.layers[layer]
        if parked:
            self._up(*parked)
        self._weights(f"layer{layer}.o", of.o, self.layout.act["gathered"].base, self.config.act_bits, self._kind,
                      d_base=self._x_base(chunk), **self._after(layer, "o", of.o.after, Post.RESIDUAL))
        if parked:
            self._down(*parked)
        self._norm(layer, "middle", of.middle, chunk, self.layout.act["middle"].base, self.config.act_bits)
        if parked:
            self._complete(parked[0] + 1, parked[1])
        self._parked = layer, chunk

    def _map(self, layer, chunk, head):
        """Bits of the attention map of a head."""
        layout, dim = self.layout, self.config.head_dim
        first, rows = layout.map_rows(chunk)
        p_base, modes = layout.p_base(layer, "map"), (Post.MAP,)
        if self.config.attention == "softmax":
            p_base, modes = p_base + head * (dim + 1), (Post.SUM, Post.CUT)
        else:
            p_base += head
        for mode in modes:
            self._matmul(f"layer{layer}.{mode.name.lower()}{head}: chunk {chunk}", rows=rows, columns=dim,
                         a_base=layout.query_line(chunk, head), a_bits=1, kind=Kind.SIGNS, n_const=2 * self.accel.columns - dim,
                         operand=Operand.KEYS, k_base=layout.key_line(first // self.accel.token_lanes, head),
                         k_stride=self.config.n_heads, post=mode, p_base=p_base, d_base=layout.act["maps"].line(head), chunk=chunk,
                         first_row=first, seq_log2=layout.seq_tokens.bit_length() - 1, n_index=dim)

    def _values(self, layer, chunk, head):
        """Sums of the values that the map of a head takes, as activations."""
        layout, accel, dim, last = self.layout, self.accel, self.config.head_dim, head == self.config.n_heads - 1
        first, rows = layout.map_rows(chunk)
        block, column = divmod(head * dim, accel.columns)
        after = self._after(layer, "gather", self.model.layers[layer].gather, self._mode)
        after["p_base"] += head * dim
        self._matmul(f"layer{layer}.values{head}: chunk {chunk}", rows=dim, columns=rows, a_base=layout.act["maps"].line(head),
                     a_bits=1, kind=Kind.BITS, n_const=layout.blocks(rows) * accel.columns, operand=Operand.VALUES,
                     k_base=head * dim // accel.engine_rows * layout.v_blocks + first // accel.columns, v_blocks=layout.v_blocks,
                     d_base=layout.act["gathered"].base + block * self.config.act_bits, d_first=column // 8, fill=int(last),
                     **after)

    def _feed_forward(self):
        """That of the chunk that is parked."""
        layer, chunk = self._parked
        self._up(layer, chunk)
        self._down(layer, chunk)
        self._parked = None
        self._complete(layer + 1, chunk)

    def _up(self, layer, chunk):
        up = self.model.layers[layer].up
        self._weights(f"layer{layer}.up", up, self.layout.act["middle"].base, self.config.act_bits, self._kind,
                      d_base=self.layout.act["ffn"].base, **self._after(layer, "up", up.after, self._mode))

    def _down(self, layer, chunk):
        down = self.model.layers[layer].down
        kind = Kind.BITS if self.config.act_bits == 1 else Kind.INTS
        self._weights(f"layer{layer}.down", down, self.layout.act["ffn"].base, self.config.act_bits, kind,
                      d_base=self._x_base(chunk), **self._after(layer, "down", down.after, Post.RESIDUAL))

    def _head(self, chunk):
        """Integer logits of a chunk to memory."""
        line = self._entry(self.config.n_layers, chunk)
        rows = -(-len(self.config.labels) // self.accel.engine_rows) * self.accel.engine_rows
        self._weights("head", self.model.head, line, HEAD_BITS, Kind.INTS, post=Post.RAW,
                      out=self.places.output + chunk * rows * 4 * self.accel.token_lanes)
        self._advance()
