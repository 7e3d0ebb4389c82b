"""Bytes on their way to a file: an unnamed temporary file that is written at any place and read from its beginning.

It has no name in the folder, so nothing of it is left behind, however the process ends.
"""

import mmap
import tempfile

__all__ = ["Spool"]

_PIECE_BYTES = 1 << 20


class Spool:
    """``folder``: where the file lies; by default where the system keeps temporary files. What was never written is zero."""

    def __init__(self, folder=None):
        self._file = tempfile.TemporaryFile(dir=folder)
        self._size = 0

    def __len__(self):
        return self._size

    def __del__(self):
        self.close()

    def grow(self, size):
        """Let the file have ``size`` bytes at least."""
        if size > self._size:
            self._file.truncate(size)
            self._size = size

    def write(self, offset, data):
        """Put bytes at a place."""
        self.grow(offset + len(data))
        self._file.seek(offset)
        self._file.write(data)

    def pieces(self, first=0, last=None):
        """The bytes from ``first`` to ``last`` (default: all), in pieces of up to a MiB."""
        last = self._size if last is None else last
        for at in range(first, last, _PIECE_BYTES):
            self._file.seek(at)
            yield self._file.read(min(_PIECE_BYTES, last - at))

    def view(self):
        """All bytes: a memoryview of the mapped file, which outlives the spool."""
        self._file.flush()
        return memoryview(mmap.mmap(self._file.fileno(), self._size, access=mmap.ACCESS_READ))

    def close(self):
        """Give the space back."""
        if hasattr(self, "_file"):      # not where the folder could not be written
            self._file.close()
