"""The whole binary machine, as emitted: random programs against the golden machine, compiled encoders against the golden model, and
what goes wrong as it should."""

import random

import numpy as np
import pytest
from binary_run import Run

from celosia.gen.binary.place import DoesNotFit
from celosia.gen.binary.synthetic import random_config, random_model
from celosia.gen.golden.binary.machine import Machine
from celosia.gen.verilog import accelerator
from celosia.hw import regs
from celosia.hw.binary import isa
from celosia.hw.binary.config import BinaryConfig
from celosia.hw.binary.configs import binary_kv260, binary_tiny
from celosia.hw.binary.isa import Kind, Opcode, Post, Target
from celosia.hw.regs import Error
from celosia.sim_tb.binary_programs import RandomProgram
from celosia.sim_tb.binary_run import run
from celosia.sim_tb.device import SimDevice
from celosia.sim_tb.memory import PRESETS
from celosia.sim_tb.verilator import lint

pytestmark = pytest.mark.sim

# Two ports; lines as long as the lanes are many.
binary_duo = BinaryConfig(
    name="binary-duo", n_ports=2, port_bytes=4, token_lanes=16, engine_rows=4, act_lines=256, v_words=64, x_words=256, p_words=1024,
    max_tokens=64, queue_beats=64)
BUSY, DONE, ERROR = 1, 2, 4
RAW = {"n_row_groups": 4, "n_col_blocks": 1, "w_planes": 1, "a_bits": 1, "kind": Kind.SIGNS, "post": Post.RAW, "n_const": 32}


@pytest.fixture(scope="module")
def tiny():
    device = SimDevice(binary_tiny, PRESETS["kv260"])
    yield device
    device.close()


def windows(*descriptors, cache_bytes=4096):
    """A program in a model window of 8 KiB, and a cache window."""
    program = b"".join([*descriptors, isa.pack(Opcode.END)])
    return np.frombuffer(program.ljust(8192, b"\x5A"), np.uint8), np.zeros(cache_bytes, np.uint8), len(descriptors) + 1


def same(config, device, seed, n_descriptors=40):
    program = RandomProgram(config, seed, n_descriptors)
    expected = program.cache.copy()
    Machine(program.model, expected, config).run((0, program.count), program.lengths)
    found = run(device, program.model, program.cache, program.count, program.lengths, counters=["DESCRIPTORS", "WRITE_BEATS"])
    assert (found.status, found.code) == (DONE, Error.NONE), f"error {found.code} at {found.index}"
    assert found.counters["DESCRIPTORS"] == program.count - 1
    rows = np.flatnonzero(found.cache != expected)
    assert not len(rows), f"{len(rows)} bytes differ, the first at {rows[0]} of {len(expected)}"


@pytest.mark.parametrize("memory", PRESETS)
@pytest.mark.parametrize("config", [binary_tiny, binary_duo], ids=lambda config: config.name)
def test_random_programs(config, memory):
    device = SimDevice(config, PRESETS[memory], seed=3)
    for seed in range(6):
        same(config, device, seed)
    device.close()


def test_a_long_random_program(tiny):
    same(binary_tiny, tiny, seed=100, n_descriptors=300)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("attention", ["sps", "softmax"])
@pytest.mark.parametrize("act_bits", [1, 8])
def test_compiled_encoders(tiny, norm, attention, act_bits):
    for seed in range(50):
        config = random_config(random.Random(seed), norm=norm, attention=attention, act_bits=act_bits)
        try:
            case = Run(random_model(config, seed), binary_tiny, seed=seed)
        except DoesNotFit:
            continue
        model = np.frombuffer(case.assembled.payload, np.uint8)
        found = run(tiny, model, case.cache, case.program["count"], case.lengths, offset=case.program["offset"])
        assert (found.status, found.code) == (DONE, Error.NONE), f"error {found.code} at {found.index}"
        case.cache[:] = found.cache
        case.check()
        return
    raise AssertionError("no random model fits")


def test_a_broken_expectation_is_seen(tiny):
    """A bit of the input turned: the comparison itself can fail."""
    program = RandomProgram(binary_tiny, 0)
    expected = program.cache.copy()
    model = program.model.copy()
    model[-1] ^= 1
    Machine(model, expected, binary_tiny).run((0, program.count), program.lengths)
    found = run(tiny, program.model, program.cache, program.count, program.lengths)
    assert not np.array_equal(found.cache, expected)


@pytest.mark.parametrize("config", [binary_tiny, binary_duo, pytest.param(binary_kv260, marks=pytest.mark.slow)],
                         ids=lambda config: config.name)
def test_verilog_passes_lint(config):
    assert lint(accelerator(config), "celosia") == []


def test_registers_say_what_it_is(tiny):
    places = tiny.manifest["registers"]
    assert tiny.read32(places["ID"]) == regs.ID_MAGIC
    assert tiny.read32(places["VERSION"]) == isa.BINARY_ISA_VERSION | regs.ABI_VERSION << 16
    assert tiny.read32(places["CONFIG"]) == int(binary_tiny.digest, 16)
    for _ in range(3):                  # there is no page table: commands to it are dropped
        tiny.write32(places["PAGE"], 0x0000_1001)
        assert tiny.read32(places["PAGE_STATUS"]) == 0
    assert tiny.read32(places["TOPK_COUNT"]) == 0 and tiny.read32(regs.TOPK_OFFSET) == 0


@pytest.mark.parametrize("lengths", [[], [0] * 17, [binary_tiny.max_tokens + 1], [3, 1 << 15]])
def test_launch_is_refused(tiny, lengths):
    found = run(tiny, *windows(), lengths)
    assert (found.status, found.code, found.index) == (ERROR, Error.LAUNCH, 0)


def test_longest_lengths_are_taken(tiny):
    assert run(tiny, *windows(), [binary_tiny.max_tokens] * 16).status == DONE
    assert run(tiny, *windows(), [0]).status == DONE


LOAD = {"n_beats": 2, "target": Target.PARAM}


@pytest.mark.parametrize("fields, opcode, code", [
    (LOAD | {"d_base": binary_tiny.p_words - 1}, Opcode.LOAD, Error.SIZE),
    (LOAD | {"n_beats": 0}, Opcode.LOAD, Error.SIZE),
    (LOAD | {"addr": 8192 - 8}, Opcode.LOAD, Error.READ_WINDOW),
    (LOAD | {"addr": 4096, "cache": 1}, Opcode.LOAD, Error.READ_WINDOW),
    (RAW | {"addr": 8192}, Opcode.MATMUL, Error.READ_WINDOW),
    (RAW | {"out": 4096}, Opcode.MATMUL, Error.WRITE_WINDOW),
    (RAW | {"out": 4096 - 32}, Opcode.MATMUL, Error.WRITE_WINDOW),
    (RAW | {"w_planes": 9}, Opcode.MATMUL, Error.SIZE),
    ({"n_rows": 0}, Opcode.NORM, Error.SIZE),
])
def test_descriptors_are_refused(tiny, fields, opcode, code):
    """At the index of the culprit, and a good program runs as if nothing had happened."""
    good = isa.pack(Opcode.MATMUL, **RAW)
    found = run(tiny, *windows(good, isa.pack(Opcode.LOAD, **LOAD), good, isa.pack(opcode, **fields)), [4])
    assert (found.status & (DONE | ERROR), found.code, found.index) == (ERROR, code, 3)
    assert run(tiny, *windows(good), [4]).status == DONE


def test_unknown_opcode_and_program_without_end(tiny):
    found = run(tiny, *windows(isa.pack(Opcode.LOAD, **LOAD), bytes([77]) * 64), [1])
    assert (found.code, found.index) == (Error.OPCODE, 1)
    model, cache, count = windows(isa.pack(Opcode.LOAD, **LOAD), isa.pack(Opcode.LOAD, **LOAD))
    found = run(tiny, model, cache, count - 1, [1])
    assert (found.code, found.index) == (Error.FETCH, 1)


def test_a_wait_that_never_ends_is_watched(tiny):
    found = run(tiny, *windows(isa.pack(Opcode.LOAD, **LOAD), isa.pack(Opcode.MATMUL, waits=(2, 0, 0), **RAW)), [1], watchdog=2000)
    assert (found.status & ERROR, found.code, found.index) == (ERROR, Error.WATCHDOG, 1)
    assert run(tiny, *windows(), [1]).status == DONE


def test_memory_that_answers_with_errors(tiny):
    """A read and a write; the index is that of the descriptor."""
    reading = windows(isa.pack(Opcode.LOAD, **LOAD), isa.pack(Opcode.MATMUL, **RAW | {"addr": 4096}))
    writing = windows(isa.pack(Opcode.LOAD, **LOAD), isa.pack(Opcode.MATMUL, **RAW))
    tiny.release()
    first, _ = tiny.allocate(0)
    for (model, cache, count), at, code in ((reading, 4096, Error.AXI_READ), (writing, 8192, Error.AXI_WRITE)):
        tiny.fail_reads_and_writes(first + at, first + at + 8)
        found = run(tiny, model, cache, count, [1])
        tiny.fail_reads_and_writes(0, 0)
        assert (found.status & ERROR, found.code, found.index) == (ERROR, code, 1)
    assert run(tiny, *writing, [1]).status == DONE


def test_x_is_free_until_rows_come(tiny):
    """The weights of a RESIDUAL lie behind the data of a LOAD that waits for a NORM: the NORM gets X although it comes later."""
    residual = {"n_row_groups": 4, "n_col_blocks": 1, "w_planes": 1, "a_bits": 1, "post": Post.RESIDUAL, "shift": 20}
    norm = {"n_rows": 64, "shift": 16, "mean_shift": 20, "imm": 0x4E80_0000, "write_x": 1}
    descriptors = [isa.pack(Opcode.MATMUL, **RAW), isa.pack(Opcode.NORM, waits=(0, 1, 0), **norm),
                   isa.pack(Opcode.LOAD, waits=(0, 0, 1), **LOAD), isa.pack(Opcode.MATMUL, **residual)]
    found = run(tiny, *windows(*descriptors), [1])
    assert (found.status, found.code) == (DONE, Error.NONE), f"error {found.code} at {found.index}"
