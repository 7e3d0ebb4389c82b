"""A model of a shape with made-up weights, as an accelerator wants it: bytes at addresses, no float weights anywhere.

    Shape ── Layout ── place ──► addresses ──► random legal bytes, gains of one, scales that keep numbers near one
                                          └──► programs

Weights are random trits, so that a product of n columns grows by sqrt(2 n / 3); the scales divide by that. Of the
embedding only the first ``EMBEDDING_ROWS`` rows exist: token ids of a run must lie below.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np

from celosia.hw.isa import DESCRIPTOR_BYTES, ISA_VERSION, Index, Opcode, pack
from celosia.hw.links import row_beats

from . import fit
from .pack import ZERO_BYTE
from .place import ALIGN_BYTES, ROWS_BYTES, Layout, apart, pad_to, rope_table
from .program import compile_program, compile_programs
from .tokenizer import Tokenizer
from .window import place, split_rows

__all__ = ["EMBEDDING_ROWS", "Synthetic", "fill_cache", "synthetic"]

EMBEDDING_ROWS = 64
READ_BYTES = 8 << 20                    # what the program ``read`` reads, at most


@dataclass(frozen=True)
class Synthetic:
    """``header`` and ``payload`` as of an image; ``placement``, ``programs`` (by name) and ``read_bytes`` of program
    ``read``, which only reads, from end to end."""
    header: dict
    payload: np.ndarray
    placement: object
    programs: dict
    read_bytes: int


def synthetic(model, accel, context, *, name="synthetic", head="exact", seed=1, sequences=1, kv="int8"):
    """A :class:`Synthetic` with the programs of an image, ``first_layer`` (prefill of one layer) and ``read``.

    Raises :class:`celosia.gen.fit.DoesNotFit` when the configuration is too small.
    """
    plan = fit.head_plan(model, accel, head)
    layout = Layout(model, accel, context, kv=kv)
    layout = replace(layout, pages=min(layout.pages_of(sequences), accel.max_pages))
    placement, size, cache_bytes = place(layout, _Scales(layout), embedding_rows=EMBEDDING_ROWS, plan=plan)
    one_layer = replace(placement, layout=replace(layout, model=model.first_layers(1)))
    programs = compile_programs(placement)
    programs["first_layer"] = compile_program(one_layer, "prefill")
    fit.require(layout, programs)
    code = {key: program.encode() for key, program in programs.items()}
    code["read"], read_bytes = _read_program(accel, size)

    payload = np.zeros(size + sum(pad_to(len(text), ALIGN_BYTES) for text in code.values()), np.uint8)
    rng = np.random.default_rng(seed)
    for key, table in placement.tables.items():
        _put(payload, table.address, split_rows(_rows(key, table, layout, rng), accel))
    columns = _columns(layout)
    for key, matrix in placement.matrices.items():
        _fill_matrix(payload, matrix, columns(key), accel, rng)
    listed = {}
    for key, text in code.items():
        payload[size:size + len(text)] = np.frombuffer(text, np.uint8)
        listed[key] = {"offset": size, "count": len(text) // DESCRIPTOR_BYTES}
        size += pad_to(len(text), ALIGN_BYTES)
    header = {"isa_version": ISA_VERSION, "config": accel.name, "config_digest": accel.digest, "name": name,
              "model": model.to_json(), "vocab": EMBEDDING_ROWS, "context": context, "tokenizer": Tokenizer("none").header(),
              "head": asdict(plan), "cache": layout.cache_header(),
              "payload_bytes": len(payload), "cache_bytes": cache_bytes, "programs": listed}
    return Synthetic(header, payload, placement, programs, read_bytes)


def fill_cache(cache, layout, n_positions, seed=2):
    """Random legal records for the first positions of every layer and KV head in the cache window ``cache`` (uint8), as they lie in
    pages 0, 1, 2, ..."""
    rng, n_ports = np.random.default_rng(seed), layout.accel.n_ports
    regions, _ = layout.cache()
    dim, four = layout.model.head_dim, (layout.int4 & 1, layout.int4 >> 1)
    key_bytes, value_bytes = (row_beats(layout.head_beats, each) * layout.accel.port_bytes for each in four)
    for address in regions.values():
        for port in range(n_ports):
            n = len(range(port, n_positions, n_ports))
            start = address.offset + port * address.port_stride
            records = cache[start:start + n * layout.record_bytes].reshape(n, layout.record_bytes)
            for at, four_bits in ((0, four[0]), (layout.record_bytes - value_bytes, four[1])):
                row = _int4_pairs(rng, n, dim // 2) if four_bits else rng.integers(-127, 128, (n, dim), np.int8).view(np.uint8)
                records[:, at:at + row.shape[1]] = row
            scales = rng.uniform(0.01, 0.03, (n, 2)).astype("<f4")
            records[:, key_bytes:key_bytes + 8] = scales.view(np.uint8)


def _int4_pairs(rng, *shape):
    low, high = (rng.integers(-7, 8, shape, np.int8).view(np.uint8) & 15 for _ in range(2))
    return low | high << 4


class _Scales:
    """Scale by matrix name: a table for those whose rows have scales of their own, else one that keeps numbers near one."""

    def __init__(self, layout):
        self._columns = _columns(layout)

    def __getitem__(self, name):
        return None if "qkv" in name or name in ("coarse", "head") else _scale(self._columns(name))


def _scale(n_columns):
    return float(np.float32(1 / np.sqrt(2 / 3 * n_columns)))


def _columns(layout):
    """Columns of a matrix, without padding, by its name."""
    sizes = {"o": layout.attn_columns, "down": layout.model.ffn_size}
    return lambda name: sizes.get(name.rpartition(".")[2], layout.model.hidden_size)


def _rows(name, table, layout, rng):
    """(rows, words * L) float32 of a table; zero where it is padding."""
    model, width = layout.model, table.n_words * layout.accel.vector_lanes
    if name == "rope":
        return layout.pad(rope_table(model, layout.context), layout.context, width).numpy()
    rows = np.zeros((EMBEDDING_ROWS if table.index is Index.TOKEN else 1, width), np.float32)
    if name == "embedding":
        rows[:, :model.hidden_size] = rng.standard_normal((len(rows), model.hidden_size))
    elif table.index is Index.CANDIDATE:
        rows = _scale(model.hidden_size) * rng.uniform(0.9, 1.1, (layout.vocab_rows // layout.accel.row_quantum, width))
    elif name.endswith(".scales"):
        real = (model.group + 2) * layout.head_pad if "qkv" in name else model.vocab_size
        rows[:, :real] = _scale(model.hidden_size) * rng.uniform(0.9, 1.1, real)
        if "qkv" in name:       # padding of a head
            rows[0, :real].reshape(-1, layout.head_pad)[:, model.head_dim:] = 0
    elif name.endswith("attn_sub_norm"):
        rows.reshape(-1, layout.head_pad)[:, :model.head_dim] = 1
    else:
        rows[:, :model.ffn_size if name.endswith("ffn_sub_norm") else model.hidden_size] = 1
    return rows


def _put(payload, address, ports):
    for port, data in enumerate(ports):
        start = address.offset + port * address.port_stride
        payload[start:start + len(data)] = data


def _fill_matrix(payload, matrix, n_columns, accel, rng):
    """Random trits, zero in the columns that are padding. Byte order: ``pack``."""
    most_groups = (accel.row_quantum if matrix.gathered else accel.row_block_rows) // accel.engine_rows
    groups, blocks, row_bytes = matrix.rows // accel.engine_rows, matrix.columns // accel.columns, accel.columns // 5
    ports = [payload[matrix.address.offset + p * matrix.address.port_stride:][:matrix.address.port_bytes]
             .reshape(-1, accel.port_bytes) for p in range(accel.n_ports)]
    padding = (blocks - 1) * accel.columns + 5 * np.arange(row_bytes) + 5 > n_columns      # in the last column block
    beat = 0
    for first in range(0, groups, most_groups):
        shape = matrix.planes, blocks, min(most_groups, groups - first), accel.engine_rows, row_bytes
        block = rng.integers(0, 243, shape, np.uint8)
        np.copyto(block[:, -1], ZERO_BYTE, where=padding)
        beats = block.reshape(-1, accel.n_ports, accel.port_bytes)
        for port, data in enumerate(ports):
            data[beat:beat + len(beats)] = beats[:, port]
        beat += len(beats)


def _read_program(accel, model_bytes):
    """(code, bytes): LOADs that read the model window from its beginning, one after the other, into the same words of P."""
    word_bytes, space = 4 * accel.vector_lanes, min(model_bytes - (accel.n_ports - 1) * ROWS_BYTES, READ_BYTES)
    words = min(accel.p_words, max(1, space // word_bytes))
    port_bytes = words * word_bytes // accel.n_ports
    n_loads = max(1, space // (words * word_bytes))
    stride = apart(n_loads * port_bytes)
    code = b"".join(pack(Opcode.LOAD, addr=i * port_bytes, port_stride=stride, index_stride=0, index=Index.NONE,
                         n_words=words, d_base=0, d_stride=0) for i in range(n_loads))
    return code + pack(Opcode.END), n_loads * words * word_bytes
