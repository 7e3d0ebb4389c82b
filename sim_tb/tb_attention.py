"""Bench of the attention unit: whole heads, back to back, against the golden attention and the golden records."""

import itertools
from dataclasses import dataclass

import cocotb
import torch
from cocotb.triggers import RisingEdge

from celosia.gen.golden import f32
from celosia.gen.golden.attention import attend, pack_record
from celosia.hw.isa import Sink as QuantSink
from celosia.hw.links import (
    AttendCommand,
    AttendWord,
    Launch,
    PageAnswer,
    PageAsk,
    QuantWord,
    RecordCommand,
    record_beats,
    visited_rows,
)
from celosia.hw.mem.links import ErrorReport, WriteWord
from celosia.hw.regs import Error
from celosia.sim_tb.link import Monitor, Sink, Source, cycles, pack, parameters, reset, rng, start_clock, unpack

KINDS = ("plain", "peaked", "flat", "lowest", "one_hot", "wide", "zeros")


@dataclass(frozen=True)
class Segment:
    """Lanes of one sequence, side by side: positions first .. first + n - 1."""
    slot: int
    first: int
    n: int


class Head:
    """One KV head of a scenario: random inputs of a kind, and what must come out. ``sight``: window, sinks, bidirectional,
    rebased, cap. With ``rebased`` the queries are there twice, the second time in the other bank."""

    def __init__(self, numbers, kind, segments, *, group, head_dim, bank, int4=0, **sight):
        self.segments, self.group, self.head_dim, self.bank = segments, group, head_dim, bank
        self.int4, self.sight = int4, sight
        self.parts = [self._part(numbers, kind, segment) for segment in segments]
        self.rebased = [self._part(numbers, kind, segment)[1:3] for segment in segments] if sight["rebased"] else []
        # By lane: the segment's tensors, the token in it.
        self.lanes = [(part, t) for part, segment in zip(self.parts, segments) for t in range(segment.n)]

    def _part(self, numbers, kind, segment):
        g = torch.Generator().manual_seed(numbers.randrange(1 << 30))
        n_positions, lowest = segment.first + segment.n, [-8 if self.int4 >> bit & 1 else -128 for bit in (0, 1)]

        def vectors(*shape, lowest):
            return torch.randint(lowest, -lowest, shape, generator=g).to(torch.int8)

        def scales(*shape, centre):
            spread = {"wide": 12.0, "peaked": 2.0}.get(kind, 0.5)
            return (centre * torch.exp2(spread * torch.randn(shape, generator=g))).to(torch.float32)

        q = vectors(segment.n, self.group, self.head_dim, lowest=-128)
        k, v = (vectors(n_positions, self.head_dim, lowest=least) for least in lowest)
        qf = scales(segment.n, self.group, centre={"peaked": 0.1, "flat": 0.001}.get(kind, 0.02))
        ks, vs = scales(n_positions, centre=0.02), scales(n_positions, centre=0.01)
        if kind == "lowest":
            q[:], k[:], v[:] = -128, *lowest
            qf[:], ks[:], vs[:] = 1.0, 1.0, 1.0
        elif kind == "flat":
            k[:] = k[0].clone()
        elif kind == "one_hot":
            k[:] = 0
            k[numbers.randrange(n_positions)] = q[0, 0].clamp(lowest[0], -lowest[0] - 1)
            qf[:], ks[:] = 1.0, 1.0
        elif kind == "zeros":
            vs[torch.rand(n_positions, generator=g) < 0.6] = 0.0
            ks[torch.rand(n_positions, generator=g) < 0.2] = 0.0
        return segment, q, qf, k, ks, v, vs

    def golden(self, n_slices):
        """acc (T, G, D) and scale (T, G) of all lanes."""
        sight = {name: value for name, value in self.sight.items() if name != "rebased"}
        results = [attend(*tensors, segment.first, n_slices, rebased=rebased, **sight)
                   for (segment, *tensors), rebased in itertools.zip_longest(self.parts, self.rebased)]
        return [torch.cat(parts) for parts in zip(*results)]

    def queries(self):
        """(bank, query head, lane, vector, factor) of all queries."""
        for bank, parts in ((self.bank, [part[1:3] for part in self.parts]), (self.bank ^ 1, self.rebased)):
            rows = [(q[t], qf[t]) for q, qf in parts for t in range(len(q))]
            yield from ((bank, h, lane, q[h], qf[h]) for h in range(self.group) for lane, (q, qf) in enumerate(rows))

    def record(self, part, position, port_bytes):
        _, _, _, k, ks, v, vs = part
        return pack_record(k[position], ks[position], v[position], vs[position], port_bytes, self.int4)


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
        self.n_done, self.n_busy, self.errors = 0, 0, []
        self.page_positions = self.sizes["page_positions"]
        self.pages = {}         # by slot and index; what is not there may not be written
        dut.page_answer.value = 0
        cocotb.start_soon(self._watch())
        cocotb.start_soon(self._answer())

    async def _watch(self):
        while True:
            await RisingEdge(self.dut.clk)
            self.n_done += int(self.dut.done.value)
            self.n_busy += int(self.dut.count_busy.value)
            error = unpack(ErrorReport, int(self.dut.error.value))
            if error["valid"]:
                self.errors.append((error["code"], error["index"]))

    async def _answer(self):
        """The page table: answers page_cycles after the question."""
        late = [0] * (self.sizes["page_cycles"] - 1)
        while True:
            await RisingEdge(self.dut.clk)
            ask = unpack(PageAsk, int(self.dut.page_ask.value))
            page = self.pages.get((ask["slot"], ask["index"]))
            late.append(pack(PageAnswer, {"page": page or 0, "ok": int(page is not None)}))
            self.dut.page_answer.value = late.pop(0)

    def launch(self, segments, numbers):
        """Say the lanes of a run and give every page that is written a number; lanes without a token hold anything."""
        lanes = [{"position": segment.first + t, "slot": segment.slot, "first": int(t == 0), "last": int(t == segment.n - 1)}
                 for segment in segments for t in range(segment.n)]
        n_tokens = len(lanes)
        lanes += [{"position": numbers.randrange(1 << 16), "slot": numbers.randrange(16), "first": numbers.randrange(2),
                   "last": numbers.randrange(2)} for _ in range(16 - n_tokens)]
        self.dut.launch.value = pack(Launch, {"n_tokens": n_tokens, "lanes": lanes})
        self.pages = {(lane["slot"], lane["position"] // self.page_positions): numbers.randrange(1 << 12)
                      for lane in lanes[:n_tokens]}

    def offset(self, place, segment, position, n_bytes):
        """Byte of the record of a position in the cache window."""
        size = self.page_positions
        row = (self.pages[segment.slot, position // size] * size + position % size) // self.n_ports
        return (place["offset"] + position % self.n_ports * place["port_stride"] + row * n_bytes) % (1 << 40)

    async def until(self, condition, what, limit=60_000):
        for _ in range(limit):
            if condition():
                return
            await RisingEdge(self.dut.clk)
        raise TimeoutError(f"{what} did not happen within {limit} cycles")

    async def send_rows(self, head):
        """Q, K and V of a head."""
        n_tokens = len(head.lanes)
        for bank, h, lane, q, qf in head.queries():
            await self.quant.send(row_words(QuantSink.Q, lane, h, bank, q, qf, self.lanes))
        for sink, which in ((QuantSink.K, 3), (QuantSink.V, 5)):
            for lane in range(n_tokens):
                part, t = head.lanes[lane]
                j = part[0].first + t
                await self.quant.send(row_words(sink, lane, 0, 0, part[which][j], part[which + 1][j], self.lanes))

    def place_of(self, head, numbers):
        """A RecordCommand for the head."""
        return {"offset": numbers.randrange(1 << 38), "port_stride": numbers.randrange(1 << 32), "int4": head.int4,
                "head_words": -(-head.head_dim // self.port_bytes), "index": numbers.randrange(1 << 16)}

    async def expect_record(self, head, place, lane):
        """The record of a lane must be the next that leaves."""
        part, t = head.lanes[lane]
        segment = part[0]
        data = beats(head.record(part, segment.first + t, self.port_bytes), self.port_bytes)
        got = await self.o_write.recv(len(data))
        assert [w["data"] for w in got] == data, f"record of lane {lane}"
        offset = self.offset(place, segment, segment.first + t, len(data) * self.port_bytes)
        assert (got[0]["offset"], got[0]["beats"], got[0]["index"]) == (offset, len(data), place["index"])
        assert [w["first"] for w in got] == [1] + [0] * (len(data) - 1)
        assert [w["last"] for w in got] == [0] * (len(data) - 1) + [1]

    async def run(self, heads, numbers, ahead):
        """Heads of one launch. ``ahead``: the ATTEND of a head waits until the rows of so many later heads are in. Rows of a head
        come when the banks that they go to are free."""
        head_words = -(-heads[0].head_dim // self.port_bytes)
        n_tokens = len(heads[0].lanes)
        self.launch(heads[0].segments, numbers)
        rows_in, began = [0], self.n_done
        places = [self.place_of(head, numbers) for head in heads]

        async def rows():
            for number, head in enumerate(heads):
                free = number if any(each.rebased for each in heads[max(number - 1, 0):number + 1]) else number - 1
                await self.until(lambda n=free: self.n_done - began >= n, "the bank's former ATTEND")
                await self.send_rows(head)
                rows_in[0] += 1

        async def commands():
            for number, head in enumerate(heads):
                await self.until(lambda n=number: rows_in[0] >= min(n + 1 + ahead, len(heads)), "the rows of the head")
                await self.command.send([{"group": head.group, "head_words": head_words, "bank": head.bank,
                                          "int4": head.int4, **head.sight}])

        async def past(port):
            for head in heads:
                for part in head.parts:
                    first = part[0].first
                    start_row, sink_rows = visited_rows(first, head.sight["window"], head.sight["sinks"], self.n_ports)
                    for row, j in enumerate(range(port, first, self.n_ports)):
                        if row < sink_rows or row >= start_row:
                            await self.past[port].send(beats(head.record(part, j, self.port_bytes), self.port_bytes))

        async def writes():
            for place, head in zip(places, heads):
                for lane in range(n_tokens):
                    await self.expect_record(head, place, lane)

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
                    assert got == want, f"head {number} ({head.segments}, {head.sight}, int4 {head.int4}), lane {t}, " \
                        f"query head {h}: {got} instead of {want}"
            assert self.n_done - began == number
            await self.until(lambda n=number: self.n_done - began == n + 1, "done", 4)
        for task in tasks:
            await task
        assert not self.errors
        assert self.watch.transfers == words * n_tokens * sum(head.group for head in heads) + self.watched
        self.watched = self.watch.transfers

    watched = 0


NO_LIMIT = {"window": 0, "sinks": 0, "bidirectional": 0, "rebased": 0, "cap": 0}


def random_segments(numbers, sizes):
    """One segment, one a lane, or any; positions from 0 to beyond several pages."""
    left, how = numbers.randint(1, sizes["token_lanes"]), numbers.randrange(3)
    lengths = []
    while left:
        lengths.append((left, 1, numbers.randint(1, left))[how])
        left -= lengths[-1]
    page = sizes["page_positions"]
    most = min(sizes["max_positions"], 60 if len(lengths) < 5 else 20)
    return [Segment(slot, numbers.choice((0, numbers.randint(0, 5), numbers.randint(0, most - n), max(page - n + 1, 0))), n)
            for slot, n in zip(numbers.sample(range(16), len(lengths)), lengths)]


def random_sight(numbers, sizes, segments):
    """What a head's tokens see: a window around every length that matters."""
    first, n = max(segment.first for segment in segments), max(segment.n for segment in segments)
    window = numbers.choice((0, 0, 1, 2, n, n + 1, sizes["page_positions"], first, first + 1, first + n + 3,
                             numbers.randint(1, first + n)))
    sinks = numbers.choice((0, 1, 4, sizes["n_ports"] + 1, numbers.randint(0, first + n)))
    cap = numbers.choice((0, 0, 1, numbers.randrange(1 << 20), 72 << 16, numbers.randrange(1 << 30)))
    return {"window": window, "sinks": sinks, "bidirectional": int(numbers.random() < 0.3), "rebased": numbers.randrange(2),
            "cap": cap}


def random_heads(numbers, sizes, kind):
    segments = random_segments(numbers, sizes)
    group = numbers.randint(1, sizes["max_queries"] // sizes["token_lanes"])
    head_words = numbers.randint(1, sizes["max_head_words"])
    short = numbers.choice((0, 0, sizes["vector_lanes"] if sizes["port_bytes"] > sizes["vector_lanes"] else 0))
    head_dim = numbers.choice(parameters()["head_dims"] or (head_words * sizes["port_bytes"] - short,))
    return [Head(numbers, kind, segments, group=group, head_dim=head_dim, bank=number % 2,
                 int4=numbers.choice([0, 0, 1, 2, 3]), **random_sight(numbers, sizes, segments))
            for number in range(numbers.randint(1, 4))]


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3])
async def matches_golden(dut, stall):
    numbers = rng()
    bench = Bench(dut, stall)
    await reset(dut)
    for number in range(parameters()["n_scenarios"]):
        kind = KINDS[number % len(KINDS)]
        heads = random_heads(numbers, bench.sizes, kind)
        await bench.run(heads, numbers, ahead=0 if any(head.rebased for head in heads) else numbers.randrange(2))


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3])
async def stops_at_a_page_of_another(dut, stall):
    """The records before it are written; then the error is said, once, and nothing more leaves."""
    numbers, bench = rng(), Bench(dut, stall)
    await reset(dut)
    sizes = bench.sizes
    n_tokens = sizes["token_lanes"]
    segments = [Segment(slot, numbers.randrange(20), 1) for slot in numbers.sample(range(16), n_tokens)]
    heads = [Head(numbers, "plain", segments, group=1, head_dim=sizes["port_bytes"], bank=n, int4=3 * n, **NO_LIMIT)
             for n in range(2)]
    bench.launch(segments, numbers)
    bad = numbers.randrange(n_tokens)
    del bench.pages[segments[bad].slot, segments[bad].first // bench.page_positions]
    place = bench.place_of(heads[0], numbers)
    sending = [cocotb.start_soon(task) for task in (bench.place.send([place]), bench.send_rows(heads[0]))]
    for lane in range(bad):
        await bench.expect_record(heads[0], place, lane)
    await sending[1]
    await bench.until(lambda: bench.errors, "the error", 200)
    bench.dut.o_write__ready.value = 1
    for _ in range(100):
        await cycles(dut, 1)
        assert not int(dut.o_write__valid.value), "a record was written after the error"
    assert bench.errors == [(Error.OWNER, place["index"])]


@cocotb.test()
@cocotb.parametrize(full=[False, True], int4=[0, 2, 3])
async def keeps_its_rate(dut, full, int4):
    """One query a lane: a slice takes a word in (nearly) every cycle, int4 or not. All queries: the passes set the pace.

    The merge sends half a word a cycle, or what the output takes. Flat scores, so that no sum needs a long shift.
    """
    numbers, bench = rng(), Bench(dut, 0.0)
    await reset(dut)
    sizes = bench.sizes
    heads_a_token = sizes["max_queries"] // sizes["token_lanes"]
    n_tokens, group = (sizes["token_lanes"], heads_a_token) if full else (1, min(sizes["query_lanes"], heads_a_token))
    n_records, head_words = 40, sizes["max_head_words"]
    n_words = record_beats(head_words, sizes["port_bytes"])
    n_beats = record_beats(head_words, sizes["port_bytes"], int4)
    head = Head(numbers, "flat", [Segment(3, n_records * sizes["n_ports"], n_tokens)], group=group,
                head_dim=head_words * sizes["port_bytes"], bank=0, int4=int4, **NO_LIMIT)
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
    record_cycles = max(n_words, max(head_words, sizes["query_lanes"]) * n_tokens * group // sizes["query_lanes"] + 1)
    limit = 1.03 * n_records * record_cycles + 4
    dut._log.info(f"{taken} beats took {cycles} cycles, at most {limit:.0f} expected")
    assert cycles <= limit, f"{taken} beats took {cycles} cycles, more than {limit:.0f}"
    query_cycles = max(sizes["n_ports"], 2 * head_words, head_words * sizes["port_bytes"] // sizes["vector_lanes"])
    limit = n_tokens * group * query_cycles + 4
    dut._log.info(f"{n_tokens * group} queries took {sent} cycles, at most {limit} expected")
    assert sent <= limit, f"{n_tokens * group} queries took {sent} cycles, more than {limit}"


@cocotb.test()
async def segments_cost_little(dut):
    """A lane each without a past: the cycles that a command takes more for one more segment."""
    numbers, bench = rng(), Bench(dut, 0.0)
    await reset(dut)
    sizes = bench.sizes
    busy = []
    for n_segments in (1, sizes["token_lanes"]):
        segments = [Segment(slot, 0, 1) for slot in range(n_segments)]
        head = Head(numbers, "plain", segments, group=1, head_dim=sizes["port_bytes"], bank=0, **NO_LIMIT)
        before = bench.n_busy
        await bench.run([head], numbers, ahead=0)
        await cycles(dut, 1)
        busy.append(bench.n_busy - before)
    cost = (busy[1] - busy[0]) / (sizes["token_lanes"] - 1)
    dut._log.info(f"a segment takes {cost:.1f} cycles of its own")
    assert cost <= 150, f"a segment takes {cost:.1f} cycles of its own"
