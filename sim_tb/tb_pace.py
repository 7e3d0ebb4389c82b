"""Bench of the pace of the ports: random rooms, most of them close to one another, against what they were some cycles ago."""

import cocotb
from cocotb.triggers import RisingEdge

from celosia.sim_tb.link import parameters, rng, start_clock


@cocotb.test()
async def holds_who_is_ahead(dut):
    size, numbers, edge = parameters(), rng(), RisingEdge(dut.clk)
    n_ports, most, ahead = size["n_ports"], size["queue_beats"], size["ahead_beats"]
    start_clock(dut)
    late = n_ports.bit_length() - 1     # cycles from the rooms to the largest of them
    history, held = [], 0
    for cycle in range(4000):
        middle = numbers.choice([0, most, numbers.randint(0, most)])
        rooms = [min(most, max(0, middle + numbers.choice([0, 1, -1, ahead, -ahead, numbers.randint(-most, most)])))
                 for _ in range(n_ports)]
        for port, room in enumerate(rooms):
            getattr(dut, f"rooms__{port}").value = room
        history.append(rooms)
        await edge
        if len(history) > late + 1:
            largest = max(history[-2 - late])
            want = [int(room + ahead < largest) for room in history[-2]]
            found = [int(getattr(dut, f"hold__{port}").value) for port in range(n_ports)]
            assert found == want, f"cycle {cycle}: {found}, not {want}"
            held += sum(want)
    assert held > 100
