"""Choosing the next token among the candidates that the head returns."""

from dataclasses import dataclass

import numpy as np

__all__ = ["Candidates", "Sampler"]


@dataclass(frozen=True)
class Candidates:
    """The best tokens of one step, best first.

    Members
    -------
    tokens : np.ndarray
        (k,) int64 token ids.
    logits : np.ndarray
        (k,) float32.
    """

    tokens: np.ndarray
    logits: np.ndarray

    def spread(self, vocab_size):
        """Logits float32 (vocab_size,); -inf where a token is no candidate."""
        spread = np.full(vocab_size, -np.inf, np.float32)
        spread[self.tokens] = self.logits
        return spread


class Sampler:
    """Greedy choice, or a draw with temperature, top-k and top-p.

    Parameters
    ----------
    temperature : float
        0 is greedy; logits are divided by it before the softmax.
    top_k : int or None
        Keep this many candidates; None keeps all that the head returned.
    top_p : float
        Keep the smallest set of candidates whose probabilities add up to at least this.
    seed : int or None
        Of the generator; the same seed draws the same tokens.
    """

    def __init__(self, *, temperature=0.0, top_k=None, top_p=1.0, seed=None):
        if not temperature >= 0:
            raise ValueError(f"temperature must be zero or more, not {temperature!r}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {top_k!r}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be more than 0 and at most 1, not {top_p!r}")
        self._temperature, self._top_k, self._top_p = temperature, top_k, top_p
        self._rng = np.random.default_rng(seed)

    @property
    def greedy(self):
        """Whether it takes the best candidate."""
        return self._temperature == 0

    def __call__(self, candidates):
        """Token id chosen from :class:`Candidates`."""
        if self._temperature == 0:
            return int(candidates.tokens[0])
        logits = candidates.logits[:self._top_k].astype(np.float64) / self._temperature
        weights = np.exp(logits - logits[0])
        weights /= weights.sum()
        kept = int(np.searchsorted(np.cumsum(weights), self._top_p)) + 1
        weights = weights[:kept] / weights[:kept].sum()
        return int(candidates.tokens[self._rng.choice(len(weights), p=weights)])
