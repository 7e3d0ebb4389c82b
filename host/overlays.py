"""Finding a built overlay, and making sure that its files are the ones that were built together.

    bitstreams/kv260_kv260_1a2b3c4d/
        celosia_kv260.bit    bitstream
        celosia_kv260.hwh    hardware description that Vivado wrote beside it
        celosia_kv260.json   manifest: configuration, registers, clock, SHA-256 of both
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from .errors import CelosiaError

__all__ = ["Overlay", "find"]

_SHARED = Path("/usr/local/share/celosia/bitstreams")
_BESIDE = Path(__file__).resolve().parents[1] / "bitstreams"
_NEEDED = ("config_name", "config", "digest", "board", "clock_mhz", "registers", "counters", "errors", "topk_offset", "vlnv",
           "register_base", "isa_version", "abi_version", "overlay_files")
# PYNQ takes these by name when they lie beside a bitstream: the first in place of the .hwh, the second behind it.
_STRANGERS = {".xsa": "PYNQ would read it in place of the .hwh", ".dtbo": "PYNQ would insert it, and load the fabric twice"}


@dataclass(frozen=True)
class Overlay:
    """Files of an overlay and what the manifest says of them.

    Members
    -------
    bit : Path
        The bitstream; the hardware description has the same stem.
    manifest : dict
        The contract of the built accelerator.
    """

    bit: Path
    manifest: dict

    def check(self):
        """CelosiaError unless both files have the SHA-256 of the manifest and nothing beside them misleads PYNQ."""
        for suffix, why in _STRANGERS.items():
            other = self.bit.with_suffix(suffix)
            if other.exists():
                raise CelosiaError(f"{other} must not lie beside the bitstream: {why}; move it to another folder")
        for path in (self.bit, self.bit.with_suffix(".hwh")):
            wanted = self.manifest["overlay_files"].get(path.name)
            if not path.exists():
                raise CelosiaError(f"{path} must lie beside the manifest: copy the whole folder that "
                                   "`celosia vivado --collect` wrote")
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if found != wanted:
                raise CelosiaError(f"SHA-256 of {path} must be {wanted} as the manifest says, not {found}: the file is of another "
                                   "build or damaged; copy the whole folder again")


def places(bitstreams=None):
    """Folders in which overlays are sought: the argument alone, or CELOSIA_BITSTREAMS, this tree's, the system's."""
    if bitstreams is not None:
        return [Path(bitstreams)]
    named = os.environ.get("CELOSIA_BITSTREAMS")
    return [*([Path(named)] if named else []), _BESIDE, _SHARED]


def find(config, bitstreams=None):
    """The :class:`Overlay` of a configuration; ``bitstreams``: the folder of one overlay, or one that holds such folders.

    The first place that has one is taken. PYNQ's variable BOARD, where it is set, chooses among boards. Raises
    ``FileNotFoundError`` when there is none, ``CelosiaError`` when there are several or a manifest cannot be read.
    """
    sought = places(bitstreams)
    name = f"celosia_{config}.json"
    board = os.environ.get("BOARD", "").lower()
    for place in sought:
        manifests = [place / name] if (place / name).exists() else sorted(place.glob(f"*/{name}"))
        found = [Overlay(path.with_suffix(".bit"), _read(path)) for path in manifests]
        if len(found) > 1:
            found = [overlay for overlay in found if overlay.manifest["board"] == board] or found
        if len(found) > 1:
            raise CelosiaError(f"One overlay of configuration {config} must be meant, and there are {len(found)}: "
                               f"{', '.join(str(overlay.bit.parent) for overlay in found)}; name one as CELOSIA_BITSTREAMS")
        if found:
            return found[0]
    raise FileNotFoundError(f"An overlay of configuration {config} must lie in {', '.join(map(str, sought))}, and there is none: "
                            f"build one with `celosia vivado --config {config}` (docs/board.md)")


def _read(path):
    try:
        manifest = json.loads(path.read_text())
    except ValueError:
        raise CelosiaError(f"{path} must be JSON: the file is damaged; copy the whole folder again") from None
    missing = [key for key in _NEEDED if key not in manifest]
    if missing:
        raise CelosiaError(f"{path} must have {', '.join(missing)}: it is not what `celosia vivado --collect` writes")
    return manifest
