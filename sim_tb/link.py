"""Streams in cocotb benches: a source, a sink and a monitor of the rules, with random pauses and limited waits.

A stream `i` of a component comes out of the Verilog as `i__payload`, `i__valid` and `i__ready`.  With a payload class
given (`shape=`), values are Python: a dict for a struct, a list for an array, a signed or unsigned int or an enum
member for the rest.  Without one they are the payload's bits as an int.

    import cocotb
    from celosia.gen.golden import ops
    from celosia.sim_tb.link import Monitor, Sink, Source, parameters, reset, rng, start_clock

    @cocotb.test()
    @cocotb.parametrize(stall=[0.0, 0.4])
    async def matches_golden(dut, stall):
        lanes = parameters()["lanes"]
        start_clock(dut)
        source = Source(dut, "i", shape=DotBeat(lanes=lanes), stall=stall)
        sink = Sink(dut, "o", shape=signed(32), stall=stall)
        Monitor(dut, "o")
        await reset(dut)
        beats = [random_beat(rng()) for _ in range(100)]
        sending = cocotb.start_soon(source.send(beats))
        assert await sink.recv(100) == [ops.dot(beat) for beat in beats]
        await sending

and in `tests/hw/test_dot.py`:

    def test_dot():
        simulate(Dot(lanes=8), "celosia.sim_tb.tb_dot", name="dot", parameters={"lanes": 8})

`stall=` is the probability of a pause in a cycle, and `random_numbers=` replaces the generator that decides it.
Values are read at the rising edge, where they are what the registers see, and written after it.
"""

import json
import os
import random
from collections.abc import Callable, Iterable

import cocotb
from amaranth.hdl import Shape, ShapeCastable
from amaranth.lib import data
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

__all__ = ["Monitor", "Sink", "Source", "cycles", "pack", "parameters", "reset", "rng", "start_clock", "unpack"]

_PERIOD_NS = 4          # 250 MHz


def parameters() -> dict:
    """What the test gave to `celosia.sim_tb.run.simulate(..., parameters=...)`."""
    return json.loads(os.environ.get("CELOSIA_BENCH_PARAMETERS", "{}"))


_streams: dict[str, random.Random] = {}


def rng(name: str = "") -> random.Random:
    """Random numbers that depend on the test's seed and on `name` only; the same generator at every call."""
    key = f"{os.environ.get('COCOTB_RANDOM_SEED', '1')} {name}"
    return _streams.setdefault(key, random.Random(key))


def start_clock(dut) -> None:
    """Run `dut.clk` at 250 MHz until the test ends."""
    cocotb.start_soon(Clock(dut.clk, _PERIOD_NS, unit="ns").start())


async def reset(dut, n_cycles: int = 2) -> None:
    """Hold `dut.rst` for some cycles; returns just after a rising edge, with the reset released."""
    if hasattr(dut, "rst"):
        dut.rst.value = 1
    await cycles(dut, n_cycles)
    if hasattr(dut, "rst"):
        dut.rst.value = 0
    await cycles(dut, 1)


async def cycles(dut, n: int) -> None:
    """Wait for `n` rising edges."""
    edge = RisingEdge(dut.clk)
    for _ in range(n):
        await edge


class _End:
    def __init__(self, dut, prefix: str, *, shape=None, stall: float = 0.0,
                 random_numbers: random.Random | None = None):
        if not 0.0 <= stall < 1.0:
            raise ValueError(f"Stall must be a probability below 1, not {stall!r}")
        self.prefix = prefix
        self.stall = stall
        self._pack = _packer(shape) if shape is not None else int
        self._unpack = _unpacker(shape) if shape is not None else int
        self._rng = random_numbers or rng(prefix)
        self._edge = RisingEdge(dut.clk)
        self._payload = getattr(dut, f"{prefix}__payload", None)     # an empty payload has no port
        self._valid = getattr(dut, f"{prefix}__valid")
        self._ready = getattr(dut, f"{prefix}__ready")

    def _pause(self) -> bool:
        return self.stall > 0.0 and self._rng.random() < self.stall

    def _bits(self) -> int:
        return 0 if self._payload is None else int(self._payload.value)


class Source(_End):
    """Feeds the stream `prefix` of the design.  Before each beat it pauses for a geometric number of cycles."""

    def __init__(self, dut, prefix: str, **options):
        super().__init__(dut, prefix, **options)
        self._valid.value = 0
        if self._payload is not None:
            self._payload.value = 0

    async def send(self, values: Iterable, *, timeout_cycles: int = 10_000) -> None:
        """Send `values` in order; returns when the last one is taken, just after that edge.

        Raises `TimeoutError` when one beat waits for `ready` longer than `timeout_cycles`.
        """
        for index, value in enumerate(values):
            while self._pause():
                await self._edge
            if self._payload is not None:
                self._payload.value = self._pack(value)
            self._valid.value = 1
            for _ in range(timeout_cycles):
                await self._edge
                if self._ready.value:
                    break
            else:
                raise TimeoutError(f"{self.prefix}: beat {index} was not taken within {timeout_cycles} cycles")
            self._valid.value = 0


class Sink(_End):
    """Takes from the stream `prefix` of the design.  In each cycle it is ready with probability 1 - stall."""

    def __init__(self, dut, prefix: str, **options):
        super().__init__(dut, prefix, **options)
        self._ready.value = 0

    async def recv(self, n: int, *, timeout_cycles: int = 10_000) -> list:
        """The next `n` values; returns just after the edge that took the last one.

        Raises `TimeoutError` when no beat comes for `timeout_cycles`.
        """
        values = []
        waited = 0
        while len(values) < n:
            ready = not self._pause()
            self._ready.value = ready
            await self._edge
            waited += 1
            if ready and self._valid.value:
                values.append(self._unpack(self._bits()))
                waited = 0
            elif waited >= timeout_cycles:
                raise TimeoutError(f"{self.prefix}: {len(values)} of {n} beats came, then none "
                                   f"for {timeout_cycles} cycles")
        self._ready.value = 0
        return values


class Monitor(_End):
    """Watches the stream `prefix` to the end of the test and fails it when the stream breaks a rule.

    The rules: once valid, a beat stays valid and keeps its payload until it is taken.  `transfers` counts the beats
    taken, `values` holds them (as a sink would give them) when `keep` is set, and `stalled_cycles` counts the cycles
    in which a beat waited; all three are up to date one cycle later (`await cycles(dut, 1)`).
    """

    def __init__(self, dut, prefix: str, *, keep: bool = False, **options):
        super().__init__(dut, prefix, **options)
        self.transfers = 0
        self.stalled_cycles = 0
        self.values = []
        self._keep = keep
        self._rst = getattr(dut, "rst", None)
        cocotb.start_soon(self._watch())

    async def _watch(self) -> None:
        waiting = None                  # the payload of a beat that was offered and not taken
        while True:
            await self._edge
            if self._rst is not None and self._rst.value:
                waiting = None
                continue
            valid = bool(self._valid.value)
            if waiting is not None:
                assert valid, f"{self.prefix}: valid fell before the beat was taken"
                assert self._bits() == waiting, \
                    f"{self.prefix}: the payload changed from {waiting:#x} to {self._bits():#x} before it was taken"
            if not valid:
                continue
            if self._ready.value:
                waiting = None
                self.transfers += 1
                if self._keep:
                    self.values.append(self._unpack(self._bits()))
            elif waiting is None:
                waiting = self._bits()
                self.stalled_cycles += 1
            else:
                self.stalled_cycles += 1


def pack(shape, value) -> int:
    """The bits of `value`, an object as `unpack` returns it; struct fields that are not given are zero.

    Raises `ValueError` for a number that does not fit, and `KeyError` for a field that is not there.
    """
    return _packer(shape)(value)


def unpack(shape, bits: int):
    """The Python value of a payload's bits: dict, list, int or enum member."""
    return _unpacker(shape)(bits)


def _packer(shape) -> Callable[[object], int]:
    layout = _layout(shape)
    if isinstance(layout, data.ArrayLayout):
        element, width, length = _packer(layout.elem_shape), Shape.cast(layout.elem_shape).width, layout.length

        def pack_array(values):
            if len(values) != length:
                raise ValueError(f"The array must have {length} elements, not {len(values)}")
            bits = 0
            for value in reversed(values):
                bits = bits << width | element(value)
            return bits

        return pack_array
    if layout is not None:
        fields = {key: (_packer(field.shape), field.offset) for key, field in layout}

        def pack_struct(values):
            bits = 0
            for key, value in values.items():
                field, offset = fields[key]
                bits |= field(value) << offset
            return bits

        return pack_struct
    if isinstance(shape, ShapeCastable):
        return lambda value: _const_bits(shape, value)
    cast = Shape.cast(shape)
    mask = (1 << cast.width) - 1
    low, high = (-(mask + 1 >> 1), mask >> 1) if cast.signed else (0, mask)

    def pack_number(value):
        if not low <= value <= high:
            raise ValueError(f"The value must lie between {low} and {high}, not {value}")
        return int(value) & mask

    return pack_number


def _unpacker(shape) -> Callable[[int], object]:
    layout = _layout(shape)
    if isinstance(layout, data.ArrayLayout):
        element, width = _unpacker(layout.elem_shape), Shape.cast(layout.elem_shape).width
        mask = (1 << width) - 1
        shifts = [index * width for index in range(layout.length)]
        return lambda bits: [element(bits >> shift & mask) for shift in shifts]
    if layout is not None:
        fields = [(key, _unpacker(field.shape), field.offset, (1 << field.width) - 1) for key, field in layout]
        return lambda bits: {key: field(bits >> offset & mask) for key, field, offset, mask in fields}
    if isinstance(shape, ShapeCastable):
        return shape.from_bits
    cast = Shape.cast(shape)
    if not cast.signed or cast.width == 0:
        return lambda bits: bits
    sign = 1 << cast.width - 1
    return lambda bits: (bits ^ sign) - sign


def _layout(shape) -> data.Layout | None:
    if isinstance(shape, data.Layout):
        return shape
    if isinstance(shape, type) and issubclass(shape, data.Struct | data.Union):
        return data.Layout.cast(shape)
    return None


def _const_bits(shape, value) -> int:
    const = shape.const(value)
    const = const.as_value() if hasattr(const, "as_value") else const
    return const.value & ((1 << const.shape().width) - 1)
