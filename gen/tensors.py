"""The tensors of a checkpoint folder, read one at a time.

    model.safetensors                 or shards that model.safetensors.index.json names
    pytorch_model.bin                 or shards that pytorch_model.bin.index.json names: pickles, read only as
                                      ``torch.load(weights_only=True)`` reads them, so that none of their code runs

The first of these that is there is read. Safetensors come first.
"""

import io
import json
import mmap
import pickletools
import zipfile
from pathlib import Path
from reprlib import repr as shown

import torch
from safetensors import SafetensorError, safe_open

from .rows import Rows

__all__ = ["CheckpointError", "Tensors", "read_json"]

_BLOCK_ROWS = 2048
_JSON_BYTES = 64 << 20      # at most
_NAME_LENGTH = 200
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8,
           "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64, "BOOL": torch.bool}
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one sentence."""


def read_json(path):
    """The JSON object of a file; raises :class:`CheckpointError`."""
    try:
        if path.stat().st_size > _JSON_BYTES:
            raise CheckpointError(f"{path.name} must have at most {_JSON_BYTES} bytes, not {path.stat().st_size}")
        found = json.loads(path.read_text(encoding="utf-8"))
    except CheckpointError:
        raise
    except OSError:
        raise CheckpointError(f"A checkpoint must be a directory with a {path.name}, and {path} cannot be read") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path.name} must be JSON, and {path} is not") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path.name} must hold a JSON object, not {type(found).__name__}")
    return found


class Tensors:
    """Names, shapes and types of all tensors of a folder; their values when asked for.

    All that is wrong is a :class:`CheckpointError` that names the tensor and what was expected of it.
    """

    def __init__(self, path):
        self._where = _found(Path(path))
        _check_names(self._where)

    def __contains__(self, name):
        return name in self._where

    def __iter__(self):
        return iter(self._where)

    def __getitem__(self, name):
        """The tensor as it is stored."""
        return self._read(name)

    def _read(self, name, rows=None):
        """The tensor, or a slice of its rows, as it is stored."""
        try:
            return self._entry(name).read(name, rows)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"Tensor {name} must be readable, and is not: {error}") from None

    def shape(self, name):
        """Tuple of ints, without reading the tensor."""
        return self._entry(name).shape(name)

    def dtype(self, name):
        """torch.dtype, or a word where torch has none, without reading the tensor."""
        return self._entry(name).dtype(name)

    def require(self, name, shape):
        """Check that the tensor is there with this shape."""
        if self.shape(name) != shape:
            raise CheckpointError(f"Tensor {name} must have shape {shape}, not {self.shape(name)}")

    def floats(self, name, shape=None):
        """The tensor in float32; it must be of floating point, finite, and of ``shape`` where one is given."""
        self._require_floats(name)
        if shape is not None:
            self.require(name, shape)
        return self._float(name)

    def rows(self, name, shape):
        """:class:`Rows` in float32 of a matrix, which must be as for ``floats``."""
        self._require_floats(name)
        self.require(name, shape)
        return Rows(shape, lambda first, last: self._float(name, slice(first, last)))

    def same(self, one, other):
        """Whether two matrices hold the same numbers."""
        blocks = (slice(first, first + _BLOCK_ROWS) for first in range(0, self.shape(one)[0], _BLOCK_ROWS))
        return self.shape(one) == self.shape(other) and all(torch.equal(self._float(one, rows), self._float(other, rows))
                                                            for rows in blocks)

    def _require_floats(self, name):
        if self.dtype(name) not in _FLOATS:
            raise CheckpointError(f"Tensor {name} must hold floating-point numbers, not {self.dtype(name)}")

    def _float(self, name, rows=None):
        tensor = self._read(name, rows).to(torch.float32)
        if not tensor.isfinite().all():
            raise CheckpointError(f"Tensor {name} must hold finite numbers, and does not")
        return tensor

    def _entry(self, name):
        if name not in self._where:
            raise CheckpointError(f"The checkpoint must hold tensor {name}, and does not")
        return self._where[name]


class _Safetensors:
    """One safetensors file. It is mapped anew for every tensor, so that what was read does not stay in memory."""

    def __init__(self, file):
        self._file = file
        try:
            self._opened = safe_open(file, framework="pt")
        except (OSError, SafetensorError):
            raise CheckpointError(f"{file.name} must be a safetensors file, and {file} cannot be read as one") from None

    def names(self):
        return self._opened.keys()

    def shape(self, name):
        return tuple(self._opened.get_slice(name).get_shape())

    def dtype(self, name):
        word = self._opened.get_slice(name).get_dtype()
        return _DTYPES.get(word, word)

    def read(self, name, rows):
        with safe_open(self._file, framework="pt") as opened:
            return opened.get_tensor(name) if rows is None else opened.get_slice(name)[rows]


class _Pickle:
    """One pickle of tensors. A zip file is mapped anew for every tensor; older ones stay in memory."""

    def __init__(self, file):
        self._file, self._zipped = file, zipfile.is_zipfile(file)
        try:
            found = _unpickled(file)
        except Exception:       # a damaged pickle raises anything
            found = None
        if not isinstance(found, dict) or not all(isinstance(name, str) and isinstance(tensor, torch.Tensor)
                                                  for name, tensor in found.items()):
            raise CheckpointError(f"{file.name} must be a pickle of nothing but tensors, which torch.load(weights_only=True) "
                                  f"reads, and {file} is not: save the model as safetensors")
        for name, tensor in found.items():
            if not _is_plain(tensor):
                raise CheckpointError(f"Tensor {name[:_NAME_LENGTH]} must have all its numbers in {file.name}, and has not")
        self._found = {name: tensor.detach() for name, tensor in found.items()}

    def names(self):
        return self._found.keys()

    def shape(self, name):
        return tuple(self._found[name].shape)

    def dtype(self, name):
        return self._found[name].dtype

    def read(self, name, rows):
        found = torch.load(self._file, map_location="cpu", weights_only=True, mmap=True) if self._zipped else self._found
        tensor = found[name].detach()
        return tensor if rows is None else tensor[rows]


def _unpickled(file):
    """What ``torch.load(weights_only=True)`` makes of a file; None where it claims more than it holds, for torch allocates what a
    pickle asks for before it reads it."""
    with open(file, "rb") as opened:
        zipped = opened.read(4) == zipfile.stringFileHeader
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    if zipped:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > len(mapped) or \
                    any(entry.compress_size != entry.file_size for entry in entries):      # stored as they are, to be mapped
                return None
            pickles = [io.BytesIO(archive.read(entry)) for entry in entries if entry.filename.endswith("/data.pkl")]
    else:
        for _ in range(3):      # a number, a version and the machine; then the tensors, and behind the pickles the storages
            list(pickletools.genops(mapped))
        pickles = [mapped]
    if any(isinstance(value, int) and abs(value) > len(mapped) for each in pickles for _, value, _ in pickletools.genops(each)):
        return None
    mapped.seek(0)
    return torch.load(file if zipped else mapped, map_location="cpu", weights_only=True, mmap=zipped)


def _is_plain(tensor):
    """Whether a tensor of a pickle is numbers in memory, each in its place."""
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and \
        not tensor.is_quantized and tensor.nbytes <= tensor.untyped_storage().nbytes()


def _open(file):
    return (_Safetensors if file.suffix == ".safetensors" else _Pickle)(file)


def _check_names(names):
    """Names of tensors can stand in a sentence."""
    for name in names:
        if len(name) > _NAME_LENGTH or not name.isprintable():
            raise CheckpointError(f"Names of tensors must have at most {_NAME_LENGTH} printable characters, and {shown(name)} "
                                  "has not")


def _found(path):
    """{name of a tensor: file that holds it}."""
    for single in _SINGLE:
        index = path / f"{single}.index.json"
        if index.exists():
            return _indexed(index)
        if (path / single).exists():
            opened = _open(path / single)
            return dict.fromkeys(opened.names(), opened)
    raise CheckpointError(f"A checkpoint must hold {_SINGLE[0]}, {_SINGLE[0]}.index.json or {_SINGLE[1]}, and {path} does not")


def _indexed(index):
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index.name} must give weight_map, the file of every tensor")
    _check_names(weight_map)
    opened = {}
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name or Path(name).suffix not in (".safetensors", ".bin"):
            raise CheckpointError(f"{index.name} must name a file beside it for tensor {tensor}, not {shown(name)}")
        if name not in opened:
            opened[name] = _open(index.parent / name)
            held = set(opened[name].names())
            missing = sorted(key for key, file in weight_map.items() if file == name and key not in held)
            if missing:
                raise CheckpointError(f"{name} must hold tensor {missing[0]}, as {index.name} says, and does not")
    return {tensor: opened[name] for tensor, name in weight_map.items()}
