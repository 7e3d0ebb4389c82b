"""The seam between host code and a device: what a board or a simulator has to offer."""

from importlib.metadata import entry_points
from typing import Protocol

__all__ = ["Device", "open_device", "plugin"]


class Device(Protocol):
    """Registers, buffers and a wait.

    Members
    -------
    name : str
        Kind of device.
    manifest : dict
        The contract of the built overlay: ``config`` (sizes), ``digest``, ``registers`` and ``counters`` (offsets), ...

    A device may also have ``score()``: instead of a start, the logits float32 (tokens, vocabulary) after every token of the run
    that the registers name.
    """

    name: str
    manifest: dict

    def read32(self, offset): ...
    def write32(self, offset, value): ...
    def allocate(self, n_bytes): ...                # (address, uint8 array); MemoryError
    def release(self): ...                          # gives all buffers back
    def flush(self, address, n_bytes): ...          # host writes become visible to the accelerator
    def invalidate(self, address, n_bytes): ...     # accelerator writes become visible to the host
    def wait(self, timeout_cycles): ...             # until the interrupt; False when it did not come
    def close(self): ...


def plugin(group, name):
    """An object that an installed package offers under ``celosia.<group>``; LookupError with the names there are, or with the
    package that it lacks."""
    found = {entry.name: entry for entry in entry_points(group=f"celosia.{group}")}
    if name not in found:
        raise LookupError(f"{group} must be one of {', '.join(sorted(found)) or '(none installed)'}, not {name!r}")
    try:
        return found[name].load()
    except ModuleNotFoundError as error:
        raise LookupError(f"{group} {name!r} needs the package {error.name}, which must be installed first") from error


def open_device(name, **options):
    """A device by the name of its kind (``board``, ``sim``, ``golden``); options are the device's own."""
    return plugin("devices", name)(**options)
