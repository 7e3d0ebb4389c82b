"""Where generated things are kept, by the digest of what they are made of."""

import os
from pathlib import Path

__all__ = ["cache_folder"]

_TREE = Path(__file__).resolve().parents[1]


def cache_folder(kind: str) -> Path:
    """`build/<kind>` of a source tree, else a folder of that name in the user's cache."""
    if (_TREE / "pyproject.toml").exists():
        return _TREE / "build" / kind
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "celosia" / kind
