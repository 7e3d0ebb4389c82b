"""TopK against its golden function: random words, ties, NaN, short lists, shortlists scored again.

Parameters: ``lanes``, ``top_k``, ``row_quantum``.
"""

import cocotb
import torch
from cocotb.triggers import RisingEdge

from celosia.gen.golden import f32
from celosia.gen.golden.vector import TopkWords, best
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


async def strobe(dut, name):
    getattr(dut, name).value = 1
    await RisingEdge(dut.clk)
    getattr(dut, name).value = 0


def rescoring(random, shortlist, lanes, row_quantum):
    """Words with new logits for the first ranks of the shortlist; often all the same."""
    n_ranks = random.randint(0, len(shortlist))
    logits = [logit_bits(random) for _ in range(n_ranks * row_quantum)]
    logits = logits[:1] * len(logits) if random.random() < 0.3 else logits
    return [{"first": at, "n_valid": random.getrandbits(20), "rescore": 1, "logits": logits[at:at + lanes]}
            for at in range(0, len(logits), lanes)]


def candidates_of(words, top_k, shortlist=(), row_quantum=1):
    """(numbers, bits) of the golden function."""
    if not words:
        return []
    golden = TopkWords(torch.tensor([word["first"] for word in words]), words[0]["n_valid"],
                       f32.from_bits([word["logits"] for word in words]), bool(words[0]["rescore"]))
    numbers, logits = best(*golden.offer(shortlist, row_quantum), top_k)
    return list(zip(numbers.tolist(), f32.to_bits(logits).tolist()))


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def matches_golden(dut, stall):
    lanes, top_k, row_quantum = (parameters()[name] for name in ("lanes", "top_k", "row_quantum"))
    random = rng("words")
    start_clock(dut)
    source = Source(dut, "i", shape=TopkWord(lanes), stall=stall)
    dut.clear.value = dut.keep.value = 0
    dut.read_index.value = dut.rank.value = 0
    await reset(dut)
    for round_number in range(40):
        n_words = random.choice((1, 2, 10, 40))
        first_word = random.choice((0, (1 << 20) // lanes - n_words))
        n_valid = min(first_word * lanes + random.randrange(n_words * lanes + 1), (1 << 20) - 1)
        words = [{"first": (first_word + i) * lanes, "n_valid": n_valid, "rescore": 0,
                  "logits": [logit_bits(random) for _ in range(lanes)]} for i in range(n_words)]
        await source.send(words)
        if round_number % 4 == 3:       # cleared while elements are under way
            await strobe(dut, "clear")
            await settle(dut)
            assert dut.count.value == 0
            continue
        await settle(dut)
        found = await read_all(dut)
        assert found == candidates_of(words, top_k), f"round {round_number}"
        if round_number % 4 != 2:
            await strobe(dut, "keep")
            if round_number % 8 == 1:   # cleared while numbers are put aside
                await strobe(dut, "clear")
                await settle(dut)
                assert dut.count.value == 0
                continue
            await settle(dut)
            assert dut.count.value == 0
            shortlist = [number for number, _ in found]
            for rank, number in enumerate(shortlist):
                dut.rank.value = rank
                await RisingEdge(dut.clk)
                await RisingEdge(dut.clk)
                assert dut.number.value == number, f"round {round_number}, rank {rank}"
            words = rescoring(random, shortlist, lanes, row_quantum)
            await source.send(words)
            await settle(dut)
            assert await read_all(dut) == candidates_of(words, top_k, shortlist, row_quantum), f"rescoring {round_number}"
        await strobe(dut, "clear")
        await RisingEdge(dut.clk)
        assert dut.count.value == 0
