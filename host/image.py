"""Reading a model image: the header, and the bytes that go into the accelerator's memory.

    "CELOSIA\\0" | format version, header bytes (uint32 each, little endian) | JSON header | zeros to 4096 |
    payload (the model window) | tokenizer's file | SHA-256 of all bytes before
"""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np

__all__ = ["FORMAT_VERSION", "Image"]

FORMAT_VERSION = 1
_MAGIC = b"CELOSIA\0"
_PAGE_BYTES = 4096
_DIGEST_BYTES = 32
_START = struct.Struct("<8sII")
_HEADER_BYTES = 16 << 20        # at most
_NEEDED = ("isa_version", "config", "config_digest", "name", "tokenizer", "payload_bytes", "cache_bytes", "programs")
_NEEDED_BY_KIND = {"decoder": ("vocab", "context", "cache"),
                   "classifier": ("labels", "pooling", "input", "output", "seq_tokens", "segments")}


class Image:
    """A model image; of a file, its payload stays mapped and is no copy in memory.

    Members
    -------
    header : dict
        What the image says of itself: ``name``, ``config``, ``config_digest``, ``isa_version``, ``tokenizer``, ``cache_bytes``,
        ``programs`` ({name: {"offset", "count"}}), ...; of a decoder ``context``, ``vocab`` and ``cache`` (its pages and where
        they lie), of a classifier ``labels``, ``input`` and ``output``
    payload : numpy.ndarray
        uint8, the model window.
    digest : str
        SHA-256 of the image, hexadecimal.
    tokenizer : bytes
        The tokenizer's file; empty where there is none.
    """

    def __init__(self, header, payload, digest, tokenizer=b""):
        self.header, self.payload, self.digest, self.tokenizer = header, payload, digest, tokenizer

    @classmethod
    def open(cls, source):
        """From a path or the bytes of a file. ValueError, one sentence, when it is no image or is damaged."""
        if isinstance(source, bytes | bytearray | memoryview):
            return cls._parse(memoryview(source), "the image")
        empty = not Path(source).stat().st_size     # which cannot be mapped
        return cls._parse(memoryview(b"" if empty else np.memmap(source, np.uint8, "r")), str(source))

    @classmethod
    def _parse(cls, data, name):
        if len(data) < _START.size or data[:len(_MAGIC)] != _MAGIC:
            raise ValueError(f"Not an image: {name} must begin as a Celosia image does")
        _, version, header_bytes = _START.unpack_from(data)
        if version != FORMAT_VERSION:
            raise ValueError(f"Format version of {name} must be {FORMAT_VERSION}, not {version}: pack the model again")
        if header_bytes > _HEADER_BYTES:
            raise ValueError(f"Header of {name} must have at most {_HEADER_BYTES} bytes, not {header_bytes}: the file is corrupted")
        start = -(-(_START.size + header_bytes) // _PAGE_BYTES) * _PAGE_BYTES
        try:
            header = json.loads(bytes(data[_START.size:_START.size + header_bytes]))
            end = start + header["payload_bytes"]
            size = end + header["tokenizer"]["bytes"] + _DIGEST_BYTES
        except (ValueError, KeyError, TypeError):
            what = "truncated" if len(data) < start else "corrupted"
            raise ValueError(f"Header of {name} must be JSON: the file is {what}") from None
        if len(data) != size:
            what = "truncated" if len(data) < size else "corrupted"
            raise ValueError(f"{name} must have {size} bytes, not {len(data)}: the file is {what}")
        digest = hashlib.sha256(data[:-_DIGEST_BYTES])
        if digest.digest() != data[-_DIGEST_BYTES:]:
            raise ValueError(f"Digest of {name} must match its contents: the file is corrupted")
        kind = header.get("kind", "decoder")
        if kind not in _NEEDED_BY_KIND:
            raise ValueError(f"Kind of {name} must be {' or '.join(_NEEDED_BY_KIND)}, not {kind!r}")
        missing = [key for key in _NEEDED + _NEEDED_BY_KIND[kind] if key not in header]
        if missing:
            raise ValueError(f"Header of {name} must have {', '.join(missing)}")
        payload = np.frombuffer(data, np.uint8, header["payload_bytes"], start)
        return cls(header, payload, digest.hexdigest(), bytes(data[end:-_DIGEST_BYTES]))

    @property
    def kind(self):
        """``decoder`` or ``classifier``."""
        return self.header.get("kind", "decoder")

    def need_kind(self, kind):
        """ValueError unless the image holds a model of this kind."""
        if self.kind != kind:
            raise ValueError(f"Model must be a {kind}, and {self.header['name']} is a {self.kind}")

    def segment(self, name):
        """Bytes of a segment of the model window, uint8; LookupError where there is none."""
        for segment in self.header["segments"]:
            if segment["name"] == name:
                return self.payload[segment["offset"]:segment["offset"] + segment["bytes"]]
        raise LookupError(f"Segment {name} must be in the image, and is not")

    def check(self, *, config, digest, isa_version):
        """ValueError unless the image was packed for this configuration and instruction set."""
        if self.header["config_digest"] != digest:
            raise ValueError(f"image was packed for configuration {self.header['config']} "
                             f"({self.header['config_digest']}), this accelerator is {config} ({digest}): "
                             f"pack again with --config {config}")
        if self.header["isa_version"] != isa_version:
            raise ValueError(f"image was packed for instruction set {self.header['isa_version']}, this accelerator has "
                             f"{isa_version}: pack again")
