"""Made-up checkpoints of any size: folders of safetensors are written a block of rows at a time, other formats for small sizes."""

import json
import struct

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

from celosia.gen.llama2c import tensor_shapes
from celosia.gen.model import MATRICES

_TYPES = {"BF16": "<u2", "F32": "<f4", "U8": "u1"}
_NAMES = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
          "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj", "attn_norm": "input_layernorm",
          "ffn_norm": "post_attention_layernorm", "attn_sub_norm": "self_attn.attn_sub_norm", "ffn_sub_norm": "mlp.ffn_sub_norm"}
_GGUF_NAMES = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up",
               "down": "ffn_down"}
_BLOCK_ROWS = 2048
# Four codes 0 to 2 in a byte.
_PACKED = np.array([a | b << 2 | c << 4 | d << 6 for a in range(3) for b in range(3) for c in range(3) for d in range(3)], np.uint8)


def write_bitnet(folder, config, *, packed, n_shards, seed=0):
    """A folder of Hugging Face of kind ``bitnet``: matrices packed (uint8), or master weights; other tensors bfloat16.

    Returns the bytes of its tensors.
    """
    folder.mkdir()
    how = {"quant_method": "bitnet", "linear_class": "bitlinear"} | ({} if packed else {"quantization_mode": "online"})
    (folder / "config.json").write_text(json.dumps({
        "model_type": "bitnet", "hidden_size": config.hidden_size, "intermediate_size": config.ffn_size,
        "num_hidden_layers": config.n_layers, "num_attention_heads": config.n_heads, "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim, "vocab_size": config.vocab_size, "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps, "rope_theta": config.rope_theta, "hidden_act": config.act, "tie_word_embeddings": True,
        "quantization_config": how}))
    tensors = {"model.embed_tokens.weight": ("BF16", (config.vocab_size, config.hidden_size))}
    for i in range(config.n_layers):
        for name in MATRICES:
            rows, columns = config.shape(name)
            path = f"model.layers.{i}.{_NAMES[name]}.weight"
            tensors[path] = ("U8", (-(-rows // 4), columns)) if packed else ("BF16", (rows, columns))
            tensors |= {path + "_scale": ("BF16", (1,))} if packed else {}
        tensors |= {f"model.layers.{i}.{_NAMES[name]}.weight": ("BF16", (size,)) for name, size in config.gains().items()}
    tensors["model.norm.weight"] = "BF16", (config.hidden_size,)
    rng, names, where, n_bytes = np.random.default_rng(seed), list(tensors), {}, 0
    for shard in range(n_shards):
        held = names[shard * len(names) // n_shards:(shard + 1) * len(names) // n_shards]
        file = f"model-{shard + 1:05}-of-{n_shards:05}.safetensors"
        n_bytes += _write_safetensors(folder / file, {name: tensors[name] for name in held}, rng)
        where |= dict.fromkeys(held, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return n_bytes


def write_pickle(folder, config):
    """The master weights of ``write_bitnet`` as one pytorch_model.bin. Returns the bytes of the file."""
    write_bitnet(folder, config, packed=False, n_shards=1)
    shard, file = folder / "model-00001-of-00001.safetensors", folder / "pytorch_model.bin"
    torch.save(load_file(shard), file)
    shard.unlink()
    (folder / "model.safetensors.index.json").unlink()
    return file.stat().st_size


def write_llama2c(path, config, seed=0):
    """A file of llama2.c. Returns its bytes."""
    rng = np.random.default_rng(seed)
    with open(path, "wb") as file:
        file.write(struct.pack("<7i", config.hidden_size, config.ffn_size, config.n_layers, config.n_heads, config.n_kv_heads,
                               config.vocab_size, config.max_positions))
        for shape in tensor_shapes(config, config.max_positions).values():
            _values(rng, "F32", shape).tofile(file)
    return path.stat().st_size


def write_gguf(path, config, seed=0):
    """A file of GGUF of architecture ``llama`` with float16 matrices. Returns its bytes."""
    rng, writer = np.random.default_rng(seed), gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.ffn_size)
    writer.add_block_count(config.n_layers)
    writer.add_context_length(config.max_positions)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    shapes = {"token_embd": (config.vocab_size, config.hidden_size), "output_norm": (config.hidden_size,)}
    for i in range(config.n_layers):
        shapes |= {f"blk.{i}.{_GGUF_NAMES[name]}": config.shape(name) for name in MATRICES}
        shapes |= {f"blk.{i}.{name}": (size,) for name, size in config.gains().items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", _values(rng, "F32", shape).astype(np.float32 if len(shape) == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.stat().st_size


def _write_safetensors(path, tensors, rng):
    """``tensors``: {name: (type, shape)}. Returns the bytes of their values."""
    contents, at = {}, 0
    for name, (kind, shape) in tensors.items():
        size = int(np.prod(shape)) * np.dtype(_TYPES[kind]).itemsize
        contents[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(contents).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for kind, shape in tensors.values():
            for first in range(0, shape[0], _BLOCK_ROWS):
                _values(rng, kind, (min(_BLOCK_ROWS, shape[0] - first), *shape[1:])).tofile(file)
    return at


def _values(rng, kind, shape):
    """Packed trits; gains around 1 and scales are vectors, weights around 0 are matrices."""
    if kind == "U8":
        return _PACKED[rng.integers(0, len(_PACKED), shape, np.uint8)]
    values = rng.standard_normal(shape, np.float32) * np.float32(0.02)
    if len(shape) == 1:
        values += 1
    return (values.view("<u4") >> 16).astype("<u2") if kind == "BF16" else values
