# amaranth: UnusedElaboratable=no
"""The binary engine and its parts, at several sizes."""

import pytest
from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from celosia.hw.binary.configs import binary_kv260, binary_tiny
from celosia.hw.binary.engine import BinaryEngine
from celosia.hw.binary.engine_words import COUNT_BITS, PASS_COLUMNS, pass_blocks
from celosia.hw.binary.popcount import Agreements, Counters
from celosia.hw.binary.value_memory import ValueMemory
from celosia.sim_tb.run import simulate

SIZES = {
    # Lanes are fewer than columns, as many rows as lanes.
    "narrow": {"token_lanes": 4, "engine_rows": 4, "columns": 8, "act_lines": 64, "v_words": 64},
    # A chunk is two words of V; eight rows.
    "deep": {"token_lanes": 16, "engine_rows": 8, "columns": 8, "act_lines": 64, "v_words": 64},
    # As many columns as the configuration for the KV260; passes of 16 column blocks.
    "wide": {"token_lanes": 8, "engine_rows": 2, "columns": 64, "act_lines": 48, "v_words": 32},
}


def of_config(config):
    """Sizes of an engine of a configuration."""
    return {name: getattr(config, name) for name in ("token_lanes", "engine_rows", "columns", "act_lines", "v_words")}


def run(name, sizes, *, n_jobs, **options):
    simulate(BinaryEngine(**sizes), "celosia.sim_tb.tb_binary_engine", name=f"binary_engine_{name}",
             parameters={**sizes, "n_jobs": n_jobs}, **options)


@pytest.mark.sim
@pytest.mark.parametrize("name", SIZES)
def test_engine(name):
    run(name, SIZES[name], n_jobs=30)


@pytest.mark.sim
def test_engine_of_tiny():
    run("tiny", of_config(binary_tiny) | {"act_lines": 64, "v_words": 64}, n_jobs=30)


@pytest.mark.sim
@pytest.mark.slow
def test_engine_of_the_kv260():
    run("kv260", of_config(binary_kv260) | {"act_lines": 40, "v_words": 32}, n_jobs=10, timeout_s=3000)


class _Count(wiring.Component):
    """Both halves of a popcount, joined: of a row, and of the same row inverted."""

    def __init__(self, columns):
        self.agreements, self.counters = (part(engine_rows=2, columns=columns) for part in (Agreements, Counters))
        bits = self.counters.bits
        super().__init__({"w": In(columns), "a": In(columns), "count": Out(bits), "opposite": Out(bits)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.agreements, m.submodules.counters = self.agreements, self.counters
        m.d.comb += [
            self.agreements.w.eq(Cat(self.w, ~self.w)), self.agreements.a.eq(self.a),
            self.counters.ones.eq(self.agreements.ones), self.counters.twos.eq(self.agreements.twos),
            self.count.eq(self.counters.left[0] + self.counters.right[0]),
            self.opposite.eq(self.counters.left[1] + self.counters.right[1])]
        return m


@pytest.mark.parametrize("columns", [*range(2, 20), 32, 60, 64, 128, 256])
def test_popcount(columns, rng):
    dut, full = _Count(columns), (1 << columns) - 1
    pairs = [(0, 0), (full, full), (0, full), (full, 0), (full // 3, full), (full // 3, full ^ full // 3)]
    pairs += [(0, full >> k) for k in range(columns)] + [(1 << k, 0) for k in range(columns)]
    pairs += [(rng.getrandbits(columns), rng.getrandbits(columns) & rng.getrandbits(columns)) for _ in range(300)]
    if columns <= 5:
        pairs += [(w, a) for w in range(full + 1) for a in range(full + 1)]
    counts = []

    async def drive(ctx):
        for w, a in pairs:
            ctx.set(dut.w, w)
            ctx.set(dut.a, a)
            await ctx.tick()
        await ctx.tick()

    async def watch(ctx):
        await ctx.tick().repeat(dut.counters.latency + 1)
        for _ in pairs:
            counts.append((ctx.get(dut.count), ctx.get(dut.opposite)))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(4e-9)
    simulator.add_testbench(drive)
    simulator.add_testbench(watch)
    simulator.run()
    assert counts == [(columns - bin(w ^ a).count("1"), bin(w ^ a).count("1")) for w, a in pairs]


@pytest.mark.parametrize("columns", [8, 16, 32, 64, 128, 256])
def test_counts_of_a_pass_fit(columns):
    assert pass_blocks(columns) * columns <= PASS_COLUMNS < 1 << COUNT_BITS


@pytest.mark.parametrize("sizes, sentence", [
    ({"token_lanes": 12}, "The number of token lanes must be a power of two of at least 2, not 12"),
    ({"columns": 1}, "The number of columns must be a power of two of at least 2, not 1"),
    ({"engine_rows": 16}, "Token lanes must be a multiple of 16 rows of a beat, not 8"),
])
def test_refuses_sizes(sizes, sentence):
    with pytest.raises(ValueError, match=sentence):
        BinaryEngine(**of_config(binary_tiny) | sizes)


def test_refuses_words_that_no_chunk_fills():
    with pytest.raises(ValueError, match="Words must be a multiple of the 2 of a chunk, not 63"):
        ValueMemory(token_lanes=16, columns=8, engine_rows=8, v_words=63)
