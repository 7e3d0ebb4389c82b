"""What a descriptor means, in plain Python: its verdict, its memory reads, its command.

Sizes are those of ``AccelConfig``, by name. A launch is a dict: ``lanes``, [(slot, position), ...] of its token lanes, and
``pages``, {(slot, position div page_positions): page}.

    bits = raw(Opcode.MATMUL, n_row_groups=4, n_col_blocks=2, planes=1)
    judge(bits, launch([(0, 0)]), sizes)       # Error.NONE
"""

from amaranth.lib import data

from celosia.hw import isa
from celosia.hw.isa import Add, Index, Mul1, Mul2, Mul3, Opcode, Sink, Source, Tokens
from celosia.hw.regs import Error
from celosia.sim_tb.link import unpack

__all__ = ["MODEL", "CACHE", "raw", "body", "command", "gathers", "judge", "launch", "launch_word", "number_of", "past", "reads",
           "record_beats", "row_quantum", "segments"]

MODEL, CACHE = "model", "cache"


def raw(opcode, waits=(0, 0, 0, 0), *, words=isa, **fields):
    """A descriptor of the instruction set ``words`` as an integer; unlike its ``pack``, it takes any code."""
    opcode = getattr(opcode, "value", opcode)
    bits = opcode | sum(wait << 32 + 16 * i for i, wait in enumerate(waits))
    if opcode in {known.value for known in words.Opcode}:
        layout = data.Layout.cast(words.BODIES[words.Opcode(opcode)])
        for name, value in fields.items():
            value = getattr(value, "value", value)
            assert 0 <= value < 1 << layout[name].width, f"{name} does not hold {value}"
            bits |= value << 96 + layout[name].offset
    return bits


def body(bits, words=isa):
    """The fields of a descriptor of the instruction set ``words`` as plain integers."""
    layout = data.Layout.cast(words.BODIES[words.Opcode(bits & 0xFF)])
    return {name: bits >> 96 + field.offset & (1 << field.width) - 1 for name, field in layout if name != "reserved"}


def launch(lanes, pages=None):
    """A launch of (slot, position) lanes."""
    return {"lanes": list(lanes), "pages": pages or {}}


def segments(launch):
    """[(slot, position of the first lane, number of that lane), ...]"""
    lanes = launch["lanes"]
    return [(slot, position, t) for t, (slot, position) in enumerate(lanes) if not t or lanes[t - 1][0] != slot]


def launch_word(launch):
    """The values of ``celosia.hw.links.Launch``; lanes that are not there are zero."""
    lanes = launch["lanes"]
    firsts = {t for _, _, t in segments(launch)}
    return {"n_tokens": len(lanes), "lanes": [
        {"slot": slot, "position": position, "first": int(t in firsts), "last": int(t + 1 in firsts or t + 1 == len(lanes))}
        for t, (slot, position) in enumerate(lanes)] + [{}] * (16 - len(lanes))}


def judge(bits, launch, size):
    """Error code of a descriptor, from the words of hw/isa.py and the sizes of the configuration."""
    if bits & 0xFF > 4:
        return Error.OPCODE
    if bits & 0xFF == 0:
        return Error.NONE
    opcode, f, n = Opcode(bits & 0xFF), body(bits), len(launch["lanes"])
    lanes = size["vector_lanes"]
    if f.get("tokens", 0) > 2:
        return Error.OPCODE

    def beyond(base, stride, rows, words, limit):
        return base + (rows - 1) * stride + words > limit

    if opcode is Opcode.LOAD:
        rows = n if f["index"] in (Index.TOKEN.value, Index.POSITION.value) else 1
        bad = (not f["n_words"] or beyond(f["d_base"], f["d_stride"], rows, f["n_words"], size["p_words"])
               or f["index"] == Index.CANDIDATE.value and f["rank"] >= size["top_k"])
    elif opcode is Opcode.MATMUL:
        rows, columns = f["n_row_groups"] * size["engine_rows"], f["n_col_blocks"] * size["columns"]
        bad = (not rows or rows % lanes or not columns or columns > size["max_columns"] or not 1 <= f["planes"] <= 5
               or columns * 128 * (3**f["planes"] - 1) // 2 >= 1 << size["accumulator_bits"] - 1
               or f["gather"] and (f["rank"] >= size["top_k"] or rows != row_quantum(size)))
    elif opcode is Opcode.ATTEND:
        bad = not (1 <= f["group"] <= size["max_queries"] // size["token_lanes"]
                   and 1 <= f["head_words"] <= size["max_head_words"])
    else:
        if f["mul1"] > 4 or f["mul3"] > 4 or f["add"] > 2:
            return Error.OPCODE
        words, sink = f["n_words"], Sink(f["sink"])
        uses_x = f["source"] == Source.X.value or f["mul3"] == Mul3.X.value or f["add"] == Add.X.value
        uses_p = (f["source"] == Source.P.value or f["mul1"] == Mul1.P.value or f["add"] == Add.ROPE.value
                  or f["mul2"] in (Mul2.P.value, Mul2.ROPE.value))
        bad = (not words or not f["block_words"]
               or uses_x and beyond(f["x_base"], f["x_stride"], n, words, size["x_words"])
               or uses_p and beyond(f["p_base"], f["p_stride"], n, words, size["p_words"])
               or sink is Sink.X and beyond(f["d_base"], f["d_stride"], n, words, size["x_words"])
               or sink is Sink.ACT and (f["d_base"] + words) * lanes > size["max_columns"]
               or sink is Sink.RESCORE and (f["d_base"] + words) * lanes > size["top_k"] * row_quantum(size))
        if sink in (Sink.Q, Sink.K, Sink.V):
            elements = words * lanes
            bad = bad or elements % size["port_bytes"] or elements // size["port_bytes"] > size["max_head_words"]
        if sink is Sink.Q:
            bad = bad or f["head"] >= size["max_queries"] // size["token_lanes"]
    bad = bad or f.get("tokens") == Tokens.LANE.value and f["lane"] >= n
    return Error.SIZE if bad else Error.NONE


def row_quantum(size):
    return max(size["engine_rows"], size["vector_lanes"])


def gathers(bits):
    """Whether a descriptor reads by the number of a candidate."""
    opcode = bits & 0xFF
    return (opcode == Opcode.LOAD.value and body(bits)["index"] == Index.CANDIDATE.value
            or opcode == Opcode.MATMUL.value and body(bits)["gather"] == 1)


def number_of(f, launch):
    """Number of the candidate that a descriptor gathers, in benches of control."""
    return 5 * f["rank"] + 32 * min(f["lane"], len(launch["lanes"]) - 1) + 2


def record_beats(f, size):
    """Beats of a record of an ATTEND."""
    halves = -(-f["head_words"] // 2)
    return sum(halves if f["int4"] >> bit & 1 else f["head_words"] for bit in (0, 1)) + max(1, 8 // size["port_bytes"])


def past(f, launch, size):
    """[(port, row of its region), ...] that an ATTEND reads, position by position; KeyError on a page that is not there."""
    n_ports, page_positions, found = size["n_ports"], size["page_positions"], []
    for slot, first, _ in segments(launch):
        lowest, ends = first - f["window"] + 1, -(-f["sinks"] // n_ports)
        skip = range(ends, lowest // n_ports) if f["window"] and lowest > 0 else range(0)
        for j in range(first):
            if j // n_ports not in skip:
                page = launch["pages"][slot, j // page_positions]
                found.append((j % n_ports, (page * page_positions + j % page_positions) // n_ports))
    return found


def reads(bits, launch, tokens, size):
    """For every port, [(window, offset, beats), ...] that a descriptor reads, in order."""
    opcode, f, ports = Opcode(bits & 0xFF), body(bits), range(size["n_ports"])
    if opcode is Opcode.LOAD:
        rows = {Index.NONE.value: [0], Index.TOKEN.value: tokens[:len(launch["lanes"])],
                Index.POSITION.value: [position for _, position in launch["lanes"]],
                Index.CANDIDATE.value: [number_of(f, launch) // row_quantum(size)]}[f["index"]]
        beats = f["n_words"] * 4 * size["vector_lanes"] // (size["n_ports"] * size["port_bytes"])
        return [[(MODEL, f["addr"] + p * f["port_stride"] + row * f["index_stride"], beats) for row in rows]
                for p in ports]
    if opcode is Opcode.MATMUL:
        beats = f["n_row_groups"] * f["n_col_blocks"] * f["planes"]
        first = f["gather"] * (number_of(f, launch) // row_quantum(size)) * beats * size["port_bytes"]
        return [[(MODEL, f["addr"] + p * f["port_stride"] + first, beats)] for p in ports]
    if opcode is Opcode.ATTEND:
        beats = record_beats(f, size)
        return [[(CACHE, f["addr"] + p * f["port_stride"] + row * beats * size["port_bytes"], beats)
                 for port, row in past(f, launch, size) if port == p] for p in ports]
    return [[] for _ in ports]


def command(bits, launch):
    """What the unit is told."""
    opcode, f, n = Opcode(bits & 0xFF), body(bits), len(launch["lanes"])
    if opcode is Opcode.LOAD:
        return {"n_words": f["n_words"], "d_base": f["d_base"], "d_stride": f["d_stride"],
                "n_rows": n if f["index"] in (Index.TOKEN.value, Index.POSITION.value) else 1}
    if opcode is Opcode.MATMUL:
        return {key: f[key] for key in ("n_row_groups", "n_col_blocks", "planes", "bank")} | {
            "n_lanes": n if f["tokens"] == Tokens.ALL.value else 1}
    if opcode is Opcode.ATTEND:
        return {key: value for key, value in f.items() if key not in ("addr", "port_stride")}
    return unpack(isa.Vector, bits >> 96)
