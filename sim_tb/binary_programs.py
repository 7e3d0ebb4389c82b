"""Random programs for the binary machine.

    program = RandomProgram(config, seed)
    run(device, program.model, program.cache, program.count, program.lengths)      # of binary_run

A program fills all memories from the windows, then mixes descriptors of all kinds that read and write small parts of them, so that
they meet, and sends what lies in ACT, V and X to memory in the end. Waits are what the overlaps ask for, and no more.
"""

import random

import numpy as np

from celosia.hw.binary import isa
from celosia.hw.binary.isa import NORM_SHIFTS, SHIFTS, Into, Kind, Opcode, Operand, Post, Target

__all__ = ["RandomProgram"]

_UNIT_OF = {Opcode.LOAD: 0, Opcode.MATMUL: 1, Opcode.NORM: 2}

class RandomProgram:
    """
    Members
    -------
    model, cache : uint8 arrays, the windows; the program is at byte 0 of the model window
    count : descriptors, END included
    lengths : valid tokens of every sequence
    descriptors : list of (Opcode, waits, fields)
    """

    def __init__(self, config, seed, n_descriptors=40):
        self._c, self._rng = config, random.Random(seed)
        c = config
        self.descriptors, self._done = [], [0, 0, 0]
        self._writer, self._readers = {}, {}        # of a place in a memory: (unit, number); [(unit, number), ...]
        self._data, self._out_bytes = [], 0         # of the model window behind the program; of the cache window
        self._input = bytearray()                   # of the cache window, before what is written
        # Parts of the memories that descriptors meet in.
        self._lines, self._words, self._rows = min(48, c.act_lines), min(24, c.v_words), min(64, c.x_words)
        self._params = min(256, c.p_words)
        self.seq_log2 = self._rng.choice([2, 3, 4, 5])
        n_sequences = min(c.max_sequences, max(1, c.max_tokens >> self.seq_log2))
        self.lengths = [self._rng.randint(0, 1 << self.seq_log2) for _ in range(self._rng.randint(1, n_sequences))]
        self._fill()
        for _ in range(n_descriptors):
            self._rng.choice([self._load, self._matmul, self._matmul, self._matmul, self._matmul, self._norm, self._attention])()
        self._show()
        self._finish()

    # Memories as sets of places.

    def _issue(self, opcode, fields, reads, writes):
        """Append a descriptor that waits for what wrote its places and for what read those it writes."""
        waits = [0, 0, 0]
        for place in reads | writes:
            for unit, number in [self._writer.get(place, (0, 0)), *(self._readers.get(place, []) if place in writes else [])]:
                waits[unit] = max(waits[unit], number)
        unit = _UNIT_OF[opcode]
        self._done[unit] += 1
        me = unit, self._done[unit]
        for place in reads:
            self._readers.setdefault(place, []).append(me)
        for place in writes:
            self._writer[place], self._readers[place] = me, []
        self.descriptors.append((opcode, tuple(waits), fields))

    @staticmethod
    def _places(memory, first, n):
        return {(memory, at) for at in range(first, first + n)}

    def _streamed(self, n_beats, data=None, cache=False):
        """Fields that say where ``n_beats`` beats lie; their bytes are random or ``data``, a row a beat."""
        c = self._c
        if data is None:
            data = np.frombuffer(self._rng.randbytes(n_beats * c.beat_bytes), np.uint8)
        shares = data.reshape(n_beats, c.n_ports, c.port_bytes).transpose(1, 0, 2).reshape(c.n_ports, -1)
        if cache:
            at = len(self._input)
            self._input += shares.tobytes()
        else:
            at = sum(map(len, self._data))      # behind the program, whose length is known at the end
            self._data.append(shares.reshape(-1))
        return {"addr": at, "port_stride": n_beats * c.port_bytes}

    def _param_words(self, n):
        """Words that mean something as any kind of parameter: factors, levels and weights of all magnitudes."""
        words = []
        for _ in range(n):
            if self._rng.random() < 0.5:
                mult, bias = self._rng.getrandbits(18), self._rng.getrandbits(self._rng.choice([8, 20, 30]))
                bias = bias if self._rng.random() < 0.5 else -bias & (1 << 46) - 1
                words.append(mult | bias << 18)
            else:
                level = self._rng.randint(-60, 60) & 0xFFFF_FFFF
                words.append(level | self._rng.getrandbits(1) << 32 | self._rng.getrandbits(9) << 33)
        return np.array(words, "<u8")

    # Descriptors.

    def _fill(self):
        """All parts of all memories."""
        c = self._c
        self._load(Target.PARAM, 0, self._params)
        self._load(Target.X, 0, self._rows)
        self._load(Target.ACT, 0, self._lines)
        for word in range(self._words):
            for chunk in range(max(1, c.columns // c.token_lanes)):
                self._matmul(post=Post.SIGN, into_v=(word, chunk), groups=1, operand=Operand.PORTS)

    def _load(self, target=None, base=None, n=None):
        c, rng = self._c, self._rng
        target = target or rng.choice(list(Target))
        per_beat = c.beat_bytes // 8
        n_params = self._params // per_beat
        size = {Target.PARAM: n_params, Target.X: self._rows, Target.ACT: self._lines}[target]
        beats = {Target.PARAM: 1, Target.X: c.x_row_beats, Target.ACT: c.line_bytes // c.beat_bytes}[target]
        base = rng.randrange(size) if base is None else base
        n = rng.randint(1, min(6, size - base)) if n is None else n // (per_beat if target is Target.PARAM else 1)
        data = self._param_words(n * per_beat).view(np.uint8) if target is Target.PARAM else None
        memory, unit = {Target.PARAM: ("p", per_beat), Target.X: ("x", 1), Target.ACT: ("act", 1)}[target]
        cache = rng.random() < 0.5
        fields = self._streamed(n * beats, data, cache) | {
            "n_beats": n * beats, "d_base": base * unit, "target": target, "cache": int(cache)}
        self._issue(Opcode.LOAD, fields, set(), self._places(memory, base * unit, n * unit))

    def _matmul(self, post=None, operand=None, into_v=None, groups=None, **given):
        """A random MATMUL; ``given`` fields stand."""
        c, rng = self._c, self._rng
        post = post if post is not None else rng.choice([Post.SIGN, Post.SIGN, Post.QUANT, Post.RESIDUAL, Post.RAW, Post.MAP])
        operand = operand if operand is not None else rng.choice([Operand.PORTS, Operand.PORTS, Operand.KEYS, Operand.VALUES])
        quantum = max(1, 8 // c.engine_rows)
        groups = groups or quantum * rng.randint(1, 3)
        n_rows = groups * c.engine_rows
        a_bits = 1 if operand is Operand.KEYS else rng.choice([1, 1, 1, 2, 8])
        kind = Kind.INTS if a_bits > 1 else rng.choice([Kind.SIGNS, Kind.BITS])
        w_planes = rng.choice([1, 1, 2, 8]) if operand is Operand.PORTS else 1
        blocks = 1 if operand is Operand.KEYS else rng.randint(1, 3)
        f = {"n_row_groups": groups, "n_col_blocks": blocks, "w_planes": w_planes, "a_bits": a_bits, "operand": operand,
             "kind": kind, "post": post, "seq_log2": self.seq_log2, "causal": rng.randrange(2), "shift": rng.choice(SHIFTS),
             "lo": -rng.randrange(129), "hi": rng.randrange(128), "chunk": rng.randrange(c.max_tokens // c.token_lanes)} | given
        a_bits, blocks = f["a_bits"], f["n_col_blocks"]
        f.setdefault("n_const", blocks * c.columns * ((1 << f["w_planes"]) - 1))
        f.setdefault("a_base", rng.randrange(self._lines - blocks * a_bits + 1))
        reads = self._places("act", f["a_base"], blocks * a_bits)
        if operand is Operand.PORTS:
            f |= self._streamed(groups * blocks * f["w_planes"])
        elif operand is Operand.KEYS:
            n_chunks = -(-n_rows // c.token_lanes)
            f["k_stride"] = rng.randrange((self._lines - 1) // n_chunks + 1)
            f["k_base"] = rng.randrange(self._lines - (n_chunks - 1) * f["k_stride"])
            reads |= {("act", f["k_base"] + chunk * f["k_stride"]) for chunk in range(n_chunks)}
        else:
            f["v_blocks"] = rng.randrange(min(3, (self._words - blocks) // max(1, groups - 1)) + 1)
            f["k_base"] = rng.randrange(self._words - (groups - 1) * f["v_blocks"] - blocks + 1)
            reads |= {("v", f["k_base"] + group * f["v_blocks"] + b) for group in range(groups) for b in range(blocks)}
        operands, writes = set(reads), self._sink(f, n_rows, reads, into_v)
        if operands & writes:           # rows must not meet the operands of their own product
            return
        self._issue(Opcode.MATMUL, f, reads, writes)

    def _sink(self, f, n_rows, reads, into_v):
        """Fields of parameters and sink; adds what is read, returns what is written."""
        c, rng, post = self._c, self._rng, f["post"]
        n_params = {Post.MAP: 1, Post.SUM: f.get("n_index", 0) + 1, Post.CUT: 0, Post.RAW: 0}.get(post, n_rows)
        f["p_base"] = rng.randrange(self._params - n_params + 1)
        reads |= self._places("p", f["p_base"], n_params)
        if post in (Post.MAP, Post.SUM, Post.CUT):
            f["first_row"] = c.token_lanes * rng.randrange((c.max_tokens - n_rows) // c.token_lanes + 1)
        if post is Post.SUM:
            return set()
        if post is Post.RAW:
            f["out"] = self._out_bytes
            self._out_bytes += n_rows * 4 * c.token_lanes
            return set()
        if post is Post.RESIDUAL:
            f["d_base"] = rng.randrange(self._rows - n_rows + 1)
            places = self._places("x", f["d_base"], n_rows)
            reads |= places
            return places
        if into_v is None and post is Post.SIGN and rng.random() < 0.3 and f["operand"] is not Operand.VALUES:
            into_v = rng.randrange(self._words), f["chunk"] % max(1, c.columns // c.token_lanes)
        if into_v is not None and post is Post.SIGN:
            word, f["chunk"] = into_v
            block = f["chunk"] * c.token_lanes // c.columns
            groups = f["n_row_groups"]
            stride = max(0, min(1, (self._words - 1 - word) // max(1, groups - 1)))
            f |= {"into": Into.V, "d_base": word - block if word >= block else 0, "v_blocks": stride}
            places = {("v", f["d_base"] + group * stride + block) for group in range(groups)}
            reads |= places
            return places
        planes = 8 if post is Post.QUANT else 1
        f["line_rows"] = rng.choice([c.columns, 8, 8 * rng.randint(1, c.columns // 8)])
        f["d_first"] = rng.choice([0, rng.randrange(f["line_rows"] // 8)])
        f["fill"] = rng.randrange(2)
        n_lines = -(-(8 * f["d_first"] + n_rows) // f["line_rows"]) * planes
        f["d_base"] = rng.randrange(max(1, self._lines - n_lines + 1))
        places = self._places("act", f["d_base"], n_lines)
        reads |= places
        return places

    def _attention(self):
        """The two passes of a softmax, where the machine has it."""
        c = self._c
        if not c.softmax:
            return
        common = {"n_col_blocks": 1, "a_bits": 1, "w_planes": 1, "kind": Kind.SIGNS, "n_index": c.columns, "n_const": c.columns}
        groups = max(1, 8 // c.engine_rows) * self._rng.randint(1, 3)
        for post in (Post.SUM, Post.CUT):
            self._matmul(post=post, operand=self._rng.choice([Operand.PORTS, Operand.KEYS]), groups=groups, **common)

    def _norm(self):
        c, rng = self._c, self._rng
        n_rows = 8 * rng.randint(1, self._rows // 8)
        base, p_base = rng.randrange(self._rows - n_rows + 1), 2 * rng.randrange((self._params - 2 * n_rows) // 2 + 1)
        write_x, to_act, a_bits = rng.randrange(2), rng.randrange(2), rng.choice([1, 8])
        f = {"x_base": base, "n_rows": n_rows, "p_base": p_base, "inv_d": (1 << 17 + n_rows.bit_length() - 1) // n_rows,
             "mean_shift": 17 + n_rows.bit_length() - 1, "eps": rng.choice([0, 1, rng.getrandbits(48)]),
             "imm": int(np.float32(n_rows * 2.0**26).view(np.uint32)), "center": rng.randrange(2), "shift": rng.choice(NORM_SHIFTS),
             "write_x": write_x, "to_act": to_act, "a_bits": a_bits, "shift2": rng.choice(NORM_SHIFTS), "lo": -128, "hi": 127}
        reads, writes = self._places("x", base, n_rows) | self._places("p", p_base, 2 * n_rows), set()
        if write_x:
            writes |= self._places("x", base, n_rows)
        n_lines = -(-n_rows // c.columns) * a_bits
        if to_act and n_lines <= self._lines:
            f["d_base"] = rng.randrange(self._lines - n_lines + 1)
            writes |= self._places("act", f["d_base"], n_lines)
        else:
            f["to_act"] = 0
        self._issue(Opcode.NORM, f, reads | writes, writes)

    def _show(self):
        """Sends every part of ACT, V and X to memory: X by its norm, which ACT takes."""
        c = self._c
        plain = {"w_planes": 1, "a_bits": 1, "kind": Kind.SIGNS, "n_col_blocks": 1}
        for line in range(self._lines):
            self._matmul(post=Post.RAW, operand=Operand.PORTS, groups=1, a_base=line, **plain)
        for word in range(self._words):
            f = plain | {"n_row_groups": 1, "operand": Operand.VALUES, "post": Post.RAW, "k_base": word, "n_const": c.columns}
            reads = {("v", word)} | self._places("act", 0, 1)
            self._sink(f, c.engine_rows, reads, None)
            self._issue(Opcode.MATMUL, f, reads, set())
        lines = 8 * -(-self._rows // c.columns)
        reads = self._places("x", 0, self._rows) | self._places("p", 0, 2 * self._rows)
        f = {"n_rows": self._rows, "mean_shift": 17, "eps": 1, "imm": int(np.float32(2.0**26).view(np.uint32)), "shift": 16,
             "to_act": 1, "a_bits": 8, "shift2": 12, "lo": -128, "hi": 127}
        self._issue(Opcode.NORM, f, reads, self._places("act", 0, lines))
        for block in range(lines // 8):
            self._matmul(post=Post.RAW, operand=Operand.PORTS, groups=2, a_base=8 * block,
                         **plain | {"a_bits": 8, "kind": Kind.INTS})

    def _finish(self):
        """The windows: program and data; input, then what is written."""
        self.count = len(self.descriptors) + 1
        first = -(-64 * self.count // 4096) * 4096
        in_bytes = -(-len(self._input) // 64) * 64
        program = bytearray()
        for opcode, waits, fields in self.descriptors:
            moved = dict(fields)
            if "addr" in moved and not moved.get("cache"):
                moved["addr"] += first
            if moved.get("post") is Post.RAW:
                moved["out"] += in_bytes
            program += isa.pack(opcode, waits, **moved)
        program += isa.pack(Opcode.END)
        self.model = np.concatenate([np.frombuffer(bytes(program).ljust(first, b"\0"), np.uint8), *self._data])
        self.cache = np.frombuffer(bytes(self._input).ljust(in_bytes, b"\0") + b"\xEE" * self._out_bytes, np.uint8).copy()
