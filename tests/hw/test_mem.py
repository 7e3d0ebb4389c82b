# amaranth: UnusedElaboratable=no
"""Memory access: readers, descriptor fetch, writer, loader, join."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from celosia.hw.links import ParamWrite, ReadJob
from celosia.hw.mem.axi import AxiRead, AxiWrite
from celosia.hw.mem.cutter import BurstCutter
from celosia.hw.mem.fetch import DescriptorFetch
from celosia.hw.mem.join import Join
from celosia.hw.mem.links import ErrorReport, Fetched, LoadCommand, Windows, WriteWord
from celosia.hw.mem.loader import Loader
from celosia.hw.mem.pace import Pace
from celosia.hw.mem.reader import PortReader
from celosia.hw.mem.share import ReadShare
from celosia.hw.mem.writer import PortWriter
from celosia.sim_tb.run import simulate

ADDR_BITS = 40


class Port0(wiring.Component):
    """All that port 0 has: reader and fetch on one read side, writer on the write side."""

    def __init__(self, *, port_bytes, queue_beats, burst_beats, read_outstanding):
        self._sizes = {"port_bytes": port_bytes, "addr_bits": ADDR_BITS}
        self._reader = {"queue_beats": queue_beats, "burst_beats": burst_beats, "read_outstanding": read_outstanding}
        beat = stream.Signature(8 * port_bytes)
        super().__init__({
            "i_job": In(stream.Signature(ReadJob)),
            "o_loader": Out(beat), "o_matmul": Out(beat), "o_attend": Out(beat),
            "start": In(1), "program_offset": In(40), "program_count": In(17),
            "o_fetched": Out(stream.Signature(Fetched)),
            "i_write": In(stream.Signature(WriteWord(port_bytes))),
            "axi": Out(AxiRead(addr_bits=ADDR_BITS, port_bytes=port_bytes)),
            "axi_w": Out(AxiWrite(addr_bits=ADDR_BITS, port_bytes=port_bytes)),
            "windows": In(Windows), "flush": In(1), "hold": In(1),
            "reader_idle": Out(1), "fetch_idle": Out(1), "writer_idle": Out(1),
            "reader_error": Out(ErrorReport), "fetch_error": Out(ErrorReport), "writer_error": Out(ErrorReport),
            "count_beat": Out(1), "count_full": Out(1), "count_idle": Out(1),
            "fetch_beat": Out(1), "write_beat": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.reader = reader = PortReader(**self._sizes, **self._reader)
        m.submodules.fetch = fetch = DescriptorFetch(**self._sizes)
        m.submodules.share = share = ReadShare(**self._sizes)
        m.submodules.writer = writer = PortWriter(**self._sizes)
        connect(m, reader.axi, share.a)
        connect(m, fetch.axi, share.b)
        connect(m, share.axi, flipped(self.axi))
        connect(m, writer.axi, flipped(self.axi_w))
        connect(m, flipped(self.i_job), reader.i_job)
        connect(m, flipped(self.i_write), writer.i)
        connect(m, fetch.o, flipped(self.o_fetched))
        for name in ("o_loader", "o_matmul", "o_attend"):
            connect(m, getattr(reader, name), flipped(getattr(self, name)))
        for unit, name in (reader, "reader"), (fetch, "fetch"), (writer, "writer"):
            m.d.comb += [
                unit.windows.eq(self.windows), unit.flush.eq(self.flush),
                getattr(self, f"{name}_idle").eq(unit.idle), getattr(self, f"{name}_error").eq(unit.error),
            ]
        m.d.comb += [
            reader.hold.eq(self.hold), fetch.start.eq(self.start), fetch.program_offset.eq(self.program_offset),
            fetch.program_count.eq(self.program_count),
            self.count_beat.eq(reader.count_beat), self.count_full.eq(reader.count_full),
            self.count_idle.eq(reader.count_idle),
            self.fetch_beat.eq(fetch.count_beat), self.write_beat.eq(writer.count_beat),
        ]
        return m


class LoadPath(wiring.Component):
    """Loader and join, side by side."""

    def __init__(self, *, n_ports, port_bytes, vector_lanes):
        self._sizes = {"n_ports": n_ports, "port_bytes": port_bytes}
        self._lanes = vector_lanes
        beat = stream.Signature(8 * port_bytes)
        super().__init__({
            "i_command": In(stream.Signature(LoadCommand)), "i_ports": In(beat).array(n_ports),
            "o": Out(stream.Signature(ParamWrite(vector_lanes))), "done": Out(1),
            "i_join": In(beat).array(n_ports), "o_join": Out(stream.Signature(8 * n_ports * port_bytes)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.loader = loader = Loader(**self._sizes, vector_lanes=self._lanes)
        m.submodules.join = join = Join(**self._sizes)
        connect(m, flipped(self.i_command), loader.i_command)
        connect(m, loader.o, flipped(self.o))
        connect(m, join.o, flipped(self.o_join))
        for port in range(self._sizes["n_ports"]):
            connect(m, flipped(self.i_ports[port]), loader.i_ports[port])
            connect(m, flipped(self.i_join[port]), join.i[port])
        m.d.comb += self.done.eq(loader.done)
        return m


PORTS = {
    "narrow": {"port_bytes": 4, "queue_beats": 64, "burst_beats": 16, "read_outstanding": 4},
    "tiny": {"port_bytes": 8, "queue_beats": 256, "burst_beats": 16, "read_outstanding": 8},
    "odd": {"port_bytes": 16, "queue_beats": 48, "burst_beats": 8, "read_outstanding": 5},
}


@pytest.mark.sim
@pytest.mark.parametrize("name", PORTS)
def test_port(name):
    sizes = PORTS[name]
    tests = ["reads_in_order", "long_job_at_full_rate", "room_is_never_exceeded", "asks_for_nothing_while_held",
             "read_windows", "read_error", "flush_of_a_reader", "fetches_a_program", "fetch_errors", "writes_records",
             "write_errors", "flush_of_a_writer"]
    simulate(Port0(**sizes), "celosia.sim_tb.tb_mem", name=f"port0_{name}", parameters=sizes, testcase=tests)


@pytest.mark.sim
@pytest.mark.parametrize("n_ports, port_bytes, vector_lanes", [(1, 8, 2), (2, 4, 8), (4, 16, 16)])
def test_load_path(n_ports, port_bytes, vector_lanes):
    sizes = {"n_ports": n_ports, "port_bytes": port_bytes, "vector_lanes": vector_lanes}
    simulate(LoadPath(**sizes), "celosia.sim_tb.tb_mem", name=f"load_path_{n_ports}x{port_bytes}", parameters=sizes,
             testcase=["loads_rows", "joins_ports"])


@pytest.mark.sim
@pytest.mark.parametrize("n_ports, queue_beats, ahead_beats", [(2, 48, 24), (4, 2048, 128)])
def test_pace(n_ports, queue_beats, ahead_beats):
    sizes = {"n_ports": n_ports, "queue_beats": queue_beats, "ahead_beats": ahead_beats}
    simulate(Pace(**sizes), "celosia.sim_tb.tb_pace", name=f"pace_{n_ports}", parameters=sizes)


GOOD = {"port_bytes": 8, "addr_bits": 40, "queue_beats": 64, "burst_beats": 16, "read_outstanding": 8}


@pytest.mark.parametrize("unit, sizes, sentence", [
    (PortReader, {**GOOD, "port_bytes": 5}, "port_bytes must be 4, 8 or 16, not 5"),
    (PortReader, {**GOOD, "addr_bits": 12}, "addr_bits must be an integer of 13 to 64, not 12"),
    (PortReader, {**GOOD, "burst_beats": 12}, "burst_beats must be a power of two of at most 256 beats"),
    (PortReader, {**GOOD, "port_bytes": 16, "burst_beats": 512}, "burst_beats must be a power of two of at most 256"),
    (PortReader, {**GOOD, "queue_beats": 8}, "queue_beats must be an integer that holds a burst of 16, not 8"),
    (PortReader, {**GOOD, "read_outstanding": 0}, "read_outstanding must be a positive integer, not 0"),
    (BurstCutter, {"port_bytes": 3, "addr_bits": 40, "burst_beats": 4, "tag": 1}, "port_bytes must be"),
    (PortWriter, {"port_bytes": 4, "addr_bits": 40, "burst_beats": 128}, "burst_beats of a writer must be at most 16"),
    (DescriptorFetch, {"port_bytes": 32, "addr_bits": 40}, "port_bytes must be"),
    (Loader, {"n_ports": 3, "port_bytes": 8, "vector_lanes": 8}, "n_ports must be 1, 2 or 4, not 3"),
    (Loader, {"n_ports": 4, "port_bytes": 16, "vector_lanes": 8}, "a multiple of n_ports port_bytes, not 8"),
    (Join, {"n_ports": 1, "port_bytes": 64}, "port_bytes must be 4, 8 or 16, not 64"),
])
def test_rejects_bad_sizes(unit, sizes, sentence):
    with pytest.raises(ValueError, match=sentence):
        unit(**sizes)
