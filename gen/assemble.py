"""A quantised model becomes the contents of an image: tables, packed matrices and programs at their addresses.

    QModel ── Sources ──► tables, weights ── Window ──► addresses ──► programs
                                └── pack ──► segments ──► payload and header

The payload is the model window: what the accelerator reads, in the order in which it reads it. It is written in one pass, a
block of rows at a time, into a temporary file: no more than a layer, the head in int8 and a block are in memory.
"""

import hashlib
from dataclasses import asdict, dataclass, replace

from celosia.hw.isa import DESCRIPTOR_BYTES, ISA_VERSION

from . import fit
from .pack import pack_matmul
from .place import ALIGN_BYTES, Address, Layout, pad_to
from .program import Placement, compile_programs
from .sources import Floats, Sources
from .spool import Spool
from .tokenizer import plain
from .window import Window, split_rows

__all__ = ["Assembled", "assemble"]


@dataclass(frozen=True)
class Assembled:
    """What an image holds: the JSON header, the model window, and the compiled programs for whoever wants to read them."""
    header: dict
    spool: Spool        # holds the payload
    programs: dict
    placement: Placement
    tensors: list       # of PackedTensor: the embedding, the matrices of all layers, the head

    @property
    def payload(self):
        """The model window: a memoryview, mapped from the temporary file."""
        return self.spool.view()


def assemble(model, accel, context=None, progress=None, folder=None, *, sequences=1, kv="int8", window=None, sinks=0,
             rebase=True):
    """Lay out, check, pack and compile. ``progress(name, total)`` is called before each of ``total`` steps.

    The cache has pages for ``sequences`` sequences of ``context`` positions, or as many as the configuration has, in format ``kv``.
    ``window``, ``sinks`` and ``rebase`` take the place of those of the model (0: every token sees all positions before it).

    The payload is written to a temporary file in ``folder`` (default: where the system keeps them). Raises
    :class:`celosia.gen.fit.DoesNotFit` when the configuration is too small; sizes are checked before any weight is read.
    """
    if sequences < 1:
        raise ValueError(f"Sequences must be at least 1, not {sequences}")
    if sinks and not window:
        raise ValueError(f"Sinks must be given with a window, not {sinks} sinks alone")
    if window is not None:
        model = replace(model, config=model.config.with_window(window, sinks, rebase))
    context = fit.default_context(model.config, accel) if context is None else context
    layout = Layout(model.config, accel, context, kv=kv)
    layout = replace(layout, pages=min(layout.pages_of(sequences), accel.max_pages))
    fit.require_head(model.config, accel, model.plan)
    fit.require(layout)
    space, sources = Window(layout, model.plan), Sources(model, layout)
    segments = _Segments(Spool(folder))
    steps = [*space.names, "programs"]
    coming = iter(steps)

    def begin():
        if progress:
            progress(next(coming), len(steps))

    begin()
    for source in sources:
        if isinstance(source, Floats):
            segments.put(source.name, space.table(source.name).address, (split_rows(rows, accel) for rows in source.blocks))
        else:
            _put_matrix(source, space, segments, accel)
        begin()
    placement, size = space.placement(), space.size
    programs = compile_programs(placement)
    fit.require(layout, programs, {name: matrix.planes for name, matrix in placement.matrices.items()})
    listed = {}
    for name, program in programs.items():
        code = program.encode()
        segments.put(f"program.{name}", Address(size, pad_to(len(code), ALIGN_BYTES), len(code)), [[code]])
        listed[name] = {"offset": size, "count": len(code) // DESCRIPTOR_BYTES}
        size += pad_to(len(code), ALIGN_BYTES)

    header = {
        "isa_version": ISA_VERSION, "config": accel.name, "config_digest": accel.digest, "name": model.name,
        "model": model.config.to_json(), "vocab": model.config.vocab_size, "logit_cap": model.config.logit_cap, "context": context,
        "tokenizer": plain(model.config.vocab_size).header(), "head": asdict(model.plan),
        "payload_bytes": size, "cache_bytes": layout.cache()[1], "cache": layout.cache_header(),
        "segments": segments.listed, "programs": listed}
    return Assembled(header, segments.spool, programs, placement, sources.tensors)


def _put_matrix(source, space, segments, accel):
    """A matrix, and the table of its scales before it where they differ."""
    scale = source.scale
    matrix = space.matrix(source.name, scale, source.n_planes)
    if scale is None:
        table = source.table()
        segments.put(table.name, space.tables[table.name].address, (split_rows(rows, accel) for rows in table.blocks))
    block_rows = accel.row_quantum if matrix.gathered else accel.row_block_rows
    segments.put(source.name, matrix.address, (pack_matmul(digits, accel, block_rows) for digits in source.digits(block_rows)))


class _Segments:
    """Writes segments into a spool and lists them as the header does."""

    def __init__(self, spool):
        self.spool, self.listed = spool, []

    def put(self, name, address, blocks):
        """``blocks`` of bytes for every port, each behind the one before."""
        at, end = address.offset, None
        for ports in blocks:
            for port, data in enumerate(ports):
                self.spool.write(at + port * address.port_stride, data)
            at, end = at + len(ports[0]), address.offset + len(ports) * address.port_stride
        self.spool.grow(end)
        digest = hashlib.sha256()
        for piece in self.spool.pieces(address.offset, end):
            digest.update(piece)
        self.listed.append({"name": name, "offset": address.offset, "bytes": end - address.offset, "sha256": digest.hexdigest()})
