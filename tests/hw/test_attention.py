# amaranth: UnusedElaboratable=no
"""The attention unit on the simulator, at several sizes, and its checks of parameters."""

import math
import random

import pytest
import torch
from amaranth.hdl import Const, Module
from amaranth.sim import Simulator

from celosia.gen.golden import f32, func
from celosia.hw.attention.fixed import ToFixed
from celosia.hw.attention.links import AttentionSizes, QuerySlots
from celosia.hw.attention.segment import Segment
from celosia.hw.attention.soft_cap import SoftCap
from celosia.hw.attention.unit import AttentionUnit
from celosia.hw.formats import F32
from celosia.hw.links import visited_rows
from celosia.sim_tb.run import simulate

SIZES = {
    "tiny": dict(n_ports=1, port_bytes=8, vector_lanes=2, token_lanes=4, query_lanes=1, max_queries=16,
                 max_head_words=4, max_positions=512, page_positions=16, page_cycles=2),
    "duo": dict(n_ports=2, port_bytes=4, vector_lanes=2, token_lanes=2, query_lanes=2, max_queries=8,
                max_head_words=4, max_positions=256, page_positions=8, page_cycles=1),
    "kv260": dict(n_ports=4, port_bytes=16, vector_lanes=16, token_lanes=4, query_lanes=2, max_queries=16,
                  max_head_words=4, max_positions=4096, page_positions=64, page_cycles=3),
    # More query lanes than heads, a head of three words, sixteen tokens.
    "wide": dict(n_ports=1, port_bytes=4, vector_lanes=2, token_lanes=16, query_lanes=4, max_queries=32,
                 max_head_words=3, max_positions=100, page_positions=4, page_cycles=2),
    # Heads of up to 256, groups of up to eight.
    "long": dict(n_ports=2, port_bytes=16, vector_lanes=8, token_lanes=2, query_lanes=2, max_queries=16,
                 max_head_words=16, max_positions=512, page_positions=2, page_cycles=4),
}


HEAD_DIMS = {"long": (8, 16, 24, 80, 96, 128, 256)}


def run(name, seed, n_scenarios):
    sizes = SIZES[name]
    simulate(AttentionUnit(**sizes), "celosia.sim_tb.tb_attention", name=f"attention_{name}", seed=seed,
             parameters={"sizes": sizes, "n_scenarios": n_scenarios, "head_dims": HEAD_DIMS.get(name)}, timeout_s=1200)


@pytest.mark.sim
@pytest.mark.parametrize("name", ["tiny", "duo"])
def test_matches_golden(name):
    run(name, seed=1, n_scenarios=14)


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("name,seed", [("tiny", 2), ("duo", 3), ("wide", 1), ("kv260", 1), ("long", 1)])
def test_matches_golden_long(name, seed):
    run(name, seed=seed, n_scenarios=21)


def results(dut, latency, constants, values):
    """What ``dut`` gives for each of ``values`` on its input, ``latency`` cycles later; ``constants``: (input, value) pairs."""
    got = []

    async def bench(ctx):
        for member, value in constants:
            ctx.set(member, value)
        for value in [*values, *[0] * latency]:
            ctx.set(dut.i, value)
            await ctx.tick()
            got.append(ctx.get(dut.o))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return got[latency - 1:-1]


@pytest.mark.parametrize("fine", [0, 1])
def test_to_fixed(fine):
    """Every exponent around the limits, with mantissas that lie on, just below and just above a half."""
    mantissas = [0, 1, 2, 0x3FFFFF, 0x400000, 0x400001, 0x7FFFFE, 0x7FFFFF] + [1 << n for n in range(3, 22)] \
        + [3 << n for n in range(22)]
    bits = [sign << 31 | exponent << 23 | mantissa for sign in (0, 1)
            for exponent in (0, 1, *range(105, 145), 200, 254, 255) for mantissa in mantissas]
    z = f32.mul(f32.from_bits(bits), torch.tensor(2.0 ** (22 if fine else 16)))
    want = f32.to_int(z, -1 << 30, 1 << 30).tolist()
    dut = ToFixed()
    assert results(dut, ToFixed.LATENCY, [(dut.fine, fine)], [F32.from_bits(value) for value in bits]) == want
    assert {math.copysign(1 << 30, x) for x in want} <= set(want)


@pytest.mark.parametrize("cap", [0, 1, 1 << 16, 4_727_111, (1 << 30) - 1])
def test_soft_cap(cap):
    """Both ends of every segment, what lies between, and far beyond."""
    numbers = random.Random(cap)
    near = {(start << 22) + (segment << 17 + drop) + offset for start, drop, segments in ((0, 0, 64), (2, 1, 32), (4, 3, 17))
            for segment in range(segments) for offset in (-1, 0, 1, numbers.randrange(1 << 17 + drop))}
    values = [sign * x for x in sorted(near) for sign in (1, -1)] + [numbers.randrange(-1 << 30, 1 << 30) for _ in range(300)] \
        + [1 << 30, -1 << 30, 0]
    dut = SoftCap()
    want = func.soft_cap(torch.tensor(values), cap).tolist() if cap else values
    assert results(dut, SoftCap.LATENCY, [(dut.cap, cap)], values) == want


def segment_cases(numbers):
    """First position, window, sinks, tokens: small ones, and the ends of their ranges."""
    for first in (0, 1, 7, 8, 4095, 65519):
        for window in {0, 1, 2, 16, first // 2, first, first + 1, first + 2, 65535}:
            for sinks in (0, 1, 4, 5, max(first - window, 0), 65535):
                yield first, window, sinks, numbers.randint(1, 16)
    for _ in range(300):
        first = numbers.randrange(80)
        yield first, numbers.randrange(first + 20), numbers.randrange(first + 20), numbers.randint(1, 16)


@pytest.mark.parametrize("n_ports", [1, 2, 4])
def test_shares_of_a_segment(n_ports):
    """A slice takes what is read for it and no more, and the share says of every record which tokens see it."""
    sizes = {**SIZES["wide"], "n_ports": n_ports, "max_positions": 1 << 16}
    dut = Segment(sizes=AttentionSizes(**sizes))
    cases, got = list(segment_cases(random.Random(n_ports))), []

    async def bench(ctx):
        for first, window, sinks, n_tokens in cases:
            for member, value in (dut.position, first), (dut.window, window), (dut.sinks, sinks), (dut.n_tokens, n_tokens):
                ctx.set(member, value)
            await ctx.tick().repeat(4)
            got.append([ctx.get(share) for share in dut.o])

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    for (first, window, sinks, n_tokens), shares in zip(cases, got):
        start_row, sink_rows = visited_rows(first, window, sinks, n_ports)
        for port, share in enumerate(shares):
            past = [j for row, j in enumerate(range(port, first, n_ports)) if row < sink_rows or row >= start_row]
            own = [j for j in range(first, first + n_tokens) if j % n_ports == port]
            assert (share.n_past, share.n_chunk) == (len(past), len(own))
            if own:
                assert share.first_token == own[0] - first
            for record in range(len(past) + len(own)) if first < 100 else {
                    x for edge in (0, share.n_sinks, share.n_before, len(past)) for x in range(edge - 3, edge + 8)}:
                if 0 <= record < len(past) + len(own):
                    j = (past + own)[record]
                    reach = share.reach + n_ports * (record - share.n_before) if record >= share.n_before else 0
                    seen = [t < reach or record < share.n_sinks for t in range(n_tokens)]
                    want = [window == 0 or j < sinks or j > first + t - window for t in range(n_tokens)]
                    assert seen == want, (first, window, sinks, n_tokens, port, j)


@pytest.mark.parametrize("token_lanes,query_lanes,max_queries",
                         [(4, 1, 16), (2, 2, 8), (16, 2, 64), (16, 4, 16), (1, 4, 4)])
def test_queries_have_places_of_their_own(token_lanes, query_lanes, max_queries):
    """Lane and index name a query, and the queries of a whole chunk fill the lanes evenly, whatever the group."""
    slots = QuerySlots(token_lanes=token_lanes, query_lanes=query_lanes, max_queries=max_queries)

    def evaluate(value):
        values = []

        async def bench(ctx):
            values.append(ctx.get(value))
        simulator = Simulator(Module())
        simulator.add_testbench(bench)
        simulator.run()
        return values[0]

    places = {(t, h): (evaluate(slots.lane(Const(t, 4), Const(h, 6))), evaluate(slots.index(Const(t, 4), Const(h, 6))))
              for t in range(token_lanes) for h in range(slots.heads)}
    assert len(set(places.values())) == max_queries
    assert all(lane < query_lanes and index < slots.max_passes for lane, index in places.values())
    if token_lanes % query_lanes == 0:
        for group in range(1, slots.heads + 1):
            lanes = [places[t, h][0] for t in range(token_lanes) for h in range(group)]
            assert {lanes.count(lane) for lane in range(query_lanes)} == {token_lanes * group // query_lanes}


@pytest.mark.parametrize("change,sentence", [
    ({"n_ports": 3}, "n_ports must be 1, 2 or 4, not 3"),
    ({"port_bytes": 12}, "port_bytes must be 4, 8 or 16, not 12"),
    ({"vector_lanes": 16}, "vector_lanes must be a power of two of at most port_bytes"),
    ({"token_lanes": 3}, "token_lanes must be a power of two of at most 16, not 3"),
    ({"query_lanes": 3}, "query_lanes must be a power of two, not 3"),
    ({"query_lanes": 8}, "query_lanes must be at most token_lanes or the heads of a token"),
    ({"max_queries": 12}, "max_queries must be token_lanes .4. times a power of two"),
    ({"max_head_words": 0}, "max_head_words must be an integer in 1..63, not 0"),
    ({"max_positions": 1 << 17}, "max_positions must be an integer in 1..65536"),
    ({"page_positions": 12}, "page_positions must be a power of two of at least n_ports .1., not 12"),
    ({"page_cycles": 0}, "page_cycles must be a positive integer, not 0"),
])
def test_refuses(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        AttentionUnit(**{**SIZES["tiny"], **change})
