"""The page pool of the host: the register's tables follow it, no page is lost or has two owners, and forks share."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from celosia.gen.golden.pages import PageTables
from celosia.host.pages import CacheFull, PagePool
from celosia.host.sequence import Sequence
from celosia.hw.regs import PageOp

N_PAGES, SIZE, N_SLOTS, CONTEXT = 9, 4, 4, 24
WHICH = st.integers(0, N_SLOTS - 1)


class Memory:
    """The accelerator's page tables, and a cache in which a page is a list of tokens."""

    def __init__(self):
        self.tables = PageTables(N_PAGES, N_SLOTS, CONTEXT // SIZE)
        self.bytes = np.full((N_PAGES, SIZE), -1)
        self.log = []

    def command(self, op, page=0, index=0, slot=0):
        self.log.append(op)
        assert self.tables.command(getattr(PageOp, op.upper()), page, index, slot), (op, page, index, slot)

    def copy(self, source, target):
        self.bytes[target] = self.bytes[source]

    def write(self, slot, position, token):
        page = self.tables.to_write(slot, position // SIZE)
        assert page is not None, "OWNER"
        self.bytes[page, position % SIZE] = token

    def read(self, slot, length):
        pages = [self.tables.to_read(slot, position // SIZE) for position in range(length)]
        assert None not in pages, "PAGE"
        return [int(self.bytes[page, position % SIZE]) for position, page in enumerate(pages)]


class Pages(RuleBasedStateMachine):
    """Sequences against lists of tokens; ``which`` picks one of those that are open."""

    @initialize()
    def begin(self):
        self.memory = Memory()
        self.pool = PagePool(N_PAGES, SIZE, N_SLOTS, self.memory.command, self.memory.copy)
        self.texts, self.next_token = {Sequence(self.pool, self.pool.open()): []}, 0

    def pick(self, which):
        return list(self.texts)[which % len(self.texts)]

    def room(self, writes):
        """Whether the definition says that there is room: a page for every entry that is new, or shared with one that stays."""
        pages = {sequence: list(self.pool.table(sequence.slot)) for sequence in self.texts}
        needed = 0
        for sequence, n in writes:
            for index in range(sequence.length // SIZE, -(-(sequence.length + n) // SIZE)):
                table = pages[sequence]
                if index >= len(table):
                    needed += 1
                elif sum(table[index] in other for other in pages.values()) > 1:
                    needed, table[index] = needed + 1, None
        return needed <= self.pool.free_pages

    @rule()
    def open(self):
        if self.pool.free_slots == 0:
            with pytest.raises(CacheFull, match="^cache is full: all 4 sequences are in use"):
                self.pool.open()
            return
        self.texts[Sequence(self.pool, self.pool.open())] = []

    @precondition(lambda self: self.texts)
    @rule(picks=st.lists(st.tuples(WHICH, st.integers(1, 7)), min_size=1, max_size=3))
    def write(self, picks):
        counts = {self.pick(which): n for which, n in picks}
        writes = [(sequence, min(n, CONTEXT - sequence.length)) for sequence, n in counts.items()]
        before = len(self.memory.log)
        ranges = [(sequence.slot, sequence.length, sequence.length + n) for sequence, n in writes]
        if not self.room(writes):
            with pytest.raises(CacheFull, match="^cache is full: [0-9]+ more pages of 4 positions are needed and [0-9] of 9 "):
                self.pool.prepare(ranges)
            assert len(self.memory.log) == before
            return
        self.pool.prepare(ranges)
        for sequence, n in writes:
            for _ in range(n):
                self.memory.write(sequence.slot, sequence.length, self.next_token)
                sequence.tokens.append(self.next_token)
                self.texts[sequence].append(self.next_token)
                self.next_token += 1

    @precondition(lambda self: self.texts)
    @rule(which=WHICH)
    def fork(self, which):
        if self.pool.free_slots == 0:
            return
        sequence, copies, free = self.pick(which), self.pool.copies, self.pool.free_pages
        fork = sequence.fork()
        assert (self.pool.copies, self.pool.free_pages) == (copies, free)
        self.texts[fork] = list(self.texts[sequence])

    @precondition(lambda self: self.texts)
    @rule(which=WHICH, share=st.floats(0, 1))
    def truncate(self, which, share):
        sequence = self.pick(which)
        length = int(share * sequence.length)
        sequence.truncate(length)
        del self.texts[sequence][length:]

    @precondition(lambda self: self.texts)
    @rule(which=WHICH)
    def truncate_too_far(self, which):
        sequence = self.pick(which)
        length = sequence.length
        with pytest.raises(ValueError, match=f"^A sequence of {length} tokens must be truncated to 0 to {length}, not"):
            sequence.truncate(sequence.length + 1)

    @precondition(lambda self: self.texts)
    @rule(which=WHICH)
    def free(self, which):
        sequence = self.pick(which)
        sequence.free()
        del self.texts[sequence]
        for act in (sequence.free, sequence.fork, lambda: sequence.truncate(0)):
            with pytest.raises(ValueError, match="^The sequence must not have been freed"):
                act()

    @invariant()
    def all_is_as_the_lists_say(self):
        if not hasattr(self, "pool"):
            return
        tables = {sequence: self.pool.table(sequence.slot) for sequence in self.texts}
        held = Counter(page for table in tables.values() for page in table)
        assert len(held) + self.pool.free_pages == N_PAGES
        assert self.pool.free_slots == N_SLOTS - len(self.texts)
        for sequence, text in self.texts.items():
            table = tables[sequence]
            assert sequence.tokens == text == self.memory.read(sequence.slot, sequence.length)
            assert len(set(table)) == len(table) == -(-len(text) // SIZE)
            for index in range(CONTEXT // SIZE):
                expected = table[index] if index < len(table) else None
                assert self.memory.tables.to_read(sequence.slot, index) == expected
                writable = self.memory.tables.to_write(sequence.slot, index)
                assert writable in (None, expected) and (writable is None or held[writable] == 1)


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)


def pool_of(n_pages=4, n_slots=3):
    memory = Memory()
    return PagePool(n_pages, SIZE, n_slots, memory.command, memory.copy), memory


def test_a_fork_copies_one_page_at_most():
    pool, memory = pool_of()
    parent = Sequence(pool, pool.open())
    pool.prepare([(parent.slot, 0, 6)])
    parent.tokens = list(range(6))
    child = parent.fork()
    assert pool.free_pages == 2 and pool.table(parent.slot) == pool.table(child.slot)
    pool.prepare([(child.slot, 6, 7)])
    assert pool.copies == 1 and pool.free_pages == 1 and pool.table(parent.slot)[0] == pool.table(child.slot)[0]
    pool.prepare([(parent.slot, 6, 7)])
    assert pool.copies == 1, "the one that is left takes the page itself"


def test_two_writers_of_one_shared_page_need_one_page():
    pool, _ = pool_of(n_pages=2)
    parent = Sequence(pool, pool.open())
    pool.prepare([(parent.slot, 0, 2)])
    parent.tokens = [1, 2]
    child = parent.fork()
    pool.prepare([(parent.slot, 2, 3), (child.slot, 2, 3)])
    assert pool.free_pages == 0 and pool.copies == 1
    grandchild = child.fork()
    child.tokens = grandchild.tokens = [1, 2, 3]
    with pytest.raises(CacheFull):
        pool.prepare([(grandchild.slot, 3, 4)])
    child.free()
    pool.prepare([(grandchild.slot, 3, 4)])
