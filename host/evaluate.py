"""Command ``eval``: perplexity of an image's model on token ids or a text, by teacher forcing."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import click
import numpy as np

from .accelerator import Accelerator
from .logits import require_npy, writing
from .opening import device_options, image_of
from .tokens import tokenizer_of

__all__ = ["bits_of", "evaluate", "read_ids"]


def read_ids(path):
    """Token ids of a .npy file, int64 (sequences, length). ValueError, one sentence, on anything else."""
    try:
        ids = np.lib.format.open_memmap(path, "r")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is none"
        raise ValueError(f"Token ids must be a .npy file, and {path} cannot be read as one: {why}") from None
    if ids.dtype.kind not in "iu":
        raise ValueError(f"Token ids must be an array of integers, and {path} holds {ids.dtype}")
    if ids.ndim not in (1, 2) or ids.shape[-1] < 2 or not ids.size:
        raise ValueError(f"Token ids must have shape (sequences, length) or (length,) with a length of at least 2, "
                         f"and {path} has {ids.shape}")
    return np.atleast_2d(ids).astype(np.int64)


def _cut(tokens, length):
    """(ids int64 (sequences, length), tokens that are left over); a text that is shorter than a sequence is one."""
    if len(tokens) < 2:
        raise ValueError(f"The text must have at least 2 tokens, not {len(tokens)}")
    length = min(length, len(tokens))
    n = len(tokens) // length
    return np.array(tokens[:n * length], np.int64).reshape(n, length), len(tokens) - n * length


def bits_of(logits, targets):
    """-log2 of the probability of each target: float64 (n,), from logits float32 (n, vocabulary)."""
    logits = logits[:len(targets)].astype(np.float64)
    peak = logits.max(1)
    total = np.log(np.exp(logits - peak[:, None]).sum(1))
    return (peak + total - logits[np.arange(len(targets)), targets]) / np.log(2)


def _score(accel, ids, written, bar):
    """Bits of all predicted tokens together; logits go into ``written`` where it is an array."""
    bits = 0.0
    for number, sequence in enumerate(ids):
        accel.reset()
        start = 0
        for logits in accel.score(sequence):
            end = start + len(logits)
            bits += float(bits_of(logits, sequence[start + 1:end + 1]).sum())
            if written is not None:
                written[number, start:end] = logits
            bar.update(len(logits))
            start = end
    return bits


@click.command("eval")
@click.argument("image_name", metavar="IMAGE")
@click.option("--ids", "ids_file", metavar="FILE.npy", type=click.Path(),
              help="Token ids, integers of shape (sequences, length), or (length,) for one sequence.")
@click.option("--text", "text_file", metavar="FILE", type=click.Path(),
              help="A text in UTF-8, which the image's tokenizer makes into tokens, cut into sequences of --length. What is left "
              "over behind the last whole sequence is dropped; a text shorter than one is a sequence of its own length.")
@click.option("--length", type=click.IntRange(min=2), help="Tokens of a sequence of --text; default: the image's context.")
@click.option("--config", help="Configuration of the accelerator; default: the image's.")
@click.option("--backend", type=click.Choice(["golden", "sim"]), default="golden", show_default=True,
              help="What computes: the golden machine or the simulated accelerator, which must return all logits.")
@click.option("--logits", "logits_file", metavar="FILE.npy", type=click.Path(dir_okay=False),
              help="Write the logits after every token, float32 (sequences, length, vocabulary).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def evaluate(image_name, ids_file, text_file, length, config, backend, logits_file, as_json):
    """How well the model of IMAGE (a file .img, or the name of a model) predicts token ids or a text: each sequence from
    position 0, each token from the right ones before it. Where the head is a shortlist, the logits are those of its exact rows,
    for the whole vocabulary."""
    if (ids_file is None) == (text_file is None):
        raise click.UsageError("Give either --ids or --text")
    if ids_file and length:
        raise click.UsageError("--length cuts a --text; the sequences of --ids have the length they have")
    require_npy(logits_file)
    ids, dropped = (read_ids(ids_file), 0) if ids_file else (None, 0)
    image = image_of(image_name, config or "tiny")
    image.need_kind("decoder")
    header, config = image.header, config or image.header["config"]
    if text_file:
        if length and length > header["context"]:
            raise ValueError(f"--length must be at most the context of the image, {header['context']}, not {length}")
        ids, dropped = _cut(tokenizer_of(image).encode(_text(text_file)), length or header["context"])
    _check(ids, header)
    if backend == "sim" and header["head"]["kind"] == "shortlist":      # known without building the simulator
        _require_all(header, config, header["head"]["candidates"])
    with Accelerator.open(backend, **device_options(backend, config)) as accel:
        accel.load(image)
        if not accel.scores:
            _require_all(header, config, accel.n_candidates)
        hidden = as_json or not sys.stderr.isatty()
        with (click.progressbar(length=ids.size, label=f"{backend}: tokens", file=sys.stderr, hidden=hidden) as bar,
              writing(logits_file, (*ids.shape, header["vocab"])) if logits_file else nullcontext() as written):
            bits = _score(accel, ids, written, bar)
    n_tokens = ids.shape[0] * (ids.shape[1] - 1)
    result = {"bits_per_token": bits / n_tokens, "perplexity": 2.0 ** (bits / n_tokens), "tokens": n_tokens,
              "sequences": ids.shape[0], "length": ids.shape[1], "dropped_tokens": dropped, "backend": backend, "config": config,
              "image": image_name, "name": header["name"], "digest": image.digest, "head": header["head"]["kind"]}
    click.echo(json.dumps(result) if as_json else _line(result))


def _require_all(header, config, n_candidates):
    if n_candidates < header["vocab"]:
        raise ValueError(f"Perplexity needs the logits of all {header['vocab']} tokens, and an accelerator of configuration "
                         f"{config} returns the {n_candidates} best: choose --backend golden")


def _text(path):
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"Text must be a file, and {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"Text must be UTF-8, and {path} is not, from byte {error.start} on") from None


def _check(ids, header):
    if ids.shape[1] > header["context"]:
        raise ValueError(f"Sequences must be at most as long as the context of the image, {header['context']}, not {ids.shape[1]}")
    if ids.min() < 0 or ids.max() >= header["vocab"]:
        wrong = ids[(ids < 0) | (ids >= header["vocab"])][0]
        raise ValueError(f"Token ids must be 0 to {header['vocab'] - 1}, not {wrong}")


def _line(result):
    sequences = f"{result['sequences']:,} sequence" + ("s" if result["sequences"] > 1 else "")
    dropped = f"; {result['dropped_tokens']:,} left over" if result["dropped_tokens"] else ""
    return (f"{result['name']}, {result['backend']}, configuration {result['config']}, {result['head']} head: "
            f"{result['bits_per_token']:.4f} bits a token, perplexity {result['perplexity']:.3f}, "
            f"over {result['tokens']:,} tokens in {sequences} of {result['length']:,}{dropped}")
