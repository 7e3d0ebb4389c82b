"""Random models that transformers saved: the golden model's logits against those that transformers computes itself.

|ours - theirs| <= d + 6 sigma for every logit of every position: d is the exact effect of rounded weights (transformers run with
the weights as packed), sigma that of rounded activations (``transformers_witness``). docs/checkpoints.md has the formulas.
"""

import functools
from typing import NamedTuple

import pytest
import torch
from random_models import golden_of
from safetensors.torch import load_file, save_file
from transformers_witness import BOUND_SIGMAS, assert_near, sigmas

from celosia.gen import image
from celosia.gen.assemble import assemble
from celosia.gen.checkpoint import load
from celosia.gen.model import MATRICES
from celosia.gen.quantise import quantise
from celosia.host.accelerator import Accelerator
from celosia.host.image import Image
from celosia.hw.configs import tiny
from celosia.sim_tb.device import SimDevice
from celosia.sim_tb.memory import PRESETS

pytestmark = pytest.mark.filterwarnings("ignore")       # transformers' own

CONTEXT, N_PROMPT, N_NEW = 32, 4, 7
LARGEST_RATIO, LEAST_MEDIAN_RATIO = 0.9, 0.05       # |difference| / bound
PATHS = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
         "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}


class Case(NamedTuple):
    """kind: packed, packed_auto, online (of BitNet), or llama, mistral, qwen2. ``planes``: of the float models."""
    kind: str
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool
    head_dim: int | None = None
    planes: int | str = 1


CASES = [
    # transformers packs four outputs a byte and cannot run what does not divide by four.
    Case("packed", 24, 40, 2, 4, 2, 30, False),
    Case("packed", 64, 100, 2, 4, 1, 40, True),
    Case("packed", 48, 76, 1, 3, 3, 33, False),
    Case("packed_auto", 40, 52, 3, 5, 1, 29, True),
    Case("packed_auto", 64, 44, 1, 8, 4, 41, False),
    Case("online", 30, 43, 2, 5, 5, 37, True),
    Case("online", 42, 71, 2, 3, 1, 23, False),
    Case("online", 66, 35, 1, 11, 11, 31, True),
    Case("online", 28, 57, 3, 2, 1, 19, False),
    Case("llama", 30, 45, 2, 3, 3, 41, False, 10, 4),
    Case("llama", 42, 53, 2, 6, 2, 29, True, 6, 5),
    Case("llama", 64, 172, 2, 8, 1, 43, True, 8, "auto"),
    Case("llama", 52, 23, 3, 4, 2, 17, False, 14, 3),
    Case("mistral", 43, 61, 1, 4, 1, 31, False, 12, 5),
    Case("qwen2", 36, 47, 2, 6, 3, 26, True, None, 4),
]
SIMULATED = [CASES[0], CASES[5], CASES[10]]


def name_of(case):
    return "-".join(str(value) for value in case)


def saved(case, path, seed):
    """The folder that transformers saves of a random model: matrices that keep the size of their input, gains about 1."""
    import transformers
    family = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}.get(case.kind, "BitNet")
    sizes = dict(hidden_size=case.hidden, intermediate_size=case.ffn, num_hidden_layers=case.layers, vocab_size=case.vocab,
                 num_attention_heads=case.heads, num_key_value_heads=case.kv_heads, max_position_embeddings=64,
                 tie_word_embeddings=case.tied, bos_token_id=0, eos_token_id=1, pad_token_id=None)
    if case.head_dim:
        sizes["head_dim"] = case.head_dim
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**sizes))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.data = (1 + 0.2 * drawn if name.endswith("norm.weight") else torch.zeros_like(drawn) if name.endswith("bias")
                          else drawn if "embed_tokens" in name else drawn / parameter.shape[1] ** 0.5)
    if family == "BitNet":
        model.to(torch.bfloat16)
        mode = "online" if case.kind == "online" else "offline"
        model.config.quantization_config = {
            "quant_method": "bitnet", "quantization_mode": mode, "modules_to_not_convert": ["lm_head"],
            "linear_class": "bitlinear" if case.kind == "packed" else "autobitlinear"}
    model.save_pretrained(path)
    if case.kind.startswith("packed"):
        pack(path / "model.safetensors", divides=case.kind == "packed")
    return path


def pack(file, divides):
    """The matrices of a file by BitNet's rule, four outputs a byte. ``BitLinear`` divides by its scale."""
    from transformers.integrations.bitnet import WeightQuant, pack_weights
    tensors = load_file(file)
    for name in [name for name in tensors if "_proj.weight" in name]:
        rounded = WeightQuant.apply(tensors[name].float())
        absmean = rounded.abs().max()
        tensors[name] = pack_weights(rounded.sign())
        tensors[name.replace("weight", "weight_scale")] = (1 / absmean if divides else absmean)[None]
    save_file(tensors, file, metadata={"format": "pt"})


def theirs(path):
    """The model as transformers loads it; embedding and norms of packed ones stay bfloat16 unless told."""
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    return torch.nn.Module.float(model).eval()


def as_packed(model, quantised):
    """A float model of the same class with the weights that were packed."""
    config = type(model.config).from_dict({k: v for k, v in model.config.to_dict().items() if k != "quantization_config"})
    config._attn_implementation = "eager"
    copy = type(model)(config).float().eval()
    state = {name: tensor for name, tensor in model.state_dict().items() if "_proj." not in name or name.endswith("bias")}
    for i, layer in enumerate(quantised.layers):
        for name in MATRICES:
            matrix = getattr(layer, name)
            state[f"model.layers.{i}.{PATHS[name]}.weight"] = matrix.weights * matrix.scale[:, None]
    copy.load_state_dict(state)
    with_head(copy, quantised)
    return copy


def with_head(model, quantised):
    """The rows of the head of ``model`` as packed; a tied one is untied."""
    model.lm_head.weight = torch.nn.Parameter(quantised.head.weights * quantised.head.scale[:, None])


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0]


class Compared(NamedTuple):
    """float32 (tokens, vocab): our logits, transformers' own, the effect of rounded weights, and 6 sigma."""
    ours: torch.Tensor
    theirs: torch.Tensor
    weights: torch.Tensor
    bound: torch.Tensor


def compared(case, path, seed=1):
    """:class:`Compared` over a prompt and the greedy text of the golden model behind it; checks the weights."""
    saved(case, path, seed)
    quantised = quantise(load(path), planes=case.planes)
    golden = golden_of(quantised, tiny, CONTEXT)
    tokens = torch.randint(0, case.vocab, (N_PROMPT,), generator=torch.Generator().manual_seed(seed)).tolist()
    ours = [golden.forward(tokens, 0)]
    for _ in range(N_NEW):
        tokens.append(int(ours[-1][-1].argmax()))
        ours.append(golden.forward(tokens[-1:], len(tokens) - 1))
    reference = theirs(path)
    packed = as_packed(reference, quantised)
    original = logits_of(reference, tokens)
    state = packed.state_dict()
    assert_near({"lm_head.weight": state["lm_head.weight"]} if case.planes == 1 else state, reference.state_dict(), case.planes)
    if case.planes == 1:
        with_head(reference, quantised)
        rounded = logits_of(reference, tokens)
    else:
        rounded = logits_of(packed, tokens)
    bound = BOUND_SIGMAS * sigmas(packed, tokens, shared=case.planes == 1)
    return Compared(torch.cat(ours), original, rounded - original, bound)


@pytest.fixture(scope="module")
def of(tmp_path_factory):
    """A function: case to :class:`Compared`, each computed once."""
    return functools.cache(lambda case: compared(case, tmp_path_factory.mktemp("saved")))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_logits_are_within_the_bound(of, case):
    ours, theirs, weights, bound = of(case)
    ratio = (ours - theirs - weights).abs() / bound
    print(f"{name_of(case)}: |difference| / bound largest {ratio.max():.2f}, median {ratio.median():.3f}; of the logits' standard "
          f"deviation: bound {bound.mean() / theirs.std():.2f}, weights {weights.abs().mean() / theirs.std():.3f}")
    assert (ratio < LARGEST_RATIO).all()
    assert ((ours - theirs).abs() <= weights.abs() + bound).all()


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_greedy_tokens_agree_where_the_margin_is_clear(of, case):
    ours, theirs, weights, bound = of(case)
    best, reach = theirs.argmax(1, keepdim=True), weights.abs() + bound
    clear = theirs.gather(1, best) - theirs > reach + reach.gather(1, best)
    clear.scatter_(1, best, True)
    assert (ours.argmax(1) == best[:, 0])[clear.all(1)].all()


def test_the_bound_says_something(of):
    """It is neither far above what is found, nor as large as the logits; and most of the text is followed."""
    found = [of(case) for case in CASES]
    ratios = torch.cat([((c.ours - c.theirs - c.weights).abs() / c.bound).flatten() for c in found])
    widths = torch.stack([c.bound.mean() / c.theirs.std() for c in found])
    agree = torch.cat([c.ours.argmax(1) == c.theirs.argmax(1) for c in found]).float().mean()
    print(f"all: largest ratio {ratios.max():.2f}, median {ratios.median():.3f}; bound of {widths.min():.2f} to {widths.max():.2f} "
          f"standard deviations; same greedy token at {100 * agree:.1f} % of positions")
    assert ratios.median() > LEAST_MEDIAN_RATIO
    assert widths.max() < 1 and agree > 0.9


@pytest.mark.sim
@pytest.mark.parametrize("case", SIMULATED, ids=name_of)
def test_the_simulated_accelerator_is_the_golden_model(tmp_path, case):
    quantised = quantise(load(saved(case, tmp_path, seed=1)), planes=case.planes)
    assembled = assemble(quantised, tiny, CONTEXT)
    golden, prompt = golden_of(quantised, tiny, CONTEXT), [3, 1, 4, 1]
    expected, found = [golden.step(prompt, 0, tiny.top_k)], []
    with Accelerator(SimDevice(tiny, PRESETS["kv260"])) as accel:
        accel.load(Image.open(image.encode(assembled.header, assembled.payload)))
        found.append(accel.prefill(prompt))
        for position in range(N_PROMPT, N_PROMPT + 2):
            token = expected[-1][0][0]
            expected.append(golden.step([token], position, tiny.top_k))
            found.append(accel.decode(token))
    for right, candidates in zip(expected, found):
        assert candidates.tokens.tolist() == [token for token, _ in right]
        assert candidates.logits.tobytes() == torch.tensor([logit for _, logit in right]).numpy().tobytes()
