"""A binary encoder in integers: all that compiler and golden model know of it.

    BinaryModel ── fold ──► IntegerModel

The residual stream has ``X_FRAC_BITS`` fraction bits. *Entry* i is the norm in front of layer i, whose integers layer i takes in;
entry ``n_layers`` is that in front of the head. *Middle* is the norm between attention and feed-forward. In a model with norms
before (``pre``) they only feed the next matrix; in one with norms behind (``post``) they also replace the residual.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from celosia.hw.binary.isa import NORM_FRAC_BITS, NORM_SHIFTS, X_FRAC_BITS

from .fold import Affine, Tables, Threshold, fold_affine, fold_tables, fold_threshold
from .model import BinaryModel, BinaryModelConfig, ImageInput

__all__ = ["HEAD_PLANES", "IntegerLayer", "IntegerModel", "Linear", "Norm", "fold"]

HEAD_PLANES = 8         # of the weights of patches and head
_ONE = 1 << X_FRAC_BITS
_MOST = 127             # of a quantised activation
_MEAN_BITS, _EPS_BITS = 17, 48
_IMM_LOG2 = X_FRAC_BITS + 16
_ROW_MOST = (1 << 15) - 1     # of an element that is loaded into the residual


@dataclass(frozen=True)
class Linear:
    """``weights`` odd integers of ``planes`` bits, (outputs, inputs); ``after``: what becomes of a row, None where it stays."""
    weights: np.ndarray
    planes: int
    after: Threshold | Affine | None


@dataclass(frozen=True)
class Norm:
    """``gain`` and bias of a norm and ``out``, what makes activations of its elements. ``scalars`` as in ``isa.Norm``: inv_d,
    mean_shift, eps, imm, center. ``replaces``: its elements are the residual from there on."""
    gain: Affine
    out: Threshold | Affine
    scalars: dict
    replaces: bool


@dataclass(frozen=True)
class IntegerLayer:
    """A layer; ``map``: thresholds or tables of the heads, ``gather``: activations of the attention's sums."""
    q: Linear
    k: Linear
    v: Linear
    map: Threshold | Tables
    gather: Threshold | Affine
    o: Linear
    middle: Norm
    up: Linear
    down: Linear


@dataclass(frozen=True)
class IntegerModel:
    """``positions`` int64 (max_tokens, hidden) and, of text, ``tokens`` (vocabulary, hidden) have X_FRAC_BITS fraction bits; of
    images ``patch`` adds pixels to the residual. Logit n is ``head_scale[n]`` times the sum of row n plus ``head_bias[n]``."""
    config: BinaryModelConfig
    positions: np.ndarray
    tokens: np.ndarray | None
    patch: Linear | None
    entries: tuple
    layers: tuple
    head: Linear
    head_scale: np.ndarray
    head_bias: np.ndarray
    name: str
    words: bytes


def fold(model: BinaryModel):
    """:class:`IntegerModel` of a checkpoint. ValueError, one sentence, where a number does not fit the machine."""
    config, tensors = model.config, model.tensors
    layers = [model.layer(i) for i in range(config.n_layers)]
    pre = config.norm == "pre"
    outs = [_quantiser(config, layer, "attention_in") for layer in layers]
    outs.append(fold_affine([_inverse(tensors["head_in.alpha"]) / _ONE] * config.hidden_size, [0] * config.hidden_size,
                            low=-_MOST, high=_MOST, shifts=NORM_SHIFTS))
    if pre:
        entry_names = [f"layers.{i}.norm1" for i in range(config.n_layers)] + ["final_norm"]
    else:
        entry_names = ["embedding_norm"] + [f"layers.{i}.norm2" for i in range(config.n_layers)]
    entries = [_norm(config, tensors, name, out) for name, out in zip(entry_names, outs, strict=True)]
    head = tensors["head.weight"].astype(np.int64)
    return IntegerModel(
        config, _fixed(tensors["position.weight"], "Positions"),
        _fixed(tensors["token.weight"], "Embeddings") if "token.weight" in tensors else None,
        _patch(config, tensors) if isinstance(config.input, ImageInput) else None, tuple(entries),
        tuple(_layer(config, tensors, i, layer) for i, layer in enumerate(layers)), Linear(head, HEAD_PLANES, None),
        tensors["head.scale"].astype(np.float64) * float(tensors["head_in.alpha"]), tensors["head.bias"].astype(np.float64),
        model.name, model.words)


def _layer(config, tensors, i, layer):
    norm = f"layers.{i}.norm2" if config.norm == "pre" else f"layers.{i}.norm1"
    alpha = {name: _exact(layer[f"{name}.alpha"]) for name in ("attention_in", "attention_out", "ffn_in", "ffn_mid")}

    def linear(name, after):
        return Linear(layer[f"{name}.weight"], 1, after)

    def scaled(name, alpha, times=1):
        return ([_exact(s) * alpha * times for s in layer[f"{name}.scale"]], [_exact(b) * times for b in layer[f"{name}.bias"]])

    signs = {name: linear(name, fold_threshold(*scaled(name, alpha["attention_in"]), _list(layer[f"{name}.beta"])))
             for name in ("q", "k", "v")}
    if config.attention == "sps":
        maps = fold_threshold([1] * config.n_heads, [0] * config.n_heads, _list(layer["map.threshold"]))
    else:
        maps = fold_tables(layer["map.scale"], _list(layer["map.threshold"]), config.head_dim)
    d = config.hidden_size
    if config.act_bits == 1:
        gather = fold_threshold([1] * d, [0] * d, _list(layer["attention_out.beta"]))
        middle = fold_threshold(*scaled("up", alpha["ffn_in"]), _list(layer["ffn_mid.beta"]))
    else:
        gather = fold_affine([1 / alpha["attention_out"]] * d, [0] * d, low=-_MOST, high=_MOST)
        middle = fold_affine(*scaled("up", alpha["ffn_in"], 1 / alpha["ffn_mid"]), low=0, high=_MOST)
    return IntegerLayer(
        **signs, map=maps, gather=gather, o=linear("o", fold_affine(*scaled("o", alpha["attention_out"], _ONE))),
        middle=_norm(config, tensors, norm, _quantiser(config, layer, "ffn_in")), up=linear("up", middle),
        down=linear("down", fold_affine(*scaled("down", alpha["ffn_mid"], _ONE))))


def _quantiser(config, layer, name):
    """What makes activations of the elements of a norm."""
    d = config.hidden_size
    if config.act_bits == 1:
        return fold_threshold([Fraction(1, _ONE)] * d, [0] * d, _list(layer[f"{name}.beta"]))
    return fold_affine([_inverse(layer[f"{name}.alpha"]) / _ONE] * d, [0] * d, low=-_MOST, high=_MOST, shifts=NORM_SHIFTS)


def _norm(config, tensors, name, out):
    d = config.hidden_size
    gain = fold_affine([_exact(g) * _ONE / (1 << NORM_FRAC_BITS) for g in tensors[f"{name}.weight"]],
                       [_exact(b) * _ONE for b in tensors[f"{name}.bias"]], shifts=NORM_SHIFTS)
    mean_shift = _MEAN_BITS + (d - 1).bit_length()
    eps = round(Fraction(config.norm_eps) * d * d * (1 << 2 * X_FRAC_BITS))
    if eps >= 1 << _EPS_BITS:
        raise ValueError(f"Model layer_norm_eps must be below 2**28 / hidden_size**2, not {config.norm_eps:g}")
    imm = int(np.float32(d * 2.0**_IMM_LOG2).view(np.uint32))
    return Norm(gain, out, {"inv_d": round(Fraction(1 << mean_shift, d)), "mean_shift": mean_shift, "eps": eps, "imm": imm,
                            "center": 1}, config.norm == "post")


def _patch(config, tensors):
    """Pixels are stored less ``zero``; what that takes off a row is in its bias."""
    weights = tensors["patch.weight"].astype(np.int64)
    scale, bias = (list(map(_exact, tensors[f"patch.{name}"])) for name in ("scale", "bias"))
    offset = [b + s * int(total) * config.input.zero for s, b, total in zip(scale, bias, weights.sum(1))]
    return Linear(weights, HEAD_PLANES, fold_affine([s * _ONE for s in scale], [b * _ONE for b in offset]))


def _fixed(values, what):
    found = np.round(values.astype(np.float64) * _ONE).astype(np.int64)
    if abs(found).max() > _ROW_MOST:
        raise ValueError(f"{what} must be within +-{_ROW_MOST / _ONE:.3f}, not {abs(values).max():g}")
    return found


def _exact(value):
    return Fraction(float(value))


def _inverse(value):
    return 1 / _exact(value)


def _list(values):
    return [float(value) for value in values]
