"""Reference pages from the tables that hardware and software share.

    hw/isa.py  ── structures, enums, their docstrings and comments ──► docs/isa.md
    hw/regs.py ── registers, counters, error codes ──────────────────► docs/registers.md

    python -m celosia.gen.docs

rewrites both. Offsets and widths come from the structures themselves, words from the text of the module, so a page
says nothing that the module does not say.
"""

import ast
import inspect
import io
import re
import sys
import tokenize
from enum import EnumMeta
from pathlib import Path

from celosia.hw import isa, regs

__all__ = ["isa_page", "main", "pages", "registers_page"]

_ROOT = Path(__file__).resolve().parents[1]
_NOTE = "<!-- Written by `python -m celosia.gen.docs` from `{source}`. Change that file, not this page. -->"


class _Source:
    """Docstrings, and comments of the members of classes, from the text of a module."""

    def __init__(self, module):
        text = inspect.getsource(module)
        tree = ast.parse(text)
        self.doc = ast.get_docstring(tree)
        self._lines = text.splitlines()
        self._comments = {token.start[0]: token.string.lstrip("# ")
                          for token in tokenize.generate_tokens(io.StringIO(text).readline)
                          if token.type == tokenize.COMMENT}
        self._classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}

    def docstring(self, name):
        """Of a class; empty where it has none."""
        return ast.get_docstring(self._classes[name]) or ""

    def comments(self, name):
        """{member: comment} of a class: the comment on its line, and on lines of their own right below."""
        found = {}
        for node in self._classes[name].body:
            if isinstance(node, ast.Assign):
                member = node.targets[0].id
            elif isinstance(node, ast.AnnAssign):
                member = node.target.id
            else:
                continue
            line, parts = node.end_lineno, []
            while line in self._comments and (not parts or self._lines[line - 1].lstrip().startswith("#")):
                parts.append(self._comments[line])
                line += 1
            found[member] = " ".join(parts)
        return found


def _prose(text):
    """A docstring as Markdown: roles and double backticks become code, underlined titles become headings."""
    text = re.sub(r":\w+:(`[^`]+`)", r"\1", text).replace("``", "`")
    return re.sub(r"^(.+)\n-{3,}$", r"## \1\n", text, flags=re.M)


def _cell(text):
    """Text inside a table, where a bar ends the cell and a star may begin emphasis."""
    return re.sub(r"(\||\*(?! ))", r"\\\1", re.sub(" +", " ", text))


def _table(header, rows):
    """A Markdown table; ``rows`` are tuples of finished cells."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _bits(offset, width):
    return f"{offset + width - 1}:{offset}" if width > 1 else f"{offset}"


def _fields(source, struct, first_bit):
    """Table of the fields of a structure that begins at ``first_bit`` of the descriptor."""
    comments, rows = source.comments(struct.__name__), []
    for name, field in struct.as_shape():
        kind = f"{field.width} bit{'s' * (field.width > 1)}"
        if isinstance(field.shape, EnumMeta):
            kind = f"[{field.shape.__name__}](#{field.shape.__name__.lower()})"
        note = "zero" if name == "reserved" else _cell(comments[name])
        rows.append((_bits(first_bit + field.offset, field.width), f"`{name}`", kind, note))
    return _table(("bits", "field", "values", "note"), rows)


def isa_page():
    """Text of docs/isa.md."""
    source = _Source(isa)
    header_bits = isa.Header.as_shape().size
    bodies = {struct: opcode for opcode, struct in isa.BODIES.items()}
    parts = ["# Instruction set", _NOTE.format(source="hw/isa.py"),
             f"Version {isa.ISA_VERSION}. A descriptor has {isa.DESCRIPTOR_BYTES} bytes, little endian: bit 0 is bit 0 of the\n"
             "first byte. [program.md](program.md) shows how the compiler uses them, [units/control.md](units/control.md)\n"
             "what is checked.",
             _prose(source.doc),
             "## Header", _fields(source, isa.Header, 0)]
    for struct, opcode in bodies.items():
        parts += [f"## {struct.__name__}", f"Opcode {opcode.value}, {opcode.name}.", _prose(source.docstring(struct.__name__)),
                  _fields(source, struct, header_bits)]
    parts += ["## Values"]
    for name in isa.__all__:
        enum = getattr(isa, name)
        if not isinstance(enum, EnumMeta):
            continue
        comments = source.comments(name)
        parts += [f"### {name}", _prose(source.docstring(name)),
                  _table(("value", "name", "meaning"), [(str(m.value), f"`{m.name}`", _cell(comments[m.name])) for m in enum])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _registers(registers):
    rows = []
    for register, following in zip(registers, [*registers[1:], None]):
        wide = "64 bits" in register.meaning or register in regs.COUNTERS
        place = f"0x{register.offset:03X}" + (f", 0x{register.offset + 4:03X}" if wide else "")
        if following and wide and following.offset < register.offset + 8:
            raise ValueError(f"Register {register.name} must have room for 64 bits, and {following.name} follows at once")
        rows.append((place, f"`{register.name}`", register.access, _cell(register.meaning)))
    return _table(("offset", "name", "access", "meaning"), rows)


def registers_page():
    """Text of docs/registers.md."""
    source = _Source(regs)
    comments = source.comments("Error")
    codes = {name: value for name, value in vars(regs.Error).items() if name.isupper() and isinstance(value, int)}
    return "\n\n".join([
        "# Registers", _NOTE.format(source="hw/regs.py"),
        f"Version {regs.ABI_VERSION}, {regs.ADDRESS_BITS} address bits. [units/control.md](units/control.md) tells how a run goes.",
        _prose(source.doc),
        "## Control and status", _registers(regs.REGISTERS),
        "## Counters", "Of the last run, 64 bits each, of which 48 are kept. They start at zero with every start.",
        _registers(regs.COUNTERS),
        "## Candidates",
        f"Candidate i of TOPK_COUNT, best first: token at 0x{regs.TOPK_OFFSET:03X} + 8 i, logit (the bits of a binary32) at "
        f"0x{regs.TOPK_OFFSET + 4:03X} + 8 i.",
        "## Error codes",
        _table(("code", "name", "meaning"), [(str(value), f"`{name}`", _cell(comments[name]) or "no error")
                                             for name, value in codes.items()]),
    ]) + "\n"


def pages():
    """{path below the root of the tree: text} of every generated page."""
    return {"docs/isa.md": isa_page(), "docs/registers.md": registers_page()}


def main():
    """Rewrite the pages of the source tree."""
    if not (_ROOT / "docs").is_dir():
        sys.exit(f"The pages are written into a source tree, and {_ROOT} has no folder docs")
    for path, text in pages().items():
        (_ROOT / path).write_text(text)
        print(path)


if __name__ == "__main__":
    main()
