"""What the board's Linux says of itself: who holds the accelerator, contiguous memory, the state of the fabric.

Every reader takes ``root``, the folder that /proc, /sys and /run are below.
"""

import fcntl
import os
from pathlib import Path

from .errors import CelosiaError

__all__ = ["Lock", "contiguous_memory", "fabric_state", "need_contiguous"]

_LOCK = "run/lock/celosia.lock"
_STATE = "sys/class/fpga_manager/fpga0/state"
_MEMINFO = "proc/meminfo"


class Lock:
    """The accelerator, held by this process until :meth:`release` or its end.

    Raises ``CelosiaError`` with the other process's id when somebody holds it.
    """

    def __init__(self, root="/"):
        path = Path(root) / _LOCK
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            raise CelosiaError(f"{path} must be writable, and is not: run as root, as PYNQ needs it") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.pread(self._file, 32, 0).decode(errors="replace").strip() or "of unknown id"
            os.close(self._file)
            raise CelosiaError(f"The accelerator must be used by one process at a time, and process {other} has it: "
                               "end that one (a notebook's kernel counts) or wait for it") from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self):
        """Let others have it; a second call does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def contiguous_memory(root="/"):
    """(total, free) bytes of the kernel's contiguous memory (CMA); None where the kernel has none or does not say."""
    try:
        lines = (Path(root) / _MEMINFO).read_text().splitlines()
    except OSError:
        return None
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)
                 if name in ("CmaTotal", "CmaFree")}
    if len(kilobytes) < 2:
        return None
    return kilobytes["CmaTotal"] << 10, kilobytes["CmaFree"] << 10


def need_contiguous(n_bytes, root="/"):
    """MemoryError when less contiguous memory is free than ``n_bytes``; passes where the kernel does not say."""
    found = contiguous_memory(root)
    if found is not None and n_bytes > found[1]:
        total, free = found
        wanted_mb = -(-(total - free + n_bytes) >> 20) + 64
        raise MemoryError(f"A buffer of {n_bytes:,} bytes must fit the contiguous memory, of which {free:,} of {total:,} bytes are "
                          f"free: start Linux with the kernel argument cma={wanted_mb}M (docs/board.md), or pack a smaller model")


def fabric_state(root="/"):
    """State of the FPGA manager, such as ``operating``; None where there is no FPGA manager."""
    try:
        return (Path(root) / _STATE).read_text().strip()
    except OSError:
        return None
