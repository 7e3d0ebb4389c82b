"""Named sizes of binary encoders for measurements, without weights."""

from dataclasses import dataclass

from .model import BinaryModelConfig, ImageInput, TextInput

__all__ = ["BINARY_SHAPES", "BinaryShape"]


@dataclass(frozen=True)
class BinaryShape:
    """Sizes of an encoder and where they come from."""
    name: str
    model: BinaryModelConfig
    source: str


def _labels(count):
    return tuple(str(n) for n in range(count))


BINARY_SHAPES = {shape.name: shape for shape in (
    BinaryShape("bert-base", BinaryModelConfig(
        hidden_size=768, n_layers=12, n_heads=12, ffn_size=3072, act_bits=1, attention="sps", norm="post", norm_eps=1e-12,
        labels=_labels(2), pooling="first", max_tokens=512, input=TextInput(vocabulary="words", vocab_size=32)),
        "Devlin et al. 2019, table of sizes; two labels; a small made-up vocabulary, which the accelerator does not see"),
    BinaryShape("deit-tiny", BinaryModelConfig(
        hidden_size=192, n_layers=12, n_heads=3, ffn_size=768, act_bits=1, attention="sps", norm="pre", norm_eps=1e-6,
        labels=_labels(1000), pooling="mean", max_tokens=256,
        input=ImageInput(height=224, width=224, channels=3, patch=16, maximum=255)),
        "Touvron et al. 2021, table of sizes; mean of the patches instead of a token of its own"),
    BinaryShape("digits", BinaryModelConfig(
        hidden_size=64, n_layers=4, n_heads=4, ffn_size=256, act_bits=1, attention="sps", norm="pre", norm_eps=1e-5,
        labels=_labels(10), pooling="mean", max_tokens=16,
        input=ImageInput(height=8, width=8, channels=1, patch=2, maximum=16)),
        "the shipped models of handwritten digits"),
)}
