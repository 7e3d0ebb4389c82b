"""Who must wait for whom: counts of completed descriptors, from what each descriptor reads and writes.

A reader waits for the writers before it, a writer for readers and writers before it. Units run their own queue in order, and so do
the engine and what is behind it; but a MATMUL may begin before the one before it has left its rows, so it waits for MATMULs that
write the lines of ACT or words of V that it reads. X serves one unit at a time: a NORM waits for all RESIDUALs before it, that it
does not stand in the way of their rows.
"""

import numpy as np

from celosia.hw.binary.isa import Into, Opcode, Operand, Post, Target

__all__ = ["UNITS", "Tracker", "accesses"]

UNITS = (Opcode.LOAD, Opcode.MATMUL, Opcode.NORM)       # in the order of the wait fields
_ACT_POSTS = (Post.SIGN, Post.QUANT, Post.MAP, Post.CUT)


def accesses(accel, opcode, fields):
    """What a descriptor reads and writes: two lists of (memory, first, end)."""
    return {Opcode.LOAD: _load, Opcode.MATMUL: _matmul, Opcode.NORM: _norm}[opcode](accel, fields)


def _load(accel, fields):
    base, n_bytes = fields["d_base"], fields["n_beats"] * accel.beat_bytes
    each, memory = {Target.PARAM: (8, "P"), Target.X: (2 * accel.token_lanes, "X"), Target.ACT: (accel.line_bytes, "ACT")}[
        fields["target"]]
    return [], [(memory, base, base + n_bytes // each)]


def _matmul(accel, fields):
    rows, blocks, base = fields["n_row_groups"] * accel.engine_rows, fields["n_col_blocks"], fields["d_base"]
    reads, writes = [("ACT", fields["a_base"], fields["a_base"] + blocks * fields["a_bits"])], []
    if fields["operand"] is Operand.KEYS:
        reads.append(("ACT", fields["k_base"], fields["k_base"] + (rows - 1) // accel.token_lanes * fields["k_stride"] + 1))
    elif fields["operand"] is Operand.VALUES:
        reads.append(("V", fields["k_base"], fields["k_base"] + (fields["n_row_groups"] - 1) * fields["v_blocks"] + blocks))
    post = fields["post"]
    words = {Post.RAW: 0, Post.MAP: 1, Post.SUM: fields["n_index"] + 1, Post.CUT: fields["n_index"] + 1}.get(post, rows)
    reads.append(("P", fields["p_base"], fields["p_base"] + words))
    if post is Post.RESIDUAL:
        writes.append(("X", base, base + rows))
    elif post in _ACT_POSTS and fields["into"] is Into.V:
        writes.append(("V", base, base + fields["n_row_groups"] * fields["v_blocks"]))
    elif post in _ACT_POSTS:
        lines = -(-(8 * fields["d_first"] + rows) // fields["line_rows"])
        writes.append(("ACT", base, base + lines * (8 if post is Post.QUANT else 1)))
    return reads, writes


def _norm(accel, fields):
    n, x = fields["n_rows"], fields["x_base"]
    writes = [("X", x, x + n)]
    if fields["to_act"]:
        writes.append(("ACT", fields["d_base"], fields["d_base"] + -(-n // accel.columns) * fields["a_bits"]))
    return [("P", fields["p_base"], fields["p_base"] + 2 * n)], writes


class Tracker:
    """Counts what every unit has been given, and finds the waits of a descriptor."""

    def __init__(self, accel):
        self._accel = accel
        sizes = {"P": accel.p_words, "X": accel.x_words, "ACT": accel.act_lines, "V": accel.v_words}
        self._given = [0] * len(UNITS)
        # Of every place, the count of the last descriptor of each unit that wrote or read it.
        self._wrote, self._read = ({name: np.zeros((len(UNITS), size), np.int64) for name, size in sizes.items()} for _ in range(2))

    def issue(self, opcode, fields):
        """Waits (load, matmul, norm) of the next descriptor, which is then taken as issued."""
        unit = UNITS.index(opcode)
        reads, writes = accesses(self._accel, opcode, fields)
        needed = np.zeros(len(UNITS), np.int64)
        for memory, first, end in reads:
            found = self._wrote[memory][:, first:end].max(1, initial=0)
            if opcode is not Opcode.MATMUL or memory not in ("ACT", "V"):
                found[unit] = 0
            needed = np.maximum(needed, found)
        for memory, first, end in writes:
            for touched in (self._wrote, self._read):
                found = touched[memory][:, first:end].max(1, initial=0)
                found[unit] = 0
                needed = np.maximum(needed, found)
        if opcode is Opcode.NORM:
            matmul = UNITS.index(Opcode.MATMUL)
            needed[matmul] = max(needed[matmul], self._wrote["X"][matmul].max())
        self._given[unit] += 1
        for touched, places in ((self._wrote, writes), (self._read, reads)):
            for memory, first, end in places:
                touched[memory][unit, first:end] = self._given[unit]
        return tuple(needed.tolist())
