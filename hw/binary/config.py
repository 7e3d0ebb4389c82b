"""The configuration of a binary machine: every size the generator may choose, checked."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields

from .isa import BINARY_ISA_VERSION

__all__ = ["BinaryConfig"]


def _power_of_two(value):
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class BinaryConfig:
    """Sizes of one binary machine.

    Parameters
    ----------
    name : str
        The word the command line knows it by.
    n_ports : int
        AXI4 read ports (1, 2 or 4). Port 0 also writes and fetches descriptors.
    port_bytes : int
        Width of a port in bytes (4, 8 or 16).
    token_lanes : int
        Tokens that share one stream of weights (M); a chunk is so many tokens.
    engine_rows : int
        Matrix rows in one beat (R). The columns follow: C = 8 n_ports port_bytes / R.
    act_lines : int
        Lines of the activation memory ACT, each C bits of every lane.
    v_words : int
        Words of the memory V of transposed values, each R rows of C bits.
    x_words : int
        Rows of the residual memory X, each an element of every lane.
    p_words : int
        Parameter words of 64 bits.
    max_tokens : int
        Tokens of a run: a multiple of token_lanes.
    max_sequences : int
        Sequences of a run.
    softmax : bool
        Whether attention maps can be made by softmax and not only by a threshold.
    queue_beats, burst_beats, read_outstanding, addr_bits, clock_mhz :
        As in AccelConfig.
    """

    name: str
    n_ports: int
    port_bytes: int
    token_lanes: int
    engine_rows: int
    act_lines: int
    v_words: int
    x_words: int
    p_words: int
    max_tokens: int
    max_sequences: int = 16
    softmax: bool = True
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
        need(_power_of_two(self.token_lanes) and 4 <= self.token_lanes <= 128,
             "token_lanes must be a power of two, 4 to 128", self.token_lanes)
        need(_power_of_two(self.engine_rows) and 2 <= self.engine_rows <= 16,
             "engine_rows must be a power of two, 2 to 16", self.engine_rows)
        need(self.beat_bytes >= 8, "a beat (n_ports port_bytes) must hold a parameter word of 8 bytes", self.beat_bytes)
        need(8 <= self.columns <= 256, "a row of a beat (8 n_ports port_bytes / engine_rows bits) must have 8 to 256 columns",
             self.columns)
        need(self.token_lanes % self.beat_bytes == 0, "token_lanes must be a multiple of the bytes of a beat (n_ports port_bytes)",
             self.token_lanes)
        need(self.max_tokens % self.token_lanes == 0 and self.max_tokens <= 4096,
             "max_tokens must be a multiple of token_lanes and at most 4096", self.max_tokens)
        need(self.max_sequences <= 16, "max_sequences must be at most 16", self.max_sequences)
        need(self.act_lines <= 4096, "act_lines must be at most 4096", self.act_lines)
        need(self.v_words <= 4096, "v_words must be at most 4096", self.v_words)
        need(self.x_words <= 1 << 16, "x_words must be at most 65536", self.x_words)
        need(self.p_words <= 1 << 16, "p_words must be at most 65536", self.p_words)
        need(self.burst_beats <= 256 and _power_of_two(self.burst_beats),
             "burst_beats must be a power of two of at most 256", self.burst_beats)
        need(self.queue_beats >= 2 * self.burst_beats, "queue_beats must hold two bursts", self.queue_beats)

    @property
    def beat_bytes(self):
        """Bytes that all ports together deliver in a cycle."""
        return self.n_ports * self.port_bytes

    @property
    def columns(self):
        """Matrix columns in one beat (C)."""
        return 8 * self.beat_bytes // self.engine_rows

    @property
    def line_bytes(self):
        """Bytes of a line of ACT."""
        return self.token_lanes * self.columns // 8

    @property
    def x_row_beats(self):
        """Beats of a row of X in memory."""
        return 2 * self.token_lanes // self.beat_bytes

    @property
    def multiply_adds(self):
        """Multiply-adds of one bit each that the engine does in a cycle."""
        return self.token_lanes * 8 * self.beat_bytes

    @property
    def isa_version(self):
        """Version of the descriptors that the machine runs."""
        return BINARY_ISA_VERSION

    @property
    def digest(self):
        """Eight hexadecimal digits that name these sizes (the name and the clock do not count)."""
        sizes = {key: value for key, value in asdict(self).items() if key not in ("name", "clock_mhz")}
        return hashlib.sha256(json.dumps({"binary": sizes}, sort_keys=True).encode()).hexdigest()[:8]
