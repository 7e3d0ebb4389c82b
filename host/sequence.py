"""A sequence: tokens whose keys and values are in the cache."""

__all__ = ["Sequence"]


class Sequence:
    """A sequence of one accelerator, from ``Accelerator.sequence()`` or :meth:`fork`; it ends with :meth:`free`, or when the
    accelerator loads a model or is reset.

    Members
    -------
    tokens : list of int
        The tokens that are in the cache (None for positions that the caller has put there himself).
    length : int
        How many.
    """

    def __init__(self, pool, slot, tokens=()):
        self._pool, self._slot = pool, slot
        self.tokens = list(tokens)

    def __repr__(self):
        return f"<Sequence of {self.length} tokens>" if self.alive else "<Sequence, freed>"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.alive:
            self.free()

    @property
    def length(self):
        return len(self.tokens)

    @property
    def alive(self):
        """Whether it has not been freed."""
        return self._slot is not None and self._pool.valid

    @property
    def pool(self):
        """The pages it takes part in; ValueError where it has been freed."""
        self.slot  # noqa: B018
        return self._pool

    @property
    def slot(self):
        """Its number in the accelerator; ValueError where it has been freed."""
        if not self.alive:
            raise ValueError("The sequence must not have been freed, by free() or by loading or resetting the accelerator, and "
                             "was: take a new one from accel.sequence()")
        return self._slot

    def fork(self):
        """A second sequence with the same tokens. No bytes are copied until one of the two is continued."""
        return Sequence(self._pool, self._pool.fork(self.slot), self.tokens)

    def truncate(self, length):
        """Forget all but the first ``length`` tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"A sequence of {self.length} tokens must be truncated to 0 to {self.length}, not {length}")
        self._pool.cut(self.slot, length)
        del self.tokens[length:]

    def free(self):
        """Give its pages back."""
        self._pool.close(self.slot)
        self._slot = None
