"""Sentences of the docstrings of Python's standard library, labelled by the part of it they are from.

    python -m celosia.gen.binary.train.collect --out models/docstrings/data.tsv.xz

The file is collected once and shipped: another interpreter has other docstrings. A line has four columns with tabs
between: `train` or `test`, label, number of the docstring, sentence. A docstring is in the test split as a whole, by its
sha256. A sentence of 8 to 32 words is kept once; one that stands under two labels is not kept.
"""

import argparse
import ast
import hashlib
import lzma
import pathlib
import re
import sysconfig

__all__ = ["GROUPS", "WORD", "collect", "sentences"]

WORD = re.compile(r"[a-z0-9_]+")
MIN_WORDS, MAX_WORDS = 8, 32
TEST_SHARE = 5  # one docstring of so many is held out

# Label -> modules and packages, by the name of the file or of the folder.
GROUPS = {
    "asyncio": ("asyncio",),
    "distutils": ("distutils",),
    "files": ("tarfile", "zipfile", "shutil", "pathlib", "tempfile", "os", "glob", "fnmatch", "filecmp", "posixpath", "ntpath",
              "fileinput", "gzip", "bz2", "lzma", "_compression", "_pyio"),
    "importlib": ("importlib", "pkgutil", "modulefinder", "runpy", "zipimport"),
    "logging": ("logging",),
    "mail": ("email", "mailbox", "smtplib", "imaplib", "poplib", "mimetypes"),
    "numbers": ("_pydecimal", "fractions", "numbers", "statistics", "random", "colorsys"),
    "processes": ("multiprocessing", "threading", "concurrent", "subprocess", "queue", "_threading_local"),
    "testing": ("unittest", "doctest"),
    "tkinter": ("tkinter",),
    "web": ("http", "urllib", "wsgiref", "xmlrpc", "socketserver", "cgi", "ftplib", "webbrowser"),
    "xml": ("xml", "html"),
}


def sentences(docstring):
    """Sentences of a docstring, white space joined; paragraphs with examples (>>>) are left out."""
    for paragraph in re.split(r"\n\s*\n", docstring):
        text = "" if ">>>" in paragraph else " ".join(paragraph.split())
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", text):
            if MIN_WORDS <= len(WORD.findall(sentence.lower())) <= MAX_WORDS:
                yield sentence


def _docstrings(root, modules):
    for path in sorted(path for name in modules for path in [root / f"{name}.py", *(root / name).rglob("*.py")] if path.exists()):
        if {"test", "tests"} & set(path.relative_to(root).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield ast.get_docstring(node) or ""


def collect(root):
    """Lines of the file, from the folder of a standard library."""
    found, labels, number = {}, {}, 0
    for label, modules in GROUPS.items():
        for docstring in dict.fromkeys(_docstrings(root, modules)):
            split = "train" if int(hashlib.sha256(docstring.encode()).hexdigest(), 16) % TEST_SHARE else "test"
            for sentence in sentences(docstring):
                if not sentence.isascii() or not sentence.isprintable():
                    continue
                key = tuple(WORD.findall(sentence.lower()))
                labels.setdefault(key, set()).add(label)
                found.setdefault(key, (split, label, str(number), sentence))
            number += 1
    return ["\t".join(line) for key, line in found.items() if len(labels[key]) == 1]


def main(argv=None):
    """Command line of the collection."""
    p = argparse.ArgumentParser(prog="python -m celosia.gen.binary.train.collect", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, required=True)
    p.add_argument("--root", type=pathlib.Path, default=pathlib.Path(sysconfig.get_paths()["stdlib"]))
    args = p.parse_args(argv)
    text = "\n".join(collect(args.root)) + "\n"
    args.out.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
