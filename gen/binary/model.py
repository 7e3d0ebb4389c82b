"""Shapes of a binary encoder, and its weights as a checkpoint has them.

    BinaryModel (signs, scales and biases in float32) ── integers.fold ──► IntegerModel (all that the machine computes with)

Matrices of a layer: q, k, v, o, up, down; (outputs, inputs), values +-1. ``docs/binary.md`` says what the model computes.
"""

import math
from dataclasses import asdict, dataclass
from reprlib import repr as shown

__all__ = ["ATTENTIONS", "MATRICES", "NORMS", "POOLINGS", "BinaryModel", "BinaryModelConfig", "ImageInput", "TextInput"]

MATRICES = ("q", "k", "v", "o", "up", "down")
ATTENTIONS, NORMS, POOLINGS = ("sps", "softmax"), ("pre", "post"), ("mean", "first", "none")


def _need(ok, what, rule, found):
    if not ok:
        raise ValueError(f"Model {what} must be {rule}, not {shown(found)}")


def _count(what, value):
    _need(type(value) is int and value > 0, what, "a positive integer", value)


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """Images of pixels 0 .. maximum, cut into square patches, row after row; a patch is a token."""
    height: int
    width: int
    channels: int
    patch: int
    maximum: int

    def __post_init__(self):
        for name, value in asdict(self).items():
            _count(f"input {name}", value)
        _need(self.channels in (1, 3), "input channels", "1 or 3", self.channels)
        _need(not self.height % self.patch and not self.width % self.patch, "input patch",
              f"a divisor of {self.height} and {self.width}", self.patch)
        _need(self.maximum <= 255, "input maximum", "at most 255", self.maximum)

    @property
    def n_tokens(self):
        """Patches of an image."""
        return (self.height // self.patch) * (self.width // self.patch)

    @property
    def n_columns(self):
        """Pixels of a patch: row after row, the channels of a pixel side by side."""
        return self.patch**2 * self.channels

    @property
    def zero(self):
        """What is taken off a pixel, so that it is an int8."""
        return 128 if self.maximum > 127 else 0

    @property
    def bits(self):
        """Of a pixel, with its sign."""
        return 8 if self.zero else self.maximum.bit_length() + 1


@dataclass(frozen=True, kw_only=True)
class TextInput:
    """Words of a list (``words``: id is the line), or bytes (``bytes``)."""
    vocabulary: str
    lowercase: bool = True
    vocab_size: int

    def __post_init__(self):
        _need(self.vocabulary in ("words", "bytes"), "input vocabulary", "words or bytes", self.vocabulary)
        _count("input vocab_size", self.vocab_size)


@dataclass(frozen=True, kw_only=True)
class BinaryModelConfig:
    """Sizes of a binary encoder, in elements, and what its layers compute. ValueError with one sentence when they do not fit."""
    hidden_size: int
    n_layers: int
    n_heads: int
    ffn_size: int
    act_bits: int           # of the activations of all matrices but patches and head: 1 or 8
    attention: str          # sps: s >= threshold; softmax: p > threshold
    norm: str               # pre: x + f(norm(x)); post: norm(x + f(x))
    norm_eps: float
    labels: tuple
    pooling: str            # mean or first token of a sequence; none: labels of every token
    max_tokens: int
    input: ImageInput | TextInput

    def __post_init__(self):
        for name in ("hidden_size", "n_layers", "n_heads", "ffn_size", "max_tokens"):
            _count(name, getattr(self, name))
        _need(self.act_bits in (1, 8), "activation_bits", "1 or 8", self.act_bits)
        for name, words in (("attention", ATTENTIONS), ("norm", NORMS), ("pooling", POOLINGS)):
            _need(getattr(self, name) in words, name, f"one of {', '.join(words)}", getattr(self, name))
        _need(not self.hidden_size % self.n_heads, "hidden_size", f"a multiple of {self.n_heads} heads", self.hidden_size)
        _need(not self.head_dim % 8, "size of a head", "a multiple of 8", self.head_dim)
        _need(not self.ffn_size % 8, "intermediate_size", "a multiple of 8", self.ffn_size)
        _need(isinstance(self.norm_eps, float) and 0 <= self.norm_eps and math.isfinite(self.norm_eps), "layer_norm_eps",
              "a number that is not negative", self.norm_eps)
        _need(len(self.labels) > 0 and all(isinstance(label, str) for label in self.labels), "labels", "a list of words",
              self.labels)
        if isinstance(self.input, ImageInput):
            _need(self.input.n_tokens <= self.max_tokens, "max_tokens", f"at least {self.input.n_tokens} patches", self.max_tokens)

    @property
    def head_dim(self):
        """Elements of a head."""
        return self.hidden_size // self.n_heads

    def shape(self, matrix):
        """(outputs, inputs) of a matrix of ``MATRICES``."""
        return {"up": (self.ffn_size, self.hidden_size), "down": (self.hidden_size, self.ffn_size)}.get(
            matrix, (self.hidden_size, self.hidden_size))

    def to_json(self):
        """As a dict for headers."""
        return asdict(self) | {"labels": list(self.labels)}


@dataclass(frozen=True)
class BinaryModel:
    """A checkpoint in memory. ``tensors``: numpy arrays by the names of the file; weights of ``MATRICES`` are int8 of +-1, patch
    and head weights int16, all others float32. ``words``: the vocabulary's file, empty where there is none."""
    config: BinaryModelConfig
    tensors: dict
    name: str
    words: bytes = b""

    def layer(self, i):
        """Tensors of a layer, by their names within it."""
        prefix = f"layers.{i}."
        return {name[len(prefix):]: value for name, value in self.tensors.items() if name.startswith(prefix)}
