"""Bench of the read expander: random plans, sums that reach 40 bits and beyond."""

import cocotb

from celosia.hw.ctrl.links import ReadPlan
from celosia.hw.links import Dest, ReadJob
from celosia.sim_tb import link

HIGHEST = (1 << 40) - 1


def random_plan(numbers):
    """Half of them LOADs; numbers of all lengths."""
    def below(bits):
        return numbers.getrandbits(numbers.randrange(bits + 1))

    scaled = numbers.randrange(2)
    n_bits = 32 if scaled else numbers.randrange(33)            # of MATMUL: a number of beats
    addr = numbers.choice([below(40), HIGHEST - below(34), below(20)])
    return {"addr": addr, "port_stride": below(32), "factor_a": below(n_bits), "factor_b": below(32 if scaled else 32 - n_bits),
            "scaled": scaled, "beats": below(23), "extra_beats": below(8), "n_longer": numbers.randrange(4),
            "cache": numbers.randrange(2), "dest": numbers.choice(list(Dest)).value, "index": below(16)}


def jobs(plan, n_ports):
    """The job of every port."""
    product = plan["factor_a"] * plan["factor_b"]
    for port in range(n_ports):
        offset = plan["addr"] + port * plan["port_stride"] + product * plan["scaled"]
        beats = (plan["beats"] if plan["scaled"] else product) + plan["extra_beats"] * (port < plan["n_longer"])
        yield {"offset": min(offset, HIGHEST), "cache": plan["cache"], "beats": beats & 0xFFFF_FFFF, "dest": plan["dest"],
               "index": plan["index"]}


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def makes_jobs(dut, stall):
    n_ports = link.parameters()["n_ports"]
    link.start_clock(dut)
    source = link.Source(dut, "i", shape=ReadPlan, stall=stall)
    sinks = [link.Sink(dut, f"o_jobs__{port}", shape=ReadJob, stall=stall) for port in range(n_ports)]
    await link.reset(dut)
    plans = [random_plan(link.rng()) for _ in range(1500)]
    sending = cocotb.start_soon(source.send(plans))
    want = list(zip(*(jobs(plan, n_ports) for plan in plans)))
    receiving = [cocotb.start_soon(sink.recv(len(plans), timeout_cycles=60_000)) for sink in sinks]
    for port, task in enumerate(receiving):
        found = await task
        for number, (plan, one, other) in enumerate(zip(plans, found, want[port])):
            one = {name: getattr(value, "value", value) for name, value in one.items()}
            assert one == other, f"plan {number}, port {port}: {one}, not {other}, for {plan}"
    await sending
