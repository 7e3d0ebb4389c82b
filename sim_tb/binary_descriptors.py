"""What a descriptor of the binary machine means, in plain Python: its verdict, its memory reads, its command.

Sizes are those of ``BinaryConfig``, by name.

    bits = raw(Opcode.NORM, x_base=0, n_rows=64, shift=16, mean_shift=20, imm=0x4C80_0000)
    judge(bits, sizes)       # Error.NONE
"""

from functools import partial

from celosia.hw.binary import isa
from celosia.hw.binary.isa import NORM_SHIFTS, SHIFTS, Into, Kind, Opcode, Operand, Post, Target
from celosia.hw.links import Dest
from celosia.hw.regs import Error
from celosia.sim_tb import descriptors

__all__ = ["body", "command", "judge", "raw", "reads"]

raw = partial(descriptors.raw, words=isa)
body = partial(descriptors.body, words=isa)


def judge(bits, size):
    """Error code of a descriptor, from the words of hw/binary/isa.py and the sizes of the configuration."""
    if bits & 0xFF not in {opcode.value for opcode in Opcode}:
        return Error.OPCODE
    opcode = Opcode(bits & 0xFF)
    if opcode is Opcode.END:
        return Error.NONE
    return {Opcode.LOAD: _load, Opcode.MATMUL: _matmul, Opcode.NORM: _norm}[opcode](body(bits), size)


def _verdict(rules):
    return Error.NONE if all(rules) else Error.SIZE


def _load(f, size):
    if f["target"] > 2:
        return Error.OPCODE
    n_bytes = f["n_beats"] * size["beat_bytes"]
    unit, held = {Target.PARAM: (8, size["p_words"]), Target.X: (2 * size["token_lanes"], size["x_words"]),
                  Target.ACT: (size["token_lanes"] * size["columns"] // 8, size["act_lines"])}[Target(f["target"])]
    aligned = f["target"] != Target.PARAM.value or f["d_base"] * 8 % size["beat_bytes"] == 0
    return _verdict([n_bytes > 0, n_bytes % unit == 0, f["d_base"] + n_bytes // unit <= held, aligned])


def _lines_of(n_rows, f, size):
    """Lines of ACT from d_base on that rows of bits take; None where rows cannot be placed."""
    per_line = f["line_rows"]
    if n_rows % 8 or per_line % 8 or per_line > size["columns"] or 8 * f["d_first"] >= per_line:
        return None
    return -(-(8 * f["d_first"] + n_rows) // per_line)


def _matmul(f, size):
    if f["operand"] > 2 or f["kind"] > 2 or f["post"] > 6:
        return Error.OPCODE
    lanes, columns, post, into = size["token_lanes"], size["columns"], Post(f["post"]), Into(f["into"])
    if post in (Post.SUM, Post.CUT) and not size["softmax"]:
        return Error.OPCODE
    groups, blocks, planes = f["n_row_groups"], f["n_col_blocks"], f["a_bits"]
    n_rows = groups * size["engine_rows"]
    rules = [groups, blocks, 1 <= f["w_planes"] <= 8, 1 <= planes <= 8, (planes > 1) == (f["kind"] == Kind.INTS.value),
             f["a_base"] + blocks * planes <= size["act_lines"], f["chunk"] * lanes < size["max_tokens"]]
    if all(rules):
        rules.append(blocks * columns << f["w_planes"] + planes - 1 <= 1 << 26)
    if not all(rules):
        return Error.SIZE
    if f["operand"] != Operand.PORTS.value:
        rules.append(f["w_planes"] == 1)
    if f["operand"] == Operand.KEYS.value:
        rules += [blocks == 1, planes == 1, f["k_base"] + (n_rows - 1) // lanes * f["k_stride"] < size["act_lines"]]
    if f["operand"] == Operand.VALUES.value:
        rules.append(f["k_base"] + (groups - 1) * f["v_blocks"] + blocks <= size["v_words"])
    n_params = {Post.SIGN: n_rows, Post.QUANT: n_rows, Post.RESIDUAL: n_rows, Post.MAP: 1, Post.SUM: f["n_index"] + 1}
    rules.append(f["p_base"] + n_params.get(post, 0) <= size["p_words"])
    if post in (Post.QUANT, Post.RESIDUAL):
        rules.append(f["shift"] in SHIFTS)
    if post is Post.RESIDUAL:
        rules.append(f["d_base"] + n_rows <= size["x_words"])
    if post in (Post.MAP, Post.SUM, Post.CUT):
        rules.append(f["first_row"] + n_rows <= size["max_tokens"])
    if post in (Post.SUM, Post.CUT):
        rules.append(f["n_index"] <= size["columns"])
    if into is Into.V and post in (Post.SIGN, Post.QUANT, Post.MAP, Post.CUT):
        block = f["chunk"] * lanes // columns
        rules += [post is Post.SIGN, f["d_base"] + (groups - 1) * f["v_blocks"] + block < size["v_words"]]
    elif post in (Post.SIGN, Post.QUANT, Post.MAP, Post.CUT):
        n_lines = _lines_of(n_rows, f, size)
        rules.append(n_lines is not None and f["d_base"] + n_lines * (8 if post is Post.QUANT else 1) <= size["act_lines"])
    return _verdict(rules)


def _norm(f, size):
    n_rows, exponent = f["n_rows"], f["imm"] >> 23
    rules = [1 <= n_rows <= 4096, f["x_base"] + n_rows <= size["x_words"], f["p_base"] % 2 == 0,
             f["p_base"] + 2 * n_rows <= size["p_words"], f["shift"] in NORM_SHIFTS, 17 <= f["mean_shift"] <= 32,
             0 < exponent < 255]
    if f["to_act"]:
        n_lines = -(-n_rows // size["columns"]) * f["a_bits"]
        rules += [n_rows % 8 == 0, f["a_bits"] in (1, 8), f["a_bits"] == 1 or f["shift2"] in NORM_SHIFTS,
                  f["d_base"] + n_lines <= size["act_lines"]]
    return _verdict(rules)


def reads(bits, index, size):
    """For every port, the ReadJob of a descriptor, or None."""
    f, opcode = body(bits), Opcode(bits & 0xFF)
    if opcode is Opcode.LOAD:
        cache, dest, beats = f["cache"], Dest.LOADER, f["n_beats"]
    elif opcode is Opcode.MATMUL and f["operand"] == Operand.PORTS.value:
        cache, dest, beats = 0, Dest.MATMUL, f["n_row_groups"] * f["n_col_blocks"] * f["w_planes"]
    else:
        return [None] * size["n_ports"]
    job = {"cache": cache, "beats": beats, "dest": dest, "index": index}
    return [job | {"offset": min(f["addr"] + p * f["port_stride"], 2**40 - 1)} for p in range(size["n_ports"])]


def command(bits, index):
    """What the unit is told."""
    opcode, f = Opcode(bits & 0xFF), body(bits)
    if opcode is Opcode.LOAD:
        return {name: f[name] for name in ("n_beats", "d_base", "target")}
    return f | {"index": index} if opcode is Opcode.MATMUL else f
