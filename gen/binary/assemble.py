"""A binary encoder in integers becomes the contents of an image: parameters, packed matrices and programs at their addresses.

    IntegerModel ── Layout ──► addresses ──► programs ``single`` and ``batch`` ──► payload and header

The payload is the model window. What the host alone needs, the rows of tokens and positions, lies at its end.
"""

import hashlib
from dataclasses import asdict, dataclass

import numpy as np

from celosia.gen.place import ALIGN_BYTES, Address, Space, pad_to
from celosia.hw.isa import DESCRIPTOR_BYTES

from .model import ImageInput
from .pack import pack_matrix, pack_rows, pack_words
from .place import DoesNotFit, largest_layout
from .program import Places, compile_program

__all__ = ["Assembled", "assemble"]

_LINEARS = ("q", "k", "v", "o", "up", "down")


@dataclass(frozen=True)
class Assembled:
    """What an image holds, and the programs for whoever wants to read them."""
    header: dict
    payload: bytes
    programs: dict


def assemble(model, accel, sequences=None):
    """Lay out, pack and compile an :class:`IntegerModel` for a BinaryConfig.

    Program ``batch`` serves ``sequences`` sequences at once, or as many as there is room for; ``single`` as few as lie in whole
    chunks. Raises :class:`celosia.gen.binary.place.DoesNotFit`.
    """
    if sequences is not None and sequences < 1:
        raise ValueError(f"Sequences must be at least 1, not {sequences}")
    single, batch = largest_layout(model, accel, 1), largest_layout(model, accel, sequences)
    if sequences is not None and batch.n_sequences < sequences:
        raise DoesNotFit(f"Sequences of a run must be at most {batch.n_sequences} on configuration {accel.name}, not {sequences}")
    window = _Window(accel)
    _put_model(window, model, batch)
    cache = Space(accel.n_ports)
    chunk_bytes = _input_bytes(batch)
    input_address = cache.take(batch.n_chunks * chunk_bytes // accel.n_ports)
    rows = -(-len(model.config.labels) // accel.engine_rows) * accel.engine_rows
    output = pad_to(cache.size, ALIGN_BYTES)
    places = Places(dict(window.addresses), input_address, output)
    programs, listed = {}, {}
    for name, layout in (("single", single), ("batch", batch)):
        programs[name] = compile_program(name, layout, places)
        code = programs[name].encode()
        listed[name] = {"offset": window.put(f"program.{name}", [code]).offset, "count": len(code) // DESCRIPTOR_BYTES,
                        "sequences": layout.n_sequences, "chunks": layout.n_chunks}
    if model.tokens is not None:
        window.put("tokens", [np.ascontiguousarray(model.tokens.astype("<i2")).tobytes()])
        window.put("places", [np.ascontiguousarray(model.positions.astype("<i2")).tobytes()])
    config = model.config
    header = {
        "kind": "classifier", "isa_version": accel.isa_version, "config": accel.name, "config_digest": accel.digest,
        "name": model.name, "model": config.to_json(), "labels": list(config.labels), "pooling": config.pooling,
        "input": _input_header(batch, input_address, chunk_bytes),
        "output": {"offset": output, "rows": rows, "scale": model.head_scale.tolist(), "bias": model.head_bias.tolist()},
        "seq_tokens": batch.seq_tokens, "tokenizer": {"kind": _vocabulary(config), "bytes": len(model.words)},
        "payload_bytes": window.size, "cache_bytes": output + batch.n_chunks * rows * 4 * accel.token_lanes,
        "segments": window.listed, "programs": listed}
    return Assembled(header, bytes(window.payload), programs)


def _vocabulary(config):
    """Kind of the file that travels behind the payload."""
    return "none" if isinstance(config.input, ImageInput) else config.input.vocabulary


def _put_model(window, model, layout):
    """All that the accelerator reads but programs, in the order in which it does."""
    accel, stages = layout.accel, layout.stages
    if model.patch is not None:
        lanes, s = accel.token_lanes, layout.seq_tokens
        places = np.zeros((max(s, lanes), model.config.hidden_size), np.int64)
        places.reshape(-1, s, places.shape[1])[:, :len(model.positions)] = model.positions
        window.put("positions", pack_rows(places.reshape(-1, lanes, places.shape[1]).transpose(0, 2, 1).reshape(-1, lanes), accel))
        window.put("patch", pack_matrix(model.patch.weights, model.patch.planes, accel))
    for stage, parts in stages.items():
        if parts:
            words = np.zeros(max(at + len(each) for at, each in parts.values()), np.int64)
            for at, each in parts.values():
                words[at:at + len(each)] = each
            window.put(f"stage{stage}.parameters", pack_words(words, accel))
        if 0 <= stage < model.config.n_layers:
            for name in _LINEARS:
                linear = getattr(model.layers[stage], name)
                window.put(f"layer{stage}.{name}", pack_matrix(linear.weights, linear.planes, accel))
    window.put("head", pack_matrix(model.head.weights, model.head.planes, accel))


def _input_bytes(layout):
    """Bytes of what the host writes for a chunk, on all ports together."""
    if isinstance(layout.config.input, ImageInput):
        return layout.act["patches"].lines * layout.accel.line_bytes
    return layout.config.hidden_size * 2 * layout.accel.token_lanes


def _input_header(layout, address, chunk_bytes):
    """What the host must know to write the tokens of a run."""
    source = layout.config.input
    found = asdict(source) | {"kind": "text", "max_tokens": layout.config.max_tokens, "hidden_size": layout.config.hidden_size}
    if isinstance(source, ImageInput):
        found |= {"kind": "image", "zero": source.zero, "bits": source.bits, "n_tokens": source.n_tokens}
    return found | {"offset": address.offset, "port_stride": address.port_stride, "chunk_bytes": chunk_bytes}


class _Window:
    """The model window: segments one after the other."""

    def __init__(self, accel):
        self._space = Space(accel.n_ports)
        self.payload, self.addresses, self.listed, self.size = bytearray(), {}, [], 0

    def put(self, name, ports):
        """:class:`Address` of the bytes of every port, or of bytes that one port reads."""
        if len(ports) == 1:
            address = Address(self.size, pad_to(len(ports[0]), ALIGN_BYTES), len(ports[0]))
            self._space.size += address.port_stride
        else:
            address = self._space.take(len(ports[0]))
        self.size = self._space.size
        self.payload.extend(bytes(self.size - len(self.payload)))
        for port, data in enumerate(ports):
            start = address.offset + port * address.port_stride
            self.payload[start:start + len(data)] = bytes(data)
        self.addresses[name] = address
        data = bytes(self.payload[address.offset:self.size])
        self.listed.append({"name": name, "offset": address.offset, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        return address
