"""Several sequences in one run of the golden machine: each computes what it would compute alone, and pages are kept apart."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import SMALL, golden_of, head_plans, model_configs, random_image

from celosia.gen.golden.machine import Machine, MachineError, lanes_of
from celosia.gen.golden.pages import PageTables
from celosia.gen.golden.records import ranges_read
from celosia.gen.model import HeadPlan
from celosia.gen.program import INT4_STEP
from celosia.hw.configs import duo, tiny
from celosia.hw.links import visited_rows
from celosia.hw.regs import PageOp

CONTEXT = 40


def bits(candidates):
    return [(t, np.float32(v).tobytes()) for t, v in candidates]


def machine_with(data, accel, n_sequences, rng):
    """A golden machine whose pages are dealt out to the slots at random."""
    machine = Machine.of_image(data, accel)
    pages = rng.sample(range(machine.header["cache"]["pages"]), machine.header["cache"]["pages"])
    each = len(pages) // n_sequences
    for slot in range(n_sequences):
        machine.pages.give(slot, pages[slot * each:(slot + 1) * each])
    return machine


def feed_together(machine, texts, accel, rng):
    """Run all texts (of slots 0, 1, ...) in runs of mixed segments of any length; {(slot, position): candidates}."""
    at, found = [0] * len(texts), {}
    while any(at[slot] < len(text) for slot, text in enumerate(texts)):
        lanes, tokens, room = [], [], accel.token_lanes
        for slot in rng.sample(range(len(texts)), len(texts)):
            n = min(rng.randint(0, room), len(texts[slot]) - at[slot])
            lanes += lanes_of(at[slot], n, slot)
            tokens += texts[slot][at[slot]:at[slot] + n]
            at[slot], room = at[slot] + n, room - n
        if not lanes:
            continue
        program = rng.choice(["batch", "batch", "decode"])
        machine.run(program, tokens, lanes)
        for lane in range(len(lanes)) if program == "batch" else [len(lanes) - 1]:
            found[lanes[lane]] = machine.candidates(lane)
    return found


@settings(max_examples=10, deadline=None)
@given(config=model_configs(max_group=2), accel=st.sampled_from([tiny, duo]), seed=st.integers(0, 999),
       kv=st.sampled_from(["int8", "int4", "k8v4"]), window=st.sampled_from([0, 1, 2, 5, 16, 17]), sinks=st.sampled_from([0, 1, 4]),
       data=st.data())
def test_each_sequence_computes_what_it_would_alone(config, accel, seed, kv, window, sinks, data):
    rng, plan = random.Random(seed), data.draw(head_plans(config, accel))
    image, assembled, model = random_image(config, accel, seed, CONTEXT, plan, sequences=3, kv=kv, window=window,
                                            sinks=sinks if window else 0)
    assert all(assembled.placement.layout.model.window(i) == window for i in range(config.n_layers))
    texts = [[rng.randrange(config.vocab_size) for _ in range(rng.randint(1, 24))] for _ in range(3)]
    found = feed_together(machine_with(image, accel, 3, rng), texts, accel, rng)
    model = replace(model, config=config.with_window(window, sinks))
    for slot, text in enumerate(texts):
        golden = golden_of(model, accel, CONTEXT, kv=kv)
        for position, token in enumerate(text):
            alone = golden.step([token], position, accel.top_k)
            assert (slot, position) not in found or bits(found[slot, position]) == bits(alone)


def test_accepted_says_how_far_a_draft_is_right():
    data, _, _ = random_image(SMALL, tiny, 4, CONTEXT, sequences=3)
    machine = machine_with(data, tiny, 3, random.Random(1))
    text = [7]
    while len(text) < 5:
        text.append(machine.run("decode", text[-1:], lanes_of(len(text) - 1, 1))[0][0])
    right, wrong = text[1], (text[1] + 1) % SMALL.vocab_size
    for draft, bits_ in (([right, text[2], text[3]], 0b1110), ([right, wrong, text[3]], 0b0010), ([wrong, text[2], text[3]], 0)):
        machine.run("batch", [7, *draft], lanes_of(0, 4))
        assert machine.accepted() == bits_
    machine.run("batch", [7, right, 7, right], lanes_of(0, 2, 1) + lanes_of(0, 2))
    assert machine.accepted() == 0b1010


@pytest.mark.parametrize("program", ["decode", "batch"])
def test_a_shortlist_of_every_number_of_lanes(program):
    config = replace(SMALL, vocab_size=31, tied=False)
    data, _, model = random_image(config, tiny, 4, CONTEXT, HeadPlan("shortlist", 3, 2))
    for n in range(1, tiny.token_lanes + 1):
        machine = machine_with(data, tiny, 1, random.Random(n))
        tokens = [5, 30, 7, 22][:n]
        machine.run(program, tokens, lanes_of(0, n))
        golden = golden_of(model, tiny, CONTEXT)
        alone = [bits(golden.step([token], position, tiny.top_k)) for position, token in enumerate(tokens)]
        assert bits(machine.candidates()) == alone[-1]
        assert program == "decode" or [bits(machine.candidates(lane)) for lane in range(n)] == alone


def test_a_page_that_is_not_there_or_not_ones_own():
    data, assembled, _ = random_image(SMALL, tiny, 4, CONTEXT, sequences=2)
    machine = Machine.of_image(data, tiny)
    steps = assembled.programs["decode"].steps
    attend = next(i for i, step in enumerate(steps) if step.opcode.name == "ATTEND")
    write = next(i for i, step in enumerate(steps) if step.fields.get("sink") is not None and step.fields["sink"].name == "V")

    def stops(lanes, code, index):
        with pytest.raises(MachineError) as error:
            machine.run("decode", [1] * len(lanes), lanes)
        assert (error.value.code, error.value.index) == (code, index)

    stops([(0, 0)], "OWNER", write)
    machine.pages.give(0, [2, 0])
    assert machine.run("decode", [1] * 2, [(0, 15), (0, 16)])
    stops([(1, 0)], "OWNER", write)                                    # the other sequence has none
    stops([(0, 32)], "OWNER", write)
    assert machine.pages.command(PageOp.SHARE, 2, slot=0)
    stops([(0, 3)], "OWNER", write)                                    # shared: read, not written
    assert machine.run("decode", [1], [(0, 16)])
    assert machine.pages.command(PageOp.MAP, 2, 0, 1)
    assert machine.pages.command(PageOp.RELEASE, 2)
    stops([(0, 17)], "PAGE", attend)                                   # the entry is there, the page is free
    machine.pages.give(1, [2])
    stops([(0, 17)], "PAGE", attend)                                   # and then another's own
    assert machine.run("decode", [1, 1], [(1, 0), (1, 1)])


OPS = [op for name, op in vars(PageOp).items() if name.isupper() and name != "CLEAR"]
COMMANDS = st.tuples(st.sampled_from(4 * OPS + [PageOp.CLEAR, 6, 15]),
                     st.integers(0, 5), st.integers(0, 4), st.integers(0, 3))


@settings(max_examples=200, deadline=None)
@given(st.lists(COMMANDS, max_size=40))
def test_no_page_has_two_owners(commands):
    """Against the sets of the definition: free, shared, own; a refused command changes nothing."""
    tables, own, shared, maps = PageTables(5, 3, 4), {}, set(), {}
    for op, page, index, slot in commands:
        in_range = (slot < 3 or op == PageOp.RELEASE) and (page < 5 or op == PageOp.UNMAP) \
            and (index < 4 or op not in (PageOp.MAP, PageOp.UNMAP))
        is_own, is_free = own.get(page) == slot, page not in own and page not in shared
        allowed = in_range and {PageOp.CLAIM: is_free, PageOp.SHARE: is_own, PageOp.RELEASE: not is_free,
                                PageOp.MAP: is_own or page in shared, PageOp.UNMAP: True}.get(op, False) or op == PageOp.CLEAR
        assert tables.command(op, page, index, slot) == allowed
        if not allowed:
            continue
        if op == PageOp.CLAIM:
            own[page] = slot
        elif op == PageOp.SHARE:
            del own[page]
            shared.add(page)
        elif op == PageOp.RELEASE:
            own.pop(page, None)
            shared.discard(page)
        elif op == PageOp.MAP:
            maps[slot, index] = page
        elif op == PageOp.UNMAP:
            maps.pop((slot, index), None)
        else:
            own, shared, maps = {}, set(), {}
        for at in ((s, i) for s in range(3) for i in range(4)):
            mapped = maps.get(at)
            assert tables.to_write(*at) == (mapped if own.get(mapped, -1) == at[0] else None)
            assert tables.to_read(*at) == (mapped if own.get(mapped, -1) == at[0] or mapped in shared else None)


@given(first=st.integers(0, 300), window=st.integers(0, 100), sinks=st.integers(0, 70), n_ports=st.sampled_from([1, 2, 4]),
       lanes=st.integers(1, 16))
def test_all_that_is_seen_is_read(first, window, sinks, n_ports, lanes):
    ranges = ranges_read(first, window, sinks, n_ports)
    read = [j for start, end in ranges for j in range(start, end)]
    assert read == sorted(set(read)) and (not read or read[-1] < first)
    seen = {j for i in range(first, first + lanes) for j in range(first) if not window or j < sinks or j > i - window}
    assert seen <= set(read)
    assert len(set(read) - seen) < 2 * n_ports or visited_rows(first, window, sinks, n_ports) == (0, 0)


def test_four_bits_are_steps_of_127_sevenths():
    assert INT4_STEP == 127 / 7
    data, assembled, _ = random_image(SMALL, tiny, 4, CONTEXT, kv="int4")
    layout = assembled.placement.layout
    assert layout.record_bytes == 24 and assembled.header["cache"]["kv"] == "int4"      # a head of 8 is half a beat: a whole one
    wide = replace(SMALL, head_dim=32)
    sizes = {kv: random_image(wide, tiny, 4, CONTEXT, kv=kv)[1].header["cache"]["record_bytes"] for kv in ("int8", "int4", "k8v4")}
    assert sizes == {"int8": 72, "int4": 40, "k8v4": 56}
