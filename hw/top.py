"""The accelerator: port shells, registers and run control around the core. Wires rooms together, computes nothing.

::

            AXI4-Lite                 n_ports x AXI4 read                   AXI4 write (port 0)
                |                     |        |                                  ^
         +------v------+      +-------v--+  +--v-------+                   +------+-----+
         | registers   |      | fetch    |  | readers  |                   | writer     |
         +------+------+      +-------+--+  +--+-----^-+                   +------^-----+
                |                     | descriptors  | jobs                      | records
         +------v------+      +-------v------v-------+---------------------------+-----+
         | run control |----->| core                                                   |--> top-k
         +-------------+      +---------------------------^----------------------------+
                                                          |
                                                     page table

The core is that of the decoder or, of a BinaryConfig, of the binary machine: the same shells, registers and run control, no
candidates and no page table. The lanes of its launch are sequences: N_TOKENS counts them, LANE of one holds its number as the slot
and its length as the position.
"""

from amaranth.hdl import Cat, ClockDomain, Module, Mux, ResetInserter
from amaranth.lib import wiring

from . import isa
from .binary import isa as binary_isa
from .binary.config import BinaryConfig
from .binary.core import BinaryCore
from .core import Core
from .ctrl.control import RunControl
from .ctrl.pages import PageTable
from .ctrl.registers import Registers
from .mem.fetch import DescriptorFetch
from .mem.pace import Pace
from .mem.reader import PortReader
from .mem.share import ReadShare
from .mem.writer import PortWriter
from .pins import Pins
from .regs import ADDRESS_BITS
from .stream import connect
from .vector.accept import Accept
from .vector.topk import TopK

__all__ = ["Accelerator"]

_AHEAD_BYTES = 2 << 10        # an eighth of the distance at which ports that read side by side begin
_STROBES = ("matmul_busy", "matmul_wait_weights", "matmul_wait_tables", "matmul_wait_drain", "vector_busy", "vector_wait",
            "attend_busy")
_BINARY_STROBES = ("matmul_busy", "matmul_wait_weights", "matmul_wait_drain", "vector_busy")


class Accelerator(wiring.Component):
    """The whole accelerator of one configuration, with flat pins.

    Parameters
    ----------
    config : AccelConfig or BinaryConfig
        All sizes; says which machine it is.

    Members
    -------
    pins : Pins
        Clock, reset, interrupt, ``s_axil_*`` and ``m_axi_<p>_*``.
    """

    def __init__(self, config):
        self._config = config
        self.pins = Pins(n_ports=config.n_ports, port_bytes=config.port_bytes, addr_bits=config.addr_bits,
                         lite_addr_bits=ADDRESS_BITS)
        super().__init__({})

    def ports(self):
        """The pins, in the order of the module's port list."""
        return self.pins.all

    def elaborate(self, platform):
        m = Module()
        c, binary = self._config, isinstance(self._config, BinaryConfig)
        m.submodules.pins = pins = self.pins
        m.domains.sync = sync = ClockDomain()
        m.d.comb += [sync.clk.eq(pins.clk), sync.rst.eq(~pins.rst_n)]

        m.submodules.registers = registers = Registers(digest=int(c.digest, 16), isa_version=c.isa_version)
        wiring.connect(m, pins.lite, registers.bus)
        m.d.comb += pins.irq.eq(registers.irq)

        # Port shells.
        readers = []
        for p in range(c.n_ports):
            m.submodules[f"reader_{p}"] = reader = PortReader(
                port_bytes=c.port_bytes, addr_bits=c.addr_bits, queue_beats=c.queue_beats, burst_beats=c.burst_beats,
                read_outstanding=c.read_outstanding)
            readers.append(reader)
        if c.n_ports > 1:
            m.submodules.pace = pace = Pace(n_ports=c.n_ports, queue_beats=c.queue_beats,
                                            ahead_beats=min(_AHEAD_BYTES // c.port_bytes, c.queue_beats // 2))
            for reader, room, hold in zip(readers, pace.rooms, pace.hold):
                m.d.comb += [room.eq(reader.room), reader.hold.eq(hold)]
        m.submodules.fetch = fetch = DescriptorFetch(
            port_bytes=c.port_bytes, addr_bits=c.addr_bits, words=binary_isa if binary else isa)
        m.submodules.share = share = ReadShare(port_bytes=c.port_bytes, addr_bits=c.addr_bits)
        m.submodules.writer = writer = PortWriter(
            port_bytes=c.port_bytes, addr_bits=c.addr_bits, burst_beats=c.burst_beats)
        wiring.connect(m, readers[0].axi, share.a)
        wiring.connect(m, fetch.axi, share.b)
        wiring.connect(m, share.axi, pins.read[0])
        for reader, pin in zip(readers[1:], pins.read[1:]):
            wiring.connect(m, reader.axi, pin)
        wiring.connect(m, writer.axi, pins.write)

        # Run control.
        shells = [*readers, fetch, writer]
        lanes = {"token_lanes": c.max_sequences, "max_positions": c.max_tokens + 1} if binary else {
            "token_lanes": c.token_lanes, "max_positions": c.max_positions}
        m.submodules.control = control = RunControl(
            n_reports=len(shells) + (1 if binary else 2), max_sequences=c.max_sequences, **lanes)
        m.d.comb += [
            *(getattr(control, name).eq(getattr(registers, name)) for name in (
                "start", "reset", "clear_done", "n_tokens", "program_count", "watchdog_cycles")),
            *(getattr(registers, name).eq(getattr(control, name)) for name in (
                "busy", "done", "error", "draining", "error_code", "error_index", "running", "clear_counters")),
            *(shell.windows.eq(registers.windows) for shell in shells),
            *(shell.flush.eq(control.flush) for shell in shells),
            *(report.eq(shell.error) for report, shell in zip(control.reports, shells)),
            control.ports_idle.eq(Cat(shell.idle for shell in shells).all()),
            fetch.start.eq(control.fetch_start), fetch.program_offset.eq(registers.program_offset),
            fetch.program_count.eq(registers.program_count),
        ]

        # Core.
        core = BinaryCore(c) if binary else Core(c)
        m.submodules.core = ResetInserter(control.unit_reset)(core)
        connect(m, fetch.o, core.i_fetched)
        connect(m, core.o_write, writer.i)
        for p, reader in enumerate(readers):
            connect(m, core.o_jobs[p], reader.i_job)
            connect(m, reader.o_loader, core.i_loader[p])
            connect(m, reader.o_matmul, core.i_matmul[p])
        moved = Cat(*(reader.count_beat for reader in readers), fetch.count_beat, writer.count_beat, core.issue, core.done)
        m.d.sync += control.progress.eq(moved.any())
        m.d.comb += [
            core.launch.eq(control.launch), control.lane_word.eq(registers.token), registers.lanes.eq(control.lanes),
            *(report.eq(error) for report, error in zip(list(control.reports)[len(shells):], core.errors)),
            fetch.stop.eq(core.ended), control.finished.eq(core.finished), control.oldest.eq(core.oldest),
        ]
        if binary:
            m.d.comb += [control.units_idle.eq(core.quiet), registers.token_lane.eq(control.lane), registers.o_page.ready.eq(1)]
        else:
            self._decoder(m, core, registers, control, readers)

        strobes = registers.strobes
        m.d.comb += [
            strobes.descriptors.eq(core.issue), strobes.write_beats.eq(writer.count_beat), strobes.fetch_beats.eq(fetch.count_beat),
            *(strobes[name].eq(getattr(core, f"count_{name}")) for name in (_BINARY_STROBES if binary else _STROBES)),
            *(strobes[f"port{p}_beats"].eq(reader.count_beat) for p, reader in enumerate(readers)),
            strobes.port0_full.eq(readers[0].count_full), strobes.port0_idle.eq(readers[0].count_idle),
        ]
        return m

    def _decoder(self, m, core, registers, control, readers):
        """What the decoder has beside its core: candidates, tokens that are accepted, the page table."""
        c = self._config
        m.submodules.topk = topk = TopK(
            vector_lanes=c.vector_lanes, top_k=c.top_k, row_quantum=c.row_quantum, token_lanes=c.token_lanes)
        m.submodules.accept = accept = Accept()
        m.submodules.pages = pages = PageTable(
            page_positions=c.page_positions, max_positions=c.max_positions, max_pages=c.max_pages, max_sequences=c.max_sequences)
        connect(m, core.o_topk, topk.i)
        connect(m, registers.o_page, pages.i)
        for reader, past in zip(readers, core.i_attend):
            connect(m, reader.o_attend, past)
        m.d.comb += [
            core.token.eq(registers.token), accept.token.eq(registers.token),
            registers.token_lane.eq(Mux(control.lanes, control.lane, Mux(accept.busy, accept.token_lane, core.token_lane))),
            control.units_idle.eq(core.quiet & topk.idle),
            topk.keep.eq(core.keep), core.settled.eq(topk.idle), topk.lane.eq(core.lane), topk.rank.eq(core.rank),
            core.number.eq(topk.number),
            topk.clear.eq(control.clear_counters), topk.read_index.eq(registers.topk_index),
            registers.topk_count.eq(topk.count), registers.topk_token.eq(topk.read_token),
            registers.topk_logit.eq(topk.read_logit), topk.read_lane.eq(Mux(accept.busy, accept.read_lane, registers.topk_lane)),
            accept.start.eq(control.close), accept.launch.eq(control.launch), control.closing.eq(accept.busy),
            accept.best.eq(topk.best), accept.has_best.eq(topk.has_best), registers.accepted.eq(accept.accepted),
        ]
        m.d.comb += [
            pages.running.eq(control.running | control.draining), pages.forget.eq(registers.reset),
            registers.page_busy.eq(pages.busy), registers.page_refused.eq(pages.refused),
            control.pages_busy.eq(registers.pages_busy),
            pages.read_ask.eq(core.read_ask), core.read_answer.eq(pages.read_answer),
            pages.write_ask.eq(core.write_ask), core.write_answer.eq(pages.write_answer),
        ]
