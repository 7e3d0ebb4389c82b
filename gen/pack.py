"""Weights to bytes and back: five trits a byte, in the order in which the matmul engine wants them.

    integer weights (N, K) ── to_planes ──► trits (k, N, K) ── pack_matmul ──► bytes of port 0 .. P-1
                           ◄─ from_planes ─                 ◄─ unpack_matmul ─

A byte is ``sum_j (w_j + 1) 3**j`` of five consecutive columns of one row: 8 / 5 = 1.6 bits a trit, so 1.6 bits a weight
for a ternary matrix and 1.6 k for one of k digit planes. A beat is R rows x C columns; byte i of a beat holds row
i // (C / 5), columns 5 (i % (C / 5)) .. + 4, and belongs to port i // port_bytes. Beats follow one another in the order

    row block (max_row_groups * R rows), plane (most significant first), column block (C columns), row group (R rows)

A matrix of which single rows are gathered has row blocks of ``config.row_quantum`` rows instead (``block_rows``).

Rows are padded to a multiple of ``config.row_quantum`` and columns to a multiple of C, with trits of value 0; a byte of
padding is 121. Whole row blocks are contiguous on every port: a matrix that is too large to hold may be packed in
pieces of ``config.row_block_rows`` rows, and the pieces of each port joined.
"""

import numpy as np

from celosia.hw.formats import TRIT_BYTES, TRITS_PER_BYTE

__all__ = ["ZERO_BYTE", "to_planes", "from_planes", "pack_trits", "unpack_trits", "padded_shape", "matmul_beats",
           "pack_matmul", "unpack_matmul"]

ZERO_BYTE = TRIT_BYTES // 2     # five trits of value 0: 121

_TRITS = (np.arange(TRIT_BYTES)[:, None] // 3 ** np.arange(TRITS_PER_BYTE) % 3 - 1).astype(np.int8)    # (byte, place)


def to_planes(weights, n_planes):   # (N, K) integers -> (n_planes, N, K) int8 trits
    """Balanced ternary digits, most significant first. Weights must lie within +-(3**n_planes - 1) / 2."""
    if not 1 <= n_planes <= 15:
        raise ValueError(f"The number of planes must be 1 to 15, not {n_planes}")
    weights = np.asarray(weights)
    if not np.issubdtype(weights.dtype, np.integer) or weights.ndim != 2:
        raise ValueError(f"Weights must be an integer matrix, not {weights.dtype} of {weights.ndim} dimensions")
    limit = (3**n_planes - 1) // 2
    if weights.size and not -limit <= int(weights.min()) <= int(weights.max()) <= limit:
        raise ValueError(f"Weights of {n_planes} planes must be within -{limit}..{limit}, "
                         f"not {weights.min()}..{weights.max()}")
    rest = weights.astype(np.int32) + limit     # its ordinary ternary digits are the balanced ones plus 1
    planes = np.empty((n_planes, *weights.shape), np.int8)
    for k in reversed(range(n_planes)):
        rest, digit = np.divmod(rest, 3)
        planes[k] = digit - 1
    return planes


def from_planes(planes):    # (k, N, K) trits -> (N, K) int32
    """Inverse of :func:`to_planes`."""
    planes = _checked_planes(planes)
    weights = np.zeros(planes.shape[1:], np.int32)
    for plane in planes:
        weights = 3 * weights + plane
    return weights


def pack_trits(trits):      # (..., 5 n) trits -> (..., n) uint8
    """Bytes of five trits each, along the last axis."""
    trits = np.asarray(trits)
    if trits.ndim == 0 or trits.shape[-1] % TRITS_PER_BYTE:
        raise ValueError(f"The last axis must be a multiple of {TRITS_PER_BYTE} trits, not of shape {trits.shape}")
    if trits.size and (trits.min() < -1 or trits.max() > 1):
        raise ValueError(f"Trits must be -1, 0 or +1, not {trits.min()}..{trits.max()}")
    codes = (trits + 1).astype(np.uint8).reshape(*trits.shape[:-1], trits.shape[-1] // TRITS_PER_BYTE, TRITS_PER_BYTE)
    packed = codes[..., -1].copy()
    for place in reversed(range(TRITS_PER_BYTE - 1)):
        packed *= 3
        packed += codes[..., place]
    return packed


def unpack_trits(packed):   # (..., n) uint8 -> (..., 5 n) int8
    """Inverse of :func:`pack_trits`. Bytes above 242 stand for no trits and are refused."""
    packed = np.asarray(packed, np.uint8)
    if packed.size and packed.max() >= TRIT_BYTES:
        raise ValueError(f"A byte of five trits must be at most {TRIT_BYTES - 1}, not {packed.max()}")
    return _TRITS[packed].reshape(*packed.shape[:-1], -1) if packed.ndim else _TRITS[packed]


def padded_shape(n_rows, n_columns, config):
    """(rows, columns) of a matrix after padding."""
    if n_rows <= 0 or n_columns <= 0:
        raise ValueError(f"A matrix must have rows and columns, not {n_rows} x {n_columns}")
    return -(-n_rows // config.row_quantum) * config.row_quantum, -(-n_columns // config.columns) * config.columns


def matmul_beats(n_planes, n_rows, n_columns, config):
    """Beats that the engine reads for a matrix: each port holds this many times ``config.port_bytes``."""
    rows, columns = padded_shape(n_rows, n_columns, config)
    return n_planes * (rows // config.engine_rows) * (columns // config.columns)


def pack_matmul(planes, config, block_rows=None):   # (k, N, K) trits -> list of n_ports arrays (beats * port_bytes,) uint8
    """The bytes of every port for one matrix, in row blocks of ``block_rows`` (by default ``config.row_block_rows``)."""
    most_rows = block_rows or config.row_block_rows
    planes = np.asarray(planes)
    if planes.ndim != 3:
        raise ValueError(f"Planes must be of shape (k, N, K), not {planes.shape}")
    n_planes, n_rows, n_columns = planes.shape
    rows, columns = padded_shape(n_rows, n_columns, config)
    n_beats = matmul_beats(n_planes, n_rows, n_columns, config)
    ports = np.empty((config.n_ports, n_beats, config.port_bytes), np.uint8)
    beat = 0
    for top in range(0, rows, most_rows):
        block_rows = min(most_rows, rows - top)
        block = np.zeros((n_planes, block_rows, columns), np.int8)
        real_rows = min(block_rows, n_rows - top)
        block[:, :real_rows, :n_columns] = planes[:, top:top + real_rows]
        packed = pack_trits(block).reshape(_block_shape(n_planes, block_rows, columns, config))
        beats = packed.transpose(0, 3, 1, 2, 4).reshape(-1, config.n_ports, config.port_bytes)
        ports[:, beat:beat + len(beats)] = beats.transpose(1, 0, 2)
        beat += len(beats)
    assert beat == n_beats, f"packed {beat} beats instead of {n_beats}"
    return list(ports.reshape(config.n_ports, -1))


def unpack_matmul(ports, n_planes, n_rows, n_columns, config):
    """Inverse of :func:`pack_matmul`: trits int8 (n_planes, n_rows, n_columns).

    Raises ValueError on a wrong number of ports or bytes, on bytes that stand for no trits, and on padding that is not
    zero.
    """
    rows, columns = padded_shape(n_rows, n_columns, config)
    n_beats = matmul_beats(n_planes, n_rows, n_columns, config)
    sizes = [np.asarray(port).size for port in ports]
    if sizes != [n_beats * config.port_bytes] * config.n_ports:
        raise ValueError(f"The matrix must take {config.n_ports} ports of {n_beats * config.port_bytes} bytes, "
                         f"not {sizes}")
    ports = np.stack([np.asarray(port, np.uint8) for port in ports]).reshape(config.n_ports, n_beats, config.port_bytes)
    planes = np.empty((n_planes, n_rows, n_columns), np.int8)
    beat = 0
    for top in range(0, rows, config.row_block_rows):
        block_rows = min(config.row_block_rows, rows - top)
        shape = _block_shape(n_planes, block_rows, columns, config)
        block_beats = n_planes * (block_rows // config.engine_rows) * (columns // config.columns)
        beats = ports[:, beat:beat + block_beats].transpose(1, 0, 2)
        packed = beats.reshape(shape[0], shape[3], shape[1], shape[2], shape[4]).transpose(0, 2, 3, 1, 4)
        block = unpack_trits(packed.reshape(n_planes, block_rows, -1))
        real_rows = min(block_rows, n_rows - top)
        if block[:, real_rows:].any() or block[:, :, n_columns:].any():
            raise ValueError(f"Padding of a {n_rows} x {n_columns} matrix must be zero trits, not weights")
        planes[:, top:top + real_rows] = block[:, :real_rows, :n_columns]
        beat += block_beats
    return planes


def _block_shape(n_planes, block_rows, columns, config):
    """(plane, row group, row, column block, byte) of a row block."""
    return (n_planes, block_rows // config.engine_rows, config.engine_rows, columns // config.columns,
            config.columns // TRITS_PER_BYTE)


def _checked_planes(planes):
    planes = np.asarray(planes)
    if planes.ndim != 3 or not 1 <= planes.shape[0] <= 15:
        raise ValueError(f"Planes must be of shape (1 to 15, N, K), not {planes.shape}")
    if planes.size and (planes.min() < -1 or planes.max() > 1):
        raise ValueError(f"Trits must be -1, 0 or +1, not {planes.min()}..{planes.max()}")
    return planes
