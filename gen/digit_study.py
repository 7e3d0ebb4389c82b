"""What digit planes cost: perplexity of a float model of llama2.c with k digits a weight, against itself in floating point.

``python -m celosia.gen.digit_study --stories FILE --write-docs`` measures and writes the marked block of ``docs/digits.md``.

No text is needed: the model writes it, in floating point, at temperature 1. The perplexity of the model on such text is that of
its own distribution; every other model's is higher in the mean, by its divergence from it. The quantised models are the golden
model: what the accelerator computes, with activations, cache and head in int8.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from celosia.gen.golden.model import GoldenModel
from celosia.hw.configs import CONFIGS

from . import checkpoint
from .assemble import assemble
from .estimate import tokens_per_s
from .float_model import FloatModel
from .marks import replaced
from .model import MATRICES, MAX_PLANES
from .place import rope_table
from .quantise import AUTO_ERROR, quantise

__all__ = ["CONFIG", "Figures", "main", "study"]

CONFIG = "kv260"
PLANES = (*range(1, MAX_PLANES + 1), "auto")
_ROOT = Path(__file__).resolve().parents[1]
_PAGE = _ROOT / "docs" / "digits.md"
BEGIN, END = "<!-- figures: written by celosia.gen.digit_study -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Figures:
    """Of one choice of planes. ``error``: the largest relative error of a matrix; ``divergence``: mean of that from the float
    model in nats a token; ``agreement``: share of positions with the same likeliest token; ``follows``: tokens of the float
    model's greedy text up to the first that is not the likeliest here; there ``margin`` is by how much the float logit of the
    right one is above that of the one taken instead, ``deviation`` is how much of that the quantised model has lost, ``largest``
    and ``rms`` are the errors of its logits over the vocabulary, less what all have in common. ``tokens_per_s`` is predicted
    (``estimate``), decoding on ``CONFIG`` in the middle of a text."""
    planes: str
    bits: float
    tokens_per_s: float
    error: float
    perplexity: float
    divergence: float
    agreement: float
    follows: int
    margin: float
    deviation: float
    largest: float
    rms: float


def study(path, n_texts=16, n_tokens=256, planes=PLANES):
    """(perplexity of the float model, [Figures])."""
    loaded = checkpoint.load(path)
    original = FloatModel(loaded)
    texts = original.write(n_texts, n_tokens, first_token=1, seed=0)
    greedy = original.write(1, n_tokens, first_token=1)
    right, right_greedy = original.logits(texts).double().log_softmax(-1), original.logits(greedy)[0]
    rope = rope_table(loaded.config, n_tokens)
    found = []
    for choice in planes:
        model = quantise(loaded, planes=choice)
        model = replace(model, layers=list(model.layers))
        golden = GoldenModel(model, rope)
        logits = torch.stack([golden.forward(text, 0) for text in texts.tolist()]).double().log_softmax(-1)
        found.append(Figures(
            str(choice), _bits(model), _speed(model, n_tokens),
            max(getattr(layer, name).relative_error for layer in model.layers for name in MATRICES),
            _perplexity(logits, texts), float((right.exp() * (right - logits)).sum(-1).mean()),
            float((logits.argmax(-1) == right.argmax(-1)).double().mean()),
            *_departure(right_greedy, golden.forward(greedy[0].tolist(), 0))))
    return _perplexity(right, texts), found


def _perplexity(log_shares, texts):
    """exp of the mean of -log p of every token but the first."""
    return float((-log_shares[:, :-1].gather(-1, texts[:, 1:, None]).mean()).exp())


def _bits(model):
    """Bits a weight of the matrices of layers, without scales: 8 / 5 a trit."""
    matrices = [getattr(layer, name) for layer in model.layers for name in MATRICES]
    return 1.6 * sum(m.planes * m.weights.numel() for m in matrices) / sum(m.weights.numel() for m in matrices)


def _speed(model, n_tokens):
    """Predicted tokens a second on ``CONFIG``, in the middle of a text."""
    assembled = assemble(model, CONFIGS[CONFIG], n_tokens)
    return tokens_per_s(assembled.programs, assembled.placement.layout, n_tokens // 2)


def _departure(right, logits):
    """(tokens followed, margin, deviation, largest and root mean square error) of logits (tokens, vocab) over the float model's
    greedy text."""
    wanted, taken = right.argmax(-1), logits.argmax(-1)
    differ = (wanted != taken).nonzero()
    if not len(differ):
        return len(right), 0.0, 0.0, 0.0, 0.0
    at = int(differ[0])
    margin = float(right[at, wanted[at]] - right[at, taken[at]])
    error = (logits[at] - right[at]).double()
    error -= error.mean()
    return (at, margin, margin - float(logits[at, wanted[at]] - logits[at, taken[at]]),
            float(error.abs().max()), float(error.pow(2).mean().sqrt()))


def table(original, found):
    """The figures in Markdown."""
    header = ("planes", "bits a weight", f"predicted tokens/s ({CONFIG})", "largest error of a matrix", "perplexity", "above float",
              "divergence, nats", "same likeliest token", "greedy text followed", "there: margin, lost",
              "there: error of the logits, RMS, largest")
    rows = [header, ["---"] * len(header), ("float", "32", "", "0", f"{original:.3f}", "", "0", "100 %", "", "", "")]
    for f in found:
        rows.append((f.planes, f"{f.bits:.2f}", f"{f.tokens_per_s:,.0f}", f"{100 * f.error:.2g} %", f"{f.perplexity:.3f}",
                     f"{100 * (f.perplexity / original - 1):.2f} %", f"{f.divergence:.4f}", f"{100 * f.agreement:.1f} %", f.follows,
                     f"{f.margin:.3f}, {f.deviation:.3f}" if f.deviation else "",
                     f"{f.rms:.3f}, {f.largest:.3f}" if f.deviation else ""))
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def main(arguments=None):
    """The command: measure, print, and with ``--write-docs`` write the block of the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stories", metavar="FILE", required=True, help="a checkpoint of llama2.c, such as stories260K.bin")
    parser.add_argument("--texts", type=int, default=16, help="texts that the model writes")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of each")
    parser.add_argument("--write-docs", action="store_true", help=f"write the figures into {_PAGE.name}")
    chosen = parser.parse_args(arguments)
    block = (f"{Path(chosen.stories).stem}, {chosen.texts} texts of {chosen.tokens} tokens that it wrote itself; auto keeps "
             f"{100 * AUTO_ERROR:g} % a matrix; speed behind {chosen.tokens // 2} positions:\n\n"
             + table(*study(chosen.stories, chosen.texts, chosen.tokens)))
    print(block)
    if chosen.write_docs:
        _PAGE.write_text(replaced(_PAGE.read_text(), _PAGE, BEGIN, END, block))


if __name__ == "__main__":
    main()
