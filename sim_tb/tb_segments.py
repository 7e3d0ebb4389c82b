"""Bench of the walk over segments: which rows it reads, against ``celosia.sim_tb.descriptors.past``."""

import cocotb
from cocotb.triggers import RisingEdge

from celosia.hw.ctrl.links import PageRead
from celosia.hw.links import Lane, PageAnswer, PageAsk
from celosia.sim_tb import link
from celosia.sim_tb.descriptors import launch, launch_word, past, segments

SLOTS, MOST_CYCLES = 16, 9


def random_launch(numbers, page_positions):
    """Up to 16 lanes whose pages lie anywhere in 4096."""
    lanes, slots = [], numbers.sample(range(SLOTS), SLOTS)
    n_tokens = numbers.randint(1, 16)
    while len(lanes) < n_tokens:
        first = numbers.choice([0, 1, numbers.randrange(3 * page_positions), numbers.randrange(12 * page_positions)])
        slot = slots.pop()
        lanes += [(slot, first + t) for t in range(min(numbers.randint(1, 4), n_tokens - len(lanes)))]
    entries = {(slot, n) for slot, first, _ in segments({"lanes": lanes}) for n in range(first // page_positions + 1)}
    return launch(lanes, {at: numbers.randrange(4096) for at in entries})


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def walks(dut, stall):
    """Rows in order; a page takes at most MOST_CYCLES cycles, a lane 3, a segment 2 more."""
    size, numbers = link.parameters(), link.rng()
    link.start_clock(dut)
    edge, sink = RisingEdge(dut.clk), link.Sink(dut, "o", shape=PageRead, stall=stall)
    link.Monitor(dut, "o")
    dut.start.value = 0
    await link.reset(dut)
    run, found, waited = None, [], 0

    async def table():
        """Answers page_cycles after the ask; lanes one cycle after theirs."""
        late = []
        while True:
            await edge
            ask, token = link.unpack(PageAsk, int(dut.ask.value)), int(dut.token.value)
            late = [*late, run["pages"].get((ask["slot"], ask["index"])) if run else None][-size["page_cycles"]:]
            dut.answer.value = link.pack(PageAnswer, {"page": late[0] or 0, "ok": late[0] is not None})
            dut.lane.value = link.pack(Lane, launch_word(run)["lanes"][token]) if run else 0

    async def take():
        while True:
            word, = await sink.recv(1, timeout_cycles=100_000)
            found.append(word)

    cocotb.start_soon(table())
    cocotb.start_soon(take())
    for trial in range(150):
        run = random_launch(numbers, size["page_positions"])
        window = numbers.choice([0, 1, 2, size["page_positions"], numbers.randrange(4 * size["page_positions"])])
        sinks = numbers.choice([0, 1, 4, numbers.randrange(2 * size["page_positions"])])
        found, waited = [], 0
        dut.n_tokens.value, dut.window.value, dut.sinks.value = len(run["lanes"]), window, sinks
        dut.start.value = 1
        await edge
        dut.start.value = 0
        while True:
            await edge
            waited += 1
            assert not dut.missing.value and waited < 20_000
            if dut.done.value:
                break
        await edge
        rows = []
        for word in found:
            rows += [(port, word["row"] + k) for k in range(word["n_rows"] + 1) for port in range(size["n_ports"])
                     if k < word["n_rows"] or port < word["n_longer"]]
        assert rows == past({"window": window, "sinks": sinks}, run, size), f"trial {trial}: {run}, window {window}, sinks {sinks}"
        if not stall:
            most = MOST_CYCLES * len(found) + 3 * len(run["lanes"]) + 2 * len(segments(run)) + 2
            assert waited <= most, f"trial {trial}: {waited} cycles for {len(found)} pages, {run}"


@cocotb.test()
async def misses(dut):
    """Without the page nothing is offered, until a reset."""
    size = link.parameters()
    link.start_clock(dut)
    edge = RisingEdge(dut.clk)
    dut.start.value, dut.o__ready.value, dut.window.value, dut.sinks.value, dut.answer.value = 0, 1, 0, 0, 0
    dut.n_tokens.value, dut.lane.value = 1, link.pack(Lane, {"slot": 3, "position": size["page_positions"], "first": 1, "last": 1})
    await link.reset(dut)
    dut.start.value = 1
    await edge
    dut.start.value = 0
    for _ in range(20):
        await edge
        assert not dut.o__valid.value and not dut.done.value
    assert dut.missing.value
    await link.reset(dut)
    assert not dut.missing.value
