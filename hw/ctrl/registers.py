"""The registers of ``celosia.hw.regs`` on AXI4-Lite.

Every access answers OKAY. What is not there reads as zero; what cannot be written is left alone. Registers of kind
"rw", but for IRQ_ENABLE and SCRATCH, keep their values while a program runs. Latency: a write 2 cycles, a read 7.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..isa import ISA_VERSION
from ..mem.axi import AxiLite
from ..mem.links import Windows
from ..regs import ABI_VERSION, ADDRESS_BITS, COUNTERS, ID_MAGIC, REGISTERS, TOPK_OFFSET
from ..stream import Buffer

__all__ = ["Registers", "Strobes"]

_COUNTER_BITS = 48
_WIDE = ("MODEL_BASE", "MODEL_SIZE", "CACHE_BASE", "CACHE_SIZE", "PROGRAM_OFFSET")      # 64 bits each
_FREE = ("IRQ_ENABLE", "SCRATCH")                                                        # may change during a run
_TOPK_CYCLES = 4


class Strobes(data.StructLayout):
    """One bit for every counter but CYCLES, by its name in small letters: the cycles in which it is set are counted."""
    def __init__(self):
        super().__init__({counter.name.lower(): 1 for counter in COUNTERS if counter.name != "CYCLES"})


class Registers(wiring.Component):
    """
    Parameters
    ----------
    digest : ``AccelConfig.digest`` as an integer, read as CONFIG

    Members
    -------
    bus : AxiLite (slave)
    irq : level: IRQ_ENABLE and (done or error)
    busy, done, error, draining, error_code, error_index, running, clear_counters : from RunControl
    start, reset, clear_done : strobes to RunControl
    n_tokens, first_position, program_count, watchdog_cycles : register values
    windows, program_offset, tokens : register values for readers, writer, fetch and dispatch
    strobes : Strobes
    topk_count : candidates of the last run
    topk_index : candidate whose ``topk_token`` and ``topk_logit`` are wanted, at most 2 cycles later

    Paths: none.
    """

    def __init__(self, *, digest):
        if not isinstance(digest, int) or not 0 <= digest < 1 << 32:
            raise ValueError(f"digest must be an integer of 32 bits, not {digest!r}")
        self._digest = digest
        super().__init__({
            "bus": In(AxiLite(addr_bits=ADDRESS_BITS)), "irq": Out(1),
            "busy": In(1), "done": In(1), "error": In(1), "draining": In(1),
            "error_code": In(4), "error_index": In(16), "running": In(1), "clear_counters": In(1),
            "start": Out(1), "reset": Out(1), "clear_done": Out(1),
            "n_tokens": Out(32), "first_position": Out(32), "program_count": Out(32), "watchdog_cycles": Out(32),
            "windows": Out(Windows), "program_offset": Out(40), "tokens": Out(data.ArrayLayout(32, 16)),
            "strobes": In(Strobes()),
            "topk_count": In(16), "topk_index": Out(9), "topk_token": In(32), "topk_logit": In(32),
        })

    def elaborate(self, platform):
        m = Module()
        kept = {}                           # byte offset -> 32-bit signal
        for register in REGISTERS:
            if register.access == "rw":
                kept[register.offset] = Signal(32, name=register.name)
                if register.name in _WIDE:
                    kept[register.offset + 4] = Signal(32, name=f"{register.name}_HIGH")
        where = {register.name: register.offset for register in REGISTERS}
        words = {name: Cat(kept[where[name]], kept[where[name] + 4]) for name in _WIDE}
        words |= {r.name: kept[r.offset] for r in REGISTERS if r.offset in kept and r.name not in _WIDE}
        m.d.comb += [
            getattr(self.windows, name.lower()).eq(words[name]) for name in _WIDE[:4]
        ] + [
            self.program_offset.eq(words["PROGRAM_OFFSET"]),
            self.n_tokens.eq(words["N_TOKENS"]), self.first_position.eq(words["FIRST_POSITION"]),
            self.program_count.eq(words["PROGRAM_COUNT"]), self.watchdog_cycles.eq(words["WATCHDOG_CYCLES"]),
            Cat(self.tokens).eq(Cat(words[f"TOKEN{t}"] for t in range(16))),
        ]
        m.d.sync += self.irq.eq(words["IRQ_ENABLE"][0] & (self.done | self.error))

        counters = self._counters(m)
        free = [where[name] for name in _FREE]
        self._write(m, kept, free, where["CONTROL"])

        status = Cat(self.busy, self.done, self.error, self.draining)
        readable = {
            where["ID"]: ID_MAGIC, where["VERSION"]: ISA_VERSION | ABI_VERSION << 16, where["CONFIG"]: self._digest,
            where["STATUS"]: status, where["ERROR_CODE"]: self.error_code, where["ERROR_INDEX"]: self.error_index,
            where["TOPK_COUNT"]: self.topk_count, **kept,
        }
        for counter in COUNTERS:
            readable[counter.offset] = counters[counter.name][:32]
            readable[counter.offset + 4] = counters[counter.name][32:]
        self._read(m, readable)
        return m

    def _counters(self, m):
        strobes = Signal(Strobes())
        running, clear = Signal(), Signal()
        m.d.sync += [strobes.eq(self.strobes), running.eq(self.running), clear.eq(self.clear_counters)]
        counters = {}
        for counter in COUNTERS:
            count = counters[counter.name] = Signal(_COUNTER_BITS, name=f"count_{counter.name}")
            strobe = 1 if counter.name == "CYCLES" else strobes[counter.name.lower()]
            with m.If(clear):
                m.d.sync += count.eq(0)
            with m.Elif(running & strobe):
                m.d.sync += count.eq(count + 1)
        return counters

    def _write(self, m, kept, free, control):
        m.submodules.aw = aw = Buffer(ADDRESS_BITS)
        m.submodules.w = w = Buffer(self.bus.w.p.shape())
        take = Signal()
        for buffer, channel in (aw, self.bus.aw), (w, self.bus.w):
            m.d.comb += [buffer.i.p.eq(channel.p), buffer.i.valid.eq(channel.valid), channel.ready.eq(buffer.i.ready),
                         buffer.o.ready.eq(take)]
        b = self.bus.b
        m.d.comb += take.eq(aw.o.valid & w.o.valid & (~b.valid | b.ready))
        with m.If(~b.valid | b.ready):
            m.d.sync += b.valid.eq(take)

        word, strb, address = w.o.p.data, w.o.p.strb, aw.o.p[2:]
        mask = Cat(bit.replicate(8) for bit in strb)
        m.d.sync += Cat(self.start, self.reset, self.clear_done).eq(0)
        with m.If(take):
            with m.Switch(address):
                with m.Case(control >> 2):
                    with m.If(strb[0]):
                        m.d.sync += Cat(self.start, self.reset, self.clear_done).eq(word[:3])
                for offset, register in kept.items():
                    with m.Case(offset >> 2):
                        new = (register & ~mask) | (word & mask)
                        m.d.sync += register.eq(new if offset in free else Mux(self.busy, register, new))

    def _read(self, m, readable):
        m.submodules.ar = ar = Buffer(ADDRESS_BITS)
        m.d.comb += [ar.i.p.eq(self.bus.ar.p), ar.i.valid.eq(self.bus.ar.valid), self.bus.ar.ready.eq(ar.i.ready)]
        address = Signal(ADDRESS_BITS - 2)
        in_topk = Signal()
        step = Signal(range(_TOPK_CYCLES + 1))
        value = Signal(32)
        r = self.bus.r
        m.d.comb += in_topk.eq(address >= TOPK_OFFSET >> 2)
        m.d.sync += self.topk_index.eq((address - (TOPK_OFFSET >> 2)) >> 1)
        m.d.sync += value.eq(Mux(in_topk, Mux(address[0], self.topk_logit, self.topk_token), 0))
        with m.Switch(address):
            for offset, source in readable.items():
                with m.Case(offset >> 2):
                    m.d.sync += value.eq(source)

        with m.FSM():
            with m.State("ADDRESS"):
                m.d.comb += ar.o.ready.eq(1)
                m.d.sync += [address.eq(ar.o.p[2:]), step.eq(0)]
                with m.If(ar.o.valid):
                    m.next = "LOOK"
            with m.State("LOOK"):
                # topk_index takes a cycle, the candidate two, `value` one.
                m.d.sync += step.eq(step + 1)
                with m.If(step == _TOPK_CYCLES):
                    m.d.sync += [r.valid.eq(1), r.p.data.eq(value)]
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                with m.If(r.ready):
                    m.d.sync += r.valid.eq(0)
                    m.next = "ADDRESS"
