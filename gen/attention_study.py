"""What the integer attention and the codes of the cache cost: error against softmax in binary64, and perplexity.

``python -m celosia.gen.attention_study --stories FILE --write-docs`` measures and writes the marked block of ``docs/attention.md``
and its picture. Everything but attention is the golden model's in every row: int8 activations, the head, the matrices of the
checkpoint (of four digit planes where it has floats).

    float      queries, keys and values as they come out of their matrices, softmax in binary32: what all else is compared with
    golden     the golden model: codes of the cache by ``kv``, integer attention, windows
    rounded    softmax in binary32 of queries, keys and values rounded in some way: ways that are not built
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from celosia.gen.golden.model import KV_TOPS, GoldenModel

from . import attention_error, checkpoint
from .attention_rounding import ROUNDINGS, RoundedModel
from .float_model import FloatModel
from .marks import replaced
from .place import rope_table
from .quantise import quantise

__all__ = ["Row", "Subject", "demo_subject", "formats", "main", "stories_subject", "windows"]

WINDOWS, SINKS = (32, 64, 128), (0, 1, 4)
BOUNDS = {"int8": 0.5, "k8v4": 2.0}     # per cent of perplexity that a format may lose on every subject
N_CALIBRATION = 8                       # texts that the means of keys are taken from; none of those that count
_ROOT = Path(__file__).resolve().parents[1]
_PAGE, _PICTURE = _ROOT / "docs" / "attention.md", _ROOT / "docs" / "img" / "attention.svg"
BEGIN, END = "<!-- figures: written by celosia.gen.attention_study -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Subject:
    """A quantised model and texts: ids (texts, tokens + 1), every one after the first is predicted."""
    name: str
    model: object
    texts: torch.Tensor
    calibration: torch.Tensor


@dataclass(frozen=True)
class Row:
    """Perplexity of one subject; ``above``: by how much of the float attention's it is higher, ``error``: the standard error of
    that over texts; both in per cent."""
    name: str
    perplexity: float
    above: float
    error: float


def demo_subject(n_texts, n_tokens=256, folder=_ROOT / "models" / "demo"):
    """The shipped model and windows of its held-out text, the last of which are for calibration."""
    text = torch.frombuffer(bytearray((Path(folder) / "heldout.txt").read_bytes()), dtype=torch.uint8).long()
    cut = text.unfold(0, n_tokens + 1, n_tokens)
    if n_texts + N_CALIBRATION > len(cut):
        raise ValueError(f"The texts of {n_tokens} bytes must be at most {len(cut) - N_CALIBRATION}, not {n_texts}")
    return Subject("demo", quantise(checkpoint.load(folder)), cut[:n_texts], cut[-N_CALIBRATION:])


def stories_subject(path, n_texts, n_tokens=256, planes=4):
    """A checkpoint of llama2.c, and texts that it wrote itself in floating point at temperature 1."""
    loaded = checkpoint.load(path)
    texts = FloatModel(loaded).write(n_texts + N_CALIBRATION, n_tokens + 1, first_token=1, seed=0)
    return Subject(Path(path).stem, quantise(loaded, planes=planes), texts[:n_texts], texts[n_texts:])


def _losses(model, texts):
    """-log p of every token but the first: float64 (texts, tokens)."""
    found = []
    for text in texts.tolist():
        shares = model.forward(text[:-1], 0).double().log_softmax(-1)
        found.append(-shares.gather(-1, torch.tensor(text[1:])[:, None])[:, 0])
    return torch.stack(found)


def _row(name, losses, original):
    each = (losses - original).mean(-1)
    ratio = float(each.mean().exp())
    return Row(name, float(losses.mean().exp()), 100 * (ratio - 1), 100 * ratio * float(each.std()) / len(each) ** 0.5)


def _float_losses(subject):
    return _losses(RoundedModel(subject.model, _rope(subject)), subject.texts)


def _rope(subject):
    return rope_table(subject.model.config, subject.texts.shape[1])


def formats(subject):
    """([Row] of float and of the golden model with each format of the cache, [Row] of ``ROUNDINGS``)."""
    original = _float_losses(subject)
    golden = [_row("float", original, original)]
    golden += [_row(kv, _losses(GoldenModel(subject.model, _rope(subject), kv=kv), subject.texts), original) for kv in KV_TOPS]
    rounded = RoundedModel(subject.model, _rope(subject))
    rounded.calibrate(subject.calibration)
    others = []
    for name, rounded.rounding in ROUNDINGS.items():
        others.append(_row(name, _losses(rounded, subject.texts), original))
    return golden, others


def windows(subject, sizes=WINDOWS, sinks=SINKS):
    """{(window, sinks): Row} of the golden model with int8; (0, 0) sees everything."""
    original, found = _float_losses(subject), {}
    for window, n_sinks in ((0, 0), *((window, n_sinks) for window in sizes for n_sinks in sinks)):
        model = replace(subject.model, config=subject.model.config.with_window(window, n_sinks))
        name = f"{window} and {n_sinks}" if window else "all"
        found[window, n_sinks] = _row(name, _losses(GoldenModel(model, _rope(subject)), subject.texts), original)
    return found


def _loss(row):
    return f"{row.above:.2f} ± {row.error:.2f}" if row.error else "0"


def _table(first, subjects, rows):
    """Rows of each subject side by side: ``rows``: a list for each subject, of the same names."""
    lines = [f"| {first} | " + " | ".join(f"{s.name}, perplexity | above float, %" for s in subjects) + " |",
             "|---|" + "---|" * (2 * len(subjects))]
    for each in zip(*rows):
        lines.append(f"| {each[0].name} | " + " | ".join(f"{row.perplexity:.3f} | {_loss(row)}" for row in each) + " |")
    return "\n".join(lines)


def _error_table(found):
    lengths = next(iter(found.values()))
    lines = ["| scores and values | " + " | ".join(f"{n:,} positions" for n in lengths) + " |", "|---|" + "---|" * len(lengths)]
    for case, by_length in found.items():
        cells = (f"{2**15 * most:.2f}, {2**15 * mean:.2f}" for most, mean in by_length.values())
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _verdicts(rows):
    """One sentence for each bound."""
    for kv, bound in BOUNDS.items():
        most = max(row.above for each in rows for row in each if row.name == kv)
        verdict = "" if most <= bound else " (**missed**)"
        yield f"{kv}: at most {most:.2f} % above float attention, where {bound:g} % are allowed{verdict}."


def page_block(errors, subjects, n_window_texts, found, seen):
    """The block of the page: ``found``: what ``formats`` gives and ``seen``: what ``windows`` gives, for each subject."""
    golden, rounded = zip(*found)
    n_texts, n_ids = subjects[0].texts.shape
    return "\n\n".join([
        "Largest and mean error, in units of 2^-15 V:", _error_table(errors),
        f"Perplexity of {n_texts} texts of {n_ids - 1} tokens, and how much it is above that of float attention, ± standard error:",
        _table("golden model", subjects, golden), "\n".join(_verdicts(golden)),
        "Ways that are not built: rows rounded, then softmax in floating point (int8 and int4 once more, to compare):",
        _table("rounded rows", subjects, rounded),
        f"Windows and sinks, int8, {n_window_texts} texts:",
        _table("positions seen, sinks", subjects, [list(each.values()) for each in seen])])


def main(arguments=None):
    """The command: measure, print, and with ``--write-docs`` write the block of the page and its picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stories", metavar="FILE", required=True, help="a checkpoint of llama2.c, such as stories260K.bin")
    parser.add_argument("--texts", type=int, default=32, help="texts for each format")
    parser.add_argument("--window-texts", type=int, default=16, help="texts for each window")
    parser.add_argument("--write-docs", action="store_true", help=f"write the figures into {_PAGE.name}, and {_PICTURE.name}")
    chosen = parser.parse_args(arguments)
    errors = attention_error.worst()
    subjects = [demo_subject(chosen.texts), stories_subject(chosen.stories, chosen.texts)]
    found = [formats(subject) for subject in subjects]
    seen = [windows(replace(subject, texts=subject.texts[:chosen.window_texts])) for subject in subjects]
    block = page_block(errors, subjects, chosen.window_texts, found, seen)
    print(block)
    if chosen.write_docs:
        from . import attention_picture  # matplotlib is there only for development
        text = replaced(_PAGE.read_text(), _PAGE, BEGIN, END, block)
        attention_picture.draw(errors, [subject.name for subject in subjects], found, _PICTURE)
        _PAGE.write_text(text)


if __name__ == "__main__":
    main()
