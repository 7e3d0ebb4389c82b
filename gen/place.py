"""Where everything lies: padded shapes, the order of heads, addresses in the model window and the cache window.

Heads are padded to whole beats of a port (``head_pad`` elements). The rows of a KV head's matrix are

    [query 0 .. query G-1, key, value], each head_pad rows; the pairs (i, i + head_dim/2) of queries and keys that
    rotary positions turn together become neighbours (2i, 2i + 1)

and the attention output is head after head, head_pad elements each: the columns of ``o`` and the gains of
``attn_sub_norm`` follow that order. Everything padded is zero.

Multi-port tables: a segment of port p begins at ``addr + p * port_stride``; every segment is aligned to 64 bytes. Long ones
lie so that ports which read side by side are in different banks of the memory (``apart``).
"""

from dataclasses import dataclass

import torch

from celosia.hw.config import AccelConfig
from celosia.hw.formats import KV_FORMATS
from celosia.hw.links import record_beats

from .model import ModelConfig

__all__ = ["ALIGN_BYTES", "Address", "Layout", "Space", "apart", "pad_to", "rope_order", "rope_table"]

ALIGN_BYTES = 64
LONG_BYTES = 8 << 10                                            # of a port: segments from here on are laid apart
ROWS_BYTES = 64 << 10                                           # memory that begins anew with the same bank
APART_BYTES = 16 << 10                                          # modulo ROWS_BYTES


def pad_to(value, quantum):
    """The least multiple of ``quantum`` that is not below ``value``."""
    return -(-value // quantum) * quantum


def apart(port_bytes):
    """Distance between the long segments of neighbouring ports.

    Four streams at multiples of 16 KiB modulo 64 KiB read 15.9 GB/s from the memory model of the KV260, with the same offset
    12.8 (``docs/memory_model.md``). All segments take the same distance: ports run ahead of one another by up to their
    queues, and a change of distance from matrix to matrix would bring them into one bank.
    """
    return port_bytes + (APART_BYTES - port_bytes) % ROWS_BYTES


def rope_order(head_dim):
    """Old index of every new element: (0, h, 1, h + 1, ...) with h = head_dim / 2."""
    half = head_dim // 2
    return torch.stack((torch.arange(half), torch.arange(half) + half), 1).reshape(-1)


def rope_table(config: ModelConfig, n_positions):
    """(n_positions, head_dim) float32: lanes (2j, 2j + 1) hold (cos, sin) of position * theta**(-2j / head_dim).

    Frequencies and angles are binary32, as in transformers; powers, sines and cosines are computed in binary64 and
    rounded once, so that they are the same on every machine.
    """
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequency = 1.0 / torch.pow(torch.tensor(config.rope_theta, dtype=torch.float64), exponent.double()).float()
    angle = (torch.arange(n_positions, dtype=torch.float32)[:, None] * frequency).double()
    return torch.stack((angle.cos(), angle.sin()), 2).reshape(n_positions, config.head_dim).float()


@dataclass(frozen=True)
class Address:
    """A place in a window: offset of port 0's segment, distance between ports, bytes a port."""
    offset: int
    port_stride: int
    port_bytes: int
    index_stride: int = 0       # bytes a port between rows that an index selects


class Space:
    """Addresses handed out one after the other."""

    def __init__(self, n_ports):
        self._n_ports = n_ports
        self.size = 0

    def take(self, port_bytes, index_stride=0):
        """Room for ``port_bytes`` on every port."""
        long = self._n_ports > 1 and port_bytes >= LONG_BYTES
        stride = apart(port_bytes) if long else pad_to(port_bytes, ALIGN_BYTES)
        address = Address(self.size, stride, port_bytes, index_stride)
        self.size += stride * self._n_ports
        return address


@dataclass(frozen=True)
class Layout:
    """Padded sizes of ``model`` on ``accel`` for sequences of ``context`` positions. Words are vector words.

    ``pages`` is the size of the cache: default (0) what one sequence needs. ``kv`` is one of ``KV_FORMATS``.
    """
    model: ModelConfig
    accel: AccelConfig
    context: int
    pages: int = 0
    kv: str = "int8"

    def __post_init__(self):
        if self.kv not in KV_FORMATS:
            raise ValueError(f"The cache's format must be one of {', '.join(KV_FORMATS)}, not {self.kv!r}")
        if not 0 <= self.pages <= self.accel.max_pages:
            raise ValueError(f"Pages must be 1 to {self.accel.max_pages} on configuration {self.accel.name}, not {self.pages}")
        if not 1 <= self.context <= self.longest(self.model, self.accel):
            raise ValueError(f"Context must be 1 to {self.longest(self.model, self.accel)} positions for this model, "
                             f"not {self.context}")
        if not self.pages:
            object.__setattr__(self, "pages", min(self.pages_of(1), self.accel.max_pages))

    @staticmethod
    def longest(model, accel):
        """The longest context of a model: what its positions allow, and of a bidirectional one the tokens of a run."""
        return min(model.max_positions, accel.token_lanes) if model.bidirectional else model.max_positions

    def pages_of(self, sequences):
        """Pages that so many sequences of ``context`` positions need."""
        return sequences * -(-self.context // self.accel.page_positions)

    @property
    def head_pad(self):
        """Elements of a head: whole beats of a port (and so whole vector words)."""
        return pad_to(self.model.head_dim, self.accel.port_bytes)

    @property
    def head_beats(self):
        return self.head_pad // self.accel.port_bytes

    @property
    def head_words(self):
        return self.words(self.head_pad)

    @property
    def hidden_rows(self):
        return self.rows(self.model.hidden_size)

    @property
    def ffn_rows(self):
        return self.rows(self.model.ffn_size)

    @property
    def vocab_rows(self):
        return self.rows(self.model.vocab_size)

    @property
    def attn_columns(self):
        return self.model.n_heads * self.head_pad

    @property
    def qkv_rows(self):
        """Rows of the matrix of one KV head."""
        return self.rows((self.model.group + 2) * self.head_pad)

    @property
    def record_bytes(self):
        return record_beats(self.head_beats, self.accel.port_bytes, self.int4) * self.accel.port_bytes

    @property
    def int4(self):
        """Whether records hold four bits an element: bit 0 of keys, bit 1 of values."""
        return KV_FORMATS[self.kv]

    @property
    def page_bytes(self):
        """Bytes of a page on one port, in one region."""
        return self.accel.page_positions // self.accel.n_ports * self.record_bytes

    def rows(self, n):
        return pad_to(n, self.accel.row_quantum)

    def columns(self, n):
        return pad_to(n, self.accel.columns)

    def words(self, n):
        return -(-n // self.accel.vector_lanes)

    def cache(self):
        """({(layer, KV head): Address}, bytes of the cache window). A region holds ``pages`` pages on every port.

        The regions of a port lie one after the other, so that there is one gap between two ports and none between regions.
        """
        ports = self.accel.n_ports
        port_bytes = self.pages * self.page_bytes
        region_bytes = pad_to(port_bytes, ALIGN_BYTES)
        heads = [(layer, head) for layer in range(self.model.n_layers) for head in range(self.model.n_kv_heads)]
        stride = apart(len(heads) * region_bytes) if ports > 1 else len(heads) * region_bytes
        regions = {at: Address(i * region_bytes, stride, port_bytes, self.record_bytes) for i, at in enumerate(heads)}
        return regions, stride * (ports - 1) + len(heads) * region_bytes

    def cache_header(self):
        """What the host must know of the cache window: page n of region r on port p is ``page_bytes`` bytes from
        r * region_bytes + p * port_stride + n * page_bytes on."""
        regions, _ = self.cache()
        first = next(iter(regions.values()))
        return {"record_bytes": self.record_bytes, "head_pad": self.head_pad, "kv": self.kv, "regions": len(regions),
                "region_bytes": pad_to(first.port_bytes, ALIGN_BYTES), "port_stride": first.port_stride,
                "page_positions": self.accel.page_positions, "pages": self.pages, "page_bytes": self.page_bytes}

    # Tensors in the order of the accelerator.

    def pad(self, tensor, *shape):
        """Zeros after the end of every axis, up to ``shape``."""
        padded = torch.zeros(shape, dtype=tensor.dtype)
        padded[tuple(slice(n) for n in tensor.shape)] = tensor
        return padded

    def qkv(self, layer, head):
        """(weights (qkv_rows, columns) int8, scales (qkv_rows,) float32) of one KV head."""
        dim, group, order = self.model.head_dim, self.model.group, rope_order(self.model.head_dim)
        parts = [(layer.q, query, order) for query in range(head * group, (head + 1) * group)]
        parts += [(layer.k, head, order), (layer.v, head, torch.arange(dim))]
        weights = torch.zeros(self.qkv_rows, self.columns(self.model.hidden_size), dtype=torch.int8)
        scales = torch.zeros(self.qkv_rows)
        for part, (matrix, number, new_order) in enumerate(parts):
            rows = slice(part * self.head_pad, part * self.head_pad + dim)
            weights[rows, :self.model.hidden_size] = matrix.weights[number * dim + new_order]
            scales[rows] = matrix.scale[number * dim + new_order]
        return weights, scales

    def heads_padded(self, tensor):
        """(..., n_heads * head_dim) to (..., n_heads * head_pad)."""
        split = tensor.unflatten(-1, (self.model.n_heads, self.model.head_dim))
        return self.pad(split, *split.shape[:-1], self.head_pad).flatten(-2)

    def matrix(self, weights, rows):
        """Weights padded to ``rows`` and whole column blocks."""
        return self.pad(weights, rows, self.columns(weights.shape[1]))
