"""The program compiler: its listing, its waits, its scratch memory."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import SMALL, head_plans, model_configs, random_image

from celosia.gen import program as compiler
from celosia.gen.lockup import check_reads_ahead, check_shortlist, check_streams, gathers
from celosia.gen.model import EXACT, HeadPlan, ModelConfig
from celosia.gen.scratch import UNITS, Scratch, Tracker, accesses
from celosia.hw import isa
from celosia.hw.configs import duo, kv260, tiny
from celosia.hw.isa import LANE_INDEXES, Index, Opcode, Sink, Source
from celosia.hw.links import PLANS_AHEAD


def programs(config, accel, plan=EXACT):
    return random_image(config, accel, plan=plan)[1].programs


def test_listing(expected):
    config = ModelConfig(hidden_size=16, ffn_size=24, n_layers=1, n_heads=4, n_kv_heads=2, head_dim=8, vocab_size=20,
                         max_positions=32)
    expected("program_tiny.txt", programs(config, tiny)["decode"].listing())


@settings(max_examples=25, deadline=None)
@given(config=model_configs(), accel=st.sampled_from([tiny, duo, kv260]), data=st.data())
def test_encoding_reads_back(config, accel, data):
    for program in programs(config, accel, data.draw(head_plans(config, accel))).values():
        code = program.encode()
        assert len(code) == len(program.steps) * isa.DESCRIPTOR_BYTES
        for i, step in enumerate(program.steps):
            assert isa.unpack(code[64 * i:64 * i + 64]) == (step.opcode, step.waits, step.fields)
        assert program.steps[-1].opcode is Opcode.END
        assert [step.fields["above"] for step in program.steps if step.opcode is Opcode.END][-1] == 0


def before_start(steps):
    """For every step the set of steps that are surely complete when it starts: by its waits, its unit's order, and theirs."""
    of_unit, closed = {unit: [] for unit in UNITS}, []
    for i, step in enumerate(steps):
        direct = [done for unit, wait in zip(UNITS, step.waits) for done in of_unit[unit][:wait]]
        if step.opcode in of_unit:
            direct += of_unit[step.opcode]
            of_unit[step.opcode].append(i)
        closed.append(set(direct).union(*(closed[j] for j in direct)))
    return closed


def conflicts(step, other, lanes):
    """Whether two steps must keep their order: one writes what the other touches (a queue is only read after written)."""
    reads, writes = accesses(step.opcode, step.fields, lanes)
    other_reads, other_writes = accesses(other.opcode, other.fields, lanes)
    pairs = [(r, w) for r in reads for w in other_writes]
    pairs += [(w, o) for w in writes for o in other_reads + other_writes if w[0] != "KV"]
    return any(a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for a, b in pairs)


@settings(max_examples=10, deadline=None)
@given(config=model_configs(max_group=2), accel=st.sampled_from([tiny, duo]), data=st.data())
def test_waits_order_all_that_conflicts_and_name_nothing_else(config, accel, data):
    steps = programs(config, accel, data.draw(head_plans(config, accel)))[data.draw(st.sampled_from(["decode", "batch"]))].steps
    complete, lanes = before_start(steps), accel.token_lanes
    of_unit = {unit: [i for i, step in enumerate(steps) if step.opcode is unit] for unit in UNITS}
    for i, step in enumerate(steps):
        for j in range(i):
            if steps[j].opcode is not step.opcode and conflicts(step, steps[j], lanes):
                assert j in complete[i], f"{step.label} does not wait for {steps[j].label}"
        for unit, wait in zip(UNITS, step.waits):
            if wait:
                named = of_unit[unit][wait - 1]
                assert named < i and conflicts(step, steps[named], lanes), f"{step.label} waits for {steps[named].label}"


@settings(max_examples=25, deadline=None)
@given(config=model_configs(), accel=st.sampled_from([tiny, duo, kv260]), data=st.data())
def test_scratch_is_within_what_the_program_says(config, accel, data):
    for program in programs(config, accel, data.draw(head_plans(config, accel))).values():
        ends = {"x": 0, "p": 0}
        for step in program.steps:
            f = step.fields
            if step.opcode is Opcode.VECTOR:
                for prefix, memory, used in (("x", "x", f["source"] is Source.X or f["x_stride"]),
                                             ("d", "x", f["sink"] is Sink.X), ("p", "p", step.table)):
                    if used:
                        end = f[f"{prefix}_base"] + (accel.token_lanes - 1) * f[f"{prefix}_stride"] + f["n_words"]
                        ends[memory] = max(ends[memory], end)
            elif step.opcode is Opcode.LOAD:
                rows = accel.token_lanes if f["index"] in LANE_INDEXES else 1
                ends["p"] = max(ends["p"], f["d_base"] + (rows - 1) * f["d_stride"] + f["n_words"])
        assert (ends["x"], ends["p"]) == (program.x_words, program.p_words)
        assert program.x_words <= accel.x_words and program.p_words <= accel.p_words


@given(seed=st.integers(0, 10_000), rotate=st.booleans())
def test_buffers_never_overlap(seed, rotate):
    rng, scratch, held = random.Random(seed), Scratch(64, rotate=rotate), {}
    for number in range(40):
        if held and rng.random() < 0.5:
            name = rng.choice(sorted(held))
            scratch.free(name)
            del held[name]
        else:
            words = rng.randint(1, 20)
            fits = scratch.fits(words)
            base = scratch.take(number, words)
            assert fits == (base + words <= 64)
            assert all(base + words <= b or b + w <= base for b, w in held.values())
            held[number] = base, words
        assert scratch.peak >= max((b + w for b, w in held.values()), default=0)


def test_tracker_finds_each_hazard():
    tracker = Tracker(lanes=2)
    load = dict(n_words=4, d_base=0, d_stride=0)
    vector = dict(source=Source.X, mul1=isa.Mul1.P, mul2=isa.Mul2.ONE, add=isa.Add.NONE, sink=Sink.ACT, bank=1, n_words=4,
                  p_base=2, p_stride=0, tokens=isa.Tokens.ALL)
    assert tracker.issue(Opcode.LOAD, load) == (0, 0, 0, 0)
    assert tracker.issue(Opcode.LOAD, load | {"d_base": 8}) == (0, 0, 0, 0)
    assert tracker.issue(Opcode.VECTOR, vector) == (1, 0, 0, 0)                         # reads what was loaded
    assert tracker.issue(Opcode.MATMUL, dict(bank=0)) == (0, 0, 0, 0)
    assert tracker.issue(Opcode.MATMUL, dict(bank=1)) == (0, 0, 1, 0)                   # reads what was quantised
    assert tracker.issue(Opcode.LOAD, load | {"d_base": 4}) == (0, 0, 1, 0)             # overwrites what is being read
    assert tracker.issue(Opcode.LOAD, load | {"d_base": 12}) == (0, 0, 0, 0)
    assert tracker.issue(Opcode.VECTOR, vector | {"p_base": 8}) == (2, 2, 0, 0)         # another table, the same bank
    assert tracker.issue(Opcode.VECTOR, vector | {"sink": Sink.K, "mul1": isa.Mul1.ONE}) == (0, 0, 0, 0)
    assert tracker.issue(Opcode.ATTEND, dict(bank=0, rebased=0)) == (0, 0, 3, 0)
    assert tracker.issue(Opcode.VECTOR, vector | {"sink": Sink.K, "mul1": isa.Mul1.ONE}) == (0, 0, 0, 0)    # a queue
    assert tracker.issue(Opcode.VECTOR, vector | {"sink": Sink.Q, "bank": 0, "mul1": isa.Mul1.ONE}) == (0, 0, 0, 1)
    assert tracker.issue(Opcode.ATTEND, dict(bank=1, rebased=1)) == (0, 0, 5, 0)                            # both banks
    assert tracker.issue(Opcode.VECTOR, vector | {"sink": Sink.Q, "bank": 0, "mul1": isa.Mul1.ONE}) == (0, 0, 0, 2)


def test_loads_run_ahead():
    """A table is loaded before the descriptors that use the one before it have begun."""
    steps = programs(SMALL, tiny)["decode"].steps
    loads = {step.label: i for i, step in enumerate(steps) if step.opcode is Opcode.LOAD}
    uses = {}
    for i, step in enumerate(steps):
        uses.setdefault(step.table, i)
    order = sorted(loads, key=loads.get)
    for earlier, name in zip(order[1:], order[2:]):
        assert loads[name] < uses[earlier]


def test_a_program_that_could_lock_up_is_refused():
    steps = programs(SMALL, tiny)["decode"].steps
    drain = next(i for i, step in enumerate(steps) if step.producer is not None)
    source = next(i for i, step in enumerate(steps) if step is steps[drain].producer)
    check_streams(steps)
    load = next(i for i, step in enumerate(steps) if step.label == steps[drain].table)
    moved = [step for i, step in enumerate(steps) if i != load]
    moved.insert(source, steps[load])       # now behind the MATMUL whose sums it scales
    tracker = Tracker(tiny.token_lanes)
    for step in moved:
        step.waits = tracker.issue(step.opcode, step.fields)
    with pytest.raises(ValueError, match="needs data from behind step"):
        check_streams(moved)


def test_reads_between_two_attends_are_counted():
    """As many reads as the queue of plans holds may lie between an ATTEND and the step that takes the output of the one before."""
    steps = programs(SMALL, tiny)["decode"].steps
    attends = [i for i, step in enumerate(steps) if step.opcode is Opcode.ATTEND]
    one_row = next(step for step in steps if step.opcode is Opcode.LOAD and step.fields["index"] is Index.NONE)
    drain = next(i for i, step in enumerate(steps) if step.producer is steps[attends[0]])
    assert attends[0] < attends[1] < drain
    between = sum(step.opcode is not Opcode.VECTOR for step in steps[attends[1] + 1:drain])
    room = PLANS_AHEAD - between
    check_reads_ahead(steps[:drain] + [one_row] * room + steps[drain:], tiny.token_lanes)
    with pytest.raises(ValueError, match=f"at most {PLANS_AHEAD} reads may lie between it and step {attends[1]}, not "):
        check_reads_ahead(steps[:drain] + [one_row] * (room + 1) + steps[drain:], tiny.token_lanes)


def test_the_shortlist_ends_where_no_stream_is_open():
    steps = programs(SMALL, tiny, HeadPlan("shortlist", 3))["decode"].steps
    asks = [i for i, step in enumerate(steps) if gathers(step.opcode, step.fields)]
    assert len(asks) == 6 and steps[asks[0] - 1].fields["sink"] is Sink.TOPK
    check_shortlist(steps)
    early = steps[:asks[0] - 1] + [steps[asks[0]], steps[asks[0] - 1]] + steps[asks[0] + 1:]
    with pytest.raises(ValueError, match="ends the shortlist while a stream waits"):
        check_shortlist(early)


@settings(max_examples=10, deadline=None)
@given(config=model_configs(max_group=2), accel=st.sampled_from([tiny, duo, kv260]), data=st.data())
def test_a_batch_of_n_lanes_ends_before_what_lane_n_needs(config, accel, data):
    plan = HeadPlan("shortlist", data.draw(st.integers(1, min(4, config.vocab_size))))
    steps = programs(config, accel, plan)["batch"].steps
    for n in range(1, accel.token_lanes + 1):
        end = next(i for i, step in enumerate(steps) if step.opcode is Opcode.END and step.fields["above"] in (0, *range(n, 17)))
        lanes = [step.fields["lane"] for step in steps[:end] if "lane" in step.fields]
        ranks = [step for step in steps[:end] if step.opcode is Opcode.MATMUL and step.fields["gather"]]
        assert max(lanes) == n - 1 and len(ranks) == n * plan.candidates


def test_a_program_does_not_end_while_a_stream_is_open():
    steps = programs(SMALL, tiny, HeadPlan("shortlist", 3))["batch"].steps
    check_shortlist(steps)
    end = next(i for i, step in enumerate(steps) if step.opcode is Opcode.END)
    steps[end - 1], steps[end] = steps[end], steps[end - 1]
    with pytest.raises(ValueError, match=r"\(end of 1 lanes\) ends the program while a stream waits"):
        check_shortlist(steps)


def test_windows_and_four_bits_are_in_the_descriptors():
    def fields(opcode, **options):
        model = replace(SMALL, **options.pop("model", {}))
        return [step.fields for step in random_image(model, tiny, **options)[1].programs["decode"].steps if step.opcode is opcode]

    plain = fields(Opcode.ATTEND)
    assert all((f["window"], f["sinks"], f["int4"], f["bidirectional"]) == (0, 0, 0, 0) for f in plain)
    each = fields(Opcode.ATTEND, model={"windows": (7, 0), "sinks": 2})
    assert [(f["window"], f["sinks"]) for f in each] == [(7, 2)] * 2 + [(0, 0)] * 2
    assert {(f["window"], f["sinks"]) for f in fields(Opcode.ATTEND, model={"windows": (7, 0)}, window=9, sinks=1)} == {(9, 1)}
    assert all(f["int4"] for f in fields(Opcode.ATTEND, kv="int4"))
    assert [f["int4"] for f in fields(Opcode.VECTOR, kv="int4")].count(3) == len(plain)


@settings(max_examples=10, deadline=None)
@given(config=model_configs(max_group=2), accel=st.sampled_from([tiny, duo, kv260]), window=st.integers(1, 40),
       sinks=st.integers(0, 9), data=st.data())
def test_sinks_are_rebased_where_a_window_leaves_them(config, accel, window, sinks, data):
    windows = [window * data.draw(st.booleans()) for _ in range(config.n_layers)]
    model = replace(config, windows=windows, sinks=sinks, rebase=data.draw(st.booleans()))
    steps = random_image(model, accel)[1].programs[data.draw(st.sampled_from(["decode", "prefill", "batch"]))].steps
    banks = {}
    for step in steps:
        f = step.fields
        if step.opcode is Opcode.VECTOR and f["sink"] is Sink.Q:
            name, other, _ = step.label.removesuffix(": quantise").partition(", re-based")
            banks.setdefault(f["bank"], set()).add((name, bool(other)))
        if step.opcode is Opcode.ATTEND:
            layer, head = (int(text) for text in step.label.removeprefix("layer").split(".attend"))
            far = model.rebase and windows[layer] and sinks and windows[layer] + sinks < 32
            assert f["rebased"] == bool(far)
            names = {f"layer{layer}.q{head}.{query}" for query in range(config.group)}
            assert banks.pop(f["bank"]) == {(name, False) for name in names}
            assert not far or banks.pop(f["bank"] ^ 1) == {(name, True) for name in names}
    limits = {f["limit"] for f in (step.fields for step in steps if step.opcode is Opcode.LOAD) if f["index"] is Index.REBASED}
    assert limits == ({window + sinks - 1} if any(step.fields.get("rebased") for step in steps) else set())


@pytest.mark.parametrize("options, sentence", [
    ({"kv": "int5"}, "The cache's format must be one of int8, int4, k8v4, not 'int5'"),
    ({"sequences": 0}, "Sequences must be at least 1, not 0"),
    ({"sinks": 3}, "Sinks must be given with a window, not 3 sinks alone"),
    ({"window": -1}, "A window must be a number of positions, 0 for all, not -1")])
def test_caches_that_cannot_be(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        random_image(SMALL, tiny, **options)


def test_pages_are_as_many_as_the_sequences_need_and_the_configuration_has():
    counts = {n: random_image(SMALL, tiny, context=40, sequences=n)[1].header["cache"]["pages"] for n in (1, 2, 100)}
    assert counts == {1: 3, 2: 6, 100: tiny.max_pages}


def test_prefill_leaves_out_what_nobody_reads():
    found = programs(SMALL, tiny)
    labels = {name: [step.label for step in program.steps] for name, program in found.items()}
    assert "layer1.o" in labels["decode"] and "layer1.o" not in labels["prefill"]
    assert "head" in labels["decode"] and "head" not in labels["prefill"]
    assert labels["prefill"][-2] == "layer1.attend1: take"


def test_look_ahead_does_not_change_what_is_computed(monkeypatch):
    few = programs(SMALL, tiny)["decode"]
    monkeypatch.setattr(compiler, "LOOK_AHEAD", 0)
    late = programs(SMALL, tiny)["decode"]

    def rest(program):
        return [step.label for step in program.steps if step.opcode is not Opcode.LOAD]

    assert rest(few) == rest(late) and len(few.steps) == len(late.steps)
    assert late.p_words <= few.p_words


def test_one_kv_head_has_nothing_to_overlap():
    steps = programs(replace(SMALL, n_kv_heads=1), duo)["decode"].steps
    assert [step.label for step in steps if step.opcode is Opcode.ATTEND] == ["layer0.attend0", "layer1.attend0"]
