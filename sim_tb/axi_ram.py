"""A memory behind an AXI4 port, for benches: random latency, stalls, error answers, silence; and it checks the master.

The channels of member ``axi`` of a design are ports ``axi__ar__payload``, ``axi__ar__valid`` and so on.

    ram = AxiRam(dut, "axi", size_bytes=1 << 16, base=0x8_0000_0000, port_bytes=8, latency_cycles=(1, 60), stall=0.3)
    ram.data[0:8] = b"abcdefgh"
    ram.faults.append((0x100, 0x200, 2))      # offsets, SLVERR
    ram.silent = True                         # takes requests and answers none, until False

Answers keep their order within an ID; answers to different IDs are interleaved at random, beat by beat, as AXI4 allows.
"""

import random
from collections import deque

import cocotb
from cocotb.triggers import RisingEdge

from celosia.hw.mem.axi import Address, ReadData, WriteData, WriteResponse
from celosia.sim_tb.link import pack, rng, unpack

__all__ = ["AxiRam"]


class _Channel:
    """One channel; ``mine`` when the memory drives it. `value` is the payload, None when nothing is there."""

    def __init__(self, dut, name, shape, *, mine):
        self._payload, self._valid = getattr(dut, f"{name}__payload"), getattr(dut, f"{name}__valid")
        self._ready, self._shape, self._mine = getattr(dut, f"{name}__ready"), shape, mine
        self._driven = None                 # of a channel of ours: the value on offer; else: whether we are ready
        self._drive(None if mine else False)

    def _drive(self, value):
        self._driven = value
        if self._mine:
            self._valid.value = value is not None
            if value is not None:
                self._payload.value = pack(self._shape, value)
        else:
            self._ready.value = value

    def taken(self):
        """At a rising edge: the transfer of this cycle, or None."""
        if self._mine:
            return self._driven if self._driven is not None and self._ready.value else None
        return unpack(self._shape, int(self._payload.value)) if self._driven and self._valid.value else None

    def offer(self, value):
        self._drive(value)

    def set_ready(self, ready):
        self._drive(ready)

    @property
    def on_offer(self):
        return self._driven is not None


class AxiRam:
    """``size_bytes`` of memory at address ``base`` behind the port ``prefix``.

    ``reads`` and ``writes`` list the requests taken, as (offset, beats, id). ``read`` and ``write`` say which channels
    the port has. AssertionError fails the bench on a request outside memory, unaligned, too long or across 4 KiB, and on
    a WLAST in the wrong place.
    """

    def __init__(self, dut, prefix, *, size_bytes, port_bytes, addr_bits=40, id_bits=1, base=0, burst_beats=16,
                 latency_cycles=(1, 1), stall=0.0, read=True, write=False, random_numbers: random.Random | None = None):
        self.data = bytearray(size_bytes)
        self.faults: list[tuple[int, int, int]] = []
        self.silent = False
        self.latency_cycles, self.stall = latency_cycles, stall
        self.reads: list[tuple[int, int, int]] = []
        self.writes: list[tuple[int, int, int]] = []
        self._dut, self._base, self._port_bytes, self._burst_beats = dut, base, port_bytes, burst_beats
        self._rng = random_numbers or rng(prefix)
        self._cycle = 0
        self._read = self._write = False
        if read:
            self._read = True
            self._ar = _Channel(dut, f"{prefix}__ar", Address(addr_bits, id_bits), mine=False)
            self._r = _Channel(dut, f"{prefix}__r", ReadData(port_bytes, id_bits), mine=True)
            self._reading: dict[int, deque] = {}
        if write:
            self._write = True
            self._aw = _Channel(dut, f"{prefix}__aw", Address(addr_bits, id_bits), mine=False)
            self._w = _Channel(dut, f"{prefix}__w", WriteData(port_bytes), mine=False)
            self._b = _Channel(dut, f"{prefix}__b", WriteResponse(id_bits), mine=True)
            self._asked, self._came, self._answers = deque(), deque(), deque()
        cocotb.start_soon(self._run())

    @property
    def n_waiting(self) -> int:
        """Reads not wholly answered."""
        return sum(map(len, self._reading.values()))

    async def _run(self):
        edge = RisingEdge(self._dut.clk)
        while True:
            await edge
            self._cycle += 1
            if self._read:
                self._serve_reads()
            if self._write:
                self._serve_writes()

    def _pause(self):
        return self.stall > 0 and self._rng.random() < self.stall

    def _due(self):
        return self._cycle + self._rng.randint(*self.latency_cycles) - 1

    def _request(self, request):
        offset, beats = request["addr"] - self._base, request["len"] + 1
        end = offset + beats * self._port_bytes
        assert 0 <= offset and end <= len(self.data), \
            f"a burst at {request['addr']:#x} of {beats} beats is not in memory"
        assert request["addr"] % self._port_bytes == 0, f"address {request['addr']:#x} is not aligned"
        assert request["addr"] // 4096 == (request["addr"] + beats * self._port_bytes - 1) // 4096, \
            f"a burst at {request['addr']:#x} of {beats} beats crosses 4 KiB"
        assert beats <= self._burst_beats, f"a burst of {beats} beats, at most {self._burst_beats} were agreed"
        return offset, beats, request["id"]

    def _resp(self, start, stop):
        return max((resp for low, high, resp in self.faults if start < high and low < stop), default=0)

    def _serve_reads(self):
        request = self._ar.taken()
        if request is not None:
            offset, beats, ident = self._request(request)
            self.reads.append((offset, beats, ident))
            self._reading.setdefault(ident, deque()).append([self._due(), offset, beats])
        self._ar.set_ready(not self._pause())

        if self._r.taken() is not None:
            self._r.offer(None)
        if self._r.on_offer or self.silent or self._pause():
            return
        ready = [ident for ident, bursts in self._reading.items() if bursts and bursts[0][0] <= self._cycle]
        if ready:
            ident = self._rng.choice(ready)
            burst = self._reading[ident][0]
            offset, stop = burst[1], burst[1] + self._port_bytes
            burst[1], burst[2] = stop, burst[2] - 1
            if not burst[2]:
                self._reading[ident].popleft()
            self._r.offer({"data": int.from_bytes(self.data[offset:stop], "little"), "resp": self._resp(offset, stop),
                           "last": int(not burst[2]), "id": ident})

    def _serve_writes(self):
        request, word = self._aw.taken(), self._w.taken()
        if request is not None:
            offset, beats, ident = self._request(request)
            self.writes.append((offset, beats, ident))
            self._asked.append((offset, beats, ident))
        if word is not None:
            self._came.append(word)
        self._aw.set_ready(not self._pause())
        self._w.set_ready(not self._pause())
        if self._asked and len(self._came) >= self._asked[0][1]:
            offset, beats, ident = self._asked.popleft()
            for beat in range(beats):
                word = self._came.popleft()
                assert word["last"] == (beat == beats - 1), f"WLAST is {word['last']} at beat {beat} of {beats}"
                for i in range(self._port_bytes):
                    if word["strb"] >> i & 1:
                        self.data[offset + beat * self._port_bytes + i] = word["data"] >> 8 * i & 0xFF
            stop = offset + beats * self._port_bytes
            self._answers.append((self._due(), {"resp": self._resp(offset, stop), "id": ident}))
        if self._b.taken() is not None:
            self._b.offer(None)
        if not self._b.on_offer and self._answers and self._answers[0][0] <= self._cycle \
                and not self.silent and not self._pause():
            self._b.offer(self._answers.popleft()[1])
