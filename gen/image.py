"""The image file: a header, the model window, and a digest of everything.

    offset  bytes  what
    0       8      "CELOSIA" and a zero
    8       4      format version, little endian
    12      4      bytes of the JSON header, little endian
    16      n      header: JSON, keys sorted, no blanks, UTF-8
    ...            zeros up to a multiple of 4096
    ...     m      payload: the model window (``payload_bytes`` of the header)
    ...     t      the tokenizer's file (``tokenizer.bytes`` of the header)
    end-32  32     SHA-256 of all bytes before

``docs/image.md`` describes the header. The same model and configuration give the same bytes.
"""

import hashlib
import io
import itertools
import json
import os
import struct
import tempfile
from contextlib import contextmanager
from pathlib import Path

from .spool import Spool

__all__ = ["FORMAT_VERSION", "MAGIC", "ImageError", "encode", "parse", "save", "write"]

MAGIC = b"CELOSIA\0"
FORMAT_VERSION = 1
PAGE_BYTES = 4096
_DIGEST_BYTES = 32
_START = struct.Struct("<8sII")
_HEADER_BYTES = 16 << 20        # at most: what a reader takes into memory before it knows the digest


class ImageError(ValueError):
    """An image that cannot be used; the message is one sentence."""


def encode(header, payload, tokenizer=b""):
    """The bytes of an image file. ``payload``: bytes, or a :class:`Spool`; ``tokenizer``: the file that the header says it has."""
    file = io.BytesIO()
    _put(file, header, payload, tokenizer)
    return file.getvalue()


def save(path, header, payload, tokenizer=b""):
    """Write what ``encode`` gives to a file, without having it in memory; the file is either whole or not there."""
    with _replacing(path) as file:
        _put(file, header, payload, tokenizer)


def _put(file, header, payload, tokenizer):
    if header["payload_bytes"] != len(payload):
        raise ValueError(f"Header payload_bytes must be the payload's {len(payload)}, not {header['payload_bytes']}")
    if header["tokenizer"]["bytes"] != len(tokenizer):
        raise ValueError(f"Header tokenizer.bytes must be the tokenizer's {len(tokenizer)}, not {header['tokenizer']['bytes']}")
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    if len(text) > _HEADER_BYTES:
        raise ValueError(f"The header of an image must have at most {_HEADER_BYTES} bytes, not {len(text)}")
    front = _START.pack(MAGIC, FORMAT_VERSION, len(text)) + text
    digest = hashlib.sha256()
    pieces = payload.pieces() if isinstance(payload, Spool) else [payload]
    for piece in itertools.chain([front.ljust(-(-len(front) // PAGE_BYTES) * PAGE_BYTES, b"\0")], pieces, [tokenizer]):
        digest.update(piece)
        file.write(piece)
    file.write(digest.digest())


def parse(data):
    """(header, payload) of the bytes of an image file; raises :class:`ImageError`."""
    if len(data) < _START.size or data[:len(MAGIC)] != MAGIC:
        raise ImageError("The file must be a Celosia image, and does not begin like one")
    _, version, header_bytes = _START.unpack_from(data)
    if version != FORMAT_VERSION:
        raise ImageError(f"The image must have format version {FORMAT_VERSION}, not {version}: pack it again")
    if header_bytes > _HEADER_BYTES:
        raise ImageError(f"The image is corrupted: its header must have at most {_HEADER_BYTES} bytes, not {header_bytes}")
    start = -(-(_START.size + header_bytes) // PAGE_BYTES) * PAGE_BYTES
    if len(data) < start + _DIGEST_BYTES:
        raise ImageError(f"The image is truncated: it has {len(data)} bytes and its header alone takes {start}")
    try:
        header = json.loads(data[_START.size:_START.size + header_bytes])
        end = start + header["payload_bytes"]
        size = end + header["tokenizer"]["bytes"] + _DIGEST_BYTES
    except (ValueError, KeyError, TypeError):
        raise ImageError("The image is corrupted: its header cannot be read") from None
    if len(data) < size:
        raise ImageError(f"The image is truncated: it must have {size} bytes, not {len(data)}")
    if len(data) > size or hashlib.sha256(data[:-_DIGEST_BYTES]).digest() != data[-_DIGEST_BYTES:]:
        raise ImageError("The image is corrupted: its digest does not match its contents")
    return header, data[start:end]


def write(path, data):
    """Write the bytes of a file at once: it is either whole or not there."""
    with _replacing(path) as file:
        file.write(data)


@contextmanager
def _replacing(path):
    """A file beside ``path`` to write to, which takes its place at the end."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
