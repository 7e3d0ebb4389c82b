"""Scalar unit: the registers s[0..3] of every token lane, and what a reduction writes into them.

::

    RMS     total --> * imm0 --> + imm1 --> rsqrt --> * s[scale_scalar] --> s[r]

    ABSMAX  c = max(total, 1e-5) --> recip --> * 127 --> s[r]
                                 --> * 1/127 (a cycle later) --> s[r + 1]

One multiplier, one adder, one function unit, all pipelined. About 25 cycles for RMS, 16 for ABSMAX.
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
from .words import N_SCALARS, delay, fit

__all__ = ["ScalarUnit"]

_LEAST_ABSMAX = bits_of(1e-5)
_INT8_TOP = bits_of(127.0)
_INT8_STEP = bits_of(1 / 127)

# Cycles of a row at which results are there: one cycle into the operand registers of the multiplier and of the function
# unit, then latencies.
_FIRST_PRODUCT = 1 + FMul.LATENCY
_RSQRT = _FIRST_PRODUCT + FAdd.LATENCY + 1 + Func.LATENCY
_RMS_END = _RSQRT + 1 + FMul.LATENCY
_RECIP = 1 + Func.LATENCY
_ABSMAX_END = _RECIP + 1 + FMul.LATENCY
assert _ABSMAX_END + 1 < _RMS_END


class ScalarUnit(wiring.Component):
    """Parameters: ``token_lanes``.

    Members
    -------
    reduce, imm0, imm1, reduce_scalar : In
        Fields of the descriptor, constant while it runs.
    total : In(32), token : In(4), start : In(1)
        Sum or largest magnitude of a token's row; the next magnitude at least two cycles later, the next sum after ``done``.
    done : Out(1)
        The registers are written.
    read_scalar, read_token : In(2), In(4); read_data : Out(32)
        First read port, and a second one: ``scale_scalar``, ``scale_token``, ``scale_data``. Combinational. While RMS is at
        work the second one reads for it.
    """

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
        m.submodules.func = func = Func(ops=(FuncOp.RECIP, FuncOp.RSQRT))
        m.d.comb += [mul.en.eq(1), add.en.eq(1), func.en.eq(1)]

        # A row is `held` in its cycle 0 and known later by its flag in `live`; sums come one after the other, magnitudes may
        # come every two cycles, and their two products follow one another.
        rms, absmax = self.reduce == Reduce.RMS, self.reduce == Reduce.ABSMAX
        held, held_token = Signal(32, reset_less=True), Signal(4, reset_less=True)
        live = [Signal(name="live_0")]
        m.d.sync += live[0].eq(self.start)
        with m.If(self.start):
            m.d.sync += [
                held.eq(Mux(absmax & (self.total < _LEAST_ABSMAX), _LEAST_ABSMAX, self.total)), held_token.eq(self.token),
            ]
        for cycle in range(1, _RMS_END + 1):
            live.append(Signal(name=f"live_{cycle}"))
            m.d.sync += live[cycle].eq(live[cycle - 1] & rms if cycle > _ABSMAX_END + 1 else live[cycle - 1])
        token = delay(m, held_token, _ABSMAX_END)
        second_token = delay(m, token, 1)

        m.d.comb += [
            read.addr.eq(address(self.read_scalar, self.read_token)), self.read_data.eq(read.data),
            scale.addr.eq(address(self.scale_scalar, Mux(rms, held_token, self.scale_token))),
            self.scale_data.eq(scale.data),
        ]

        s_func = Signal(32, reset_less=True)
        s_op = Signal(FuncOp, reset_less=True)
        m.d.sync += [
            s_func.eq(Mux(absmax, held, add.o.as_value())),
            s_op.eq(Mux(absmax, FuncOp.RECIP, FuncOp.RSQRT)),
        ]
        s_mul_a, s_mul_b = Signal(32, reset_less=True), Signal(32, reset_less=True)
        first, second = rms & live[0], absmax & live[_RECIP + 1]
        m.d.sync += [
            s_mul_a.eq(Mux(first, held, Mux(second, delay(m, held, _RECIP + 1), func.o.as_value()))),
            s_mul_b.eq(Mux(rms, Mux(first, self.imm0, scale.data), Mux(second, _INT8_STEP, _INT8_TOP))),
        ]
        m.d.comb += [
            mul.a.eq(s_mul_a), mul.b.eq(s_mul_b),
            add.a.eq(mul.o), add.b.eq(self.imm1),
            func.op.eq(s_op), func.i.eq(s_func),
        ]

        end, step_end = Signal(), Signal()
        m.d.comb += [
            step_end.eq(absmax & live[_ABSMAX_END + 1]),
            end.eq(step_end | (rms & live[_RMS_END])),
            write.en.eq(end | (absmax & live[_ABSMAX_END])),
            write.addr.eq(address((self.reduce_scalar + step_end)[:2],
                                  Mux(rms, held_token, Mux(step_end, second_token, token)))),
            write.data.eq(mul.o.as_value()),
        ]
        m.d.sync += self.done.eq(end)
        return m
