"""The golden machine of binary encoders: runs a program, descriptor by descriptor, on a memory of bytes.

It has what the binary machine has: a model window and a cache window, memories ACT, V, X and P with the bits that lie in them.
Memories outlive a run; nothing is cleared that the machine does not clear. It reads weights from packed beats as the ports do, and
takes the arithmetic of each unit from its golden function. Descriptors run one after the other, in program order.
"""

import numpy as np
import torch

from celosia.gen.golden.machine import MachineError
from celosia.hw.binary import isa
from celosia.hw.binary.isa import Into, Opcode, Operand, Post, Target
from celosia.hw.isa import DESCRIPTOR_BYTES
from celosia.hw.regs import Error

from .matmul import matmul
from .norm import norm
from .post import PostState, collect, post

__all__ = ["Machine", "MachineError"]

_BYTE_BITS = 8
_WORD_BYTES = 8


class Machine:
    """One accelerator of a binary configuration.

    Parameters
    ----------
    model, cache : uint8 arrays
        The two windows; ``cache`` is written. What a program reads from ``model`` must not change: weights are kept unpacked.
    config : BinaryConfig
    seed : int, optional
        Of what lies in the memories at first; zeros without it.
    """

    def __init__(self, model, cache, config, seed=None):
        self.model, self.cache, self.config = model, cache, config
        self._weights = {}
        c = config
        generator = torch.Generator().manual_seed(seed or 0)

        def memory(low, high, shape, dtype):
            if seed is None:
                return torch.zeros(shape, dtype=dtype)
            return torch.randint(low, high, shape, generator=generator, dtype=dtype)

        most_x = 1 << isa.X_BITS - 1
        self.state = PostState(
            act=memory(0, 2, (c.act_lines, c.token_lanes, c.columns), torch.uint8),
            v=memory(0, 2, (c.v_words, c.engine_rows, c.columns), torch.uint8),
            x=memory(-most_x, most_x, (c.x_words, c.token_lanes), torch.int64),
            p=memory(-(1 << 62), 1 << 62, (c.p_words,), torch.int64),
            lengths=torch.zeros(c.max_sequences, dtype=torch.int64),
            cuts=torch.zeros(c.token_lanes, dtype=torch.int64))

    def run(self, program, lengths):
        """Run (offset, count) in the model window on sequences of so many valid tokens each. Raises MachineError."""
        if not 1 <= len(lengths) <= self.config.max_sequences:
            raise MachineError(Error.LAUNCH, 0, f"it must have 1 to {self.config.max_sequences} sequences, not {len(lengths)}")
        if not all(0 <= length <= self.config.max_tokens for length in lengths):
            raise MachineError(Error.LAUNCH, 0, f"lengths must be within {self.config.max_tokens}, not {max(lengths)}")
        self.state.lengths[:] = 0
        self.state.lengths[:len(lengths)] = torch.as_tensor(lengths)
        for index, (opcode, _, fields) in enumerate(self._decode(*program)):
            self.execute(index, opcode, fields)

    def _decode(self, offset, count):
        """Descriptors up to the END."""
        for index in range(count):
            raw = self._read(self.model, offset + index * DESCRIPTOR_BYTES, DESCRIPTOR_BYTES, index)
            try:
                opcode, waits, fields = isa.unpack(raw.tobytes())
            except ValueError as error:
                raise MachineError(Error.OPCODE, index, str(error)) from None
            if opcode is Opcode.END:
                return
            yield opcode, waits, fields
        raise MachineError(Error.FETCH, count, "it must end with END")

    def execute(self, index, opcode, fields):
        """Run one descriptor; ``index`` is named in errors."""
        self.check_sizes(index, opcode, fields)
        if opcode is Opcode.LOAD:
            self._load(index, fields)
        elif opcode is Opcode.MATMUL:
            self.take(index, fields, self.product(index, fields))
        else:
            self._norm(fields)

    def check_sizes(self, index, opcode, fields):
        """MachineError where a descriptor touches what is beyond a memory."""
        for what, end, size in _ends(self.config, opcode, fields):
            if end > size:
                raise MachineError(Error.SIZE, index, f"{what} must end within {size}, not at {end}")

    def _load(self, index, fields):
        window = self.cache if fields["cache"] else self.model
        data = self._read_ports(window, fields["addr"], fields["port_stride"], fields["n_beats"], index).reshape(-1)
        c, base = self.config, fields["d_base"]
        if fields["target"] == Target.PARAM:
            words = torch.from_numpy(data.view("<i8").astype(np.int64))
            self.state.p[base:base + len(words)] = words
        elif fields["target"] == Target.X:
            rows = torch.from_numpy(data.view("<i2").astype(np.int64).reshape(-1, c.token_lanes))
            self.state.x[base:base + len(rows)] = rows
        else:
            lines = data.reshape(-1, c.columns // _BYTE_BITS, c.token_lanes, 1)
            bits = np.unpackbits(lines, axis=3, bitorder="little").transpose(0, 2, 1, 3)
            self.state.act[base:base + len(lines)] = torch.from_numpy(bits.reshape(-1, c.token_lanes, c.columns).copy())

    def product(self, index, fields):
        """What the engine makes of a MATMUL: rows (N, M) that :meth:`take` takes. Reads ACT, V and memory."""
        blocks, a_bits, lanes = fields["n_col_blocks"], fields["a_bits"], self.config.token_lanes
        lines = self.state.act[fields["a_base"]:fields["a_base"] + blocks * a_bits]
        act = lines.reshape(blocks, a_bits, lanes, -1).permute(1, 0, 3, 2).flatten(1, 2)
        return matmul(self._matrix(index, fields), act, fields["kind"], fields["n_const"])

    def take(self, index, fields, y):
        """What becomes of the rows of a MATMUL."""
        try:
            rows = post(fields, y, self.state)
        except ValueError as error:
            raise MachineError(Error.SIZE, index, str(error)) from None
        if rows is not None:
            data = np.frombuffer(rows.numpy().astype("<i4").tobytes(), np.uint8)
            if fields["out"] + len(data) > len(self.cache):
                raise MachineError(Error.WRITE_WINDOW, index, f"rows must lie within {len(self.cache)} bytes")
            self.cache[fields["out"]:fields["out"] + len(data)] = data

    def _matrix(self, index, fields):
        """Bits of the rows: (planes, rows, columns)."""
        c, groups, blocks = self.config, fields["n_row_groups"], fields["n_col_blocks"]
        if fields["operand"] == Operand.PORTS:
            return self._streamed(index, fields)
        if fields["operand"] == Operand.KEYS:
            row = torch.arange(groups * c.engine_rows)
            line = fields["k_base"] + row // c.token_lanes * fields["k_stride"]
            return self.state.act[line, row % c.token_lanes][None]
        word = fields["k_base"] + torch.arange(groups)[:, None] * fields["v_blocks"] + torch.arange(blocks)
        return self.state.v[word].permute(0, 2, 1, 3).reshape(1, groups * c.engine_rows, -1)

    def _streamed(self, index, fields):
        c, (groups, blocks, planes) = self.config, (fields[name] for name in ("n_row_groups", "n_col_blocks", "w_planes"))
        key = fields["addr"], fields["port_stride"], groups, blocks, planes
        if key not in self._weights:
            data = self._read_ports(self.model, *key[:2], groups * blocks * planes, index)
            bits = np.unpackbits(data, axis=1, bitorder="little").reshape(groups, planes, blocks, c.engine_rows, c.columns)
            matrix = bits.transpose(1, 0, 3, 2, 4).reshape(planes, groups * c.engine_rows, -1)
            self._weights[key] = torch.from_numpy(matrix.copy())
        return self._weights[key]

    def _norm(self, fields):
        base, n = fields["x_base"], fields["n_rows"]
        y, values = norm(fields, self.state.x[base:base + n], self.state.p[fields["p_base"]:fields["p_base"] + 2 * n])
        if fields["write_x"]:
            self.state.x[base:base + n] = y
        if values is not None:
            collect(self.state.act, values, d_base=fields["d_base"], d_first=0, line_rows=self.config.columns, fill=1,
                    a_bits=fields["a_bits"])

    def _read_ports(self, window, addr, stride, n_beats, index):
        """uint8 (beats, bytes of a beat)."""
        c = self.config
        ports = [self._read(window, addr + port * stride, n_beats * c.port_bytes, index) for port in range(c.n_ports)]
        return np.stack([port.reshape(n_beats, -1) for port in ports], 1).reshape(n_beats, -1)

    def _read(self, window, addr, n_bytes, index):
        if addr + n_bytes > len(window):
            raise MachineError(Error.READ_WINDOW, index, f"what is read must lie within {len(window)} bytes, not end at "
                                                         f"{addr + n_bytes}")
        return window[addr:addr + n_bytes]


def _ends(c, opcode, fields):
    """(what, first place behind it, size) of everything in memories that a descriptor touches."""
    if opcode is Opcode.LOAD:
        units = {Target.PARAM: ("words of P", c.beat_bytes / _WORD_BYTES, c.p_words),
                 Target.X: ("rows of X", 1 / c.x_row_beats, c.x_words),
                 Target.ACT: ("lines of ACT", c.beat_bytes / c.line_bytes, c.act_lines)}
        what, each, size = units[Target(fields["target"])]
        return [(what, fields["d_base"] + each * fields["n_beats"], size)]
    if opcode is Opcode.NORM:
        n, base = fields["n_rows"], fields["d_base"]
        lines = -(-n // c.columns) * fields["a_bits"] if fields["to_act"] else 0
        return [("rows of X", fields["x_base"] + n, c.x_words), ("words of P", fields["p_base"] + 2 * n, c.p_words),
                ("lines of ACT", base + lines, c.act_lines)]
    rows, blocks, mode = fields["n_row_groups"] * c.engine_rows, fields["n_col_blocks"], fields["post"]
    words = {Post.RAW: 0, Post.MAP: 1, Post.SUM: fields["n_index"] + 1, Post.CUT: 0}.get(mode, rows)
    ends = [("lines of ACT", fields["a_base"] + blocks * fields["a_bits"], c.act_lines),
            ("words of P", fields["p_base"] + words, c.p_words)]
    if fields["operand"] == Operand.KEYS:
        ends.append(("lines of ACT", fields["k_base"] + (rows - 1) // c.token_lanes * fields["k_stride"] + 1, c.act_lines))
    elif fields["operand"] == Operand.VALUES:
        ends.append(("words of V", fields["k_base"] + (fields["n_row_groups"] - 1) * fields["v_blocks"] + blocks, c.v_words))
    if mode == Post.RESIDUAL:
        ends.append(("rows of X", fields["d_base"] + rows, c.x_words))
    elif mode in (Post.SIGN, Post.QUANT, Post.MAP, Post.CUT) and fields["into"] == Into.ACT:
        planes = 8 if mode == Post.QUANT else 1
        lines = -(-(8 * fields["d_first"] + rows) // max(fields["line_rows"], 1))
        ends.append(("lines of ACT", fields["d_base"] + planes * lines, c.act_lines))
    elif mode == Post.SIGN:
        block = (fields["chunk"] * c.token_lanes + c.token_lanes - 1) // c.columns
        ends.append(("words of V", fields["d_base"] + (fields["n_row_groups"] - 1) * fields["v_blocks"] + block + 1, c.v_words))
    return ends
