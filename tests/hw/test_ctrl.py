# amaranth: UnusedElaboratable=no
"""Control: registers, run, dispatch; with the real memory side and units played by the bench."""

import pytest
from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from celosia.hw import isa
from celosia.hw.config import AccelConfig
from celosia.hw.configs import duo, kv260
from celosia.hw.ctrl.check import DescriptorCheck
from celosia.hw.ctrl.control import RunControl
from celosia.hw.ctrl.dispatch import Dispatch
from celosia.hw.ctrl.expand import ReadExpander
from celosia.hw.ctrl.pages import PageTable
from celosia.hw.ctrl.registers import Registers
from celosia.hw.ctrl.segments import SegmentWalk
from celosia.hw.links import AttendCommand, Launch, MatmulCommand, RecordCommand
from celosia.hw.mem.axi import AxiLite, AxiRead, AxiWrite
from celosia.hw.mem.fetch import DescriptorFetch
from celosia.hw.mem.links import LoadCommand, WriteWord
from celosia.hw.mem.reader import PortReader
from celosia.hw.mem.share import ReadShare
from celosia.hw.mem.writer import PortWriter
from celosia.hw.regs import ADDRESS_BITS
from celosia.sim_tb.run import simulate

CHECK_SIZES = ("token_lanes", "vector_lanes", "engine_rows", "columns", "port_bytes", "max_columns", "accumulator_bits",
               "x_words", "p_words", "max_queries", "max_head_words", "top_k")
PAGE_SIZES = ("page_positions", "max_positions", "max_pages", "max_sequences")
COMMANDS = {"load": LoadCommand, "matmul": MatmulCommand, "vector": isa.Vector, "attend": AttendCommand}
DESTS = ("loader", "matmul", "attend")
# One port, as narrow as can be, and a writer's port as wide as a vector word.
solo = AccelConfig(
    name="solo", n_ports=1, port_bytes=8, token_lanes=4, vector_lanes=2, max_columns=640, max_row_groups=32, x_words=600,
    p_words=300, query_lanes=1, max_queries=16, max_head_words=5, max_positions=200, page_positions=8,
    max_pages=25, max_sequences=4, queue_beats=32, burst_beats=8,
    read_outstanding=3)


def sizes(config, names):
    return {name: getattr(config, name) for name in names}


class Control(wiring.Component):
    """An accelerator without units: their commands, data and done strobes are ports."""

    def __init__(self, config):
        self._config = config
        beat = stream.Signature(8 * config.port_bytes)
        port = {"addr_bits": config.addr_bits, "port_bytes": config.port_bytes}
        super().__init__({
            "bus": In(AxiLite(addr_bits=ADDRESS_BITS)), "irq": Out(1),
            "axi": Out(AxiRead(**port)).array(config.n_ports), "axi_w": Out(AxiWrite(**port)),
            **{f"o_{unit}": Out(stream.Signature(shape)) for unit, shape in COMMANDS.items()},
            "o_record": Out(stream.Signature(RecordCommand)),
            **{f"o_data_{dest}": Out(beat).array(config.n_ports) for dest in DESTS},
            "i_write": In(stream.Signature(WriteWord(config.port_bytes))),
            "done": In(4), "units_idle": In(1), "unit_reset": Out(1), "launch": Out(Launch),
            "accepted": In(16), "topk_lane": Out(4), "topk_index": Out(5),
            "topk_token": In(32), "topk_logit": In(32), "topk_count": In(16),
        })

    def elaborate(self, platform):
        config, m = self._config, Module()
        port = {"addr_bits": config.addr_bits, "port_bytes": config.port_bytes}
        m.submodules.registers = registers = Registers(digest=int(config.digest, 16))
        m.submodules.control = control = RunControl(n_reports=config.n_ports + 3, token_lanes=config.token_lanes,
                                                    max_positions=config.max_positions, max_sequences=config.max_sequences)
        m.submodules.pages = pages = PageTable(**sizes(config, PAGE_SIZES))
        m.submodules.dispatch = dispatch = ResetInserter(control.unit_reset)(
            Dispatch(n_ports=config.n_ports, page_positions=config.page_positions, page_cycles=PageTable.LATENCY,
                     **sizes(config, CHECK_SIZES)))
        m.submodules.fetch = fetch = DescriptorFetch(**port)
        m.submodules.share = share = ReadShare(**port)
        m.submodules.writer = writer = PortWriter(**port)
        readers = []
        for p in range(config.n_ports):
            m.submodules[f"reader{p}"] = reader = PortReader(
                **port, queue_beats=config.queue_beats, burst_beats=config.burst_beats,
                read_outstanding=config.read_outstanding)
            readers.append(reader)
            connect(m, dispatch.o_jobs[p], reader.i_job)
            connect(m, reader.axi, share.a if p == 0 else flipped(self.axi[p]))
            for dest in DESTS:
                connect(m, getattr(reader, f"o_{dest}"), flipped(getattr(self, f"o_data_{dest}")[p]))
            m.d.comb += [reader.windows.eq(registers.windows), reader.flush.eq(control.flush)]
        connect(m, fetch.axi, share.b)
        connect(m, share.axi, flipped(self.axi[0]))
        connect(m, writer.axi, flipped(self.axi_w))
        connect(m, flipped(self.i_write), writer.i)
        connect(m, fetch.o, dispatch.i)
        connect(m, flipped(self.bus), registers.bus)
        connect(m, registers.o_page, pages.i)
        for unit in (*COMMANDS, "record"):
            connect(m, getattr(dispatch, f"o_{unit}"), flipped(getattr(self, f"o_{unit}")))

        for name in ("start", "reset", "clear_done", "n_tokens", "program_count", "watchdog_cycles"):
            m.d.comb += getattr(control, name).eq(getattr(registers, name))
        for name in ("busy", "done", "error", "draining", "error_code", "error_index", "running", "clear_counters"):
            m.d.comb += getattr(registers, name).eq(getattr(control, name))
        for report, unit in zip(control.reports, (dispatch, fetch, writer, *readers)):
            m.d.comb += report.eq(unit.error)
        # Candidates: their numbers are a function of rank and lane, and take a while to be put aside; and so does the close.
        closing = Signal(range(6))
        with m.If(control.close):
            m.d.sync += closing.eq(5)
        with m.Elif(closing != 0):
            m.d.sync += closing.eq(closing - 1)
        putting = Signal(range(8))
        m.d.sync += dispatch.number.eq(5 * dispatch.rank + 32 * dispatch.lane + 2)
        with m.If(dispatch.keep):
            m.d.sync += putting.eq(7)
        with m.Elif(putting != 0):
            m.d.sync += putting.eq(putting - 1)
        m.d.comb += dispatch.settled.eq(putting == 0)
        beats = Cat(reader.count_beat for reader in readers).any()
        strobes = registers.strobes
        m.d.comb += [
            writer.windows.eq(registers.windows), writer.flush.eq(control.flush),
            fetch.windows.eq(registers.windows), fetch.flush.eq(control.flush),
            fetch.start.eq(control.fetch_start), fetch.program_offset.eq(registers.program_offset),
            fetch.program_count.eq(registers.program_count),
            dispatch.launch.eq(control.launch), dispatch.token.eq(registers.token),
            registers.lanes.eq(control.lanes), control.lane_word.eq(registers.token), control.closing.eq(closing != 0),
            registers.token_lane.eq(Mux(control.lanes, control.lane, dispatch.token_lane)), fetch.stop.eq(dispatch.ended),
            pages.running.eq(control.running | control.draining), pages.forget.eq(registers.reset),
            registers.page_busy.eq(pages.busy), registers.page_refused.eq(pages.refused),
            control.pages_busy.eq(registers.pages_busy),
            pages.read_ask.eq(dispatch.page_ask), dispatch.page_answer.eq(pages.read_answer), dispatch.done.eq(self.done),
            control.finished.eq(dispatch.finished), control.oldest.eq(dispatch.oldest),
            control.units_idle.eq(self.units_idle),
            control.ports_idle.eq(Cat(unit.idle for unit in (fetch, writer, *readers)).all()),
            control.progress.eq(beats | fetch.count_beat | writer.count_beat | dispatch.issue | self.done.any()),
            strobes.descriptors.eq(dispatch.issue), strobes.write_beats.eq(writer.count_beat),
            strobes.fetch_beats.eq(fetch.count_beat),
            strobes.port0_full.eq(readers[0].count_full), strobes.port0_idle.eq(readers[0].count_idle),
            self.irq.eq(registers.irq), self.unit_reset.eq(control.unit_reset), self.launch.eq(control.launch),
            registers.accepted.eq(self.accepted), self.topk_lane.eq(registers.topk_lane),
            self.topk_index.eq(registers.topk_index), registers.topk_token.eq(self.topk_token),
            registers.topk_logit.eq(self.topk_logit), registers.topk_count.eq(self.topk_count),
        ]
        for p, reader in enumerate(readers):
            m.d.comb += getattr(strobes, f"port{p}_beats").eq(reader.count_beat)
        return m


PARAMETERS = (*CHECK_SIZES, *PAGE_SIZES, "n_ports", "digest", "burst_beats")


@pytest.mark.sim
@pytest.mark.parametrize("config", [solo, duo], ids=lambda config: config.name)
def test_control(config):
    tests = ["registers_keep_values", "pages_are_commanded", "candidates_are_read", "runs_programs", "waits_are_kept",
             "launch_errors", "segments_are_found", "ends_for_few_tokens", "pages_are_missed", "bad_descriptors",
             "program_without_end", "memory_errors", "silent_memory", "unit_that_hangs", "reset_in_a_run"]
    simulate(Control(config), "celosia.sim_tb.tb_ctrl", name=f"control_{config.name}",
             parameters=sizes(config, PARAMETERS), testcase=tests)


@pytest.mark.sim
@pytest.mark.parametrize("config", [solo, kv260], ids=lambda config: config.name)
def test_check(config):
    simulate(DescriptorCheck(**sizes(config, CHECK_SIZES)), "celosia.sim_tb.tb_check", name=f"check_{config.name}",
             parameters=sizes(config, PARAMETERS))


@pytest.mark.sim
@pytest.mark.parametrize("n_ports", [1, 4])
def test_expander(n_ports):
    simulate(ReadExpander(n_ports=n_ports), "celosia.sim_tb.tb_expand", name=f"expander_{n_ports}", parameters={"n_ports": n_ports})


@pytest.mark.sim
@pytest.mark.parametrize("n_ports, page_positions", [(1, 16), (2, 8), (4, 64), (4, 4)])
def test_segments(n_ports, page_positions):
    size = {"n_ports": n_ports, "page_positions": page_positions, "page_cycles": PageTable.LATENCY}
    simulate(SegmentWalk(**size), "celosia.sim_tb.tb_segments", name=f"segments_{n_ports}_{page_positions}", parameters=size)


RUN = {"token_lanes": 4, "max_positions": 9, "max_sequences": 1}
PAGES = {"page_positions": 8, "max_positions": 16, "max_pages": 2, "max_sequences": 1}


@pytest.mark.parametrize("make, sentence", [
    (lambda: RunControl(n_reports=0, **RUN), "n_reports must be a positive integer, not 0"),
    (lambda: RunControl(n_reports=1, **RUN | {"token_lanes": 17}), "token_lanes must be an integer of 1 to 16"),
    (lambda: RunControl(n_reports=1, **RUN | {"max_positions": 1 << 17}), "max_positions must be an integer of 1"),
    (lambda: RunControl(n_reports=1, **RUN | {"max_sequences": 17}), "max_sequences must be an integer of 1 to 16"),
    (lambda: PageTable(**PAGES | {"max_positions": 12}), "page_positions must divide max_positions"),
    (lambda: PageTable(**PAGES | {"max_pages": 5000}), "max_pages must be 1 to 4096"),
    (lambda: PageTable(**PAGES | {"max_sequences": 0}), "max_sequences must be 1 to 16"),
    (lambda: PageTable(**PAGES | {"page_positions": 1, "max_positions": 8192}), "at most 4096 pages"),
    (lambda: SegmentWalk(n_ports=3, page_positions=8, page_cycles=3), "n_ports must be 1, 2 or 4"),
    (lambda: SegmentWalk(n_ports=4, page_positions=2, page_cycles=3), "page_positions must be a power of two of 4"),
    (lambda: SegmentWalk(n_ports=1, page_positions=8, page_cycles=0), "page_cycles must be at least 1"),
    (lambda: Registers(digest=1 << 32), "digest must be an integer of 32 bits"),
    (lambda: ReadExpander(n_ports=3), "n_ports must be 1, 2 or 4, not 3"),
])
def test_rejects_bad_sizes(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
