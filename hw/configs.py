"""The named configurations: the same design at several sizes."""

from .binary.configs import BINARY_CONFIGS
from .config import AccelConfig

__all__ = ["ALL_CONFIGS", "CONFIGS", "config_of", "tiny", "duo", "kv260"]

# One 64-bit port, four token lanes: small enough to simulate a whole conversation.
tiny = AccelConfig(
    name="tiny", n_ports=1, port_bytes=8, token_lanes=4, vector_lanes=4, engine_rows=2, max_columns=1280, max_row_groups=128,
    x_words=2048, p_words=1024, query_lanes=1, max_queries=16, max_head_words=16, max_positions=512,
    page_positions=16, max_pages=128, max_sequences=8, queue_beats=256, burst_beats=16, read_outstanding=8)

# Two 32-bit ports: the smallest with more than one port, for tests of everything that is split over ports.
duo = AccelConfig(
    name="duo", n_ports=2, port_bytes=4, token_lanes=2, vector_lanes=2, max_columns=640, max_row_groups=32,
    x_words=2048, p_words=1024, query_lanes=2, max_queries=8, max_head_words=16, max_positions=256,
    page_positions=8, max_pages=64, max_sequences=4, queue_beats=64, burst_beats=16, read_outstanding=4, top_k=4)

# The AMD KV260: four 128-bit ports at 250 MHz, sixteen token lanes.
kv260 = AccelConfig(
    name="kv260", n_ports=4, port_bytes=16, token_lanes=16, vector_lanes=16, table_builders=4, max_columns=8000,
    max_row_groups=128, accumulator_bits=27, x_words=16384, p_words=4096, query_lanes=2, max_queries=64,
    max_head_words=8, max_positions=4096, page_positions=64, max_pages=256, max_sequences=16, queue_beats=2048,
    burst_beats=16, read_outstanding=16)

CONFIGS = {config.name: config for config in (tiny, duo, kv260)}
ALL_CONFIGS = CONFIGS | BINARY_CONFIGS      # of both machines


def config_of(name):
    """A configuration of either machine by its name; ValueError with the names there are."""
    if name not in ALL_CONFIGS:
        raise ValueError(f"Configuration must be one of {', '.join(ALL_CONFIGS)}, not {name!r}")
    return ALL_CONFIGS[name]
