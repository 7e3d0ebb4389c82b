"""The pages of the KV cache: which sequence holds which, and every change told to the accelerator.

A page holds the same G = page_positions positions of all layers and heads. A sequence (by its slot) has a table of pages: entry i
is for its positions i G .. i G + G - 1. Who may write a page is its *owner*: one slot, or nobody once it is shared. A fork shares
all pages of its parent; who must write into a shared page gets a copy, or, when nobody else holds it any more, the page itself.
"""

import numpy as np

__all__ = ["CacheFull", "PagePool"]


class CacheFull(MemoryError):
    """Pages, or slots of sequences, have run out; nothing has changed."""


class PagePool:
    """The pages of one loaded model.

    Parameters
    ----------
    n_pages, page_positions, n_slots : int
        Size of the pool, positions of a page, sequences that may be open at the same time.
    command : callable
        ``command(op, page=0, index=0, slot=0)`` tells the accelerator, ``op`` a name of ``PageOp`` in small letters.
    copy : callable
        ``copy(source, target)`` copies the bytes of a page.
    """

    def __init__(self, n_pages, page_positions, n_slots, command, copy):
        self.page_positions = page_positions
        self.n_pages, self._n_slots = n_pages, n_slots
        self._command, self._copy = command, copy
        self._free = list(reversed(range(n_pages)))     # the next one to be taken last
        self._holders = np.zeros(n_pages, np.int64)     # sequences whose tables have the page
        self._shared = np.zeros(n_pages, bool)          # nobody owns it
        self._tables = {}                               # slot: [page]
        self.copies, self.valid = 0, True               # pages copied; whether the accelerator still has these tables
        command("clear")

    @property
    def free_pages(self):
        """Pages that no sequence holds."""
        return len(self._free)

    @property
    def free_slots(self):
        """Sequences that may still be opened."""
        return self._n_slots - len(self._tables)

    def table(self, slot):
        """The pages of a sequence, in order of its positions."""
        return tuple(self._tables[slot])

    def pages_for(self, n_positions):
        """Pages that so many positions fill."""
        return -(-n_positions // self.page_positions)

    def open(self):
        """The slot of a new sequence without pages; CacheFull when all are in use."""
        slot = next((slot for slot in range(self._n_slots) if slot not in self._tables), None)
        if slot is None:
            raise CacheFull(f"cache is full: all {self._n_slots} sequences are in use; free one first")
        self._tables[slot] = []
        return slot

    def fork(self, slot):
        """The slot of a new sequence that holds the same pages, which are shared from now on."""
        new = self.open()
        for index, page in enumerate(self._tables[slot]):
            if not self._shared[page]:
                self._command("share", page, slot=slot)
                self._shared[page] = True
            self._command("map", page, index, new)
            self._tables[new].append(page)
            self._holders[page] += 1
        return new

    def prepare(self, writes):
        """Make sequences ready to be written: ``writes`` lists (slot, first position, end), each slot once.

        Every page that holds one of these positions becomes the slot's own. CacheFull, before anything changes, when there are not
        enough pages.
        """
        needed = self._pages_needed(writes)
        if needed > len(self._free):
            raise CacheFull(f"cache is full: {needed} more pages of {self.page_positions} positions are needed and "
                            f"{len(self._free)} of {self.n_pages} are free; free or truncate a sequence, or pack the model "
                            "with more --sequences")
        for slot, first, end in writes:
            table = self._tables[slot]
            for index in range(first // self.page_positions, self.pages_for(end)):
                if index == len(table):
                    table.append(self._take(slot, index))
                elif self._shared[table[index]]:
                    table[index] = self._own(slot, index, table[index])

    def _pages_needed(self, writes):
        needed, left = 0, {}      # left: sequences that would still hold a shared page
        for slot, first, end in writes:
            table = self._tables[slot]
            needed += max(0, self.pages_for(end) - len(table))
            for page in table[first // self.page_positions:self.pages_for(end)]:
                if self._shared[page]:
                    left.setdefault(page, int(self._holders[page]))
                    needed += left[page] > 1
                    left[page] -= 1
        return needed

    def _take(self, slot, index):
        page = self._free.pop()
        self._command("claim", page, slot=slot)
        self._command("map", page, index, slot)
        self._holders[page] = 1
        return page

    def _own(self, slot, index, page):
        """The page that takes the place of a shared one: itself where nobody else holds it, or a copy."""
        if self._holders[page] == 1:
            self._command("release", page)
            self._command("claim", page, slot=slot)
            self._command("map", page, index, slot)
            self._shared[page] = False
            return page
        new = self._take(slot, index)
        self._copy(page, new)
        self.copies += 1
        self._holders[page] -= 1
        return new

    def cut(self, slot, n_positions):
        """Give up the pages of a sequence beyond ``n_positions``."""
        table, kept = self._tables[slot], self.pages_for(n_positions)
        while len(table) > kept:
            page = table.pop()
            self._command("unmap", index=len(table), slot=slot)
            self._holders[page] -= 1
            if not self._holders[page]:
                self._command("release", page)
                self._shared[page] = False
                self._free.append(page)

    def close(self, slot):
        """Give up a sequence."""
        self.cut(slot, 0)
        del self._tables[slot]
