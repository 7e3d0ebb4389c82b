"""The page tables of the cache, as the accelerator keeps them: who owns a page, and which page holds a position of a sequence."""

from celosia.hw.regs import PageOp

__all__ = ["PageTables"]

_FREE, _SHARED = -1, -2     # owners that are not a slot


class PageTables:
    """Owners of ``n_pages`` pages, and for each of ``n_slots`` sequences a table of ``n_entries`` pages. At first all are
    free and empty.

    A page has one owner: nobody (free), a slot, or all (shared: read, not written).
    """

    def __init__(self, n_pages, n_slots, n_entries):
        self._owners = [_FREE] * n_pages
        self._tables = [[None] * n_entries for _ in range(n_slots)]

    @classmethod
    def of(cls, config):
        """Those of an ``AccelConfig``."""
        return cls(config.max_pages, config.max_sequences, config.max_positions // config.page_positions)

    def command(self, op, page=0, index=0, slot=0):
        """What a write of register PAGE does (``regs.PageOp``); False where it is refused, and then nothing has changed."""
        if op == PageOp.CLEAR:
            self.__init__(len(self._owners), len(self._tables), len(self._tables[0]))
            return True
        if op != PageOp.RELEASE and slot >= len(self._tables) or op in (PageOp.MAP, PageOp.UNMAP) and index >= len(self._tables[0]):
            return False
        if op == PageOp.UNMAP:
            self._tables[slot][index] = None
            return True
        owner = self._owners[page] if page < len(self._owners) else None
        allowed, becomes = {
            PageOp.CLAIM: (owner == _FREE, slot), PageOp.SHARE: (owner == slot, _SHARED), PageOp.RELEASE: (owner != _FREE, _FREE),
            PageOp.MAP: (owner in (slot, _SHARED), owner)}.get(op, (False, None))
        if owner is None or not allowed:
            return False
        self._owners[page] = becomes
        if op == PageOp.MAP:
            self._tables[slot][index] = page
        return True

    def give(self, slot, pages):
        """Claim ``pages`` for a slot and map them from entry 0 on; ValueError where that is refused."""
        for index, page in enumerate(pages):
            if not (self.command(PageOp.CLAIM, page, slot=slot) and self.command(PageOp.MAP, page, index, slot)):
                raise ValueError(f"Page {page} must be free and entry {index} of slot {slot} must exist")

    def to_read(self, slot, index):
        """The page of an entry that the slot may read, or None."""
        page = self._tables[slot][index]
        return page if page is not None and self._owners[page] in (slot, _SHARED) else None

    def to_write(self, slot, index):
        """The page of an entry that the slot may write, or None."""
        page = self._tables[slot][index]
        return page if page is not None and self._owners[page] == slot else None
