# amaranth: UnusedElaboratable=no
"""Layer norm, LOAD and the memories of the binary machine, against golden functions and bytes."""

import pytest
from amaranth.hdl import Assert, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from celosia.hw.binary.isa import Norm
from celosia.hw.binary.links import ActWrite, ParamWrite, XRow, XWrite
from celosia.hw.binary.loader import BinaryLoader
from celosia.hw.binary.norm import NormUnit
from celosia.hw.binary.params import ParamMemory
from celosia.hw.binary.residual import ResidualMemory
from celosia.sim_tb.proof import prove
from celosia.sim_tb.run import simulate

_PORT = ("want", "grant", "read_en", "read_addr", "read_data", "write_en", "write_addr", "write_data")


class NormPath(wiring.Component):
    """NORM with X and P; the other unit's ports of both lead out."""

    def __init__(self, *, token_lanes, columns, beat_words, x_words, p_words):
        self.norm = NormUnit(token_lanes=token_lanes, columns=columns)
        self.x = ResidualMemory(token_lanes=token_lanes, x_words=x_words)
        self.p = ParamMemory(p_words=p_words, beat_words=beat_words)
        row = XRow(token_lanes)
        super().__init__({
            "i_command": In(stream.Signature(Norm)), "i_x": In(stream.Signature(XWrite(token_lanes))),
            "i_p": In(stream.Signature(ParamWrite(beat_words))), "o_act": Out(stream.Signature(ActWrite(token_lanes))),
            "done": Out(1), "norm_grant": Out(1),
            "post_want": In(1), "post_grant": Out(1), "post_read_en": In(1), "post_read_addr": In(16), "post_read_data": Out(row),
            "post_write_en": In(1), "post_write_addr": In(16), "post_write_data": In(row),
            "post_p_addr": In(16), "post_p_data": Out(64),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.norm, m.submodules.x, m.submodules.p = norm, x, p = self.norm, self.x, self.p
        connect(m, flipped(self.i_command), norm.i_command)
        connect(m, norm.o_act, flipped(self.o_act))
        connect(m, flipped(self.i_x), x.i)
        connect(m, flipped(self.i_p), p.i)
        for name in _PORT:
            inner, unit, outer = getattr(x, f"norm_{name}"), getattr(norm, f"x_{name}"), getattr(self, f"post_{name}")
            if name in ("grant", "read_data"):
                m.d.comb += [unit.eq(inner), outer.eq(getattr(x, f"post_{name}"))]
            else:
                m.d.comb += [inner.eq(unit), getattr(x, f"post_{name}").eq(outer)]
        m.d.comb += [
            p.norm_addr.eq(norm.p_addr), norm.p_data.eq(p.norm_data), p.post_addr.eq(self.post_p_addr),
            self.post_p_data.eq(p.post_data), self.done.eq(norm.done), self.norm_grant.eq(x.norm_grant),
        ]
        return m


@pytest.mark.sim
@pytest.mark.parametrize("token_lanes, columns, beat_words, x_words, p_words", [(8, 32, 1, 256, 512), (16, 64, 4, 200, 600)])
def test_norm(token_lanes, columns, beat_words, x_words, p_words):
    sizes = {"token_lanes": token_lanes, "columns": columns, "beat_words": beat_words, "x_words": x_words, "p_words": p_words}
    simulate(NormPath(**sizes), "celosia.sim_tb.tb_binary_norm", name=f"binary_norm_{token_lanes}", parameters=sizes)


@pytest.mark.sim
@pytest.mark.parametrize("n_ports, port_bytes, token_lanes, columns", [(1, 4, 8, 16), (1, 8, 8, 32), (2, 8, 16, 64), (4, 4, 32, 8)])
def test_loader(n_ports, port_bytes, token_lanes, columns):
    sizes = {"n_ports": n_ports, "port_bytes": port_bytes, "token_lanes": token_lanes, "columns": columns}
    simulate(BinaryLoader(**sizes), "celosia.sim_tb.tb_binary_loader", name=f"binary_loader_{n_ports}x{port_bytes}",
             parameters=sizes)


class AnyWants(wiring.Component):
    """Any wants at any time: X is never granted twice, not taken from one who still wants it, and given to one who wants it as soon
    as it is free, norm first."""

    post_want: In(1)
    norm_want: In(1)

    def __init__(self, memory):
        self._memory = memory
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.x = x = self._memory
        post_keeps, norm_keeps = x.post_grant & self.post_want, x.norm_grant & self.norm_want
        post_must, norm_must = Signal(), Signal()
        m.d.sync += [
            post_must.eq(post_keeps | (self.post_want & ~self.norm_want)),
            norm_must.eq(norm_keeps | (self.norm_want & ~post_keeps)),
        ]
        m.d.comb += [
            x.post_want.eq(self.post_want), x.norm_want.eq(self.norm_want),
            Assert(~(x.post_grant & x.norm_grant)), Assert(x.post_grant | ~post_must), Assert(x.norm_grant | ~norm_must),
        ]
        return m


def test_x_belongs_to_one():
    prove(AnyWants(ResidualMemory(token_lanes=1, x_words=2)), depth=4)


class Snatches(ResidualMemory):
    """The norm takes X whenever it wants it."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.d.sync += self.norm_grant.eq(self.norm_want)
        return m


def test_a_fault_is_found():
    with pytest.raises(AssertionError, match="does not hold"):
        prove(AnyWants(Snatches(token_lanes=1, x_words=2)), depth=4)


@pytest.mark.parametrize("unit, sizes, sentence", [
    (BinaryLoader, {"n_ports": 3, "port_bytes": 8, "token_lanes": 8, "columns": 8}, "n_ports must be 1, 2 or 4, not 3"),
    (BinaryLoader, {"n_ports": 1, "port_bytes": 5, "token_lanes": 8, "columns": 8}, "port_bytes must be 4, 8 or 16, not 5"),
    (BinaryLoader, {"n_ports": 2, "port_bytes": 8, "token_lanes": 8, "columns": 8}, "a multiple of the 16 bytes of a beat, not 8"),
    (BinaryLoader, {"n_ports": 1, "port_bytes": 8, "token_lanes": 8, "columns": 12}, "columns must be a multiple of 8"),
    (ParamMemory, {"p_words": 64, "beat_words": 3}, "beat_words must be 1, 2, 4 or 8, not 3"),
    (ParamMemory, {"p_words": 1 << 17, "beat_words": 1}, "p_words must be 2 to 65536, not 131072"),
    (ResidualMemory, {"token_lanes": 8, "x_words": 1}, "x_words must be 2 to 65536, not 1"),
    (NormUnit, {"token_lanes": 12, "columns": 8}, "token_lanes must be a power of two of at least 2, not 12"),
])
def test_rejects_bad_sizes(unit, sizes, sentence):
    with pytest.raises(ValueError, match=sentence):
        unit(**sizes)
