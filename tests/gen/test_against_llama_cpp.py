"""GGUF files through llama.cpp and through this compiler: log-probabilities of the next token.

|ours - llama.cpp's - d| <= 6 sigma for every token: d is the exact effect of weights that are rounded when packing (transformers
run with them and without), sigma that of rounded activations, as in ``transformers_witness``. llama.cpp rounds the inputs of
ternary matrices too, 256 elements at a time; of F32 matrices nothing, of F16 matrices to binary16, which is left out.
"""

import functools
import importlib.util
from dataclasses import replace
from typing import NamedTuple

import llama_cpp
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf_files import HF, STORIES, WIDE, gguf_tensors, of_architecture, random_tensors, save_gguf, tokenizer_metadata
from random_models import golden_of
from transformers_witness import BOUND_SIGMAS, assert_near, sigmas

from celosia.gen import llama2c
from celosia.gen.checkpoint import load
from celosia.gen.model import MATRICES
from celosia.gen.quantise import quantise
from celosia.hw.configs import tiny

pytestmark = [pytest.mark.filterwarnings("ignore"),      # transformers' own
              pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None,
                                 reason="llama.cpp was not asked: its wheel xllamacpp (Linux, x86_64) is not installed")]

LARGEST_RATIO = 0.9         # |difference| / bound
VOCAB = 280
PROMPT = [1, 9, 77, 270, 31, 150, 4]
POSITIONS = [0, 3, 6]


class Case(NamedTuple):
    architecture: str
    kind: Kind
    layers: int
    tied: bool
    equal: bool         # one scale a row, else one for 256 weights
    planes: int | str


CASES = [
    Case("llama", Kind.TQ1_0, 1, True, True, 1),
    Case("llama", Kind.TQ2_0, 3, False, True, 1),
    Case("llama", Kind.TQ1_0, 2, False, False, 5),
    Case("llama", Kind.TQ2_0, 1, True, False, 4),
    Case("bitnet", Kind.TQ1_0, 3, True, True, 1),
    Case("bitnet", Kind.TQ2_0, 1, True, True, 1),
]


def name_of(case):
    return "-".join(str(getattr(value, "name", value)) for value in case)


def vocabulary(vocab_size):
    """Metadata of a tokenizer, without which llama.cpp does not load: every token is a text of its own."""
    return tokenizer_metadata("llama", [f"<0x{i:02X}>" for i in range(vocab_size)], scores=[0.0] * vocab_size)


def as_transformers(config, tensors):
    """The model of transformers with these weights {name: float32 array}, nothing rounded."""
    import transformers
    family = "BitNet" if config.sub_norms else "Llama"
    values = getattr(transformers, f"{family}Config")(
        hidden_size=config.hidden_size, intermediate_size=config.ffn_size, num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads, num_key_value_heads=config.n_kv_heads, vocab_size=config.vocab_size,
        max_position_embeddings=config.max_positions, rms_norm_eps=config.norm_eps, hidden_act=config.act, bos_token_id=1,
        eos_token_id=2, rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta}, tie_word_embeddings=False)
    values._attn_implementation = "eager"
    model = getattr(transformers, f"{family}ForCausalLM")(values).eval()
    state = {f"{name}.weight": torch.as_tensor(tensor) for name, tensor in tensors.items()}
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    model.load_state_dict(state)
    return model


def as_packed(tensors, quantised):
    """``tensors`` with the matrices and the head as they are packed."""
    found = dict(tensors)
    for i, layer in enumerate(quantised.layers):
        for name in MATRICES:
            matrix = getattr(layer, name)
            found[f"model.layers.{i}.{HF[name]}"] = matrix.weights * matrix.scale[:, None]
    return found | {"lm_head": quantised.head.weights * quantised.head.scale[:, None]}


def log_probabilities(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0, POSITIONS].log_softmax(-1)


def check(path, tensors, planes, shared, tokens):
    """Compare the file with ``tensors``, what it means by the names of transformers. Returns (largest, median) ratio."""
    loaded = load(path)
    quantised = quantise(loaded, planes=planes)
    ours = golden_of(quantised, tiny, 32).forward(tokens, 0)[POSITIONS].log_softmax(-1)
    asked = llama_cpp.log_probabilities(path, [tokens[:position + 1] for position in POSITIONS])
    theirs = torch.tensor(asked)
    rounded = as_packed(tensors, quantised)
    original = {name: torch.as_tensor(tensor) for name, tensor in tensors.items()}
    assert_near(rounded, {"lm_head": original["model.embed_tokens"]} | original, planes)
    packed = as_transformers(loaded.config, rounded)
    weights = log_probabilities(packed, tokens) - log_probabilities(as_transformers(loaded.config, tensors), tokens)
    bound = BOUND_SIGMAS * sigmas(packed, tokens, shared, POSITIONS, log_probabilities=True)
    ratio = (ours - theirs - weights).abs() / bound
    print(f"{path.stem}: |difference| / bound largest {ratio.max():.2f}, median {ratio.median():.3f}; difference largest "
          f"{(ours - theirs).abs().max():.3f}, mean {(ours - theirs).abs().mean():.3f}; standard deviation {theirs.std():.2f}")
    assert (ratio < LARGEST_RATIO).all()
    reach, best = weights.abs() + bound, theirs.argmax(1, keepdim=True)
    clear = (theirs.gather(1, best) - theirs > reach + reach.gather(1, best)).scatter_(1, best, True).all(1)
    assert (ours.argmax(1) == best[:, 0])[clear].all()
    return float(ratio.max()), float(ratio.median())


@functools.cache
def random_case(case):
    """(config, {name of transformers: float32 array that the type holds exactly})."""
    config = replace(of_architecture(WIDE, case.architecture), n_layers=case.layers, vocab_size=VOCAB, tied=case.tied)
    rng = np.random.default_rng(7)

    def matrix(rows, columns):
        shape = (rows, 1) if case.equal else (rows, columns // 256)
        scale = rng.uniform(0.04, 0.1, shape).astype(np.float16).astype(np.float32)
        return rng.integers(-1, 2, (rows, columns)).astype(np.float32) * scale.repeat(columns // shape[1], 1)

    return config, random_tensors(config, matrix=matrix)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_ternary_files(tmp_path, case):
    config, tensors = random_case(case)
    file = gguf_tensors(config, tensors, case.architecture, case.kind)
    path = save_gguf(tmp_path / f"{name_of(case)}.gguf", config, case.architecture, file, vocabulary(config.vocab_size))
    _, median = check(path, tensors, case.planes, shared=True, tokens=PROMPT)
    assert median > 0.02


@pytest.mark.skipif(not STORIES.exists(), reason="needs stories260K.bin of karpathy/tinyllamas")
@pytest.mark.parametrize("kind, planes", [(Kind.F32, 5), (Kind.F16, 4), (Kind.F32, 3)], ids=["F32-5", "F16-4", "F32-3"])
def test_a_trained_model(tmp_path, kind, planes):
    loaded = llama2c.load(STORIES)
    tensors = {"model.embed_tokens": loaded.embedding[:], "model.norm": loaded.final_norm}
    for i, layer in enumerate(loaded.layers):
        tensors |= {f"model.layers.{i}.{HF[name]}": tensor for name, tensor in layer.items()}
    tensors = {name: tensor.numpy().astype(np.float16 if kind == Kind.F16 and tensor.ndim == 2 else np.float32).astype(np.float32)
               for name, tensor in tensors.items()}
    file = gguf_tensors(loaded.config, tensors, "llama", kind, kind)
    path = save_gguf(tmp_path / f"stories-{kind.name}-{planes}.gguf", loaded.config, "llama", file,
                     vocabulary(loaded.config.vocab_size))
    tokens = [1, 403, 407, 261, 378, 432, 383]      # " Once upon a time"
    check(path, tensors, planes, shared=False, tokens=tokens)
