"""Small models with random weights, written as GGUF files and as folders of transformers; tokenizers for GGUF files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import save_file

from celosia.gen.gguf_file import I2_S
from celosia.gen.model import MATRICES, ModelConfig

# Divides nothing; heads share KV heads; attention is not as wide as the model.
SMALL = ModelConfig(hidden_size=24, ffn_size=40, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=10, vocab_size=30,
                    max_positions=64, rope_theta=500000.0)
# Rows of whole blocks of every type.
WIDE = replace(SMALL, hidden_size=256, ffn_size=512, n_layers=1, n_heads=4, n_kv_heads=2, head_dim=64)
SCALE = 0.0303955078125      # a binary16 number

STORIES = Path(__file__).resolve().parents[3] / "shared" / "models" / "stories260K.bin"

HF = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj", "gate": "mlp.gate_proj",
      "up": "mlp.up_proj", "down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
      "attn_sub_norm": "self_attn.attn_sub_norm", "ffn_sub_norm": "mlp.ffn_sub_norm"}
GGUF = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}


class Tensor(NamedTuple):
    """A tensor of a GGUF file. The package cannot write I2_S: bytes get their type and shape behind its back."""
    data: np.ndarray
    kind: int
    shape: tuple


def of_architecture(config, architecture):
    """``config`` as the architecture computes it."""
    return replace(config, act="relu2" if architecture == "bitnet-b1.58" else "silu", sub_norms=architecture != "llama")


def random_tensors(config, seed=0, matrix=None):
    """{name of transformers: float32 array}; ``matrix`` makes one of a shape."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)

    found = {"model.embed_tokens": normal(config.vocab_size, config.hidden_size), "model.norm": 1 + normal(config.hidden_size)}
    if not config.tied:
        found["lm_head"] = normal(config.vocab_size, config.hidden_size)
    for i in range(config.n_layers):
        for name in MATRICES:
            found[f"model.layers.{i}.{HF[name]}"] = (matrix or normal)(*config.shape(name))
        for name, size in config.gains().items():
            found[f"model.layers.{i}.{HF[name]}"] = 1 + normal(size)
    return found


def ternary(rng):
    """A maker of matrices of -SCALE, 0 and SCALE."""
    return lambda *shape: (rng.integers(-1, 2, shape) * SCALE).astype(np.float32)


def save_hf(folder, config, tensors):
    """The directory that transformers would write."""
    folder.mkdir(exist_ok=True)
    save_file({f"{name}.weight": torch.from_numpy(t) for name, t in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({
        "model_type": "bitnet" if config.sub_norms else "llama", "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_size, "num_hidden_layers": config.n_layers, "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads, "head_dim": config.head_dim, "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_positions, "rms_norm_eps": config.norm_eps, "rope_theta": config.rope_theta,
        "hidden_act": config.act, "tie_word_embeddings": config.tied}))
    return folder


def interleave(weight, n_heads):
    """Rows of q or k as the converter of llama.cpp writes them for ``llama`` (its function ``permute``)."""
    return weight.reshape(n_heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def quantised_i2_s(weight):
    """I2_S by its definition: groups of 32 weights in bits 7:6, 5:4, 3:2, 1:0 of 32 bytes; then the scale, 32 bytes."""
    groups = (1 + np.sign(weight)).astype(np.uint8).reshape(-1, 4, 32)
    codes = groups[:, 0] << 6 | groups[:, 1] << 4 | groups[:, 2] << 2 | groups[:, 3]
    return np.concatenate([codes.ravel(), np.float32([np.abs(weight).max()]).view(np.uint8), np.zeros(28, np.uint8)])


def gguf_tensors(config, tensors, architecture, kind=Kind.F32, head_kind=Kind.F32):
    """{name of llama.cpp: :class:`Tensor`}: ``kind`` for the matrices of the layers, ``head_kind`` for embedding and head."""
    names = {f"model.layers.{i}.{theirs}": f"blk.{i}.{GGUF.get(name, name)}.weight"
             for i in range(config.n_layers) for name, theirs in HF.items()}
    names |= {"model.embed_tokens": "token_embd.weight", "model.norm": "output_norm.weight", "lm_head": "output.weight"}
    found = {}
    for name, tensor in tensors.items():
        if architecture == "llama" and name.endswith(("q_proj", "k_proj")):
            tensor = interleave(tensor, config.n_heads if name.endswith("q_proj") else config.n_kv_heads)
        own = Kind.F32 if tensor.ndim == 1 else kind if name.endswith("_proj") else head_kind
        found[names[name]] = Tensor(quantised_i2_s(tensor) if own == I2_S else gguf.quants.quantize(tensor, own), own, tensor.shape)
    return found


def save_gguf(path, config, architecture, tensors, metadata=None):
    """A GGUF file. ``tensors`` as :func:`gguf_tensors` makes them; ``metadata`` replaces values, or adds, or removes (None)."""
    values = {"embedding_length": config.hidden_size, "feed_forward_length": config.ffn_size, "block_count": config.n_layers,
              "attention.head_count": config.n_heads, "attention.head_count_kv": config.n_kv_heads,
              "attention.key_length": config.head_dim, "attention.value_length": config.head_dim,
              "rope.dimension_count": config.head_dim, "vocab_size": config.vocab_size, "context_length": config.max_positions,
              "attention.layer_norm_rms_epsilon": config.norm_eps, "rope.freq_base": config.rope_theta} | (metadata or {})
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in values.items():
        if value is not None:
            add = (writer.add_string if isinstance(value, str) else writer.add_float32 if isinstance(value, float) else
                   writer.add_array if isinstance(value, list) else writer.add_uint32)
            add(key if key.startswith(("split.", "tokenizer.")) else f"{architecture}.{key}", value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.data, raw_dtype=Kind.I8 if tensor.data.dtype == np.uint8 else tensor.kind)
        writer.tensors[-1][name].shape, writer.tensors[-1][name].dtype = tensor.shape, tensor.kind
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


BYTE_TOKENS = [f"<0x{i:02X}>" for i in range(256)]


def tokenizer_metadata(model, tokens, types=None, **more):
    """What a file says of a tokenizer: ``metadata`` of :func:`save_gguf`."""
    types = types or [gguf.TokenType.NORMAL] * len(tokens)
    values = {"model": model, "tokens": tokens, "token_type": [int(of) for of in types]} | more
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}
