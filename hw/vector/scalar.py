"""Scalar unit: the registers s[0..3] of every token lane, and what a reduction writes into them.

::

    RMS     total --> * imm0 --> + imm1 --> rsqrt --> * s[scale_scalar] --> s[r]

    ABSMAX  c = max(total, 1e-5) --> * 1/127 --> s[r + 1]
                                 --> recip --> * 127 --> s[r]

One multiplier, one adder, one function unit; a counter says when which result is there. About 30 cycles.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ..arith.fadd import FAdd
from ..arith.fmul import FMul
from ..arith.func import Func
from ..formats import bits_of
from ..isa import Reduce
from ..tables import FuncOp
from .words import N_SCALARS, fit

__all__ = ["ScalarUnit"]

_LEAST_ABSMAX = bits_of(1e-5)
_INT8_TOP = bits_of(127.0)
_INT8_STEP = bits_of(1 / 127)

# Cycles after `start` at which results are there: one cycle into the multiplier's operand registers, then latencies.
_FIRST_PRODUCT = 1 + FMul.LATENCY
_RSQRT = _FIRST_PRODUCT + FAdd.LATENCY + Func.LATENCY
_RMS_END = _RSQRT + 1 + FMul.LATENCY
_RECIP = Func.LATENCY
_ABSMAX_END = _RECIP + 1 + FMul.LATENCY
assert _FIRST_PRODUCT < _ABSMAX_END <= _RMS_END and _RECIP > 0


class ScalarUnit(wiring.Component):
    """Parameters: ``token_lanes``.

    Members
    -------
    reduce, imm0, imm1, reduce_scalar : In
        Fields of the descriptor, constant while it runs.
    total : In(32), token : In(4), start : In(1)
        Sum or largest magnitude of a token's row; the next one at least ABSMAX_CYCLES later, or after ``done``.
    done : Out(1)
        The registers are written.
    read_scalar, read_token : In(2), In(4); read_data : Out(32)
        First read port, and a second one: ``scale_scalar``, ``scale_token``, ``scale_data``. Combinational. While RMS is at
        work the second one reads for it.
    """

    ABSMAX_CYCLES = _ABSMAX_END + 2

    def __init__(self, *, token_lanes):
        if not isinstance(token_lanes, int) or not 1 <= token_lanes <= 16 or token_lanes & (token_lanes - 1):
            raise ValueError(f"token_lanes must be a power of two of at most 16, not {token_lanes!r}")
        self._token_lanes = token_lanes
        super().__init__({
            "reduce": In(Reduce), "imm0": In(32), "imm1": In(32), "reduce_scalar": In(2), "token": In(4),
            "total": In(32), "start": In(1), "done": Out(1),
            "read_scalar": In(2), "read_token": In(4), "read_data": Out(32),
            "scale_scalar": In(2), "scale_token": In(4), "scale_data": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.registers = registers = memory.Memory(shape=32, depth=N_SCALARS * self._token_lanes, init=[],
                                                           attrs={"ram_style": "distributed"})
        write = registers.write_port()
        read, scale = registers.read_port(domain="comb"), registers.read_port(domain="comb")

        def address(scalar, token):
            return Cat(scalar, fit(token, self._token_lanes))

        m.submodules.mul = mul = FMul()
        m.submodules.add = add = FAdd()
        m.submodules.func = func = Func()
        m.d.comb += [mul.en.eq(1), add.en.eq(1), func.en.eq(1)]

        # `at` counts the cycles since start; the total (or c) is held.
        rms = self.reduce == Reduce.RMS
        absmax = self.reduce == Reduce.ABSMAX
        held, held_token = Signal(32, reset_less=True), Signal(4, reset_less=True)
        busy, at = Signal(), Signal(range(_RMS_END + 1))
        with m.If(self.start):
            m.d.sync += [
                held.eq(Mux(absmax & (self.total < _LEAST_ABSMAX), _LEAST_ABSMAX, self.total)),
                held_token.eq(self.token), busy.eq(1), at.eq(0),
            ]
        with m.Elif(busy):
            m.d.sync += at.eq(at + 1)

        m.d.comb += [
            read.addr.eq(address(self.read_scalar, self.read_token)), self.read_data.eq(read.data),
            scale.addr.eq(address(self.scale_scalar, Mux(rms, held_token, self.scale_token))),
            self.scale_data.eq(scale.data),
        ]

        s_mul_a, s_mul_b = Signal(32, reset_less=True), Signal(32, reset_less=True)
        second = at >= Mux(absmax, _RECIP, _RSQRT)
        m.d.sync += [
            s_mul_a.eq(Mux(second, func.o.as_value(), held)),
            s_mul_b.eq(Mux(absmax, Mux(second, _INT8_TOP, _INT8_STEP), Mux(second, scale.data, self.imm0))),
        ]
        m.d.comb += [
            mul.a.eq(s_mul_a), mul.b.eq(s_mul_b),
            add.a.eq(mul.o), add.b.eq(self.imm1),
            func.op.eq(Mux(absmax, FuncOp.RECIP, FuncOp.RSQRT)),
            func.i.eq(Mux(absmax, held, add.o.as_value())),
        ]

        end, step_end = Signal(), Signal()
        m.d.comb += [
            end.eq(busy & (at == Mux(absmax, _ABSMAX_END, _RMS_END))),
            step_end.eq(busy & absmax & (at == _FIRST_PRODUCT)),
            write.en.eq(end | step_end),
            write.addr.eq(address((self.reduce_scalar + step_end)[:2], held_token)),
            write.data.eq(mul.o.as_value()),
        ]
        m.d.sync += self.done.eq(end)
        with m.If(end):
            m.d.sync += busy.eq(0)
        return m
