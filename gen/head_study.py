"""How often a shortlist misses: shares of positions at which the exact best tokens are not among the candidates.

``python -m celosia.gen.head_study --write-docs`` measures and writes the marked block of ``docs/head.md``.

    states (positions, hidden) ── int8 ──► exact logits ── best n tokens ──► are they among
                                     └───► coarse logits ─ best K tokens ──► these?

States and rows come from

    demo       the shipped model: its golden hidden states at every byte of ``models/demo/heldout.txt``
    stories    karpathy/tinyllamas stories260K.bin (``--stories FILE``): float hidden states on text that it writes itself
    synthetic  no model: normal rows whose lengths vary, normal states with one row planted
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from celosia.gen.golden import f32, ops
from celosia.gen.golden.model import GoldenModel

from . import checkpoint
from .float_model import FloatModel
from .marks import replaced
from .model import HeadPlan
from .place import rope_table
from .quantise import coarse_head, quantise, quantise_head

__all__ = ["CANDIDATES", "Study", "demo_study", "main", "misses", "stories_study", "synthetic_study"]

CANDIDATES = (1, 2, 4, 8, 16, 32, 64)
PLANES = (1, 2)
BEST = (1, 4)               # the exact best n must all be among the candidates
SHAPES = ((128_256, 2560), (32_000, 1536))
TARGETS = (None, 6.0, 8.0)  # logit of the planted row, in standard deviations of the logits of the others
N_STATES = 512
_ROOT = Path(__file__).resolve().parents[1]
_PAGE = _ROOT / "docs" / "head.md"
BEGIN, END = "<!-- figures: written by celosia.gen.head_study -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Study:
    """``share[planes][n][k]``: share of ``n_positions`` at which the exact best n are not all among the best k."""
    name: str
    n_positions: int
    share: dict


def misses(exact, coarse, best=BEST, candidates=CANDIDATES):
    """{n: {k: count}} of rows of logits (positions, vocab); of equal logits the lower token is better."""
    largest = min(max(candidates), coarse.shape[1])
    shortlist = torch.sort(coarse, dim=-1, descending=True, stable=True).indices[:, :largest]
    wanted = torch.sort(exact, dim=-1, descending=True, stable=True).indices[:, :max(best)]
    place = (shortlist[:, None, :] == wanted[:, :, None]).int()                 # (positions, n, k)
    place = torch.where(place.any(-1), place.argmax(-1), 1 << 30)
    return {n: {k: int((place[:, :n] >= k).any(-1).sum()) for k in candidates} for n in best}


class _Counts:
    """Sums of :func:`misses` over blocks of positions, for each number of planes."""

    def __init__(self):
        self._n, self._counts = 0, {planes: {n: dict.fromkeys(CANDIDATES, 0) for n in BEST} for planes in PLANES}

    def add(self, exact, coarse):
        """Logits of some positions: exact (positions, vocab), coarse {planes: (positions, vocab)}."""
        self._n += len(exact)
        for planes, logits in coarse.items():
            for n, found in misses(exact, logits).items():
                for k, count in found.items():
                    self._counts[planes][n][k] += count

    def study(self, name):
        share = {planes: {n: {k: count / self._n for k, count in found.items()} for n, found in counts.items()}
                 for planes, counts in self._counts.items()}
        return Study(name, self._n, share)


def _logits(codes, scale, head):
    """Sums in binary32 (those of five planes are rounded), times the scales: (positions, vocab)."""
    return (codes.float() @ head.weights.float().T) * scale * head.scale


def demo_study(folder=_ROOT / "models" / "demo", n_bytes=None):
    """The shipped model at every byte of its held-out text, in windows of its context."""
    loaded = checkpoint.load(folder)
    config = loaded.config
    rope = rope_table(config, config.max_positions)
    models = {planes: GoldenModel(quantise(loaded, HeadPlan("shortlist", planes=planes)), rope) for planes in PLANES}
    tokens = list((Path(folder) / "heldout.txt").read_bytes())[:n_bytes]
    counts = _Counts()
    for first in range(0, len(tokens), config.max_positions):
        hidden = models[PLANES[0]].hidden(tokens[first:first + config.max_positions], 0)
        counts.add(models[PLANES[0]].logits(hidden), {planes: model.coarse_logits(hidden) for planes, model in models.items()})
    return counts.study(f"demo, {config.vocab_size} x {config.hidden_size}")


def stories_study(path, n_texts=32, n_tokens=256):
    """stories260K on texts that it draws itself (temperature 1, seed 0)."""
    loaded = checkpoint.load(path)
    model = FloatModel(loaded)
    hidden = model.hidden(model.write(n_texts, n_tokens, first_token=1, seed=0)).flatten(0, 1)
    head = quantise_head(loaded.head)
    codes, scale = ops.quantise_norm(hidden, loaded.final_norm, loaded.config.norm_eps)
    counts = _Counts()
    counts.add(_logits(codes, scale, head), {planes: _logits(codes, scale, coarse_head(head, planes)) for planes in PLANES})
    return counts.study(f"stories260K, {len(head.weights)} x {head.weights.shape[1]}")


def synthetic_study(vocab_size, hidden_size, targets=TARGETS, n_states=N_STATES, seed=1):
    """One :class:`Study` for each of ``targets`` (None: nothing planted).

    Row r is normal times exp(0.2 normal): the lengths vary as much. A state is normal, so that logits of one row length
    are; of ``n_states`` states each has another row added to it, so that its logit has the mean ``target`` in standard
    deviations of that length.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(vocab_size, hidden_size, generator=generator)
    rows *= torch.exp(0.2 * torch.randn(vocab_size, 1, generator=generator))
    head = quantise_head(rows)
    coarse = {planes: coarse_head(head, planes) for planes in PLANES}
    noise = torch.randn(n_states, hidden_size, generator=generator)
    planted = rows[torch.randperm(vocab_size, generator=generator)[:n_states]]
    planted = planted / planted.norm(dim=1, keepdim=True)
    del rows
    studies = []
    for target in targets:
        codes, scale = ops.quantise_row(f32.flush(noise + (target or 0.0) * planted))
        counts = _Counts()
        counts.add(_logits(codes, scale, head), {planes: _logits(codes, scale, rows_) for planes, rows_ in coarse.items()})
        what = "nothing planted" if target is None else f"planted at {target:g}"
        studies.append(counts.study(f"synthetic, {vocab_size} x {hidden_size}, {what}"))
    return studies


def table(studies):
    """A table of percentages in Markdown."""
    lines = ["| rows | positions | planes | best n | " + " | ".join(f"K = {k}" for k in CANDIDATES) + " |",
             "|---|---|---|---|" + "---|" * len(CANDIDATES)]
    for study in studies:
        for planes, by_n in study.share.items():
            for n, share in by_n.items():
                cells = " | ".join(f"{100 * share[k]:.3g}" if share[k] else "0" for k in CANDIDATES)
                lines.append(f"| {study.name} | {study.n_positions:,} | {planes} | {n} | {cells} |")
    return "\n".join(lines)


def main(arguments=None):
    """The command: measure, print, and with ``--write-docs`` write the block of the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stories", metavar="FILE", help="stories260K.bin of karpathy/tinyllamas; left out without it")
    parser.add_argument("--write-docs", action="store_true", help=f"write the figures into {_PAGE.name}")
    chosen = parser.parse_args(arguments)
    real = [demo_study()] + ([stories_study(chosen.stories)] if chosen.stories else [])
    made_up = [study for shape in SHAPES for study in synthetic_study(*shape)]
    block = (f"Evidence, real rows and the states they were trained with; share of positions in per cent:\n\n{table(real)}\n\n"
             f"Illustration, made-up rows and states; share of states in per cent:\n\n{table(made_up)}")
    print(block)
    if chosen.write_docs:
        _PAGE.write_text(replaced(_PAGE.read_text(), _PAGE, BEGIN, END, block))


if __name__ == "__main__":
    main()
