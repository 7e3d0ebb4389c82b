"""What goes into the model window, piece by piece: a layer is quantised when its turn comes, and forgotten after it.

    QModel ── Sources ──► Rows of tables, Weights of matrices, in the order of ``Window.names``
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from .model import HEAD_PLANES, MATRICES, PackedTensor
from .pack import to_planes
from .place import pad_to, rope_table

__all__ = ["Floats", "Sources", "Weights"]

_BLOCK_ROWS = 1024


@dataclass(frozen=True)
class Floats:
    """A table: ``blocks`` of its rows, float32 (n, elements)."""
    name: str
    blocks: Iterator


@dataclass(frozen=True)
class Weights:
    """A matrix: int8 ``weights`` (rows, columns) of ``n_planes`` balanced ternary digits, and a scale a row.

    ``row_elements``: scales that lie in a row of their table; default all.
    """
    name: str
    weights: torch.Tensor
    scales: torch.Tensor        # (rows, padded as in the window,) float32
    n_planes: int
    row_elements: int | None = None

    @property
    def scale(self):
        """The scale of all rows that have one, as a float; None where they differ."""
        real = self.scales[self.scales != 0]
        return float(real[0]) if len(real) and bool((real == real[0]).all()) else None

    def table(self):
        """The :class:`Floats` of the scales."""
        return Floats(f"{self.name}.scales", iter([self.scales.view(-1, self.row_elements or len(self.scales)).numpy()]))

    def digits(self, quantum):
        """Trits (planes, n, columns) of blocks of rows, each but the last of a multiple of ``quantum`` rows."""
        for rows in self.weights.split(pad_to(_BLOCK_ROWS, quantum)):
            yield to_planes(rows.numpy(), self.n_planes)


class Sources:
    """Iterates over :class:`Floats` and :class:`Weights`, once. ``tensors`` grows by the records of what has been given out."""

    def __init__(self, model, layout):
        self._model, self._layout = model, layout
        self.tensors = []

    def __iter__(self):
        model, layout = self._model, self._layout
        embedding = PackedTensor("embedding", *model.embedding.shape, 0, 0.0, model.sources.get("embedding", "float32"))
        self.tensors.append(embedding)
        yield Floats("embedding", (self._padded(rows, layout.hidden_rows) for rows in model.embedding.split(_BLOCK_ROWS)))
        yield Floats("rope", iter([self._padded(rope_table(model.config, layout.context), layout.head_pad)]))
        for i, layer in enumerate(model.layers):
            yield from self._layer(f"layer{i}", layer)
        yield self._gain("final_norm", model.final_norm, layout.hidden_rows)
        if model.plan.kind == "shortlist":
            yield self._head("coarse", model.coarse, model.plan.planes)
            yield self._head("head", model.head, HEAD_PLANES, layout.accel.row_quantum)
        else:
            yield self._head("head", model.coarse or model.head, model.plan.streamed_planes)

    def _layer(self, where, layer):
        layout, sub_norms = self._layout, self._model.config.sub_norms
        for name in MATRICES:
            self._record(f"{where}.{name}", getattr(layer, name), getattr(layer, name).planes)
        yield self._gain(f"{where}.attn_norm", layer.attn_norm, layout.hidden_rows)
        for head in range(self._model.config.n_kv_heads):
            yield Weights(f"{where}.qkv{head}", *layout.qkv(layer, head), max(layer.q.planes, layer.k.planes, layer.v.planes))
        if sub_norms:
            yield self._gain(f"{where}.attn_sub_norm", layout.heads_padded(layer.attn_sub_norm), layout.attn_columns)
        yield self._linear(f"{where}.o", layer.o, layout.hidden_rows, layout.heads_padded(layer.o.weights))
        yield self._gain(f"{where}.ffn_norm", layer.ffn_norm, layout.hidden_rows)
        yield self._linear(f"{where}.gate", layer.gate, layout.ffn_rows)
        yield self._linear(f"{where}.up", layer.up, layout.ffn_rows)
        if sub_norms:
            yield self._gain(f"{where}.ffn_sub_norm", layer.ffn_sub_norm, layout.ffn_rows)
        yield self._linear(f"{where}.down", layer.down, layout.hidden_rows)

    def _gain(self, name, values, size):
        return Floats(name, iter([self._padded(values[None], size)]))

    def _linear(self, name, found, rows, weights=None):
        return Weights(name, found.weights if weights is None else weights, self._layout.pad(found.scale, rows), found.planes)

    def _head(self, name, found, n_planes, row_elements=None):
        self._record(name, found, n_planes)
        return Weights(name, found.weights, self._layout.pad(found.scale, self._layout.vocab_rows), n_planes, row_elements)

    def _padded(self, rows, columns):
        """float32 (n, columns)."""
        return self._layout.pad(rows, len(rows), columns).numpy().astype(np.float32, copy=False)

    def _record(self, name, found, n_planes):
        source = self._model.sources.get("head" if name == "coarse" else name, "float32")
        self.tensors.append(PackedTensor(name, *found.weights.shape, n_planes, found.relative_error, source))
