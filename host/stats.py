"""What runs took."""

from dataclasses import dataclass, field

__all__ = ["Stats"]


@dataclass
class Stats:
    """What the runs since the last :meth:`Accelerator.reset` took.

    Members
    -------
    prompt_tokens, new_tokens : int
        Tokens prefilled and tokens decoded.
    prefill_cycles, decode_cycles : int
        Accelerator cycles of either.
    proposed_tokens, accepted_tokens : int
        Tokens that drafts guessed, and how many of these were right.
    clock_mhz : float
        The clock that turns cycles into time.
    counters : dict
        Sums of the hardware counters, by name.
    """

    clock_mhz: float
    prompt_tokens: int = 0
    new_tokens: int = 0
    prefill_cycles: int = 0
    decode_cycles: int = 0
    proposed_tokens: int = 0
    accepted_tokens: int = 0
    counters: dict = field(default_factory=dict)

    @property
    def cycles(self):
        """Cycles in all."""
        return self.prefill_cycles + self.decode_cycles

    @property
    def cycles_per_token(self):
        """Cycles of a decoded token, on average; nan before the first, and on a device that counts none."""
        return self.decode_cycles / self.new_tokens if self.new_tokens and self.decode_cycles else float("nan")

    @property
    def tokens_per_s(self):
        """Decoded tokens a second at ``clock_mhz``; nan where ``cycles_per_token`` is."""
        return self.clock_mhz * 1e6 / self.cycles_per_token
