"""A quantised model becomes the contents of an image: tables, packed matrices and programs at their addresses.

    QModel ── Layout ──► tables, digits ── pack ──► segments ──► addresses ──► programs ──► payload and header

The payload is the model window: what the accelerator reads, in the order in which it reads it.
"""

import hashlib
from dataclasses import asdict, dataclass

import numpy as np

from celosia.hw.isa import DESCRIPTOR_BYTES, ISA_VERSION, Index

from . import fit
from .model import EXACT, HEAD_PLANES, MATRICES, PackedTensor
from .pack import matmul_beats, pack_matmul, to_planes
from .place import ALIGN_BYTES, Address, Layout, Space, pad_to, rope_table
from .program import Matrix, Placement, Table, compile_program
from .quantise import HEAD_MAX
from .tokenizer import plain

__all__ = ["Assembled", "assemble", "place"]


@dataclass(frozen=True)
class Assembled:
    """What an image holds: the JSON header, the model window, and the compiled programs for whoever wants to read them."""
    header: dict
    payload: bytes
    programs: dict
    placement: Placement
    tensors: list       # of PackedTensor: the embedding, the matrices of all layers, the head


def assemble(model, accel, context=None, progress=None):
    """Lay out, check, pack and compile. ``progress(name, total)`` is called for each of ``total`` segments that is done.

    Raises :class:`celosia.gen.fit.DoesNotFit` when the configuration is too small.
    """
    context = fit.default_context(model.config, accel) if context is None else context
    layout = Layout(model.config, accel, context)
    sources = _sources(model, layout)
    fit.require_head(model.config, accel, model.plan)
    matrices = {name: source for name, source in sources.items() if isinstance(source, _MatrixSource)}
    planes = {name: source.n_planes for name, source in matrices.items()}
    placement, size, cache_bytes = place(layout, {name: source.scale for name, source in matrices.items()}, planes,
                                         plan=model.plan)
    programs = {name: compile_program(placement, head=name == "decode") for name in ("decode", "prefill")}
    fit.require(layout, programs, planes)

    payload = np.zeros(size + sum(pad_to(len(p.steps) * DESCRIPTOR_BYTES, ALIGN_BYTES) for p in programs.values()), np.uint8)
    segments = []

    def put(name, address, ports):
        for port, data in enumerate(ports):
            start = address.offset + port * address.port_stride
            payload[start:start + len(data)] = data
        span = payload[address.offset:address.offset + len(ports) * address.port_stride]
        segments.append({"name": name, "offset": address.offset, "bytes": len(span),
                         "sha256": hashlib.sha256(span.tobytes()).hexdigest()})
        if progress:
            progress(name, len(sources) + len(programs))

    for name, source in sources.items():
        if isinstance(source, _MatrixSource):
            matrix = placement.matrices[name]
            put(name, matrix.address, pack_matmul(source.digits(), accel, accel.row_quantum if matrix.gathered else None))
        else:
            put(name, placement.tables[name].address, split_rows(source(), accel))
    listed = {}
    for name, program in programs.items():
        code = np.frombuffer(program.encode(), np.uint8)
        put(f"program.{name}", Address(size, pad_to(len(code), ALIGN_BYTES), len(code)), [code])
        listed[name] = {"offset": size, "count": len(program.steps)}
        size += pad_to(len(code), ALIGN_BYTES)

    header = {
        "isa_version": ISA_VERSION, "config": accel.name, "config_digest": accel.digest, "name": model.name,
        "model": model.config.to_json(), "vocab": model.config.vocab_size, "context": context,
        "tokenizer": plain(model.config.vocab_size).header(), "head": asdict(model.plan),
        "payload_bytes": len(payload), "cache_bytes": cache_bytes,
        "cache": {"record_bytes": layout.record_bytes, "head_pad": layout.head_pad},
        "segments": segments, "programs": listed}
    return Assembled(header, payload.tobytes(), programs, placement, _records(model))


def place(layout, scales, planes=None, *, embedding_rows=None, plan=EXACT):
    """(Placement, bytes of the model window without programs, bytes of the cache window).

    ``scales`` gives, for every matrix of ``_shapes``, its scale as a float, or None where a table holds one a row.
    ``planes`` gives digit planes of matrices of layers by name; those that are not there have one.
    ``plan`` says which matrices the head has. ``embedding_rows`` leaves out the rows of the embedding from there on.
    """
    accel, lanes_bytes = layout.accel, 4 * layout.accel.vector_lanes
    space = Space(accel.n_ports)
    matrices, tables = {}, {}
    for name, shape in _shapes(layout, embedding_rows, plan, planes or {}).items():
        gathered = plan.kind == "shortlist" and name in ("head", "head.scales")
        if len(shape) == 3:
            n_planes, rows, columns = shape
            beats = matmul_beats(n_planes, rows, columns, accel)
            matrices[name] = Matrix(space.take(beats * accel.port_bytes), layout.rows(rows), layout.columns(columns), n_planes,
                                    scales[name], gathered)
        elif not name.endswith(".scales") or scales[name.removesuffix(".scales")] is None:
            n_rows, n_words = shape
            stride = n_words * lanes_bytes // accel.n_ports
            index = {"embedding": Index.TOKEN, "rope": Index.POSITION}.get(name, Index.CANDIDATE if gathered else Index.NONE)
            tables[name] = Table(space.take(n_rows * stride, stride), n_words, index)
    cache, cache_bytes = layout.cache()
    return Placement(layout, matrices, tables, cache, plan), space.size, cache_bytes


def _shapes(layout, embedding_rows, plan, planes):
    """All that lies in the model window, in order: tables (rows, words), matrices (planes, rows, columns)."""
    model, accel, words = layout.model, layout.accel, layout.words
    shapes = {"embedding": (embedding_rows or model.vocab_size, words(layout.hidden_rows)),
              "rope": (layout.context, layout.head_words)}

    def matrix(name, rows, columns, n_planes=None):
        shapes[f"{name}.scales"] = (1, words(rows))
        shapes[name] = (n_planes or planes.get(name, 1), rows, columns)

    for i in range(model.n_layers):
        shapes[f"layer{i}.attn_norm"] = (1, words(layout.hidden_rows))
        for head in range(model.n_kv_heads):
            matrix(f"layer{i}.qkv{head}", layout.qkv_rows, model.hidden_size)
        if model.sub_norms:
            shapes[f"layer{i}.attn_sub_norm"] = (1, words(layout.attn_columns))
        matrix(f"layer{i}.o", layout.hidden_rows, layout.attn_columns)
        shapes[f"layer{i}.ffn_norm"] = (1, words(layout.hidden_rows))
        matrix(f"layer{i}.gate", layout.ffn_rows, model.hidden_size)
        matrix(f"layer{i}.up", layout.ffn_rows, model.hidden_size)
        if model.sub_norms:
            shapes[f"layer{i}.ffn_sub_norm"] = (1, words(layout.ffn_rows))
        matrix(f"layer{i}.down", layout.hidden_rows, model.ffn_size)
    shapes["final_norm"] = (1, words(layout.hidden_rows))
    if plan.kind == "shortlist":
        matrix("coarse", layout.vocab_rows, model.hidden_size, plan.planes)
        shapes["head.scales"] = layout.vocab_rows // accel.row_quantum, words(accel.row_quantum)
        shapes["head"] = HEAD_PLANES, layout.vocab_rows, model.hidden_size
    else:
        matrix("head", layout.vocab_rows, model.hidden_size, plan.streamed_planes)
    return shapes


def _records(model):
    """[:class:`PackedTensor`] of the embedding, the matrices of all layers and the head."""
    embedding = PackedTensor("embedding", *model.embedding.shape, 0, 0.0, model.sources.get("embedding", "float32"))
    layers = [model.record(f"layer{i}.{name}", getattr(layer, name), getattr(layer, name).planes)
              for i, layer in enumerate(model.layers) for name in MATRICES]
    coarse = [] if model.plan.kind != "shortlist" else [model.record("coarse", model.coarse, model.plan.planes, "head")]
    head = model.coarse if model.plan.kind == "ternary" else model.head
    return [embedding, *layers, *coarse,
            model.record("head", head, HEAD_PLANES if coarse else model.plan.streamed_planes)]


class _MatrixSource:
    """``weights()``: integers (rows, columns) of ``n_planes`` digits; ``scale``: a float where all rows have the same."""

    def __init__(self, weights, scales, n_planes):
        self._weights = weights
        self.n_planes = n_planes
        real = scales[scales != 0]
        self.scale = float(real[0]) if len(real) and bool((real == real[0]).all()) else None

    def digits(self):
        """Trits (planes, rows, columns)."""
        return to_planes(self._weights().numpy(), self.n_planes)


def _sources(model, layout):
    """{name: matrix source, or a function that gives a table's rows float32}, in the order of ``_shapes``."""
    sources, pad = {}, layout.pad

    def matrix(name, weights, scales, n_planes, row_elements=None):
        source = _MatrixSource(weights, scales, n_planes)
        if source.scale is None:
            sources[f"{name}.scales"] = lambda: scales.view(-1, row_elements or len(scales)).numpy()
        sources[name] = source

    def gain(name, values, size):
        sources[name] = lambda: pad(values, size)[None].numpy()

    def linear(name, found, rows, weights=None):
        weights = found.weights if weights is None else weights
        matrix(name, lambda: layout.matrix(weights, rows), pad(found.scale, rows), found.planes)

    sources["embedding"] = lambda: pad(model.embedding, model.config.vocab_size, layout.hidden_rows).numpy()
    sources["rope"] = lambda: pad(rope_table(model.config, layout.context), layout.context, layout.head_pad).numpy()
    for i, layer in enumerate(model.layers):
        gain(f"layer{i}.attn_norm", layer.attn_norm, layout.hidden_rows)
        for head in range(model.config.n_kv_heads):
            weights, scales = layout.qkv(layer, head)
            matrix(f"layer{i}.qkv{head}", lambda weights=weights: weights, scales,
                   max(layer.q.planes, layer.k.planes, layer.v.planes))
        if model.config.sub_norms:
            gain(f"layer{i}.attn_sub_norm", layout.heads_padded(layer.attn_sub_norm), layout.attn_columns)
        linear(f"layer{i}.o", layer.o, layout.hidden_rows, layout.heads_padded(layer.o.weights))
        gain(f"layer{i}.ffn_norm", layer.ffn_norm, layout.hidden_rows)
        linear(f"layer{i}.gate", layer.gate, layout.ffn_rows)
        linear(f"layer{i}.up", layer.up, layout.ffn_rows)
        if model.config.sub_norms:
            gain(f"layer{i}.ffn_sub_norm", layer.ffn_sub_norm, layout.ffn_rows)
        linear(f"layer{i}.down", layer.down, layout.hidden_rows)
    gain("final_norm", model.final_norm, layout.hidden_rows)
    assert int(model.head.weights.abs().max()) <= HEAD_MAX, "head weights must be five balanced ternary digits"

    def head(name, rows, n_planes, row_elements=None):
        matrix(name, lambda: pad(rows.weights, layout.vocab_rows, model.config.hidden_size),
               pad(rows.scale, layout.vocab_rows), n_planes, row_elements)

    if model.plan.kind == "shortlist":
        head("coarse", model.coarse, model.plan.planes)
        head("head", model.head, HEAD_PLANES, layout.accel.row_quantum)
    else:
        head("head", model.coarse or model.head, model.plan.streamed_planes)
    return sources


def split_rows(rows, accel):
    """(n, elements) float32 to the bytes of each port: every beat's share, row after row."""
    raw = np.ascontiguousarray(rows.astype("<f4")).view(np.uint8)
    ports = raw.reshape(len(rows), -1, accel.n_ports, accel.port_bytes).transpose(2, 0, 1, 3)
    return [port.reshape(-1) for port in ports]
