"""Bench of the binary engine: every row against the golden product, from every operand and of every kind.

ACT and V are filled with random bits through their streams, and the bench keeps what they hold. A job is one command; what it
multiplies is taken from there, and from beats of its own.
"""

from dataclasses import dataclass

import cocotb
import numpy as np
import torch
from cocotb.triggers import RisingEdge

from celosia.gen.golden.binary.matmul import matmul
from celosia.hw.binary.engine_words import pass_blocks
from celosia.hw.binary.isa import Kind, Operand
from celosia.hw.binary.links import ActWrite, EngineCommand, RowWord, VWrite
from celosia.sim_tb.link import Monitor, Sink, Source, cycles, parameters, reset, rng, start_clock

_LIMIT_CYCLES = 20_000


@dataclass
class Job:
    command: dict
    weights: np.ndarray     # (w_planes, row groups * R, column blocks * C) bits; PORTS alone


class Bench:
    """The engine with all its streams attached."""

    def __init__(self, dut, stall=0.0):
        self.dut = dut
        sizes = parameters()
        self.lanes, self.rows, self.columns = (sizes[name] for name in ("token_lanes", "engine_rows", "columns"))
        self.lines, self.words = sizes["act_lines"], sizes["v_words"]
        self.command = Source(dut, "i_command", shape=EngineCommand, stall=stall)
        self.weights = Source(dut, "i_weights", stall=stall)
        self.act_writes = Source(dut, "i_act", shape=ActWrite(self.lanes), stall=stall / 4)
        self.v_writes = Source(dut, "i_v", shape=VWrite(self.lanes), stall=stall / 4)
        self.o = Sink(dut, "o", shape=RowWord(self.lanes), stall=stall)
        Monitor(dut, "o")
        self.rng = np.random.default_rng(rng().randrange(1 << 32))
        self.cycle, self.n_done, self.beat_cycles, self.waits = 0, 0, [], {"weights": 0, "rows": 0}
        cocotb.start_soon(self._watch())

    async def _watch(self):
        edge = RisingEdge(self.dut.clk)
        while True:
            await edge
            self.cycle += 1
            if self.dut.rst.value:
                continue
            self.n_done += int(self.dut.done.value)
            if self.dut.count_busy.value:
                self.beat_cycles.append(self.cycle)
            for name in self.waits:
                self.waits[name] += int(getattr(self.dut, f"count_wait_{name}").value)

    async def start(self, fill=None):
        """Reset, and ACT and V full of random bits, or of ``fill``."""
        await reset(self.dut)
        draw = self.bits if fill is None else lambda *shape: np.full(shape, fill, np.uint8)
        self.act = draw(self.lines, self.lanes, self.columns)
        self.v = draw(self.words, self.rows, self.columns)
        act_bytes = np.packbits(self.act, axis=2, bitorder="little")
        writing = cocotb.start_soon(self.v_writes.send(self._v_writes()))
        await self.act_writes.send([
            {"line": line, "column": column, "data": act_bytes[line, :, column].tolist()}
            for line in range(self.lines) for column in range(self.columns // 8)])
        await writing
        await cycles(self.dut, 2)

    def _v_writes(self):
        """All of V, the rows of a word in random order, the words of a chunk at once where lanes are more than columns."""
        writes = []
        words, parts = max(1, self.lanes // self.columns), max(1, self.columns // self.lanes)
        chunks = 256 // parts
        for word in range(0, self.words - words + 1, words):
            for bank in self.rng.permutation(self.rows):
                row = self.v[word:word + words, bank].reshape(parts, -1)
                writes += [{"word": word, "bank": int(bank), "chunk": int(self.rng.integers(chunks)) * parts + part,
                            "bits": number(row[part])} for part in range(parts)]
        return writes

    def bits(self, *shape):
        return self.rng.integers(0, 2, shape, dtype=np.uint8)

    def job(self, operand=Operand.PORTS, kind=Kind.SIGNS, *, groups, blocks=1, w_planes=1, a_bits=1, weights=None, n_const=None,
            k_stride=1, v_blocks=None):
        """A job of these sizes at random places; PORTS: of random ``weights``, or of all the same bit."""
        v_blocks = min(blocks, 15) if v_blocks is None else v_blocks
        key_lines = (groups * self.rows - 1) // self.lanes * k_stride + 1
        last_word = (groups - 1) * v_blocks + blocks
        k_room = {Operand.PORTS: 1, Operand.KEYS: self.lines - key_lines + 1, Operand.VALUES: self.words - last_word + 1}[operand]
        shape = w_planes, groups * self.rows, blocks * self.columns
        if operand is not Operand.PORTS:
            weights = np.zeros(shape, np.uint8)
        elif weights is None:
            weights = self.bits(*shape)
        else:
            weights = np.full(shape, weights, np.uint8)
        return Job({
            "n_row_groups": groups, "n_col_blocks": blocks, "w_planes": w_planes, "a_bits": a_bits,
            "operand": operand, "kind": kind,
            "n_const": int(self.rng.integers(1 << 13)) if n_const is None else n_const,
            "a_base": int(self.rng.integers(self.lines - blocks * a_bits + 1)), "k_base": int(self.rng.integers(k_room)),
            "k_stride": k_stride, "v_blocks": v_blocks}, weights)

    def random_job(self):
        """Any operand, any kind, as large as the memories allow."""
        pick = self.rng.integers
        operand = [Operand.PORTS, Operand.PORTS, Operand.KEYS, Operand.VALUES][pick(4)]
        kind = list(Kind)[pick(3 if operand is not Operand.KEYS else 2)]
        a_bits = int(pick(2, 9)) if kind is Kind.INTS else 1
        most = min(self.lines // a_bits, 6 if pick(4) else pass_blocks(self.columns) + 3)
        blocks, groups = int(pick(1, most + 1)), int(pick(1, 7))
        match operand:
            case Operand.PORTS:
                w_planes = int([1, 1, pick(1, 9)][pick(3)])
                return self.job(operand, kind, groups=groups, blocks=blocks, a_bits=a_bits, w_planes=w_planes)
            case Operand.KEYS:
                stride = int(pick(1, 4))
                groups = min(int(pick(1, 3 * self.lanes // self.rows + 1)), (self.lines // stride - 1) * self.lanes // self.rows)
                return self.job(operand, kind, groups=groups, k_stride=stride)
            case Operand.VALUES:
                blocks = min(blocks, self.words, 15)
                v_blocks = int(pick(blocks, 16))
                groups = min(groups, (self.words - blocks) // v_blocks + 1)
                return self.job(operand, kind, groups=groups, blocks=blocks, v_blocks=v_blocks, a_bits=a_bits)

    def beats(self, job):
        """The beats of a job as integers, in the order row group, weight plane, column block."""
        if job.command["operand"] is not Operand.PORTS:
            return []
        planes, rows, columns = job.weights.shape
        cut = job.weights.reshape(planes, rows // self.rows, self.rows, columns // self.columns, self.columns)
        return [number(beat) for beat in cut.transpose(1, 0, 3, 2, 4).reshape(-1, self.rows * self.columns)]

    def expected(self, job):
        """Rows of a job."""
        command = job.command
        groups, blocks, a_bits, k_base = (command[name] for name in ("n_row_groups", "n_col_blocks", "a_bits", "k_base"))
        weights = job.weights
        if command["operand"] is Operand.KEYS:
            rows = range(groups * self.rows)
            weights = np.stack([self.act[k_base + j // self.lanes * command["k_stride"], j % self.lanes] for j in rows])[None]
        elif command["operand"] is Operand.VALUES:
            words = self.v[k_base + np.arange(groups)[:, None] * command["v_blocks"] + np.arange(blocks)]
            weights = words.transpose(0, 2, 1, 3).reshape(1, groups * self.rows, -1)
        lines = self.act[command["a_base"]:command["a_base"] + blocks * a_bits].reshape(blocks, a_bits, self.lanes, self.columns)
        act = lines.transpose(1, 0, 3, 2).reshape(a_bits, -1, self.lanes)
        rows = matmul(torch.from_numpy(weights), torch.from_numpy(act.copy()), command["kind"], command["n_const"])
        return [{"y": row} for row in rows.tolist()]

    async def run(self, jobs):
        """Run all jobs, one behind the other, and compare all rows. Returns cycles from the first beat to the last."""
        n_done, n_beats = self.n_done, len(self.beat_cycles)
        beats = [beat for job in jobs for beat in self.beats(job)]
        feeding = cocotb.start_soon(self.weights.send(beats, timeout_cycles=_LIMIT_CYCLES))
        driving = cocotb.start_soon(self.command.send([job.command for job in jobs], timeout_cycles=_LIMIT_CYCLES))
        for place, job in enumerate(jobs):
            expected = self.expected(job)
            found = await self.o.recv(len(expected), timeout_cycles=_LIMIT_CYCLES)
            for row, (one, other) in enumerate(zip(found, expected)):
                assert one == other, f"job {place} {job.command}, row {row}: {one} != {other}"
        await driving
        await feeding
        await cycles(self.dut, 30)
        assert self.n_done == n_done + len(jobs) and not self.dut.o__valid.value
        assert len(self.beat_cycles) - n_beats == sum(np.prod([job.command[name] for name in (
            "n_row_groups", "n_col_blocks", "w_planes", "a_bits")]) for job in jobs)
        return self.beat_cycles[-1] - self.beat_cycles[n_beats] + 1


def number(bits):
    """Bits as an integer, the first one lowest."""
    return int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3, 0.8])
async def matches_golden(dut, stall):
    """Random commands, one behind the other."""
    start_clock(dut)
    bench = Bench(dut, stall)
    await bench.start()
    n_jobs = parameters()["n_jobs"] if stall < 0.5 else parameters()["n_jobs"] // 2
    await bench.run([bench.random_job() for _ in range(n_jobs)])


@cocotb.test()
async def every_size_once(dut):
    """Every number of weight planes with every number of planes of the activations; one to four row groups and column blocks."""
    start_clock(dut)
    bench = Bench(dut, 0.1)
    await bench.start()
    jobs = [bench.job(kind=Kind.INTS, groups=1, blocks=1 + (p + b) % 2, w_planes=p, a_bits=b)
            for p in range(1, 9) for b in range(2, 9)]
    for kind in (Kind.SIGNS, Kind.BITS):
        jobs += [bench.job(kind=kind, groups=2, blocks=2, w_planes=p) for p in range(1, 9)]
        jobs += [bench.job(operand, kind, groups=groups, blocks=blocks) for groups in range(1, 5) for blocks in range(1, 5)
                 for operand in (Operand.PORTS, Operand.VALUES)]
        jobs += [bench.job(Operand.KEYS, kind, groups=groups) for groups in range(1, 5)]
    await bench.run(jobs)


@cocotb.test()
@cocotb.parametrize(fill=[0, 1])
async def extremes(dut, fill):
    """The greatest counts of long vectors: all columns agree, or none does; n at both ends."""
    start_clock(dut)
    bench = Bench(dut)
    await bench.start(fill)
    jobs = []
    for weights in (0, 1):
        for kind, a_bits in ((Kind.SIGNS, 1), (Kind.BITS, 1), (Kind.INTS, 8)):
            blocks = bench.lines // a_bits
            for w_planes in (1, 8):
                jobs += [bench.job(kind=kind, groups=2, blocks=min(blocks, 255), w_planes=w_planes, a_bits=a_bits, weights=weights,
                                   n_const=n_const) for n_const in (0, (1 << 24) - 1)]
    await bench.run(jobs)


@cocotb.test()
async def output_blocked(dut):
    """While no row leaves, beats go on until there is no more room; then all rows come."""
    start_clock(dut)
    bench = Bench(dut)
    await bench.start()
    job = bench.job(groups=200, blocks=1)
    feeding = cocotb.start_soon(bench.weights.send(bench.beats(job), timeout_cycles=_LIMIT_CYCLES))
    await bench.command.send([job.command])
    await cycles(dut, 1000)
    accepted = len(bench.beat_cycles)
    assert 2 <= accepted <= 64 // bench.rows and bench.waits["rows"] > 500, (accepted, bench.waits)
    expected = bench.expected(job)
    assert await bench.o.recv(len(expected), timeout_cycles=_LIMIT_CYCLES) == expected
    await feeding


@cocotb.test()
async def reset_at_work(dut):
    """A reset while beats, counts and rows are under way leaves nothing behind."""
    start_clock(dut)
    bench = Bench(dut)
    for n_cycles in (*range(9, 40, 2), 100):
        await bench.start() if n_cycles == 9 else await reset(dut, 1)
        feeding = cocotb.start_soon(bench.weights.send([number(bench.bits(bench.rows * bench.columns)) for _ in range(200)]))
        await bench.command.send([bench.job(kind=Kind.INTS, groups=30, blocks=1 + n_cycles % 3, w_planes=2, a_bits=2).command])
        await cycles(dut, n_cycles)
        feeding.cancel()
        dut.i_weights__valid.value = 0
        await reset(dut, 1)
        await bench.run([bench.job(kind=Kind.INTS, groups=2, blocks=2, w_planes=2, a_bits=3), bench.job(groups=1)])


@cocotb.test()
async def full_rate(dut):
    """Cycles of commands for which everything is there."""
    start_clock(dut)
    bench = Bench(dut)
    await bench.start()
    rows = bench.rows
    for job, expected in (
            (bench.job(groups=40, blocks=rows), 40 * rows), (bench.job(groups=20, blocks=rows + 1), 20 * rows + 20),
            (bench.job(groups=4, blocks=bench.lines), 4 * bench.lines), (bench.job(groups=40, blocks=1), 39 * rows + 1),
            (bench.job(kind=Kind.BITS, groups=10, blocks=rows + 2, w_planes=3), 30 * (rows + 2)),
            (bench.job(kind=Kind.INTS, groups=10, blocks=rows + 2, a_bits=2), 20 * (rows + 2)),
            (bench.job(Operand.VALUES, groups=bench.words // rows, blocks=rows), bench.words),
            (bench.job(Operand.KEYS, groups=3 * bench.lanes // rows), 3 * bench.lanes - rows + 1)):
        taken = await bench.run([job])
        dut._log.info(f"{job.command}: {taken} cycles")
        assert taken == expected, (job.command, taken, expected)
        assert job.command["operand"] is not Operand.PORTS or not bench.waits["weights"], "the bench itself must not stall"
    jobs = [bench.job(groups=3, blocks=blocks) for blocks in range(rows, min(3 * rows, bench.lines))]
    assert await bench.run(jobs) == 3 * sum(range(rows, min(3 * rows, bench.lines)))


@cocotb.test()
async def starved(dut):
    """Beats that come late are waited for, and counted as that."""
    start_clock(dut)
    bench = Bench(dut)
    await bench.start()
    job = bench.job(groups=3, blocks=2)
    cocotb.start_soon(bench.command.send([job.command]))
    await cycles(dut, 50)
    assert 40 < bench.waits["weights"] <= 50 and not bench.beat_cycles and not bench.waits["rows"], bench.waits
    feeding = cocotb.start_soon(bench.weights.send(bench.beats(job)))
    expected = bench.expected(job)
    assert await bench.o.recv(len(expected)) == expected
    await feeding
