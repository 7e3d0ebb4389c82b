"""Drafts: guesses at the next tokens, which the accelerator verifies in one run."""

from typing import Protocol

__all__ = ["Draft", "PromptLookup"]


class Draft(Protocol):
    """Whoever guesses. A guess changes how fast a text comes, never the text."""

    def propose(self, tokens, k):
        """Up to ``k`` token ids that may follow ``tokens``, all that there are so far; none where there is no guess."""


class PromptLookup:
    """What followed the last time that the last tokens stood in the text: of the longest match, and of those the latest.

    Parameters
    ----------
    longest, shortest : int
        Tokens that are compared.
    """

    def __init__(self, longest=4, shortest=2):
        if not 1 <= shortest <= longest:
            raise ValueError(f"shortest must be 1 to longest ({longest}), not {shortest}")
        self._longest, self._shortest = longest, shortest

    def propose(self, tokens, k):
        """As :class:`Draft`."""
        tokens = list(tokens)
        for size in range(min(self._longest, len(tokens) - 1), self._shortest - 1, -1):
            last = tokens[-size:]
            for start in range(len(tokens) - size - 1, -1, -1):
                if tokens[start:start + size] == last:
                    for at in range(start + size, start + size + k):       # on into the guess itself, where a text repeats itself
                        tokens.append(tokens[at])
                    return tokens[len(tokens) - k:] if k > 0 else []
        return []
