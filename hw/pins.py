"""The pins of the accelerator: flat AXI names and constants, as block-design tools expect them.

This is the only place that knows the names ``s_axil_*`` and ``m_axi_<p>_*``. Bursts are INCR and as wide as the port.
"""

from amaranth.hdl import Const, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .mem.axi import AxiLite, AxiRead, AxiWrite

__all__ = ["Pins"]

_INCR = 1
_CACHE_NORMAL_BUFFERABLE = 0b0011


class Pins(wiring.Component):
    """Joins AXI streams to flat pins.

    Parameters
    ----------
    n_ports, port_bytes, addr_bits : int
        The memory ports.
    lite_addr_bits : int
        Address width of the register port.

    Members
    -------
    read : array of n_ports ``AxiRead``, write : ``AxiWrite``, lite : ``AxiLite``
        Towards the accelerator.
    clk, rst_n, irq : Signal
        Clock, active-low reset, interrupt (level).
    all : list of Signal
        Every pin, in the order of the module's port list.

    Paths: straight through. Latency: 0.
    """

    def __init__(self, *, n_ports, port_bytes, addr_bits, lite_addr_bits):
        self._port_bytes = port_bytes
        read = AxiRead(addr_bits=addr_bits, port_bytes=port_bytes)
        super().__init__({
            "read": In(read).array(n_ports),
            "write": In(AxiWrite(addr_bits=addr_bits, port_bytes=port_bytes)),
            "lite": Out(AxiLite(addr_bits=lite_addr_bits)),
        })
        self.clk, self.rst_n, self.irq = Signal(name="clk"), Signal(name="rst_n"), Signal(name="irq")
        self._pins = {}
        lite = [("aw", "addr prot valid ready"), ("w", "data strb valid ready"), ("b", "resp valid ready"),
                ("ar", "addr prot valid ready"), ("r", "data resp valid ready")]
        lite_bits = {"addr": lite_addr_bits, "prot": 3, "data": 32, "strb": 4, "resp": 2}
        self._declare("s_axil", lite, lite_bits)
        reading = [("ar", "id addr len size burst cache prot valid ready"), ("r", "id data resp last valid ready")]
        writing = [("aw", "id addr len size burst cache prot valid ready"), ("w", "data strb last valid ready"),
                   ("b", "id resp valid ready")]
        bits = {"id": 1, "addr": addr_bits, "len": 8, "size": 3, "burst": 2, "cache": 4, "prot": 3, "data": 8 * port_bytes,
                "strb": port_bytes, "resp": 2}
        for p in range(n_ports):
            self._declare(f"m_axi_{p}", reading + (writing if p == 0 else []), bits)
        self.all = [self.clk, self.rst_n, self.irq, *self._pins.values()]

    def _declare(self, prefix, channels, bits):
        for channel, fields in channels:
            for field in fields.split():
                name = f"{prefix}_{channel}{field}"
                self._pins[name] = Signal(bits.get(field, 1), name=name)

    def _outward(self, m, prefix, stream, constants=None):
        """A stream that leaves through pins: payload fields become pins of the same name."""
        self._move(m, prefix, stream, lambda pin, field: pin.eq(field))
        m.d.comb += [self._pins[f"{prefix}valid"].eq(stream.valid), stream.ready.eq(self._pins[f"{prefix}ready"])]
        for name, value in (constants or {}).items():
            m.d.comb += self._pins[f"{prefix}{name}"].eq(value)

    def _inward(self, m, prefix, stream):
        """A stream that comes in through pins."""
        self._move(m, prefix, stream, lambda pin, field: field.eq(pin))
        m.d.comb += [stream.valid.eq(self._pins[f"{prefix}valid"]), self._pins[f"{prefix}ready"].eq(stream.ready)]

    def _move(self, m, prefix, stream, assign):
        shape = stream.p.shape()
        if isinstance(shape, data.Layout) or isinstance(shape, type):
            for name, _ in data.Layout.cast(shape):
                m.d.comb += assign(self._pins[f"{prefix}{name}"], stream.p[name])

    def elaborate(self, platform):
        m = Module()
        size = Const((self._port_bytes - 1).bit_length(), 3)
        burst = {"size": size, "burst": _INCR, "cache": _CACHE_NORMAL_BUFFERABLE, "prot": 0}
        for p, port in enumerate(self.read):
            self._outward(m, f"m_axi_{p}_ar", port.ar, burst)
            self._inward(m, f"m_axi_{p}_r", port.r)
        self._outward(m, "m_axi_0_aw", self.write.aw, burst)
        self._outward(m, "m_axi_0_w", self.write.w)
        self._inward(m, "m_axi_0_b", self.write.b)
        self._inward(m, "s_axil_w", self.lite.w)
        self._outward(m, "s_axil_r", self.lite.r)
        for channel in ("aw", "ar"):
            stream = getattr(self.lite, channel)
            self._inward(m, f"s_axil_{channel}", stream)
            m.d.comb += stream.p.eq(self._pins[f"s_axil_{channel}addr"])
        self._outward(m, "s_axil_b", self.lite.b)
        m.d.comb += self._pins["s_axil_bresp"].eq(self.lite.b.p)
        return m
