"""Benches of memory access. The designs are ``Port0`` and ``LoadPath`` of tests/hw/test_mem.py.

What must come out is computed from the memory's bytes by the functions at the top.
"""

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly, RisingEdge

from celosia.hw import isa
from celosia.hw.links import Dest, ParamWrite, ReadJob
from celosia.hw.mem.fetch import used_bits
from celosia.hw.mem.links import ErrorReport, Fetched, LoadCommand, Windows, WriteWord
from celosia.hw.regs import Error
from celosia.sim_tb.axi_ram import AxiRam
from celosia.sim_tb.link import Monitor, Sink, Source, pack, parameters, reset, rng, start_clock, unpack

RAM_BYTES = 1 << 16
BASE = 0x8_1234_0000
MODEL_BASE, MODEL_BYTES = 0x1000, 0x8000          # offsets of the windows in the memory, their sizes
CACHE_BASE, CACHE_BYTES = 0xA000, 0x3800
OUTPUTS = {Dest.LOADER: "o_loader", Dest.MATMUL: "o_matmul", Dest.ATTEND: "o_attend"}


def read(memory, job, port_bytes):
    """Beats of a read job, as integers."""
    start = (CACHE_BASE if job["cache"] else MODEL_BASE) + job["offset"]
    return [int.from_bytes(memory[a:a + port_bytes], "little")
            for a in range(start, start + job["beats"] * port_bytes, port_bytes)]


def written(memory, records, port_bytes):
    """Memory after the records [(offset, data of the beats), ...] in the cache window."""
    memory = bytearray(memory)
    for offset, beats in records:
        start = CACHE_BASE + offset
        memory[start:start + len(beats) * port_bytes] = b"".join(b.to_bytes(port_bytes, "little") for b in beats)
    return memory


def loaded(command, ports, lanes, port_bytes):
    """P words of a LOAD from the beats of each port."""
    beat = b"".join(b"".join(port[k].to_bytes(port_bytes, "little") for port in ports) for k in range(len(ports[0])))
    words = [[int.from_bytes(beat[i + 4 * e:i + 4 * e + 4], "little") for e in range(lanes)]
             for i in range(0, len(beat), 4 * lanes)]
    addrs = [(command["d_base"] + r * command["d_stride"] + i) & 0xFFFF
             for r in range(command["n_rows"]) for i in range(command["n_words"])]
    return [{"addr": a, "data": w} for a, w in zip(addrs, words)]


class Bench:
    """A Port0 with memory at both sides, its errors collected."""

    def __init__(self, dut, *, latency_cycles=(1, 1), stall=0.0, monitors=True):
        self.dut, self.edge = dut, RisingEdge(dut.clk)
        self.port_bytes, self.burst_beats = parameters()["port_bytes"], parameters()["burst_beats"]
        start_clock(dut)
        sizes = {"size_bytes": RAM_BYTES, "port_bytes": self.port_bytes, "base": BASE,
                 "latency_cycles": latency_cycles, "stall": stall}
        self.ram = AxiRam(dut, "axi", burst_beats=16, **sizes)
        self.ram_w = AxiRam(dut, "axi_w", burst_beats=16, read=False, write=True, **sizes)
        self.ram.data[:] = rng("ram").randbytes(RAM_BYTES)
        self.ram_w.data[:] = self.ram.data
        self.jobs = Source(dut, "i_job", shape=ReadJob, stall=stall)
        self.records = Source(dut, "i_write", shape=WriteWord(self.port_bytes), stall=stall)
        self.sinks = {dest: Sink(dut, name, stall=stall) for dest, name in OUTPUTS.items()}
        self.fetched = Sink(dut, "o_fetched", shape=Fetched, stall=stall)
        if monitors:
            for prefix in (*OUTPUTS.values(), "o_fetched", "axi__ar", "axi_w__aw", "axi_w__w"):
                Monitor(dut, prefix)
        self.errors = {"reader": [], "fetch": [], "writer": []}
        self.counts = dict.fromkeys(("count_beat", "count_full", "count_idle", "fetch_beat", "write_beat"), 0)
        dut.flush.value = 0
        dut.hold.value = 0
        dut.start.value = 0
        dut.windows.value = pack(Windows, {"model_base": BASE + MODEL_BASE, "model_size": MODEL_BYTES,
                                           "cache_base": BASE + CACHE_BASE, "cache_size": CACHE_BYTES})

    async def begin(self):
        await reset(self.dut)
        cocotb.start_soon(self._watch())

    async def _watch(self):
        while True:
            await self.edge
            for unit, found in self.errors.items():
                error = unpack(ErrorReport, int(getattr(self.dut, f"{unit}_error").value))
                if error["valid"]:
                    found.append((error["code"], error["index"]))
            for name in self.counts:
                self.counts[name] += int(getattr(self.dut, name).value)

    async def wait(self, condition, limit_cycles=5000):
        for _ in range(limit_cycles):
            await self.edge
            if condition():
                return
        raise TimeoutError(f"{condition} did not come within {limit_cycles} cycles")

    async def fetch(self, offset, count):
        self.dut.program_offset.value, self.dut.program_count.value = offset, count
        self.dut.start.value = 1
        await self.edge
        self.dut.start.value = 0

    async def flush(self, unit, *, limit_cycles=5000):
        """Hold flush until the unit is idle."""
        idle = getattr(self.dut, f"{unit}_idle")
        self.dut.flush.value = 1
        for _ in range(4):
            await self.edge
        for _ in range(limit_cycles):
            if idle.value:
                break
            await self.edge
        else:
            raise TimeoutError(f"{unit} is not idle after {limit_cycles} cycles")
        self.dut.flush.value = 0
        await self.edge

    def job(self, numbers, *, beats=None, index=0, dest=None):
        """A random read job inside its window, often touching its ends."""
        cache = numbers.randrange(2)
        room = (CACHE_BYTES if cache else MODEL_BYTES) // self.port_bytes
        if beats is None:
            beats = numbers.choice([0, 1, 1, 2, 3, 15, 16, 17, 33, numbers.randrange(90)])
        beats = min(room, beats)
        offset = numbers.choice([0, room - beats, numbers.randrange(room - beats + 1)]) * self.port_bytes
        return {"offset": offset, "cache": cache, "beats": beats, "index": index,
                "dest": numbers.choice(list(OUTPUTS)) if dest is None else dest}

    def expected(self, jobs):
        return {dest: [beat for job in jobs if job["dest"] == dest
                       for beat in read(self.ram.data, job, self.port_bytes)] for dest in OUTPUTS}

    async def check(self, jobs):
        """Send jobs, take all data, compare."""
        sending = cocotb.start_soon(self.jobs.send(jobs))
        want = self.expected(jobs)
        taking = {dest: cocotb.start_soon(self.sinks[dest].recv(len(want[dest]))) for dest in OUTPUTS}
        for dest in OUTPUTS:
            assert await taking[dest] == want[dest], f"{OUTPUTS[dest]}: wrong data"
        await sending


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4], latency=[1, 60])
async def reads_in_order(dut, stall, latency):
    bench = Bench(dut, latency_cycles=(1, latency), stall=stall)
    await bench.begin()
    jobs = [bench.job(rng()) for _ in range(60)]
    jobs += [bench.job(rng(), beats=0) for _ in range(20)] + [bench.job(rng(), beats=2)]
    await bench.check(jobs)
    assert bench.errors["reader"] == []
    assert all(beats <= bench.burst_beats for _, beats, _ in bench.ram.reads)
    assert bench.counts["count_beat"] == sum(job["beats"] for job in jobs)
    await bench.wait(lambda: dut.reader_idle.value, 10)


@cocotb.test()
async def long_job_at_full_rate(dut):
    """Latency 40: at least 0.97 beats a cycle from the first to the last, if 64 beats may be in flight."""
    bench = Bench(dut, latency_cycles=(40, 40), monitors=False)
    in_flight = parameters()["read_outstanding"] * parameters()["burst_beats"]
    await bench.begin()
    n_beats = MODEL_BYTES // bench.port_bytes
    job = {"offset": 0, "cache": 0, "beats": n_beats, "dest": Dest.MATMUL, "index": 0}
    cocotb.start_soon(bench.jobs.send([job]))
    data = await bench.sinks[Dest.MATMUL].recv(1)
    began = cocotb.simtime.get_sim_time("ns")
    data += await bench.sinks[Dest.MATMUL].recv(n_beats - 1)
    cycles = (cocotb.simtime.get_sim_time("ns") - began) / 4
    assert data == read(bench.ram.data, job, bench.port_bytes)
    rate = (n_beats - 1) / cycles
    dut._log.info("%d beats, %.3f a cycle", n_beats, rate)
    assert rate >= 0.97 * min(1, in_flight / 64, parameters()["queue_beats"] / 64), f"{rate:.3f} beats a cycle"


@cocotb.test()
async def room_is_never_exceeded(dut):
    """With nobody taking data, the reader asks for what its queue holds and no more."""
    bench = Bench(dut, latency_cycles=(1, 30))
    await bench.begin()
    queue_beats = parameters()["queue_beats"]
    job = {"offset": 0, "cache": 0, "beats": queue_beats + 200, "dest": Dest.LOADER, "index": 0}
    await bench.jobs.send([job])
    await bench.wait(lambda: sum(beats for _, beats, _ in bench.ram.reads) == queue_beats)
    for _ in range(200):
        await bench.edge
    assert sum(beats for _, beats, _ in bench.ram.reads) == queue_beats and dut.reader_idle.value
    assert bench.counts["count_full"] > 150
    assert await bench.sinks[Dest.LOADER].recv(job["beats"]) == read(bench.ram.data, job, bench.port_bytes)


@cocotb.test()
async def asks_for_nothing_while_held(dut):
    """Held again and again: no request begins while the port is held, and nothing is lost."""
    bench = Bench(dut, latency_cycles=(3, 9), stall=0.2)
    await bench.begin()
    numbers, began = rng("held"), []
    job = {"offset": 0, "cache": 0, "beats": 500, "dest": Dest.MATMUL, "index": 0}

    async def hold():
        while True:
            dut.hold.value = numbers.randrange(2)
            for _ in range(numbers.choice([1, 2, 5, 40])):
                before, held = int(dut.axi__ar__valid.value), int(dut.hold.value)
                await bench.edge
                await ReadOnly()
                if held and not before and int(dut.axi__ar__valid.value):
                    began.append(cocotb.simtime.get_sim_time("ns"))
                await FallingEdge(dut.clk)

    holding = cocotb.start_soon(hold())
    cocotb.start_soon(bench.jobs.send([job]))
    data = await bench.sinks[Dest.MATMUL].recv(500, timeout_cycles=20_000)
    holding.cancel()
    assert data == read(bench.ram.data, job, bench.port_bytes)
    assert not began, f"requests began while the port was held, at {began[:5]} ns"


@cocotb.test()
async def read_windows(dut):
    """Whatever leaves its window is not asked for, the job's descriptor is named; after a flush the next job runs."""
    bench = Bench(dut, latency_cycles=(1, 20), monitors=False)
    Monitor(dut, "axi__ar")
    await bench.begin()
    b = bench.port_bytes
    bad = [
        {"cache": 0, "offset": MODEL_BYTES, "beats": 1},
        {"cache": 0, "offset": MODEL_BYTES - b, "beats": 2},
        {"cache": 1, "offset": CACHE_BYTES - 20 * b, "beats": 21},
        {"cache": 1, "offset": 0, "beats": 0xFFFF_FFFF},
        {"cache": 0, "offset": 0xFF_FFFF_FFFF & -b, "beats": 1},            # base + offset leaves the address space
        {"cache": 0, "offset": (1 << 40) - BASE - MODEL_BASE, "beats": 1},  # wraps to address 0
        {"cache": 1, "offset": 1, "beats": 1},
    ]
    for number, wrong in enumerate(bad):
        bench.errors["reader"].clear()
        bench.ram.reads.clear()
        job = {**wrong, "dest": Dest.LOADER, "index": 1000 + number}
        good = bench.job(rng(), beats=5, index=7, dest=Dest.ATTEND)
        taking = cocotb.start_soon(bench.sinks[Dest.LOADER].recv(1, timeout_cycles=20_000)) if number == 3 else None
        cocotb.start_soon(bench.jobs.send([good, job, good]))
        assert await bench.sinks[Dest.ATTEND].recv(5) == read(bench.ram.data, good, b)
        if number == 3:
            taking.cancel()
            dut.o_loader__ready.value = 1
        await bench.wait(lambda: bench.errors["reader"])
        for _ in range(50):
            await bench.edge
        assert set(bench.errors["reader"]) == {(Error.READ_WINDOW, 1000 + number)}
        window = (CACHE_BASE, CACHE_BYTES) if job["cache"] else (MODEL_BASE, MODEL_BYTES)
        for offset, beats, _ in bench.ram.reads[-1:] if number == 3 else []:
            assert window[0] <= offset and offset + beats * b == window[0] + window[1]
        dut.o_loader__ready.value = 0
        await bench.flush("reader")
        await bench.check([bench.job(rng(), beats=9)])


@cocotb.test()
@cocotb.parametrize(resp=[2, 3])
async def read_error(dut, resp):
    bench = Bench(dut, latency_cycles=(1, 20), stall=0.2)
    await bench.begin()
    b = bench.port_bytes
    bench.ram.faults.append((MODEL_BASE + 64 * b, MODEL_BASE + 65 * b, resp))
    jobs = [{"cache": 0, "offset": 32 * k * b, "beats": 32, "dest": Dest.MATMUL, "index": 40 + k} for k in range(4)]
    cocotb.start_soon(bench.jobs.send(jobs))
    await bench.sinks[Dest.MATMUL].recv(128)
    assert bench.errors["reader"] == [(Error.AXI_READ, 42)]


@cocotb.test()
async def flush_of_a_reader(dut):
    """A flush in the middle of anything: what was asked for is awaited and dropped, then jobs run as if new."""
    bench = Bench(dut, latency_cycles=(1, 50), stall=0.3, monitors=False)
    Monitor(dut, "axi__ar")
    await bench.begin()
    for trial in range(12):
        bench.ram.silent = trial % 3 == 2
        sending = cocotb.start_soon(bench.jobs.send([bench.job(rng()) for _ in range(15)]))
        for _ in range(rng().randrange(20, 150)):
            await bench.edge
        sending.cancel()
        dut.i_job__valid.value = 0
        if bench.ram.silent:
            dut.flush.value = 1
            for _ in range(300):
                await bench.edge
            assert not dut.reader_idle.value or not bench.ram.n_waiting
            bench.ram.silent = False
        await bench.flush("reader")
        assert not bench.ram.n_waiting
        for name in OUTPUTS.values():
            assert not getattr(dut, f"{name}__valid").value
        await bench.check([bench.job(rng()) for _ in range(3)])
    assert bench.errors["reader"] == []


def program(data, offset, count):
    start = MODEL_BASE + offset
    used = (1 << used_bits(isa)) - 1
    return [{"bits": int.from_bytes(data[start + 64 * k:start + 64 * k + 64], "little") & used, "index": k,
             "last": int(k == count - 1)} for k in range(count)]


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def fetches_a_program(dut, stall):
    """Descriptors and weights share the port; neither sees the other's data. Offsets off the 64-byte grid work too."""
    bench = Bench(dut, latency_cycles=(1, 40), stall=stall)
    await bench.begin()
    for offset, count in (0, 1), (64 * 5, 30), (MODEL_BYTES - 64 * 9, 9), (48, 7):
        jobs = [bench.job(rng()) for _ in range(20)]
        reading = cocotb.start_soon(bench.check(jobs))
        await bench.fetch(offset, count)
        assert await bench.fetched.recv(count) == program(bench.ram.data, offset, count)
        await reading
        await bench.wait(lambda: dut.fetch_idle.value, 10)
    assert bench.counts["fetch_beat"] == 47 * 64 // bench.port_bytes
    assert bench.errors == {"reader": [], "fetch": [], "writer": []}


@cocotb.test()
async def fetch_errors(dut):
    bench = Bench(dut, latency_cycles=(1, 40), monitors=False)
    await bench.begin()
    await bench.fetch(MODEL_BYTES - 64 * 5, 8)
    got = await bench.fetched.recv(5)
    assert got == program(bench.ram.data, MODEL_BYTES - 64 * 5, 8)[:5]
    await bench.wait(lambda: bench.errors["fetch"])
    assert set(bench.errors["fetch"]) == {(Error.READ_WINDOW, 5)}
    await bench.flush("fetch")

    bench.errors["fetch"].clear()
    bench.ram.faults.append((MODEL_BASE + 64 * 3 + 60, MODEL_BASE + 64 * 3 + 61, 2))
    await bench.fetch(0, 6)
    await bench.fetched.recv(6)
    assert bench.errors["fetch"] == [(Error.AXI_READ, 3)]
    bench.ram.faults.clear()

    # A flush half way, memory silent for a while; then another program from its first descriptor.
    await bench.fetch(0, 100)
    await bench.fetched.recv(3)
    bench.ram.silent = True
    for _ in range(60):
        await bench.edge
    dut.flush.value = 1
    for _ in range(200):
        await bench.edge
    assert not dut.fetch_idle.value
    bench.ram.silent = False
    await bench.flush("fetch")
    await bench.fetch(128, 20)
    assert await bench.fetched.recv(20) == program(bench.ram.data, 128, 20)


def record(bench, numbers, *, index=0):
    beats = numbers.choice([1, 2, 15, 16, 17, 33, 64, numbers.randrange(1, 100)])
    room = CACHE_BYTES // bench.port_bytes
    offset = numbers.choice([0, room - beats, numbers.randrange(room - beats + 1)]) * bench.port_bytes
    return offset, [numbers.getrandbits(8 * bench.port_bytes) for _ in range(beats)], index


def words(records):
    """The stream of WriteWords; fields that do not count hold rubbish."""
    for offset, beats, index in records:
        for k, beat in enumerate(beats):
            yield {"offset": offset if k == 0 else 0xDEAD, "data": beat, "first": int(k == 0),
                   "last": int(k == len(beats) - 1), "beats": len(beats) if k == 0 else 3,
                   "index": index if k == 0 else 99}


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def writes_records(dut, stall):
    bench = Bench(dut, latency_cycles=(1, 40), stall=stall)
    await bench.begin()
    records = [record(bench, rng()) for _ in range(40)]
    await bench.records.send(words(records))
    await bench.wait(lambda: dut.writer_idle.value)
    want = written(bench.ram.data, [(offset, beats) for offset, beats, _ in records], bench.port_bytes)
    assert bench.ram_w.data == want
    n_beats = sum(len(beats) for _, beats, _ in records)
    assert bench.counts["write_beat"] == sum(beats for _, beats, _ in bench.ram_w.writes) == n_beats
    assert bench.errors["writer"] == []


@cocotb.test()
async def write_errors(dut):
    """Outside the window: nothing of that burst is written. An error answer names the record's descriptor."""
    bench = Bench(dut, latency_cycles=(1, 10), monitors=False)
    await bench.begin()
    b = bench.port_bytes
    for number, offset in enumerate([CACHE_BYTES, CACHE_BYTES - b, (1 << 40) - 2 * b, 2]):
        bench.errors["writer"].clear()
        before = bytes(bench.ram_w.data)
        await bench.records.send(words([(offset, [1, 2], 500 + number)]))
        await bench.wait(lambda: bench.errors["writer"])
        assert set(bench.errors["writer"]) == {(Error.WRITE_WINDOW, 500 + number)}
        await bench.flush("writer")
        changed = [a for a in range(RAM_BYTES) if before[a] != bench.ram_w.data[a]]
        assert all(CACHE_BASE <= a < CACHE_BASE + CACHE_BYTES for a in changed)
    bench.errors["writer"].clear()
    bench.ram_w.faults.append((CACHE_BASE + 64 * b, CACHE_BASE + 65 * b, 3))
    await bench.records.send(words([(32 * b * k, [k] * 32, 60 + k) for k in range(4)]))
    await bench.wait(lambda: dut.writer_idle.value)
    assert bench.errors["writer"] == [(Error.AXI_WRITE, 62)]


@cocotb.test()
async def flush_of_a_writer(dut):
    """Bursts that have begun end, with data or with filler that changes nothing; the next record is whole."""
    bench = Bench(dut, latency_cycles=(1, 30), stall=0.4, monitors=False)
    Monitor(dut, "axi_w__aw")
    Monitor(dut, "axi_w__w")
    await bench.begin()
    for trial in range(15):
        bench.ram_w.silent = trial % 3 == 2
        before = bytes(bench.ram_w.data)
        records = [record(bench, rng()) for _ in range(5)]
        sending = cocotb.start_soon(bench.records.send(words(records)))
        for _ in range(rng().randrange(20, 250)):
            await bench.edge
        sending.cancel()
        dut.i_write__valid.value = 0
        dut.flush.value = 1
        for _ in range(100):
            await bench.edge
        bench.ram_w.silent = False
        await bench.flush("writer")
        allowed = [{value} for value in before]
        for offset, beats, _ in records:
            for k, beat in enumerate(beats):
                for i, value in enumerate(beat.to_bytes(bench.port_bytes, "little")):
                    allowed[CACHE_BASE + offset + k * bench.port_bytes + i].add(value)
        assert all(value in possible for value, possible in zip(bench.ram_w.data, allowed))
        before = bytes(bench.ram_w.data)
        offset, beats, index = record(bench, rng())
        await bench.records.send(words([(offset, beats, index)]))
        await bench.wait(lambda: dut.writer_idle.value)
        assert bench.ram_w.data == written(before, [(offset, beats)], bench.port_bytes)
    assert bench.errors["writer"] == []


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def loads_rows(dut, stall):
    n_ports, port_bytes, lanes = (parameters()[key] for key in ("n_ports", "port_bytes", "vector_lanes"))
    beats = 4 * lanes // (n_ports * port_bytes)
    start_clock(dut)
    source = Source(dut, "i_command", shape=LoadCommand, stall=stall)
    ports = [Source(dut, f"i_ports__{p}", stall=stall, random_numbers=rng(f"port{p}")) for p in range(n_ports)]
    sink = Sink(dut, "o", shape=ParamWrite(lanes), stall=stall)
    Monitor(dut, "o")
    await reset(dut)
    numbers, commands, data, want = rng(), [], [[] for _ in range(n_ports)], []
    for n_words, n_rows in [(1, 1), (1, 16), (5, 1), (3, 4), (1, 1), (40, 2), (2, 16)]:
        command = {"n_words": n_words, "n_rows": n_rows, "d_base": numbers.randrange(1 << 16),
                   "d_stride": numbers.choice([0, n_words, numbers.randrange(1 << 16)])}
        rows = [[numbers.getrandbits(8 * port_bytes) for _ in range(n_words * n_rows * beats)] for _ in range(n_ports)]
        commands.append(command)
        want += loaded(command, rows, lanes, port_bytes)
        for all_data, new in zip(data, rows):
            all_data += new
    cocotb.start_soon(source.send(commands))
    for port, values in zip(ports, data):
        cocotb.start_soon(port.send(values))
    done = []

    async def watch():
        taken = 0
        while True:
            await RisingEdge(dut.clk)
            taken += int(dut.o__valid.value) & int(dut.o__ready.value)
            if dut.done.value:
                done.append(taken)

    cocotb.start_soon(watch())
    assert await sink.recv(len(want)) == want
    await RisingEdge(dut.clk)
    ends, total = [], 0
    for command in commands:
        total += command["n_words"] * command["n_rows"]
        ends.append(total)
    assert done == ends, "done comes with the last word of each command"


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def joins_ports(dut, stall):
    n_ports, port_bytes = parameters()["n_ports"], parameters()["port_bytes"]
    start_clock(dut)
    ports = [Source(dut, f"i_join__{p}", stall=stall, random_numbers=rng(f"port{p}")) for p in range(n_ports)]
    sink = Sink(dut, "o_join", stall=stall)
    Monitor(dut, "o_join")
    await reset(dut)
    data = [[rng().getrandbits(8 * port_bytes) for _ in range(200)] for _ in ports]
    for port, values in zip(ports, data):
        cocotb.start_soon(port.send(values))
    want = [sum(data[p][k] << 8 * port_bytes * p for p in range(n_ports)) for k in range(200)]
    began = cocotb.simtime.get_sim_time("ns")
    assert await sink.recv(200) == want
    if not stall:
        assert (cocotb.simtime.get_sim_time("ns") - began) / 4 <= 202, "a beat a cycle"
