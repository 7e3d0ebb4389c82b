"""TopK against its golden function: random words, ties, NaN, short lists. Parameters: ``lanes``, ``top_k``."""

import cocotb
import torch
from cocotb.triggers import RisingEdge

from celosia.gen.golden import f32
from celosia.gen.golden.vector import topk
from celosia.hw.links import TopkWord
from celosia.sim_tb.link import Source, parameters, reset, rng, start_clock

_SPECIAL = (0x0000_0000, 0x8000_0000, 0x3F80_0000, 0xBF80_0000, 0x7F7F_FFFF, 0xFF7F_FFFF, 0x7F80_0000, 0xFF80_0000,
            0x7FC0_0000, 0x7F80_0001, 0xFFFF_FFFF)


def logit_bits(random):
    return random.choice((random.choice(_SPECIAL), random.getrandbits(32),
                          int(f32.to_bits(torch.tensor(float(random.randrange(-50, 50)))))))


async def settle(dut):
    for _ in range(1000):
        await RisingEdge(dut.clk)
        if dut.idle.value:
            return
    raise TimeoutError("TopK was not idle within 1000 cycles")


async def read_all(dut):
    """(numbers, bits) of the candidates, best first."""
    pairs = []
    for index in range(int(dut.count.value)):
        dut.read_index.value = index
        await RisingEdge(dut.clk)
        pairs.append((int(dut.read_token.value), int(dut.read_logit.value)))
    return pairs


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def matches_golden(dut, stall):
    lanes, top_k = parameters()["lanes"], parameters()["top_k"]
    random = rng("words")
    start_clock(dut)
    source = Source(dut, "i", shape=TopkWord(lanes), stall=stall)
    dut.clear.value = 0
    dut.read_index.value = 0
    await reset(dut)
    for round_number in range(20):
        n_words = random.choice((1, 2, 10, 40))
        first_word = random.choice((0, (1 << 20) // lanes - n_words))
        n_valid = max(0, first_word * lanes + random.randrange(n_words * lanes + 1))
        words = [{"first": (first_word + i) * lanes, "n_valid": n_valid,
                  "logits": [logit_bits(random) for _ in range(lanes)]} for i in range(n_words)]
        await source.send(words)
        if round_number % 4 == 3:       # cleared while elements are under way
            dut.clear.value = 1
            await RisingEdge(dut.clk)
            dut.clear.value = 0
            await settle(dut)
            assert dut.count.value == 0
            continue
        await settle(dut)
        numbers, logits = topk(f32.from_bits([word["logits"] for word in words]),
                               torch.tensor([word["first"] for word in words]), n_valid, top_k)
        found = await read_all(dut)
        assert found == list(zip(numbers.tolist(), f32.to_bits(logits).tolist())), f"round {round_number}"
        dut.clear.value = 1
        await RisingEdge(dut.clk)
        dut.clear.value = 0
        await RisingEdge(dut.clk)
        assert dut.count.value == 0
