"""Compiled binary encoders on the golden machine: the golden model's integers, bit for bit, whatever the memories held before."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from binary_run import Run

from celosia.gen.binary.assemble import assemble
from celosia.gen.binary.integers import fold
from celosia.gen.binary.model import BinaryModelConfig, ImageInput, TextInput
from celosia.gen.binary.pack import pack_matrix, unpack_matrix
from celosia.gen.binary.place import DoesNotFit
from celosia.gen.binary.synthetic import random_config, random_model
from celosia.gen.binary.waits import UNITS, accesses
from celosia.gen.golden.binary import model as golden
from celosia.gen.golden.binary.machine import MachineError
from celosia.hw.binary import isa
from celosia.hw.binary.configs import binary_kv260, binary_tiny
from celosia.hw.binary.isa import Opcode

# Fewer chunks than sequences and more, one set of parameters at a time, few lines, several ports, rows of a beat of every length.
WIDE = replace(binary_tiny, name="wide", n_ports=2, token_lanes=16, engine_rows=8, max_tokens=240)
TALL = replace(binary_tiny, name="tall", token_lanes=64, engine_rows=4, max_tokens=512)
SMALL = replace(binary_tiny, name="small", act_lines=128, p_words=1024)
MACHINES = {config.name: config for config in (binary_tiny, binary_kv260, WIDE, TALL, SMALL)}


def a_run(rng, accel, **given):
    """A random model that fits a machine."""
    for _ in range(50):
        seed = rng.randrange(1 << 30)
        config = random_config(random.Random(seed), **given)
        try:
            return Run(random_model(config, seed), accel, seed=seed, program=rng.choice(["single", "batch"]))
        except DoesNotFit:
            continue
    raise AssertionError("No random model fits")


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("name", MACHINES)
def test_golden_machine_is_the_golden_model(name, case, rng):
    run = a_run(rng, MACHINES[name])
    run.run()
    run.check()


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("attention", ["sps", "softmax"])
@pytest.mark.parametrize("act_bits", [1, 8])
@pytest.mark.parametrize("source", [ImageInput(height=8, width=4, channels=1, patch=2, maximum=16),
                                    TextInput(vocabulary="words", vocab_size=20)], ids=["image", "text"])
def test_every_kind_of_model(norm, attention, act_bits, source, rng):
    run = a_run(rng, binary_tiny, norm=norm, attention=attention, act_bits=act_bits, input=source)
    run.run()
    run.check()


@pytest.mark.parametrize("max_tokens", [2, 8, 32, 128])
def test_sequences_of_less_and_more_than_a_chunk(max_tokens, rng):
    run = a_run(rng, binary_tiny, max_tokens=max_tokens, input=TextInput(vocabulary="words", vocab_size=20), n_layers=2)
    run.run()
    run.check()


@pytest.mark.parametrize("case", range(6))
def test_any_order_that_waits_allow(case, rng):
    """Units at random, the engine up to two products ahead of what is behind it: nothing changes."""
    run = a_run(rng, rng.choice([binary_tiny, SMALL]), n_layers=2)
    in_any_order(run, rng)
    run.check()


def in_any_order(run, rng, ignore_waits_of=None):
    machine, queues = run.machine, {unit: [] for unit in UNITS}
    machine.state.lengths[:len(run.lengths)] = torch.as_tensor(run.lengths)
    for index, step in enumerate(run.compiled.steps):
        if step.opcode is not Opcode.END:
            waits = (0, 0, 0) if step.opcode is ignore_waits_of else step.waits
            queues[step.opcode].append((index, waits, isa.unpack(isa.pack(step.opcode, step.waits, **step.fields))[2]))
    done, at, products = dict.fromkeys(UNITS, 0), dict.fromkeys(UNITS, 0), []
    while True:
        can = [unit for unit in UNITS if at[unit] < len(queues[unit]) and all(
            done[other] >= wait for other, wait in zip(UNITS, queues[unit][at[unit]][1]))]
        can = [unit for unit in can if unit is not Opcode.MATMUL or len(products) < 2] + ["rows"] * bool(products)
        if not can:
            break
        unit = rng.choice(can)
        if unit == "rows":
            machine.take(*products.pop(0))
            done[Opcode.MATMUL] += 1
            continue
        index, _, fields = queues[unit][at[unit]]
        at[unit] += 1
        if unit is Opcode.MATMUL:
            products.append((index, fields, machine.product(index, fields)))
        else:
            machine.execute(index, unit, fields)
            done[unit] += 1
    assert at == {unit: len(queue) for unit, queue in queues.items()}


def test_waits_are_needed(rng):
    """Without the waits of any one unit something else comes out, in one order or another."""
    for unit in UNITS:
        differ = False
        for seed in range(20):
            run = a_run(random.Random(3), binary_tiny, n_layers=4, act_bits=8)
            in_any_order(run, random.Random(seed), ignore_waits_of=unit)
            differ = differ or any((got != want).any() for got, want in zip(run.logits(), run.expected()))
            if differ:
                break
        assert differ, unit


def test_no_descriptor_waits_for_one_behind_it(rng):
    run, given = a_run(rng, binary_tiny), [0, 0, 0]
    for step in run.compiled.steps[:-1]:
        assert all(wait <= count for wait, count in zip(step.waits, given))
        reads, writes = accesses(binary_tiny, step.opcode, step.fields)
        assert all(first < end for _, first, end in [*reads, *writes] if (first, end) != (0, 0))
        given[UNITS.index(step.opcode)] += 1


@pytest.mark.parametrize("attention", ["sps", "softmax"])
@pytest.mark.parametrize("accel", [binary_tiny, binary_kv260], ids=lambda accel: accel.name)
def test_no_product_needs_the_one_before_it(attention, accel):
    """But that of the first chunk and that of the last one, which have nothing beside them."""
    config = BinaryModelConfig(hidden_size=64, n_layers=3, n_heads=4, ffn_size=128, act_bits=1, attention=attention, norm="pre",
                               norm_eps=1e-5, labels=("a", "b"), pooling="mean", max_tokens=16,
                               input=TextInput(vocabulary="words", vocab_size=20))
    steps = [step for step in assemble(fold(random_model(config)), accel).programs["batch"].steps if step.opcode is Opcode.MATMUL]
    assert [step.label for i, step in enumerate(steps) if i and step.waits[1] == i] == ["layer0.o", "layer2.down"]


def test_fields_hold_what_is_written(rng):
    for name, accel in MACHINES.items():
        for step in a_run(rng, accel).compiled.steps:
            opcode, waits, fields = isa.unpack(isa.pack(step.opcode, step.waits, **step.fields))
            assert (opcode, waits) == (step.opcode, step.waits), name
            assert {key: fields[key] for key in step.fields} == step.fields, name


def test_a_broken_golden_model_is_found(rng, monkeypatch):
    run = a_run(random.Random(1), binary_tiny, act_bits=8)
    run.run()
    monkeypatch.setattr(golden, "threshold", lambda v, words: (v <= 0).to(torch.int64))
    with pytest.raises(AssertionError):
        run.check()


def test_weights_round_trip(rng):
    numbers = np.random.default_rng(7)
    for planes in range(1, 9):
        most = (1 << planes) - 1
        weights = 2 * numbers.integers(0, most + 1, (rng.randrange(1, 40), rng.randrange(1, 90))) - most
        for accel in (binary_tiny, binary_kv260, WIDE):
            ports = pack_matrix(weights, planes, accel)
            assert len(ports) == accel.n_ports
            np.testing.assert_array_equal(unpack_matrix(ports, planes, *weights.shape, accel), weights)
    with pytest.raises(ValueError, match="Weights of 2 planes must be odd and within -3 .. 3"):
        pack_matrix(np.array([[1, 2]]), 2, binary_tiny)


@pytest.mark.parametrize("given, sentence", [
    ({"hidden_size": 40, "n_heads": 1}, "The size of a head must be at most 32 on configuration binary-tiny, not 40"),
    ({"ffn_size": 65536}, "intermediate_size must be at most 8160 on configuration binary-tiny, not 65536"),
    ({"max_tokens": 256}, "Tokens of a run must be at most 128 on configuration binary-tiny, not 256"),
    ({"hidden_size": 960, "n_heads": 30, "max_tokens": 64},
     "Rows of X must be at most 2048 on configuration binary-tiny, not 7680"),
    ({"ffn_size": 3840, "act_bits": 8}, "Lines of ACT must be at most 512 on configuration binary-tiny"),
])
def test_what_does_not_fit_is_said(given, sentence, rng):
    config = random_config(random.Random(0), **{"hidden_size": 32, "n_heads": 2, "act_bits": 1,
                                                "input": TextInput(vocabulary="words", vocab_size=20), "n_layers": 1} | given)
    with pytest.raises(DoesNotFit, match=sentence):
        assemble(fold(random_model(config)), binary_tiny)


def test_too_many_sequences_are_refused():
    model = fold(random_model(random_config(random.Random(0), max_tokens=16)))
    with pytest.raises(DoesNotFit, match="Sequences of a run must be at most 8 on configuration binary-tiny, not 9"):
        assemble(model, binary_tiny, 9)
    assert assemble(model, binary_tiny, 3).header["programs"]["batch"]["sequences"] == 3


def test_errors_of_the_machine(rng):
    run = a_run(rng, binary_tiny)
    for opcode, fields, code in [
            (Opcode.LOAD, {"n_beats": 1, "d_base": 4096, "target": isa.Target.PARAM}, "SIZE"),
            (Opcode.LOAD, {"n_beats": 8, "addr": 1 << 30, "target": isa.Target.PARAM}, "READ_WINDOW"),
            (Opcode.NORM, {"n_rows": 8, "x_base": 2041}, "SIZE")]:
        with pytest.raises(MachineError) as found:
            run.machine.execute(3, opcode, isa.unpack(isa.pack(opcode, **fields))[2])
        assert (found.value.code, found.value.index) == (code, 3)
    with pytest.raises(MachineError, match="FETCH"):
        run.machine.run((run.program["offset"], 1), [1])
    with pytest.raises(MachineError, match="LAUNCH"):
        run.machine.run((run.program["offset"], 1), [1] * 17)
