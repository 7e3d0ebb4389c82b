"""Train the demo model.  `python -m celosia.gen.demo.train --out models/demo`

The schedule is warm-up, constant, then linear to zero over the last 40 % (`--descent`); weight decay is 0.1
until that descent begins and 0 from there (for the float twin 0.1 throughout).  The batch of a step
depends on the seed and the step alone, so an interrupted run goes on from its last checkpoint as
if nothing had happened, and the number of steps may be chosen again as long as the descent has
not begun.  The same seed on the same machine with the same torch gives the same weights.
"""

import argparse
import math
import pathlib
import time

import torch
from torch.nn import functional as F

from . import data
from .model import DemoConfig, DemoModel
from .recipe import Recipe
from .report import write
from .scoring import bits_per_byte

__all__ = ["Trainer"]


class Trainer:
    """A model, its optimiser and its place in the schedule.

    Parameters: `text` bytes to learn from; `config` a `DemoConfig`, by default the shipped one;
    `weights` "ternary" or "float"; `compiled` uses torch.compile (same mathematics, other rounding).
    """

    def __init__(self, text, recipe, *, config=None, weights="ternary", compiled=True):
        self.tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self.recipe, self.step, self.curve = recipe, 0, []
        self.model = DemoModel(config or DemoConfig(), weights=weights)
        self.model.initialise(torch.Generator().manual_seed(recipe.seed))
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=recipe.rate,
                                           betas=(0.9, 0.95), eps=1e-8, fused=True)
        self._loss = torch.compile(self._plain_loss) if compiled else self._plain_loss

    def _plain_loss(self, x, y):
        return F.cross_entropy(self.model(x).flatten(0, 1), y.flatten())

    def _batch(self):  # two (batch, context) int64: bytes and the bytes that follow them
        r = self.recipe
        generator = torch.Generator().manual_seed(r.seed * 1_000_003 + self.step)
        start = torch.randint(len(self.tokens) - r.context, (r.batch, 1), generator=generator)
        windows = self.tokens[start + torch.arange(r.context + 1)].long()
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def run_step(self):
        """One step of the schedule; returns the loss in bits a byte."""
        r = self.recipe
        for group in self.optimiser.param_groups:
            group["lr"] = r.rate_at(self.step)
            group["weight_decay"] = r.decay_at(self.step, self.model.ternary)
        loss = self._loss(*self._batch())
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        return loss.item() / math.log(2)

    def exact_logits(self, tokens):
        """Logits as the finished model computes them, sums in binary32."""
        return self.model(tokens, exact=True)

    def save(self, path):
        """Everything needed to go on; replaces the file in one move."""
        state = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(),
                 "step": self.step, "curve": self.curve, "recipe": vars(self.recipe)}
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def load(self, path):
        """Go on from a file of `save`; refuses a run with another recipe or a begun descent."""
        state = torch.load(path, weights_only=True)
        old = Recipe(**state["recipe"])
        begun = state["step"] > min(old.descent_from, self.recipe.descent_from)
        for key, value in vars(self.recipe).items():
            known = getattr(old, key)
            if value != known and (begun or key not in ("steps", "descent")):
                raise ValueError(f"Recipe value {key} must be {known} to go on from {path}, "
                                 f"not {value}")
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.curve = state["step"], state["curve"]


def _parse(argv):
    p = argparse.ArgumentParser(prog="python -m celosia.gen.demo.train", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, required=True, help="folder of the checkpoint")
    p.add_argument("--work", type=pathlib.Path, default=pathlib.Path("build/demo"),
                   help="folder for the fetched text and the intermediate checkpoints")
    p.add_argument("--page", type=pathlib.Path, default=pathlib.Path("docs/demo_model.md"),
                   help="page whose block of figures is written")
    p.add_argument("--weights", choices=("ternary", "float"), default="ternary")
    p.add_argument("--steps", type=int, default=12000)
    p.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    p.add_argument("--descent", type=float, default=0.4, help="share of the steps at falling rate")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--no-compile", action="store_true", help="slower, needs no C++ compiler")
    return p.parse_args(argv)


def main(argv=None):
    """Train, reporting every 100 steps, and write the result into `--out`."""
    args = _parse(argv)
    torch.set_num_threads(args.threads)
    train_text, heldout_text = data.split(data.load_text(args.work))
    recipe = Recipe(steps=args.steps, rate=args.rate, descent=args.descent, seed=args.seed)
    trainer = Trainer(train_text, recipe, weights=args.weights, compiled=not args.no_compile)
    checkpoint = args.work / f"{args.weights}.pt"
    if checkpoint.exists():
        trainer.load(checkpoint)
        print(f"going on from step {trainer.step}", flush=True)
    losses, begun, first = [], time.monotonic(), trainer.step
    while trainer.step < recipe.steps:
        losses.append(trainer.run_step())
        if trainer.step % 100 and trainer.step != recipe.steps:
            continue
        row = {"weights": args.weights, "step": trainer.step,
               "tokens": trainer.step * recipe.batch * recipe.context,
               "train_bits_per_byte": round(sum(losses) / len(losses), 4),
               "heldout_bits_per_byte": ""}
        if trainer.step % 500 == 0:
            estimate = bits_per_byte(trainer.exact_logits, heldout_text[:64 * 256 + 1])
            row["heldout_bits_per_byte"] = round(estimate, 4)
        trainer.curve.append(row)
        if trainer.step % 500 == 0:
            trainer.save(checkpoint)
        losses.clear()
        speed = (trainer.step - first) * recipe.batch * recipe.context / (time.monotonic() - begun)
        print(*row.values(), f"{speed:.0f} tokens/s", flush=True)
    trainer.save(checkpoint)
    if (args.work / "ternary.pt").exists():
        write(args.out, args.work, args.page)


if __name__ == "__main__":
    main()
