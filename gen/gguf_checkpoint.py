"""Checkpoints of llama.cpp and bitnet.cpp: one GGUF file.

    architecture    gate    sub-norms   pairs of rotary positions, in the rows of q and k
    llama           silu    no          (2i, 2i + 1)        llama.cpp: LLAMA_ROPE_TYPE_NORM
    bitnet          silu    yes         (i, i + D/2)        LLAMA_ROPE_TYPE_NEOX
    bitnet-b1.58    relu2   yes         (i, i + D/2)        LLAMA_ROPE_TYPE_NEOX

A :class:`Checkpoint` has the pairs (i, i + D/2) of Hugging Face; rows of q and k of ``llama`` are put into that order.

Matrices whose rows hold one magnitude and zeros, in whatever type, become :class:`Trits`: exactly what the ``gguf`` package
dequantises to. TQ1_0 and TQ2_0 have a scale for 256 weights; where those of a row differ, the matrix cannot be had as trits
with a scale a row. It is read as float32, as matrices of other types are that are not ternary, and becomes digits.

I2_S (``quantize_i2_s`` of bitnet.cpp, ``src/ggml-bitnet-mad.cpp``, blocks of 128 as on x86): 128 weights are 32 bytes; byte j
has weights j, j + 32, j + 64, j + 96 in bits 7:6, 5:4, 3:2, 1:0; code = trit + 1. Behind all codes one binary32, the scale.

Names and shapes of all tensors are checked when a file is loaded. The matrices of a layer are read, and their values checked, when
the layer is asked for; in blocks of rows, mapped from the file, so that a ternary matrix is never held as float32.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import torch

from .gguf_file import I2_S, I2_S_BLOCK, I2_S_TAIL_BYTES, GGUFFile
from .model import MATRICES, Checkpoint, ModelConfig, Trits
from .rows import Rows
from .tensors import CheckpointError

__all__ = ["load"]

# Architecture -> (activation, sub-norms, neighbours are rotary pairs).
_ARCHITECTURES = {"llama": ("silu", False, True), "bitnet": ("silu", True, False), "bitnet-b1.58": ("relu2", True, False)}
_PATHS = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
          "attn_norm": "attn_norm", "ffn_norm": "ffn_norm", "attn_sub_norm": "attn_sub_norm", "ffn_sub_norm": "ffn_sub_norm"}
_GROUPED_KINDS = (gguf.GGMLQuantizationType.TQ1_0, gguf.GGMLQuantizationType.TQ2_0)     # trits with a scale for 256
_EMBEDDING, _FINAL_NORM, _HEAD = "token_embd.weight", "output_norm.weight", "output.weight"
_NUMBER = (int, float)
_KIND_NAMES = {int: "an integer", _NUMBER: "a number", str: "a string"}
_FLOAT_MAX = float(np.finfo(np.float32).max)
_BLOCK_ELEMENTS = 1 << 22


def load(path):
    """Read a GGUF file. Returns :class:`Checkpoint`; it and its layers raise :class:`CheckpointError`."""
    path = Path(path)
    file = GGUFFile(path)
    config, neighbours = _model_config(file)
    tensors, layers, shape = _Tensors(file), _Layers(file, config, neighbours), (config.vocab_size, config.hidden_size)
    expected = layers.expected() | {_EMBEDDING: shape, _FINAL_NORM: (config.hidden_size,)} | ({} if config.tied else {_HEAD: shape})
    _check_shapes(file.tensors, expected)
    embedding = tensors.rows(_EMBEDDING)
    layers.sources |= {"embedding": file.tensors[_EMBEDDING].kind_name,
                       "head": file.tensors[_EMBEDDING if config.tied else _HEAD].kind_name}
    return Checkpoint(config, embedding, layers, tensors.floats(_FINAL_NORM),
                      embedding if config.tied else tensors.rows(_HEAD), path.stem, config.sub_norms and not layers.grouped(),
                      layers.sources)


class _Layers(Sequence):
    """Layers that are read when they are indexed: {matrix: float32 tensor or :class:`Trits`, gain: float32 tensor}.

    ``sources`` {"layer0.q": type of the tensor in the file}; once a layer has been read, with what became of its scales.
    """

    def __init__(self, file, config, neighbours):
        self._file, self._tensors, self._config, self._neighbours = file, _Tensors(file), config, neighbours
        self.sources = {}

    def __len__(self):
        return self._config.n_layers

    def __getitem__(self, index):
        i = range(len(self))[index]
        layer = {name: self._matrix(i, name) for name in MATRICES}
        return layer | {name: self._tensors.floats(_weight(i, name)) for name in self._config.gains()}

    def grouped(self):
        """Whether a matrix has a type of trits with a scale for some of a row: then floats are no master weights."""
        return any(self._file.tensors[_weight(i, name)].kind in _GROUPED_KINDS for i in range(len(self)) for name in MATRICES)

    def expected(self):
        """{name: shape} of all tensors of the layers: the scales only where they are."""
        found, last = {}, len(self) - 1
        if last > len(self._file.tensors):
            raise CheckpointError(f"The checkpoint must hold tensor {_weight(last, 'q')}, and does not")
        for i in range(len(self)):
            found |= {_weight(i, name): self._config.shape(name) for name in MATRICES}
            found |= {_weight(i, name): (size,) for name, size in self._config.gains().items()}
            found |= {_scale(i, name): (1,) for name in MATRICES if _scale(i, name) in self._file.tensors}
        return found

    def _matrix(self, i, name):
        weight = _weight(i, name)
        found = self._tensors.matrix(weight)
        unequal = ", unequal scales: as digits" if weight in self._tensors.unequal else ""
        self.sources[f"layer{i}.{name}"] = self._file.tensors[weight].kind_name + unequal
        if _scale(i, name) in self._file.tensors:
            found = _scaled(found, self._tensors.positive(_scale(i, name)))
        return _halves(found, self._config.head_dim) if self._neighbours and name in "qk" else found


def _weight(i, name):
    return f"blk.{i}.{_PATHS[name]}.weight"


def _scale(i, name):
    """Name of the number that the products of a matrix are multiplied by, which few files have."""
    return f"blk.{i}.{_PATHS[name]}.scale"


def _check_shapes(tensors, expected):
    """Raise unless ``tensors`` are those of ``expected`` {name: shape}: others would change what the model computes."""
    for name, shape in expected.items():
        if name not in tensors:
            raise CheckpointError(f"The checkpoint must hold tensor {name}, and does not")
        if tensors[name].shape != shape:
            raise CheckpointError(f"Tensor {name} must have shape {shape}, not {tensors[name].shape}")
    for name in sorted(tensors.keys() - expected.keys()):
        raise CheckpointError(f"Tensor {name} must not be there: the decoder has no biases, experts or scaled positions")


def _halves(matrix, head_dim):
    """``matrix`` with the rows of each head in the order 0, 2, 4, ..., 1, 3, 5, ..."""
    if isinstance(matrix, Trits):
        scale = _halves(matrix.scale[:, None], head_dim)[:, 0] if matrix.scale.ndim else matrix.scale
        return Trits(_halves(matrix.trits, head_dim), scale)
    return matrix.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def _scaled(matrix, scale):
    """``matrix`` times a number."""
    if isinstance(matrix, Trits):
        return Trits(matrix.trits, matrix.scale * scale)
    return matrix * scale


def _model_config(file):
    """(:class:`ModelConfig`, whether neighbours are rotary pairs)."""
    def get(key, kind, default=None):
        value = file.metadata.get(key, default)
        if value is None:
            raise CheckpointError(f"GGUF metadata must give {key}")
        if isinstance(value, bool) or not isinstance(value, kind) or (isinstance(value, float) and not abs(value) <= _FLOAT_MAX):
            raise CheckpointError(f"GGUF metadata {key} must be {_KIND_NAMES[kind]}, not {str(value)[:40]!r}")
        return value[:40] if kind is str else value

    def must_be(key, kind, expected, default):
        value = get(key, kind, default)
        if value != expected:
            raise CheckpointError(f"GGUF metadata {key} must be {expected}, not {value!r}")

    architecture = get("general.architecture", str)
    if architecture not in _ARCHITECTURES:
        raise CheckpointError(f"GGUF metadata general.architecture must be one of {', '.join(_ARCHITECTURES)}, "
                              f"not {architecture!r}")
    act, sub_norms, neighbours = _ARCHITECTURES[architecture]
    of = f"{architecture}."
    hidden_size, n_heads = get(of + "embedding_length", int), get(of + "attention.head_count", int)
    head_dim = get(of + "attention.key_length", int, hidden_size // max(n_heads, 1))
    must_be(of + "attention.value_length", int, head_dim, head_dim)
    must_be(of + "rope.dimension_count", int, head_dim, head_dim)
    if get(of + "rope.scaling.type", str, "none") != "none":
        must_be(of + "rope.scaling.type", str, "linear", "linear")
        must_be(of + "rope.scaling.factor", _NUMBER, 1, 1)
    must_be(of + "rope.scale_linear", _NUMBER, 1, 1)
    must_be(of + "expert_count", int, 0, 0)
    if get("split.count", int, 1) > 1:
        raise CheckpointError("GGUF metadata split.count must be 1: join the parts with llama-gguf-split --merge")
    embedding = file.tensors.get(_EMBEDDING)
    try:
        return ModelConfig(
            hidden_size=hidden_size, ffn_size=get(of + "feed_forward_length", int), n_layers=get(of + "block_count", int),
            n_heads=n_heads, n_kv_heads=get(of + "attention.head_count_kv", int, n_heads), head_dim=head_dim,
            vocab_size=get(of + "vocab_size", int, embedding.shape[0] if embedding else 1),
            max_positions=get(of + "context_length", int),
            norm_eps=_decimal(get(of + "attention.layer_norm_rms_epsilon", _NUMBER)),
            rope_theta=_decimal(get(of + "rope.freq_base", _NUMBER, 10000.0)),
            act=act, sub_norms=sub_norms, tied=_HEAD not in file.tensors), neighbours
    except CheckpointError:
        raise
    except (ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"GGUF metadata: {error}") from None


def _decimal(value):
    """The shortest decimal number that a binary32 of the file stands for: 1e-5, not 9.999999747e-06."""
    return float(str(np.float32(value)))


class _Tensors:
    """The values of tensors of a file. ``unequal``: names of those read so far that are trits with several scales in a row."""

    def __init__(self, file):
        self._file, self.unequal = file, set()

    def floats(self, name):
        """float32."""
        tensor = self._file.tensors[name]
        values = np.empty(_as_rows(tensor), np.float32)
        for rows, block in self._blocks(tensor):
            values[rows] = block
        return torch.from_numpy(values.reshape(tensor.shape))

    def rows(self, name):
        """:class:`Rows` in float32 of a matrix."""
        tensor = self._file.tensors[name]

        def read(first, last):
            values = np.empty((last - first, tensor.shape[1]), np.float32)
            for rows, block in self._blocks(tensor, first, last):
                values[rows.start - first:rows.stop - first] = block
            return torch.from_numpy(values)

        return Rows(tensor.shape, read)

    def matrix(self, name):
        """:class:`Trits`, or float32."""
        tensor = self._file.tensors[name]
        trits, peaks = np.empty(tensor.shape, np.int8), np.empty(tensor.shape[0], np.float32)
        for rows, block in self._blocks(tensor):
            peaks[rows] = np.abs(block).max(1)
            trits[rows] = np.sign(block)
            ternary = (trits[rows] * peaks[rows, None] == block).all(1)
            if not ternary.all():
                if tensor.kind == I2_S:
                    raise CheckpointError(f"Tensor {name} (I2_S) must hold -s, 0 and s with one s, and row "
                                          f"{rows.start + int(ternary.argmin())} holds other numbers")
                if tensor.kind in _GROUPED_KINDS:
                    self.unequal.add(name)
                return self.floats(name)
        if not peaks.any():
            return torch.zeros(tensor.shape)
        same = (peaks[peaks > 0] == peaks.max()).all()
        return Trits(torch.from_numpy(trits), torch.tensor(peaks.max()) if same else torch.from_numpy(peaks))

    def positive(self, name):
        """A number above 0."""
        number = self.floats(name)[0]
        if not number > 0:
            raise CheckpointError(f"Tensor {name} must be positive, not {number:g}")
        return number

    def _blocks(self, tensor, start=0, stop=None):
        """(slice of rows, float32 values (rows, columns)) of a tensor from row ``start`` to ``stop``; a vector is one row."""
        n_rows, n_columns = _as_rows(tensor)
        data = self._file.bytes_of(tensor)
        if tensor.kind == I2_S:
            data, tail = data[:-I2_S_TAIL_BYTES], data[-I2_S_TAIL_BYTES:]
            dequantise = partial(_dequantise_i2_s, scale=tail[:4].view("<f4")[0])
        else:
            dequantise = partial(gguf.quants.dequantize, qtype=gguf.GGMLQuantizationType(tensor.kind))
        data, step = data.reshape(n_rows, -1), max(1, _BLOCK_ELEMENTS // n_columns)
        stop = n_rows if stop is None else stop
        for first in range(start, stop, step):
            rows = slice(first, min(first + step, stop))
            try:
                with np.errstate(all="ignore"):
                    block = dequantise(np.ascontiguousarray(data[rows]))
            except NotImplementedError:
                raise CheckpointError(f"Tensor {tensor.name} must have a type that the gguf package dequantises, not "
                                      f"{tensor.kind_name}") from None
            if not np.isfinite(block).all():
                raise CheckpointError(f"Tensor {tensor.name} must hold finite numbers, and does not")
            yield rows, block


def _as_rows(tensor):
    """(rows, columns) of a matrix; a vector is one row."""
    return tensor.shape if len(tensor.shape) == 2 else (1, tensor.shape[0])


def _dequantise_i2_s(data, scale):
    """(rows, columns / 4) bytes to (rows, columns) float32; code 3 becomes 2 scale, as arithmetic has it."""
    blocks = data.reshape(len(data), -1, 1, I2_S_BLOCK // 4)
    codes = (blocks >> np.array([[6], [4], [2], [0]], np.uint8)) & np.uint8(3)
    return (codes.reshape(len(data), -1).astype(np.float32) - 1) * scale
