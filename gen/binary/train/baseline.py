"""What a linear model does on the same data: logistic regression of pixels, and of words without their order.

    python -m celosia.gen.binary.train.baseline

Words are weighted by log(n / n_with) and a sentence has length 1. The strength of the penalty is chosen on the validation part.
"""

import torch

from . import data
from .train import load_split

__all__ = ["features", "right"]

STRENGTHS = (0.1, 1.0, 3.0, 10.0)


def features(part, split):
    """(n, pixels or words) float32 of a part."""
    if part.inputs.ndim == 3:
        return part.inputs.flatten(1).float() / data.MAXIMUM

    def present(inputs):
        found = torch.zeros(len(inputs), len(split.words)).scatter_(1, inputs, 1.0)
        found[:, data.PADDING] = 0
        return found

    weight = (len(split.train) / (1 + present(split.train.inputs).sum(0))).log()
    return torch.nn.functional.normalize(present(part.inputs) * weight, dim=1)


def right(split, strength):
    """Share of the test part of a split that a regression on its training part labels rightly."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=1000)
    model.fit(features(split.train, split).numpy(), split.train.label.numpy())
    return model.score(features(split.test, split).numpy(), split.test.label.numpy())


def main():
    """Command line of the comparison."""
    for task in ("digits", "docstrings"):
        split = load_split(task)
        held = data.held_back(split)
        best = max(STRENGTHS, key=lambda strength: right(held, strength))
        test, validation = (100 * right(each, best) for each in (split, held))
        print(f"{task}: {test:.1f} % of the test part, {validation:.1f} % of the validation part, C = {best}")


if __name__ == "__main__":
    main()
