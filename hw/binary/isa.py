"""Descriptors of the binary machine: 64 bytes, packed and decoded as those of ``celosia.hw.isa``, with the same header.

A run works on chunks of M tokens, one a lane. The program walks over the chunks; a descriptor names the chunk it works on
where that matters. ACT, V, X and P are the memories of ``celosia.hw.binary.config``. Order and waits are those of
``celosia.hw.isa``: a body starts when unit u has completed at least ``wait_u`` descriptors; memory reads are issued at decode.
"""

from amaranth.hdl import signed, unsigned
from amaranth.lib import data, enum

from ..isa import DESCRIPTOR_BYTES

__all__ = ["BINARY_ISA_VERSION", "X_BITS", "X_FRAC_BITS", "NORM_FRAC_BITS", "NORM_SHIFTS", "ROW_BITS", "Opcode", "Target",
           "Operand", "Kind", "Post", "Into", "SHIFTS", "Header", "End", "Load", "Matmul", "Norm", "AffineParam", "ThresholdParam",
           "TableParam", "BODIES", "pack", "unpack"]

BINARY_ISA_VERSION = 0x101      # 0x100: of the binary machine
X_BITS, X_FRAC_BITS = 18, 10    # an element of the residual stream
NORM_FRAC_BITS = 12             # of a normalised element, before gain and bias
NORM_SHIFTS = range(12, 21)     # of the affine maps of NORM
ROW_BITS = 27                   # of a sum that leaves the engine, signed
SHIFTS = range(8, 37, 4)        # of MATMUL's affine map: eight, for each lane selects among them


class Opcode(enum.Enum, shape=unsigned(8)):
    END = 0
    LOAD = 1     # memory -> P, X or ACT
    MATMUL = 2   # rows of +-1 x activations -> what `post` says
    NORM = 3     # X -> layer norm -> X, ACT


class Target(enum.Enum, shape=unsigned(2)):
    """Where LOAD writes."""
    PARAM = 0   # beat_bytes / 8 words of P a beat
    X = 1       # a row of M int16
    ACT = 2     # a line: its byte columns in order, each a byte of every lane, lane 0 first


class Operand(enum.Enum, shape=unsigned(2)):
    """Where MATMUL takes the rows of its matrix from."""
    PORTS = 0   # memory
    KEYS = 1    # lanes of lines of ACT: row j is lane j mod M of line k_base + (j div M) * k_stride
    VALUES = 2  # words of V from v_base on


class Kind(enum.Enum, shape=unsigned(2)):
    """What the activations are; P is the weighted popcount, P1 that of a lane of ones, n is ``n_const``."""
    SIGNS = 0   # +-1:               y = 2 P - n
    BITS = 1    # 0 and 1:           y = P + P1 - n
    INTS = 2    # two's complement:  y = P - P1 + n


class Post(enum.Enum, shape=unsigned(3)):
    """What becomes of a row."""
    SIGN = 0      # a bit, by the threshold of the row
    QUANT = 1     # an integer of 8 bits, by the affine map of the row
    RESIDUAL = 2  # affine map, added to X
    RAW = 3       # to memory, int32
    MAP = 4       # a bit of the attention map: the threshold of P[p_base], where the lane sees the row
    SUM = 5       # sums of the table at P[p_base], where the lane sees the row; then the cut
    CUT = 6       # a bit of the attention map: at or above the cut, where the lane sees the row


class Into(enum.Enum, shape=unsigned(1)):
    """Where bits and integers go."""
    ACT = 0
    V = 1       # bits alone


class Header(data.Struct):
    opcode: Opcode  # selects the body
    reserved: unsigned(24)
    wait_load: unsigned(16)  # LOADs that must have been completed
    wait_matmul: unsigned(16)  # MATMULs that must have been completed
    wait_norm: unsigned(16)  # NORMs that must have been completed
    reserved_wait: unsigned(16)


class End(data.Struct):
    """The end of the program."""
    reserved: unsigned(416)


class Load(data.Struct):
    """``n_beats`` beats, contiguous on every port (port p from ``addr + p * port_stride``), to a memory from ``d_base`` on.

    PARAM: a beat that has several words of P begins at a multiple of so many.
    """
    addr: unsigned(40)  # bytes into the window
    port_stride: unsigned(32)  # bytes from port to port
    n_beats: unsigned(16)  # of all ports together: a whole number of rows or lines
    d_base: unsigned(16)  # word of P, row of X, line of ACT
    target: Target
    cache: unsigned(1)  # window: 1 cache (what the host writes for a run), 0 model
    reserved: unsigned(416 - 107)


class Matmul(data.Struct):
    """n_row_groups * R rows times activations of n_col_blocks * C columns.

    PORTS: port p reads n_row_groups * n_col_blocks * w_planes beats, contiguous, from ``addr + p * port_stride``, in the order row
    group, weight plane (least significant first), column block. Activations: plane k of block b is line a_base + b * a_bits + k.
    VALUES: block b of row group g is word k_base + g * v_blocks + b. KEYS and VALUES have one weight plane, KEYS one block
    and one plane of activations.
    """
    addr: unsigned(40)  # bytes into the model window; with RAW and operands of the fabric unused
    port_stride: unsigned(32)  # bytes from port to port
    out: unsigned(40)  # RAW: bytes into the cache window
    n_row_groups: unsigned(12)  # of R rows
    n_col_blocks: unsigned(8)  # of C columns
    w_planes: unsigned(4)  # 1 .. 8
    a_bits: unsigned(4)  # planes of the activations: 1 .. 8
    operand: Operand
    kind: Kind
    n_const: unsigned(24)
    a_base: unsigned(12)  # line of ACT
    k_base: unsigned(12)  # KEYS: line of ACT; VALUES: word of V (v_base)
    k_stride: unsigned(8)  # KEYS: lines from chunk to chunk
    post: Post
    into: Into
    p_base: unsigned(16)  # word of P: of row 0, or of the head
    shift: unsigned(6)  # of the affine map: one of SHIFTS
    lo: signed(8)  # QUANT: least and largest; lo <= hi
    hi: signed(8)
    d_base: unsigned(16)  # line of ACT, word of V, row of X
    d_first: unsigned(5)  # ACT: byte column of row 0 in line d_base, below line_rows / 8
    line_rows: unsigned(9)  # ACT: rows of a line, from its byte 0 on, a multiple of 8, at most C; then zeros to its end
    fill: unsigned(1)  # ACT: zeros behind the last row too, to the end of its line
    v_blocks: unsigned(4)  # words of V from row group to row group, read and written
    chunk: unsigned(8)  # number of the tokens' chunk
    first_row: unsigned(12)  # maps: token of row 0, counted through the run
    causal: unsigned(1)  # maps: no lane sees a later row
    seq_log2: unsigned(4)  # maps: a sequence is 2**seq_log2 tokens
    n_index: unsigned(9)  # SUM, CUT: columns D of the product, index = (y + D) / 2; D + 1 words of the table
    reserved: unsigned(416 - 311)


class Norm(data.Struct):
    """Layer norm of a chunk: n_rows rows of X from x_base on, in place or/and into ACT."""
    x_base: unsigned(16)
    n_rows: unsigned(13)  # D: 1 .. 4096, into ACT a multiple of 8
    p_base: unsigned(16)  # even; two words of P a row: AffineParam of gain and bias; Threshold- or AffineParam of the activation
    inv_d: unsigned(18)  # mean = (S1 * inv_d + 2**(mean_shift - 1)) >> mean_shift
    mean_shift: unsigned(6)  # 17 .. 32
    eps: unsigned(48)  # added to D S2 - S1**2
    imm: unsigned(32)  # binary32 bits of D * 2**26
    center: unsigned(1)  # 0: mean 0 (RMS norm)
    shift: unsigned(6)  # of gain and bias: one of NORM_SHIFTS
    write_x: unsigned(1)
    to_act: unsigned(1)
    a_bits: unsigned(4)  # 1: SIGN; 8: QUANT
    shift2: unsigned(6)  # of QUANT: one of NORM_SHIFTS
    lo: signed(8)  # QUANT: least and largest
    hi: signed(8)
    d_base: unsigned(12)  # line of ACT
    reserved: unsigned(416 - 196)


class AffineParam(data.Struct):
    """(v * mult + bias) >> shift, rounded down; half a step for rounding is part of ``bias``."""
    mult: signed(18)
    bias: signed(46)


class ThresholdParam(data.Struct):
    """(v >= level) ^ flip."""
    level: signed(32)
    flip: unsigned(1)
    reserved: unsigned(31)


class TableParam(data.Struct):
    """Softmax by table: the weight of an index, and what a sum must be below, in units of 256, for that index to be set."""
    weight: unsigned(32)
    bound: unsigned(32)


BODIES = {Opcode.END: End, Opcode.LOAD: Load, Opcode.MATMUL: Matmul, Opcode.NORM: Norm}


def pack(opcode, waits=(0, 0, 0), **fields):
    """One descriptor as 64 bytes, little endian. ``waits`` counts (load, matmul, norm)."""
    header = Header.const({"opcode": opcode, "wait_load": waits[0], "wait_matmul": waits[1], "wait_norm": waits[2]})
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
    body = BODIES[header.opcode]
    view = body.from_bits(bits >> header_bits)
    fields = {name: getattr(view, name) for name, _ in body.as_shape() if name != "reserved"}
    return header.opcode, (header.wait_load, header.wait_matmul, header.wait_norm), fields
