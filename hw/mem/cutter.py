"""Cuts a contiguous transfer into AXI bursts and checks each against its window before anyone may ask for it.

::

    transfer: |-------------------------------------------------|
    bursts:   |----|--------|--------|--------|--------|--------|--|     borders at multiples of burst_beats
              first          burst_beats each                   rest

Borders lie at multiples of burst_beats * port_bytes (at most 4 KiB), so no burst crosses 4 KiB, and memory sees aligned
bursts. A burst at ``offset`` is good when ``offset`` and the address are multiples of port_bytes, offset + bytes <=
window size, and the address does not leave the address space.

Rate: a burst every 3 cycles, three more for a new transfer.
"""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from .links import Windows

__all__ = ["Transfer", "Burst", "BurstCutter", "check_port"]

_ROOM_BITS = 43         # of an offset, 40, and a burst beyond it; and a sign


class _Operand(enum.Enum, shape=unsigned(2)):
    """What is taken away."""
    BURST = 0
    OFFSET = 1
    MODEL = 2
    CACHE = 3


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

    A transfer of no beats gives no burst. ``i`` is taken after its last burst. A bad burst is offered again and again: only a
    reset leads on. ``idle``: nothing at work and nothing waiting. Paths: i.valid -> idle; i.p -> o.p.tag.

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
        job, burst, windows = self.i.p, self.o.p, self.windows

        # Each register begins at -1, and different things are taken from it: -1 - ~size = size. One subtracter each, whose carry
        # chain takes the choice in the LUT that the subtraction needs anyway.
        operand = Signal(_Operand, init=_Operand.OFFSET)
        below = Signal(self._addr_bits + 1, init=-1)    # -1 - address
        room = Signal(_ROOM_BITS, init=-1)              # bytes of the window from here on
        left = Signal(32, init=-1)                      # beats of the transfer from here on
        forward, room_less, left_less = Signal(self._addr_bits), Signal(_ROOM_BITS), Signal(32)
        burst_bytes = burst.beats << beat_log2
        with m.Switch(operand):
            with m.Case(_Operand.OFFSET):
                m.d.comb += [forward.eq(job.offset), room_less.eq(job.offset), left_less.eq(~job.beats)]
            with m.Case(_Operand.MODEL):
                m.d.comb += [forward.eq(windows.model_base), room_less.eq(~windows.model_size)]
            with m.Case(_Operand.CACHE):
                m.d.comb += [forward.eq(windows.cache_base), room_less.eq(~windows.cache_size)]
            with m.Case(_Operand.BURST):
                m.d.comb += [forward.eq(burst_bytes), room_less.eq(burst_bytes), left_less.eq(burst.beats)]
        go_on, spend = Signal(), Signal()
        with m.If(go_on):
            m.d.sync += [below.eq(below - forward), left.eq(left - left_less)]
        with m.If(spend):
            m.d.sync += room.eq(room - room_less)

        addr = ~below
        misaligned, unbounded = Signal(reset_less=True), Signal(reset_less=True)
        size_high = Mux(job.cache, windows.cache_size[_ROOM_BITS - 1:], windows.model_size[_ROOM_BITS - 1:])
        m.d.sync += [
            unbounded.eq(size_high.any()),
            misaligned.eq(job.offset[:beat_log2].any() | addr[:beat_log2].any() | addr[-1]),
        ]
        to_border = Signal(range(self._burst_beats + 1))
        few, nearly, last = Signal(), Signal(), Signal(reset_less=True)
        m.d.comb += [
            to_border.eq(self._burst_beats - addr[beat_log2:beat_log2 + burst_log2]),
            few.eq(~left[burst_log2 + 1:].any()), nearly.eq(few & (left[:burst_log2 + 1] <= to_border)),
            burst.addr.eq(addr), burst.tag.eq(job.tag),
            burst.bad.eq(misaligned | (room[-1] & ~unbounded)),
        ]

        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += [self.idle.eq(~self.i.valid), go_on.eq(self.i.valid), spend.eq(self.i.valid)]
                with m.If(self.i.valid):
                    m.d.sync += operand.eq(Mux(job.cache, _Operand.CACHE, _Operand.MODEL))
                    m.next = "PLACE"
            with m.State("PLACE"):
                m.d.comb += [go_on.eq(1), spend.eq(1)]
                m.d.sync += operand.eq(_Operand.BURST)
                m.next = "CUT"
            with m.State("CUT"):
                m.d.sync += [burst.beats.eq(Mux(nearly, left[:burst_log2 + 1], to_border)), last.eq(nearly)]
                m.next = "CHECK"
                with m.If(few & ~left[:burst_log2 + 1].any()):
                    m.next = "LEAVE"
            with m.State("CHECK"):
                m.d.comb += spend.eq(1)
                m.d.sync += self.o.valid.eq(1)
                m.next = "OFFER"
            with m.State("OFFER"):
                with m.If(self.o.ready & ~burst.bad):
                    m.d.comb += go_on.eq(1)
                    m.d.sync += self.o.valid.eq(0)
                    m.next = "CUT"
                    with m.If(last):
                        m.next = "LEAVE"
            with m.State("LEAVE"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [below.eq(-1), room.eq(-1), left.eq(-1), operand.eq(_Operand.OFFSET)]
                m.next = "TAKE"
        return m
