"""The model window: all that lies in it, in order, and where.

Addresses are handed out one after the other, so that a matrix can be placed as soon as it is quantised: its digit planes and
whether all its rows have one scale say how much room it takes, and nothing behind it matters.
"""

import numpy as np

from celosia.hw.isa import Index

from .model import EXACT, HEAD_PLANES
from .pack import matmul_beats
from .place import Layout, Space
from .program import Matrix, Placement, Table

__all__ = ["Window", "place", "split_rows"]


def place(layout, scales, planes=None, *, embedding_rows=None, plan=EXACT):
    """(Placement, bytes of the model window without programs, bytes of the cache window).

    ``scales`` gives, for every matrix, its scale as a float, or None where a table holds one a row.
    ``planes`` gives digit planes of matrices of layers by name; those that are not there have one.
    ``plan`` says which matrices the head has. ``embedding_rows`` leaves out the rows of the embedding from there on.
    """
    window = Window(layout, plan, embedding_rows)
    for name in window.names:
        if window.is_matrix(name):
            window.matrix(name, scales[name], (planes or {}).get(name))
        else:
            window.table(name)
    return window.placement(), window.size, layout.cache()[1]


class Window:
    """Places what is named to it, in the order of ``names``: tables, and matrices with the tables of their scales before them.

    Members: ``tables`` {name: :class:`Table`}, of all that were placed.
    """

    def __init__(self, layout: Layout, plan=EXACT, embedding_rows=None):
        self._layout, self._plan = layout, plan
        self._shapes = _shapes(layout, embedding_rows, plan)
        self._space = Space(layout.accel.n_ports)
        self.tables, self._matrices = {}, {}

    @property
    def names(self):
        """Tables and matrices, without the tables of scales, in order."""
        return [name for name in self._shapes if not name.endswith(".scales")]

    @property
    def size(self):
        """Bytes that are taken."""
        return self._space.size

    def is_matrix(self, name):
        return len(self._shapes[name]) == 3

    def table(self, name):
        """The :class:`Table` of a name."""
        n_rows, n_words = self._shapes[name]
        accel = self._layout.accel
        stride = n_words * 4 * accel.vector_lanes // accel.n_ports
        other = Index.CANDIDATE if self._gathered(name) else Index.NONE
        index = {"embedding": Index.TOKEN, "rope": Index.POSITION}.get(name, other)
        self.tables[name] = Table(self._space.take(n_rows * stride, stride), n_words, index)
        return self.tables[name]

    def matrix(self, name, scale, n_planes=None):
        """The :class:`Matrix` of a name, behind the table ``name.scales`` where ``scale`` is None."""
        planes, rows, columns = self._shapes[name]
        n_planes = n_planes or planes
        accel, layout = self._layout.accel, self._layout
        if scale is None:
            self.table(f"{name}.scales")
        beats = matmul_beats(n_planes, rows, columns, accel)
        self._matrices[name] = Matrix(self._space.take(beats * accel.port_bytes), layout.rows(rows), layout.columns(columns),
                                      n_planes, scale, self._gathered(name))
        return self._matrices[name]

    def placement(self):
        """The :class:`Placement` of all that was placed."""
        return Placement(self._layout, self._matrices, self.tables, self._layout.cache()[0], self._plan)

    def _gathered(self, name):
        return self._plan.kind == "shortlist" and name in ("head", "head.scales")


def _shapes(layout, embedding_rows, plan):
    """All that may lie in the window, in order: tables (rows, words), matrices (planes, rows, columns)."""
    model, accel, words = layout.model, layout.accel, layout.words
    shapes = {"embedding": (embedding_rows or model.vocab_size, words(layout.hidden_rows)),
              "rope": (layout.context, layout.head_words)}

    def matrix(name, rows, columns, n_planes=1):
        shapes[f"{name}.scales"] = (1, words(rows))
        shapes[name] = (n_planes, rows, columns)

    for i in range(model.n_layers):
        shapes[f"layer{i}.attn_norm"] = (1, words(layout.hidden_rows))
        for head in range(model.n_kv_heads):
            matrix(f"layer{i}.qkv{head}", layout.qkv_rows, model.hidden_size)
        if model.sub_norms:
            shapes[f"layer{i}.attn_sub_norm"] = (1, words(layout.attn_columns))
        matrix(f"layer{i}.o", layout.hidden_rows, layout.attn_columns)
        shapes[f"layer{i}.ffn_norm"] = (1, words(layout.hidden_rows))
        matrix(f"layer{i}.gate", layout.ffn_rows, model.hidden_size)
        matrix(f"layer{i}.up", layout.ffn_rows, model.hidden_size)
        if model.sub_norms:
            shapes[f"layer{i}.ffn_sub_norm"] = (1, words(layout.ffn_rows))
        matrix(f"layer{i}.down", layout.hidden_rows, model.ffn_size)
    shapes["final_norm"] = (1, words(layout.hidden_rows))
    if plan.kind == "shortlist":
        matrix("coarse", layout.vocab_rows, model.hidden_size, plan.planes)
        shapes["head.scales"] = layout.vocab_rows // accel.row_quantum, words(accel.row_quantum)
        shapes["head"] = HEAD_PLANES, layout.vocab_rows, model.hidden_size
    else:
        matrix("head", layout.vocab_rows, model.hidden_size, plan.streamed_planes)
    return shapes


def split_rows(rows, accel):
    """(n, elements) float32 to the bytes of each port: every beat's share, row after row."""
    raw = np.ascontiguousarray(rows.astype("<f4")).view(np.uint8)
    ports = raw.reshape(len(rows), -1, accel.n_ports, accel.port_bytes).transpose(2, 0, 1, 3)
    return [port.reshape(-1) for port in ports]
