"""Proofs about pages: nobody writes what is not his own, nobody reads what nobody owns, and no read leaves its page."""

import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In

from celosia.hw.attention.links import AttentionSizes
from celosia.hw.attention.place import RecordPlaces
from celosia.hw.ctrl.links import PageCommand
from celosia.hw.ctrl.pages import PageTable
from celosia.hw.ctrl.segments import SegmentWalk
from celosia.hw.ctrl.visit import page_row, visit
from celosia.hw.links import Lane, Launch, PageAsk
from celosia.hw.regs import PageOp
from celosia.sim_tb.proof import prove

SIZES = {"page_positions": 4, "max_positions": 8, "max_pages": 3, "max_sequences": 2}
FREE, OWN, SHARED = range(3)


def delayed(m, value, cycles):
    """``value`` that many cycles ago."""
    for _ in range(cycles):
        later = Signal.like(value, name="later", reset_less=True)
        m.d.sync += later.eq(value)
        value = later
    return value


class AnyCommands(wiring.Component):
    """Any commands and look-ups at any time, and for one page, any one, what the rules of ``celosia.hw.regs.PageOp`` make of it.

    Asserts: the table says of the page what the rules say; a write look-up that names the page is good only for the slot that
    claimed it and has neither shared nor released it since, a read look-up only for that slot or while it is shared; and when one
    slot may write it, no other may until there is a command.
    """

    def __init__(self, table):
        self._table = table
        super().__init__({"page": In(2), "i": In(stream.Signature(PageCommand)), "running": In(1), "forget": In(1),
                          "read_ask": In(PageAsk), "write_ask": In(PageAsk)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = self._table
        m.d.comb += [
            table.i.p.eq(self.i.p), table.i.valid.eq(self.i.valid), self.i.ready.eq(table.i.ready), table.running.eq(self.running),
            table.forget.eq(self.forget), table.read_ask.eq(self.read_ask), table.write_ask.eq(self.write_ask),
        ]
        page, chosen = Signal(2), Signal()
        with m.If(~chosen):
            m.d.sync += [page.eq(self.page), chosen.eq(1)]

        state, owner = Signal(2), Signal(4)             # by the rules
        command, taken = self.i.p, Signal()
        m.d.comb += taken.eq(self.i.valid & self.i.ready & ~self.running)
        slot_known = command.slot < SIZES["max_sequences"]
        mine = (state == OWN) & (owner == command.slot)
        with m.If(taken & (command.op == PageOp.CLEAR)):
            m.d.sync += state.eq(FREE)
        with m.Elif(taken & (command.page == page) & (page < SIZES["max_pages"]) & slot_known):
            with m.If((command.op == PageOp.CLAIM) & (state == FREE)):
                m.d.sync += [state.eq(OWN), owner.eq(command.slot)]
            with m.Elif((command.op == PageOp.SHARE) & mine):
                m.d.sync += state.eq(SHARED)
            with m.Elif(command.op == PageOp.RELEASE):
                m.d.sync += state.eq(FREE)

        # What the table says, when no command is at work.
        kept = table.owners.read_port(domain="comb")
        m.d.comb += kept.addr.eq(page)
        still = chosen & ~table.busy
        m.d.comb += [
            Assert(self.i.ready == ~table.busy),
            Assert(~still | (kept.data.state.as_value() == state)),
            Assert(~still | (state != OWN) | (kept.data.slot == owner)),
            Assert((state != OWN) | (owner < SIZES["max_sequences"])), Assert(state <= SHARED),
            Assert((page < SIZES["max_pages"]) | (state == FREE)),
        ]

        # What the look-ups say that began since the last command.
        quiet = Signal(range(PageTable.LATENCY + 1))
        with m.If(taken | table.busy | ~chosen):
            m.d.sync += quiet.eq(0)
        with m.Elif(quiet != PageTable.LATENCY):
            m.d.sync += quiet.eq(quiet + 1)
        settled = still & (quiet == PageTable.LATENCY)
        reader, writer = (delayed(m, ask.slot, PageTable.LATENCY) for ask in (self.read_ask, self.write_ask))
        read_ok = table.read_answer.ok & (table.read_answer.page == page) & settled
        write_ok = table.write_answer.ok & (table.write_answer.page == page) & settled
        granted, to = Signal(), Signal(4)               # a slot that could write the page since the last command
        with m.If(taken | ~settled):
            m.d.sync += granted.eq(0)
        with m.Elif(write_ok):
            m.d.sync += [granted.eq(1), to.eq(writer)]
        m.d.comb += [
            Assert(~write_ok | ((state == OWN) & (owner == writer))),
            Assert(~read_ok | (state == SHARED) | ((state == OWN) & (owner == reader))),
            Assert(~granted | ((state == OWN) & (owner == to))),
            Assert(~(granted & write_ok) | (writer == to)),
        ]
        return m


class AnyWalk(wiring.Component):
    """Walks of any segments with any windows over any tables; meanwhile no command is given.

    Asserts: every word names rows of one page, that of the position; the page may be read by the slot; and no row lies beyond the
    past of the segment.
    """

    def __init__(self, *, n_ports, page_positions):
        self._n_ports, self._page_positions = n_ports, page_positions
        self._sizes = SIZES | {"page_positions": page_positions, "max_positions": 4 * page_positions}
        super().__init__({"start": In(1), "n_tokens": In(5), "window": In(16), "sinks": In(16), "lane": In(Lane), "ready": In(1),
                          "i": In(stream.Signature(PageCommand))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = PageTable(**self._sizes)
        m.submodules.walk = walk = SegmentWalk(n_ports=self._n_ports, page_positions=self._page_positions,
                                               page_cycles=PageTable.LATENCY)
        window, sinks, n_tokens = Signal(16), Signal(16), Signal(5)
        m.d.comb += [
            table.i.p.eq(self.i.p), table.i.valid.eq(self.i.valid), table.running.eq(~walk.idle),
            table.read_ask.eq(walk.ask), walk.answer.eq(table.read_answer), walk.start.eq(self.start & ~table.busy & ~self.i.valid),
            walk.lane.eq(self.lane), walk.n_tokens.eq(n_tokens), walk.window.eq(window), walk.sinks.eq(sinks),
            walk.o.ready.eq(self.ready),
        ]
        with m.If(walk.idle):
            m.d.sync += [window.eq(self.window), sinks.eq(self.sinks), n_tokens.eq(self.n_tokens)]

        # The rows before the one on which the past ends, and where the walk is.
        ports_log2 = self._n_ports.bit_length() - 1
        rows_log2 = self._page_positions.bit_length() - 1 - ports_log2
        rows = 1 << rows_log2
        position, row = walk.position, walk.row
        end_row, n_longer = position[ports_log2:], position[:ports_log2]
        start_row, sink_rows, _ = visit(m, position, window, sinks, self._n_ports)
        most = self._sizes["max_positions"]             # RunControl lets no other run begin
        m.d.comb += [
            Assume(self.lane.position < most), Assert(position < most),
            Assert(table.i.ready == ~table.busy), Assert(walk.idle | ~table.busy),
            Assert(~walk.in_page | Mux(walk.in_sinks, (row < sink_rows) & (sink_rows < start_row) & (start_row <= end_row),
                                       (row < end_row) | ((row == end_row) & (n_longer != 0)))),
            Assert(~walk.in_page | (walk.ask.index == row[rows_log2:])),
        ]

        word, valid = walk.o.p, walk.o.valid
        page, first = word.row[rows_log2:], word.row[:rows_log2]
        owner, entry = table.owners.read_port(domain="comb"), table.tables.read_port(domain="comb")
        m.d.comb += [owner.addr.eq(page), entry.addr.eq(Cat(walk.ask.index[:2], walk.ask.slot[:1]))]
        m.d.comb += [
            Assert(~valid | (first + word.n_rows + (word.n_longer != 0) <= rows)),
            Assert(~valid | (word.n_rows != 0) | (word.n_longer != 0)),
            Assert(~valid | ((walk.ask.index < 4) & (walk.ask.slot < 2) & entry.data.mapped & (entry.data.page == page))),
            Assert(~valid | (owner.data.state.as_value() == SHARED)
                   | ((owner.data.state.as_value() == OWN) & (owner.data.slot == walk.ask.slot))),
            Assert(~valid | (first == row[:rows_log2])),
            Assert(~valid | (row + word.n_rows <= end_row)),
            Assert(~valid | (word.n_longer == 0) | ((row + word.n_rows == end_row) & (word.n_longer == n_longer))),
        ]
        return m


class AnyWriter(wiring.Component):
    """Records of any tokens of one slot, over any table; from the first on no command is given. A place is taken at once.

    Asserts: a record that may be written lies, whole, in the rows of its port that belong to one page of the slot's own.
    """

    RECORD_BEATS, PORT_BYTES, PORT_STRIDE, OFFSET = 3, 8, 0x1000, 0x500

    def __init__(self, *, n_ports, page_positions):
        self._sizes = SIZES | {"page_positions": page_positions, "max_positions": 4 * page_positions}
        self._rows, self._n_ports = page_positions // n_ports, n_ports
        self._attention = AttentionSizes(
            n_ports=n_ports, port_bytes=self.PORT_BYTES, vector_lanes=4, token_lanes=2, query_lanes=1, max_queries=2,
            max_head_words=1, max_positions=4 * page_positions, page_positions=page_positions, page_cycles=PageTable.LATENCY)
        super().__init__({"start": In(1), "restart": In(1), "launch": In(Launch), "i": In(stream.Signature(PageCommand))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = PageTable(**self._sizes)
        m.submodules.places = places = RecordPlaces(sizes=self._attention)
        running, launch = Signal(), Signal(Launch)
        with m.If(~running):
            m.d.sync += [launch.eq(self.launch), launch.lanes[1].slot.eq(self.launch.lanes[0].slot),
                         running.eq(self.start & ~table.busy & ~self.i.valid)]
        m.d.comb += [
            table.i.p.eq(self.i.p), table.i.valid.eq(self.i.valid), table.running.eq(running), table.write_ask.eq(places.page_ask),
            places.page_answer.eq(table.write_answer), places.launch.eq(launch), places.command_valid.eq(running),
            places.command.offset.eq(self.OFFSET), places.command.port_stride.eq(self.PORT_STRIDE),
            places.record_beats.eq(self.RECORD_BEATS), places.restart.eq(self.restart), places.o.ready.eq(1),
        ]
        record_bytes = self.RECORD_BEATS * self.PORT_BYTES
        word, inside = places.o.p, []
        begin = word.offset - self.OFFSET - word.port * self.PORT_STRIDE
        for page in range(table.owners.depth):
            owner = table.owners.read_port(domain="comb")
            m.d.comb += owner.addr.eq(page)
            inside.append((owner.data.state.as_value() == OWN) & (owner.data.slot == launch.lanes[0].slot)
                          & (begin >= page * self._rows * record_bytes)
                          & (begin + record_bytes <= (page + 1) * self._rows * record_bytes))
        m.d.comb += [
            Assume(lane.position < self._sizes["max_positions"]) for lane in (self.launch.lanes[0], self.launch.lanes[1])]
        m.d.comb += [
            Assert(table.i.ready == ~table.busy), Assert(~running | ~table.busy),
            Assert(launch.lanes[0].slot == launch.lanes[1].slot),
            Assert(~(places.o.valid & word.ok) | Cat(inside).any()),
        ]
        return m


class AnyPosition(wiring.Component):
    """The row that both sides compute from a page and a position lies in the page and is that of the position."""

    def __init__(self, *, n_ports, page_positions):
        self._n_ports, self._page_positions = n_ports, page_positions
        super().__init__({"page": In(8), "position": In(16)})

    def elaborate(self, platform):
        m = Module()
        rows = self._page_positions // self._n_ports
        row = page_row(self.page, self.position, page_positions=self._page_positions, n_ports=self._n_ports)
        m.d.comb += [
            Assert((row >= self.page * rows) & (row < (self.page + 1) * rows)),
            Assert(row == (self.page * self._page_positions + self.position % self._page_positions) // self._n_ports),
        ]
        return m


def test_page_belongs_to_one():
    prove(AnyCommands(PageTable(**SIZES)), depth=12)


@pytest.mark.parametrize("n_ports, page_positions", [(1, 4), (2, 8), (4, 4)])
def test_reads_stay_in_pages(n_ports, page_positions):
    prove(AnyWalk(n_ports=n_ports, page_positions=page_positions), depth=12)


@pytest.mark.parametrize("n_ports, page_positions", [(1, 4), (2, 8), (4, 4)])
def test_writes_stay_in_own_pages(n_ports, page_positions):
    prove(AnyWriter(n_ports=n_ports, page_positions=page_positions), depth=14)


@pytest.mark.parametrize("n_ports, page_positions", [(1, 4), (2, 2), (4, 64)])
def test_rows_stay_in_pages(n_ports, page_positions):
    prove(AnyPosition(n_ports=n_ports, page_positions=page_positions), depth=2)


class Forgets(PageTable):
    """A page is claimed whoever has it: the entry says so."""

    def _command(self, m, command, at_work, found):
        free = Signal.like(found)
        super()._command(m, command, at_work, free)


def test_a_fault_is_found():
    with pytest.raises(AssertionError, match="does not hold"):
        prove(AnyCommands(Forgets(**SIZES)), depth=12)
