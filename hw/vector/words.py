"""Words and times inside the vector unit.

A word of L elements moves one stage a cycle and never stops; these are the stages at which things happen to it. The
fields of the descriptor stand still while it runs, so only ``WordControl`` travels with the word.

::

    stage   1        3          4      7    8      11      23    24     27   28      33     35
            issue -> scratch -> M1 --> m1 > M2 --> m2 --> sig. > M3 --> m3 > ADD --> y ---> int8
                     words      regs        regs          Func   regs        regs    sink
"""

from amaranth.hdl import Signal, unsigned
from amaranth.lib import data

from ..arith.convert import ToInt
from ..arith.fadd import FAdd
from ..arith.fmul import FMul
from ..arith.func import Func

__all__ = ["S_ISSUE", "S_WORDS", "S_MUL1", "S_M1", "S_MUL2", "S_M2", "S_SIGMOID", "S_MUL3", "S_M3", "S_ADD", "S_Y",
           "S_INT", "SIGMOID_LANES", "SUM_SLOTS", "N_SCALARS", "WordControl", "delay", "fit"]

SIGMOID_LANES = 4                   # lanes that share a sigmoid, and cycles from one word with a sigmoid to the next

S_ISSUE = 1                         # addresses, word of the integer stream
S_WORDS = S_ISSUE + 2               # words of X, P and the converted stream
S_MUL1 = S_WORDS + 1                # operands of the first multiplier
S_M1 = S_MUL1 + FMul.LATENCY
S_MUL2 = S_M1 + 1
S_M2 = S_MUL2 + FMul.LATENCY
S_SIGMOID = S_M2 + 1 + Func.LATENCY + SIGMOID_LANES - 1
S_MUL3 = S_SIGMOID + 1
S_M3 = S_MUL3 + FMul.LATENCY
S_ADD = S_M3 + 1
S_Y = S_ADD + FAdd.LATENCY
S_INT = S_Y + ToInt.LATENCY

SUM_SLOTS = 128                     # partial sums of a reduction
N_SCALARS = 4                       # scalar registers of a token


class WordControl(data.Struct):
    """What travels with a word."""
    token: unsigned(4)      # lane whose scalar registers it uses
    where: unsigned(16)     # address in X, or number of the word for the other sinks
    last: unsigned(1)       # last word of its row


def delay(m, value, cycles, *, reset=False):
    """``value`` some cycles later; ``reset`` for flags, which a reset of the unit must clear."""
    for _ in range(cycles):
        late = Signal(value.shape(), reset_less=not reset, name="delayed")
        m.d.sync += late.eq(value)
        value = late
    return value


def fit(address, depth):
    """The bits of an address that a memory of ``depth`` words has."""
    return address[:(depth - 1).bit_length()]
