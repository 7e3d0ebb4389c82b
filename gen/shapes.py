"""Named model shapes for measurements: the sizes of published models, without their weights."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from .model import ModelConfig

__all__ = ["SHAPES", "Shape", "shape_of"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and where they come from."""
    name: str
    model: ModelConfig
    source: str


SHAPES = {shape.name: shape for shape in (
    Shape("bitnet-2b4t", ModelConfig(
        hidden_size=2560, ffn_size=6912, n_layers=30, n_heads=20, n_kv_heads=5, head_dim=128, vocab_size=128_256,
        max_positions=4096, rope_theta=500_000.0, act="relu2", sub_norms=True, tied=True),
        "config.json of huggingface.co/microsoft/bitnet-b1.58-2B-4T"),
    Shape("bitnet-0.73b", ModelConfig(
        hidden_size=1536, ffn_size=4096, n_layers=24, n_heads=16, n_kv_heads=16, head_dim=96, vocab_size=32_002,
        max_positions=2048, act="silu", sub_norms=True, tied=True),
        "config.json and modeling_bitnet.py (inner_attn_ln, ffn_layernorm) of huggingface.co/1bitLLM/bitnet_b1_58-large"),
    Shape("tiny", ModelConfig(
        hidden_size=128, ffn_size=384, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=32, vocab_size=256, max_positions=256),
        "the shipped demo model"),
)}


def shape_of(name):
    """A shape by name, or of a JSON file with the fields of ``ModelConfig``. ValueError with one sentence."""
    if name in SHAPES:
        return SHAPES[name]
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"Shape must be a JSON file or one of {', '.join(SHAPES)}, not {name!r}")
    try:
        sizes = json.loads(path.read_text())
    except ValueError:
        sizes = None
    if not isinstance(sizes, dict):
        raise ValueError(f"Shape file {name} must hold a JSON object with the fields of a model")
    known = {each.name for each in fields(ModelConfig)}
    if unknown := sorted(set(sizes) - known):
        raise ValueError(f"Shape file {name} must hold fields of {', '.join(sorted(known))}, not {', '.join(unknown)}")
    try:
        return Shape(path.stem, ModelConfig(**sizes), str(name))
    except TypeError:
        raise ValueError(f"Shape file {name} must hold all of hidden_size, ffn_size, n_layers, n_heads, n_kv_heads, head_dim, "
                         "vocab_size and max_positions") from None
