"""Bench of NORM with its memories: X and P are loaded, and what is in X and ACT afterwards is compared with the golden function.

The design is ``NormPath`` of tests/hw/test_binary_norm.py. Parameters: ``token_lanes``, ``columns``, ``beat_words``, ``x_words``,
``p_words``.
"""

import struct

import cocotb
import torch
from cocotb.triggers import Lock, RisingEdge

from celosia.gen.golden.binary.norm import norm
from celosia.gen.golden.binary.post import collect
from celosia.hw.binary.isa import NORM_SHIFTS, Norm
from celosia.hw.binary.links import ActWrite, ParamWrite, XRow, XWrite
from celosia.sim_tb.link import Monitor, Sink, Source, cycles, parameters, reset, rng, start_clock, unpack

_LINES = 128
_LIMIT_CYCLES = 20_000
_LARGEST = (1 << 17) - 1


def scalars(d, *, eps=0.0, center=1):
    """The scalar fields of a NORM of d rows."""
    shift = 17 + (d - 1).bit_length()
    return {"n_rows": d, "inv_d": round((1 << shift) / d), "mean_shift": shift, "eps": round(eps * d * d * (1 << 20)),
            "imm": struct.unpack("<I", struct.pack("<f", d * 2.0 ** 26))[0], "center": center}


def affine_word(mult, bias):
    """An AffineParam as a signed number of 64 bits."""
    return bias << 18 | mult & 0x3_FFFF


def threshold_word(level, flip):
    """A ThresholdParam as a signed number of 64 bits."""
    return level & 0xFFFF_FFFF | flip << 32


class Bench:
    """The design, what X, P and ACT hold and what they must hold."""

    def __init__(self, dut, stall=0.0):
        self.dut, self.size = dut, parameters()
        lanes = self.lanes = self.size["token_lanes"]
        self.columns = self.size["columns"]
        self.commands = Source(dut, "i_command", shape=Norm, stall=stall)
        self.rows = Source(dut, "i_x", shape=XWrite(lanes), stall=stall)
        self.words = Source(dut, "i_p", shape=ParamWrite(self.size["beat_words"]), stall=stall)
        self.writes = Sink(dut, "o_act", shape=ActWrite(lanes), stall=stall)
        Monitor(dut, "o_act")
        for name in ("want", "read_en", "read_addr", "write_en", "write_addr", "write_data"):
            getattr(dut, f"post_{name}").value = 0
        dut.post_p_addr.value = 0
        noise = torch.Generator().manual_seed(rng().getrandbits(30))
        self.act = torch.randint(0, 2, (_LINES, lanes, self.columns), dtype=torch.uint8, generator=noise)
        self.want_act = self.act.clone()
        self.x = torch.zeros(self.size["x_words"], lanes, dtype=torch.int64)
        self.p = torch.zeros(self.size["p_words"], dtype=torch.int64)
        self.n_done, self.cycle = 0, 0
        self.post_port = Lock()
        cocotb.start_soon(self._write())
        cocotb.start_soon(self._watch())

    async def _watch(self):
        while True:
            await RisingEdge(self.dut.clk)
            self.cycle += 1
            self.n_done += not self.dut.rst.value and int(self.dut.done.value)
            assert not (self.dut.norm_grant.value and self.dut.post_grant.value), "X was granted twice"

    async def _write(self):
        while True:
            word, = await self.writes.recv(1, timeout_cycles=1_000_000)
            column = 8 * word["column"]
            data = torch.tensor(word["data"])[:, None] >> torch.arange(8) & 1
            self.act[word["line"], :, column:column + 8] = data.to(torch.uint8)

    async def write_p(self, addr, words):
        """Words, a list of signed numbers, into P from ``addr`` on; both are multiples of a beat."""
        size = self.size["beat_words"]
        self.p[addr:addr + len(words)] = torch.tensor(words)
        await self.words.send([{"addr": addr + i, "words": [word & (1 << 64) - 1 for word in words[i:i + size]]}
                               for i in range(0, len(words), size)])

    async def write_x(self, addr, x):
        """Rows (D, M) into X from ``addr`` on."""
        self.x[addr:addr + len(x)] = x
        await self.rows.send([{"addr": addr + i, "row": {"x": row}} for i, row in enumerate(x.tolist())])

    async def check_x(self, addr, n_rows):
        """Compare rows of X, through the port of the other unit."""
        async with self.post_port:
            await self._check_x(addr, n_rows)

    async def _check_x(self, addr, n_rows):
        dut = self.dut
        dut.post_want.value = 1
        for _ in range(_LIMIT_CYCLES):
            await RisingEdge(dut.clk)
            if dut.post_grant.value:
                break
        else:
            raise TimeoutError(f"X was not granted within {_LIMIT_CYCLES} cycles")
        dut.post_read_en.value = 1
        found = []
        for number in range(n_rows + 1):
            dut.post_read_addr.value = min(addr + number, addr + n_rows - 1)
            await RisingEdge(dut.clk)
            found.append(unpack(XRow(self.lanes), int(dut.post_read_data.value))["x"])
        dut.post_read_en.value = 0
        dut.post_want.value = 0
        await RisingEdge(dut.clk)
        wrong = (torch.tensor(found[1:]) != self.x[addr:addr + n_rows]).nonzero()
        assert not len(wrong), f"row, lane {wrong[0].tolist()} of {n_rows} from {addr}: {found[1 + wrong[0][0]][wrong[0][1]]}, " \
            f"not {self.x[addr + wrong[0][0], wrong[0][1]]}"

    def expect(self, fields):
        """What the command does to X and ACT."""
        rows = slice(fields["x_base"], fields["x_base"] + fields["n_rows"])
        y, values = norm(fields, self.x[rows], self.p[fields["p_base"]:fields["p_base"] + 2 * fields["n_rows"]])
        if fields["write_x"]:
            self.x[rows] = y
        if values is not None:
            collect(self.want_act, values, d_base=fields["d_base"], d_first=0, line_rows=self.columns, fill=1,
                    a_bits=fields["a_bits"])

    async def until_done(self, n):
        for _ in range(_LIMIT_CYCLES):
            if self.n_done >= n:
                return
            await RisingEdge(self.dut.clk)
        raise TimeoutError(f"{self.n_done} of {n} commands were done within {_LIMIT_CYCLES} cycles")

    def check_act(self, what):
        wrong = (self.act != self.want_act).nonzero()
        assert not len(wrong), f"line, lane, column {wrong[0].tolist()} of ACT differs after {what}"

    async def run(self, commands):
        """Commands one after the other, then ACT and X."""
        sending = cocotb.start_soon(self.commands.send(commands, timeout_cycles=_LIMIT_CYCLES))
        before = self.n_done
        for fields in commands:
            self.expect(fields)
        await self.until_done(before + len(commands))
        await sending
        self.check_act(commands)
        for fields in commands:
            await self.check_x(fields["x_base"], fields["n_rows"])
        assert self.n_done == before + len(commands)


def random_rows(numbers, d, lanes):
    """(d, lanes): lanes of every kind of distribution."""
    noise = torch.Generator().manual_seed(numbers.getrandbits(30))
    x = torch.randn(d, lanes, generator=noise, dtype=torch.float64)
    deviation = torch.tensor([2.0 ** numbers.uniform(-2, 17) for _ in range(lanes)])
    mean = torch.tensor([numbers.choice([0, 1, -1]) * 2.0 ** numbers.uniform(0, 17) for _ in range(lanes)])
    return (x * deviation + mean).round().clamp(-_LARGEST - 1, _LARGEST).to(torch.int64)


def random_words(numbers, fields):
    """Two words a row: gains around one and thresholds or steps around y; now and then anything."""
    words = []
    for _ in range(fields["n_rows"]):
        wild = numbers.random() < 0.1
        gain = numbers.uniform(-2, 2) * 2.0 ** (fields["shift"] - 2)
        gain, bias = max(-1 << 17, min(_LARGEST, round(gain))), numbers.randrange(-1 << 12, 1 << 12) << fields["shift"]
        if wild:
            gain = numbers.choice([-1 << 17, _LARGEST, 0, numbers.randrange(-1 << 17, 1 << 17)])
            bias = numbers.choice([-1 << 45, (1 << 45) - 1, numbers.randrange(-1 << 45, 1 << 45)])
        if fields["a_bits"] == 1:
            level = numbers.choice([-1 << 31, (1 << 31) - 1, numbers.randrange(-1 << 31, 1 << 31)]) if wild else \
                numbers.randrange(-1 << 12, 1 << 12)
            second = threshold_word(level, numbers.randrange(2))
        else:
            step = min(_LARGEST, round(2.0 ** (fields["shift2"] - numbers.uniform(3, 6))))
            second = affine_word(numbers.choice([step, -step]), numbers.choice([bias, 1 << fields["shift2"] - 1]))
        words += [affine_word(gain, bias), second]
    return words


def random_command(numbers, size, *, n_rows=None, x_base=None, **more):
    to_act = numbers.randrange(4) > 0
    a_bits = numbers.choice([1, 8])
    room = min(size["x_words"] // 2, size["p_words"] // 2 - 8)
    if to_act:
        room = min(room, _LINES // a_bits * size["columns"])
    d = n_rows or numbers.choice([1, 2, 8, numbers.randint(1, room), numbers.randint(1, min(room, 50)), room])
    d = -(-d // 8) * 8 if to_act else d
    lines = -(-d // size["columns"]) * a_bits
    p_room = (size["p_words"] - 2 * d) // 8
    x_base = numbers.randrange(size["x_words"] - d + 1) if x_base is None else x_base
    lo = numbers.choice([-128, -127, 0, numbers.randint(-128, 127)])
    return scalars(d, eps=numbers.choice([0.0, 1e-5, 2.0 ** -10]), center=numbers.choice([1, 1, 0])) | {
        "x_base": x_base, "p_base": 8 * numbers.randrange(p_room + 1),
        "shift": numbers.choice(NORM_SHIFTS), "shift2": numbers.choice(NORM_SHIFTS), "write_x": numbers.choice([1, 1, 0]),
        "to_act": int(to_act), "a_bits": a_bits, "lo": lo, "hi": numbers.randint(lo, 127),
        "d_base": numbers.randrange(_LINES - lines + 1)} | more


async def prepare(bench, fields, x):
    words = random_words(rng(), fields)
    await bench.write_p(fields["p_base"], words + [0] * (-len(words) % 8))
    await bench.write_x(fields["x_base"], x)


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3, 0.9])
async def matches_golden(dut, stall):
    start_clock(dut)
    bench = Bench(dut, stall)
    await reset(dut)
    for _ in range(24 if stall < 0.5 else 8):
        fields = random_command(rng(), bench.size)
        await prepare(bench, fields, random_rows(rng(), fields["n_rows"], bench.lanes))
        again = {"write_x": rng().randrange(2), "center": rng().randrange(2), "lo": -128, "hi": 127}
        await bench.run([fields] if rng().randrange(2) else [fields, fields | again])


@cocotb.test()
async def extremes(dut):
    """Rows that do not vary, the largest and the least numbers, one that is far from all others; no eps; a single row."""
    start_clock(dut)
    bench = Bench(dut)
    await reset(dut)
    lanes = bench.lanes
    most = min(bench.size["x_words"], bench.size["p_words"] // 2)
    for d in (1, 3, most):
        low, high = torch.full((d, lanes), -_LARGEST - 1), torch.full((d, lanes), _LARGEST)
        mixed = torch.where(torch.arange(d)[:, None] % 2 == 0, low, high)
        outlier = torch.where(torch.arange(d)[:, None] == d - 1, low, high)
        steps = torch.arange(d)[:, None] % 2 + torch.arange(lanes)
        for x in (0 * low, low, high, mixed, outlier, -outlier - 1, steps):
            for center in (0, 1):
                fields = random_command(rng(), bench.size, n_rows=d, x_base=0, p_base=0, to_act=0, write_x=1)
                fields |= scalars(d, center=center)
                await prepare(bench, fields, x)
                await bench.run([fields])


@cocotb.test()
async def largest_sums(dut):
    """eps of 48 ones, a mean and a scale that saturate: what no norm needs, but a descriptor may say."""
    start_clock(dut)
    bench = Bench(dut)
    await reset(dut)
    for more in ({"eps": (1 << 48) - 1}, {"mean_shift": 17, "inv_d": (1 << 18) - 1}, {"mean_shift": 32, "inv_d": 1},
                 {"imm": 0x7F00_0000}, {"imm": 0x0080_0000}):
        fields = random_command(rng(), bench.size, n_rows=40, to_act=0, write_x=1, **more)
        await prepare(bench, fields, random_rows(rng(), 40, bench.lanes))
        await bench.run([fields])


@cocotb.test()
async def shares_its_memories(dut):
    """While a norm is at work, rows are loaded elsewhere and the other unit reads X and P in its turn."""
    start_clock(dut)
    bench = Bench(dut, 0.2)
    await reset(dut)
    half = bench.size["x_words"] // 2
    await bench.write_p(0, [rng().randrange(-1 << 63, 1 << 63) for _ in range(bench.size["p_words"])])
    for turn in range(6):
        fields = random_command(rng(), bench.size, n_rows=half // 2, x_base=0, write_x=1)
        await prepare(bench, fields, random_rows(rng(), fields["n_rows"], bench.lanes))
        other = random_rows(rng(), half, bench.lanes)
        loading = cocotb.start_soon(bench.write_x(half, other))
        if turn % 2:
            running = cocotb.start_soon(bench.run([fields]))
            await loading
            for _ in range(4):
                await bench.check_x(half, rng().randint(1, half))
                await cycles(dut, rng().randrange(20))
            await running
        else:
            await bench.run([fields])
            await loading
        for _ in range(20):
            addr = rng().randrange(bench.size["p_words"])
            dut.post_p_addr.value = addr
            await cycles(dut, 2)
            assert int(dut.post_p_data.value) == int(bench.p[addr]) & (1 << 64) - 1, f"word {addr} of P"


@cocotb.test()
async def takes_a_row_a_cycle(dut):
    """Two passes of a row a cycle, a lane a cycle between them, into X and into ACT."""
    start_clock(dut)
    bench = Bench(dut)
    await reset(dut)
    bench.writes.stall = 0.0
    for n_rows in (8, 64, 120):
        for a_bits in (1, 8):
            fields = random_command(rng(), bench.size, n_rows=n_rows, x_base=0, d_base=0)
            fields |= {"to_act": 1, "a_bits": a_bits, "write_x": 1, "p_base": 0}
            await prepare(bench, fields, random_rows(rng(), n_rows, bench.lanes))
            began = bench.cycle
            bench.expect(fields)
            before = bench.n_done
            await bench.commands.send([fields])
            await bench.until_done(before + 1)
            taken = bench.cycle - began
            dut._log.info(f"{n_rows} rows, {a_bits} bits: {taken} cycles")
            # Zeros up to the end of the line are written after the last row.
            zeros = (-n_rows % bench.columns) // 8 * a_bits
            assert taken <= 2 * n_rows + bench.lanes + 68 + zeros, taken
            bench.check_act(fields)
