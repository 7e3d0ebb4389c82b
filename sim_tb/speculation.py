"""What drafts would be accepted along a text: the lanes and the tokens of every verification.

A made-up model does not write a given text. So the text is taken as what the model writes, greedily: a draft is right as far as it
agrees with the text. How long a verification takes is then measured on the accelerator (``bench``).

Words, numbers, white space and marks of the text stand for tokens.
"""

import re
from dataclasses import dataclass

__all__ = ["Verification", "pieces", "verifications"]

_PIECE = re.compile(r"\w+|\s+|[^\w\s]")


@dataclass(frozen=True)
class Verification:
    """One run: ``lanes`` tokens in (the last token and its draft), ``tokens`` out (what was accepted, and one more)."""
    lanes: int
    tokens: int


def pieces(text):
    """Numbers that stand for the tokens of ``text``, equal ones for equal pieces; ValueError where there are fewer than two."""
    found = _PIECE.findall(text)
    if len(found) < 2:
        raise ValueError(f"The text must have at least two words, not {text[:40]!r}")
    numbers = {}
    return [numbers.setdefault(piece, len(numbers)) for piece in found]


def verifications(tokens, draft, most, *, most_tokens=None):
    """A :class:`Verification` for each run that writes ``tokens`` behind the first, with drafts of up to ``most`` tokens by
    ``draft.propose(tokens, most)``; of the first ``most_tokens`` written."""
    end = len(tokens) if most_tokens is None else min(len(tokens), 1 + most_tokens)
    at, runs = 1, []
    while at < end:
        proposed = list(draft.propose(tokens[:at], most))[:end - at - 1]
        accepted = next((i for i, token in enumerate(proposed) if token != tokens[at + i]), len(proposed))
        runs.append(Verification(1 + len(proposed), accepted + 1))
        at += accepted + 1
    return runs
