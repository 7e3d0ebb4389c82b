"""Tokens that are pieces of text with scores, as tokenizer.bin of llama2.c has them.

    uint32 bytes of the longest piece; then of every token: float32 score, int32 bytes, the bytes (little endian)

Tokens 0, 1, 2 are the unknown, the beginning and the end; 3 to 258 are single bytes, written ``<0x0A>``.
A text gets a blank in front. Its characters become tokens (bytes where a character is none), and of all neighbours that join
to a piece those of the highest score are joined first, the leftmost of equal ones, until none are left.
"""

import heapq
import re
import struct

__all__ = ["Pieces"]

_BEGIN, _FIRST_BYTE = 1, 3
_BYTE = re.compile(rb"<0x([0-9A-F]{2})>")


class Pieces:
    """``pieces``: bytes of every token; ``scores``: how early it is joined."""

    def __init__(self, pieces, scores):
        self._pieces, self._scores = pieces, scores
        self._ids = {}
        for token, piece in enumerate(pieces):
            self._ids.setdefault(piece, token)

    @classmethod
    def parse(cls, data):
        """From the bytes of a file; ValueError, one sentence, when it is none."""
        pieces, scores, at = [], [], 4
        while at + 8 <= len(data):
            score, size = struct.unpack_from("<fi", data, at)
            if size < 0 or at + 8 + size > len(data):
                break
            pieces.append(data[at + 8:at + 8 + size])
            scores.append(score)
            at += 8 + size
        if at != len(data) or len(pieces) < _FIRST_BYTE + 256:
            raise ValueError("A tokenizer of llama2.c must hold a score and a text of every token, and does not")
        return cls(pieces, scores)

    def encode(self, text, *, begin=True):
        """List of token ids; with the token of the beginning, or without."""
        tokens = []
        for character in " " * bool(text) + text:
            raw = character.encode("utf-8")
            tokens += [self._ids[raw]] if raw in self._ids else [_FIRST_BYTE + byte for byte in raw]
        return [_BEGIN] * begin + self._joined(tokens)

    def decode(self, tokens):
        """Text; the blank in front is taken away, bytes that are no UTF-8 become U+FFFD."""
        parts, previous = [], _BEGIN
        for token in tokens:
            piece = self._pieces[token] if _BEGIN + 1 < token < len(self._pieces) else b""
            byte = _BYTE.fullmatch(piece)
            piece = bytes([int(byte[1], 16)]) if byte else piece
            parts.append(piece[1:] if previous == _BEGIN and piece.startswith(b" ") else piece)
            previous = token
        return b"".join(parts).decode("utf-8", "replace")

    def _joined(self, tokens):
        """The tokens after all joins: a linked list, and a heap of the pairs that could be joined."""
        tokens = list(tokens)
        after, before = list(range(1, len(tokens) + 1)), list(range(-1, len(tokens) - 1))
        heap = []

        def offer(left):
            right = after[left] if left >= 0 else len(tokens)
            if right < len(tokens):
                joined = self._ids.get(self._pieces[tokens[left]] + self._pieces[tokens[right]])
                if joined is not None:
                    heapq.heappush(heap, (-self._scores[joined], left, right, tokens[left], tokens[right], joined))

        for left in range(len(tokens)):
            offer(left)
        while heap:
            _, left, right, was_left, was_right, joined = heapq.heappop(heap)
            if after[left] != right or tokens[left] != was_left or tokens[right] != was_right:
                continue
            tokens[left], tokens[right], after[left] = joined, None, after[right]
            if after[left] < len(tokens):
                before[after[left]] = left
            offer(before[left])
            offer(left)
        return [token for token in tokens if token is not None]
