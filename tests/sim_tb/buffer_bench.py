"""Bench of the two-deep buffer in test_run.py."""

import cocotb

from celosia.sim_tb.link import Monitor, Sink, Source, cycles, parameters, reset, rng, start_clock
from designs import Beat


def random_beat(numbers):
    return {"value": numbers.randrange(-128, 128), "tags": [numbers.randrange(8) for _ in range(3)],
            "last": numbers.randrange(2)}


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.5], stall_out=[0.0, 0.5])
async def keeps_order(dut, stall_in, stall_out):
    start_clock(dut)
    source = Source(dut, "i", shape=Beat(), stall=stall_in)
    sink = Sink(dut, "o", shape=Beat(), stall=stall_out)
    monitor = Monitor(dut, "o", keep=True, shape=Beat())
    await reset(dut)
    beats = [random_beat(rng()) for _ in range(parameters()["n_beats"])]
    sending = cocotb.start_soon(source.send(beats))
    assert await sink.recv(len(beats)) == beats
    await sending
    await cycles(dut, 1)
    assert monitor.values == beats
    assert (monitor.stalled_cycles > 0) == (stall_out > 0)


@cocotb.test()
async def full_rate(dut):
    """n beats take n + 1 cycles: no bubble."""
    start_clock(dut)
    source, sink = Source(dut, "i"), Sink(dut, "o")
    await reset(dut)
    began = cocotb.simtime.get_sim_time("ns")
    cocotb.start_soon(source.send(range(100)))
    assert await sink.recv(100) == list(range(100))
    assert cocotb.simtime.get_sim_time("ns") - began == 4 * 101


@cocotb.test()
async def wrong_expectation(dut):
    start_clock(dut)
    source, sink = Source(dut, "i"), Sink(dut, "o")
    await reset(dut)
    cocotb.start_soon(source.send([1, 2]))
    assert await sink.recv(2) == [1, 3]


@cocotb.test()
async def waits_for_ever(dut):
    start_clock(dut)
    source, sink = Source(dut, "i"), Sink(dut, "o")
    await reset(dut)
    cocotb.start_soon(source.send([1, 2]))
    await sink.recv(3, timeout_cycles=50)


@cocotb.test()
async def offers_too_much(dut):
    start_clock(dut)
    source = Source(dut, "i")
    Sink(dut, "o")
    await reset(dut)
    await source.send(range(5), timeout_cycles=50)
