"""Bench of LOAD of the binary machine: the words of every target from the bytes of every port, in order.

Parameters: ``n_ports``, ``port_bytes``, ``token_lanes``, ``columns``.
"""

import cocotb
from cocotb.triggers import RisingEdge

from celosia.hw.binary.isa import Target
from celosia.hw.binary.links import ActWrite, LoadCommand, ParamWrite, XWrite
from celosia.sim_tb.link import Monitor, Sink, Source, cycles, parameters, reset, rng, start_clock

_PARAM, _X, _ACT = Target.PARAM.value, Target.X.value, Target.ACT.value
_OUTPUTS = {_PARAM: "o_p", _X: "o_x", _ACT: "o_act"}


def loaded(command, raw, size):
    """The words of a command that brings the bytes ``raw``, those of a beat side by side."""
    lanes, line_bytes = size["token_lanes"], size["columns"] // 8
    beat_words = max(1, size["n_ports"] * size["port_bytes"] // 8)
    base, target = command["d_base"], command["target"]
    if target == _PARAM:
        words = [int.from_bytes(raw[i:i + 8], "little") for i in range(0, len(raw), 8)]
        return [{"addr": base + i, "words": words[i:i + beat_words]} for i in range(0, len(words), beat_words)]
    if target == _X:
        elements = [int.from_bytes(raw[i:i + 2], "little", signed=True) for i in range(0, len(raw), 2)]
        return [{"addr": base + i, "row": {"x": elements[i * lanes:(i + 1) * lanes]}} for i in range(len(elements) // lanes)]
    return [{"line": base + i // line_bytes, "column": i % line_bytes, "data": list(raw[i * lanes:(i + 1) * lanes])}
            for i in range(len(raw) // lanes)]


def n_words(command, size):
    """Words of a command's own target, at least one."""
    beat_bytes = size["n_ports"] * size["port_bytes"]
    bytes_of = {_PARAM: max(8, beat_bytes), _X: 2 * size["token_lanes"],
                _ACT: size["token_lanes"] * size["columns"] // 8}
    return bytes_of[command["target"]] // beat_bytes


class Bench:
    def __init__(self, dut, stall=0.0):
        self.dut, self.size = dut, parameters()
        lanes, beat_bytes = self.size["token_lanes"], self.size["n_ports"] * self.size["port_bytes"]
        self.commands = Source(dut, "i_command", shape=LoadCommand, stall=stall)
        self.ports = [Source(dut, f"i_ports__{port}", stall=stall) for port in range(self.size["n_ports"])]
        shapes = {_PARAM: ParamWrite(max(1, beat_bytes // 8)), _X: XWrite(lanes), _ACT: ActWrite(lanes)}
        self.sinks = {target: Sink(dut, name, shape=shapes[target], stall=stall) for target, name in _OUTPUTS.items()}
        for name in _OUTPUTS.values():
            Monitor(dut, name)
        self.n_done, self.cycle = 0, 0
        cocotb.start_soon(self._watch())

    async def _watch(self):
        while True:
            await RisingEdge(self.dut.clk)
            self.cycle += 1
            self.n_done += not self.dut.rst.value and int(self.dut.done.value)

    def command(self, target=None, units=None):
        """A random command: so many words, rows or lines."""
        numbers = rng()
        command = {"target": target if target is not None else numbers.choice(list(_OUTPUTS)),
                   "d_base": 8 * numbers.randrange(1 << 8)}
        return command | {"n_beats": (units or numbers.randint(1, 6)) * n_words(command, self.size)}

    async def run(self, commands):
        """Send commands and their data, compare every word."""
        port_bytes, n_ports = self.size["port_bytes"], self.size["n_ports"]
        raw = [rng().randbytes(command["n_beats"] * port_bytes * n_ports) for command in commands]
        whole = b"".join(raw)
        sending = [cocotb.start_soon(self.commands.send(commands))]
        for port, source in enumerate(self.ports):
            beats = [int.from_bytes(whole[i:i + port_bytes], "little")
                     for i in range(port * port_bytes, len(whole), port_bytes * n_ports)]
            sending.append(cocotb.start_soon(source.send(beats)))
        want = {target: [] for target in _OUTPUTS}
        for command, data in zip(commands, raw):
            want[command["target"]] += loaded(command, data, self.size)
        taking = {target: cocotb.start_soon(self.sinks[target].recv(len(words))) for target, words in want.items()}
        for target, words in want.items():
            for at, (found, expected) in enumerate(zip(await taking[target], words)):
                assert found == expected, f"{_OUTPUTS[target]}, word {at}: {found}, not {expected}"
        for sender in sending:
            await sender
        await cycles(self.dut, 5)
        assert self.n_done == len(commands), f"{self.n_done} commands were done, not {len(commands)}"
        self.n_done = 0
        for name in _OUTPUTS.values():
            assert not getattr(self.dut, f"{name}__valid").value, f"{name} has more than was loaded"


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3, 0.8])
async def loads_every_target(dut, stall):
    start_clock(dut)
    bench = Bench(dut, stall)
    await reset(dut)
    for n in (1, 2, 12):
        await bench.run([bench.command() for _ in range(n)])


@cocotb.test()
async def takes_a_beat_a_cycle(dut):
    start_clock(dut)
    bench = Bench(dut)
    await reset(dut)
    for target in _OUTPUTS:
        command = bench.command(target, units=40)
        began = bench.cycle
        await bench.run([command])
        assert bench.cycle - began <= command["n_beats"] + 14, (target, bench.cycle - began, command["n_beats"])
