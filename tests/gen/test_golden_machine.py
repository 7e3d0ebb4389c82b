"""The golden machine computes what the golden model computes, bit for bit: packing, placing and compiling are right."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import SMALL, golden_of, head_plans, machine_of, model_configs, random_image

from celosia.gen import image
from celosia.gen.golden.attention import pack_record
from celosia.gen.golden.machine import Machine, MachineError, lanes_of
from celosia.gen.lockup import gathers
from celosia.gen.model import EXACT, HeadPlan
from celosia.gen.place import rope_order
from celosia.hw import isa
from celosia.hw.configs import CONFIGS, duo, kv260, tiny
from celosia.hw.isa import Opcode, Sink, Source, Tokens

CONTEXT = 32


def feed(machine, tokens, chunks, first=0):
    """Run all tokens in chunks of the given sizes, repeated; candidates after the last."""
    position, sizes = first, iter(chunks * len(tokens))
    while tokens:
        n = min(next(sizes), len(tokens))
        part, tokens = tokens[:n], tokens[n:]
        found = machine.run("prefill" if tokens else "decode", part, lanes_of(position, n))
        position += n
    return found


def same(candidates, others):
    """Same tokens, same bits."""
    return [(t, np.float32(v).tobytes()) for t, v in candidates] == [(t, np.float32(v).tobytes()) for t, v in others]


def cache_bytes(golden, layout, n_positions):
    """The cache window that the golden model's keys and values make in pages as ``machine_of`` gives them."""
    regions, size = layout.cache()
    cache = np.zeros(size, np.uint8)
    pad, ports, size = layout.head_pad - layout.model.head_dim, layout.accel.n_ports, layout.accel.page_positions
    order = rope_order(layout.model.head_dim)
    for (layer, head), region in regions.items():
        for j in range(n_positions):
            at = (layer, head, j)
            key, value = (torch.nn.functional.pad(x, (0, pad)) for x in (golden.keys[at][order], golden.values[at]))
            record = pack_record(key, golden.key_scales[at], value, golden.value_scales[at], layout.accel.port_bytes)
            row = ((layout.pages - 1 - j // size) * size + j % size) // ports
            start = region.offset + j % ports * region.port_stride + row * layout.record_bytes
            cache[start:start + len(record)] = np.frombuffer(record, np.uint8)
    return cache


def check(config, accel, seed, tokens, chunks, plan=EXACT):
    data, assembled, model = random_image(config, accel, seed, CONTEXT, plan)
    machine, golden = machine_of(data, accel), golden_of(model, accel, CONTEXT)
    assert same(feed(machine, tokens, chunks), golden.step(tokens, 0, accel.top_k))
    assert np.array_equal(machine.cache, cache_bytes(golden, assembled.placement.layout, len(tokens)))


@settings(max_examples=15, deadline=None)
@given(config=model_configs(), accel=st.sampled_from([tiny, duo]), seed=st.integers(0, 99), data=st.data())
def test_machine_equals_model(config, accel, seed, data):
    tokens = data.draw(st.lists(st.integers(0, config.vocab_size - 1), min_size=1, max_size=12))
    chunks = data.draw(st.lists(st.integers(1, accel.token_lanes), min_size=1, max_size=4))
    check(config, accel, seed, tokens, chunks, data.draw(head_plans(config, accel)))


@pytest.mark.parametrize("accel", CONFIGS.values(), ids=CONFIGS)
def test_every_configuration_in_chunks_of_every_size(accel):
    tokens = [7, 3, 29, 0, 11, 2, 2, 5, 19, 23]
    for chunk in {1, 2, 3, min(accel.token_lanes, 10)} & set(range(1, accel.token_lanes + 1)):
        check(SMALL, accel, chunk, tokens, [chunk])


def test_a_matrix_of_several_row_blocks():
    config = replace(SMALL, ffn_size=300, vocab_size=600, n_layers=1)
    check(config, duo, 3, [599, 17, 300], [2])


@pytest.mark.parametrize("accel", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("vocab, candidates, planes", [(29, 1, 1), (30, 4, 2), (31, 3, 1), (600, 4, 4)])
def test_shortlists_of_every_configuration(accel, vocab, candidates, planes):
    config = replace(SMALL, vocab_size=vocab, tied=False)
    check(config, accel, vocab, [7, 3, 28], [2], HeadPlan("shortlist", candidates, planes))


def test_a_shortlist_is_scored_as_the_exact_head_scores():
    tokens, found = [7, 3, 28], {}
    for kind, candidates in (("exact", 16), ("shortlist", 16), ("shortlist", 3)):
        data, _, _ = random_image(SMALL, tiny, 5, CONTEXT, HeadPlan(kind, candidates))
        found[kind, candidates] = feed(machine_of(data, tiny), tokens, [3])
    exact = dict(found["exact", 16])
    for few in (3, 16):
        scored = found["shortlist", few]
        assert len(scored) == few and [logit for _, logit in scored] == sorted((logit for _, logit in scored), reverse=True)
        assert sum(token in exact for token, _ in scored) >= few // 2
        assert same([(t, v) for t, v in scored if t in exact], [(t, exact[t]) for t, _ in scored if t in exact])


def test_gathering_without_a_shortlist_is_an_error():
    data, assembled, _ = random_image(SMALL, tiny, plan=HeadPlan("shortlist", 2))
    machine = machine_of(data, tiny)
    machine.begin("decode", [1], lanes_of(0, 1))
    for step in assembled.programs["decode"].steps:
        if gathers(step.opcode, step.fields):
            with pytest.raises(ValueError, match="asks for candidate"):
                machine.execute(0, step.opcode, step.fields)
        elif step.fields.get("sink") is Sink.RESCORE:
            with pytest.raises(ValueError, match="rescores a shortlist"):
                machine._vector.push_matmul(torch.zeros(1, tiny.vector_lanes))
                machine._shortlists = None
                machine.execute(0, step.opcode, step.fields)


def test_a_run_leaves_nothing_behind():
    data, _, _ = random_image(SMALL, tiny)
    machine = machine_of(data, tiny)
    first = feed(machine, [1, 2, 3], [4])
    feed(machine, [9, 8, 7, 6, 5, 4], [3])
    assert same(feed(machine, [1, 2, 3], [1]), first)


class Units:
    """Runs a program in any order that queues, waits and streams allow, one whole descriptor at a time.

    Data arrive in program order: a descriptor that reads memory runs only after all that read before it, and, at its
    worst, after their streams have been taken.
    """

    DEPTH = {Opcode.LOAD: 8, Opcode.MATMUL: 8, Opcode.VECTOR: 32, Opcode.ATTEND: 8}

    def __init__(self, machine, steps, rng, strict):
        self.machine, self.steps, self.rng, self.strict = machine, steps, rng, strict
        self.queues = {unit: [] for unit in self.DEPTH}
        self.done = dict.fromkeys(self.DEPTH, 0)
        self.issued, self.shortlist_ended = 0, False
        self.reads = []         # indices that still hold up the data behind them
        self.liked = rng.sample([*self.queues, "issue"], 5)     # who mostly goes first in this run

    def run(self):
        order = []
        while True:
            choices = [unit for unit in self.queues if self.runnable(unit)]
            while self.issued + 1 < len(self.steps) and self.steps[self.issued][0] is Opcode.END:     # of shorter runs
                self.issued += 1
            opcode = self.steps[self.issued][0]
            if opcode is not Opcode.END and len(self.queues[opcode]) < self.DEPTH[opcode] and not self.held_up():
                choices.append("issue")
            if not choices:
                break
            likes = self.rng.random() < 0.9
            choice = min(choices, key=self.liked.index) if likes else self.rng.choice(choices)
            if choice == "issue":
                self.shortlist_ended = (self.shortlist_ended or gathers(opcode, self.steps[self.issued][2])) and \
                    self.steps[self.issued][2].get("sink") is not Sink.TOPK
                self.queues[opcode].append(self.issued)
                if opcode is not Opcode.VECTOR:
                    self.reads.append(self.issued)
                self.issued += 1
            else:
                order.append(self.execute(choice))
        assert self.steps[self.issued][0] is Opcode.END and not any(self.queues.values()), "the program locked up"
        return order

    def held_up(self):
        """The descriptor that ends the shortlist is issued when all before it are complete."""
        opcode, _, fields = self.steps[self.issued]
        return gathers(opcode, fields) and not self.shortlist_ended and any(self.queues.values())

    def runnable(self, unit):
        if not self.queues[unit]:
            return False
        index = self.queues[unit][0]
        _, waits, fields = self.steps[index]
        if any(self.done[other] < wait for other, wait in zip(self.queues, waits)):
            return False
        if unit is not Opcode.VECTOR:
            return self.reads[0] == index and not (unit is not Opcode.LOAD and self.waiting(unit) and self.strict)
        source = {Source.MATMUL: Opcode.MATMUL, Source.ATTEND: Opcode.ATTEND}.get(fields["source"])
        return source is None or self.waiting(source) > 0

    def waiting(self, unit):
        return self.machine.stream_words(Source.MATMUL if unit is Opcode.MATMUL else Source.ATTEND)

    def execute(self, unit):
        index = self.queues[unit].pop(0)
        opcode, _, fields = self.steps[index]
        self.machine.execute(index, opcode, fields)
        self.done[unit] += 1
        if unit is Opcode.LOAD or unit is not Opcode.VECTOR and not self.strict:
            self.reads.remove(index)
        elif unit is Opcode.VECTOR and fields["source"] in (Source.MATMUL, Source.ATTEND) and self.strict:
            source = Opcode[fields["source"].name if fields["source"] is Source.MATMUL else "ATTEND"]
            self.reads.remove(next(i for i in self.reads if self.steps[i][0] is source))
        return index


@settings(max_examples=20, deadline=None)
@given(config=model_configs(), accel=st.sampled_from([tiny, duo]), seed=st.integers(0, 999), strict=st.booleans(),
       data=st.data())
def test_any_order_that_the_waits_allow_gives_the_same(config, accel, seed, strict, data):
    """The waits are enough, and no order locks up."""
    windows = [5 * data.draw(st.booleans()) for _ in range(config.n_layers)]
    config = replace(config, windows=windows, sinks=data.draw(st.integers(0, 2)))
    data, _, model = random_image(config, accel, seed, CONTEXT, data.draw(head_plans(config, accel)))
    machine, rng = machine_of(data, accel), random.Random(seed)
    tokens = [rng.randrange(config.vocab_size) for _ in range(3 * accel.token_lanes)]
    program = rng.choice(["decode", "batch"])
    for first in range(0, len(tokens), accel.token_lanes):
        part = tokens[first:first + accel.token_lanes]
        Units(machine, machine.begin(program, part, lanes_of(first, len(part))), rng, strict).run()
    assert same(machine.candidates(), golden_of(model, accel, CONTEXT).step(tokens, 0, accel.top_k))


@settings(max_examples=15, deadline=None)
@given(config=model_configs(), accel=st.sampled_from([tiny, duo]), seed=st.integers(0, 999), data=st.data())
def test_a_bidirectional_model_encodes_whole_texts(config, accel, seed, data):
    """Every lane as the golden model has it, in any order of the units; nothing but ``encode`` is in the image."""
    config, rng = replace(config, bidirectional=True), random.Random(seed)
    image, assembled, model = random_image(config, accel, seed, accel.token_lanes, data.draw(head_plans(config, accel)))
    assert list(assembled.programs) == ["encode"]
    machine, golden = machine_of(image, accel), golden_of(model, accel, accel.token_lanes)
    for n in range(1, accel.token_lanes + 1):
        tokens = [rng.randrange(config.vocab_size) for _ in range(n)]
        Units(machine, machine.begin("encode", tokens, lanes_of(0, n)), rng, False).run()
        hidden = golden.hidden(tokens, 0)
        for lane in range(n):
            assert same(machine.candidates(lane), golden.candidates(hidden[lane:lane + 1], accel.top_k))


@pytest.mark.parametrize("unit", [Opcode.LOAD, Opcode.VECTOR])
def test_that_test_notices_a_missing_wait(unit):
    """Without the waits for one unit some order gives something else. (Streams imply those for the other two units.)"""
    data, _, model = random_image(SMALL, tiny)
    right = golden_of(model, tiny).step([1, 2, 3], 0, tiny.top_k)
    wrong = False
    for seed in range(5):
        machine, rng = machine_of(data, tiny), random.Random(seed)
        steps = [(opcode, tuple(0 if other is unit else wait for other, wait in zip(Units.DEPTH, waits)), fields)
                 for opcode, waits, fields in machine.begin("decode", [1, 2, 3], lanes_of(0, 3))]
        try:
            Units(machine, steps, rng, False).run()
            wrong |= not same(machine.candidates(), right)
        except (ValueError, AssertionError):
            wrong = True
    assert wrong


# Descriptors that must stop the program.

GOOD_VECTOR = dict(addr=0, port_stride=0, n_words=1, block_words=1, x_base=0, x_stride=0, p_base=0, p_stride=0, d_base=0,
                   d_stride=1, imm0=0, imm1=0, source=Source.P, mul1=isa.Mul1.ONE, mul1_scalar=0, mul2=isa.Mul2.ONE,
                   mul3=isa.Mul3.ONE, add=isa.Add.NONE, reduce=isa.Reduce.NONE, reduce_scalar=0, sink=Sink.X, scale_scalar=0,
                   bank=0, head=0, tokens=Tokens.ALL)
HEAD = GOOD_VECTOR | {"n_words": 4, "block_words": 4}


def set_bits(descriptor, field, value):
    """A VECTOR descriptor with a code that does not exist."""
    shape = isa.Vector.as_shape()[field]
    start = isa.Header.as_shape().size + shape.offset
    bits = int.from_bytes(descriptor, "little") & ~(((1 << shape.width) - 1) << start)
    return (bits | value << start).to_bytes(64, "little")


LOAD = dict(addr=0, port_stride=0, index_stride=0, index=isa.Index.NONE, n_words=4, d_base=0, d_stride=0)
MATMUL = dict(addr=0, port_stride=0, n_row_groups=1, n_col_blocks=1, planes=1, bank=0, tokens=Tokens.ALL)
ATTEND = dict(addr=0, port_stride=0, group=1, head_words=1, bank=0)
LANE = {"tokens": Tokens.LANE, "lane": 2}
BAD = [
    ("OPCODE", b"\x63" + bytes(63)),
    ("SIZE", isa.pack(Opcode.LOAD, **LOAD | {"d_base": tiny.p_words - 3})),
    ("SIZE", isa.pack(Opcode.LOAD, **LOAD | {"n_words": 0})),
    ("READ_WINDOW", isa.pack(Opcode.LOAD, **LOAD | {"addr": 1 << 30})),
    ("SIZE", isa.pack(Opcode.MATMUL, **MATMUL | {"n_col_blocks": tiny.max_columns // tiny.columns + 1})),
    ("SIZE", isa.pack(Opcode.MATMUL, **MATMUL | {"planes": 0})),
    ("READ_WINDOW", isa.pack(Opcode.MATMUL, **MATMUL | {"n_row_groups": 60000})),
    ("SIZE", isa.pack(Opcode.VECTOR, **GOOD_VECTOR | {"d_base": tiny.x_words})),
    ("SIZE", isa.pack(Opcode.VECTOR, **GOOD_VECTOR | {"n_words": 0})),
    ("SIZE", isa.pack(Opcode.VECTOR, **GOOD_VECTOR | {"sink": Sink.K})),
    ("OPCODE", set_bits(isa.pack(Opcode.VECTOR, **GOOD_VECTOR), "mul1", 5)),
    ("SIZE", isa.pack(Opcode.LOAD, **LOAD | {"index": isa.Index.CANDIDATE, "rank": tiny.top_k})),
    ("SIZE", isa.pack(Opcode.MATMUL, **MATMUL | {"n_row_groups": 2, "gather": 1, "rank": tiny.top_k})),
    ("SIZE", isa.pack(Opcode.MATMUL, **MATMUL | {"n_row_groups": 4, "gather": 1})),
    ("SIZE", isa.pack(Opcode.VECTOR, **GOOD_VECTOR | {"sink": Sink.RESCORE, "d_base": tiny.top_k})),
    ("WRITE_WINDOW", isa.pack(Opcode.VECTOR, **HEAD | {"sink": Sink.V, "addr": 1 << 20})),
    ("SIZE", isa.pack(Opcode.VECTOR, **GOOD_VECTOR | LANE)),
    ("SIZE", isa.pack(Opcode.MATMUL, **MATMUL | {"n_row_groups": 2} | LANE)),
    ("SIZE", isa.pack(Opcode.ATTEND, **ATTEND | {"group": 5})),
    ("SIZE", isa.pack(Opcode.ATTEND, **ATTEND | {"head_words": 17})),
    ("READ_WINDOW", isa.pack(Opcode.ATTEND, **ATTEND | {"addr": 1 << 20})),
]


@pytest.mark.parametrize("code, descriptor", BAD)
def test_a_bad_descriptor_stops_the_program_by_name_and_index(code, descriptor):
    good, assembled, _ = random_image(SMALL, tiny)
    where = assembled.header["programs"]["prefill"]
    payload = bytearray(assembled.payload)
    payload[where["offset"] + 64:where["offset"] + 128] = descriptor
    machine = machine_of(image.encode(assembled.header, payload), tiny)
    with pytest.raises(MachineError) as error:
        machine.run("prefill", [1, 2], lanes_of(3, 2))
    assert (error.value.code, error.value.index) == (code, 1)
    assert machine.run("decode", [1], lanes_of(0, 1))


@pytest.mark.parametrize("lanes", [
    [], lanes_of(0, 5), lanes_of(512, 1), lanes_of(511, 2), [(8, 0)], [(0, 1), (0, 3)], [(0, 1), (0, 1)], [(0, 1), (1, 0), (0, 2)]])
def test_a_bad_launch_is_refused(lanes):
    machine = machine_of(random_image(SMALL, tiny)[0], tiny)
    with pytest.raises(MachineError, match="LAUNCH"):
        machine.run("decode", [1] * len(lanes), lanes)


def test_a_program_without_end_is_stopped():
    data, assembled, _ = random_image(SMALL, tiny)
    where = assembled.header["programs"]["decode"]
    with pytest.raises(MachineError, match="FETCH") as error:
        machine_of(data, tiny).run((where["offset"], 5), [1], lanes_of(0, 1))
    assert error.value.index == 4


def test_an_image_of_another_configuration_is_refused():
    data, _, _ = random_image(SMALL, tiny)
    with pytest.raises(ValueError, match=f"image was packed for configuration tiny \\({tiny.digest}\\), this accelerator is "
                                         f"kv260 \\({kv260.digest}\\): pack again with --config kv260"):
        Machine.of_image(data, kv260)
    with pytest.raises(ValueError, match="pack the model again"):
        Machine.of_image(data[:-1], tiny)
