"""Write a trained model in the packed form that `BitNetForCausalLM.from_pretrained` reads.

A packed matrix holds four row blocks of R = out / 4 rows: bits 2i+1..2i of byte (r, c) are
trit + 1 of row r + i R, column c, i = 0..3.  `weight_scale` is the reciprocal of the scale:
the reader divides by it.  Norms, embedding and weight_scale are bfloat16; the values written are
the values measured, because the model is rounded first.  Float32 computation is the reference.
"""

import json
import struct

import torch

from .model import quantise_weight

__all__ = ["pack_trits", "unpack_trits", "frozen", "hf_config", "write_checkpoint"]

BLOCKS = 4


def pack_trits(trits):  # (out, in) of -1, 0, 1 -> (out / 4, in) uint8
    """Four trits a byte, two bits each."""
    if trits.shape[0] % BLOCKS:
        raise ValueError(f"Rows must be a multiple of {BLOCKS}, not {trits.shape[0]}")
    codes = (trits + 1).to(torch.uint8).view(BLOCKS, -1, trits.shape[1])
    return codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6


def unpack_trits(packed):  # (out / 4, in) uint8 -> (out, in) int8 of -1, 0, 1
    """Inverse of `pack_trits`; refuses the code 3."""
    codes = torch.cat([packed >> 2 * i & 3 for i in range(BLOCKS)])
    if (codes == 3).any():
        raise ValueError("A packed trit must be 0, 1 or 2, not 3")
    return codes.to(torch.int8) - 1


def _is_packed(name):
    return name.endswith("_proj.weight")


def frozen(model):
    """state_dict of BitNetForCausalLM for this model: packed matrices, the rest bfloat16."""
    tensors = {}
    for name, value in model.state_dict().items():
        if _is_packed(name):
            trits, scale = quantise_weight(value)
            tensors[name] = pack_trits(trits)
            tensors[name + "_scale"] = (1.0 / scale).to(torch.bfloat16).reshape(1)
        else:
            tensors[name] = value.to(torch.bfloat16)
    return dict(sorted(tensors.items()))


def hf_config(config):
    """config.json of a `DemoConfig`."""
    return {
        "architectures": ["BitNetForCausalLM"], "model_type": "bitnet",
        "vocab_size": config.vocab_size, "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size, "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads, "num_key_value_heads": config.n_kv_heads,
        "hidden_act": "relu2", "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps, "tie_word_embeddings": True,
        "attention_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
        "use_cache": True, "dtype": "float32",
        "quantization_config": {"quant_method": "bitnet", "linear_class": "bitlinear",
                                "quantization_mode": "offline",
                                "modules_to_not_convert": ["lm_head"]}}


_TYPES = {torch.uint8: "U8", torch.bfloat16: "BF16", torch.float32: "F32"}


def _safetensors(tensors):
    """The bytes of a safetensors file: tensors in the order of their names, no metadata."""
    header, offset = {}, 0
    for name, value in tensors.items():
        end = offset + value.numel() * value.element_size()
        header[name] = {"dtype": _TYPES[value.dtype], "shape": list(value.shape),
                        "data_offsets": [offset, end]}
        offset = end
    header["__metadata__"] = {"format": "pt"}
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(bytes(v.contiguous().view(torch.uint8).flatten().tolist())
                    for v in tensors.values())
    return struct.pack("<Q", len(text)) + text + body


def write_checkpoint(model, folder):
    """config.json, generation_config.json and model.safetensors of a ternary model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf_config(model.config), indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(
        {"do_sample": True, "temperature": 0.8, "max_length": model.config.context},
        indent=2) + "\n")
    (folder / "model.safetensors").write_bytes(_safetensors(frozen(model)))
