"""The table of contents of a GGUF file: metadata, and where each tensor lies.

    "GGUF", version u32 (2 or 3), n_tensors u64, n_pairs u64
    n_pairs    of: key string, type u32, value               string: bytes u64, UTF-8;  array: type u32, n u64, values
    n_tensors  of: name string, n_dims u32, dims u64 each (the fastest first), type u32, offset u64
    zeros up to a multiple of ``general.alignment`` (32), then the tensors; offsets count from there

All numbers little endian. Every length is compared with the bytes that are left before anything of that length is read or
kept, so that a file that lies costs no more than its size. Nothing is loaded: :meth:`GGUFFile.bytes_of` maps the file.

The ``gguf`` package knows the types (``GGML_QUANT_SIZES``) and has a reader too. That reader stops at types that it does not
know, like I2_S, and believes what a file says about its lengths.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from .tensors import CheckpointError

__all__ = ["I2_S", "GGUFFile", "GGUFTensor"]

I2_S = 36                   # number of the type in bitnet.cpp
I2_S_BLOCK = 128            # weights of 32 bytes
I2_S_TAIL_BYTES = 32        # behind the codes: the scale, binary32, and padding

_VERSIONS = (2, 3)
_ALIGNMENT_BYTES = 32
_NAME_LENGTH = 128
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class GGUFTensor:
    """Where a tensor lies. ``kind`` is a number of ``GGMLQuantizationType``, or ``I2_S``."""
    name: str
    shape: tuple            # as in torch: the fastest dimension last
    kind: int
    offset: int             # from the beginning of the file
    n_bytes: int

    @property
    def kind_name(self):
        """Name of the type."""
        return "I2_S" if self.kind == I2_S else GGMLQuantizationType(self.kind).name


class GGUFFile:
    """Reads the contents of ``path``; raises :class:`CheckpointError`.

    Members: ``metadata`` {key: number, string, bool, list of strings, or numpy array}; ``tensors`` {name: :class:`GGUFTensor`}.
    """

    def __init__(self, path):
        self._path = Path(path)
        try:
            self._data = np.asarray(np.memmap(self._path, mode="r"))    # of which the contents are read and no tensor
        except (OSError, ValueError):       # ValueError: an empty file
            raise CheckpointError(f"{self._path.name} must be a GGUF file, and {self._path} cannot be read as one") from None
        self._at = 0
        if bytes(self._data[:4]) != b"GGUF":
            raise CheckpointError(f"{self._path.name} must be a GGUF file, and does not begin like one")
        self._take(4)
        version = self._number("I")
        if version not in _VERSIONS:
            raise CheckpointError(f"{self._path.name} must have GGUF version 2 or 3 (little endian), not {version}")
        n_tensors, n_pairs = self._number("Q"), self._number("Q")
        self.metadata = {}
        for _ in range(n_pairs):
            key = self._name()
            if key in self.metadata:
                raise CheckpointError(f"{self._path.name}: metadata {key} must be there once, and is there twice")
            self.metadata[key] = self._value(key)
        found = {}
        for _ in range(n_tensors):
            tensor = self._tensor()
            if tensor.name in found:
                raise CheckpointError(f"{self._path.name}: tensor {tensor.name} must be there once, and is there twice")
            found[tensor.name] = tensor
        start = self._start_of_data()
        self.tensors = {name: self._placed(tensor, start) for name, tensor in found.items()}

    def bytes_of(self, tensor):
        """The bytes of a tensor: uint8 (n_bytes,), mapped anew, so that what was read does not stay in memory."""
        return np.memmap(self._path, np.uint8, "r", tensor.offset, (tensor.n_bytes,))

    def _take(self, n_bytes):
        """The next bytes."""
        if n_bytes > len(self._data) - self._at:
            raise CheckpointError(f"{self._path.name} is truncated or corrupted: {n_bytes} bytes must follow byte {self._at} of "
                                  f"{len(self._data)}")
        self._at += n_bytes
        return self._data[self._at - n_bytes:self._at]

    def _number(self, code):
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _string(self):
        try:
            return bytes(self._take(self._number("Q"))).decode()
        except UnicodeDecodeError:
            raise CheckpointError(f"{self._path.name}: strings must be UTF-8, and the one before byte {self._at} is not") from None

    def _name(self):
        """A string that can stand in a sentence."""
        name = self._string()
        if len(name) > _NAME_LENGTH or not name.isprintable():
            raise CheckpointError(f"{self._path.name}: names must have at most {_NAME_LENGTH} printable characters, and the one "
                                  f"before byte {self._at} has not")
        return name

    def _value(self, key):
        kind = self._number("I")
        if kind == _STRING:
            return self._string()
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _ARRAY:
            kind, n_values = self._number("I"), self._number("Q")
            if kind == _STRING:
                return [self._string() for _ in range(n_values)]
            if kind in _SCALARS:
                dtype = np.dtype(_SCALARS[kind]).newbyteorder("<")
                return self._take(n_values * dtype.itemsize).view(dtype)
        raise CheckpointError(f"{self._path.name}: metadata {key} must be a number, a string or an array of those, not of "
                              f"type {kind}")

    def _tensor(self):
        """A tensor of the list; its offset counts from the beginning of the data still, its size is not known yet."""
        name, n_dims = self._name(), self._number("I")
        if not 1 <= n_dims <= 4:
            raise CheckpointError(f"Tensor {name} must have one to four dimensions, not {n_dims}")
        shape = tuple(self._number("Q") for _ in range(n_dims))[::-1]
        return GGUFTensor(name, shape, self._number("I"), self._number("Q"), 0)

    def _start_of_data(self):
        alignment = self.metadata.get("general.alignment", _ALIGNMENT_BYTES)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise CheckpointError(f"{self._path.name}: metadata general.alignment must be a power of two, not "
                                  f"{str(alignment)[:40]!r}")
        return -(-self._at // alignment) * alignment

    def _placed(self, tensor, start):
        """``tensor`` with its size, and its offset from the beginning of the file."""
        if tensor.kind == I2_S:
            block, block_bytes, tail_bytes = I2_S_BLOCK, I2_S_BLOCK // 4, I2_S_TAIL_BYTES
        else:
            try:
                (block, block_bytes), tail_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)], 0
            except ValueError:
                raise CheckpointError(f"Tensor {tensor.name} must have a type of the gguf package or I2_S, not type "
                                      f"{tensor.kind}") from None
        n_elements = math.prod(tensor.shape)
        if n_elements == 0 or tensor.shape[-1] % block:
            raise CheckpointError(f"Tensor {tensor.name} must have rows of whole blocks of {block} weights, and has shape "
                                  f"{tensor.shape}")
        n_bytes = n_elements // block * block_bytes + tail_bytes
        if start + tensor.offset + n_bytes > len(self._data):
            raise CheckpointError(f"{self._path.name} is truncated or corrupted: tensor {tensor.name} must end at byte "
                                  f"{start + tensor.offset + n_bytes} of {len(self._data)}")
        return GGUFTensor(tensor.name, tensor.shape, tensor.kind, start + tensor.offset, n_bytes)
