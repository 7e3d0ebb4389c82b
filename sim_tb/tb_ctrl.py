"""Benches of control. The design is ``Control`` of tests/hw/test_ctrl.py: everything but the units, which are played here.

What must come out is computed from the descriptors by the functions at the top.
"""

import random

import cocotb
from amaranth.lib import data
from cocotb.triggers import RisingEdge

from celosia.hw import isa
from celosia.hw.isa import Add, Index, Mul1, Mul2, Mul3, Opcode, Reduce, Sink, Source, Tokens
from celosia.hw.links import AttendCommand, Launch, MatmulCommand, RecordCommand
from celosia.hw.mem.axi import LiteRead, LiteWrite
from celosia.hw.mem.links import LoadCommand, WriteWord
from celosia.hw.regs import COUNTERS, REGISTERS, TOPK_OFFSET, Error, offset
from celosia.sim_tb import link
from celosia.sim_tb.axi_ram import AxiRam
from celosia.sim_tb.link import Monitor, pack, parameters, reset, rng, start_clock, unpack

RAM_BYTES, BASE = 1 << 16, 0x10_2000_0000
MODEL_BASE, MODEL_BYTES = 0x1000, 0x8000
CACHE_BASE, CACHE_BYTES = 0xA000, 0x3000
PROGRAM = 0x6000                                    # in the model window
PORT_STRIDE = 0x1800
UNITS = {Opcode.LOAD: "load", Opcode.MATMUL: "matmul", Opcode.VECTOR: "vector", Opcode.ATTEND: "attend"}
COMMANDS = {"load": LoadCommand, "matmul": MatmulCommand, "vector": isa.Vector, "attend": AttendCommand}


# -- what a descriptor means ------------------------------------------------------------------------------------------

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
        if f["index"] > 2:
            return Error.OPCODE
        rows = 1 if f["index"] == Index.NONE.value else n
        bad = not f["n_words"] or beyond(f["d_base"], f["d_stride"], rows, f["n_words"], size["p_words"])
    elif opcode is Opcode.MATMUL:
        rows, columns = f["n_row_groups"] * size["engine_rows"], f["n_col_blocks"] * size["columns"]
        bad = (not rows or rows % lanes or not columns or columns > size["max_columns"] or not 1 <= f["planes"] <= 5
               or columns * 128 * (3**f["planes"] - 1) // 2 >= 1 << size["accumulator_bits"] - 1)
    elif opcode is Opcode.ATTEND:
        bad = not (1 <= f["group"] <= size["max_queries"] // size["token_lanes"]
                   and 1 <= f["head_words"] <= size["max_head_words"])
    else:
        if f["mul1"] > 4 or f["mul3"] > 4 or f["add"] > 2 or f["reduce"] > 2 or f["sink"] > 6:
            return Error.OPCODE
        words, sink = f["n_words"], Sink(f["sink"])
        uses_x = f["source"] == Source.X.value or f["mul3"] == Mul3.X.value or f["add"] == Add.X.value
        uses_p = (f["source"] == Source.P.value or f["mul1"] == Mul1.P.value or f["add"] == Add.ROPE.value
                  or f["mul2"] in (Mul2.P.value, Mul2.ROPE.value))
        bad = (not words or not f["block_words"]
               or uses_x and beyond(f["x_base"], f["x_stride"], n, words, size["x_words"])
               or uses_p and beyond(f["p_base"], f["p_stride"], n, words, size["p_words"])
               or sink is Sink.X and beyond(f["d_base"], f["d_stride"], n, words, size["x_words"])
               or sink is Sink.ACT and (f["d_base"] + words) * lanes > size["max_columns"])
        if sink in (Sink.Q, Sink.K, Sink.V):
            elements = words * lanes
            bad = bad or elements % size["port_bytes"] or elements // size["port_bytes"] > size["max_head_words"]
        if sink is Sink.Q:
            bad = bad or f["head"] >= size["max_queries"] // size["token_lanes"]
    return Error.SIZE if bad else Error.NONE


def record_beats(head_words, size):
    return 2 * head_words + max(1, 8 // size["port_bytes"])


def reads(bits, launch, tokens, size):
    """For every port, [(window base, offset, beats), ...] that a descriptor reads, in order."""
    opcode, f, ports = Opcode(bits & 0xFF), body(bits), range(size["n_ports"])
    if opcode is Opcode.LOAD:
        rows = {Index.NONE.value: [0], Index.TOKEN.value: tokens[:launch["n_tokens"]],
                Index.POSITION.value: [launch["first_position"] + t for t in range(launch["n_tokens"])]}[f["index"]]
        beats = f["n_words"] * 4 * size["vector_lanes"] // (size["n_ports"] * size["port_bytes"])
        return [[(MODEL_BASE, f["addr"] + p * f["port_stride"] + row * f["index_stride"], beats) for row in rows]
                for p in ports]
    if opcode is Opcode.MATMUL:
        beats = f["n_row_groups"] * f["n_col_blocks"] * f["planes"]
        return [[(MODEL_BASE, f["addr"] + p * f["port_stride"], beats)] for p in ports]
    if opcode is Opcode.ATTEND:
        past = [len(range(p, launch["first_position"], size["n_ports"])) for p in ports]
        return [[(CACHE_BASE, f["addr"] + p * f["port_stride"], past[p] * record_beats(f["head_words"], size))]
                for p in ports]
    return [[] for _ in ports]


def command(bits, launch):
    """What the unit is told."""
    opcode, f, n = Opcode(bits & 0xFF), body(bits), launch["n_tokens"]
    if opcode is Opcode.LOAD:
        return {"n_words": f["n_words"], "d_base": f["d_base"], "d_stride": f["d_stride"],
                "n_rows": 1 if f["index"] == Index.NONE.value else n}
    if opcode is Opcode.MATMUL:
        return {key: f[key] for key in ("n_row_groups", "n_col_blocks", "planes", "bank")} | {
            "n_lanes": 1 if f["tokens"] == Tokens.LAST.value else n}
    if opcode is Opcode.ATTEND:
        return {key: f[key] for key in ("group", "head_words", "bank")}
    return unpack(isa.Vector, bits >> 96)


# -- the accelerator without units ------------------------------------------------------------------------------------

class Host:
    """Registers over AXI4-Lite."""

    def __init__(self, dut, *, stall=0.0):
        self._aw, self._ar = link.Source(dut, "bus__aw", stall=stall), link.Source(dut, "bus__ar", stall=stall)
        self._w = link.Source(dut, "bus__w", shape=LiteWrite, stall=stall)
        self._b, self._r = link.Sink(dut, "bus__b", stall=stall), link.Sink(dut, "bus__r", shape=LiteRead, stall=stall)
        Monitor(dut, "bus__b")
        Monitor(dut, "bus__r")

    async def write(self, address, value, strb=0xF):
        address = offset(address) if isinstance(address, str) else address
        sending = [cocotb.start_soon(self._aw.send([address])),
                   cocotb.start_soon(self._w.send([{"data": value, "strb": strb}]))]
        assert await self._b.recv(1, timeout_cycles=200) == [0]
        for task in sending:
            await task

    async def write64(self, name, value):
        await self.write(offset(name), value & 0xFFFF_FFFF)
        await self.write(offset(name) + 4, value >> 32)

    async def read(self, address):
        address = offset(address) if isinstance(address, str) else address
        sending = cocotb.start_soon(self._ar.send([address]))
        answer, = await self._r.recv(1, timeout_cycles=200)
        await sending
        assert answer["resp"] == 0
        return answer["data"]

    async def status(self):
        word = await self.read("STATUS")
        return {name: word >> bit & 1 for bit, name in enumerate(("busy", "done", "error", "draining"))}


class Bench:
    def __init__(self, dut, *, latency_cycles=(1, 30), stall=0.2):
        self.dut, self.edge, self.size, self.stall = dut, RisingEdge(dut.clk), parameters(), stall
        start_clock(dut)
        self.host = Host(dut)
        n_ports, port_bytes = self.size["n_ports"], self.size["port_bytes"]
        options = {"size_bytes": RAM_BYTES, "base": BASE, "port_bytes": port_bytes, "latency_cycles": latency_cycles,
                   "stall": stall, "burst_beats": 16}
        self.rams = [AxiRam(dut, f"axi__{p}", **options) for p in range(n_ports)]
        self.ram_w = AxiRam(dut, "axi_w", read=False, write=True, **options)
        image = bytearray(rng("ram").randbytes(RAM_BYTES))
        for ram in (*self.rams, self.ram_w):
            ram.data = image                                # one memory
        self.image = image
        self.commands = {unit: link.Sink(dut, f"o_{unit}", shape=shape, stall=stall) for unit, shape in COMMANDS.items()}
        self.records = link.Sink(dut, "o_record", shape=RecordCommand, stall=stall)
        self.data = {dest: [link.Sink(dut, f"o_data_{dest}__{p}", stall=stall) for p in range(n_ports)]
                     for dest in ("loader", "matmul", "attend")}
        self.writes = link.Source(dut, "i_write", shape=WriteWord(port_bytes), stall=stall)
        self.hang = None                                    # a unit that takes commands and never ends one
        self._tasks, self._strobes = [], 0
        for name in ("done", "topk_token", "topk_logit", "topk_count"):
            getattr(dut, name).value = 0
        dut.units_idle.value = 1

    async def begin(self):
        await reset(self.dut)
        cocotb.start_soon(self._strobe())
        for name, value in (("MODEL_BASE", BASE + MODEL_BASE), ("MODEL_SIZE", MODEL_BYTES),
                            ("CACHE_BASE", BASE + CACHE_BASE), ("CACHE_SIZE", CACHE_BYTES), ("PROGRAM_OFFSET", PROGRAM)):
            await self.host.write64(name, value)
        await self.host.write("IRQ_ENABLE", 1)
        await self.host.write("WATCHDOG_CYCLES", 3000)

    async def _strobe(self):
        while True:
            await self.edge
            self.dut.done.value, self._strobes = self._strobes, 0

    async def start(self, descriptors, launch, tokens=(), *, count=None):
        """Write program and registers, start, and let the units play."""
        for k, bits in enumerate(descriptors):
            self.image[MODEL_BASE + PROGRAM + 64 * k:MODEL_BASE + PROGRAM + 64 * k + 64] = bits.to_bytes(64, "little")
        self.before = bytes(self.image)
        await self.host.write("PROGRAM_COUNT", len(descriptors) if count is None else count)
        await self.host.write("N_TOKENS", launch["n_tokens"])
        await self.host.write("FIRST_POSITION", launch["first_position"])
        for t, token in enumerate(tokens):
            await self.host.write(f"TOKEN{t}", token)
        self.launch, self.taken, self.completed = launch, {unit: [] for unit in COMMANDS}, dict.fromkeys(COMMANDS, 0)
        self.got = {dest: [[] for _ in sinks] for dest, sinks in self.data.items()}
        self.records_taken, self._writing, self.record_data = [], 0, []
        self._tasks = [cocotb.start_soon(self._play(unit)) for unit in COMMANDS]
        self._tasks.append(cocotb.start_soon(self._play_records()))
        await self.host.write("CONTROL", 1)

    def stop_units(self):
        """The units go back to where they were at power-up."""
        for task in self._tasks:
            task.cancel()
        self._tasks, self._strobes = [], 0
        for sink in (*self.commands.values(), self.records, *(s for sinks in self.data.values() for s in sinks)):
            sink._ready.value = 0
        self.dut.i_write__valid.value = 0
        self.dut.units_idle.value = 1

    async def _play(self, unit):
        numbers = random.Random(unit)
        size = self.size
        while True:
            found, = await self.commands[unit].recv(1, timeout_cycles=1_000_000)
            self.taken[unit].append((found, dict(self.completed)))
            if unit == self.hang:
                return
            ports = range(size["n_ports"])
            if unit == "load":
                beats = 4 * size["vector_lanes"] // (size["n_ports"] * size["port_bytes"])
                wanted = [found["n_words"] * found["n_rows"] * beats for _ in ports]
            elif unit == "matmul":
                wanted = [found["n_row_groups"] * found["n_col_blocks"] * found["planes"] for _ in ports]
            elif unit == "attend":
                wanted = [len(range(p, self.launch["first_position"], size["n_ports"]))
                          * record_beats(found["head_words"], size) for p in ports]
            else:
                wanted = None
            if wanted:
                dest = "loader" if unit == "load" else unit
                taking = [cocotb.start_soon(sink.recv(n, timeout_cycles=1_000_000))
                          for sink, n in zip(self.data[dest], wanted)]
                self._tasks += taking
                for got, task in zip(self.got[dest], taking):
                    got += await task
            for _ in range(numbers.choice([0, 0, 1, 3, 20])):
                await self.edge
            self.completed[unit] += 1
            self._strobes |= 1 << list(COMMANDS).index(unit)
            await self.edge

    async def _play_records(self):
        """For each record command, one record of two beats for memory, some time later."""
        numbers = random.Random("records")
        while True:
            found, = await self.records.recv(1, timeout_cycles=1_000_000)
            self.dut.units_idle.value = 0
            self.records_taken.append(found)
            for _ in range(numbers.randrange(60)):
                await self.edge
            beats = [numbers.getrandbits(8 * self.size["port_bytes"]) for _ in range(2)]
            self.record_data.append((found["offset"], beats))
            await self.writes.send([
                {"offset": found["offset"], "beats": 2, "index": found["index"], "data": beat, "first": int(k == 0),
                 "last": k} for k, beat in enumerate(beats)])
            self.dut.units_idle.value = 1

    async def end(self, limit_cycles=20_000):
        """Wait for the interrupt, which a start takes back within 8 cycles; the status then."""
        for _ in range(8):
            await self.edge
        for _ in range(limit_cycles):
            await self.edge
            if self.dut.irq.value:
                break
        else:
            raise TimeoutError(f"no interrupt within {limit_cycles} cycles; "
                               f"taken {[(u, len(c)) for u, c in self.taken.items()]}, completed {self.completed}")
        status = await self.host.status()
        assert not status["busy"]
        return status

    async def drained(self, limit_reads=400):
        for _ in range(limit_reads):
            if not (await self.host.status())["draining"]:
                return
        raise TimeoutError(f"still draining after {limit_reads} looks")

    async def fails(self, code, index, *, drain=True):
        """The run ends with this error, and the interrupt goes away with a reset."""
        status = await self.end()
        self.stop_units()
        assert status["error"] and not status["done"], f"{Error.NAMES[code]} expected, status is {status}"
        found = await self.host.read("ERROR_CODE"), await self.host.read("ERROR_INDEX")
        assert found == (code, index), f"{(Error.NAMES[code], index)} expected, not {found}"
        if drain:
            await self.drained()
            await self.host.write("CONTROL", 2)
            await self.drained()
            assert await self.host.read("STATUS") == 0 and await self.host.read("ERROR_CODE") == 0
            assert not self.dut.irq.value

    async def runs(self, descriptors, launch, tokens=(), *, count=None, limit_cycles=20_000):
        """The run is good and everything about it is as the functions above say."""
        await self.start(descriptors, launch, tokens, count=count)
        before = self.before
        status = await self.end(limit_cycles)
        code, index = await self.host.read("ERROR_CODE"), await self.host.read("ERROR_INDEX")
        self.stop_units()
        assert status == {"busy": 0, "done": 1, "error": 0, "draining": 0}, \
            f"{status}, {Error.NAMES.get(code)} at {index}"
        body_ = descriptors[:-1]
        for opcode, unit in UNITS.items():
            mine = [bits for bits in body_ if bits & 0xFF == opcode.value]
            assert [found for found, _ in self.taken[unit]] == [command(bits, launch) for bits in mine], f"{unit} commands"
            for bits, (_, completed) in zip(mine, self.taken[unit]):
                for k, other in enumerate(COMMANDS):
                    wait = bits >> 32 + 16 * k & 0xFFFF
                    assert completed[other] >= wait, f"{unit} began with {completed} and waits for {wait} of {other}"
            dest = "loader" if unit == "load" else unit
            if dest in self.got:
                for p, got in enumerate(self.got[dest]):
                    want = [int.from_bytes(before[base + start:][k * size:(k + 1) * size], "little")
                            for size in (self.size["port_bytes"],) for bits in mine
                            for base, start, beats in reads(bits, launch, list(tokens), self.size)[p]
                            for k in range(beats)]
                    assert got == want, f"{dest} data of port {p}"
        want = [{"offset": f["addr"], "port_stride": f["port_stride"], "index": index,
                 "head_words": f["n_words"] * self.size["vector_lanes"] // self.size["port_bytes"]}
                for index, bits in enumerate(body_) if bits & 0xFF == Opcode.VECTOR.value
                for f in (body(bits),) if f["sink"] == Sink.V.value]
        assert self.records_taken == want
        for start, beats in self.record_data:
            for k, beat in enumerate(beats):
                at = CACHE_BASE + start + k * self.size["port_bytes"]
                before = before[:at] + beat.to_bytes(self.size["port_bytes"], "little") + before[at + self.size["port_bytes"]:]
        assert bytes(self.image) == before, "memory after the run"
        for p in range(self.size["n_ports"]):
            beats = sum(beats for bits in body_ for _, _, beats in reads(bits, launch, list(tokens), self.size)[p])
            assert await self.host.read(f"PORT{p}_BEATS") == beats
        assert await self.host.read("DESCRIPTORS") == len(body_)
        assert await self.host.read("WRITE_BEATS") == 2 * len(want)
        assert await self.host.read("FETCH_BEATS") == len(descriptors) * 64 // self.size["port_bytes"]
        assert await self.host.read("CYCLES") > len(body_)

    def random_launch(self, numbers):
        n_tokens = numbers.choice([1, self.size["token_lanes"], numbers.randint(1, self.size["token_lanes"])])
        return {"n_tokens": n_tokens, "first_position": numbers.choice([0, 1, 2, 3, 17, numbers.randrange(25)])}

    def random_program(self, numbers, n):
        """Legal descriptors with waits for earlier ones, small enough to read quickly, and END."""
        size, issued, out = self.size, dict.fromkeys(COMMANDS, 0), []
        quantum = max(1, size["vector_lanes"] // size["engine_rows"])
        for _ in range(n):
            waits = tuple(max(0, count - numbers.choice([0, 0, 1, 2, 5])) if numbers.random() < 0.4 else 0
                          for count in issued.values())
            b = size["port_bytes"]
            unit = numbers.choice(["load", "matmul", "vector", "vector", "vector", "attend"])
            if unit == "load":
                bits = raw(Opcode.LOAD, waits, addr=b * numbers.randrange(64), port_stride=PORT_STRIDE,
                           index_stride=b * numbers.choice([0, 1, 3, 16]), index=numbers.choice(list(Index)),
                           n_words=numbers.randint(1, 6), d_base=numbers.randrange(20), d_stride=numbers.randrange(20))
            elif unit == "matmul":
                bits = raw(Opcode.MATMUL, waits, addr=b * numbers.randrange(64), port_stride=PORT_STRIDE,
                           n_row_groups=quantum * numbers.randint(1, 4), n_col_blocks=numbers.randint(1, 3),
                           planes=numbers.choice([1, 1, 5]), bank=numbers.randrange(2), tokens=numbers.choice(list(Tokens)))
            elif unit == "attend":
                bits = raw(Opcode.ATTEND, waits, addr=b * numbers.randrange(16), port_stride=PORT_STRIDE,
                           head_words=numbers.randint(1, 2), bank=numbers.randrange(2),
                           group=numbers.randint(1, size["max_queries"] // size["token_lanes"]))
            else:
                sink = numbers.choice(list(Sink))
                words = numbers.randint(1, 2) * b // size["vector_lanes"]
                bits = raw(Opcode.VECTOR, waits, addr=0x2000 + b * 2 * len(out), port_stride=PORT_STRIDE, n_words=words,
                           block_words=words, x_base=numbers.randrange(30), p_base=numbers.randrange(30),
                           d_base=numbers.randrange(30), source=numbers.choice(list(Source)),
                           mul1=numbers.choice(list(Mul1)), mul2=numbers.choice(list(Mul2)),
                           mul3=numbers.choice(list(Mul3)), add=numbers.choice(list(Add)),
                           reduce=numbers.choice(list(Reduce)), sink=sink, imm0=numbers.getrandbits(32))
            issued[unit] += 1
            out.append(bits)
        return [*out, raw(Opcode.END)]

    async def recovered(self):
        """A program runs, as if nothing had happened."""
        numbers = rng("recovered")
        tokens = [numbers.randrange(40) for _ in range(self.size["token_lanes"])]
        await self.runs(self.random_program(numbers, 8), self.random_launch(numbers), tokens)


LAUNCH = {"n_tokens": 1, "first_position": 0}
IDLE = raw(Opcode.VECTOR, n_words=1, block_words=1)


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def registers_keep_values(dut, stall):
    bench = Bench(dut)
    await reset(dut)
    host = bench.host = Host(dut, stall=stall)
    assert await host.read("ID") == int.from_bytes(b"CELO", "little")
    assert await host.read("VERSION") == 1 << 16 | isa.ISA_VERSION
    assert await host.read("CONFIG") == int(bench.size["digest"], 16)
    wide = {"MODEL_BASE", "MODEL_SIZE", "CACHE_BASE", "CACHE_SIZE", "PROGRAM_OFFSET"}
    places = [r.offset + 4 * high for r in REGISTERS if r.access == "rw" for high in range(2 if r.name in wide else 1)]
    values = {place: rng().getrandbits(32) for place in places}
    for place, value in values.items():
        await host.write(place, value)
    for place in rng().sample(places, 10):
        value, strb = rng().getrandbits(32), rng().randrange(16)
        await host.write(place, value, strb)
        for byte in range(4):
            if strb >> byte & 1:
                values[place] = values[place] & ~(0xFF << 8 * byte) | value & 0xFF << 8 * byte
    for place in ("ID", "STATUS", "ERROR_CODE", "TOPK_COUNT", "CYCLES"):
        before = await host.read(place)
        await host.write(place, ~before & 0xFFFF_FFFF)
        assert await host.read(place) == before
    for place, value in values.items():
        assert await host.read(place) == value, f"register at {place:#x}"
    known = {*values, *(r.offset for r in REGISTERS), *(c.offset + 4 * high for c in COUNTERS for high in range(2))}
    for place in range(0, 0x400, 4):
        if place not in known:
            await host.write(place, 0xFFFF_FFFF)
            assert await host.read(place) == 0
    assert await host.read("STATUS") == 0


@cocotb.test()
async def candidates_are_read(dut):
    """Token and logit of candidate i, from a unit that answers two cycles after the index."""
    bench = Bench(dut)
    await bench.begin()

    async def unit():
        late = [0, 0]
        while True:
            await bench.edge
            late = [late[1], int(dut.topk_index.value)]
            dut.topk_token.value, dut.topk_logit.value = 1000 + late[0], 0xC000_0000 + late[0]

    cocotb.start_soon(unit())
    dut.topk_count.value = 16
    assert await bench.host.read("TOPK_COUNT") == 16
    for i in (0, 15, 1, 7, 383):
        assert await bench.host.read(TOPK_OFFSET + 8 * i) == 1000 + i
        assert await bench.host.read(TOPK_OFFSET + 8 * i + 4) == 0xC000_0000 + i


@cocotb.test()
async def runs_programs(dut):
    """Random programs one after the other, the last one long; commands, data, records and counters are right."""
    bench = Bench(dut)
    await bench.begin()
    for n in (0, 1, 2, 15, 30, 30, 120):
        tokens = [rng().randrange(40) for _ in range(bench.size["token_lanes"])]
        await bench.runs(bench.random_program(rng(), n), bench.random_launch(rng()), tokens, limit_cycles=60_000)
        assert dut.irq.value
        await bench.host.write("CONTROL", 4)
        assert await bench.host.read("STATUS") == 0 and not dut.irq.value


@cocotb.test()
async def waits_are_kept(dut):
    """A chain through all units, each waiting for the one before; and registers hold still meanwhile."""
    bench = Bench(dut, stall=0.0)
    await bench.begin()
    program, done = [], [0, 0, 0, 0]
    kinds = [raw(Opcode.LOAD, n_words=1), raw(Opcode.MATMUL, n_row_groups=4, n_col_blocks=1, planes=1),
             IDLE, raw(Opcode.ATTEND, group=1, head_words=1)]
    for k in range(40):
        unit = rng().randrange(4)
        program.append(kinds[unit] | sum(count << 32 + 16 * i for i, count in enumerate(done)))
        done[unit] += 1
    await bench.start([*program, raw(Opcode.END)], {"n_tokens": 1, "first_position": 3})
    await bench.host.write("FIRST_POSITION", 77)
    await bench.host.write("SCRATCH", 77)
    order = []
    while not dut.irq.value:
        await bench.edge
        assert int(dut.launch.value) == pack(Launch, {"n_tokens": 1, "first_position": 3})
        total = sum(bench.completed.values())
        running = sum(map(len, bench.taken.values())) - total
        assert running <= 1, "two at a time"
        if total != len(order):
            order.append(total)
    assert await bench.host.read("FIRST_POSITION") == 3 and await bench.host.read("SCRATCH") == 77
    assert sum(bench.completed.values()) == 40
    bench.stop_units()


@cocotb.test()
async def launch_errors(dut):
    bench = Bench(dut)
    await bench.begin()
    lanes, positions = bench.size["token_lanes"], bench.size["max_positions"]
    for n_tokens, first_position in [(0, 0), (lanes + 1, 0), (0xFFFF_FFFF, 1), (1, positions), (lanes, positions - lanes + 1),
                                     (1, 0xFFFF_FFFF)]:
        await bench.start([IDLE, raw(Opcode.END)], {"n_tokens": n_tokens, "first_position": first_position})
        await bench.fails(Error.LAUNCH, 0)
    for count in (0, (1 << 16) + 1):
        await bench.start([raw(Opcode.END)], LAUNCH, count=count)
        await bench.fails(Error.FETCH, 0)
    await bench.runs([IDLE, raw(Opcode.END)], {"n_tokens": lanes, "first_position": positions - lanes})


@cocotb.test()
async def bad_descriptors(dut):
    """Every kind of bad descriptor stops the program there, by name; what comes after a reset is as new."""
    bench = Bench(dut)
    await bench.begin()
    good = raw(Opcode.MATMUL, n_row_groups=4, n_col_blocks=1, planes=1)
    for number, (bits, code) in enumerate([
        (raw(5), Error.OPCODE), (raw(255), Error.OPCODE),
        (raw(Opcode.LOAD, n_words=1, index=3), Error.OPCODE), (raw(Opcode.VECTOR, n_words=1, block_words=1, sink=7), Error.OPCODE),
        (raw(Opcode.LOAD, n_words=0), Error.SIZE), (raw(Opcode.MATMUL, n_row_groups=4, n_col_blocks=1, planes=6), Error.SIZE),
        (raw(Opcode.VECTOR, n_words=1, block_words=1, x_base=0xFFFF), Error.SIZE),
        (raw(Opcode.ATTEND, group=1, head_words=0), Error.SIZE),
    ]):
        assert judge(bits, LAUNCH, bench.size) == code
        await bench.start([*[good] * number, bits, good, raw(Opcode.END)], LAUNCH)
        await bench.fails(code, number)
        await bench.recovered()


@cocotb.test()
async def program_without_end(dut):
    bench = Bench(dut)
    await bench.begin()
    await bench.start([IDLE] * 5, LAUNCH)
    await bench.fails(Error.FETCH, 4)
    await bench.recovered()
    # More descriptors than there are: END stops it all the same.
    for count in (40, 0x10000):
        await bench.start([IDLE] * 5 + [raw(Opcode.END)], LAUNCH, count=count)
        assert (await bench.end())["done"]
        bench.stop_units()
        await bench.recovered()
    # Nor is what lies beyond END ever missed: here the window ends there.
    await bench.host.write64("MODEL_SIZE", PROGRAM + 64 * 9)
    for count in (9, 10, 40):
        await bench.runs([IDLE] * 8 + [raw(Opcode.END)], LAUNCH, count=count)
    await bench.start([IDLE] * 12 + [raw(Opcode.END)], LAUNCH)
    await bench.fails(Error.READ_WINDOW, 9)


@cocotb.test()
async def memory_errors(dut):
    """Windows and error answers, by name and with the right index."""
    bench = Bench(dut)
    await bench.begin()
    b, end = bench.size["port_bytes"], raw(Opcode.END)
    past = {"n_tokens": 1, "first_position": 40}
    load = {"n_words": 1, "port_stride": PORT_STRIDE}
    outside = [
        (raw(Opcode.LOAD, addr=MODEL_BYTES, **load), LAUNCH, ()),
        (raw(Opcode.LOAD, index=Index.TOKEN, index_stride=b, **load), LAUNCH, (0xFFFF_FFFF,)),
        (raw(Opcode.LOAD, index=Index.TOKEN, index_stride=1 << 31, **load), LAUNCH, (1 << 31,)),
        (raw(Opcode.LOAD, index=Index.POSITION, index_stride=MODEL_BYTES // 2, **load), past, ()),
        (raw(Opcode.MATMUL, addr=MODEL_BYTES - 4 * b, n_row_groups=4, n_col_blocks=2, planes=1), LAUNCH, ()),
        (raw(Opcode.ATTEND, addr=CACHE_BYTES - 3 * b, group=1, head_words=1), past, ()),
    ]
    for number, (bits, launch, tokens) in enumerate(outside):
        await bench.start([*[IDLE] * number, bits, end], launch, tokens)
        await bench.fails(Error.READ_WINDOW, number)
    await bench.recovered()

    record = raw(Opcode.VECTOR, n_words=2 * b // bench.size["vector_lanes"], block_words=1, sink=Sink.V)
    at = 96 + data.Layout.cast(isa.Vector)["addr"].offset
    await bench.start([IDLE, IDLE, record | CACHE_BYTES - b << at, end], LAUNCH)
    await bench.fails(Error.WRITE_WINDOW, 2)
    await bench.recovered()

    for resp in (2, 3):
        for ram in (*bench.rams, bench.ram_w):
            ram.faults[:] = [(MODEL_BASE + 0x800, MODEL_BASE + 0x801, resp), (CACHE_BASE + 0x100, CACHE_BASE + 0x101, resp),
                             (MODEL_BASE + PROGRAM + 64 * 7, MODEL_BASE + PROGRAM + 64 * 7 + 1, resp)]
        bad = raw(Opcode.MATMUL, addr=0x800 - 8 * b, n_row_groups=4, n_col_blocks=10, planes=1)
        await bench.start([IDLE, bad, bad, end], LAUNCH)
        await bench.fails(Error.AXI_READ, 1)
        await bench.start([IDLE, IDLE, record | 0x100 << at, end], LAUNCH)
        await bench.fails(Error.AXI_WRITE, 2)
        await bench.start([IDLE] * 20 + [end], LAUNCH)
        await bench.fails(Error.AXI_READ, 7)
    for ram in (*bench.rams, bench.ram_w):
        ram.faults.clear()
    await bench.recovered()


@cocotb.test()
async def silent_memory(dut):
    """Memory that stops answering: the watchdog names the descriptor, the status stays draining until the late answers."""
    bench = Bench(dut)
    await bench.begin()
    await bench.host.write("WATCHDOG_CYCLES", 300)
    big = raw(Opcode.MATMUL, n_row_groups=4 * 20, n_col_blocks=3, planes=1)
    await bench.start([IDLE, big, big, raw(Opcode.END)], LAUNCH)
    while len(bench.taken["matmul"]) < 1:
        await bench.edge
    bench.rams[-1].silent = True
    await bench.fails(Error.WATCHDOG, 1, drain=False)
    for _ in range(300):
        await bench.edge
    assert await bench.host.status() == {"busy": 0, "done": 0, "error": 1, "draining": 1}
    await bench.host.write("CONTROL", 1)                    # a start is not heard
    assert await bench.host.status() == {"busy": 0, "done": 0, "error": 1, "draining": 1}
    await bench.host.write("CONTROL", 2)
    assert await bench.host.status() == {"busy": 0, "done": 0, "error": 0, "draining": 1}
    bench.rams[-1].silent = False
    await bench.drained()
    await bench.recovered()

    # From the very first request, and the writer's answers.
    bench.rams[0].silent = True
    await bench.start([IDLE, raw(Opcode.END)], LAUNCH)
    await bench.fails(Error.WATCHDOG, 0, drain=False)
    bench.rams[0].silent = False
    await bench.drained()
    bench.ram_w.silent = True
    record = raw(Opcode.VECTOR, n_words=bench.size["port_bytes"] // bench.size["vector_lanes"], block_words=1, sink=Sink.V)
    await bench.start([record, raw(Opcode.END)], LAUNCH)
    await bench.fails(Error.WATCHDOG, 1, drain=False)
    assert (await bench.host.status())["draining"]
    bench.ram_w.silent = False
    await bench.drained()
    await bench.recovered()


@cocotb.test()
async def unit_that_hangs(dut):
    """The watchdog names the oldest descriptor that is not finished; 0 cycles mean never."""
    bench = Bench(dut)
    await bench.begin()
    for unit, index in ("vector", 0), ("attend", 2), ("load", 1):
        bench.hang = unit
        await bench.host.write("WATCHDOG_CYCLES", 300)
        await bench.start([IDLE, raw(Opcode.LOAD, n_words=1), raw(Opcode.ATTEND, group=1, head_words=1), IDLE, IDLE,
                           raw(Opcode.END)], LAUNCH)
        await bench.fails(Error.WATCHDOG, index)
        bench.hang = None
        await bench.recovered()
    bench.hang = "vector"
    await bench.host.write("WATCHDOG_CYCLES", 0)
    await bench.start([IDLE, raw(Opcode.END)], LAUNCH)
    for _ in range(2000):
        await bench.edge
    assert await bench.host.status() == {"busy": 1, "done": 0, "error": 0, "draining": 0}
    await bench.host.write("CONTROL", 2)
    bench.stop_units()
    await bench.drained()
    bench.hang = None
    await bench.recovered()


@cocotb.test()
async def reset_in_a_run(dut):
    """A reset at any time, also twice and together with a start; the next program runs."""
    bench = Bench(dut, stall=0.3)
    await bench.begin()
    for trial in range(12):
        tokens = [rng().randrange(40) for _ in range(bench.size["token_lanes"])]
        await bench.start(bench.random_program(rng(), 40), bench.random_launch(rng()), tokens)
        for _ in range(rng().choice([0, 1, 2, 5, rng().randrange(1500)])):
            await bench.edge
        await bench.host.write("CONTROL", 3 if trial % 3 == 0 else 2)
        bench.stop_units()
        if trial % 3 == 1:
            await bench.host.write("CONTROL", 2)
        await bench.drained()
        assert await bench.host.read("STATUS") == 0
        await bench.recovered()


# -- DescriptorCheck alone --------------------------------------------------------------------------------------------

def around(numbers, *limits):
    """A 16-bit number, often at a limit or beside it."""
    value = numbers.choice([*limits, *limits, 0, 1, 0xFFFF, numbers.getrandbits(16)]) + numbers.choice([-1, 0, 0, 0, 1])
    return max(0, min(0xFFFF, value))


def near(numbers, size, launch):
    """A random descriptor whose sizes lie around their limits."""
    lanes, beat_words = size["vector_lanes"], size["port_bytes"] // size["vector_lanes"]
    heads = size["max_queries"] // size["token_lanes"]
    opcode = numbers.choice([1, 2, 3, 3, 3, 4, numbers.randrange(256)])

    def place(limit):
        """(base, stride, words) that often just fits."""
        words = numbers.randint(1, 40)
        stride = numbers.choice([0, words, numbers.randrange(limit // size["token_lanes"])])
        base = limit - words - stride * (launch["n_tokens"] - numbers.choice([1, 1, 0])) + numbers.choice([-1, 0, 0, 1])
        return max(0, base), stride, words

    if opcode == 1:
        base, stride, words = place(size["p_words"])
        return raw(1, d_base=base, d_stride=stride, n_words=numbers.choice([words, words, 0]), index=numbers.randrange(4))
    if opcode == 2:
        planes = numbers.randrange(8)
        most = ((1 << size["accumulator_bits"] - 1) - 1) // (64 * (3**max(1, planes) - 1)) // size["columns"]
        return raw(2, n_row_groups=around(numbers, 4, 8), planes=planes,
                   n_col_blocks=around(numbers, size["max_columns"] // size["columns"], most))
    if opcode == 4:
        return raw(4, group=min(63, around(numbers, heads)), head_words=min(63, around(numbers, size["max_head_words"])))
    if opcode != 3:
        return raw(opcode)
    fields = {name: numbers.randrange(limit) for name, limit in (
        ("source", 4), ("mul1", 6), ("mul2", 4), ("mul3", 6), ("add", 4), ("reduce", 4), ("sink", 8))}
    if numbers.random() < 0.7:
        fields |= {"mul1": fields["mul1"] % 5, "mul3": fields["mul3"] % 5, "add": fields["add"] % 3,
                   "reduce": fields["reduce"] % 3, "sink": fields["sink"] % 7}
    target = numbers.choice("xpdah")
    words = numbers.choice([1, beat_words, 3 * beat_words, around(numbers, beat_words * size["max_head_words"])])
    ranges = {}
    if target in "xpd":
        base, stride, words = place(size["p_words"] if target == "p" else size["x_words"])
        ranges = {f"{target}_base": base, f"{target}_stride": stride}
    elif target == "a":
        words = numbers.randint(1, 20)
        ranges = {"d_base": max(0, size["max_columns"] // lanes - words + numbers.choice([-1, 0, 1]))}
    return raw(3, n_words=words, block_words=numbers.choice([words, words, words, 0]), **ranges, **fields,
               head=min(63, around(numbers, heads)))


@cocotb.test()
async def judges_as_written(dut):
    """Random descriptors around every limit, against ``judge``."""
    start_clock(dut)
    edge, size, numbers, seen = RisingEdge(dut.clk), parameters(), rng(), {}
    for number in range(8000):
        launch = {"n_tokens": numbers.randint(1, size["token_lanes"]), "first_position": 0}
        bits = near(numbers, size, launch)
        dut.bits.value, dut.launch.value = bits, pack(Launch, launch)
        for _ in range(5):
            await edge
        want, found = judge(bits, launch, size), int(dut.code.value)
        assert found == want, f"trial {number}: {found}, not {want}, for {bits & 0xFF} {launch} " + (
            str(body(bits)) if 1 <= bits & 0xFF <= 4 else "")
        key = bits & 0xFF if bits & 0xFF < 5 else 5, want
        seen[key] = seen.get(key, 0) + 1
    dut._log.info("judged: %s", seen)
    for opcode in (1, 2, 3, 4):
        assert seen.get((opcode, Error.NONE), 0) > 50 and seen.get((opcode, Error.SIZE), 0) > 50, seen
