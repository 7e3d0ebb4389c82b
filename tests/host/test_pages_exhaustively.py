"""Every state that a small pool of pages can reach, against what must hold in all of them.

    state: tables of the host, owners and tables of the accelerator, tokens of every sequence, bytes of the cache
    steps: open, fork, free, truncate to any length, reserve, write to one sequence or to two in one run

From every state every step is taken; states that differ only by names of pages, slots and tokens are one. Small pools have all that
large ones have: pages that are full, begun, shared by some, left by all but one; too few of them; entries reserved and not written.
"""

import itertools
import pickle
from collections import Counter, deque

import pytest

from celosia.gen.golden.pages import PageTables
from celosia.host.pages import CacheFull, PagePool
from celosia.host.sequence import Sequence
from celosia.hw.regs import PageOp

SIZE = 2        # positions of a page


class World:
    """A pool and its sequences, the accelerator's page tables, and a cache in which a page is a list of tokens."""

    def __init__(self, pool_class, n_pages, n_slots, context):
        self.n_pages, self.n_slots, self.context = n_pages, n_slots, context
        self.tables = PageTables(n_pages, n_slots, -(-context // SIZE))
        self.cache = [[None] * SIZE for _ in range(n_pages)]
        self.n_commands = self.n_tokens = 0
        self.pool = pool_class(n_pages, SIZE, n_slots, self.command, self.copy)
        self.sequences = {}     # by slot

    def command(self, op, page=0, index=0, slot=0):
        self.n_commands += 1
        assert self.tables.command(getattr(PageOp, op.upper()), page, index, slot), f"{op} {page}, {index}, {slot} was refused"
        writable = [page for slot in range(self.n_slots) for index in range(-(-self.context // SIZE))
                    if (page := self.tables.to_write(slot, index)) is not None]
        assert len(set(writable)) == len(writable), "a page can be written at two places"

    def copy(self, source, target):
        self.cache[target] = list(self.cache[source])

    # Steps

    def steps(self):
        """All that can be done: (name, arguments)."""
        if len(self.sequences) < self.n_slots:
            yield "open", ()
            yield from (("fork", (slot,)) for slot in self.sequences)
        room = {slot: self.context - sequence.length for slot, sequence in self.sequences.items()}
        for slot, sequence in self.sequences.items():
            yield "free", (slot,)
            yield from (("truncate", (slot, length)) for length in range(sequence.length + 1))
            yield from (("reserve", (slot, n)) for n in range(1, room[slot] + 1))
            yield from (("write", ((slot, n),)) for n in range(1, room[slot] + 1))
        for one, other in itertools.permutations(self.sequences, 2):
            yield from (("write", ((one, n), (other, 1))) for n in range(1, room[one] + 1) if room[other])

    def take(self, name, arguments):
        getattr(self, f"_{name}")(*arguments)

    def _open(self):
        slot = self.pool.open()
        assert slot not in self.sequences
        self.sequences[slot] = Sequence(self.pool, slot)

    def _fork(self, slot):
        fork = self.sequences[slot].fork()
        assert fork.slot not in self.sequences
        self.sequences[fork.slot] = fork

    def _free(self, slot):
        self.sequences.pop(slot).free()

    def _truncate(self, slot, length):
        before = len(self.pool.table(slot))
        self.sequences[slot].truncate(length)
        assert len(self.pool.table(slot)) == min(before, -(-length // SIZE)), "pages beyond the length are kept"

    def _reserve(self, slot, n):
        self._prepare({slot: n})

    def _write(self, *writes):
        if not self._prepare(dict(writes)):
            return
        for slot, n in writes:
            sequence = self.sequences[slot]
            for position in range(sequence.length, sequence.length + n):
                page = self.tables.to_write(slot, position // SIZE)
                assert page is not None, "a position that was prepared cannot be written"
                self.cache[page][position % SIZE] = self.n_tokens
                sequence.tokens.append(self.n_tokens)
                self.n_tokens += 1

    def _prepare(self, counts):
        """Whether the sequences can be written now; where they cannot, the definition must say so, and nothing has happened."""
        ranges = [(slot, self.sequences[slot].length, self.sequences[slot].length + n) for slot, n in counts.items()]
        needed, free, before = self._needed(ranges), self.pool.free_pages, self.n_commands
        try:
            self.pool.prepare(ranges)
        except CacheFull:
            assert needed > free, f"{needed} pages are needed, {free} are free, and the cache is said to be full"
            assert self.n_commands == before, "the accelerator was told something, and then the cache is full"
            return False
        assert needed == free - self.pool.free_pages, f"{needed} pages are needed and {free - self.pool.free_pages} were taken"
        return True

    def _needed(self, ranges):
        """Pages that must be taken: for entries that are new, and for pages that another sequence holds and goes on holding."""
        tables, needed = {slot: list(self.pool.table(slot)) for slot in self.sequences}, 0
        for slot, first, end in ranges:
            table = tables[slot]
            for index in range(first // SIZE, -(-end // SIZE)):
                new = index >= len(table)
                if new or sum(table[index] in other for other in tables.values()) > 1:
                    needed += 1
                    table[index:index + 1] = [object()]
        return needed

    # What must hold

    def check(self):
        tables = {slot: self.pool.table(slot) for slot in self.sequences}
        held = Counter(page for table in tables.values() for page in table)
        owners, free = self.tables._owners, set(range(self.n_pages)) - set(held)
        assert sorted(self.pool._free) == sorted(free), "a page is free and held, or neither"
        assert {page: n for page, n in enumerate(self.pool._holders) if n} == held, "sequences that hold a page are miscounted"
        assert all(len(set(table)) == len(table) for table in tables.values()), "a table has a page twice"
        assert {page for page, owner in enumerate(owners) if owner == -1} == free, "the accelerator has other free pages"
        for page in held:
            holders = [slot for slot, table in tables.items() if page in table]
            assert owners[page] == -2 or [owners[page]] == holders, f"page {page} of {holders} belongs to {owners[page]}"
            assert self.pool._shared[page] == (owners[page] == -2), f"host and accelerator disagree whether page {page} is shared"
        for slot in range(self.n_slots):
            table = tables.get(slot, ())
            found = [self.tables._tables[slot][index] for index in range(-(-self.context // SIZE))]
            assert found == [*table, *[None] * (len(found) - len(table))], f"the table of slot {slot} is another"
        for slot, sequence in self.sequences.items():
            read = [self.cache[tables[slot][position // SIZE]][position % SIZE] for position in range(sequence.length)]
            assert read == sequence.tokens, f"sequence {slot} reads other tokens"

    def key(self):
        """The state, the same for all names of slots, pages and tokens."""
        return min(map(self._named, itertools.permutations(self.sequences)), default=())

    def _named(self, slots):
        pages, tokens, found = {}, {}, []
        for slot in slots:
            table = self.pool.table(slot)
            found.append((tuple((pages.setdefault(page, len(pages)), bool(self.pool._shared[page])) for page in table),
                          tuple(tokens.setdefault(token, len(tokens)) for token in self.sequences[slot].tokens)))
        return tuple(found)


def explore(pool_class, n_pages, n_slots, context):
    """(states, steps) that there are. AssertionError, with the way there, where one is not as it must be."""
    world = World(pool_class, n_pages, n_slots, context)
    seen, waiting, n_steps = {world.key()}, deque([(pickle.dumps(world), ())]), 0
    while waiting:
        state, way = waiting.popleft()
        for name, arguments in pickle.loads(state).steps():
            world, n_steps = pickle.loads(state), n_steps + 1
            try:
                world.take(name, arguments)
                world.check()
            except AssertionError as error:
                raise AssertionError(f"{error}; after {[*way, (name, arguments)]}") from error
            key = world.key()
            if key not in seen:
                seen.add(key)
                waiting.append((pickle.dumps(world), (*way, (name, arguments))))
    return len(seen), n_steps


@pytest.mark.parametrize("n_pages, n_slots, context, n_states", [(3, 3, 3, 943), (4, 2, 6, 808), (4, 3, 3, 2562)])
def test_every_state_is_as_it_must_be(n_pages, n_slots, context, n_states):
    found, n_steps = explore(PagePool, n_pages, n_slots, context)
    print(f"{n_pages} pages, {n_slots} slots, {context} positions: {found} states, {n_steps} steps")
    assert found == n_states


def _nothing(source, target):
    pass


class ForgetsToShare(PagePool):
    """A fork leaves pages to their owner."""
    def fork(self, slot):
        self._shared[self._tables[slot]] = True     # so that the accelerator is not told
        return super().fork(slot)


class ForgetsWhoLeft(PagePool):
    """Who gets a copy still counts as a holder of the page it was copied from."""
    def _own(self, slot, index, page):
        new = super()._own(slot, index, page)
        self._holders[page] += new != page
        return new


class FreesWhatOthersHold(PagePool):
    """A page is free when its first holder gives it up."""
    def cut(self, slot, n_positions):
        self._holders[self._tables[slot][self.pages_for(n_positions):]] = 1
        super().cut(slot, n_positions)


class CopiesNothing(PagePool):
    """Who writes into a shared page gets an empty one."""
    def __init__(self, n_pages, page_positions, n_slots, command, copy):
        super().__init__(n_pages, page_positions, n_slots, command, _nothing)


class CountsSharedPagesTwice(PagePool):
    """Two writers of a page that they alone share would need two pages."""
    def _pages_needed(self, writes):
        return sum(super(CountsSharedPagesTwice, self)._pages_needed([write]) for write in writes)


class KeepsWhatWasCut(PagePool):
    """One position more than told is kept."""
    def cut(self, slot, n_positions):
        super().cut(slot, n_positions + 1 if n_positions else 0)


@pytest.mark.parametrize("broken, sentence", [
    (ForgetsToShare, "map .* was refused"),
    (ForgetsWhoLeft, "sequences that hold a page are miscounted"), (FreesWhatOthersHold, "a page is free and held, or neither"),
    (CopiesNothing, "sequence . reads other tokens"), (KeepsWhatWasCut, "pages beyond the length are kept"),
    (CountsSharedPagesTwice, "[0-9] pages are needed, [0-9] are free, and the cache is said to be full")])
def test_a_broken_pool_is_found(broken, sentence):
    with pytest.raises(AssertionError, match=f"(?s)^{sentence}.*; after "):
        explore(broken, 3, 2, 4)
