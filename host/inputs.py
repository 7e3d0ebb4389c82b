"""What a binary encoder takes in, as integers: patches of images, rows of token embeddings; and how they lie in memory.

    image   pixels 0 .. maximum, cut into patches, less ``zero``   -> lines of ACT: for each column block and bit of a pixel the
                                                                      byte columns in order, each a byte of every token
    text    words or bytes -> token ids -> token + place, int16    -> rows of X: an element of every token, int16
"""

import re
from pathlib import Path

import numpy as np

__all__ = ["Patches", "Words", "inputs_of", "read_image"]

_WORD = re.compile(r"[a-z0-9_]+")
_UNKNOWN = 1


def inputs_of(image):
    """:class:`Patches` or :class:`Words`, as the ``Image`` of a classifier says."""
    return (Patches if image.header["input"]["kind"] == "image" else Words)(image)


def read_image(path, source):
    """Pixels (height, width) or (height, width, channels) of a file: of ``.npy`` as they are, of others, which needs the package
    Pillow, scaled to the size and to the 0 .. maximum that ``source``, an entry of a header, says."""
    if Path(path).suffix == ".npy":
        try:
            return np.load(path, allow_pickle=False)
        except ValueError:
            raise ValueError(f"Image {path} must be an array of numpy, and cannot be read as one") from None
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError:
        raise LookupError("Images that are not .npy need the package Pillow, which must be installed first") from None
    try:
        with Image.open(path) as opened:
            pixels = opened.convert("L" if source["channels"] == 1 else "RGB")
    except UnidentifiedImageError:
        raise ValueError(f"Image {path} must be one that Pillow reads, and is not") from None
    pixels = np.asarray(pixels.resize((source["width"], source["height"])), np.float64)
    return np.floor(pixels * source["maximum"] / 255 + 0.5).astype(np.uint8)


class Patches:
    """Images for a classifier."""

    def __init__(self, image):
        self._source = image.header["input"]

    def tokens(self, pixels):
        """int64 (tokens, pixels of a patch) of an array (height, width) or (height, width, channels). ValueError."""
        s, pixels = self._source, np.asarray(pixels)
        shape = s["height"], s["width"], s["channels"]
        if pixels.shape not in (shape, shape[:2] if shape[2] == 1 else shape):
            raise ValueError(f"Images must have shape {shape}, not {pixels.shape}")
        whole = pixels.astype(np.int64)
        if not np.array_equal(whole, pixels) or whole.min() < 0 or whole.max() > s["maximum"]:
            raise ValueError(f"Pixels must be integers of 0 to {s['maximum']}, not {pixels.min()} to {pixels.max()}")
        patch = s["patch"]
        cut = whole.reshape(s["height"] // patch, patch, s["width"] // patch, patch, s["channels"])
        return cut.transpose(0, 2, 1, 3, 4).reshape(s["n_tokens"], -1) - s["zero"]

    def chunk(self, tokens, columns):
        """uint8: the lines of a chunk, of C ``columns``; ``tokens``: int64 (M, pixels of a patch)."""
        bits = self._source["bits"]
        padded = np.pad(tokens, ((0, 0), (0, -tokens.shape[1] % columns)))
        planes = padded[None] >> np.arange(bits)[:, None, None] & 1
        packed = np.packbits(planes.astype(np.uint8), axis=2, bitorder="little").reshape(bits, len(tokens), -1, columns // 8)
        return packed.transpose(2, 0, 3, 1).reshape(-1)


class Words:
    """Texts for a classifier."""

    def __init__(self, image):
        self._source = image.header["input"]
        width = self._source["hidden_size"]
        self._rows, self._places = (image.segment(name).view("<i2").reshape(-1, width).astype(np.int64)
                                    for name in ("tokens", "places"))
        lines = image.tokenizer.decode().splitlines()
        self._ids = {word: i for i, word in enumerate(lines)} if self._source["vocabulary"] == "words" else None

    def ids(self, text):
        """Token ids of a text, cut at the longest sequence. ValueError where it has none."""
        if self._source["lowercase"]:
            text = text.lower()
        if self._ids is None:
            ids = list(text.encode())
        else:
            ids = [self._ids.get(word, _UNKNOWN) for word in _WORD.findall(text)]
        if not ids:
            raise ValueError(f"Text must have at least one word, and {text!r} has none")
        return ids[:self._source["max_tokens"]]

    def tokens(self, text):
        """int64 (tokens, hidden) of a text, or of a list of token ids. ValueError."""
        ids = self.ids(text) if isinstance(text, str) else list(text)[:self._source["max_tokens"]]
        if not ids or not all(0 <= i < len(self._rows) for i in ids):
            raise ValueError(f"Token ids must be 0 to {len(self._rows) - 1} and at least one, not {ids}")
        limits = np.iinfo(np.int16)
        return (self._rows[ids] + self._places[:len(ids)]).clip(limits.min, limits.max)

    def chunk(self, tokens, columns):
        """uint8: the rows of a chunk; ``tokens``: int64 (M, hidden)."""
        return np.ascontiguousarray(tokens.T.astype("<i2")).view(np.uint8).reshape(-1)
