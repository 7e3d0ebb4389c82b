"""Checkpoints of llama2.c: one file of seven int32 and float32 tensors (its first, "legacy" format).

    dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size (negative: the head is a tensor of its own), seq_len
    token embedding (vocab, dim)
    attention norms (layers, dim), wq (layers, dim, dim), wk, wv (layers, kv_dim, dim), wo (layers, dim, dim)
    FFN norms (layers, dim), w1 gate (layers, hidden_dim, dim), w2 down (layers, dim, hidden_dim), w3 up
    final norm (dim); cosines and sines (seq_len, head_dim / 2) each, not used; head (vocab, dim) where it is not tied

All little endian. SiLU, no biases, norm epsilon 1e-5, rotary base 10000. llama2.c turns the neighbours (2j, 2j + 1) of a head
together; here the pairs are (j, j + head_dim / 2), so the rows of wq and wk are taken in the order 0, 2, .. 1, 3, .. of every
head. Tensors stay in the mapped file until they are used.
"""

import itertools
import math
import struct
import zipfile
from collections.abc import Sequence

import numpy as np
import torch

from .model import Checkpoint, ModelConfig
from .rows import Rows
from .tensors import CheckpointError

__all__ = ["load", "tensor_shapes"]

_HEADER = struct.Struct("<7i")
_PATHS = {"q": "wq", "k": "wk", "v": "wv", "o": "wo", "gate": "w1", "up": "w3", "down": "w2",
          "attn_norm": "attention_norm", "ffn_norm": "ffn_norm"}
_VERSIONED = struct.pack("<I", 0x616B3432)    # magic number of the later formats


def load(path):
    """Read a file. Returns :class:`Checkpoint`; it, its layers and rows raise :class:`CheckpointError`."""
    try:
        with open(path, "rb") as file:
            start, n_bytes = file.read(_HEADER.size), file.seek(0, 2)
    except OSError:
        raise CheckpointError(f"The checkpoint {path} cannot be read") from None
    # A pickle begins with 0x80 and its protocol, as a dim of 640 does; but no pickle goes on with a zero.
    if start[:1] == b"\x80" and start[2:3] != b"\0" or start[:4] == zipfile.stringFileHeader:
        raise CheckpointError(f"A checkpoint *.bin must be a file of llama2.c, and {path.name} is a pickle of PyTorch: "
                              "save it as safetensors")
    if start[:4] == _VERSIONED:
        raise CheckpointError(f"A file of llama2.c must be in its legacy format, and {path.name} has a version number: "
                              "export it with version 0")
    if len(start) < _HEADER.size:
        raise CheckpointError(f"A file of llama2.c must begin with seven numbers, and {path.name} has {n_bytes} bytes")
    config, positions = _config(path.name, *_HEADER.unpack(start))
    shapes = tensor_shapes(config, positions)
    wanted = _HEADER.size + 4 * sum(map(math.prod, shapes.values()))
    if n_bytes != wanted:
        raise CheckpointError(f"A file of llama2.c with these sizes must have {wanted} bytes, and {path.name} has {n_bytes}")

    file = _File(path, shapes)
    embedding = file.rows("tok_embeddings")
    head = embedding if config.tied else file.rows("output")
    return Checkpoint(config, embedding, _Layers(config, file), file.rows("norm")[:], head, path.stem)


class _File:
    """The tensors of a file of ``shapes``. It is mapped anew for every part, so that what was read does not stay in memory."""

    def __init__(self, path, shapes):
        self._path, self._shapes = path, shapes
        ends = itertools.accumulate(map(math.prod, shapes.values()), initial=0)
        self._starts = dict(zip(shapes, ends))

    def rows(self, name):
        """:class:`Rows` of a tensor along its first axis."""
        shape = self._shapes[name]

        def read(first, last):
            start = _HEADER.size + 4 * (self._starts[name] + first * math.prod(shape[1:]))
            values = torch.from_numpy(np.memmap(self._path, "<f4", "c", start, (last - first, *shape[1:])))
            if not values.isfinite().all():
                raise CheckpointError(f"Tensor {name} must hold finite numbers, and does not")
            return values

        return Rows(shape, read)


class _Layers(Sequence):
    """Layers that are read when they are indexed: {matrix or gain: float32 tensor}."""

    def __init__(self, config, file):
        self._config, self._file = config, file

    def __len__(self):
        return self._config.n_layers

    def __getitem__(self, index):
        i = range(len(self))[index]
        layer = {name: self._file.rows(tensor)[i:i + 1][0] for name, tensor in _PATHS.items()}
        return layer | {name: self._halves(layer[name]) for name in "qk"}

    def _halves(self, weight):
        """Rows of neighbours to rows of halves, head by head."""
        heads = weight.view(-1, self._config.head_dim // 2, 2, weight.shape[1])
        return heads.transpose(1, 2).reshape(weight.shape)


def tensor_shapes(config, positions):
    """{name: shape} of all tensors of a file, in their order."""
    layers, dim, ffn, kv = config.n_layers, config.hidden_size, config.ffn_size, config.n_kv_heads * config.head_dim
    shapes = {"tok_embeddings": (config.vocab_size, dim), "attention_norm": (layers, dim), "wq": (layers, dim, dim),
              "wk": (layers, kv, dim), "wv": (layers, kv, dim), "wo": (layers, dim, dim), "ffn_norm": (layers, dim),
              "w1": (layers, ffn, dim), "w2": (layers, dim, ffn), "w3": (layers, ffn, dim), "norm": (dim,),
              "freqs_cos": (positions, config.head_dim // 2), "freqs_sin": (positions, config.head_dim // 2)}
    return shapes if config.tied else shapes | {"output": (config.vocab_size, dim)}


def _config(name, dim, ffn, n_layers, n_heads, n_kv_heads, vocab, positions):
    sizes = {"dim": dim, "hidden_dim": ffn, "n_layers": n_layers, "n_heads": n_heads, "n_kv_heads": n_kv_heads,
             "vocab_size": abs(vocab), "seq_len": positions}
    for size, value in sizes.items():
        if value < 1:
            raise CheckpointError(f"A file of llama2.c must have a positive {size}, and {name} has {value}")
    if dim % n_heads:
        raise CheckpointError(f"A file of llama2.c must have a dim that is a multiple of its {n_heads} heads, and {name} has {dim}")
    try:
        return ModelConfig(hidden_size=dim, ffn_size=ffn, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads,
                           head_dim=dim // n_heads, vocab_size=abs(vocab), max_positions=positions, act="silu",
                           sub_norms=False, tied=vocab > 0), positions
    except ValueError as error:
        raise CheckpointError(f"{name}: {error}") from None
