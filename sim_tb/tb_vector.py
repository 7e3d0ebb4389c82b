"""Vector unit against its golden function: random programs of descriptors of every kind, word for word.

Parameters: ``lanes``, ``token_lanes``, ``x_words``, ``p_words``, ``n_descriptors`` a run, ``n_runs``. A run has a
number of tokens of its own and ends by sending all of X to the candidates and all scalar registers to the K sink, so
that nothing stays unseen.
"""

import cocotb
import torch
from cocotb.triggers import RisingEdge

from celosia.gen.golden import f32
from celosia.gen.golden.vector import N_SCALARS, QuantWords, VectorState, run_vector
from celosia.hw.isa import Add, Mul1, Mul2, Mul3, Reduce, Sink, Source, Tokens, Vector
from celosia.hw.links import AttendWord, DrainWord, Launch, ParamWrite, QuantWord, TopkWord
from celosia.sim_tb.link import Monitor, pack, parameters, reset, rng, start_clock
from celosia.sim_tb.link import Sink as Drain
from celosia.sim_tb.link import Source as Feed

_TIMEOUT_CYCLES = 200_000
_SPECIAL = (0x0000_0000, 0x8000_0000, 0x0000_0001, 0x807F_FFFF, 0x0080_0000, 0x8080_0000, 0x3F80_0000, 0x42FE_FFFF,
            0x7F7F_FFFF, 0xFF7F_FFFF, 0x7F80_0000, 0xFF80_0000, 0x7F80_0001, 0x7FC0_0000)


def number_bits(random, wild):
    """A number of the size that a model has, or any pattern."""
    if wild and random.random() < 0.3:
        return random.choice((random.choice(_SPECIAL), random.getrandbits(32)))
    value = random.choice((random.gauss(0, 1), random.gauss(0, 100), random.randrange(-20, 20) / 2))
    return int(f32.to_bits(torch.tensor(value, dtype=torch.float32)))


def integer(random):
    """Any length of integer, and the extremes."""
    return random.choice((random.randrange(-1 << 31, 1 << 31) >> random.randrange(32), -1 << 31, (1 << 31) - 1))


def random_descriptor(random, n_tokens, size, wild):
    """Fields of a legal descriptor that stays inside the scratches.

    X is read in one half and written in place or in the other half.
    """
    f = {"source": random.choice(list(Source)), "mul3": random.choice(list(Mul3)),
         "tokens": random.choice([*Tokens, Tokens.ALL]), "lane": random.randrange(n_tokens), "int4": random.randrange(4),
         "mul1_scalar": random.randrange(N_SCALARS), "scale_scalar": random.randrange(N_SCALARS),
         "reduce_scalar": random.randrange(N_SCALARS),
         "imm0": number_bits(random, wild), "imm1": number_bits(random, wild),
         "bank": random.randrange(2), "head": random.randrange(64), "addr": random.getrandbits(40),
         "mul1": random.choice(list(Mul1)), "mul2": random.choice([Mul2.ONE, Mul2.P, Mul2.IMM]),
         "add": random.choice([Add.NONE, Add.X]), "sink": random.choice([*Sink, Sink.X, Sink.X])}
    if random.random() < 0.25:
        f |= {"mul1": Mul1.P, "mul2": Mul2.ROPE, "mul3": Mul3.ONE, "add": Add.ROPE}
    elif f["source"] is Source.ATTEND and random.random() < 0.5:
        f["mul1"] = Mul1.STREAM
    if f["mul1"] is Mul1.STREAM and f["source"] is not Source.ATTEND:
        f["mul1"] = Mul1.SCALAR
    if f["source"] in (Source.X, Source.P) and random.random() < 0.5:
        f["reduce"] = random.choice([Reduce.RMS, Reduce.ABSMAX, Reduce.KEEP])
        f["sink"] = random.choice([Sink.NONE, Sink.X])
        if f["reduce"] is Reduce.RMS:
            f |= {"sink": Sink.NONE, "add": Add.NONE}
            f["mul2"] = Mul2.ONE if f["mul2"] is Mul2.ROPE else f["mul2"]
            f["mul3"] = random.choice([Mul3.SELF, f["mul3"]])

    half = size["x_words"] // 2
    limit = min(half // n_tokens, size["p_words"] // 2) - 4
    slot_words = f32.SUM_SLOTS // size["lanes"]
    n = random.choice((1, 2, random.randrange(1, 20), random.randrange(1, limit), limit,
                       slot_words + random.randrange(-1, 2)))
    n = f["n_words"] = min(n, limit)
    f["block_words"] = n + random.choice((0, 5))
    if f["source"] is Source.MATMUL:
        f["block_words"] = random.choice((n, random.randrange(1, n + 1)))
    stride = n + random.randrange(4)
    half_index, offset = random.randrange(2), random.randrange(half - n_tokens * stride + 1)
    f |= {"x_base": half_index * half + offset, "x_stride": stride, "d_base": f_base(random, half_index, half, offset),
          "d_stride": stride}
    f["p_stride"] = random.choice((0, n)) if n_tokens * n <= size["p_words"] else 0
    f["p_base"] = random.randrange(size["p_words"] - f["p_stride"] * (n_tokens - 1) - n + 1)
    return f


def f_base(random, half_index, half, offset):
    """In place, or the same place of the other half."""
    return random.choice((half_index, 1 - half_index)) * half + offset


def first_state(size):
    """Descriptors that give every word of X and every scalar register a value: memories outlive a reset."""
    half = size["x_words"] // 2
    for base in (0, half):
        yield {"n_words": half, "block_words": half, "tokens": Tokens.LAST, "source": Source.P, "sink": Sink.X,
               "d_base": base}
    for scalar in range(0, N_SCALARS, 2):
        yield {"n_words": 2, "block_words": 2, "source": Source.P, "p_base": scalar, "p_stride": 2,
               "reduce": Reduce.ABSMAX, "reduce_scalar": scalar}


def all_state(size):
    """Descriptors that send all of X and all scalar registers out."""
    half = size["x_words"] // 2
    for base in (0, half):
        yield {"n_words": half, "block_words": half, "x_base": base, "tokens": Tokens.LAST, "sink": Sink.TOPK,
               "imm0": 1}
    for scalar in range(N_SCALARS):
        yield {"n_words": 1, "block_words": 1, "sink": Sink.K, "scale_scalar": scalar}


def run_golden(f, n_tokens, state, random, lanes):
    """Feeds the streams that the descriptor takes, and runs it.

    Returns (words of matmul, words of attention, quant words, topk words).
    """
    rows = n_tokens if f.get("tokens", Tokens.ALL) is Tokens.ALL else 1
    fed = {Source.MATMUL: [], Source.ATTEND: []}
    if f.get("source") in fed:
        acc = [[integer(random) for _ in range(lanes)] for _ in range(rows * f["n_words"])]
        if f["source"] is Source.MATMUL:
            state.push_matmul(torch.tensor(acc))
            fed[Source.MATMUL] = [{"acc": word} for word in acc]
        else:
            scales = [number_bits(random, False) for _ in acc]
            state.push_attend(torch.tensor(acc), f32.from_bits(scales))
            fed[Source.ATTEND] = [{"acc": word, "scale": scale} for word, scale in zip(acc, scales)]
    words = run_vector(f, n_tokens, state)
    quant, topk = [], []
    if isinstance(words, QuantWords):
        columns = (words.token, words.word, words.last, f32.to_bits(words.scale), words.data)
        quant = [{"sink": words.sink, "bank": words.bank, "token": token, "head": words.head, "word": word,
                  "last": last, "scale": scale, "data": elements}
                 for token, word, last, scale, elements in zip(*(column.tolist() for column in columns))]
    elif words is not None:
        columns = (words.token, words.first, f32.to_bits(words.logits))
        topk = [{"token": token, "first": first, "n_valid": words.n_valid, "rescore": int(words.rescore), "logits": logits}
                for token, first, logits in zip(*(column.tolist() for column in columns))]
    return fed[Source.MATMUL], fed[Source.ATTEND], quant, topk


class Bench:
    """The unit's ports, and what it has been given so far."""

    def __init__(self, dut, stall):
        self.size = parameters()
        lanes = self.size["lanes"]
        self.dut, self.edge = dut, RisingEdge(dut.clk)
        self.command = Feed(dut, "i_command", shape=Vector, stall=stall)
        self.matmul = Feed(dut, "i_matmul", shape=DrainWord(lanes), stall=stall)
        self.attend = Feed(dut, "i_attend", shape=AttendWord(lanes), stall=stall)
        self.param = Feed(dut, "i_param", shape=ParamWrite(lanes), stall=stall)
        self.quant = Drain(dut, "o_quant", shape=QuantWord(lanes), stall=stall)
        self.topk = Drain(dut, "o_topk", shape=TopkWord(lanes), stall=stall)
        self.watched = [Monitor(dut, name) for name in ("o_quant", "o_topk")]
        self.state = VectorState.zeros(vector_lanes=lanes, x_words=self.size["x_words"], p_words=self.size["p_words"])

    async def launch(self, n_tokens, random, wild):
        """Says the number of tokens, and fills P."""
        self.n_tokens = n_tokens
        self.dut.launch.value = pack(Launch, {"n_tokens": n_tokens})
        params = [[number_bits(random, wild) for _ in range(self.size["lanes"])] for _ in range(self.size["p_words"])]
        self.state.p[:] = f32.from_bits(params)
        await self.param.send({"addr": addr, "data": word} for addr, word in enumerate(params))

    async def run(self, program, random):
        """Runs a program and compares all that comes out."""
        words, done_counts = ([], [], [], []), []
        for f in program:
            for stream, new in zip(words, run_golden(f, self.n_tokens, self.state, random, self.size["lanes"])):
                stream.extend(new)
            done_counts.append((len(words[2]), len(words[3])))
        matmul, attend, quant, topk = words
        sending = [cocotb.start_soon(task) for task in (
            self.watch_done(done_counts),
            self.command.send(program, timeout_cycles=_TIMEOUT_CYCLES),
            self.matmul.send(matmul, timeout_cycles=_TIMEOUT_CYCLES),
            self.attend.send(attend, timeout_cycles=_TIMEOUT_CYCLES))]
        candidates = cocotb.start_soon(self.topk.recv(len(topk), timeout_cycles=_TIMEOUT_CYCLES))
        quantised = cocotb.start_soon(self.quant.recv(len(quant), timeout_cycles=_TIMEOUT_CYCLES))
        compare("o_quant", await quantised, quant)
        compare("o_topk", await candidates, topk)
        for task in sending:
            await task
        await self.edge
        assert not self.dut.count_busy.value

    async def watch_done(self, expected):
        """At every strobe of done, all words of the descriptors so far must have been taken."""
        before = [monitor.transfers for monitor in self.watched]
        for number, counts in enumerate(expected):
            for _ in range(_TIMEOUT_CYCLES):
                await self.edge
                if self.dut.done.value:
                    break
            else:
                raise TimeoutError(f"Descriptor {number} was not done within {_TIMEOUT_CYCLES} cycles")
            taken = tuple(monitor.transfers - start for monitor, start in zip(self.watched, before))
            assert taken == counts, f"descriptor {number} was done after {taken} words, not {counts}"

    async def cycles(self, f, random):
        """Cycles from the command's transfer to done, nothing being waited for."""
        running = cocotb.start_soon(self.run([f], random))
        while not (self.dut.i_command__valid.value and self.dut.i_command__ready.value):
            await self.edge
        count = 0
        while not self.dut.done.value:
            await self.edge
            count += 1
        await running
        return count


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4], wild=[False, True])
async def matches_golden(dut, stall, wild):
    start_clock(dut)
    bench, random = Bench(dut, stall), rng("program")
    await reset(dut)
    for _ in range(bench.size["n_runs"]):
        n_tokens = random.randrange(1, bench.size["token_lanes"] + 1)
        await bench.launch(n_tokens, random, wild)
        program = list(first_state(bench.size))
        for _ in range(bench.size["n_descriptors"]):
            f = random_descriptor(random, n_tokens, bench.size, wild)
            program.append(f)
            if f.get("reduce"):
                program += [{"n_words": 1, "block_words": 1, "sink": Sink.K,
                             "scale_scalar": (f["reduce_scalar"] + k) % N_SCALARS} for k in range(2)]
        await bench.run(program + list(all_state(bench.size)), random)


@cocotb.test()
async def starts_again_after_reset(dut):
    """A descriptor of every kind is cut by a reset, at many moments; then a program runs as if nothing had been."""
    start_clock(dut)
    bench, random = Bench(dut, 0.0), rng("reset")
    await reset(dut)
    row = {"n_words": 40, "block_words": 40}
    rms = row | {"mul3": Mul3.SELF, "reduce": Reduce.RMS}
    cut = [rms, row | {"reduce": Reduce.KEEP}, row | {"reduce": Reduce.ABSMAX, "sink": Sink.X}, row | {"sink": Sink.Q},
           row | {"sink": Sink.TOPK},
           row | {"source": Source.MATMUL}]
    await bench.launch(1, random, False)
    for number in range(20):
        task = cocotb.start_soon(bench.command.send([cut[number % len(cut)]]))
        for _ in range(random.randrange(5, 250)):
            await bench.edge
        await task
        await reset(dut)
        await bench.run([*first_state(bench.size), rms, *all_state(bench.size)], random)


@cocotb.test()
async def keeps_its_pace(dut):
    """A word a cycle, four with a sigmoid, and no more overhead than docs/units/vector.md says."""
    start_clock(dut)
    bench, random = Bench(dut, 0.0), rng("pace")
    await reset(dut)
    await bench.launch(1, random, False)
    await bench.run(list(first_state(bench.size)), random)
    n = 100
    row = {"n_words": n, "block_words": n}
    lanes = bench.size["lanes"]
    fold = f32.SUM_SLOTS // lanes - 1 + lanes.bit_length() - 1 + 7 * 7       # steps, and waits between the levels
    peak = 56 + lanes.bit_length() - 1
    rms = 63 + n // 8 + fold
    for name, f, overhead in (
            ("X to X", row | {"sink": Sink.X, "d_base": n}, 38), ("X to ACT", row | {"sink": Sink.ACT}, 43),
            ("MATMUL to X", row | {"source": Source.MATMUL, "sink": Sink.X}, 38),
            ("SIGMOID", row | {"mul3": Mul3.SIGMOID}, 38 + 3 * (n - 1)),
            ("MATMUL to X, two blocks", row | {"source": Source.MATMUL, "sink": Sink.X, "block_words": n // 2}, 40),
            ("ABSMAX", row | {"reduce": Reduce.ABSMAX}, peak), ("RMS", row | {"reduce": Reduce.RMS}, rms),
            ("KEEP", row | {"reduce": Reduce.KEEP}, 38)):
        found = await bench.cycles(f, random) - n
        dut._log.info(f"{name}: {found} cycles more than words")
        assert found <= overhead, f"{name}: {found} cycles more than words, not {overhead}"

    n_tokens = bench.size["token_lanes"]
    await bench.launch(n_tokens, random, False)
    f = {"n_words": 8, "block_words": 8, "x_stride": 8, "reduce": Reduce.ABSMAX}
    found = await bench.cycles(f, random) - 8 * n_tokens
    dut._log.info(f"ABSMAX of {n_tokens} rows: {found} cycles more than words")
    assert found <= peak + n_tokens - 1, f"ABSMAX of {n_tokens} rows: {found} cycles more than words"
    found = await bench.cycles({"n_words": n, "block_words": n, "reduce": Reduce.RMS}, random) - n * n_tokens
    dut._log.info(f"RMS of {n_tokens} rows: {found} cycles more than words")
    more = {2: 100, 4: 69, 16: n // 8 + 1}[lanes]
    assert found <= rms + more * (n_tokens - 1), f"RMS of {n_tokens} rows: {found} cycles more than words"


def compare(name, found, expected):
    """Equal lists, or the first word that differs."""
    for index, (word, wanted) in enumerate(zip(found, expected, strict=True)):
        assert word == wanted, f"{name}: word {index} is {word}, not {wanted}"
