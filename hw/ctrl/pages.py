"""Page tables: which page of the cache holds which positions of a sequence, and to whom a page belongs.

::

    i --> command      --+--> tables  [slot, index] -> page      (block RAM where deep)
                        +--> owners  [page] -> free, own of a slot, shared

    ask --> tables --> owners --> answer        twice: for who reads and for who writes

A page has one owner field, so it belongs to one slot at most. A record may be written only where that field says so at the time
of the look-up, and nothing changes while a program runs.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, enum, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..links import PageAnswer, PageAsk
from ..regs import PageOp
from .links import PageCommand

__all__ = ["PageTable"]

_BLOCK_DEPTH = 512


class _State(enum.Enum, shape=unsigned(2)):
    FREE = 0
    OWN = 1
    SHARED = 2


class PageTable(wiring.Component):
    """The tables of all slots and the owners of all pages. Not reset between programs; a reset clears all, entry by entry.

    Parameters: as in ``AccelConfig``.

    Members
    -------
    i : stream of PageCommand, taken one at a time; 5 cycles each, CLEAR one for every entry or page, whichever are more
    running : what is asked for now is refused
    forget : strobe: ``refused`` falls
    busy : a command is at work
    refused : a command was refused, until ``forget``
    read_ask, read_answer : PageAsk, and LATENCY cycles later its PageAnswer: the table has the page, which belongs to the slot or
        is shared
    write_ask, write_answer : the same, and it belongs to the slot

    An ask a cycle; answers mean something while no command is at work. Paths: none.
    """

    LATENCY = 3

    def __init__(self, *, page_positions, max_positions, max_pages, max_sequences):
        if page_positions < 1 or max_positions % page_positions:
            raise ValueError(f"page_positions must divide max_positions of {max_positions}, not {page_positions}")
        if not 1 <= max_pages <= 4096:
            raise ValueError(f"max_pages must be 1 to 4096, not {max_pages}")
        if not 1 <= max_sequences <= 16:
            raise ValueError(f"max_sequences must be 1 to 16, not {max_sequences}")
        self._entries, self._pages, self._slots = max_positions // page_positions, max_pages, max_sequences
        if self._entries > 4096:
            raise ValueError(f"A sequence must have at most 4096 pages, not {self._entries}")
        self._index_bits, self._page_bits, self._slot_bits = map(ceil_log2, (self._entries, max_pages, max_sequences))
        self._entry = data.StructLayout({"page": self._page_bits, "mapped": 1})
        self._owner = data.StructLayout({"slot": self._slot_bits, "state": _State})
        # Members, so that a proof can look in.
        self.tables = self._memory(self._entry, 1 << self._index_bits + self._slot_bits)
        self.owners = self._memory(self._owner, 1 << self._page_bits)
        super().__init__({
            "i": In(stream.Signature(PageCommand)), "running": In(1), "forget": In(1), "busy": Out(1), "refused": Out(1),
            "read_ask": In(PageAsk), "read_answer": Out(PageAnswer),
            "write_ask": In(PageAsk), "write_answer": Out(PageAnswer),
        })

    @staticmethod
    def _memory(shape, depth):
        style = "block" if depth >= _BLOCK_DEPTH else "distributed"
        return memory.Memory(shape=shape, depth=depth, init=[], attrs={"ram_style": style})

    def elaborate(self, platform):
        m = Module()
        m.submodules.tables, m.submodules.owners = self.tables, self.owners
        command, at_work = Signal(PageCommand, reset_less=True), Signal()
        owner = self._look_up(m, self.read_ask, self.read_answer, shared=True, instead=(at_work, command.page))
        self._look_up(m, self.write_ask, self.write_answer, shared=False)
        self._command(m, command, at_work, owner)
        return m

    def _address(self, ask):
        return Cat(ask.index[:self._index_bits], ask.slot[:self._slot_bits])

    def _look_up(self, m, ask, answer, *, shared, instead=(0, 0)):
        """From an ask to its answer; ``shared`` pages are good too, or not. With ``instead`` of (when, page), the owner
        that is read is then that of the page; returns what the owners answer, one cycle later."""
        table, owner = self.tables.read_port(), self.owners.read_port()
        first, second = Signal(PageAsk, reset_less=True), Signal(PageAsk, reset_less=True)
        entry, known = Signal(self._entry, reset_less=True), Signal()
        m.d.comb += [
            table.addr.eq(self._address(ask)), owner.addr.eq(Mux(instead[0], instead[1], table.data.page)),
            known.eq(~second.index[self._index_bits:].any() & ~second.slot[self._slot_bits:].any()),
        ]
        may = (owner.data.state == _State.OWN) & (owner.data.slot == second.slot)
        if shared:
            may |= owner.data.state == _State.SHARED
        m.d.sync += [
            first.eq(ask), second.eq(first), entry.eq(table.data),
            answer.page.eq(entry.page), answer.ok.eq(known & entry.mapped & may),
        ]
        return owner.data

    def _command(self, m, command, at_work, found):
        """Commands one by one; ``found`` is the owner of the page of the one at work."""
        table, owner = self.tables.write_port(), self.owners.write_port()
        sweep = Signal(max(len(table.addr), len(owner.addr)))
        mine = (found.state == _State.OWN) & (found.slot == command.slot)
        page_known, entry_known, slot_known, allowed = (
            Signal(reset_less=True, name=name) for name in ("page_known", "entry_known", "slot_known", "allowed"))
        m.d.sync += [
            page_known.eq(command.page < self._pages), entry_known.eq(command.index < self._entries),
            slot_known.eq(command.slot < self._slots),
        ]
        m.d.comb += [
            self.busy.eq(at_work), table.addr.eq(self._address(command)), table.data.page.eq(command.page),
            owner.addr.eq(command.page), owner.data.slot.eq(command.slot),
        ]
        wait = Signal(2)
        with m.If(self.forget):
            m.d.sync += self.refused.eq(0)
        with m.FSM(init="CLEAR"):
            with m.State("IDLE"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [command.eq(self.i.p), wait.eq(0), sweep.eq(0)]
                with m.If(self.i.valid & self.running):
                    m.d.sync += self.refused.eq(1)
                with m.Elif(self.i.valid):
                    m.d.sync += at_work.eq(1)
                    m.next = "LOOK"
            with m.State("LOOK"):
                # The owner takes a cycle to read, the verdict one.
                m.d.sync += wait.eq(wait + 1)
                with m.Switch(command.op):
                    for op, good in (
                            (PageOp.CLAIM, page_known & slot_known & (found.state == _State.FREE)),
                            (PageOp.SHARE, page_known & slot_known & mine),
                            (PageOp.RELEASE, page_known & slot_known & (found.state != _State.FREE)),
                            (PageOp.MAP, page_known & entry_known & slot_known & (mine | (found.state == _State.SHARED))),
                            (PageOp.UNMAP, entry_known & slot_known)):
                        with m.Case(op):
                            m.d.sync += allowed.eq(good)
                    with m.Default():
                        m.d.sync += allowed.eq(0)
                with m.If(wait == 2):
                    m.next = "WRITE"
                with m.If(command.op == PageOp.CLEAR):
                    m.next = "CLEAR"
            with m.State("WRITE"):
                m.d.comb += [
                    owner.en.eq(allowed & ((command.op == PageOp.CLAIM) | (command.op == PageOp.SHARE)
                                           | (command.op == PageOp.RELEASE))),
                    owner.data.state.eq(Mux(command.op == PageOp.CLAIM, _State.OWN,
                                            Mux(command.op == PageOp.SHARE, _State.SHARED, _State.FREE))),
                    table.en.eq(allowed & ((command.op == PageOp.MAP) | (command.op == PageOp.UNMAP))),
                    table.data.mapped.eq(command.op == PageOp.MAP),
                ]
                m.d.sync += at_work.eq(0)
                with m.If(~allowed):
                    m.d.sync += self.refused.eq(1)
                m.next = "IDLE"
            with m.State("CLEAR"):
                m.d.comb += [
                    self.busy.eq(1), table.en.eq(1), owner.en.eq(1), table.addr.eq(sweep), owner.addr.eq(sweep),
                    table.data.eq(0), owner.data.eq(0),
                ]
                m.d.sync += sweep.eq(sweep + 1)
                with m.If(sweep.all()):
                    m.d.sync += at_work.eq(0)
                    m.next = "IDLE"
