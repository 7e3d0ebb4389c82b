"""An accelerator without units for the benches of control: memory, host and units are played here.

The design is ``Control`` of tests/hw/test_ctrl.py.
"""

import random

import cocotb
from cocotb.triggers import RisingEdge

from celosia.hw import isa
from celosia.hw.isa import Add, Index, Mul1, Mul2, Mul3, Opcode, Reduce, Sink, Source, Tokens
from celosia.hw.links import AttendCommand, MatmulCommand, RecordCommand
from celosia.hw.mem.axi import LiteRead, LiteWrite
from celosia.hw.mem.links import LoadCommand, WriteWord
from celosia.hw.regs import Error, PageOp, offset
from celosia.sim_tb import link
from celosia.sim_tb.axi_ram import AxiRam
from celosia.sim_tb.descriptors import (
    MODEL,
    body,
    command,
    gathers,
    launch,
    past,
    raw,
    reads,
    record_beats,
    row_quantum,
)
from celosia.sim_tb.link import Monitor, parameters, reset, rng, start_clock

__all__ = ["Host", "Bench", "MODEL_BASE", "MODEL_BYTES", "CACHE_BASE", "CACHE_BYTES", "PROGRAM", "PORT_STRIDE", "effective"]

RAM_BYTES, BASE = 1 << 16, 0x10_2000_0000
MODEL_BASE, MODEL_BYTES = 0x1000, 0x8000            # offsets of the windows in memory, their sizes
CACHE_BASE, CACHE_BYTES = 0xA000, 0x3000
PROGRAM = 0x6000                                    # in the model window
PORT_STRIDE = 0x1800
MOST_POSITIONS, MOST_PAGES = 30, 20                  # of a random launch: their records lie within PORT_STRIDE
UNITS = {Opcode.LOAD: "load", Opcode.MATMUL: "matmul", Opcode.VECTOR: "vector", Opcode.ATTEND: "attend"}
COMMANDS = {"load": LoadCommand, "matmul": MatmulCommand, "vector": isa.Vector, "attend": AttendCommand}


def effective(descriptors, run):
    """[(index, bits), ...] of what a run issues: up to the END that ends it, without those that do not."""
    issued = []
    for index, bits in enumerate(descriptors):
        if bits & 0xFF != Opcode.END.value:
            issued.append((index, bits))
        elif not body(bits)["above"] or len(run["lanes"]) <= body(bits)["above"]:
            break
    return issued


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

    async def page(self, op, page=0, index=0, slot=0):
        """One command; waits until it is done. Returns whether something has been refused since the last reset."""
        await self.write("PAGE", page | index << 12 | slot << 24 | op << 28)
        while (status := await self.read("PAGE_STATUS")) & 1:
            pass
        return bool(status >> 1)


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
        self.commands = {unit: link.Sink(dut, f"o_{unit}", shape=shape, stall=stall)
                         for unit, shape in COMMANDS.items()}
        self.records = link.Sink(dut, "o_record", shape=RecordCommand, stall=stall)
        self.data = {dest: [link.Sink(dut, f"o_data_{dest}__{p}", stall=stall) for p in range(n_ports)]
                     for dest in ("loader", "matmul", "attend")}
        self.writes = link.Source(dut, "i_write", shape=WriteWord(port_bytes), stall=stall)
        self.hang = None                                    # a unit that takes commands and never ends one
        self.pages = {}                                     # (slot, index): page, as told to the accelerator
        self._tasks, self._strobes = [], 0
        for name in ("done", "topk_token", "topk_logit", "topk_count"):
            getattr(dut, name).value = 0
        dut.units_idle.value = 1

    async def begin(self):
        await reset(self.dut)
        cocotb.start_soon(self._strobe())
        for name, value in (("MODEL_BASE", BASE + MODEL_BASE), ("MODEL_SIZE", MODEL_BYTES),
                            ("CACHE_BASE", BASE + CACHE_BASE), ("CACHE_SIZE", CACHE_BYTES),
                            ("PROGRAM_OFFSET", PROGRAM)):
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
        await self.host.write("N_TOKENS", len(launch["lanes"]))
        for t, (slot, position) in enumerate(launch["lanes"]):
            await self.host.write(f"LANE{t}", slot << 16 | position)
        await self.map(launch["pages"])
        for t, token in enumerate(tokens):
            await self.host.write(f"TOKEN{t}", token)
        self.launch, self.taken, self.completed = launch, {unit: [] for unit in COMMANDS}, dict.fromkeys(COMMANDS, 0)
        self.got = {dest: [[] for _ in sinks] for dest, sinks in self.data.items()}
        self.records_taken, self._writing, self.record_data = [], 0, []
        self._tasks = [cocotb.start_soon(self._play(unit)) for unit in COMMANDS]
        self._tasks.append(cocotb.start_soon(self._play_records()))
        await self.host.write("CONTROL", 1)

    async def map(self, pages):
        """The tables as given, all pages owned by their slots."""
        for at in sorted(self.pages.keys() - pages.keys()):
            await self.host.page(PageOp.UNMAP, 0, at[1], at[0])
        for page in sorted({(page, slot) for (slot, _), page in self.pages.items()}
                           - {(page, slot) for (slot, _), page in pages.items()}):
            await self.host.page(PageOp.RELEASE, page[0])
        for (slot, index), page in pages.items():
            if (page, slot) not in {(page, slot) for (slot, _), page in self.pages.items()}:
                await self.host.page(PageOp.CLAIM, page, index, slot)
            if self.pages.get((slot, index)) != page:
                assert not await self.host.page(PageOp.MAP, page, index, slot)
        self.pages = dict(pages)

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
                rows = past(found, self.launch, size)
                wanted = [sum(port == p for port, _ in rows) * record_beats(found, size) for p in ports]
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
        issued = effective(descriptors, launch)
        body_ = [bits for _, bits in issued]
        for opcode, unit in UNITS.items():
            mine = [bits for bits in body_ if bits & 0xFF == opcode.value]
            want = [command(bits, launch) for bits in mine]
            assert [found for found, _ in self.taken[unit]] == want, f"{unit} commands"
            for bits, (_, completed) in zip(mine, self.taken[unit]):
                for k, other in enumerate(COMMANDS):
                    wait = bits >> 32 + 16 * k & 0xFFFF
                    assert completed[other] >= wait, f"{unit} began with {completed} and waits for {wait} of {other}"
            for bits, (_, completed) in zip(mine, self.taken[unit]):
                if bits in self.enders(body_):
                    assert sum(completed.values()) >= body_.index(bits), "the shortlist ended before all was complete"
            dest = "loader" if unit == "load" else unit
            if dest in self.got:
                for p, got in enumerate(self.got[dest]):
                    plans = [plan for bits in mine for plan in reads(bits, launch, list(tokens), self.size)[p]]
                    assert got == [beat for plan in plans for beat in self.beats(before, *plan)], \
                        f"{dest} data of port {p}"
        want = [{"offset": f["addr"], "port_stride": f["port_stride"], "index": index, "int4": f["int4"],
                 "head_words": f["n_words"] * self.size["vector_lanes"] // self.size["port_bytes"]}
                for index, bits in issued if bits & 0xFF == Opcode.VECTOR.value
                for f in (body(bits),) if f["sink"] == Sink.V.value]
        assert self.records_taken == want
        for start, beats in self.record_data:
            for k, beat in enumerate(beats):
                at = CACHE_BASE + start + k * self.size["port_bytes"]
                written = beat.to_bytes(self.size["port_bytes"], "little")
                before = before[:at] + written + before[at + len(written):]
        assert bytes(self.image) == before, "memory after the run"
        for p in range(self.size["n_ports"]):
            beats = sum(beats for bits in body_ for _, _, beats in reads(bits, launch, list(tokens), self.size)[p])
            assert await self.host.read(f"PORT{p}_BEATS") == beats
        assert await self.host.read("DESCRIPTORS") == len(body_)
        assert await self.host.read("WRITE_BEATS") == 2 * len(want)
        fetched = await self.host.read("FETCH_BEATS")
        whole = len(descriptors) * 64 // self.size["port_bytes"]
        early = any(bits & 0xFF == 0 and body(bits)["above"] >= len(launch["lanes"]) for bits in descriptors)
        assert fetched <= whole if early else fetched == whole
        assert await self.host.read("CYCLES") > len(body_)

    @staticmethod
    def enders(descriptors):
        """The descriptors that end a shortlist."""
        found, ended = [], False
        for bits in descriptors:
            if gathers(bits) and not ended:
                found.append(bits)
            ended = ended or gathers(bits)
            if bits & 0xFF == Opcode.VECTOR.value and body(bits)["sink"] == Sink.TOPK.value:
                ended = False
        return found

    def beats(self, memory, window, start, n):
        """What a read of ``n`` beats from byte ``start`` of a window gives."""
        start += MODEL_BASE if window == MODEL else CACHE_BASE
        size = self.size["port_bytes"]
        return [int.from_bytes(memory[start + k * size:start + (k + 1) * size], "little") for k in range(n)]

    def random_launch(self, numbers):
        """Lanes in segments, and pages for what they have and will have, in any order."""
        size, lanes = self.size, []
        n_tokens = numbers.choice([1, size["token_lanes"], numbers.randint(1, size["token_lanes"])])
        slots = numbers.sample(range(size["max_sequences"]), size["max_sequences"])
        while len(lanes) < n_tokens:
            n = n_tokens - len(lanes) if len(slots) == 1 else numbers.randint(1, n_tokens - len(lanes))
            first, slot = numbers.choice([0, 1, 2, 3, 17, numbers.randrange(MOST_POSITIONS)]), slots.pop()
            lanes += [(slot, first + t) for t in range(n)]
        free = numbers.sample(range(MOST_PAGES), MOST_PAGES)
        wanted = sorted({(slot, j // size["page_positions"]) for slot, position in lanes for j in range(position + 1)})
        return launch(lanes, {at: free.pop() for at in wanted})

    def random_program(self, numbers, n, *, n_tokens=1):
        """Legal descriptors with waits for earlier ones, small enough to read quickly, and END; with some END for fewer tokens."""
        size, issued, out = self.size, dict.fromkeys(COMMANDS, 0), []
        quantum = max(1, size["vector_lanes"] // size["engine_rows"])
        for _ in range(n):
            waits = tuple(max(0, count - numbers.choice([0, 0, 1, 2, 5])) if numbers.random() < 0.4 else 0
                          for count in issued.values())
            b, lane = size["port_bytes"], numbers.randrange(n_tokens)
            if n_tokens > 1 and numbers.random() < 0.1:
                out.append(raw(Opcode.END, above=numbers.randrange(1, n_tokens)))
            unit = numbers.choice(["load", "matmul", "vector", "vector", "vector", "attend"])
            if unit == "load":
                bits = raw(Opcode.LOAD, waits, addr=b * numbers.randrange(64), port_stride=PORT_STRIDE,
                           index_stride=b * numbers.choice([0, 1, 3, 16]), index=numbers.choice(list(Index)),
                           n_words=numbers.randint(1, 6), d_base=numbers.randrange(20), d_stride=numbers.randrange(20),
                           rank=numbers.randrange(size["top_k"]), lane=numbers.choice([0, size["token_lanes"] - 1, 15]),
                           limit=numbers.choice([0, 2, 18, numbers.randrange(60)]))
            elif unit == "matmul":
                gather = numbers.random() < 0.3
                bits = raw(Opcode.MATMUL, waits, addr=b * numbers.randrange(64), port_stride=PORT_STRIDE, gather=gather,
                           rank=numbers.randrange(size["top_k"]), lane=0 if gather else lane,
                           n_row_groups=quantum * (1 if gather else numbers.randint(1, 4)), n_col_blocks=numbers.randint(1, 3),
                           planes=numbers.choice([1, 1, 5]), bank=numbers.randrange(2),
                           tokens=numbers.choice(list(Tokens)))
            elif unit == "attend":
                bits = raw(Opcode.ATTEND, waits, addr=b * numbers.randrange(16), port_stride=PORT_STRIDE,
                           head_words=numbers.randint(1, 2), bank=numbers.randrange(2), int4=numbers.randrange(4),
                           bidirectional=numbers.randrange(2), cap=numbers.randrange(1 << 30),
                           sinks=numbers.choice([0, 1, 4, numbers.randrange(20)]),
                           window=numbers.choice([0, 0, 1, 2, size["page_positions"], numbers.randrange(30)]),
                           rebased=numbers.randrange(2),
                           group=numbers.randint(1, size["max_queries"] // size["token_lanes"]))
            else:
                sink = numbers.choice(list(Sink))
                words = numbers.randint(1, 2) * b // size["vector_lanes"]
                top = size["top_k"] * row_quantum(size) // size["vector_lanes"] - words if sink is Sink.RESCORE else 30
                bits = raw(Opcode.VECTOR, waits, addr=0x2000 + b * 2 * len(out), port_stride=PORT_STRIDE, n_words=words,
                           block_words=words, x_base=numbers.randrange(30), p_base=numbers.randrange(30),
                           d_base=numbers.randrange(top), source=numbers.choice(list(Source)),
                           mul1=numbers.choice(list(Mul1)), mul2=numbers.choice(list(Mul2)),
                           mul3=numbers.choice(list(Mul3)), add=numbers.choice(list(Add)),
                           reduce=numbers.choice(list(Reduce)), sink=sink, tokens=numbers.choice(list(Tokens)), lane=lane,
                           int4=numbers.randrange(4), imm0=numbers.getrandbits(32))
            issued[unit] += 1
            out.append(bits)
        if numbers.random() < 0.3:
            out.insert(numbers.randrange(len(out) + 1), raw(Opcode.END, above=numbers.randrange(n_tokens, 32)))
        return [*out, raw(Opcode.END)]

    async def recovered(self):
        """A program runs, as if nothing had happened."""
        numbers = rng("recovered")
        tokens = [numbers.randrange(40) for _ in range(self.size["token_lanes"])]
        run = self.random_launch(numbers)
        await self.runs(self.random_program(numbers, 8, n_tokens=len(run["lanes"])), run, tokens)
