"""Bench of the matmul engine: every sum against the golden product, with the order of the packer.

A job is one command: trits, activations, bank. The weights of all jobs are offered as one stream, ahead of their
commands; activations are written, and the command sent, when the job that used the same bank before has finished.
"""

from dataclasses import dataclass

import cocotb
import numpy as np
import torch
from cocotb.triggers import RisingEdge

from celosia.gen import pack
from celosia.gen.golden.matmul import matmul
from celosia.hw.config import AccelConfig
from celosia.hw.isa import Sink as QuantSink
from celosia.hw.links import DrainWord, MatmulCommand, QuantWord
from celosia.sim_tb.link import Monitor, Sink, Source, cycles, parameters, reset, rng, start_clock

_LIMIT_CYCLES = 40_000


@dataclass
class Job:
    planes: np.ndarray      # (k, N, K) trits
    act: np.ndarray         # (T, K) int8
    bank: int


class Bench:
    """The engine with all its streams attached."""

    def __init__(self, dut, stall=0.0, config=None):
        self.dut, self.config = dut, config or AccelConfig(**parameters()["config"])
        lanes = self.config.vector_lanes
        self.command = Source(dut, "i_command", shape=MatmulCommand, stall=stall)
        self.weights = Source(dut, "i_weights", stall=stall)
        self.act = Source(dut, "i_act", shape=QuantWord(lanes), stall=stall)
        self.sums = Sink(dut, "o", shape=DrainWord(lanes), stall=stall)
        Monitor(dut, "o")
        self.n_done = 0
        self.beat_cycles = []       # cycle numbers in which a beat was accepted
        self.cycle = 0
        cocotb.start_soon(self._watch())

    async def _watch(self):
        edge = RisingEdge(self.dut.clk)
        while True:
            await edge
            self.cycle += 1
            if self.dut.rst.value:      # the last strobes of the test before
                continue
            self.n_done += int(self.dut.done.value)
            if self.dut.count_busy.value:
                self.beat_cycles.append(self.cycle)

    async def until_done(self, n_jobs):
        for _ in range(_LIMIT_CYCLES):
            if self.n_done >= n_jobs:
                return
            await cycles(self.dut, 1)
        raise TimeoutError(f"{self.n_done} of {n_jobs} commands were done within {_LIMIT_CYCLES} cycles")

    async def write_act(self, job):
        lanes = self.config.vector_lanes
        n_tokens, n_columns = job.act.shape
        n_words = -(-n_columns // lanes)
        padded = np.full((n_tokens, n_words * lanes), 99, np.int8)      # junk: its weights are zero
        padded[:, :n_columns] = job.act
        for t in range(n_tokens):
            await self.act.send([
                {"sink": QuantSink.ACT, "bank": job.bank, "token": t, "word": w, "last": int(w == n_words - 1),
                 "data": padded[t, w * lanes:(w + 1) * lanes].tolist()} for w in range(n_words)])

    def beats(self, job):
        """The beats of a job as integers, the bytes of port 0 lowest."""
        config = self.config
        ports = [port.reshape(-1, config.port_bytes) for port in pack.pack_matmul(job.planes, config)]
        return [int.from_bytes(beat.tobytes(), "little") for beat in np.concatenate(ports, axis=1)]

    async def send_command(self, job):
        rows, columns = pack.padded_shape(*job.planes.shape[1:], self.config)
        await self.command.send([{
            "n_row_groups": rows // self.config.engine_rows, "n_col_blocks": columns // self.config.columns,
            "planes": job.planes.shape[0], "bank": job.bank, "n_lanes": job.act.shape[0]}],
            timeout_cycles=_LIMIT_CYCLES)

    def expected(self, job):
        """Drain words of a job in their order."""
        config = self.config
        acc = matmul(torch.from_numpy(job.planes), torch.from_numpy(job.act)).numpy()
        rows, _ = pack.padded_shape(*job.planes.shape[1:], config)
        acc = np.pad(acc, ((0, 0), (0, rows - acc.shape[1])))
        words = []
        for top in range(0, rows, config.row_block_rows):
            block = acc[:, top:top + config.row_block_rows]
            words += [{"acc": word} for word in block.reshape(-1, config.vector_lanes).tolist()]
        return words

    async def run(self, jobs):
        """Run all jobs and compare all words."""
        beats = [beat for job in jobs for beat in self.beats(job)]
        feeding = cocotb.start_soon(self.weights.send(beats, timeout_cycles=_LIMIT_CYCLES))

        async def drive():
            last_user = {}
            for number, job in enumerate(jobs):
                await self.until_done(last_user.get(job.bank, 0))
                last_user[job.bank] = number + 1
                await self.write_act(job)
                await self.send_command(job)

        driving = cocotb.start_soon(drive())
        for number, job in enumerate(jobs):
            expected = self.expected(job)
            found = await self.sums.recv(len(expected), timeout_cycles=_LIMIT_CYCLES)
            for at, (one, other) in enumerate(zip(found, expected)):
                assert one == other, f"job {number} {job.planes.shape} x {job.act.shape}, word {at}: {one} != {other}"
        await driving
        await feeding
        await self.until_done(len(jobs))
        await cycles(self.dut, 20)
        assert self.n_done == len(jobs) and not self.dut.o__valid.value
        assert len(self.beat_cycles) == len(beats)


def random_job(config, numbers, bank, *, n_planes=None, n_rows=None, n_columns=None, n_tokens=None):
    rng_np = np.random.default_rng(numbers.randrange(1 << 32))
    n_planes = n_planes or numbers.choice([1, 1, 1, 2, 3, 5])
    n_rows = n_rows or numbers.choice([1, config.engine_rows, numbers.randint(1, 40),
                                       numbers.randint(1, min(config.row_block_rows + 8, 300))])
    n_columns = n_columns or numbers.randint(1, min(config.max_columns, 4 * config.columns))
    n_tokens = n_tokens or numbers.randint(1, config.token_lanes)
    return Job(rng_np.integers(-1, 2, (n_planes, n_rows, n_columns)).astype(np.int8),
               rng_np.integers(-128, 128, (n_tokens, n_columns)).astype(np.int8), bank)


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3, 0.8])
async def matches_golden(dut, stall):
    """Random shapes that do not divide, one after the other, with alternating banks."""
    start_clock(dut)
    bench = Bench(dut, stall)
    await reset(dut)
    n_jobs = parameters()["n_jobs"] if stall < 0.5 else max(2, parameters()["n_jobs"] // 3)
    await bench.run([random_job(bench.config, rng(), number % 2) for number in range(n_jobs)])


@cocotb.test()
async def row_blocks(dut):
    """More rows than partial sums, several planes, all lanes; then a short matrix at once."""
    start_clock(dut)
    bench = Bench(dut, 0.1)
    await reset(dut)
    config = bench.config
    n_rows = 2 * config.row_block_rows + config.row_quantum
    await bench.run([
        random_job(config, rng(), 0, n_planes=2, n_rows=n_rows, n_columns=config.columns + 1,
                   n_tokens=config.token_lanes),
        random_job(config, rng(), 1, n_planes=1, n_rows=1, n_columns=1, n_tokens=1),
        random_job(config, rng(), 0, n_planes=1, n_rows=n_rows, n_columns=1, n_tokens=1)])


@cocotb.test()
async def few_row_groups(dut):
    """One to six row groups, weights that come late: two column blocks are ready, and the sums of the first are wanted
    again at once."""
    start_clock(dut)
    bench = Bench(dut)
    await reset(dut)
    config = bench.config
    for number in range(1, 7):
        job = random_job(config, rng(), number % 2, n_planes=3, n_rows=config.engine_rows * number,
                         n_columns=4 * config.columns, n_tokens=1)
        await bench.write_act(job)
        await bench.send_command(job)
        for half in np.array_split(np.array(bench.beats(job), dtype=object), 2):
            await cycles(dut, 60)
            cocotb.start_soon(bench.weights.send(half.tolist(), timeout_cycles=_LIMIT_CYCLES))
            await cycles(dut, 8 * 14 + 8 * number)
        expected = bench.expected(job)
        assert await bench.sums.recv(len(expected), timeout_cycles=_LIMIT_CYCLES) == expected


@cocotb.test()
async def extremes(dut):
    """The largest sums of either sign over the longest vector."""
    start_clock(dut)
    bench = Bench(dut)
    await reset(dut)
    config = bench.config
    jobs = []
    for number, (act, trit) in enumerate([(-128, 1), (-128, -1), (127, 1), (127, -1)]):
        n_planes = 5 if number % 2 else 1
        n_columns = min(config.max_columns, 12 * config.columns, config.max_planes_columns(n_planes))
        jobs.append(Job(np.full((n_planes, config.row_quantum, n_columns), trit, np.int8),
                        np.full((config.token_lanes, n_columns), act, np.int8), number % 2))
    longest = random_job(config, rng(), 0, n_planes=1, n_rows=config.row_quantum, n_columns=config.max_columns,
                         n_tokens=config.token_lanes)
    longest.act[:] = -128
    longest.planes[:] = np.sign(longest.planes - 0.5)
    await bench.run([*jobs, longest])


@cocotb.test()
async def output_blocked(dut):
    """While nothing leaves, beats go on until the finished sums are full; then all words come."""
    start_clock(dut)
    bench = Bench(dut)
    await reset(dut)
    config = bench.config
    rows = 4 * config.row_block_rows
    job = random_job(config, rng(), 0, n_planes=1, n_rows=rows, n_columns=1, n_tokens=1)
    await bench.write_act(job)
    cocotb.start_soon(bench.weights.send(bench.beats(job), timeout_cycles=_LIMIT_CYCLES))
    await bench.send_command(job)
    await cycles(dut, 8 * config.max_row_groups + 400)
    accepted = len(bench.beat_cycles)
    assert 2 * config.max_row_groups <= accepted < 3 * config.max_row_groups + 40, accepted
    expected = bench.expected(job)
    assert await bench.sums.recv(len(expected), timeout_cycles=_LIMIT_CYCLES) == expected


@cocotb.test()
async def full_rate(dut):
    """64 row groups x 16 column blocks for one lane, three commands: beats in at least 97 % of the cycles.

    Row blocks of less than 32 row groups are bound by their tables instead.
    """
    start_clock(dut)
    bench = Bench(dut)
    await reset(dut)
    config = bench.config
    n_columns = min(16 * config.columns, config.max_columns)
    jobs = [random_job(config, rng(), bank, n_planes=n_planes, n_rows=64 * config.engine_rows, n_columns=n_columns,
                       n_tokens=1) for bank, n_planes in ((0, 1), (1, 1), (0, 2))]
    jobs[2].act = jobs[0].act       # its bank is written already
    for job in jobs[:2]:
        await bench.write_act(job)
    beats = [beat for job in jobs for beat in bench.beats(job)]
    cocotb.start_soon(bench.weights.send(beats, timeout_cycles=_LIMIT_CYCLES))

    async def drive():
        for job in jobs:
            await bench.send_command(job)

    cocotb.start_soon(drive())
    began = bench.cycle
    words = [word for job in jobs for word in bench.expected(job)]
    assert await bench.sums.recv(len(words), timeout_cycles=_LIMIT_CYCLES) == words
    first, last = bench.beat_cycles[0], bench.beat_cycles[-1]
    share = len(beats) / (last - first + 1)
    dut._log.info(f"{len(beats)} beats in {last - first + 1} cycles: {share:.4f}; first beat after "
                  f"{first - began} cycles, last word {bench.cycle - last} cycles after the last beat")
    assert share >= (0.97 if config.max_row_groups >= 32 else config.max_row_groups / 18)
    assert first - began < 40
    # The sums of a block of rows leave while its last column block streams, as fast as the words are wide.
    block_groups = min(64, config.max_row_groups)
    block_words = block_groups * config.engine_rows // config.vector_lanes
    assert bench.cycle - last < 20 + max(0, block_words - block_groups)


@cocotb.test()
async def column_blocks(dut):
    """With few row groups a column block takes the time of its rounds of tables, with many that of its beats."""
    start_clock(dut)
    bench = Bench(dut)
    await reset(dut)
    config = bench.config
    for n_groups, n_tokens in ((2, 1), (16, 1), (2, config.token_lanes), (64, config.token_lanes)):
        n_groups = min(n_groups, config.max_row_groups)
        rounds = -(-n_tokens // config.table_builders)
        before, words_before = len(bench.beat_cycles), bench.n_done
        job = random_job(config, rng(), 0, n_planes=2, n_rows=n_groups * config.engine_rows, n_tokens=n_tokens,
                         n_columns=min(8 * config.columns, config.max_columns))
        await bench.write_act(job)
        cocotb.start_soon(bench.weights.send(bench.beats(job), timeout_cycles=_LIMIT_CYCLES))
        await bench.send_command(job)
        expected = bench.expected(job)
        assert await bench.sums.recv(len(expected), timeout_cycles=_LIMIT_CYCLES) == expected
        await bench.until_done(words_before + 1)
        taken = bench.beat_cycles[-1] - bench.beat_cycles[before] + 1
        n_blocks = len(bench.beats(job)) // pack.padded_shape(*job.planes.shape[1:], config)[0] * config.engine_rows
        dut._log.info(f"{n_groups} row groups, {rounds} rounds: {taken / n_blocks:.1f} cycles a column block")
        assert taken <= (max(n_groups, 14 * rounds) + 3) * n_blocks
