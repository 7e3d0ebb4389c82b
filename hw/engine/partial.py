"""Partial sums of one token lane, and the finished sums that wait to leave.

    acc = {0, 1 or 3} * old + dot

                  ┌───────────────┐ old    ┌───┐   ┌───┐ acc
    read_addr ───►│ partial sums  ├──►r──►│x013├──►│ + ├──┬─► back to the partial sums
                  │ a row block   │        └───┘   └─▲─┘  │
                  └───────▲───────┘              dot ┘    │ with the last column block of the last plane:
                          └───────────────────────────────┤
                  ┌───────────────┐                       │
                  │ finished sums │◄──────────────────────┘
    drain_addr ──►│ two row blocks├──►r──► drained
                  └───────────────┘

Finished sums go to an array of their own, so that they leave while the partial sums of the next rows are under way:
neither array ever has more than one reader. Rate: a row group a cycle; the same row group again after ``TURNAROUND``
cycles.
"""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["PartialSums"]

_BLOCK_DEPTH = 128      # from this depth on an array is asked to be block RAM


class PartialSums(wiring.Component):
    """Accumulators of R rows of one token lane.

    Parameters
    ----------
    engine_rows, dot_bits, accumulator_bits : int
        Rows of a beat; width of a dot product; width of a sum, which wraps.
    max_row_groups : int
        Row groups of a row block.

    Members: in the cycle c of ``dots``: ``read_*`` was given in c - 3, ``keep`` in c - 2, ``triple`` in c - 1,
    ``write_en``, ``write_group``, ``finish_en`` and ``finish_addr`` are given in c + 1. ``drain_take``
    makes ``drained`` the sums of the last ``drain_en``, if ``drain_own`` is set, else zero.
    """

    READ_LEAD = 3
    KEEP_LEAD = 2
    TRIPLE_LEAD = 1
    WRITE_LAG = 1
    TURNAROUND = READ_LEAD + WRITE_LAG + 1

    def __init__(self, *, engine_rows, dot_bits, accumulator_bits, max_row_groups):
        if accumulator_bits < dot_bits:
            raise ValueError(f"Accumulators must have at least {dot_bits} bits, not {accumulator_bits}")
        self._rows, self._bits, self._groups = engine_rows, accumulator_bits, max_row_groups
        finished = range(2 * max_row_groups)
        super().__init__({
            "dots": In(signed(dot_bits)).array(engine_rows),
            "read_en": In(1), "read_group": In(range(max_row_groups)), "keep": In(1), "triple": In(1),
            "write_en": In(1), "write_group": In(range(max_row_groups)),
            "finish_en": In(1), "finish_addr": In(finished), "drain_en": In(1), "drain_addr": In(finished),
            "drain_take": In(1), "drain_own": In(1), "drained": Out(engine_rows * accumulator_bits),
        })

    def elaborate(self, platform):
        m = Module()
        width = self._rows * self._bits
        m.submodules.partial = partial = self._memory(width, self._groups)
        m.submodules.finished = finished = self._memory(width, 2 * self._groups)
        read, write = partial.read_port(), partial.write_port()
        drain, finish = finished.read_port(), finished.write_port()

        old, drained = Signal(width, reset_less=True), Signal(width, reset_less=True)
        m.d.sync += old.eq(read.data)
        with m.If(~self.keep):          # the registers' own reset
            m.d.sync += old.eq(0)
        accs = []
        for row in range(self._rows):
            before = old[row * self._bits:(row + 1) * self._bits]
            base = Signal(self._bits, name=f"base{row}", reset_less=True)
            total = Signal(self._bits, name=f"total{row}", attrs={"use_dsp": "yes"})
            acc = Signal(self._bits, name=f"acc{row}", reset_less=True)
            m.d.comb += total.eq(base + self.dots[row])
            m.d.sync += [
                base.eq(before + ((before << 1) & self.triple.replicate(self._bits))),
                acc.eq(total),
            ]
            accs.append(acc)
        m.d.comb += [
            read.en.eq(self.read_en), read.addr.eq(self.read_group),
            write.en.eq(self.write_en), write.addr.eq(self.write_group), write.data.eq(Cat(*accs)),
            finish.en.eq(self.finish_en), finish.addr.eq(self.finish_addr), finish.data.eq(Cat(*accs)),
            drain.en.eq(self.drain_en), drain.addr.eq(self.drain_addr), self.drained.eq(drained),
        ]
        with m.If(self.drain_take):
            m.d.sync += drained.eq(drain.data)
            with m.If(~self.drain_own):         # the registers' own reset
                m.d.sync += drained.eq(0)
        return m

    def _memory(self, width, depth):
        style = "block" if depth >= _BLOCK_DEPTH else "distributed"
        return memory.Memory(shape=width, depth=depth, init=[], attrs={"ram_style": style})
