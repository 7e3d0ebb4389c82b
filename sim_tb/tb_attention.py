"""Bench of the attention unit: whole heads, back to back, against the golden attention and the golden records."""

import cocotb
import torch
from cocotb.triggers import RisingEdge

from celosia.gen.golden import f32
from celosia.gen.golden.attention import attend, pack_record
from celosia.hw.isa import Sink as QuantSink
from celosia.hw.links import AttendCommand, AttendWord, Launch, QuantWord, RecordCommand, record_beats
from celosia.hw.mem.links import WriteWord
from celosia.sim_tb.link import Monitor, Sink, Source, pack, parameters, reset, rng, start_clock

KINDS = ("plain", "peaked", "flat", "lowest", "one_hot", "wide", "zeros")


class Head:
    """One KV head of a scenario: random inputs of a kind, and what must come out."""

    def __init__(self, numbers, kind, *, n_tokens, group, head_dim, first_position, bank):
        g = torch.Generator().manual_seed(numbers.randrange(1 << 30))
        n_positions = first_position + n_tokens

        def vectors(*shape):
            return torch.randint(-128, 128, shape, generator=g).to(torch.int8)

        def scales(*shape, centre):
            spread = {"wide": 12.0, "peaked": 2.0}.get(kind, 0.5)
            return (centre * torch.exp2(spread * torch.randn(shape, generator=g))).to(torch.float32)

        self.bank, self.first_position, self.n_tokens, self.group = bank, first_position, n_tokens, group
        self.q = vectors(n_tokens, group, head_dim)
        self.k, self.v = vectors(n_positions, head_dim), vectors(n_positions, head_dim)
        self.qf = scales(n_tokens, group, centre={"peaked": 0.1, "flat": 0.001}.get(kind, 0.02))
        self.ks, self.vs = scales(n_positions, centre=0.02), scales(n_positions, centre=0.01)
        if kind == "lowest":
            self.q[:], self.k[:], self.v[:] = -128, -128, -128
            self.qf[:], self.ks[:], self.vs[:] = 1.0, 1.0, 1.0
        elif kind == "flat":
            self.k[:] = self.k[0]
        elif kind == "one_hot":
            self.k[:] = 0
            self.k[numbers.randrange(n_positions)] = self.q[0, 0]
            self.qf[:], self.ks[:] = 1.0, 1.0
        elif kind == "zeros":
            self.vs[torch.rand(n_positions, generator=g) < 0.6] = 0.0
            self.ks[torch.rand(n_positions, generator=g) < 0.2] = 0.0

    def golden(self, n_slices):
        return attend(self.q, self.qf, self.k, self.ks, self.v, self.vs, self.first_position, n_slices)

    def record(self, position, port_bytes):
        return pack_record(self.k[position], self.ks[position], self.v[position], self.vs[position], port_bytes)


def beats(raw, port_bytes):
    return [int.from_bytes(raw[i:i + port_bytes], "little") for i in range(0, len(raw), port_bytes)]


def row_words(sink, token, head, bank, row, scale, lanes):
    words = -(-len(row) // lanes)
    for word in range(words):
        yield {"sink": sink, "token": token, "head": head, "bank": bank, "word": word, "last": int(word == words - 1),
               "scale": int(f32.to_bits(scale)), "data": row[word * lanes:(word + 1) * lanes].tolist()}


class Bench:
    """The unit with a source or sink at every stream."""

    def __init__(self, dut, stall):
        self.dut, self.sizes = dut, parameters()["sizes"]
        self.n_ports, self.port_bytes = self.sizes["n_ports"], self.sizes["port_bytes"]
        self.lanes = self.sizes["vector_lanes"]
        start_clock(dut)
        dut.launch.value = 0
        self.command = Source(dut, "i_command", shape=AttendCommand, stall=stall)
        self.past = [Source(dut, f"i_past__{p}", stall=stall) for p in range(self.n_ports)]
        self.quant = Source(dut, "i_quant", shape=QuantWord(self.lanes), stall=stall)
        self.place = Source(dut, "i_record", shape=RecordCommand, stall=stall)
        self.o = Sink(dut, "o", shape=AttendWord(self.lanes), stall=stall)
        self.o_write = Sink(dut, "o_write", shape=WriteWord(self.port_bytes), stall=stall)
        self.watch = Monitor(dut, "o")
        Monitor(dut, "o_write")
        self.n_done = 0
        cocotb.start_soon(self._count_done())

    async def _count_done(self):
        while True:
            await RisingEdge(self.dut.clk)
            self.n_done += int(self.dut.done.value)

    async def until(self, condition, what, limit=60_000):
        for _ in range(limit):
            if condition():
                return
            await RisingEdge(self.dut.clk)
        raise TimeoutError(f"{what} did not happen within {limit} cycles")

    async def run(self, heads, numbers, ahead):
        """Heads of one launch. ``ahead``: the ATTEND of a head waits until the rows of so many later heads are in."""
        first, n_tokens = heads[0].first_position, heads[0].n_tokens
        head_words = -(-heads[0].k.shape[1] // self.port_bytes)
        n_beats = record_beats(head_words, self.port_bytes)
        self.dut.launch.value = pack(Launch, {"n_tokens": n_tokens, "first_position": first})
        rows_in, began = [0], self.n_done
        places = [{"offset": numbers.randrange(1 << 38), "port_stride": numbers.randrange(1 << 32),
                   "head_words": head_words, "index": numbers.randrange(1 << 16)} for _ in heads]

        async def rows():
            for number, head in enumerate(heads):
                await self.until(lambda n=number: self.n_done - began > n - 2, "the bank's former ATTEND")
                for h in range(head.group):
                    for t in range(n_tokens):
                        await self.quant.send(row_words(QuantSink.Q, t, h, head.bank, head.q[t, h], head.qf[t, h],
                                                        self.lanes))
                for sink, x, scales in ((QuantSink.K, head.k, head.ks), (QuantSink.V, head.v, head.vs)):
                    for t in range(n_tokens):
                        await self.quant.send(row_words(sink, t, 0, 0, x[first + t], scales[first + t], self.lanes))
                rows_in[0] += 1

        async def commands():
            for number, head in enumerate(heads):
                await self.until(lambda n=number: rows_in[0] >= min(n + 1 + ahead, len(heads)), "the rows of the head")
                await self.command.send([{"group": head.group, "head_words": head_words, "bank": head.bank}])

        async def past(port):
            for head in heads:
                for j in range(port, first, self.n_ports):
                    await self.past[port].send(beats(head.record(j, self.port_bytes), self.port_bytes))

        async def writes():
            for place, head in zip(places, heads):
                for j in range(first, first + n_tokens):
                    got = await self.o_write.recv(n_beats)
                    data = beats(head.record(j, self.port_bytes), self.port_bytes)
                    offset = place["offset"] + j % self.n_ports * place["port_stride"] \
                        + j // self.n_ports * n_beats * self.port_bytes
                    assert [w["data"] for w in got] == data, f"record of position {j}"
                    assert (got[0]["offset"], got[0]["beats"], got[0]["index"]) == \
                        (offset % (1 << 40), n_beats, place["index"])
                    assert [w["first"] for w in got] == [1] + [0] * (n_beats - 1)
                    assert [w["last"] for w in got] == [0] * (n_beats - 1) + [1]

        tasks = [cocotb.start_soon(task) for task in (
            rows(), commands(), self.place.send(places), writes(), *(past(p) for p in range(self.n_ports)))]
        words = head_words * self.port_bytes // self.lanes
        for number, head in enumerate(heads):
            acc, scale = head.golden(self.n_ports)
            padded = torch.zeros(n_tokens, head.group, words * self.lanes, dtype=torch.int32)
            padded[..., :acc.shape[-1]] = acc
            for t in range(n_tokens):
                for h in range(head.group):
                    got = await self.o.recv(words)
                    want = [{"acc": padded[t, h, i * self.lanes:(i + 1) * self.lanes].tolist(),
                             "scale": int(f32.to_bits(scale[t, h]))} for i in range(words)]
                    assert got == want, f"head {number}, token {t}, query head {h}: {got} instead of {want}"
            assert self.n_done - began == number
            await self.until(lambda n=number: self.n_done - began == n + 1, "done", 4)
        for task in tasks:
            await task
        assert self.watch.transfers == words * n_tokens * sum(head.group for head in heads) + self.watched
        self.watched = self.watch.transfers

    watched = 0


def random_heads(numbers, sizes, kind):
    n_tokens = numbers.randint(1, sizes["token_lanes"])
    group = numbers.randint(1, sizes["max_queries"] // sizes["token_lanes"])
    head_words = numbers.randint(1, sizes["max_head_words"])
    short = numbers.choice((0, 0, sizes["vector_lanes"] if sizes["port_bytes"] > sizes["vector_lanes"] else 0))
    first = numbers.choice((0, numbers.randint(0, 5), numbers.randint(0, 60)))
    return [Head(numbers, kind, n_tokens=n_tokens, group=group, head_dim=head_words * sizes["port_bytes"] - short,
                 first_position=first, bank=number % 2) for number in range(numbers.randint(1, 4))]


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3])
async def matches_golden(dut, stall):
    numbers = rng()
    bench = Bench(dut, stall)
    await reset(dut)
    for number in range(parameters()["n_scenarios"]):
        kind = KINDS[number % len(KINDS)]
        await bench.run(random_heads(numbers, bench.sizes, kind), numbers, ahead=numbers.randrange(2))


@cocotb.test()
@cocotb.parametrize(full=[False, True])
async def keeps_its_rate(dut, full):
    """One query a lane: a slice takes a beat of its port in (nearly) every cycle. All queries: the passes set the pace.

    The merge sends half a word a cycle, or what the output takes. Flat scores, so that no sum needs a long shift.
    """
    numbers, bench = rng(), Bench(dut, 0.0)
    await reset(dut)
    sizes = bench.sizes
    heads_a_token = sizes["max_queries"] // sizes["token_lanes"]
    n_tokens, group = (sizes["token_lanes"], heads_a_token) if full else (1, min(sizes["query_lanes"], heads_a_token))
    n_records, head_words = 40, sizes["max_head_words"]
    n_beats = record_beats(head_words, sizes["port_bytes"])
    head = Head(numbers, "flat", n_tokens=n_tokens, group=group, head_dim=head_words * sizes["port_bytes"],
                first_position=n_records * sizes["n_ports"], bank=0)
    taken, cycles = 0, 0

    async def count():
        nonlocal taken, cycles
        valid, ready = dut.i_past__0__valid, dut.i_past__0__ready
        while taken < n_records * n_beats:
            await RisingEdge(dut.clk)
            taken += int(valid.value) & int(ready.value)
            cycles += taken > 0

    sent = 0

    async def count_output():
        nonlocal sent
        while not int(dut.done.value):
            await RisingEdge(dut.clk)
            sent += sent > 0 or int(dut.o__valid.value)

    counting, sending = cocotb.start_soon(count()), cocotb.start_soon(count_output())
    await bench.run([head], numbers, ahead=0)
    await counting
    await sending
    record_cycles = max(n_beats, max(head_words, sizes["query_lanes"]) * n_tokens * group // sizes["query_lanes"] + 1)
    limit = 1.03 * n_records * record_cycles + 4
    dut._log.info(f"{taken} beats took {cycles} cycles, at most {limit:.0f} expected")
    assert cycles <= limit, f"{taken} beats took {cycles} cycles, more than {limit:.0f}"
    query_cycles = max(sizes["n_ports"], 2 * head_words, head_words * sizes["port_bytes"] // sizes["vector_lanes"])
    limit = n_tokens * group * query_cycles + 4
    dut._log.info(f"{n_tokens * group} queries took {sent} cycles, at most {limit} expected")
    assert sent <= limit, f"{n_tokens * group} queries took {sent} cycles, more than {limit}"
