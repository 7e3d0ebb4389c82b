"""Collector against its golden function: the lines of ACT after every command, and how many cycles rows take.

Parameters: ``token_lanes``, ``columns``.
"""

import cocotb
import torch
from cocotb.triggers import RisingEdge

from celosia.gen.golden.binary.post import collect
from celosia.hw.binary.collect import ActPlace, CollectWord
from celosia.hw.binary.links import ActWrite
from celosia.sim_tb.link import Monitor, Sink, Source, cycles, pack, parameters, reset, rng, start_clock

_LINES = 64


def random_place(numbers, columns, a_bits=None):
    """A place and a number of rows that fit ``_LINES`` lines."""
    a_bits = a_bits or numbers.choice([1, 1, 8, 8, numbers.randint(1, 8)])
    line_rows = 8 * numbers.choice([columns // 8, numbers.randint(1, columns // 8)])
    d_first = numbers.choice([0, numbers.randrange(line_rows // 8)])
    d_base = numbers.randrange(_LINES - a_bits + 1)
    most = ((_LINES - d_base) // a_bits * line_rows - 8 * d_first) // 8
    n_rows = 8 * min(most, numbers.choice([1, 2, line_rows // 8, 2 * line_rows // 8, numbers.randint(1, 20)]))
    return {"d_base": d_base, "d_first": d_first, "line_rows": line_rows, "fill": numbers.randrange(2), "a_bits": a_bits}, n_rows


class Bench:
    """The collector, a memory behind it, and what the memory must be."""

    def __init__(self, dut, stall, sink_stall=None):
        self.dut, size = dut, parameters()
        self.lanes, self.columns = size["token_lanes"], size["columns"]
        self.rows = Source(dut, "i", shape=CollectWord(self.lanes), stall=stall)
        self.writes = Sink(dut, "o", shape=ActWrite(self.lanes), stall=stall if sink_stall is None else sink_stall)
        Monitor(dut, "o")
        dut.place.value = 0
        noise = torch.Generator().manual_seed(1)
        self.found = torch.randint(0, 2, (_LINES, self.lanes, self.columns), dtype=torch.uint8, generator=noise)
        self.want = self.found.clone()
        self.n_writes, self.cycle = 0, 0
        cocotb.start_soon(self._write())
        cocotb.start_soon(self._count())

    async def _count(self):
        while True:
            await RisingEdge(self.dut.clk)
            self.cycle += 1

    async def _write(self):
        while True:
            word, = await self.writes.recv(1, timeout_cycles=1_000_000)
            column = 8 * word["column"]
            data = torch.tensor(word["data"])[:, None] >> torch.arange(8) & 1
            self.found[word["line"], :, column:column + 8] = data.to(torch.uint8)
            self.n_writes += 1

    async def command(self, place, values):
        """Send rows (N, M), wait until all has left, compare."""
        self.dut.place.value = pack(ActPlace, place)
        words = [{"value": row, "last": 0} for row in values.tolist()]
        words[-1]["last"] = 1
        begin = self.cycle
        await self.rows.send(words)
        sent = self.cycle
        for _ in range(20_000):
            await RisingEdge(self.dut.clk)
            if not self.dut.busy.value:
                break
        else:
            raise TimeoutError("The collector was busy for 20,000 cycles")
        collect(self.want, values, **place)
        wrong = (self.found != self.want).nonzero()
        assert not len(wrong), f"line, lane, column {wrong[0].tolist()} differs after {len(values)} rows with {place}"
        return sent - begin, self.cycle - sent

    def values(self, numbers, n_rows):
        noise = torch.Generator().manual_seed(numbers.getrandbits(30))
        return torch.randint(0, 256, (n_rows, self.lanes), generator=noise)


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3, 0.8])
async def matches_golden(dut, stall):
    start_clock(dut)
    bench = Bench(dut, stall, sink_stall=rng().choice([0.0, stall, 0.9]) if stall else 0.0)
    await reset(dut)
    for _ in range(60 if stall < 0.5 else 20):
        place, n_rows = random_place(rng(), bench.columns)
        await bench.command(place, bench.values(rng(), n_rows))


@cocotb.test()
async def takes_a_row_a_cycle(dut):
    """Bits of narrow heads, zeros behind them included; integers of whole lines. Zeros behind integers take their time."""
    start_clock(dut)
    bench = Bench(dut, 0.0)
    await reset(dut)
    columns = bench.columns
    for line_rows in range(8, columns + 1, 8):
        place = {"d_base": 1, "d_first": 0, "line_rows": line_rows, "fill": 1, "a_bits": 1}
        n_rows = 4 * line_rows
        taken, drained = await bench.command(place, bench.values(rng(), n_rows))
        n_lines = n_rows // line_rows
        assert taken <= max(n_rows, (n_lines - 1) * columns // 8 + 8) and drained <= columns // 8 + 3, (line_rows, taken, drained)
    place = {"d_base": 1, "d_first": 0, "line_rows": columns, "fill": 0, "a_bits": 8}
    taken, drained = await bench.command(place, bench.values(rng(), 3 * columns))
    assert taken == 3 * columns and drained <= 10, (taken, drained)
    await cycles(dut, 5)
