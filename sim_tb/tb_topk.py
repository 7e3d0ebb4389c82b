"""TopK against its golden function: words of tokens in any order, ties, NaN, short lists, tokens without candidates, shortlists
scored again.

Parameters: ``lanes``, ``top_k``, ``row_quantum``, ``token_lanes``.
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


def descriptor_words(random, size):
    """Words of some of the tokens: each token's in order, those of different tokens in blocks or mixed."""
    lanes = size["lanes"]
    n_words, block = random.choice((1, 2, 10, 40)), random.choice((1, 3, 40))
    first_word = random.choice((0, (1 << 20) // lanes - n_words))
    n_valid = min(first_word * lanes + random.randrange(n_words * lanes + 1), (1 << 20) - 1)
    tokens = random.sample(range(size["token_lanes"]), random.randint(1, min(4, size["token_lanes"])))
    same = random.random() < 0.2
    words = []
    for start in range(0, n_words, block):
        places = [(token, i) for token in tokens for i in range(start, min(start + block, n_words))]
        for token, i in places:
            logits = [logit_bits(random) for _ in range(lanes)]
            words.append({"token": token, "first": (first_word + i) * lanes, "n_valid": n_valid, "rescore": 0,
                          "logits": words[0]["logits"] if same and words else logits})
    return words


def rescoring(random, shortlists, size):
    """Words with new logits for the first ranks of the shortlists, token after token; often all the same."""
    words = []
    for token in random.sample(sorted(shortlists), len(shortlists)):
        n_ranks = random.randint(0, len(shortlists[token]))
        logits = [logit_bits(random) for _ in range(n_ranks * size["row_quantum"])]
        logits = logits[:1] * len(logits) if random.random() < 0.3 else logits
        words += [{"token": token, "first": at, "n_valid": random.getrandbits(20), "rescore": 1,
                   "logits": logits[at:at + size["lanes"]]} for at in range(0, len(logits), size["lanes"])]
    return words


def candidates_of(words, size, shortlists=None):
    """{token: [(number, bits)]} of the golden function, without tokens that have none."""
    if not words:
        return {}
    golden = TopkWords(torch.tensor([word["token"] for word in words]), torch.tensor([word["first"] for word in words]),
                       words[0]["n_valid"], f32.from_bits([word["logits"] for word in words]), bool(words[0]["rescore"]))
    found = {}
    for token, offered in golden.offer(shortlists, size["row_quantum"]).items():
        numbers, logits = best(*offered, size["top_k"])
        found[token] = list(zip(numbers.tolist(), f32.to_bits(logits).tolist()))
    return {token: pairs for token, pairs in found.items() if pairs}


class Bench:
    """The unit's ports."""

    def __init__(self, dut, stall):
        self.dut, self.size = dut, parameters()
        self.source = Source(dut, "i", shape=TopkWord(self.size["lanes"]), stall=stall)
        for name in ("clear", "keep", "lane", "rank", "read_lane", "read_index"):
            getattr(dut, name).value = 0

    async def settle(self):
        for _ in range(2000):
            await RisingEdge(self.dut.clk)
            if self.dut.idle.value:
                return
        raise TimeoutError("TopK was not idle within 2000 cycles")

    async def strobe(self, name):
        getattr(self.dut, name).value = 1
        await RisingEdge(self.dut.clk)
        getattr(self.dut, name).value = 0

    async def forgets(self):
        """Nothing is there."""
        await self.settle()
        assert self.dut.count.value == 0
        for token in range(self.size["token_lanes"]):
            self.dut.read_lane.value = token
            await RisingEdge(self.dut.clk)
            await RisingEdge(self.dut.clk)
            assert not self.dut.has_best.value, f"token {token}"

    async def compare(self, expected, what):
        """All candidates of all tokens, and that there are no others."""
        dut = self.dut
        assert int(dut.count.value) in ({len(pairs) for pairs in expected.values()} or {0}), what
        for token in range(self.size["token_lanes"]):
            pairs = expected.get(token, [])
            found = []
            dut.read_lane.value = token
            for index in range(max(1, len(pairs))):
                dut.read_index.value = index
                await RisingEdge(dut.clk)
                await RisingEdge(dut.clk)
                assert bool(dut.has_best.value) == bool(pairs), f"{what}, token {token}"
                assert not pairs or int(dut.best.value) == pairs[0][0], f"{what}, token {token}"
                await RisingEdge(dut.clk)
                found.append((int(dut.read_token.value), int(dut.read_logit.value)))
            assert not pairs or found == pairs, f"{what}, token {token}"

    async def compare_numbers(self, shortlists, what):
        """The numbers that were put aside."""
        for token, shortlist in shortlists.items():
            for rank, number in enumerate(shortlist):
                self.dut.lane.value, self.dut.rank.value = token, rank
                await RisingEdge(self.dut.clk)
                await RisingEdge(self.dut.clk)
                assert self.dut.number.value == number, f"{what}, token {token}, rank {rank}"


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def matches_golden(dut, stall):
    random = rng("words")
    start_clock(dut)
    bench = Bench(dut, stall)
    await reset(dut)
    for round_number in range(40):
        words = descriptor_words(random, bench.size)
        await bench.source.send(words)
        if round_number % 4 == 3:       # cleared while elements are under way
            await bench.strobe("clear")
            await bench.forgets()
            continue
        await bench.settle()
        expected = candidates_of(words, bench.size)
        await bench.compare(expected, f"round {round_number}")
        if round_number % 4 != 2:
            await bench.strobe("keep")
            if round_number % 8 == 1:   # cleared while numbers are put aside
                await bench.strobe("clear")
                await bench.forgets()
                continue
            await bench.settle()
            await bench.forgets()
            shortlists = {token: [number for number, _ in pairs] for token, pairs in expected.items()}
            words = rescoring(random, shortlists, bench.size)
            sending = cocotb.start_soon(bench.source.send(words))
            await bench.compare_numbers(shortlists, f"round {round_number}")    # while others are scored
            await sending
            await bench.settle()
            await bench.compare(candidates_of(words, bench.size, shortlists), f"rescoring {round_number}")
        await bench.strobe("clear")
        await bench.forgets()


@cocotb.test()
async def takes_an_element_a_cycle(dut):
    """Whatever the tokens are: words of other tokens cost nothing."""
    start_clock(dut)
    bench = Bench(dut, 0.0)
    await reset(dut)
    lanes, n_words = bench.size["lanes"], 50
    n_cycles = 0

    async def count():
        nonlocal n_cycles
        while True:
            await RisingEdge(dut.clk)
            n_cycles += 1

    counting = cocotb.start_soon(count())
    await bench.source.send([{"token": i % bench.size["token_lanes"], "first": i * lanes, "n_valid": 1 << 19, "rescore": 0,
                              "logits": [0] * lanes} for i in range(n_words)])
    assert n_cycles <= n_words * lanes, f"{n_words} words of {lanes} elements took {n_cycles} cycles"
    await bench.settle()
    assert n_cycles <= (n_words + 1) * lanes + bench.size["top_k"] + 3
    counting.cancel()
