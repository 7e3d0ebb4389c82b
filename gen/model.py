"""Shapes of a decoder, and its weights before and after quantisation.

    Checkpoint (float tensors, or trits where the file holds trits) ── quantise ──► QModel (integers and scales)

Names of matrices: q, k, v, o, gate, up, down. Matrices are (outputs, inputs), as in torch. Norm gains: attn_norm,
attn_sub_norm, ffn_norm, ffn_sub_norm; the two sub-norms are None in a model that has none.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from reprlib import repr as shown

import torch

from .rows import Rows

__all__ = ["ACTS", "CAPS", "EXACT", "HEADS", "HEAD_PLANES", "MATRICES", "MAX_PLANES", "Checkpoint", "HeadPlan", "ModelConfig",
           "PackedTensor", "QHead", "QLayer", "QMatrix", "QModel", "Trits"]

ACTS = ("relu2", "silu")
CAPS = (2.0**-10, 2.0**12)      # least and largest attn_cap: what the instructions have room for, with some precision
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
HEADS = ("exact", "ternary", "shortlist")
_MOST = 2**31 - 1       # of any size: what the instructions and files that are read have room for
MAX_PLANES = 5          # digit planes of a matrix, at most
HEAD_PLANES = MAX_PLANES    # of exact rows


def _is_count(value, least=0):
    return isinstance(value, int) and not isinstance(value, bool) and least <= value


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of a decoder, in elements, and what its layers compute. ValueError with one sentence when they do not fit."""

    hidden_size: int
    ffn_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    act: str = "relu2"       # relu2: relu(gate)**2 * up; silu: gate * sigmoid(gate) * up
    sub_norms: bool = True   # RMS norms before o and down
    tied: bool = True        # the head is the embedding
    windows: tuple = ()      # of each layer: positions that a token sees, itself included; 0: all; () for all layers
    sinks: int = 0           # first positions of a sequence that every token sees, beside a window
    attn_cap: float = 0.0    # soft-cap of the scores: attn_cap * tanh(score / attn_cap); 0: none
    logit_cap: float = 0.0   # soft-cap of the logits, which the host applies; 0: none
    rebase: bool = True      # a query meets sinks before its window from position window + sinks - 1, as if they lay next to it
    bidirectional: bool = False     # an encoder: all tokens of a text see one another

    def __post_init__(self):
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type is int and not _is_count(value, each.name != "sinks"):
                kind = "a number of positions" if each.name == "sinks" else "a positive integer"
                raise ValueError(f"Model {each.name} must be {kind}, not {shown(value)}")
            if each.type is int and value > _MOST:
                raise ValueError(f"Model {each.name} must be at most {_MOST}, not {shown(value)}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"Model n_heads must be a multiple of the {self.n_kv_heads} KV heads, not {self.n_heads}")
        if self.head_dim % 2:
            raise ValueError(f"Model head_dim must be even for rotary positions, not {self.head_dim}")
        if self.act not in ACTS:
            raise ValueError(f"Model act must be one of {', '.join(ACTS)}, not {shown(self.act)}")
        if not self.norm_eps > 0 or not self.rope_theta > 0:
            raise ValueError(f"Model norm_eps and rope_theta must be positive, not {self.norm_eps} and {self.rope_theta}")
        for name, least, most in (("attn_cap", *CAPS), ("logit_cap", 0.0, math.inf)):
            value = getattr(self, name)
            if value and not (least <= value <= most and 0 < value < math.inf):
                within = "be positive" if least == 0.0 else f"be {least:g} to {most:g}"
                raise ValueError(f"Model {name} must {within}, or 0 for none, not {shown(value)}")
        if not isinstance(self.windows, list | tuple) or not all(_is_count(window) for window in self.windows) \
                or self.windows and len(self.windows) != self.n_layers:
            raise ValueError(f"Model windows must be a number of positions for each of {self.n_layers} layers, or none, "
                             f"not {self.windows!r}")
        if self.bidirectional and any(self.windows):
            raise ValueError(f"Model windows must be 0, for all positions, in a bidirectional model, not {self.windows!r}")
        object.__setattr__(self, "windows", tuple(window if window < self.max_positions else 0 for window in self.windows))

    @property
    def cap(self):
        """The soft-cap as ``isa.Attend`` has it: of scores in base 2, in units of 2**-16."""
        return round(self.attn_cap * math.log2(math.e) * 65536)

    @property
    def query_factor(self):
        """What a query's scale is multiplied with: scores in base 2, or with a cap the argument of tanh."""
        return (1 / self.attn_cap if self.attn_cap else math.log2(math.e)) / math.sqrt(self.head_dim)

    @property
    def group(self):
        """Query heads that share a KV head."""
        return self.n_heads // self.n_kv_heads

    @property
    def attn_size(self):
        """Elements of all query heads."""
        return self.n_heads * self.head_dim

    def window(self, layer):
        """Positions that a token sees in a layer, itself included; 0: all."""
        return self.windows[layer] if self.windows else 0

    def rebased(self, layer):
        """Position from which queries of a layer meet sinks before their window, if that is not their own; else None."""
        window = self.window(layer)
        return window + self.sinks - 1 if window and self.sinks and self.rebase else None

    def first_layers(self, n_layers):
        """The same decoder with its first ``n_layers`` layers alone."""
        return replace(self, n_layers=n_layers, windows=self.windows[:n_layers])

    def with_window(self, window, sinks=0, rebase=True):
        """The same decoder, every layer of which sees ``window`` positions and the first ``sinks``."""
        if not _is_count(window):
            raise ValueError(f"A window must be a number of positions, 0 for all, not {window!r}")
        return replace(self, windows=(window,) * self.n_layers, sinks=sinks, rebase=rebase)

    def shape(self, matrix):
        """(outputs, inputs) of a matrix of ``MATRICES``."""
        kv_size = self.n_kv_heads * self.head_dim
        return {"q": (self.attn_size, self.hidden_size), "k": (kv_size, self.hidden_size),
                "v": (kv_size, self.hidden_size), "o": (self.hidden_size, self.attn_size),
                "gate": (self.ffn_size, self.hidden_size), "up": (self.ffn_size, self.hidden_size),
                "down": (self.hidden_size, self.ffn_size)}[matrix]

    def gains(self):
        """{name: elements} of the norms of a layer."""
        gains = {"attn_norm": self.hidden_size, "ffn_norm": self.hidden_size}
        if self.sub_norms:
            gains |= {"attn_sub_norm": self.attn_size, "ffn_sub_norm": self.ffn_size}
        return gains

    def to_json(self):
        return asdict(self) | {"windows": list(self.windows)}


@dataclass(frozen=True)
class Trits:
    """A matrix that the checkpoint holds as trits: value = trits * scale."""
    trits: torch.Tensor     # (outputs, inputs) int8 in -1..1
    scale: torch.Tensor     # () or (outputs,) float32


@dataclass(frozen=True)
class Checkpoint:
    """What was read: float32 tensors, or :class:`Trits` for matrices. What stays in the file until it is asked for are the
    layers, one at a time, and the rows of embedding and head (:class:`Rows`). ``ternary``: the matrices were trained to be used as
    trits by BitNet's absmean rule, so that floats among them are master weights."""
    config: ModelConfig
    embedding: Rows | torch.Tensor         # (vocab, hidden) float32
    layers: Sequence                       # {matrix name: float32 tensor or Trits, gain name: float32 tensor}
    final_norm: torch.Tensor               # (hidden,) float32
    head: Rows | torch.Tensor              # (vocab, hidden) float32; the embedding itself when tied
    name: str = "model"
    ternary: bool = False
    sources: dict = field(default_factory=dict)     # {"layer0.q", ..., "embedding", "head": type of its values in the file}


@dataclass(frozen=True)
class QMatrix:
    """value[r, c] = weights[r, c] * scale[r]; weights of ``planes`` balanced ternary digits."""
    weights: torch.Tensor   # (outputs, inputs) int8 within (3**planes - 1) / 2
    scale: torch.Tensor     # (outputs,) float32
    planes: int = 1
    relative_error: float = 0.0     # |W - W'| / |W|, Euclidean norms of the whole matrix


@dataclass(frozen=True)
class HeadPlan:
    """How candidates are found. ValueError with one sentence when there is no such way.

    exact      all logits from rows of int8 (five digit planes)
    ternary    all logits from rows of ``planes`` digit planes
    shortlist  the best ``candidates`` by rows of ``planes`` digit planes; their logits from rows of int8
    """
    kind: str = "exact"
    candidates: int = 16
    planes: int = 1

    def __post_init__(self):
        if self.kind not in HEADS:
            raise ValueError(f"Head must be one of {', '.join(HEADS)}, not {shown(self.kind)}")
        if self.candidates < 1:
            raise ValueError(f"The candidates of a shortlist must be at least 1, not {self.candidates}")
        if not 1 <= self.planes < HEAD_PLANES:
            raise ValueError(f"The planes of a shortlist must be 1 to {HEAD_PLANES - 1}, not {self.planes}")

    @property
    def streamed_planes(self):
        """Digit planes of the rows that are read for every token."""
        return HEAD_PLANES if self.kind == "exact" else self.planes


EXACT = HeadPlan()


@dataclass(frozen=True)
class QHead:
    """value[r, c] = weights[r, c] * scale[r]."""
    weights: torch.Tensor   # (vocab, hidden) int8 in -121..121, or what fewer digit planes hold
    scale: torch.Tensor     # (vocab,) float32
    relative_error: float = 0.0     # against the rows of the checkpoint


@dataclass(frozen=True)
class QLayer:
    q: QMatrix
    k: QMatrix
    v: QMatrix
    o: QMatrix
    gate: QMatrix
    up: QMatrix
    down: QMatrix
    attn_norm: torch.Tensor
    ffn_norm: torch.Tensor
    attn_sub_norm: torch.Tensor | None = None
    ffn_sub_norm: torch.Tensor | None = None


@dataclass(frozen=True)
class QModel:
    """The quantised decoder: what the image holds and the golden model computes with.

    ``layers`` makes a layer whenever it is asked for one: whoever needs one twice keeps ``list(layers)``.
    """
    config: ModelConfig
    embedding: Rows | torch.Tensor         # (vocab, hidden) float32
    layers: Sequence                       # of QLayer
    final_norm: torch.Tensor               # (hidden,) float32
    make_heads: Callable                   # () -> (head, coarse)
    name: str = "model"
    plan: HeadPlan = EXACT
    sources: dict = field(default_factory=dict)     # of the checkpoint

    @cached_property
    def _heads(self):
        return self.make_heads()

    @property
    def head(self):
        """:class:`QHead` with the exact rows; read and quantised when it is first asked for."""
        return self._heads[0]

    @property
    def coarse(self):
        """:class:`QHead` of ``plan.planes`` digit planes, or None where the plan has none."""
        return self._heads[1]


@dataclass(frozen=True)
class PackedTensor:
    """What became of one matrix of a checkpoint: its size without padding, digit planes (0: binary32, not quantised),
    |W - W'| / |W|, and the type that its values had in the file."""
    name: str
    rows: int
    columns: int
    planes: int
    relative_error: float
    source: str
