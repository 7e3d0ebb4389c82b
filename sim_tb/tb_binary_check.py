"""Bench of the descriptor check of the binary machine: random descriptors around every limit."""

import cocotb
from cocotb.triggers import RisingEdge

from celosia.hw.binary.check import DescriptorCheck
from celosia.hw.binary.isa import NORM_SHIFTS, SHIFTS, Post
from celosia.hw.regs import Error
from celosia.sim_tb.binary_descriptors import body, judge, raw
from celosia.sim_tb.link import parameters, rng, start_clock


def beside(numbers, value, bits):
    """A number, or one beside it, that fits."""
    return max(0, min((1 << bits) - 1, value + numbers.choice([-1, 0, 0, 0, 0, 1])))


def spoiled(numbers, fields, widths):
    """Fields of which one, now and then, is anything."""
    if numbers.random() < 0.3:
        name = numbers.choice(list(widths))
        fields = fields | {name: numbers.getrandbits(widths[name])}
    return fields


def load(numbers, size):
    target = numbers.randrange(3) if numbers.random() < 0.95 else 3
    bb, lanes = size["beat_bytes"], size["token_lanes"]
    beats = {1: 2 * lanes // bb, 2: lanes * size["columns"] // 8 // bb}.get(target, 1)
    per_beat = bb // 8 if target == 0 else 1
    n = numbers.randint(1, 20)
    held = (size["p_words"], size["x_words"], size["act_lines"], 1000)[target]
    base = beside(numbers, held - n * per_beat, 16)
    if target == 0:
        base = max(0, held - n * per_beat + per_beat * numbers.choice([-1, 0, 0, 1]))
    fields = {"n_beats": n * beats if target else n, "d_base": base, "target": target}
    return raw(1, **spoiled(numbers, fields, {"n_beats": 5, "d_base": 12}))


def matmul(numbers, size):
    lanes, columns, rows = size["token_lanes"], size["columns"], size["engine_rows"]
    post, operand = numbers.choice(list(Post)), numbers.choice([0, 0, 1, 2])
    groups = numbers.randint(1, 6) * max(1, 8 // rows)
    n_rows = groups * rows
    a_bits = 1 if operand == 1 else numbers.choice([1, 1, numbers.randint(1, 8)])
    w_planes = 1 if operand else numbers.randint(1, 8)
    blocks = 1 if operand == 1 else numbers.choice([1, 2, 4, beside(numbers, (1 << 27 - w_planes - a_bits) // columns, 8)])
    v_blocks, k_stride = numbers.randrange(5), numbers.randrange(5)
    chunk = beside(numbers, numbers.choice([0, size["max_tokens"] // lanes - 1]), 8)
    line_rows = numbers.choice([columns, 8, max(8, columns // 16 * 8)])
    d_first = numbers.choice([0, 0, line_rows // 8 - 1])
    planes = 8 if post is Post.QUANT else 1
    into = int(post is Post.SIGN and numbers.random() < 0.5)
    lines = -(-(8 * d_first + n_rows) // line_rows) * planes
    d_base = {Post.RESIDUAL: size["x_words"] - n_rows}.get(post, size["act_lines"] - lines)
    if into:
        d_base = size["v_words"] - (groups - 1) * v_blocks - chunk * lanes // columns - 1
    params = {Post.MAP: 1, Post.SUM: 9}.get(post, n_rows)
    k_base = size["act_lines"] - (n_rows - 1) // lanes * k_stride - 1
    if operand == 2:
        k_base = size["v_words"] - (groups - 1) * v_blocks - blocks
    fields = {
        "n_row_groups": groups, "n_col_blocks": blocks, "w_planes": w_planes, "a_bits": a_bits, "operand": operand,
        "kind": 2 if a_bits > 1 else numbers.randrange(2), "post": post.value, "into": into, "chunk": chunk,
        "a_base": beside(numbers, max(0, size["act_lines"] - blocks * a_bits), 12), "k_base": beside(numbers, k_base, 12),
        "k_stride": k_stride, "p_base": beside(numbers, size["p_words"] - params, 16), "shift": numbers.choice(SHIFTS),
        "d_base": beside(numbers, d_base, 16), "d_first": d_first, "line_rows": line_rows, "v_blocks": v_blocks,
        "first_row": beside(numbers, max(0, size["max_tokens"] - n_rows), 12),
        "n_index": numbers.choice([8, 8, 8, columns, columns + 1])}
    return raw(2, **spoiled(numbers, fields, {
        "n_row_groups": 12, "n_col_blocks": 8, "w_planes": 4, "a_bits": 4, "operand": 2, "kind": 2, "post": 3, "into": 1,
        "chunk": 8, "a_base": 12, "k_base": 12, "k_stride": 8, "shift": 6, "d_base": 16, "d_first": 5, "line_rows": 9,
        "v_blocks": 4, "first_row": 12, "p_base": 16}))


def norm(numbers, size):
    n_rows, a_bits = 8 * numbers.randint(1, 20), numbers.choice([1, 8])
    lines = -(-n_rows // size["columns"]) * a_bits
    fields = {
        "x_base": beside(numbers, size["x_words"] - n_rows, 16), "n_rows": n_rows, "mean_shift": numbers.choice([17, 20, 32]),
        "p_base": max(0, size["p_words"] - 2 * n_rows + numbers.choice([-2, -1, 0, 0, 0, 0, 2])),
        "imm": numbers.choice([1, 254]) << 23 | 5,
        "shift": numbers.choice(NORM_SHIFTS), "shift2": numbers.choice(NORM_SHIFTS), "to_act": numbers.randrange(2),
        "a_bits": a_bits, "d_base": beside(numbers, size["act_lines"] - lines, 12)}
    return raw(3, **spoiled(numbers, fields, {
        "x_base": 16, "n_rows": 13, "mean_shift": 6, "p_base": 16, "imm": 32, "shift": 6, "shift2": 6, "a_bits": 4, "d_base": 12}))


@cocotb.test()
async def judges_as_written(dut):
    """Random descriptors around every limit, against ``judge``."""
    start_clock(dut)
    edge, size, numbers, seen = RisingEdge(dut.clk), parameters(), rng(), {}
    for number in range(12000):
        draw = numbers.choice([load, matmul, matmul, matmul, norm])
        bits = draw(numbers, size) if numbers.random() < 0.99 else raw(numbers.randrange(256))
        dut.bits.value = bits
        for _ in range(DescriptorCheck.LATENCY + 1):
            await edge
        want, found = judge(bits, size), int(dut.code.value)
        assert found == want, f"trial {number}: {found}, not {want}, for {bits & 0xFF} " + (
            str(body(bits)) if 1 <= bits & 0xFF <= 3 else "")
        key = min(bits & 0xFF, 4), want
        seen[key] = seen.get(key, 0) + 1
    dut._log.info("judged: %s", seen)
    for opcode in (1, 2, 3):
        assert seen.get((opcode, Error.NONE), 0) > 50 and seen.get((opcode, Error.SIZE), 0) > 50, seen
    assert seen.get((2, Error.OPCODE), 0) > 50, seen
