"""Accept against its golden function: random launches; tokens and candidates from a small vocabulary."""

import cocotb
from cocotb.triggers import RisingEdge

from celosia.gen.golden.vector import accepted
from celosia.hw.links import Launch
from celosia.sim_tb.link import pack, reset, rng, start_clock

_TOKEN_LANES = 16


async def answer(dut, tokens, best):
    """Tokens and best candidates of the lanes that are asked for, one cycle later, from the lists of the moment."""
    while True:
        await RisingEdge(dut.clk)
        number = best[int(dut.read_lane.value)]
        dut.token.value = tokens[int(dut.token_lane.value)]
        dut.has_best.value = number is not None
        dut.best.value = number or 0


@cocotb.test()
async def matches_golden(dut):
    start_clock(dut)
    random = rng("accept")
    dut.start.value = 0
    await reset(dut)
    tokens, best = [0] * _TOKEN_LANES, [0] * _TOKEN_LANES
    cocotb.start_soon(answer(dut, tokens, best))
    for round_number in range(200):
        n_tokens, step = random.randrange(1, _TOKEN_LANES + 1), random.choice((0, 1 << 19, 1 << 20))
        first = [t == 0 or random.random() < 0.2 for t in range(_TOKEN_LANES)]
        tokens[:] = [random.choice((0, 0, step)) for _ in range(_TOKEN_LANES)]
        best[:] = [None if random.random() < 0.1 else random.choice((0, 0, step & 0xF_FFFF)) for _ in range(_TOKEN_LANES)]
        dut.launch.value = pack(Launch, {"n_tokens": n_tokens, "lanes": [{"first": int(bit)} for bit in first]})
        dut.start.value = 1
        await RisingEdge(dut.clk)
        dut.start.value = 0
        await RisingEdge(dut.clk)
        n_busy = 0
        while dut.busy.value:
            n_busy += 1
            assert n_busy <= n_tokens + 1
            await RisingEdge(dut.clk)
        wanted = accepted(first[:n_tokens], tokens[:n_tokens], best[:n_tokens])
        assert int(dut.accepted.value) == wanted, f"round {round_number}: {int(dut.accepted.value):b}, not {wanted:b}"
