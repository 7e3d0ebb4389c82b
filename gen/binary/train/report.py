"""What a finished training leaves: training.json of a checkpoint folder, its README.md, and the table of docs/binary_models.md.

`python -m celosia.gen.binary.train.report` writes the table again from the folders of `--models`. All figures are of the test
part. Those of the binary model are of the written files: by the float reference and by the golden model in integers.
"""

import argparse
import dataclasses
import json
import pathlib

import torch

from .recipe import RECIPES

__all__ = ["MODELS", "card", "insert", "record", "table", "write_table"]

MODELS = ("digits-w1a8", "digits-w1a1", "digits-w1a1-softmax", "docstrings-w1a8", "docstrings-w1a1")
BEGIN, END = "<!-- figures: written by celosia.gen.binary.train.report -->", "<!-- end of figures -->"
PAGE = pathlib.Path("docs/binary_models.md")
SOURCES = {
    "digits": "Optical recognition of handwritten digits (E. Alpaydin, C. Kaynak, UCI, 1998; CC BY 4.0), as scikit-learn has it",
    "docstrings": "Docstrings of the standard library of Python 3.11.7, models/docstrings/data.tsv.xz; Python Software Foundation "
                  "License Version 2",
}


def _chain(name):
    """The models that a model is trained from and by, the first one first, itself last."""
    recipe = RECIPES[name]
    found = [other for before in (recipe.start, recipe.teacher) if before for other in _chain(before)]
    return list(dict.fromkeys([*found, name]))


def record(name, split, shape, accuracy):
    """training.json as a dict. `accuracy`: shares of the test part by the name of what was judged."""
    return {
        "format": 1, "model": name, "command": f"python -m celosia.gen.binary.train --model {name} --out models/{name}",
        "data": {"source": SOURCES[RECIPES[name].task], "train": len(split.train), "test": len(split.test)},
        "shape": shape, "recipes": {each: dataclasses.asdict(RECIPES[each]) for each in _chain(name)},
        "accuracy": {key: round(value, 4) for key, value in accuracy.items()},
        "torch": torch.__version__.partition("+")[0], "trained_on": f"one thread of a processor with "
        f"{torch.backends.cpu.get_cpu_capability()}, no GPU",
    }


def _percent(share):
    return f"{100 * share:.1f} %"


def card(record):
    """README.md of a checkpoint folder."""
    shape, accuracy, data = record["shape"], record["accuracy"], record["data"]
    weights = f"{shape['n_signs']:,} weights of one bit"
    return "\n".join([
        f"# {record['model']}", "",
        f"A binary encoder: {shape['n_layers']} layers, width {shape['hidden_size']}, {shape['n_heads']} heads, feed-forward "
        f"{shape['intermediate_size']}, {weights}, activations of {shape['activation_bits']} bit, attention maps of one bit "
        f"({shape['attention']}).", "",
        f"- data: {data['source']}",
        f"- {data['train']:,} inputs for training, {data['test']:,} for the test",
        f"- right on the test part: {_percent(accuracy['integers'])} in the integers of the machine; float twin "
        f"{_percent(accuracy['float'])}, ternary twin {_percent(accuracy['ternary'])}",
        f"- trained by `{record['command']}`, {record['trained_on']}, torch {record['torch']}", "",
        "What was tried and what is not claimed: docs/binary_models.md.", ""])


def table(records):
    """Markdown of the accuracies, a model a row."""
    lines = ["| model | attention map | float | ternary W1.58A8 | binary: float reference | binary: integers of the machine |",
             "|---|---|---|---|---|---|"]
    for r in records:
        a = r["accuracy"]
        cells = (f"`{r['model']}`", r["shape"]["attention"],
                 *(_percent(a[key]) for key in ("float", "ternary", "reference", "integers")))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "```", *(r["command"] for r in records), "```"])


def insert(page, block):
    """`page` with the text between the two marks replaced by `block`."""
    head, mark, rest = page.partition(BEGIN)
    if not mark or END not in rest:
        raise ValueError(f"A page for figures must hold the marks {BEGIN!r} and {END!r}")
    return f"{head}{BEGIN}\n\n{block}\n\n{END}{rest.partition(END)[2]}"


def write_table(models=pathlib.Path("models"), page=PAGE):
    """Write the table of `page` from the training.json of all shipped models."""
    records = [json.loads((models / name / "training.json").read_text()) for name in MODELS]
    page.write_text(insert(page.read_text(), table(records)))


def main(argv=None):
    """Command line of the report."""
    p = argparse.ArgumentParser(prog="python -m celosia.gen.binary.train.report", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", type=pathlib.Path, default=pathlib.Path("models"))
    p.add_argument("--page", type=pathlib.Path, default=PAGE)
    args = p.parse_args(argv)
    write_table(args.models, args.page)


if __name__ == "__main__":
    main()
