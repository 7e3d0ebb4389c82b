"""Bench of dispatch of the binary machine: random programs in, commands and read jobs out, units played here."""

import random

import cocotb
from cocotb.triggers import RisingEdge

from celosia.hw.binary import isa
from celosia.hw.binary.isa import Kind, Opcode, Operand, Post, Target
from celosia.hw.binary.links import UNITS, LoadCommand, MatmulCommand
from celosia.hw.links import ReadJob
from celosia.hw.mem.links import ErrorReport, Fetched
from celosia.hw.regs import Error
from celosia.sim_tb.binary_descriptors import command, judge, raw, reads
from celosia.sim_tb.link import Monitor, Sink, Source, cycles, pack, parameters, reset, rng, start_clock, unpack

COMMANDS = {"load": LoadCommand, "matmul": MatmulCommand(), "norm": isa.Norm}
NORM = {"n_rows": 8, "shift": 16, "mean_shift": 20, "imm": 0x4C80_0000}


def descriptor(numbers, size, unit, waits=(0, 0, 0)):
    """A legal descriptor."""
    addr = {"addr": numbers.getrandbits(40 if numbers.random() < 0.2 else 20), "port_stride": numbers.getrandbits(32)}
    if unit == "load":
        target = numbers.choice(list(Target))
        return raw(Opcode.LOAD, waits, **addr, n_beats=size["token_lanes"] // size["engine_rows"] * 2 * numbers.randint(1, 3),
                   target=target, cache=numbers.randrange(2))
    if unit == "norm":
        return raw(Opcode.NORM, waits, **NORM, x_base=numbers.randrange(60), lo=numbers.getrandbits(8), eps=numbers.getrandbits(48))
    operand = numbers.choice(list(Operand))
    ints = operand is not Operand.KEYS and numbers.randrange(2)
    return raw(Opcode.MATMUL, waits, **addr, n_row_groups=numbers.randint(1, 9), n_col_blocks=1 if operand is Operand.KEYS else
               numbers.randint(1, 4), w_planes=numbers.randint(1, 8) if operand is Operand.PORTS else 1, operand=operand,
               a_bits=numbers.randint(2, 8) if ints else 1, kind=Kind.INTS if ints else numbers.randrange(2), post=Post.RAW,
               out=numbers.getrandbits(40), n_const=numbers.getrandbits(24), causal=1)


def program(numbers, size, n):
    """Legal descriptors with waits for earlier ones, and END."""
    issued, found = dict.fromkeys(UNITS, 0), []
    for _ in range(n):
        unit = numbers.choice(UNITS)
        waits = [max(0, count - numbers.choice([0, 0, 1, 2, 5])) if numbers.random() < 0.4 else 0 for count in issued.values()]
        found.append(descriptor(numbers, size, unit, waits))
        assert judge(found[-1], size) == Error.NONE
        issued[unit] += 1
    return [*found, raw(Opcode.END)]


class Bench:
    """Dispatch with units that take their commands and end them some cycles later, in order."""

    def __init__(self, dut, stall=0.2):
        self.dut, self.edge, self.size = dut, RisingEdge(dut.clk), parameters()
        start_clock(dut)
        self.source = Source(dut, "i", shape=Fetched, stall=stall)
        self.units = {unit: Sink(dut, f"o_{unit}", shape=shape, stall=stall) for unit, shape in COMMANDS.items()}
        self.jobs = [Sink(dut, f"o_jobs__{p}", shape=ReadJob, stall=stall) for p in range(self.size["n_ports"])]
        for name, shape in COMMANDS.items():
            Monitor(dut, f"o_{name}", shape=shape)
        self.tasks, self.strobes = [], 0
        dut.done.value = 0

    async def begin(self, descriptors, *, last=None):
        """Reset, and feed a program; ``last`` is the index at which it has no further one."""
        for task in self.tasks:
            task.cancel()
        self.strobes = 0
        await reset(self.dut)
        last = len(descriptors) - 1 if last is None else last
        words = [{"bits": bits, "index": index, "last": int(index == last)} for index, bits in enumerate(descriptors)]
        self.taken, self.completed, self.got = {unit: [] for unit in UNITS}, dict.fromkeys(UNITS, 0), [[] for _ in self.jobs]
        self.tasks = [cocotb.start_soon(task) for task in (
            self.source.send(words, timeout_cycles=100_000), self.strobe(), *map(self.play, UNITS),
            *(self.take(sink, got) for sink, got in zip(self.jobs, self.got)))]

    async def strobe(self):
        while True:
            await self.edge
            self.dut.done.value, self.strobes = self.strobes, 0

    async def play(self, unit):
        numbers = random.Random(unit)
        while True:
            found, = await self.units[unit].recv(1, timeout_cycles=1_000_000)
            self.taken[unit].append((found, dict(self.completed)))
            await cycles(self.dut, numbers.choice([1, 1, 3, 20]))
            self.completed[unit] += 1
            self.strobes |= 1 << UNITS.index(unit)
            await self.edge

    async def take(self, sink, got):
        while True:
            got += await sink.recv(1, timeout_cycles=1_000_000)

    async def until(self, condition, limit_cycles=20_000):
        for _ in range(limit_cycles):
            await self.edge
            if condition():
                return
        raise TimeoutError(f"nothing within {limit_cycles} cycles; completed {self.completed}")

    def error(self):
        return unpack(ErrorReport, int(self.dut.error.value))


@cocotb.test()
async def issues_programs(dut):
    """Commands, waits and read jobs of random programs; the oldest descriptor that is not finished; the end."""
    bench = Bench(dut)
    for n in (0, 1, 2, 15, 40, 150):
        descriptors = program(rng(), bench.size, n)
        await bench.begin(descriptors)
        await bench.until(lambda: dut.finished.value)
        await cycles(dut, 40)
        assert dut.ended.value and not bench.error()["valid"]
        assert sum(bench.completed.values()) == n == int(dut.oldest.value)
        for unit in UNITS:
            mine = [(index, bits) for index, bits in enumerate(descriptors) if bits & 0xFF == 1 + UNITS.index(unit)]
            assert [found for found, _ in bench.taken[unit]] == [
                unpack(COMMANDS[unit], pack_command(unit, bits, index)) for index, bits in mine], f"commands of {unit}"
            for (_, bits), (_, completed) in zip(mine, bench.taken[unit]):
                for k, other in enumerate(UNITS):
                    wait = bits >> 32 + 16 * k & 0xFFFF
                    assert completed[other] >= wait, f"{unit} began with {completed} and waits for {wait} of {other}"
        jobs = [reads(bits, index, bench.size) for index, bits in enumerate(descriptors[:-1])]
        for p, got in enumerate(bench.got):
            assert got == [job[p] for job in jobs if job[p]], f"jobs of port {p}"


def pack_command(unit, bits, index):
    """Bits of a command, from its fields as they stand in the descriptor."""
    if unit == "norm":
        return bits >> 96
    return pack(COMMANDS[unit], {name: unsigned_field(COMMANDS[unit], name, value) for name, value in command(bits, index).items()})


def unsigned_field(shape, name, value):
    """A field of a descriptor, which has no sign, as its shape has it."""
    field = dict(shape if isinstance(shape, MatmulCommand) else shape.as_shape())[name]
    signed = getattr(field.shape, "signed", False)
    return value - (1 << field.width) if signed and value >> field.width - 1 else value


@cocotb.test()
async def bad_descriptors(dut):
    """OPCODE and SIZE at the index of the culprit; what came before is issued, nothing after it; FETCH behind the last."""
    bench, numbers = Bench(dut), rng("bad")
    good = program(numbers, bench.size, 5)[:-1]
    cases = [(raw(200), Error.OPCODE), (raw(4), Error.OPCODE), (raw(Opcode.LOAD, target=3, n_beats=1), Error.OPCODE),
             (raw(Opcode.LOAD), Error.SIZE), (raw(Opcode.NORM, **NORM | {"n_rows": 0}), Error.SIZE),
             (raw(Opcode.MATMUL, n_row_groups=1, n_col_blocks=1, w_planes=9, a_bits=1), Error.SIZE)]
    for bits, code in cases:
        if code == Error.SIZE:
            assert judge(bits, bench.size) == code
        await bench.begin([*good, bits, *good, raw(Opcode.END)])
        await bench.until(lambda: bench.error()["valid"])
        assert bench.error() == {"valid": 1, "code": code, "index": len(good)}
        await cycles(dut, 400)
        assert sum(map(len, bench.taken.values())) == len(good) and not dut.ended.value
    await bench.begin([*good, *good], last=len(good) - 1)
    await bench.until(lambda: bench.error()["valid"])
    assert bench.error() == {"valid": 1, "code": Error.FETCH, "index": len(good) - 1}
