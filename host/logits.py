"""Arrays of logits as files of numpy, written row by row."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np

__all__ = ["require_npy", "writing"]


def require_npy(path):
    """ValueError unless ``path`` (None: nothing is asked for) is a .npy file in a folder that exists."""
    if path is None:
        return
    path = Path(path)
    if path.suffix != ".npy":
        raise ValueError(f"File of logits must end in .npy, not {path.name!r}")
    if not path.parent.is_dir():
        raise ValueError(f"File of logits must lie in a folder that exists, not {path.parent}")


@contextmanager
def writing(path, shape):
    """A float32 array of ``shape`` to fill; the file appears when the block ends, and not at all when it fails."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        written = np.lib.format.open_memmap(part, "w+", np.float32, shape)
        yield written
        written.flush()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
