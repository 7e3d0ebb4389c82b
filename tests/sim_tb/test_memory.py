"""The memory model: as fast as the board was measured, and a witness of what masters may not do."""

import dataclasses

import pytest

from celosia.sim_tb.memory import PRESETS, MemoryTiming
from celosia.sim_tb.traffic import FAULTS, Stream, drive

pytestmark = pytest.mark.sim

KV260 = PRESETS["kv260"]
MHZ = 250
# HP0, HP2, and HPC0 and HPC1 together behind the cache-coherent interconnect.
COHERENT = dataclasses.replace(KV260, entry=(0, 1, 2, 2), entry_gap_cycles=(0, 0, 7, 0), entry_run=4)
WEIGHTS, SUMS = 0x3830_0000, 0x5930_0000
KB = 1024


def engines(n, *, rows=6912, row_bytes=640, write_bytes=4096, address=None):
    """The measured program: each of n engines reads its share of the rows and writes a sum of 4 bytes for each.

    The program arms the engines one after the other and looks at the clock before and after.
    """
    share_bytes = rows // n * row_bytes
    address = address or (lambda i: WEIGHTS + i * share_bytes)
    return [Stream(address=address(i), n_bytes=share_bytes, write_address=SUMS + i * 128 * KB, start_cycle=1500 + 250 * i,
                   write_every_bytes=write_bytes // 4 * row_bytes, write_beats=write_bytes // 16) for i in range(n)]


def head():
    """The output head: 128,256 rows of 512 bytes, no writes, in streams that keep out of each other's rows."""
    start = WEIGHTS // (64 * KB) * 64 * KB
    streams = engines(4, rows=128_256, row_bytes=512, address=lambda i: start + (i << 24) + (0, 56, 48, 24)[i] * KB)
    return [dataclasses.replace(stream, write_every_bytes=0) for stream in streams]


def gb_per_s(moved):
    return moved.bytes_per_cycle * MHZ / 1000


@pytest.mark.parametrize("measured, timing, streams", [
    pytest.param(3.96, KV260, engines(1), id="1_port"),
    pytest.param(7.89, KV260, engines(2), id="2_ports"),
    pytest.param(11.63, KV260, engines(3), id="3_ports"),
    pytest.param(12.19, KV260, engines(4, write_bytes=64), id="4_ports_small_writes"),
    pytest.param(13.33, KV260, engines(4), id="4_ports_large_writes"),
    pytest.param(15.95, KV260, head(), id="4_ports_head"),
    pytest.param(11.40, COHERENT, engines(4, write_bytes=64), id="2_coherent_ports"),
])
def test_measured_rates(measured, timing, streams):
    assert gb_per_s(drive(timing, streams)) == pytest.approx(measured, rel=0.05)


def test_the_shared_entry_finishes_late():
    """Ports 1 and 2 needed 9 to 33 % longer than ports 0 and 3."""
    cycles = drive(KV260, engines(4)).port_cycles
    assert 1.09 < min(cycles[1:3]) / max(cycles[0], cycles[3]) < 1.33
    assert cycles[1] == pytest.approx(cycles[2], rel=0.01)


@pytest.mark.parametrize("burst_beats, outstanding", [(16, 16), (32, 8), (64, 8), (256, 8)])
def test_one_port_is_never_kept_waiting(burst_beats, outstanding):
    moved = drive(KV260, [Stream(address=0, n_bytes=1 << 20, burst_beats=burst_beats, outstanding=outstanding)])
    assert 15.6 < moved.bytes_per_cycle <= 16


def test_few_bytes_in_flight_are_slow():
    """16 beats in every latency, and no more."""
    moved = drive(KV260, [Stream(address=0, n_bytes=1 << 16, burst_beats=16, outstanding=1)])
    assert 16 * 16 / (KV260.latency_cycles + 30) < moved.bytes_per_cycle < 16 * 16 / KV260.latency_cycles


def test_the_same_run_twice():
    for timing in PRESETS.values():
        assert drive(timing, engines(4, rows=512), seed=3) == drive(timing, engines(4, rows=512), seed=3)


def test_random_stalls_depend_on_the_seed():
    cycles = {drive(PRESETS["stress"], engines(4, rows=512), seed=seed).cycles for seed in range(4)}
    assert len(cycles) == 4


@pytest.mark.parametrize("fault, message", [
    ("cross_4k", "AR: a burst crosses a 4 KiB border"),
    ("drop_valid", "AR: valid fell before ready"),
    ("change_payload", "AR: the payload changed before ready"),
    ("wrong_last", "W: wlast is not on the last beat"),
])
def test_broken_rules_are_reported(fault, message):
    streams = [Stream(address=256, n_bytes=1 << 16, burst_beats=256, write_address=1 << 20, write_every_bytes=1024, write_beats=4)]
    with pytest.raises(RuntimeError, match=rf"AXI of port 0, {message}, in cycle \d+"):
        drive(KV260, streams, fault=fault)
    assert fault in FAULTS


def test_wrong_parameters_are_refused():
    with pytest.raises(ValueError, match="outstanding and commands must be"):
        MemoryTiming(latency_cycles=1, bytes_per_cycle=16, outstanding=9, commands=8)
    with pytest.raises(ValueError, match="entry must be"):
        MemoryTiming(latency_cycles=1, bytes_per_cycle=16, entry=(0, 1))
    with pytest.raises(ValueError, match="row_bytes and n_banks must be"):
        MemoryTiming(latency_cycles=1, bytes_per_cycle=16, row_bytes=1000)
    with pytest.raises(ValueError, match="1 .. 4 streams"):
        drive(KV260, [])
    with pytest.raises(TimeoutError, match="within 10 cycles"):
        drive(KV260, engines(1), limit_cycles=10)
