"""Where the records of a chunk go: a page for every token's position, looked up ahead of the record.

    offset = offset + (j mod P) * port_stride + ((page G + j mod G) div P) * record_bytes
"""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..ctrl.visit import page_row
from ..links import Lane, Launch, PageAnswer, PageAsk, RecordCommand
from .links import AttentionSizes

__all__ = ["Place", "RecordPlaces"]


class Place(data.StructLayout):
    """Where a record goes; ``ok``: it may be written."""
    def __init__(self, sizes):
        super().__init__({"offset": 40, "port": range(sizes.n_ports), "ok": 1})


class RecordPlaces(wiring.Component):
    """Places of the records of one command after the other, a token after the other.

    Members
    -------
    command_valid, command : In, held until ``restart``; restart : In(1), the next command is the first again
    record_beats : In, of the command
    launch : In(Launch)
    page_ask : Out(PageAsk), held until page_answer : In(PageAnswer) has come
    o : Out(stream(Place)), at least one in page_cycles + 4 cycles
    """

    def __init__(self, *, sizes):
        if not isinstance(sizes, AttentionSizes):
            raise TypeError(f"sizes must be AttentionSizes, not {sizes!r}")
        self._sizes = sizes
        super().__init__({
            "command_valid": In(1), "command": In(RecordCommand), "restart": In(1), "record_beats": In(8), "launch": In(Launch),
            "page_ask": Out(PageAsk), "page_answer": In(PageAnswer), "o": Out(stream.Signature(Place(sizes)))})

    def elaborate(self, platform):
        m = Module()
        sizes, command = self._sizes, self.command
        token, wait = Signal(range(sizes.token_lanes)), Signal(range(sizes.page_cycles + 1))
        lane, answer = Signal(Lane, reset_less=True), Signal(PageAnswer, reset_less=True)
        page_log2, port = ceil_log2(sizes.page_positions), lane.position[:ceil_log2(sizes.n_ports)]
        row = page_row(answer.page, lane.position, page_positions=sizes.page_positions, n_ports=sizes.n_ports)
        row_beats, in_port = Signal(40 - ceil_log2(sizes.port_bytes), reset_less=True), Signal(40, reset_less=True)
        strides = Array((0, command.port_stride, command.port_stride << 1, command.port_stride + (command.port_stride << 1)))
        m.d.comb += [self.page_ask.slot.eq(lane.slot), self.page_ask.index.eq(lane.position[page_log2:])]

        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.FSM():
            with m.State("LANE"):
                m.d.sync += [lane.eq(Array(self.launch.lanes[n] for n in range(sizes.token_lanes))[token]),
                             wait.eq(sizes.page_cycles)]
                with m.If(self.command_valid):
                    m.next = "ASK"
            with m.State("ASK"):
                m.d.sync += [answer.eq(self.page_answer), wait.eq(wait - 1), in_port.eq(strides[port])]
                with m.If(wait == 0):
                    m.next = "ROW"
            with m.State("ROW"):
                m.d.sync += [row_beats.eq(row * self.record_beats), in_port.eq(command.offset + in_port)]
                m.next = "PLACE"
            with m.State("PLACE"):
                with m.If(~self.o.valid | self.o.ready):
                    m.d.sync += [self.o.valid.eq(1), self.o.p.offset.eq(in_port + (row_beats << ceil_log2(sizes.port_bytes))),
                                 self.o.p.port.eq(port), self.o.p.ok.eq(answer.ok), token.eq(token + 1)]
                    m.next = "LANE"
                    with m.If(token == self.launch.n_tokens - 1):
                        m.next = "END"
            with m.State("END"):
                with m.If(self.restart):
                    m.d.sync += token.eq(0)
                    m.next = "LANE"
        return m
