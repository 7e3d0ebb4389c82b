"""Bench of the descriptor check: random descriptors around every limit."""

import cocotb
from cocotb.triggers import RisingEdge

from celosia.hw.ctrl.check import DescriptorCheck
from celosia.hw.isa import Sink
from celosia.hw.links import Launch
from celosia.hw.regs import Error
from celosia.sim_tb.descriptors import body, judge, launch, launch_word, raw, row_quantum
from celosia.sim_tb.link import pack, parameters, rng, start_clock


def around(numbers, *limits):
    """A 16-bit number, often at a limit or beside it."""
    value = numbers.choice([*limits, *limits, 0, 1, 0xFFFF, numbers.getrandbits(16)]) + numbers.choice([-1, 0, 0, 0, 1])
    return max(0, min(0xFFFF, value))


def around_lanes(numbers, run):
    """A token lane, often the last one or the one behind it."""
    return min(15, max(0, numbers.choice([len(run["lanes"]) - 1, len(run["lanes"]), numbers.randrange(16)])))


def near(numbers, size, run):
    """A random descriptor whose sizes lie around their limits."""
    lanes, beat_words = size["vector_lanes"], size["port_bytes"] // size["vector_lanes"]
    heads = size["max_queries"] // size["token_lanes"]
    opcode = numbers.choice([1, 2, 2, 3, 3, 3, 4, numbers.randrange(256)])

    def place(limit):
        """(base, stride, words) that often just fits."""
        words = numbers.randint(1, 40)
        stride = numbers.choice([0, words, numbers.randrange(limit // size["token_lanes"])])
        base = limit - words - stride * (len(run["lanes"]) - numbers.choice([1, 1, 0])) + numbers.choice([-1, 0, 0, 1])
        return max(0, base), stride, words

    if opcode == 1:
        base, stride, words = place(size["p_words"])
        return raw(1, d_base=base, d_stride=stride, n_words=numbers.choice([words, words, 0]),
                   index=numbers.choice([0, 1, 2, 3, 4, numbers.randrange(8)]), rank=min(255, around(numbers, size["top_k"])))
    if opcode == 2:
        planes = numbers.randrange(8)
        most = ((1 << size["accumulator_bits"] - 1) - 1) // (64 * (3**max(1, planes) - 1)) // size["columns"]
        return raw(2, n_row_groups=around(numbers, 4, 8, row_quantum(size) // size["engine_rows"]), planes=planes,
                   n_col_blocks=around(numbers, size["max_columns"] // size["columns"], most),
                   tokens=numbers.choice([0, 0, 1, 1, 2, 2, 3]), lane=around_lanes(numbers, run),
                   gather=int(numbers.random() < 0.3),
                   rank=min(255, around(numbers, size["top_k"])))
    if opcode == 4:
        return raw(4, group=min(63, around(numbers, heads)),
                   head_words=min(63, around(numbers, size["max_head_words"])))
    if opcode != 3:
        return raw(opcode)
    fields = {name: numbers.randrange(limit) for name, limit in (
        ("source", 4), ("mul1", 6), ("mul2", 4), ("mul3", 6), ("add", 4), ("reduce", 4), ("sink", 8), ("tokens", 4))}
    if numbers.random() < 0.7:
        fields |= {"tokens": numbers.choice([0, 1, 2, 2]),
                   "mul1": fields["mul1"] % 5, "mul3": fields["mul3"] % 5, "add": fields["add"] % 3,
                   "sink": fields["sink"] % 7}
    target = numbers.choice("xpdahr")
    words = numbers.choice([1, beat_words, 3 * beat_words, around(numbers, beat_words * size["max_head_words"])])
    ranges = {}
    if target in "xpd":
        base, stride, words = place(size["p_words"] if target == "p" else size["x_words"])
        ranges = {f"{target}_base": base, f"{target}_stride": stride}
    elif target == "a":
        words = numbers.randint(1, 20)
        ranges = {"d_base": max(0, size["max_columns"] // lanes - words + numbers.choice([-1, 0, 1]))}
    elif target == "r":
        words = numbers.randint(1, 4)
        ranges = {"d_base": max(0, size["top_k"] * row_quantum(size) // lanes - words + numbers.choice([-1, 0, 1]))}
        fields["sink"] = Sink.RESCORE.value
    return raw(3, n_words=words, block_words=numbers.choice([words, words, words, 0]), **ranges, **fields,
               lane=around_lanes(numbers, run), head=min(63, around(numbers, heads)))


@cocotb.test()
async def judges_as_written(dut):
    """Random descriptors around every limit, against ``judge``."""
    start_clock(dut)
    edge, size, numbers, seen = RisingEdge(dut.clk), parameters(), rng(), {}
    for number in range(8000):
        run = launch([(0, position) for position in range(numbers.randint(1, size["token_lanes"]))])
        bits = near(numbers, size, run)
        dut.bits.value, dut.launch.value = bits, pack(Launch, launch_word(run))
        for _ in range(DescriptorCheck.LATENCY + 1):
            await edge
        want, found = judge(bits, run, size), int(dut.code.value)
        assert found == want, f"trial {number}: {found}, not {want}, for {bits & 0xFF} {run} " + (
            str(body(bits)) if 1 <= bits & 0xFF <= 4 else "")
        key = bits & 0xFF if bits & 0xFF < 5 else 5, want
        seen[key] = seen.get(key, 0) + 1
    dut._log.info("judged: %s", seen)
    for opcode in (1, 2, 3, 4):
        assert seen.get((opcode, Error.NONE), 0) > 50 and seen.get((opcode, Error.SIZE), 0) > 50, seen
