"""The registers of ``celosia.hw.regs`` on AXI4-Lite.

::

    write --+--> kept: a LUT RAM with all registers of kind "rw" ----> read, TOKEN or LANE of a lane
            +--> registers for those that other units see at all times
            +--> PAGE: one command, until the page table takes it

Every access answers OKAY. What is not there reads as zero; what cannot be written is left alone. Registers of kind
"rw", but for IRQ_ENABLE and SCRATCH, keep their values while a program runs. Latency: a write 2 cycles, a read 6; an access
in the 64 cycles after a reset, in which the kept values become zero, waits for their end, and a write to PAGE for the command
before it.
"""

from functools import reduce
from operator import or_

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..isa import ISA_VERSION
from ..mem.axi import AxiLite
from ..mem.links import Windows
from ..regs import ABI_VERSION, ADDRESS_BITS, COUNTERS, ID_MAGIC, REGISTERS, TOPK_LANE_BYTES, TOPK_OFFSET
from .links import PageCommand

__all__ = ["Registers", "Strobes"]

_COUNTER_BITS = 48
_WIDE = ("MODEL_BASE", "MODEL_SIZE", "CACHE_BASE", "CACHE_SIZE", "PROGRAM_OFFSET")      # 64 bits each
_FREE = ("IRQ_ENABLE", "SCRATCH")                                                        # may change during a run
_COUNTERS_ADDRESS, _TOPK_ADDRESS = COUNTERS[0].offset >> 2, TOPK_OFFSET >> 2
_TOPK_CYCLES = 4
_TOPK_LANE_LOG2 = (TOPK_LANE_BYTES >> 2).bit_length() - 1
_KEPT_ROWS = 64             # a row for every word below the counters


class Strobes(data.StructLayout):
    """One bit for every counter but CYCLES, by its name in small letters: the cycles in which it is set are counted."""
    def __init__(self):
        super().__init__({counter.name.lower(): 1 for counter in COUNTERS if counter.name != "CYCLES"})


class Registers(wiring.Component):
    """
    Parameters
    ----------
    digest : ``AccelConfig.digest`` as an integer, read as CONFIG
    isa_version : read in VERSION

    Members
    -------
    bus : AxiLite (slave)
    irq : level: IRQ_ENABLE and (done or error)
    busy, done, error, draining, error_code, error_index, running, clear_counters : from RunControl
    start, reset, clear_done : strobes to RunControl
    n_tokens, program_count, watchdog_cycles : register values
    windows, program_offset : register values for readers, writer and fetch
    token_lane, token : TOKEN of a lane, one cycle later; with ``lanes`` its LANE
    o_page : stream of PageCommand
    page_busy, page_refused : PAGE_STATUS, from the page table; ``pages_busy``: it or a command on its way is at work
    strobes : Strobes
    topk_count, accepted : of the last run
    topk_lane, topk_index : candidate whose ``topk_token`` and ``topk_logit`` are wanted, at most 2 cycles later

    Paths: none.
    """

    def __init__(self, *, digest, isa_version=ISA_VERSION):
        if not isinstance(digest, int) or not 0 <= digest < 1 << 32:
            raise ValueError(f"digest must be an integer of 32 bits, not {digest!r}")
        if not isinstance(isa_version, int) or not 0 <= isa_version < 1 << 16:
            raise ValueError(f"isa_version must be an integer of 16 bits, not {isa_version!r}")
        self._digest, self._isa_version = digest, isa_version
        super().__init__({
            "bus": In(AxiLite(addr_bits=ADDRESS_BITS)), "irq": Out(1),
            "busy": In(1), "done": In(1), "error": In(1), "draining": In(1),
            "error_code": In(4), "error_index": In(16), "running": In(1), "clear_counters": In(1),
            "start": Out(1), "reset": Out(1), "clear_done": Out(1),
            "n_tokens": Out(32), "program_count": Out(32), "watchdog_cycles": Out(32),
            "windows": Out(Windows), "program_offset": Out(40),
            "token_lane": In(4), "lanes": In(1), "token": Out(32),
            "o_page": Out(stream.Signature(PageCommand)), "page_busy": In(1), "page_refused": In(1), "pages_busy": Out(1),
            "strobes": In(Strobes()), "accepted": In(16),
            "topk_count": In(16), "topk_lane": Out(4), "topk_index": Out(5), "topk_token": In(32), "topk_logit": In(32),
        })

    def elaborate(self, platform):
        m = Module()
        where = {register.name: register.offset >> 2 for register in REGISTERS}
        places = {}                         # of kept values: word address -> (register, half)
        for register in REGISTERS:
            if register.access == "rw":
                for half in range(2 if register.name in _WIDE else 1):
                    places[where[register.name] + half] = register.name, half
        if max(places) >= _KEPT_ROWS:
            raise ValueError(f"Kept registers must lie below {4 * _KEPT_ROWS:#x}")

        m.submodules.kept = kept = memory.Memory(shape=32, depth=_KEPT_ROWS, init=[])
        token = kept.read_port(domain="comb")
        m.d.comb += [token.addr.eq(Cat(self.token_lane, Mux(self.lanes, where["LANE0"] >> 4, where["TOKEN0"] >> 4))),
                     self.pages_busy.eq(self.page_busy | self.o_page.valid)]
        m.d.sync += self.token.eq(token.data)

        seen = {name: getattr(self.windows, name.lower()) for name in _WIDE[:4]}
        seen |= {name: getattr(self, name.lower()) for name in (
            "PROGRAM_OFFSET", "N_TOKENS", "PROGRAM_COUNT", "WATCHDOG_CYCLES")}
        seen["IRQ_ENABLE"] = irq_enable = Signal()
        m.d.sync += self.irq.eq(irq_enable & (self.done | self.error))

        ticks = Signal(32)
        m.d.sync += ticks.eq(ticks + 1)
        counters = self._counters(m)
        cleared = self._write(m, kept, places, seen, where["CONTROL"], where["PAGE"])
        status = Cat(self.busy, self.done, self.error, self.draining)
        self._read(m, kept, places, cleared, counters, {
            where["ID"]: ID_MAGIC, where["VERSION"]: self._isa_version | ABI_VERSION << 16, where["CONFIG"]: self._digest,
            where["STATUS"]: status, where["ERROR_CODE"]: self.error_code, where["ERROR_INDEX"]: self.error_index,
            where["TICKS"]: ticks, where["TOPK_COUNT"]: self.topk_count, where["ACCEPTED"]: self.accepted,
            where["PAGE_STATUS"]: Cat(self.pages_busy, self.page_refused)})
        return m

    def _counters(self, m):
        strobes = Signal(Strobes())
        running, clear = Signal(), Signal()
        m.d.sync += [strobes.eq(self.strobes), running.eq(self.running), clear.eq(self.clear_counters)]
        counters = []
        for counter in COUNTERS:
            count = Signal(_COUNTER_BITS, name=f"count_{counter.name}")
            counters.append(count)
            strobe = 1 if counter.name == "CYCLES" else strobes[counter.name.lower()]
            with m.If(clear):
                m.d.sync += count.eq(0)
            with m.Elif(running & strobe):
                m.d.sync += count.eq(count + 1)
        return counters

    def _write(self, m, kept, places, seen, control, page):
        """Writes; returns whether all kept values have become zero after a reset."""
        sweep = Signal(range(_KEPT_ROWS + 1))
        cleared, take = sweep[-1], Signal()
        with m.If(~cleared):
            m.d.sync += sweep.eq(sweep + 1)

        def held(channel):
            """(word of a channel, whether there is one); zero during the sweep."""
            word, full = Signal.like(channel.p), Signal()
            m.d.comb += channel.ready.eq(cleared & ~full)
            with m.If(channel.ready):
                m.d.sync += [word.eq(channel.p), full.eq(channel.valid)]
            with m.If(take):
                m.d.sync += full.eq(0)
            return word, full

        (address, address_full), (word, word_full), b = held(self.bus.aw), held(self.bus.w), self.bus.b
        place, may = address[2:], Signal()
        m.d.comb += take.eq(address_full & word_full & (~b.valid | b.ready) & ~((place == page) & self.o_page.valid))
        with m.If(~b.valid | b.ready):
            m.d.sync += b.valid.eq(take)

        with m.If(take & (place == page) & word.strb.all()):
            m.d.sync += [self.o_page.valid.eq(1), self.o_page.p.eq(word.data)]
        with m.Elif(self.o_page.ready):
            m.d.sync += self.o_page.valid.eq(0)

        write = kept.write_port(granularity=8)
        with m.Switch(place):
            for number, (name, _) in places.items():
                with m.Case(number):
                    m.d.comb += may.eq(take if name in _FREE else take & ~self.busy)
        m.d.comb += [
            write.addr.eq(Mux(cleared, place, sweep)), write.data.eq(word.data),
            write.en.eq(Mux(cleared, may.replicate(4) & word.strb, -1)),
        ]
        with m.Switch(place):
            for number, (name, half) in places.items():
                if name in seen:
                    value = seen[name][32 * half:32 * (half + 1)]
                    with m.Case(number):
                        for byte in range((len(value) + 7) // 8):
                            with m.If(may & word.strb[byte]):
                                m.d.sync += value[8 * byte:8 * (byte + 1)].eq(word.data[8 * byte:8 * (byte + 1)])
            with m.Case(control):
                m.d.sync += Cat(self.start, self.reset, self.clear_done).eq(Mux(take & word.strb[0], word.data[:3], 0))
            with m.Default():
                m.d.sync += Cat(self.start, self.reset, self.clear_done).eq(0)
        return cleared

    def _read(self, m, kept, places, cleared, counters, others):
        ar, r = self.bus.ar, self.bus.r
        address = Signal(ADDRESS_BITS - 2)
        step = Signal(range(_TOPK_CYCLES + 1))

        # Sources in registers of their own, all zero but the one that is addressed.
        sources = []

        def source(value, addressed):
            sources.append(Signal(32, name=f"source_{len(sources)}", reset_less=True))
            m.d.sync += sources[-1].eq(Mux(addressed, value, 0))

        port = kept.read_port(domain="comb")
        m.d.comb += port.addr.eq(address)
        plain = Signal(32)
        with m.Switch(address):
            with m.Case(*places):
                m.d.comb += plain.eq(port.data)
            for number, value in others.items():
                with m.Case(number):
                    m.d.comb += plain.eq(value)
        source(plain, 1)
        number = (address - _COUNTERS_ADDRESS)[1:]
        in_counters = (address >= _COUNTERS_ADDRESS) & (number < len(counters))
        for first in range(0, len(counters), 4):
            group = Array(counters[first:first + 4])
            here = in_counters & (number[2:] == first // 4)
            chosen = group[number[:2]] if len(group) > 1 else group[0]
            source(chosen[:32], here & ~address[0])
            source(chosen[32:], here & address[0])
        in_topk = address >= _TOPK_ADDRESS
        m.d.sync += [self.topk_index.eq(address[1:_TOPK_LANE_LOG2]), self.topk_lane.eq(address[_TOPK_LANE_LOG2:])]
        source(self.topk_token, in_topk & ~address[0])
        source(self.topk_logit, in_topk & address[0])

        with m.FSM():
            with m.State("ADDRESS"):
                m.d.comb += ar.ready.eq(cleared)
                m.d.sync += [address.eq(ar.p[2:]), step.eq(0)]
                with m.If(ar.valid & cleared):
                    m.next = "LOOK"
            with m.State("LOOK"):
                # topk_index takes a cycle, the candidate two, its source one.
                m.d.sync += step.eq(step + 1)
                with m.If(step == _TOPK_CYCLES):
                    m.d.sync += [r.valid.eq(1), r.p.data.eq(reduce(or_, sources))]
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                with m.If(r.ready):
                    m.d.sync += r.valid.eq(0)
                    m.next = "ADDRESS"
