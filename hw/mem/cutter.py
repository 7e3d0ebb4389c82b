"""Cuts a contiguous transfer into AXI bursts and checks each against its window before anyone may ask for it.

::

    transfer: |-------------------------------------------------|
    bursts:   |----|--------|--------|--------|--------|--------|--|     borders at multiples of burst_beats
              first          burst_beats each                   rest

Borders lie at multiples of burst_beats * port_bytes (at most 4 KiB), so no burst crosses 4 KiB, and memory sees aligned
bursts. A burst at ``offset`` is good when ``offset`` and the address are multiples of port_bytes, offset + bytes <=
window size, and the address does not leave the address space.

Rate: a burst every 4 cycles, two more for a new transfer.
"""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .links import Windows

__all__ = ["Transfer", "Burst", "BurstCutter", "check_port"]


def check_port(port_bytes, addr_bits, burst_beats):
    """The sizes that every unit at a port is built from; raises ValueError."""
    if port_bytes not in (4, 8, 16):
        raise ValueError(f"port_bytes must be 4, 8 or 16, not {port_bytes!r}")
    if not isinstance(addr_bits, int) or not 13 <= addr_bits <= 64:
        raise ValueError(f"addr_bits must be an integer of 13 to 64, not {addr_bits!r}")
    if (not isinstance(burst_beats, int) or not 1 <= burst_beats <= 256 or burst_beats & (burst_beats - 1)
            or burst_beats * port_bytes > 4096):
        raise ValueError(f"burst_beats must be a power of two of at most 256 beats and 4096 bytes, not {burst_beats!r}")


class Transfer(data.StructLayout):
    """``beats`` from byte ``offset`` of the cache (1) or model (0) window; ``tag`` travels with every burst."""
    def __init__(self, tag):
        super().__init__({"offset": unsigned(40), "cache": 1, "beats": unsigned(32), "tag": tag})


class Burst(data.StructLayout):
    """``beats`` (1 .. burst_beats) from byte ``addr`` of memory; ``bad`` when it may not be asked for."""
    def __init__(self, addr_bits, burst_beats, tag):
        super().__init__({"addr": addr_bits, "beats": range(burst_beats + 1), "bad": 1, "tag": tag})


class BurstCutter(wiring.Component):
    """Transfers in, checked bursts out.

    A transfer of no beats gives no burst. A bad burst is offered again and again: only a reset leads on. ``idle``:
    nothing at work and nothing waiting. Paths: i.valid -> idle.

    Parameters
    ----------
    port_bytes, addr_bits : sizes of the port
    burst_beats : longest burst, a power of two, at most 4 KiB
    tag : shape of the tag
    """

    def __init__(self, *, port_bytes, addr_bits, burst_beats, tag):
        check_port(port_bytes, addr_bits, burst_beats)
        self._port_bytes, self._addr_bits, self._burst_beats, self._tag = port_bytes, addr_bits, burst_beats, tag
        super().__init__({
            "i": In(stream.Signature(Transfer(tag))),
            "o": Out(stream.Signature(Burst(addr_bits, burst_beats, tag))),
            "windows": In(Windows),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        beat_log2 = self._port_bytes.bit_length() - 1
        burst_log2 = self._burst_beats.bit_length() - 1

        offset = Signal(40, reset_less=True)
        left_beats = Signal(32, reset_less=True)
        cache = Signal(reset_less=True)
        addr = Signal(self._addr_bits + 1, reset_less=True)
        size = Signal(64, reset_less=True)
        end = Signal(41, reset_less=True)
        burst = self.o.p

        to_border = Signal(range(self._burst_beats + 1))
        m.d.comb += to_border.eq(self._burst_beats - addr[beat_log2:beat_log2 + burst_log2])
        base = Mux(cache, self.windows.cache_base, self.windows.model_base)

        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += [self.i.ready.eq(1), self.idle.eq(~self.i.valid)]
                m.d.sync += [
                    offset.eq(self.i.p.offset), left_beats.eq(self.i.p.beats), cache.eq(self.i.p.cache),
                    burst.tag.eq(self.i.p.tag),
                ]
                with m.If(self.i.valid & (self.i.p.beats != 0)):
                    m.next = "PLACE"
            with m.State("PLACE"):
                m.d.sync += [
                    addr.eq(base[:self._addr_bits] + offset),
                    size.eq(Mux(cache, self.windows.cache_size, self.windows.model_size)),
                ]
                m.next = "CUT"
            with m.State("CUT"):
                m.d.sync += [
                    burst.addr.eq(addr),
                    burst.beats.eq(Mux(left_beats < to_border, left_beats, to_border)),
                ]
                m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += end.eq(offset + (burst.beats << beat_log2))
                m.next = "COMPARE"
            with m.State("COMPARE"):
                m.d.sync += [
                    burst.bad.eq((end > size) | offset[:beat_log2].any() | addr[:beat_log2].any() | addr[-1]),
                    self.o.valid.eq(1),
                ]
                m.next = "OFFER"
            with m.State("OFFER"):
                with m.If(self.o.ready & ~burst.bad):
                    m.d.sync += [
                        self.o.valid.eq(0),
                        offset.eq(end),
                        addr.eq(addr[:self._addr_bits] + (burst.beats << beat_log2)),
                        left_beats.eq(left_beats - burst.beats),
                    ]
                    with m.If(left_beats == burst.beats):
                        m.next = "TAKE"
                    with m.Else():
                        m.next = "CUT"
        return m
