"""The configuration of an accelerator: every size the generator may choose, checked.

Only ``top.py`` and the generator see a whole :class:`AccelConfig`; a unit takes the few numbers it needs.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields

from .isa import ISA_VERSION

__all__ = ["AccelConfig"]


def _power_of_two(value):
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class AccelConfig:
    """Sizes of one accelerator.

    Parameters
    ----------
    name : str
        The word the command line knows it by.
    n_ports : int
        AXI4 read ports (1, 2 or 4). Port 0 also writes and fetches descriptors.
    port_bytes : int
        Width of a port in bytes (4, 8 or 16).
    token_lanes : int
        Activation vectors that share one weight stream (M).
    vector_lanes : int
        binary32 lanes of the vector unit (L). A vector word is L elements.
    engine_rows : int
        Matrix rows in one weight beat (R). The columns follow: C = 5 n_ports port_bytes / R.
    table_builders : int
        Token lanes whose look-up tables are built at the same time.
    max_columns : int
        Longest activation vector of a matrix product, in elements.
    max_row_groups : int
        Row groups (of R rows) in a row block: depth of one half of the partial-sum memory.
    accumulator_bits : int
        Width of a partial sum; ``max_planes_columns`` says what it allows.
    x_words, p_words : int
        Words of activation scratch (X) and parameter scratch (P), each L elements of binary32.
    query_lanes : int
        Query vectors an attention slice multiplies at once (A).
    max_queries : int
        Query vectors of one attention descriptor: token lanes times heads of a group.
    max_head_words : int
        Longest head in words of port_bytes elements.
    max_positions : int
        Longest sequence in positions.
    page_positions : int
        Positions of a page of the KV cache, a power of two.
    max_pages : int
        Pages of the cache.
    max_sequences : int
        Sequences that have a page table at the same time (slots).
    top_k : int
        Candidates that the head keeps.
    queue_beats : int
        Run-ahead buffer of one port, in beats.
    burst_beats : int
        Longest AXI burst, in beats (at most 256).
    read_outstanding : int
        Read bursts in flight on one port.
    clock_mhz : float
        Clock for which times are stated.
    """

    name: str
    n_ports: int
    port_bytes: int
    token_lanes: int
    vector_lanes: int
    engine_rows: int = 4
    table_builders: int = 1
    max_columns: int
    max_row_groups: int
    accumulator_bits: int = 32
    x_words: int
    p_words: int
    query_lanes: int
    max_queries: int
    max_head_words: int
    max_positions: int
    page_positions: int
    max_pages: int
    max_sequences: int
    top_k: int = 16
    queue_beats: int
    burst_beats: int = 16
    read_outstanding: int = 8
    addr_bits: int = 40
    clock_mhz: float = 250.0

    def __post_init__(self):
        def need(ok, rule, found):
            if not ok:
                raise ValueError(f"Configuration {self.name!r}: {rule}, not {found}")

        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int or field.type == "int":
                need(isinstance(value, int) and value > 0, f"{field.name} must be a positive integer", value)
        need(self.n_ports in (1, 2, 4), "n_ports must be 1, 2 or 4", self.n_ports)
        need(self.port_bytes in (4, 8, 16), "port_bytes must be 4, 8 or 16", self.port_bytes)
        need(_power_of_two(self.vector_lanes) and 2 <= self.vector_lanes <= 16,
             "vector_lanes must be 2, 4, 8 or 16", self.vector_lanes)
        need(_power_of_two(self.token_lanes) and self.token_lanes <= 16,
             "token_lanes must be a power of two of at most 16", self.token_lanes)
        need(self.token_lanes % self.table_builders == 0, "table_builders must divide token_lanes", self.table_builders)
        need((5 * self.beat_bytes) % self.engine_rows == 0 and self.columns % (5 * self.vector_lanes) == 0,
             "a row of a beat must be a multiple of five vector words (5 n_ports port_bytes / engine_rows of "
             "5 vector_lanes)", self.columns)
        need((4 * self.vector_lanes) % self.beat_bytes == 0,
             "a vector word (4 vector_lanes bytes) must be a multiple of a beat (n_ports port_bytes)",
             4 * self.vector_lanes)
        need(self.port_bytes % self.vector_lanes == 0, "vector_lanes must divide port_bytes", self.vector_lanes)
        need(self.vector_lanes % self.engine_rows == 0 or self.engine_rows % self.vector_lanes == 0,
             "engine_rows and vector_lanes must divide one another", self.engine_rows)
        need(self.max_columns % self.columns == 0, f"max_columns must be a multiple of {self.columns}",
             self.max_columns)
        need((self.max_row_groups * self.engine_rows) % self.vector_lanes == 0 and _power_of_two(self.max_row_groups),
             "max_row_groups must be a power of two that fills whole vector words", self.max_row_groups)
        need(self.accumulator_bits <= 32 and self.columns * 128 < 1 << (self.accumulator_bits - 1),
             "accumulator_bits must hold a column block and be at most 32", self.accumulator_bits)
        need(self.max_queries >= self.token_lanes, "max_queries must be at least token_lanes", self.max_queries)
        need(self.max_queries % self.query_lanes == 0, "query_lanes must divide max_queries", self.query_lanes)
        need(_power_of_two(self.page_positions) and self.page_positions >= self.n_ports
             and self.max_positions % self.page_positions == 0,
             "page_positions must be a power of two of at least n_ports that divides max_positions", self.page_positions)
        need(self.max_positions // self.page_positions <= self.max_pages <= 4096,
             "max_pages must hold the longest sequence and be at most 4096", self.max_pages)
        need(_power_of_two(self.max_sequences) and self.max_sequences <= 16,
             "max_sequences must be a power of two of at most 16", self.max_sequences)
        need(self.top_k <= 32, "top_k must be at most 32", self.top_k)
        need(self.burst_beats <= 256 and _power_of_two(self.burst_beats),
             "burst_beats must be a power of two of at most 256", self.burst_beats)
        need(self.queue_beats >= 2 * self.burst_beats, "queue_beats must hold two bursts", self.queue_beats)

    @property
    def beat_bytes(self):
        """Bytes that all ports together deliver in a cycle."""
        return self.n_ports * self.port_bytes

    @property
    def columns(self):
        """Matrix columns in one weight beat (C)."""
        return 5 * self.beat_bytes // self.engine_rows

    @property
    def multiply_adds(self):
        """Multiply-adds that the engine does in a cycle."""
        return self.engine_rows * self.columns * self.token_lanes

    @property
    def isa_version(self):
        """Version of the descriptors that the accelerator runs."""
        return ISA_VERSION

    @property
    def row_block_rows(self):
        """Rows whose partial sums are kept at once."""
        return self.max_row_groups * self.engine_rows

    @property
    def row_quantum(self):
        """A matrix has a multiple of this many rows: whole row groups and whole vector words."""
        return max(self.engine_rows, self.vector_lanes)

    def max_planes_columns(self, planes):
        """Longest reduction, in columns, that ``planes`` digit planes can take without overflow.

        |sum| <= columns * 128 * (3**planes - 1) / 2 must stay below 2**(accumulator_bits - 1).
        """
        return ((1 << (self.accumulator_bits - 1)) - 1) // (128 * (3**planes - 1) // 2)

    @property
    def digest(self):
        """Eight hexadecimal digits that name these sizes (the name and the clock do not count)."""
        sizes = {key: value for key, value in asdict(self).items() if key not in ("name", "clock_mhz")}
        return hashlib.sha256(json.dumps(sizes, sort_keys=True).encode()).hexdigest()[:8]
