"""BinaryPost against its golden functions: commands of all kinds back to back, with the memories around it; compared at every end.

Parameters: those of the component, ``n_commands``.
"""

import cocotb
import torch
from cocotb.triggers import RisingEdge

from celosia.gen.golden.binary.post import PostState, post
from celosia.hw.binary.isa import ROW_BITS, SHIFTS, AffineParam, Into, Matmul, Post, TableParam, ThresholdParam
from celosia.hw.binary.links import ActWrite, Lengths, RowWord, VWrite, XRow
from celosia.hw.mem.links import WriteWord
from celosia.sim_tb.link import Monitor, Sink, Source, cycles, pack, parameters, reset, rng, start_clock, unpack

_ACT_LINES, _V_WORDS, _X_WORDS = 64, 256, 256
_MOST_Y = (1 << ROW_BITS - 1) - 1
_LIMIT_CYCLES = 20_000


def signed(bits, width=64):
    return bits - (1 << width) if bits >> width - 1 else bits


def parameter(struct, **fields):
    """Bits of a word of P."""
    return struct.const(fields).as_bits()


class Job:
    """A command, its rows (N, M), and the words that P must hold from ``p_base`` on."""

    def __init__(self, fields, y, words):
        self.fields, self.y, self.words = fields, y, words


class Jobs:
    """Random commands for a size."""

    def __init__(self, numbers, size, n_tokens):
        self.numbers, self.size, self.n_tokens = numbers, size, n_tokens
        self.noise = torch.Generator().manual_seed(numbers.getrandbits(30))

    def integers(self, low, high, *shape):
        return torch.randint(low, high + 1, shape, generator=self.noise)

    def y(self, n_rows, most=None):
        """Rows of a size of their own each, with the largest and least there are in between."""
        if most is None:
            most = self.numbers.choice([20, 3000, 1 << 20, _MOST_Y])
        y = self.integers(-most, most, n_rows, self.size["token_lanes"])
        y[torch.rand(y.shape, generator=self.noise) < 0.05] = self.numbers.choice([-most, most, 0])
        return y

    def bars(self, y):
        """A threshold a row, often one of the row's own integers or next to it."""
        for row in y:
            near = int(row[self.numbers.randrange(len(row))]) + self.numbers.choice([-1, 0, 1])
            level = self.numbers.choice([near, near, signed(self.numbers.getrandbits(32), 32), -1 << 31, (1 << 31) - 1])
            yield parameter(ThresholdParam, level=level, flip=self.numbers.randrange(2))

    def affines(self, y, shift, most):
        """Maps that give up to about ``most`` for most of the rows, and any for the others."""
        for row in y:
            largest = max(1, int(row.abs().max()))
            mult = (most << shift) // largest
            mult = min((1 << 17) - 1, self.numbers.randint(mult // 8, 2 * mult)) * self.numbers.choice([-1, 1])
            bias = self.numbers.randint(-most, most) << shift
            wild = {"mult": self.numbers.choice([-1 << 17, (1 << 17) - 1, 0, 1]),
                    "bias": self.numbers.choice([-1 << 45, (1 << 45) - 1, 0, signed(self.numbers.getrandbits(46), 46)])}
            tame = {"mult": mult, "bias": max(-1 << 45, min((1 << 45) - 1, bias))}
            yield parameter(AffineParam, **self.numbers.choice([tame, tame, tame, wild, {**tame, "bias": wild["bias"]}]))

    def table(self, d):
        """Weights that grow, and a share of them; or anything."""
        if self.numbers.random() < 0.3:
            weights = [self.numbers.choice([0, (1 << 32) - 1, self.numbers.getrandbits(32)]) for _ in range(d + 1)]
            bounds = [self.numbers.choice([0, (1 << 32) - 1, self.numbers.getrandbits(32)]) for _ in range(d + 1)]
        else:
            scale, share = self.numbers.uniform(0.05, 1), self.numbers.choice([0.5, 0.1, 0.02])
            weights = [min((1 << 32) - 1, round(2 ** (31 - scale * (d - c)))) for c in range(d + 1)]
            bounds = [min((1 << 32) - 1, int(weight / share) >> 8) for weight in weights]
        return [parameter(TableParam, weight=weight, bound=bound) for weight, bound in zip(weights, bounds)]

    def map_fields(self, n_rows):
        lanes = self.size["token_lanes"]
        chunk = self.numbers.randrange(self.n_tokens // lanes)
        seq_log2 = self.seq_log2
        near = chunk * lanes >> seq_log2 << seq_log2
        first = self.numbers.choice([near, chunk * lanes, self.numbers.randrange(self.n_tokens)])
        return {"chunk": chunk, "first_row": min(first, self.n_tokens - n_rows), "causal": self.numbers.randrange(2),
                "seq_log2": seq_log2}

    def job(self, mode, n_rows=None):
        numbers, size = self.numbers, self.size
        rows, columns = size["engine_rows"], size["columns"]
        step = max(8, rows)
        into = numbers.choice(list(Into)) if mode in (Post.SIGN, Post.MAP, Post.CUT) else Into.ACT
        if mode in (Post.RESIDUAL, Post.SUM) or into == Into.V:
            step = rows
        n_rows = n_rows or step * numbers.choice([1, 2, 3, numbers.randint(1, 64 // step)])
        if mode == Post.RAW:
            n_rows = min(n_rows, 8 * rows)
        fields = {"post": mode, "into": into, "n_row_groups": n_rows // rows, "p_base": 0}
        y, words = self.y(n_rows), []
        if mode == Post.SIGN:
            words = self.bars(y)
        elif mode in (Post.QUANT, Post.RESIDUAL):
            fields["shift"] = numbers.choice(SHIFTS)
            words = self.affines(y, fields["shift"], 100 if mode == Post.QUANT else 1 << numbers.randint(8, 19))
        elif mode == Post.MAP:
            words = list(self.bars(y))[:1]
            fields |= self.map_fields(n_rows)
        elif mode == Post.SUM:
            fields |= self.map_fields(n_rows)
            d = self.n_index = numbers.choice([columns, 1, numbers.randint(1, columns)])
            fields["n_index"] = d
            words = self.table(d)
            y = 2 * self.integers(0, d, *y.shape) - d
        elif mode == Post.CUT:
            fields |= self.map_fields(n_rows) | {"n_index": self.n_index}
            y = 2 * self.integers(0, self.n_index, *y.shape) - self.n_index
        elif mode == Post.RAW:
            fields["out"] = 4 * numbers.getrandbits(36)
        if mode == Post.QUANT:
            fields["lo"], fields["hi"] = sorted((numbers.choice([-128, -127, 0, numbers.randint(-128, 127)]),
                                                 numbers.choice([127, numbers.randint(-128, 127)])))
        if mode == Post.RESIDUAL:
            fields["d_base"] = numbers.randrange(_X_WORDS - n_rows + 1)
        elif into == Into.V:
            fields["v_blocks"] = numbers.randint(1, 3)
            block = fields.setdefault("chunk", numbers.randrange(4)) * size["token_lanes"] // columns
            fields["d_base"] = numbers.randint(0, max(0, _V_WORDS - n_rows // rows * fields["v_blocks"] - block - 1))
        elif mode != Post.RAW:
            self.place(fields, n_rows, 8 if mode == Post.QUANT else 1)
        return Job(fields, y, list(words))

    def place(self, fields, n_rows, a_bits):
        numbers, columns = self.numbers, self.size["columns"]
        fields["line_rows"] = line_rows = 8 * numbers.choice([columns // 8, columns // 8, numbers.randint(1, columns // 8)])
        fields["d_first"] = numbers.choice([0, numbers.randrange(line_rows // 8)])
        n_lines = -(-(8 * fields["d_first"] + n_rows) // line_rows) * a_bits
        if n_lines > _ACT_LINES:
            fields["line_rows"], fields["d_first"] = columns, 0
            n_lines = -(-n_rows // columns) * a_bits
        fields["d_base"], fields["fill"] = numbers.randrange(_ACT_LINES - n_lines + 1), numbers.randrange(2)

    def program(self, n_jobs):
        """Jobs of one run: one length of sequences; CUT behind a SUM."""
        longest = min(self.n_tokens, self.size["max_sequences"] * self.size["token_lanes"]).bit_length() - 1
        self.seq_log2 = self.numbers.randint(1, longest)
        jobs, modes = [], [Post.SIGN, Post.QUANT, Post.RESIDUAL, Post.RAW, Post.MAP]
        while len(jobs) < n_jobs:
            if self.size["softmax"] and self.numbers.random() < 0.25:
                jobs.append(self.job(Post.SUM))
                jobs += [self.job(self.numbers.choice([Post.CUT, Post.CUT, *modes])) for _ in range(3)]
            else:
                jobs.append(self.job(self.numbers.choice(modes)))
        return jobs


class Bench:
    """The unit with P, X, ACT, V and memory around it."""

    def __init__(self, dut, stall=0.0):
        self.dut, self.stall = dut, stall
        self.size = size = {name: value for name, value in parameters().items() if name != "n_commands"}
        lanes = size["token_lanes"]

        def stalls():
            return rng("stalls").choice([0.0, stall, stall, 0.9]) if stall else 0.0

        self.commands = Source(dut, "i_command", shape=Matmul, stall=stalls())
        self.rows = Source(dut, "i", shape=RowWord(lanes), stall=stalls())
        self.sinks = {name: Sink(dut, f"o_{name}", shape=shape, stall=stalls()) for name, shape in
                      (("act", ActWrite(lanes)), ("v", VWrite(lanes)), ("raw", WriteWord(size["port_bytes"])))}
        for name in self.sinks:
            Monitor(dut, f"o_{name}")
        self.x_shape = XRow(lanes)
        noise = torch.Generator().manual_seed(rng().getrandbits(30))

        def bits(*shape):
            return torch.randint(0, 2, shape, dtype=torch.uint8, generator=noise)

        columns = size["columns"]
        self.want = PostState(
            act=bits(_ACT_LINES, lanes, columns), v=bits(_V_WORDS, size["engine_rows"], columns),
            x=torch.randint(-1 << 17, 1 << 17, (_X_WORDS, lanes), generator=noise), p=torch.zeros(1, dtype=torch.int64),
            lengths=torch.zeros(0, dtype=torch.int64), cuts=torch.zeros(lanes, dtype=torch.int64))
        self.act, self.v, self.x = self.want.act.clone(), self.want.v.clone(), self.want.x.clone()
        self.p, self.raw = [0], []
        self.cycle, self.n_done, self.takes, self.jobs = 0, 0, [], []
        for name in ("p_data", "lengths", "x_grant", "x_read_data", "index"):
            getattr(dut, name).value = 0
        for watch in (self._memories(), self._act(), self._v(), self._raw()):
            cocotb.start_soon(watch)

    async def _memories(self):
        """P and X, the grant of X, takes and ends."""
        dut, edge = self.dut, RisingEdge(self.dut.clk)
        while True:
            await edge
            self.cycle += 1
            if dut.rst.value:
                continue
            dut.p_data.value = self.p[int(dut.p_addr.value) % len(self.p)]
            granted, wanted = bool(dut.x_grant.value), bool(dut.x_want.value)
            if dut.x_read_en.value:
                assert granted, "X is read without a grant"
                row = self.x[int(dut.x_read_addr.value)]
                dut.x_read_data.value = pack(self.x_shape, {"x": row.tolist()})
            if dut.x_write_en.value:
                assert granted, "X is written without a grant"
                self.x[int(dut.x_write_addr.value)] = torch.tensor(unpack(self.x_shape, int(dut.x_write_data.value))["x"])
            dut.x_grant.value = int(wanted and (granted or rng("grant").random() >= self.stall))
            if dut.i__valid.value and dut.i__ready.value:
                self.takes.append(self.cycle)
            if dut.done.value:
                self._compare(self.jobs[self.n_done])
                self.n_done += 1

    async def _act(self):
        while True:
            write, = await self.sinks["act"].recv(1, timeout_cycles=10_000_000)
            column = 8 * write["column"]
            data = torch.tensor(write["data"])[:, None] >> torch.arange(8) & 1
            self.act[write["line"], :, column:column + 8] = data.to(torch.uint8)

    async def _v(self):
        lanes, columns = self.size["token_lanes"], self.size["columns"]
        while True:
            write, = await self.sinks["v"].recv(1, timeout_cycles=10_000_000)
            for lane in range(lanes):
                column = write["chunk"] * lanes % columns + lane
                self.v[write["word"] + column // columns, write["bank"], column % columns] = write["bits"] >> lane & 1

    async def _raw(self):
        while True:
            word, = await self.sinks["raw"].recv(1, timeout_cycles=10_000_000)
            self.raw.append(word)

    def _compare(self, job):
        """What the memories hold now that ``job`` is done."""
        what = f"command {self.n_done} {job.fields}"
        rows = post(job.fields, job.y, self.want)
        for name in ("act", "v", "x"):
            wrong = (getattr(self, name) != getattr(self.want, name)).nonzero()
            assert not len(wrong), f"{what}: {len(wrong)} wrong in {name}, first at {wrong[0].tolist()}"
        expected = [] if rows is None else list(self._records(job, rows))
        assert self.raw == expected, f"{what}: {self.raw[:2]}, not {expected[:2]}"
        self.raw = []

    def _records(self, job, rows):
        port_bytes, row_bytes = self.size["port_bytes"], 4 * self.size["token_lanes"]
        for n, row in enumerate(rows.numpy().astype("<i4")):
            text = row.tobytes()
            for at in range(0, row_bytes, port_bytes):
                yield {"offset": job.fields["out"] + n * row_bytes & (1 << 40) - 1, "beats": row_bytes // port_bytes, "index": 0,
                       "first": int(at == 0), "last": int(at + port_bytes == row_bytes),
                       "data": int.from_bytes(text[at:at + port_bytes], "little")}

    async def run(self, jobs, lengths):
        """Run jobs as one program."""
        self.p = [0]
        for job in jobs:
            job.fields["p_base"] = len(self.p)
            self.p += job.words
        self.want.p = torch.tensor([signed(bits) for bits in self.p])
        self.want.lengths = torch.tensor(lengths)
        self.dut.lengths.value = pack(Lengths(len(lengths)), {"tokens": lengths})
        self.jobs, self.n_done, self.takes = jobs, 0, []
        commands = [job.fields for job in jobs]
        sending = [cocotb.start_soon(self.commands.send(commands, timeout_cycles=_LIMIT_CYCLES)), cocotb.start_soon(
            self.rows.send(({"y": row} for job in jobs for row in job.y.tolist()), timeout_cycles=_LIMIT_CYCLES))]
        for _ in range(_LIMIT_CYCLES * len(jobs)):
            if self.n_done == len(jobs):
                break
            await cycles(self.dut, 1)
        else:
            raise TimeoutError(f"{self.n_done} of {len(jobs)} commands were done: {jobs[self.n_done].fields}")
        for task in sending:
            await task


def random_lengths(numbers, size, seq_log2):
    most = 1 << seq_log2
    return [numbers.choice([0, 1, most, numbers.randint(0, most)]) for _ in range(size["max_sequences"])]


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3, 0.7])
async def matches_golden(dut, stall):
    start_clock(dut)
    bench = Bench(dut, stall)
    await reset(dut)
    for _ in range(4):
        jobs = Jobs(rng(), bench.size, n_tokens=max(64, 4 * bench.size["token_lanes"]))
        program = jobs.program(parameters()["n_commands"])
        await bench.run(program, random_lengths(rng(), bench.size, jobs.seq_log2))


@cocotb.test()
async def takes_a_row_a_cycle(dut):
    """All that goes into the fabric; memory takes the words of a row one after the other. Between two commands
    lie no more cycles than the stages, zeros and tables take."""
    start_clock(dut)
    bench = Bench(dut)
    await reset(dut)
    size = bench.size
    jobs = Jobs(rng(), size, n_tokens=max(64, 4 * size["token_lanes"]))
    jobs.seq_log2 = 3
    modes = [Post.SIGN, Post.QUANT, Post.RESIDUAL, Post.MAP, Post.RAW] + [Post.SUM, Post.CUT] * size["softmax"]
    program = [jobs.job(mode, n_rows=32) for mode in modes]
    for job in program:
        if job.fields["post"] == Post.QUANT:
            job.fields |= {"line_rows": size["columns"], "d_first": 0, "d_base": 0}
    await bench.run(program, [8] * size["max_sequences"])
    takes, before = bench.takes, None
    for job in program:
        n_rows, mode = len(job.y), job.fields["post"]
        mine, takes = takes[:n_rows], takes[n_rows:]
        row_cycles = 4 * size["token_lanes"] // size["port_bytes"] if mode == Post.RAW else 1
        assert mine[-1] - mine[0] <= (n_rows - 1) * row_cycles, f"{mode}: {n_rows} rows took {mine[-1] - mine[0] + 1} cycles"
        if before is not None:
            last_mode, last_take = before
            zeros = 8 * size["columns"] // 8 if last_mode == Post.QUANT else size["columns"] // 8
            tables = [mode, last_mode].count(Post.SUM) * (size["columns"] + 8)
            limit = 12 + zeros + tables + (3 * 4 * size["token_lanes"] // size["port_bytes"] if last_mode == Post.RAW else 0)
            assert mine[0] - last_take <= limit, f"{mine[0] - last_take} cycles, not {limit}, from {last_mode} to {mode}"
        before = mode, mine[-1]
