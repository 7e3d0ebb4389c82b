"""Checkpoints of llama2.c: one file of seven int32 and float32 tensors (its first, "legacy" format).

    dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size (negative: the head is a tensor of its own), seq_len
    token embedding (vocab, dim)
    attention norms (layers, dim), wq (layers, dim, dim), wk, wv (layers, kv_dim, dim), wo (layers, dim, dim)
    FFN norms (layers, dim), w1 gate (layers, hidden_dim, dim), w2 down (layers, dim, hidden_dim), w3 up
    final norm (dim); cosines and sines (seq_len, head_dim / 2) each, not used; head (vocab, dim) where it is not tied

All little endian. SiLU, no biases, norm epsilon 1e-5, rotary base 10000. llama2.c turns the neighbours (2j, 2j + 1) of a head
together; here the pairs are (j, j + head_dim / 2), so the rows of wq and wk are taken in the order 0, 2, .. 1, 3, .. of every
head. Tensors stay in the mapped file until they are used.
"""

import math
import struct
import zipfile

import numpy as np
import torch

from .model import Checkpoint, ModelConfig
from .tensors import CheckpointError

__all__ = ["load", "tensor_shapes"]

_HEADER = struct.Struct("<7i")
_VERSIONED = struct.pack("<I", 0x616B3432)    # magic number of the later formats


def load(path):
    """Read a file. Returns :class:`Checkpoint`; raises :class:`CheckpointError`."""
    try:
        with open(path, "rb") as file:
            start, n_bytes = file.read(_HEADER.size), file.seek(0, 2)
    except OSError:
        raise CheckpointError(f"The checkpoint {path} cannot be read") from None
    if start[:1] == b"\x80" or start[:4] == zipfile.stringFileHeader:
        raise CheckpointError(f"A checkpoint *.bin must be a file of llama2.c, and {path.name} is a pickle of PyTorch: "
                              "save it as safetensors")
    if start[:4] == _VERSIONED:
        raise CheckpointError(f"A file of llama2.c must be in its legacy format, and {path.name} has a version number: "
                              "export it with version 0")
    if len(start) < _HEADER.size:
        raise CheckpointError(f"A file of llama2.c must begin with seven numbers, and {path.name} has {n_bytes} bytes")
    config, positions = _config(path.name, *_HEADER.unpack(start))
    shapes = tensor_shapes(config, positions)
    wanted = _HEADER.size + 4 * sum(map(math.prod, shapes.values()))
    if n_bytes != wanted:
        raise CheckpointError(f"A file of llama2.c with these sizes must have {wanted} bytes, and {path.name} has {n_bytes}")

    values = torch.from_numpy(np.memmap(path, dtype="<f4", mode="c", offset=_HEADER.size))
    tensors, at = {}, 0
    for name, shape in shapes.items():
        tensors[name] = values[at:at + math.prod(shape)].view(shape)
        at += math.prod(shape)
        if not name.startswith("freq") and not all(part.isfinite().all() for part in tensors[name]):
            raise CheckpointError(f"Tensor {name} must hold finite numbers, and does not")
    layers = [_layer(config, tensors, i) for i in range(config.n_layers)]
    head = tensors["tok_embeddings"] if config.tied else tensors["output"]
    return Checkpoint(config, tensors["tok_embeddings"], layers, tensors["norm"], head, path.stem)


def tensor_shapes(config, positions):
    """{name: shape} of all tensors of a file, in their order."""
    layers, dim, ffn, kv = config.n_layers, config.hidden_size, config.ffn_size, config.n_kv_heads * config.head_dim
    shapes = {"tok_embeddings": (config.vocab_size, dim), "attention_norm": (layers, dim), "wq": (layers, dim, dim),
              "wk": (layers, kv, dim), "wv": (layers, kv, dim), "wo": (layers, dim, dim), "ffn_norm": (layers, dim),
              "w1": (layers, ffn, dim), "w2": (layers, dim, ffn), "w3": (layers, ffn, dim), "norm": (dim,),
              "freqs_cos": (positions, config.head_dim // 2), "freqs_sin": (positions, config.head_dim // 2)}
    return shapes if config.tied else shapes | {"output": (config.vocab_size, dim)}


def _config(name, dim, ffn, n_layers, n_heads, n_kv_heads, vocab, positions):
    sizes = {"dim": dim, "hidden_dim": ffn, "n_layers": n_layers, "n_heads": n_heads, "n_kv_heads": n_kv_heads,
             "vocab_size": abs(vocab), "seq_len": positions}
    for size, value in sizes.items():
        if value < 1:
            raise CheckpointError(f"A file of llama2.c must have a positive {size}, and {name} has {value}")
    if dim % n_heads:
        raise CheckpointError(f"A file of llama2.c must have a dim that is a multiple of its {n_heads} heads, and {name} has {dim}")
    try:
        return ModelConfig(hidden_size=dim, ffn_size=ffn, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads,
                           head_dim=dim // n_heads, vocab_size=abs(vocab), max_positions=positions, act="silu",
                           sub_norms=False, tied=vocab > 0), positions
    except ValueError as error:
        raise CheckpointError(f"{name}: {error}") from None


def _layer(config, tensors, i):
    """The tensors of layer i by the names of ``model``."""
    def halves(weight):     # rows of neighbours to rows of halves, head by head
        heads = weight.view(-1, config.head_dim // 2, 2, weight.shape[1])
        return heads.transpose(1, 2).reshape(weight.shape)

    return {"q": halves(tensors["wq"][i]), "k": halves(tensors["wk"][i]), "v": tensors["wv"][i], "o": tensors["wo"][i],
            "gate": tensors["w1"][i], "up": tensors["w3"][i], "down": tensors["w2"][i],
            "attn_norm": tensors["attention_norm"][i], "ffn_norm": tensors["ffn_norm"][i]}
