"""A matrix that stays in its file: rows are read when they are asked for."""

__all__ = ["Rows"]


class Rows:
    """float32 (rows, columns) of ``shape``; ``read(first, last)`` gives rows first to last - 1 as a tensor.

    What a streaming reader needs of a tensor, and no more: ``shape``, ``len``, ``split(n)`` and a slice of rows, of which
    ``[:]`` is the whole matrix in memory. Whatever ``read`` raises comes out of ``split`` and the slice.
    """

    def __init__(self, shape, read):
        self.shape, self._read = tuple(shape), read

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        first, last, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"Rows must be read one after the other, not with step {step}")
        return self._read(first, max(first, last))

    def split(self, n_rows):
        """Blocks of up to ``n_rows`` rows, in order."""
        for first in range(0, len(self), n_rows):
            yield self[first:first + n_rows]
