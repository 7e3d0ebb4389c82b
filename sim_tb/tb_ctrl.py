"""Benches of control. What must come out is computed by ``celosia.sim_tb.descriptors``."""

import cocotb
from amaranth.lib import data

from celosia.hw import isa
from celosia.hw.isa import Index, Opcode, Sink
from celosia.hw.links import Launch
from celosia.hw.regs import ABI_VERSION, COUNTERS, REGISTERS, TOPK_LANE_BYTES, TOPK_OFFSET, Error, PageOp, offset
from celosia.sim_tb.control_bench import (
    CACHE_BASE,
    CACHE_BYTES,
    MODEL_BASE,
    MODEL_BYTES,
    PORT_STRIDE,
    PROGRAM,
    Bench,
    Host,
)
from celosia.sim_tb.descriptors import judge, launch, launch_word, raw
from celosia.sim_tb.link import reset, rng, unpack

LAUNCH = launch([(0, 0)])
IDLE = raw(Opcode.VECTOR, n_words=1, block_words=1)


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def registers_keep_values(dut, stall):
    bench = Bench(dut)
    await reset(dut)
    host = bench.host = Host(dut, stall=stall)
    assert await host.read("ID") == int.from_bytes(b"CELO", "little")
    assert await host.read("VERSION") == ABI_VERSION << 16 | isa.ISA_VERSION
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
    await reset(dut)
    for place in values:
        assert await host.read(place) == 0, f"register at {place:#x} after a reset"


@cocotb.test()
async def candidates_are_read(dut):
    """Token and logit of candidate i, from a unit that answers two cycles after the index."""
    bench = Bench(dut)
    await bench.begin()

    async def unit():
        late = [0, 0]
        while True:
            await bench.edge
            late = [late[1], int(dut.topk_index.value) + 100 * int(dut.topk_lane.value)]
            dut.topk_token.value, dut.topk_logit.value = 1000 + late[0], 0xC000_0000 + late[0]

    cocotb.start_soon(unit())
    dut.topk_count.value = 16
    assert await bench.host.read("TOPK_COUNT") == 16
    for lane, i in ((0, 0), (0, 15), (15, 31), (1, 7), (7, 0), (14, 16)):
        at = TOPK_OFFSET + TOPK_LANE_BYTES * lane + 8 * i
        assert await bench.host.read(at) == 1000 + 100 * lane + i
        assert await bench.host.read(at + 4) == 0xC000_0000 + 100 * lane + i
    dut.accepted.value = 0xA5C3
    assert await bench.host.read("ACCEPTED") == 0xA5C3


@cocotb.test()
async def runs_programs(dut):
    """Random programs one after the other, the last one long; commands, data, records and counters are right."""
    bench = Bench(dut)
    await bench.begin()
    for n in (0, 1, 2, 15, 30, 30, 100):
        tokens = [rng().randrange(40) for _ in range(bench.size["token_lanes"])]
        run = bench.random_launch(rng())
        await bench.runs(bench.random_program(rng(), n, n_tokens=len(run["lanes"])), run, tokens, limit_cycles=60_000)
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
    for _ in range(40):
        unit = rng().randrange(4)
        program.append(kinds[unit] | sum(count << 32 + 16 * i for i, count in enumerate(done)))
        done[unit] += 1
    run = launch([(1, 3)], {(1, 0): 7})
    await bench.start([*program, raw(Opcode.END)], run)
    await bench.host.write("LANE0", 77)
    await bench.host.write("SCRATCH", 77)
    order = []
    while not dut.irq.value:
        await bench.edge
        if any(bench.taken.values()):
            assert unpack(Launch, int(dut.launch.value))["lanes"][0] == launch_word(run)["lanes"][0]
        total = sum(bench.completed.values())
        running = sum(map(len, bench.taken.values())) - total
        assert running <= 1, "two at a time"
        if total != len(order):
            order.append(total)
    assert await bench.host.read("LANE0") == 1 << 16 | 3 and await bench.host.read("SCRATCH") == 77
    assert sum(bench.completed.values()) == 40
    bench.stop_units()


@cocotb.test()
async def launch_errors(dut):
    bench = Bench(dut)
    await bench.begin()
    lanes, positions, slots = (bench.size[name] for name in ("token_lanes", "max_positions", "max_sequences"))
    bad = [[], [(0, 0)] * 2, [(0, 5), (0, 4)], [(0, 5), (0, 7)], [(0, positions)], [(0, positions - 1), (0, positions)],
           [(0, 0xFFFF)], [(slots, 0)], [(1, 3), (slots, 0)], [(15, 0)], [(0, t) for t in range(lanes + 1)]]
    if lanes > 2:
        bad += [[(0, 0), (1, 0), (0, 1)], [(1, 9), (1, 10), (0, 3), (1, 11)]]
    for each in bad:
        await bench.start([IDLE, raw(Opcode.END)], launch(each))
        await bench.fails(Error.LAUNCH, 0)
    for count in (lanes + 1, 16, 32, 0xFFFF_FFFF):
        await bench.start([IDLE, raw(Opcode.END)], LAUNCH)
        await bench.end()
        bench.stop_units()
        await bench.host.write("N_TOKENS", count)
        await bench.host.write("CONTROL", 1)
        await bench.fails(Error.LAUNCH, 0)
    for count in (0, (1 << 16) + 1):
        await bench.start([raw(Opcode.END)], LAUNCH, count=count)
        await bench.fails(Error.FETCH, 0)
    await bench.runs([IDLE, raw(Opcode.END)], launch([(slots - 1, positions - lanes + t) for t in range(lanes)]))


@cocotb.test()
async def segments_are_found(dut):
    """Position, slot, first and last of every lane, whatever lies in the registers of lanes that the run has not."""
    bench = Bench(dut)
    await bench.begin()
    for t in range(bench.size["token_lanes"]):
        await bench.host.write(f"LANE{t}", rng().getrandbits(32))
    for _ in range(12):
        run = bench.random_launch(rng())
        await bench.runs([IDLE, raw(Opcode.END)], run)
        found, want = unpack(Launch, int(dut.launch.value)), launch_word(run)
        assert found["n_tokens"] == want["n_tokens"]
        for t in range(want["n_tokens"]):
            assert found["lanes"][t] == want["lanes"][t], f"lane {t} of {run}"


@cocotb.test()
async def ends_for_few_tokens(dut):
    """END with ``above`` ends the runs of at most that many tokens and is not there for others; the next program begins clean."""
    bench = Bench(dut)
    await bench.begin()
    lanes = bench.size["token_lanes"]
    program = [bits for n in range(1, lanes + 1) for bits in (*[IDLE] * 9, raw(Opcode.END, above=n))] + [IDLE, raw(Opcode.END)]
    for n in (lanes, 1, 2, 1):
        await bench.runs(program, launch([(0, t) for t in range(n)], {(0, 0): 0}))
    await bench.runs([raw(Opcode.END, above=lanes), IDLE, raw(Opcode.END)], LAUNCH)
    await bench.runs([raw(Opcode.END, above=lanes), raw(Opcode.END)], LAUNCH)
    await bench.recovered()
    # An END that is not there is no end of the program.
    await bench.start([IDLE, raw(Opcode.END, above=1)], launch([(0, 0), (0, 1)]))
    await bench.fails(Error.FETCH, 1)
    await bench.recovered()


@cocotb.test()
async def pages_are_missed(dut):
    """A page that is not there, was released, or belongs to another: PAGE with the index of the ATTEND; shared pages are read."""
    bench = Bench(dut)
    await bench.begin()
    size, host, end = bench.size, bench.host, raw(Opcode.END)
    span = size["page_positions"]
    attend = raw(Opcode.ATTEND, group=1, head_words=1, port_stride=PORT_STRIDE)
    whole = {(0, 0): 3, (0, 1): 1, (0, 2): 6, (1, 0): 5}
    run = launch([(0, 2 * span + 1), (1, 4)], whole)
    await bench.runs([IDLE, attend, end], run)
    await host.page(PageOp.SHARE, 1, 0, 0)
    assert not await host.page(PageOp.MAP, 1, 2, 1)
    await bench.runs([IDLE, attend, end], run)
    for spoil, page, index, slot in ((PageOp.UNMAP, 0, 0, 0), (PageOp.UNMAP, 0, 2, 0), (PageOp.RELEASE, 1, 0, 0),
                                     (PageOp.UNMAP, 0, 0, 1)):
        await host.page(PageOp.CLEAR)
        bench.pages = {}
        await bench.map(whole)
        await host.page(spoil, page, index, slot)
        await bench.start([IDLE, IDLE, attend, IDLE, end], run)
        await bench.fails(Error.PAGE, 2)
        if spoil == PageOp.RELEASE:             # now it is another's
            assert not await host.page(PageOp.CLAIM, 1, 0, 1)
            await bench.start([attend, end], run)
            await bench.fails(Error.PAGE, 0)
    await host.page(PageOp.CLEAR)
    bench.pages = {}
    await bench.recovered()


@cocotb.test()
async def pages_are_commanded(dut):
    """Commands in a row lose nothing; what is refused is said until a reset; while a program runs all are refused."""
    bench = Bench(dut)
    await bench.begin()
    host, pages = bench.host, bench.size["max_pages"]

    async def put(op, page=0, index=0, slot=0):
        await host.write("PAGE", page | index << 12 | slot << 24 | op << 28)

    for slot in range(2):                               # without a look at PAGE_STATUS
        await put(PageOp.CLEAR)
        for n in range(8):
            await put(PageOp.CLAIM, pages - 1 - n, 0, slot)
            await put(PageOp.MAP, pages - 1 - n, n, slot)
    while (status := await host.read("PAGE_STATUS")) & 1:
        pass
    assert status == 0
    assert await host.page(PageOp.CLAIM, pages - 1, 0, 1)
    assert await host.page(PageOp.UNMAP, 0, 0, 1), "the refusal stays"
    await host.write("CONTROL", 2)
    await bench.drained()
    assert await host.read("PAGE_STATUS") == 0
    await host.write(offset("PAGE"), pages - 2 | PageOp.RELEASE << 28, 0b0111)              # not a whole word
    assert await host.page(PageOp.CLAIM, pages - 2), "still owned"
    await host.write("CONTROL", 2)
    await bench.drained()
    bench.hang = "vector"
    await host.write("WATCHDOG_CYCLES", 0)
    await bench.start([IDLE, raw(Opcode.END)], LAUNCH)
    while not bench.taken["vector"]:
        await bench.edge
    await put(PageOp.CLEAR)
    assert await host.read("PAGE_STATUS") == 2
    await host.write("CONTROL", 2)
    bench.stop_units()
    bench.hang = None
    await bench.drained()
    await host.write("CONTROL", 2)
    await bench.drained()
    assert await host.page(PageOp.CLAIM, pages - 2), "not cleared"
    # A start waits for the command before it.
    await host.write("CONTROL", 2)
    await bench.drained()
    await put(PageOp.CLEAR)
    await bench.runs([IDLE, raw(Opcode.END)], LAUNCH)
    assert await host.read("PAGE_STATUS") == 0
    assert not await host.page(PageOp.CLAIM, pages - 2)


@cocotb.test()
async def bad_descriptors(dut):
    """Every kind of bad descriptor stops the program there, by name; what comes after a reset is as new."""
    bench = Bench(dut)
    await bench.begin()
    good = raw(Opcode.MATMUL, n_row_groups=4, n_col_blocks=1, planes=1)
    for number, (bits, code) in enumerate([
        (raw(5), Error.OPCODE), (raw(255), Error.OPCODE),
        (raw(Opcode.VECTOR, n_words=1, block_words=1, mul1=5), Error.OPCODE),
        (raw(Opcode.LOAD, n_words=1, index=Index.CANDIDATE, rank=bench.size["top_k"]), Error.SIZE),
        (raw(Opcode.LOAD, n_words=0), Error.SIZE),
        (raw(Opcode.MATMUL, n_row_groups=4, n_col_blocks=1, planes=6), Error.SIZE),
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
    past = launch([(0, 40)], {(0, n): 2 * n for n in range(6)})
    load = {"n_words": 1, "port_stride": PORT_STRIDE}
    outside = [
        (raw(Opcode.LOAD, addr=MODEL_BYTES, **load), LAUNCH, ()),
        (raw(Opcode.LOAD, index=Index.TOKEN, index_stride=b, **load), LAUNCH, (0xFFFF_FFFF,)),
        (raw(Opcode.LOAD, index=Index.TOKEN, index_stride=1 << 31, **load), LAUNCH, (1 << 31,)),
        (raw(Opcode.LOAD, index=Index.POSITION, index_stride=MODEL_BYTES // 2, **load), past, ()),
        (raw(Opcode.MATMUL, addr=MODEL_BYTES - 4 * b, n_row_groups=4, n_col_blocks=2, planes=1), LAUNCH, ()),
        (raw(Opcode.ATTEND, addr=CACHE_BYTES - 3 * b, group=1, head_words=1), past, ()),
    ]
    for number, (bits, run, tokens) in enumerate(outside):
        await bench.start([*[IDLE] * number, bits, end], run, tokens)
        await bench.fails(Error.READ_WINDOW, number)
    await bench.recovered()

    record = raw(Opcode.VECTOR, n_words=2 * b // bench.size["vector_lanes"], block_words=1, sink=Sink.V)
    at = 96 + data.Layout.cast(isa.Vector)["addr"].offset
    await bench.start([IDLE, IDLE, record | CACHE_BYTES - b << at, end], LAUNCH)
    await bench.fails(Error.WRITE_WINDOW, 2)
    await bench.recovered()

    for resp in (2, 3):
        for ram in (*bench.rams, bench.ram_w):
            ram.faults[:] = [(MODEL_BASE + 0x800, MODEL_BASE + 0x801, resp),
                             (CACHE_BASE + 0x100, CACHE_BASE + 0x101, resp),
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
    """Memory that stops answering: the watchdog names the descriptor, the status stays draining until late answers."""
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
    words = bench.size["port_bytes"] // bench.size["vector_lanes"]
    record = raw(Opcode.VECTOR, n_words=words, block_words=1, sink=Sink.V)
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
        run = bench.random_launch(rng())
        await bench.start(bench.random_program(rng(), 40, n_tokens=len(run["lanes"])), run, tokens)
        for _ in range(rng().choice([0, 1, 2, 5, rng().randrange(1500)])):
            await bench.edge
        await bench.host.write("CONTROL", 3 if trial % 3 == 0 else 2)
        bench.stop_units()
        if trial % 3 == 1:
            await bench.host.write("CONTROL", 2)
        await bench.drained()
        assert await bench.host.read("STATUS") == 0
        await bench.recovered()
