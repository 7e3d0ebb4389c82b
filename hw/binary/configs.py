"""The named configurations of the binary machine."""

from .config import BinaryConfig

__all__ = ["BINARY_CONFIGS", "binary_tiny", "binary_kv260"]

# One 64-bit port, eight token lanes: small enough to classify a whole test set in simulation.
binary_tiny = BinaryConfig(
    name="binary-tiny", n_ports=1, port_bytes=8, token_lanes=8, engine_rows=2, act_lines=512, v_words=512, x_words=2048,
    p_words=4096, max_tokens=128, queue_beats=256)

# The AMD KV260: four 128-bit ports at 250 MHz, 64 token lanes, 32,768 multiply-adds of a bit a cycle.
binary_kv260 = BinaryConfig(
    name="binary-kv260", n_ports=4, port_bytes=16, token_lanes=64, engine_rows=8, act_lines=512, v_words=512, x_words=4096,
    p_words=32768, max_tokens=512, queue_beats=2048, read_outstanding=16)

BINARY_CONFIGS = {config.name: config for config in (binary_tiny, binary_kv260)}
