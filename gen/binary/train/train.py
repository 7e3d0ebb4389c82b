"""Train binary encoders and their twins.  `python -m celosia.gen.binary.train --model digits-w1a1`

A model is trained from the weights of another and from its logits (`recipe.RECIPES`); the models that it needs are trained
first, once: `--work` keeps them. `--held-back` judges on a validation part taken from the training part, which is how recipes
are chosen; without it all of the training part is learned and the test part is read once, at the end. `--out` writes the
checkpoint folder. One thread and fixed seeds: the same command gives the same weights on the same machine with the same torch.
"""

import argparse
import dataclasses
import json
import math
import pathlib

import torch
from torch.nn import functional as F

from . import data, judge, report
from .export import write_checkpoint
from .modules import Encoder, EncoderConfig
from .recipe import RECIPES

__all__ = ["accuracy", "build", "fit", "load_split", "main", "train", "write"]


def load_split(task):
    """The `Split` of a task."""
    return data.digits() if task == "digits" else data.docstrings()


def _inputs(part, generator=None, recipe=None):
    """What the encoder takes, of a part; changed at random for training when a generator is given."""
    inputs = part.inputs
    if inputs.ndim == 3:
        return data.patches(inputs if generator is None else data.move_digits(inputs, generator))
    if generator is not None and recipe.lost_words:
        lost = torch.rand(inputs.shape, generator=generator) < recipe.lost_words
        inputs = torch.where(lost & (inputs != data.PADDING), data.UNKNOWN, inputs)
    return inputs


def build(recipe, split):
    """An untrained encoder for a split."""
    image = split.train.inputs.ndim == 3
    return Encoder(EncoderConfig(
        n_labels=len(split.labels), max_tokens=int(split.train.length.max()) if image else data.MAX_TOKENS,
        patch_values=data.PATCH ** 2 if image else 0, vocab_size=0 if image else len(split.words), **recipe.shape))


@torch.no_grad()
def accuracy(model, part, batch=256):
    """Share of a part that the model labels rightly."""
    model.eval()
    right = sum((model(_inputs(piece), piece.length).argmax(-1) == piece.label).sum().item()
                for piece in (part[start:start + batch] for start in range(0, len(part), batch)))
    return right / len(part)


def _loss(logits, label, taught, recipe):
    loss = F.cross_entropy(logits, label, label_smoothing=recipe.smoothing)
    if taught is None:
        return loss
    t = recipe.temperature
    divergence = F.kl_div((logits / t).log_softmax(-1), (taught / t).log_softmax(-1), log_target=True, reduction="batchmean")
    return (1 - recipe.teacher_share) * loss + recipe.teacher_share * t * t * divergence


def fit(model, recipe, split, teacher=None, epochs=None, say=None):
    """Train a model that has its first weights; returns it.

    `epochs` in place of the recipe's. `say(epoch, loss)` is called after every epoch.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    torch.manual_seed(recipe.seed)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2]
    others = [p for name, p in model.named_parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW([{"params": matrices, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}],
                                  lr=recipe.rate, betas=(0.9, 0.98), foreach=True)
    epochs = epochs or recipe.epochs
    n_steps, step = epochs * (len(split.train) // recipe.batch), 0
    for epoch in range(epochs):
        order, total = torch.randperm(len(split.train), generator=generator), 0.0
        model.train()
        for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
            piece = split.train[order[start:start + recipe.batch]]
            inputs = _inputs(piece, generator, recipe)
            with torch.no_grad():
                taught = None if teacher is None else teacher.eval()(inputs, piece.length)
            rate = recipe.rate * min((step + 1) / recipe.warmup, 0.5 + 0.5 * math.cos(math.pi * step / n_steps))
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss = _loss(model(inputs, piece.length), piece.label, taught, recipe)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            step, total = step + 1, total + loss.item()
        if say is not None:
            say(epoch, total / (len(order) // recipe.batch))
    return model.eval()


def train(name, work, *, held_back=False, seed=None, say=print):
    """The trained model `name`, from `work` if it is there; (model, recipe, split)."""
    recipe = RECIPES[name]
    split = load_split(recipe.task)
    split = data.held_back(split) if held_back else split
    if seed is not None:
        recipe = dataclasses.replace(recipe, seed=seed)
    model = build(recipe, split)
    path = pathlib.Path(work) / f"{name}{'-held-back' if held_back else ''}-{recipe.epochs}-{recipe.seed}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval(), recipe, split
    others = {other: train(other, work, held_back=held_back, say=say)[0] for other in {recipe.start, recipe.teacher} - {""}}
    model.initialise(torch.Generator().manual_seed(recipe.seed))
    if recipe.start:
        model.begin_with(others[recipe.start])

    def tell(epoch, loss):
        if say is not None and (epoch % 10 == 9 or epoch + 1 == recipe.epochs):
            say(f"{name}: epoch {epoch + 1} of {recipe.epochs}, loss {loss:.4f}"
                + (f", validation {accuracy(model, split.test):.4f}" if held_back else ""), flush=True)

    fit(model, recipe, split, others.get(recipe.teacher), say=tell)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model, recipe, split


def write(name, work, out, say=print):
    """Train a binary model and its twins, and write the checkpoint folder with its figures; training.json as a dict."""
    model, recipe, split = train(name, work, say=say)
    if model.config.weights != "binary":
        raise ValueError(f"A checkpoint must be of a binary model, not of {name}")
    write_checkpoint(model, split, out)
    twins = {twin: accuracy(train(f"{recipe.task}-{twin}", work, say=say)[0], split.test) for twin in ("float", "ternary")}
    shape = {key: value for key, value in vars(model.config).items() if key != "dropout"}
    shape |= {"activation_bits": model.config.activation_bits, "n_parameters": sum(p.numel() for p in model.parameters()),
              "n_signs": sum(part.weight.numel() for part in model.modules() if getattr(part, "kind", "") == "binary")}
    found = report.record(name, split, shape, {**twins, "trained": accuracy(model, split.test),
                                               "reference": judge.by_reference(out, split.test),
                                               "integers": judge.by_integers(out, split.test)})
    (out / "training.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "README.md").write_text(report.card(found))
    return found


def main(argv=None):
    """Command line of the training."""
    p = argparse.ArgumentParser(prog="python -m celosia.gen.binary.train", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", choices=RECIPES, required=True)
    p.add_argument("--out", type=pathlib.Path, help="folder of the checkpoint; its twins are trained too")
    p.add_argument("--work", type=pathlib.Path, default=pathlib.Path("build/binary"), help="folder of trained models")
    p.add_argument("--held-back", action="store_true", help="judge on a validation part of the training part")
    p.add_argument("--seed", type=int, help="in place of the recipe's")
    args = p.parse_args(argv)
    if args.out and (args.held_back or args.seed is not None):
        p.error("--out takes the recipe as it is, without --held-back and --seed")
    torch.set_num_threads(1)
    if args.out:
        print(json.dumps(write(args.model, args.work, args.out)["accuracy"]))
        return
    model, recipe, split = train(args.model, args.work, held_back=args.held_back, seed=args.seed)
    print(json.dumps({"model": args.model, "seed": recipe.seed, "judged": "validation" if args.held_back else "test",
                      "accuracy": round(accuracy(model, split.test), 4)}))


if __name__ == "__main__":
    main()
