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
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import torch

from celosia.gen.golden import f32, ops
from celosia.gen.golden.model import GoldenModel

from . import checkpoint
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
    model = _Stories(path)
    hidden = model.write(n_texts, n_tokens)
    head = quantise_head(model.embedding)
    codes, scale = ops.quantise_norm(hidden, model.final_norm, 1e-5)
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


class _Stories:
    """A checkpoint of llama2.c (seven int32, then float32 tensors), run in float."""

    def __init__(self, path):
        raw = Path(path).read_bytes()
        dim, ffn, self.n_layers, self.n_heads, self.n_kv_heads, vocab, _ = struct.unpack_from("<7i", raw)
        values, self._at = torch.frombuffer(bytearray(raw[28:]), dtype=torch.float32), 0
        self.head_dim = dim // self.n_heads
        kv = self.n_kv_heads * self.head_dim

        def take(*shape):
            size = int(torch.tensor(shape).prod())
            self._at += size
            return values[self._at - size:self._at].view(shape)

        self.embedding = take(vocab, dim)
        layers = self.n_layers
        self.attn_norm, self.q, self.k = take(layers, dim), take(layers, dim, dim), take(layers, kv, dim)
        self.v, self.o, self.ffn_norm = take(layers, kv, dim), take(layers, dim, dim), take(layers, dim)
        self.gate, self.down, self.up = take(layers, ffn, dim), take(layers, dim, ffn), take(layers, ffn, dim)
        self.final_norm = take(dim)

    def write(self, n_texts, n_tokens):
        """Hidden states (n_texts * n_tokens, dim) of texts that begin with token 1 and are drawn from the model."""
        generator = torch.Generator().manual_seed(0)
        tokens = torch.ones(n_texts, 1, dtype=torch.int64)
        for _ in range(n_tokens - 1):
            logits = _norm(self.hidden(tokens)[:, -1], self.final_norm) @ self.embedding.T
            drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            tokens = torch.cat((tokens, drawn), 1)
        return self.hidden(tokens).flatten(0, 1)

    def hidden(self, tokens):
        """(texts, tokens) to (texts, tokens, dim): the output of the last layer."""
        n_texts, n = tokens.shape
        angle = torch.arange(n)[:, None] * 10000.0 ** (-torch.arange(0, self.head_dim, 2) / self.head_dim)
        turn = torch.polar(torch.ones_like(angle), angle)
        past = torch.ones(n, n).tril().bool()

        def rotated(x, heads):
            x = x.view(n_texts, n, heads, self.head_dim // 2, 2)
            return torch.view_as_real(torch.view_as_complex(x) * turn[:, None]).flatten(3).transpose(1, 2)

        x = self.embedding[tokens]
        for i in range(self.n_layers):
            y = _norm(x, self.attn_norm[i])
            q, k = rotated(y @ self.q[i].T, self.n_heads), rotated(y @ self.k[i].T, self.n_kv_heads)
            v = (y @ self.v[i].T).view(n_texts, n, self.n_kv_heads, -1).transpose(1, 2)
            k, v = (part.repeat_interleave(self.n_heads // self.n_kv_heads, 1) for part in (k, v))
            score = (q @ k.transpose(-1, -2) / self.head_dim ** 0.5).masked_fill(~past, float("-inf")).softmax(-1)
            x = x + (score @ v).transpose(1, 2).flatten(2) @ self.o[i].T
            y = _norm(x, self.ffn_norm[i])
            x = x + (torch.nn.functional.silu(y @ self.gate[i].T) * (y @ self.up[i].T)) @ self.down[i].T
        return x


def _norm(x, gain):
    return x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * gain


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
    parser.add_argument("--stories", metavar="FILE", help="stories260K.bin of karpathy/tinyllamas; without it that part is left out")
    parser.add_argument("--write-docs", action="store_true", help=f"write the figures into {_PAGE.name}")
    chosen = parser.parse_args(arguments)
    real = [demo_study()] + ([stories_study(chosen.stories)] if chosen.stories else [])
    made_up = [study for shape in SHAPES for study in synthetic_study(*shape)]
    block = (f"Evidence, real rows and the states they were trained with; share of positions in per cent:\n\n{table(real)}\n\n"
             f"Illustration, made-up rows and states; share of states in per cent:\n\n{table(made_up)}")
    print(block)
    if chosen.write_docs:
        page = _PAGE.read_text()
        _PAGE.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n\n{block}\n\n{END}", page, flags=re.S))


if __name__ == "__main__":
    main()
