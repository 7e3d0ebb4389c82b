"""The instruction set: 64-byte descriptors, decoded by hardware and packed by software from the same structures.

Every descriptor is a :class:`Header` of 96 bits and a body of 416 bits that depends on the opcode. Addresses are byte
offsets into a window that the host opened: LOAD and MATMUL read the *model* window, ATTEND and the V sink use the *cache*
window. Sizes counted in "words" are vector words (L elements) unless the comment says otherwise.

Order and dependences
---------------------
Descriptors are issued in program order, each to the queue of its unit; a unit runs its queue in order. Memory reads are
issued at decode, before anything is waited for, and their data wait in the port queues: that is the run-ahead. The body
itself starts when, for every unit u, the number of descriptors that u has completed since the program began is at least
``wait_u``. Waits may only name earlier descriptors. The program ends at END, which completes when all units are idle and every
write has been answered. An END with ``above`` ends only programs of at most that many tokens; for others it is not there.

Sequences
---------
A run works on ``n_tokens`` token lanes. Each has a position and the slot of a sequence; the lanes of one sequence lie side by
side and their positions follow one another (a *segment*: ``celosia.hw.links.Launch``). So one pass over the weights serves a
chunk of a prompt, a draft that is verified, several conversations, or a mixture.

The cache is a pool of pages of G = ``page_positions`` positions. The table of a slot says which page holds which G positions of
its sequence, so position j of a sequence lies at row (page * G + j mod G) div P of port j mod P in the region of every layer and
KV head. A page that is written must belong to the slot (``celosia.hw.ctrl.pages``).

The shortlist
-------------
The sink TOPK keeps the best candidates of every token lane. The first descriptor that asks for one by its rank (*gathers*: LOAD
with index CANDIDATE, MATMUL with ``gather``) ends the shortlist: it waits until everything before it is complete, then the
numbers of the candidates are put aside, best first, and there are no candidates any more. Descriptors that gather read by the
numbers of their ``lane`` until the next VECTOR with sink TOPK; a lane that the run does not have stands for its last one. The
sink RESCORE makes them candidates again, each with a new logit. So no stream may be open when the shortlist ends, and no rank may
be beyond it.
"""

from amaranth.hdl import unsigned
from amaranth.lib import data, enum

__all__ = ["ISA_VERSION", "DESCRIPTOR_BYTES", "Opcode", "Index", "LANE_INDEXES", "Tokens", "Source", "Mul1", "Mul2", "Mul3", "Add",
           "Reduce", "Sink", "Header", "End", "Load", "Matmul", "Vector", "Attend", "BODIES", "pack", "unpack"]

ISA_VERSION = 5
DESCRIPTOR_BYTES = 64


class Opcode(enum.Enum, shape=unsigned(8)):
    END = 0
    LOAD = 1     # memory -> parameter scratch P
    MATMUL = 2   # weights from memory x activations -> drain stream
    VECTOR = 3   # one pass of the vector unit
    ATTEND = 4   # one KV head: cached positions from memory, the run's own from fabric -> attention stream


class Index(enum.Enum, shape=unsigned(3)):
    """What selects the row that LOAD reads."""
    NONE = 0      # one row, for all tokens
    TOKEN = 1     # a row a token lane t: token_id[t]
    POSITION = 2  # a row a token lane t: position[t]
    CANDIDATE = 3  # one row, for all tokens: the number of candidate `rank` of token lane `lane`, divided by max(R, L)
    REBASED = 4   # a row a token lane t: min(position[t], `limit`)


LANE_INDEXES = (Index.TOKEN, Index.POSITION, Index.REBASED)     # those by which every token lane has a row of its own


class Tokens(enum.Enum, shape=unsigned(2)):
    """Which token lanes a descriptor works on."""
    ALL = 0   # lanes 0 .. n_tokens - 1
    LAST = 1  # lane n_tokens - 1 alone (as activation lane 0 of the matmul engine)
    LANE = 2  # lane `lane` alone (as activation lane 0 of the matmul engine); it must be below n_tokens


class Source(enum.Enum, shape=unsigned(2)):
    """Where the stream of elements ``a`` comes from."""
    X = 0       # scratch X at x_base + t * x_stride + i
    P = 1       # scratch P at p_base + t * p_stride + i
    MATMUL = 2  # drain stream of the matmul engine, int32 made binary32
    ATTEND = 3  # attention stream, int32 made binary32


class Mul1(enum.Enum, shape=unsigned(3)):
    """m1 = a * this."""
    ONE = 0
    SCALAR = 1  # scalar register mul1_scalar of the token
    IMM = 2     # imm0
    STREAM = 3  # scale that travels with the attention stream
    P = 4       # P word (RoPE: cosine/sine word, see Add.ROPE)


class Mul2(enum.Enum, shape=unsigned(2)):
    """m2 = m1 * this."""
    ONE = 0
    P = 1       # P word
    IMM = 2     # imm1
    ROPE = 3    # m2 is the cross product of the pair instead (see Add.ROPE)


class Mul3(enum.Enum, shape=unsigned(3)):
    """m3 = m2 * this."""
    ONE = 0
    SELF = 1     # m2                (squares)
    RELU = 2     # max(m2, +0)       (squared ReLU)
    SIGMOID = 3  # sigmoid(m2)       (SiLU)
    X = 4        # X word at x_base + t * x_stride + i


class Add(enum.Enum, shape=unsigned(2)):
    """y = m3 + this."""
    NONE = 0
    X = 1     # X word (residual)
    ROPE = 2  # lanes (2j, 2j+1) of a word are a pair; P lanes (2j, 2j+1) hold (cos_j, sin_j):
              # y[2j] = a[2j]*cos_j + (-(a[2j+1]*sin_j)); y[2j+1] = a[2j+1]*cos_j + a[2j]*sin_j


class Reduce(enum.Enum, shape=unsigned(2)):
    """Reduction of y over the row of a token, into scalar registers (source must be X or P).

    Every token keeps a magnitude k, zero when a program begins, so that a row can be searched in parts.
    """
    NONE = 0
    RMS = 1     # s[r] = s[scale_scalar] * rsqrt(sum_slots(y) * imm0 + imm1)
    ABSMAX = 2  # c = max(k, max|y|, 1e-5); s[r] = 127 * recip(c); s[r + 1] = c * (1/127); k = 0
    KEEP = 3    # k = max(k, max|y|)


class Sink(enum.Enum, shape=unsigned(3)):
    """Where y goes. Sinks other than X, TOPK and RESCORE take q = clamp(round_half_even(y), -128, 127)."""
    NONE = 0
    X = 1     # scratch X at d_base + t * d_stride + i
    ACT = 2   # activation bank `bank` of the matmul engine, word d_base + i of lane t (LAST: of lane 0)
    Q = 3     # query of token t, head `head` of the group, bank `bank`; its factor is s[scale_scalar] * imm1
    K = 4     # key of token t; its scale is s[scale_scalar]. In four bits: q must be within -8 .. 7
    V = 5     # value of token t, the same; completes the record of the position
    TOPK = 6  # candidates of token t: word i is elements (d_base + i) * L ..; imm0 is the number of valid elements, an integer
    RESCORE = 7  # word i is elements (d_base + i) * L ..; element k max(R, L) + (n mod max(R, L)) is the logit of candidate k
                 # of token t, where n is its number; the other elements do not count


class Header(data.Struct):
    opcode: Opcode  # selects the body
    reserved: unsigned(24)
    wait_load: unsigned(16)  # LOADs that must have been completed
    wait_matmul: unsigned(16)  # MATMULs that must have been completed
    wait_vector: unsigned(16)  # VECTORs that must have been completed
    wait_attend: unsigned(16)  # ATTENDs that must have been completed


class End(data.Struct):
    """The end of the program, or with ``above`` only of one that runs on at most ``above`` tokens."""
    above: unsigned(5)  # 0: the end of every program
    reserved: unsigned(416 - 5)


class Load(data.Struct):
    """Rows of ``n_words`` words from memory to P.

    Word i of row r is read as 4L/(n_ports port_bytes) beats; port p reads its share of the row, contiguous, from
    ``addr + p * port_stride + index_r * index_stride``, and the row goes to P at d_base + r * d_stride.
    """
    addr: unsigned(40)  # bytes into the model window
    port_stride: unsigned(32)  # bytes from port to port
    index_stride: unsigned(32)  # bytes from row to row of the table
    index: Index  # which row a lane takes
    n_words: unsigned(16)  # of a row
    d_base: unsigned(16)  # word of P
    d_stride: unsigned(16)  # words of P from lane to lane
    rank: unsigned(8)  # number of the candidate, with index CANDIDATE
    lane: unsigned(4)  # token lane whose candidate it is
    limit: unsigned(16)  # last row that index REBASED selects
    reserved: unsigned(416 - 183)


class Matmul(data.Struct):
    """Integer matrix product of n_row_groups * R rows with activations of n_col_blocks * C columns.

    Port p reads n_row_groups * n_col_blocks * planes beats, contiguous, from ``addr + p * port_stride``, in the order:
    row block, plane (most significant first), column block, row group of the block. With several planes
    acc = sum_k 3**(planes - 1 - k) * plane_k.

    With ``gather`` the matrix is one of many that follow one another on every port, of max(R, L) rows each: the one read is that
    of the number of candidate ``rank`` of token lane ``lane``, divided by max(R, L), and ``n_row_groups`` is max(R, L) / R.
    """
    addr: unsigned(40)  # bytes into the model window
    port_stride: unsigned(32)  # bytes from port to port
    n_row_groups: unsigned(16)  # of R rows
    n_col_blocks: unsigned(16)  # of C columns
    planes: unsigned(4)  # digit planes, 1 .. 5
    bank: unsigned(1)  # activation bank
    tokens: Tokens  # lanes at work
    gather: unsigned(1)  # the matrix of a candidate
    rank: unsigned(8)  # number of the candidate, with gather
    lane: unsigned(4)  # token lane of LANE, and of the candidate
    reserved: unsigned(416 - 124)


class Vector(data.Struct):
    """One pass over n_words words of every token: y = ((a * mul1) * mul2) * mul3 + add, reduced and/or sent to a sink.

    Loop nest (outermost first): blocks of block_words words, tokens, words of the block. Without a MATMUL source,
    block_words = n_words. ``addr``, ``port_stride`` (cache window) are used by the V sink alone.
    """
    addr: unsigned(40)  # bytes into the cache window
    port_stride: unsigned(32)  # bytes from port to port
    n_words: unsigned(16)  # of a row
    block_words: unsigned(16)  # of a row, before the next token
    x_base: unsigned(16)  # word of X
    x_stride: unsigned(16)  # words of X from token to token
    p_base: unsigned(16)  # word of P
    p_stride: unsigned(16)  # words of P from token to token
    d_base: unsigned(16)  # word of the sink
    d_stride: unsigned(16)  # words of X from token to token
    imm0: unsigned(32)  # binary32 bits
    imm1: unsigned(32)  # binary32 bits
    source: Source  # a
    mul1: Mul1  # first factor
    mul1_scalar: unsigned(2)  # scalar register of SCALAR
    mul2: Mul2  # second factor
    mul3: Mul3  # third factor
    add: Add  # summand
    reduce: Reduce  # over the row
    reduce_scalar: unsigned(2)  # its scalar register, the first of two for ABSMAX
    sink: Sink  # where y goes
    scale_scalar: unsigned(2)  # scalar register of the sinks Q, K, V
    bank: unsigned(1)  # of the sinks ACT and Q
    head: unsigned(6)  # of the group, for sink Q
    tokens: Tokens  # lanes at work
    lane: unsigned(4)  # token lane of LANE
    int4: unsigned(2)  # of the sink V: the record keeps four bits an element, bit 0 of K, bit 1 of V
    reserved: unsigned(416 - 302)


class Attend(data.Struct):
    """Attention of all tokens for the query heads of one KV head (group * n_tokens query vectors), segment after segment.

    The record of a position is K (head_words beats; in four bits two elements a byte, the first in the low bits, ceil(head_words /
    2) beats), the scales (K's then V's binary32 bits, little endian, padded to whole beats), V (as K). Position j of a sequence,
    in page n, lies at ``addr + (j mod P) * port_stride + ((n G + j mod G) // P) * record_bytes``. Query vector q = t * group +
    head of the group.

    A token at position i sees positions j <= i of its sequence, with ``bidirectional`` all of its own segment too; with ``window``
    only those with j > i - window or j < sinks. What no token of a segment sees is not read, but for ends of P positions.

    The logarithm of a weight, in base 2, is the product of query and key times the query's factor and the key's scale. With ``cap``
    this number is u, and the logarithm is cap * tanh(u): the compiler divides the query's factor by cap.

    With ``rebased`` every query vector is there twice: in ``bank``, and in the other bank as it would be at the position
    min(i, window + sinks - 1), which a token has where positions count within what is kept. A token that sees a position only
    as a sink (j <= i - window) multiplies it with the query of the other bank, and every other position with that of ``bank``.
    """
    addr: unsigned(40)  # bytes into the cache window
    port_stride: unsigned(32)  # bytes from port to port
    group: unsigned(6)  # query heads
    head_words: unsigned(6)  # beats of port_bytes elements
    bank: unsigned(1)  # of the queries
    int4: unsigned(2)  # records hold four bits an element, bit 0 of K, bit 1 of V
    bidirectional: unsigned(1)  # tokens of a segment see one another
    window: unsigned(16)  # positions that a token sees, itself included; 0: all
    sinks: unsigned(16)  # first positions of a sequence that every token sees, with a window
    cap: unsigned(30)  # soft-cap, in units of 2**-16; 0: none
    rebased: unsigned(1)  # sinks before the window meet the queries of the other bank
    reserved: unsigned(416 - 151)


BODIES = {Opcode.END: End, Opcode.LOAD: Load, Opcode.MATMUL: Matmul, Opcode.VECTOR: Vector, Opcode.ATTEND: Attend}


def pack(opcode, waits=(0, 0, 0, 0), **fields):
    """One descriptor as 64 bytes, little endian. ``waits`` counts (load, matmul, vector, attend)."""
    header = Header.const({"opcode": opcode, "wait_load": waits[0], "wait_matmul": waits[1],
                           "wait_vector": waits[2], "wait_attend": waits[3]})
    bits = header.as_bits() | BODIES[opcode].const(fields).as_bits() << Header.as_shape().size
    return bits.to_bytes(DESCRIPTOR_BYTES, "little")


def unpack(raw):
    """Inverse of :func:`pack`: (opcode, waits, fields). Raises ValueError on an unknown opcode or wrong length."""
    if len(raw) != DESCRIPTOR_BYTES:
        raise ValueError(f"A descriptor must be {DESCRIPTOR_BYTES} bytes, not {len(raw)}")
    bits = int.from_bytes(raw, "little")
    header_bits = Header.as_shape().size
    if bits & 0xFF not in {op.value for op in Opcode}:
        raise ValueError(f"The opcode must be one of {[op.name for op in Opcode]}, not {bits & 0xFF}")
    header = Header.from_bits(bits & ((1 << header_bits) - 1))
    opcode = header.opcode
    waits = (header.wait_load, header.wait_matmul, header.wait_vector, header.wait_attend)
    body = BODIES[opcode]
    view = body.from_bits(bits >> header_bits)
    return opcode, waits, {name: getattr(view, name) for name, _ in body.as_shape() if name != "reserved"}
