"""Weights, parameters and rows to the bytes of the ports.

    weights (N, K) odd integers of p planes:  value = sum_q 2**q w_q, w_q = +-1;  bit = 1 is +1
    beat = R rows x C columns; row r at bits r C ..        order: row group, weight plane (least significant first), column block
    parameters: words of 64 bits      rows of X: int16 a lane      lines of ACT: byte columns, each a byte of every lane

Byte i of a beat belongs to port i // port_bytes. Rows and columns of padding are ones in all planes.
"""

import numpy as np

__all__ = ["matmul_beats", "pack_lines", "pack_matrix", "pack_rows", "pack_words", "split_ports", "unpack_matrix"]


def matmul_beats(n_planes, n_rows, n_columns, config):
    """Beats that the engine reads for a matrix."""
    return n_planes * -(-n_rows // config.engine_rows) * -(-n_columns // config.columns)


def pack_matrix(weights, n_planes, config):     # (N, K) odd integers -> list of n_ports arrays uint8
    """The bytes of every port for one matrix. ValueError on weights that have no such planes."""
    weights, most = np.asarray(weights, np.int64), (1 << n_planes) - 1
    if not (weights & 1).all() or abs(weights).max() > most:
        raise ValueError(f"Weights of {n_planes} planes must be odd and within -{most} .. {most}")
    (n_rows, n_columns), r, c = weights.shape, config.engine_rows, config.columns
    padded = np.full((-(-n_rows // r) * r, -(-n_columns // c) * c), most)
    padded[:n_rows, :n_columns] = weights
    digits = (padded + most >> 1).reshape(len(padded) // r, r, -1, c)
    planes = np.arange(n_planes)[:, None, None, None, None]
    bits = (digits[None] >> planes & 1).astype(np.uint8)    # plane, group, row, block, column
    return split_ports(np.packbits(bits.transpose(1, 0, 3, 2, 4), axis=None, bitorder="little"), config)


def unpack_matrix(ports, n_planes, n_rows, n_columns, config):  # -> (N, K) int64
    """Inverse of :func:`pack_matrix`."""
    r, c = config.engine_rows, config.columns
    data = np.stack([np.asarray(port).reshape(-1, config.port_bytes) for port in ports], 1).reshape(-1)
    bits = np.unpackbits(data, bitorder="little").reshape(-1, n_planes, -(-n_columns // c), r, c).transpose(1, 0, 3, 2, 4)
    signs = 2 * bits.reshape(n_planes, -1, bits.shape[3] * c).astype(np.int64) - 1
    return (signs << np.arange(n_planes)[:, None, None]).sum(0)[:n_rows, :n_columns]


def pack_words(words, config):      # (n,) int64 -> list of n_ports arrays uint8
    """Words of P; zeros behind them fill the last beat."""
    per_beat = config.beat_bytes // 8
    return split_ports(np.pad(words, (0, -len(words) % per_beat)).astype("<i8").view(np.uint8), config)


def pack_rows(rows, config):        # (n, M) integers -> list of n_ports arrays uint8
    """Rows of X."""
    return split_ports(np.ascontiguousarray(rows.astype("<i2")).view(np.uint8), config)


def pack_lines(values, n_planes, config):   # (M, K) integers -> list of n_ports arrays uint8
    """Lines of ACT of a chunk: column block by column block, its planes, least significant first."""
    n_columns, c = values.shape[1], config.columns
    padded = np.pad(np.asarray(values, np.int64), ((0, 0), (0, -n_columns % c)))
    bits = (padded[None] >> np.arange(n_planes)[:, None, None] & 1).astype(np.uint8)
    columns = np.packbits(bits, axis=2, bitorder="little").reshape(n_planes, len(values), -1, c // 8)     # plane, lane, block, byte
    return split_ports(np.ascontiguousarray(columns.transpose(2, 0, 3, 1)), config)


def split_ports(data, config):      # bytes of whole beats -> list of n_ports arrays uint8
    """Every beat's share of each port, one after the other."""
    return [port.reshape(-1) for port in data.reshape(-1, config.n_ports, config.port_bytes).transpose(1, 0, 2)]
