"""What a descriptor means, in plain Python: its verdict, its memory reads, its command.

Sizes are those of ``AccelConfig``, by name.

    bits = raw(Opcode.MATMUL, n_row_groups=4, n_col_blocks=2, planes=1)
    judge(bits, {"n_tokens": 1, "first_position": 0}, sizes)       # Error.NONE
"""

from amaranth.lib import data

from celosia.hw import isa
from celosia.hw.isa import Add, Index, Mul1, Mul2, Mul3, Opcode, Sink, Source, Tokens
from celosia.hw.regs import Error
from celosia.sim_tb.link import unpack

__all__ = ["MODEL", "CACHE", "raw", "body", "gathers", "judge", "number_of", "record_beats", "reads", "row_quantum", "command"]

MODEL, CACHE = "model", "cache"


def raw(opcode, waits=(0, 0, 0, 0), **fields):
    """A descriptor as an integer; unlike isa.pack, it takes any code."""
    opcode = opcode.value if isinstance(opcode, Opcode) else opcode
    bits = opcode | sum(wait << 32 + 16 * i for i, wait in enumerate(waits))
    if opcode in (1, 2, 3, 4):
        layout = data.Layout.cast(isa.BODIES[Opcode(opcode)])
        for name, value in fields.items():
            value = getattr(value, "value", value)
            assert 0 <= value < 1 << layout[name].width, f"{name} does not hold {value}"
            bits |= value << 96 + layout[name].offset
    return bits


def body(bits):
    """The fields of a descriptor as plain integers."""
    layout = data.Layout.cast(isa.BODIES[Opcode(bits & 0xFF)])
    return {name: bits >> 96 + field.offset & (1 << field.width) - 1 for name, field in layout if name != "reserved"}


def judge(bits, launch, size):
    """Error code of a descriptor, from the words of hw/isa.py and the sizes of the configuration."""
    if bits & 0xFF > 4:
        return Error.OPCODE
    if bits & 0xFF == 0:
        return Error.NONE
    opcode, f, n = Opcode(bits & 0xFF), body(bits), launch["n_tokens"]
    lanes = size["vector_lanes"]

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
    return Error.SIZE if bad else Error.NONE


def row_quantum(size):
    return max(size["engine_rows"], size["vector_lanes"])


def gathers(bits):
    """Whether a descriptor reads by the number of a candidate."""
    opcode = bits & 0xFF
    return (opcode == Opcode.LOAD.value and body(bits)["index"] == Index.CANDIDATE.value
            or opcode == Opcode.MATMUL.value and body(bits)["gather"] == 1)


def number_of(rank):
    """Number of a candidate of the shortlist, in benches of control."""
    return 5 * rank + 2


def record_beats(head_words, size):
    return 2 * head_words + max(1, 8 // size["port_bytes"])


def reads(bits, launch, tokens, size):
    """For every port, [(window, offset, beats), ...] that a descriptor reads, in order."""
    opcode, f, ports = Opcode(bits & 0xFF), body(bits), range(size["n_ports"])
    if opcode is Opcode.LOAD:
        rows = {Index.NONE.value: [0], Index.TOKEN.value: tokens[:launch["n_tokens"]],
                Index.POSITION.value: [launch["first_position"] + t for t in range(launch["n_tokens"])],
                Index.CANDIDATE.value: [number_of(f["rank"]) // row_quantum(size)]}[f["index"]]
        beats = f["n_words"] * 4 * size["vector_lanes"] // (size["n_ports"] * size["port_bytes"])
        return [[(MODEL, f["addr"] + p * f["port_stride"] + row * f["index_stride"], beats) for row in rows]
                for p in ports]
    if opcode is Opcode.MATMUL:
        beats = f["n_row_groups"] * f["n_col_blocks"] * f["planes"]
        first = f["gather"] * (number_of(f["rank"]) // row_quantum(size)) * beats * size["port_bytes"]
        return [[(MODEL, f["addr"] + p * f["port_stride"] + first, beats)] for p in ports]
    if opcode is Opcode.ATTEND:
        past = [len(range(p, launch["first_position"], size["n_ports"])) for p in ports]
        return [[(CACHE, f["addr"] + p * f["port_stride"], past[p] * record_beats(f["head_words"], size))]
                for p in ports]
    return [[] for _ in ports]


def command(bits, launch):
    """What the unit is told."""
    opcode, f, n = Opcode(bits & 0xFF), body(bits), launch["n_tokens"]
    if opcode is Opcode.LOAD:
        return {"n_words": f["n_words"], "d_base": f["d_base"], "d_stride": f["d_stride"],
                "n_rows": n if f["index"] in (Index.TOKEN.value, Index.POSITION.value) else 1}
    if opcode is Opcode.MATMUL:
        return {key: f[key] for key in ("n_row_groups", "n_col_blocks", "planes", "bank")} | {
            "n_lanes": 1 if f["tokens"] == Tokens.LAST.value else n}
    if opcode is Opcode.ATTEND:
        return {key: f[key] for key in ("group", "head_words", "bank")}
    return unpack(isa.Vector, bits >> 96)
