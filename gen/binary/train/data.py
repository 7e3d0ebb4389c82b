"""What the encoders are trained and judged on: handwritten digits, and sentences of Python's docstrings.

    digits       8x8 images of scikit-learn's load_digits, pixels 0..16; 1,437 for training, 360 for the test, stratified,
                 random_state 0; 16 patches of 2x2, row after row, the pixels of a patch row after row
    docstrings   models/docstrings/data.tsv.xz, written by `collect`: which part of the standard library is a sentence from

Both come as a `Split`. `held_back` takes a validation part out of the training part: recipes are chosen on it. The test part
is for the figures alone.
"""

import collections
import lzma
import pathlib
import re
from dataclasses import dataclass

import torch
from torch.nn import functional as F

__all__ = ["DOCSTRINGS", "Part", "Split", "digits", "docstrings", "encode", "held_back", "move_digits", "patches", "vocabulary"]

DOCSTRINGS = pathlib.Path("models/docstrings/data.tsv.xz")
SIZE, PATCH, MAXIMUM = 8, 2, 16  # pixels a side of an image and of a patch, largest pixel
MAX_TOKENS, MAX_WORDS = 32, 4096
PADDING, UNKNOWN = 0, 1
VALIDATION_SHARE = 6  # one group of so many is held back


@dataclass(frozen=True)
class Part:
    """Inputs of one part.

    Attributes
    ----------
    inputs : (n, 8, 8) or (n, MAX_TOKENS) int64
        Pixels, or ids of words with padding.
    length : (n,) int64
        Valid tokens.
    label : (n,) int64
    group : (n,) int64
        Inputs of one group (one docstring; an image is alone) are not parted.
    """

    inputs: torch.Tensor
    length: torch.Tensor
    label: torch.Tensor
    group: torch.Tensor

    def __len__(self):
        return len(self.label)

    def __getitem__(self, index):
        return Part(self.inputs[index], self.length[index], self.label[index], self.group[index])


@dataclass(frozen=True)
class Split:
    """Training and test part, names of the labels, and the words of the vocabulary (empty for images)."""

    train: Part
    test: Part
    labels: tuple
    words: tuple = ()


def digits():
    """The digits of scikit-learn as a `Split`."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, label = load_digits(return_X_y=True)
    sides = train_test_split(range(len(label)), test_size=360, random_state=0, stratify=label)
    images, label = torch.from_numpy(images).long().view(-1, SIZE, SIZE), torch.from_numpy(label).long()
    length = torch.full_like(label, (SIZE // PATCH) ** 2)
    every = Part(images, length, label, torch.arange(len(label)))
    train, test = (every[torch.tensor(side)] for side in sides)
    return Split(train, test, tuple(str(digit) for digit in range(10)))


def patches(images):  # (n, 8, 8) -> (n, 16, 4)
    """Patches row after row, the pixels of a patch row after row."""
    n, side = len(images), SIZE // PATCH
    return images.view(n, side, PATCH, side, PATCH).transpose(2, 3).reshape(n, side * side, PATCH * PATCH)


def move_digits(images, generator, *, turn=0.15, grow=0.1, shift=0.8):  # (n, 8, 8) -> (n, 8, 8)
    """Images turned (radians), grown and shifted (pixels) at random, each by its own numbers up to these; bilinear, rounded."""
    most = torch.tensor([turn, grow, shift, shift])[:, None]
    angle, size, x, y = (2 * torch.rand(4, len(images), generator=generator) - 1) * most
    cos, sin = angle.cos() * (1 + size), angle.sin() * (1 + size)
    move = torch.stack([cos, -sin, 2 * x / SIZE, sin, cos, 2 * y / SIZE], -1).view(-1, 2, 3)
    grid = F.affine_grid(move, [len(images), 1, SIZE, SIZE], align_corners=False)
    moved = F.grid_sample(images[:, None].float(), grid, align_corners=False)
    return moved[:, 0].round().clamp(0, MAXIMUM).long()


def encode(text, words):
    """Ids of the first MAX_TOKENS words of a text; `words` gives an id for a word."""
    return [words.get(word, UNKNOWN) for word in re.findall(r"[a-z0-9_]+", text.lower())][:MAX_TOKENS]


def vocabulary(texts):
    """The words that occur twice or more, most frequent first, at most MAX_WORDS with "<pad>" and "<unk>" before them."""
    counts = collections.Counter(word for text in texts for word in re.findall(r"[a-z0-9_]+", text.lower()))
    ranked = sorted((word for word, count in counts.items() if count > 1), key=lambda word: (-counts[word], word))
    return ("<pad>", "<unk>", *ranked[:MAX_WORDS - 2])


def docstrings(path=DOCSTRINGS):
    """The sentences of docstrings as a `Split`; the vocabulary is that of the training part."""
    rows = [line.split("\t") for line in lzma.decompress(pathlib.Path(path).read_bytes()).decode().splitlines()]
    labels = tuple(sorted({label for _, label, _, _ in rows}))
    words = vocabulary(text for side, _, _, text in rows if side == "train")
    ids = {word: number for number, word in enumerate(words)}
    parts = []
    for wanted in ("train", "test"):
        chosen = [row for row in rows if row[0] == wanted]
        codes = [encode(text, ids) for _, _, _, text in chosen]
        parts.append(Part(torch.tensor([code + [PADDING] * (MAX_TOKENS - len(code)) for code in codes]),
                          torch.tensor([len(code) for code in codes]),
                          torch.tensor([labels.index(label) for _, label, _, _ in chosen]),
                          torch.tensor([int(number) for _, _, number, _ in chosen])))
    return Split(*parts, labels, words)


def held_back(split):
    """The same with a validation part, one group of VALIDATION_SHARE of the training part, in the place of the test part."""
    groups = torch.unique(split.train.group)
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(0))
    back = torch.isin(split.train.group, groups[order[:len(groups) // VALIDATION_SHARE]])
    return Split(split.train[~back], split.train[back], split.labels, split.words)
