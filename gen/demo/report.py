"""What a finished training leaves: the checkpoint, its figures, and the pages that show them.

`python -m celosia.gen.demo.report --out models/demo --work build/demo` writes again, from the
checkpoints of `train`, everything in `--out` and the marked block of figures in `--page`.
The ternary figures are those of the written files, read by Hugging Face's `BitNetForCausalLM`
in float32; the float twin, which is not shipped, is measured by `DemoModel`.
"""

import argparse
import collections
import csv
import json
import pathlib
import re

import torch

from . import data
from .export import write_checkpoint
from .model import DemoConfig, DemoModel, quantise_weight
from .recipe import Recipe
from .scoring import bits_per_byte

__all__ = ["figures", "insert", "word_share", "write"]

PROMPTS = ("The people of the United States", "Our economy", "The Congress ")
N_SAMPLE_BYTES = 200
EXCERPT_BYTES = 20480
WORD_COUNT = 20  # times that a word of words.txt occurs in the training text, at least
BEGIN, END = "<!-- figures: written by celosia.gen.demo.report -->", "<!-- end of figures -->"


def _words(text):
    return re.findall(r"[a-z']+", text.lower())


def word_share(text, known):
    """Share of the words of `text`, without the first and last (often cut), that are known."""
    words = _words(text)[1:-1]
    return sum(word in known for word in words) / max(1, len(words))


def _excerpt(heldout):
    """The first whole sentences of the held-out text, about 20 KB."""
    return heldout[:EXCERPT_BYTES].rsplit(b". ", 1)[0] + b".\n"


def _sample(model, prompt, temperature, known):
    """`N_SAMPLE_BYTES` bytes after `prompt`; temperature 0 is greedy, otherwise seed 0."""
    torch.manual_seed(0)
    choice = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else \
             {"do_sample": False, "temperature": None}
    tokens = torch.tensor([list(prompt.encode())])
    out = model.generate(tokens, max_new_tokens=N_SAMPLE_BYTES, max_length=None, **choice)
    text = bytes(out[0].tolist()).decode("ascii", "replace")
    return {"prompt": prompt, "temperature": temperature, "text": text,
            "known_words": round(word_share(text, known), 3)}


def _run(weights, state, shipped, heldout, excerpt):
    """What a checkpoint of `train` says of its run, and its scores."""
    recipe = state["recipe"]
    if weights == "ternary":
        def logits(tokens):
            return shipped(tokens).logits
    else:
        twin = DemoModel(DemoConfig(), weights=weights)
        twin.load_state_dict(state["model"])

        def logits(tokens):
            return twin(tokens, exact=True)
    return {"steps": state["step"], "tokens": state["step"] * recipe["batch"] * recipe["context"],
            "finished": state["step"] == recipe["steps"], "recipe": recipe,
            "heldout_bits_per_byte": round(bits_per_byte(logits, heldout), 4),
            "excerpt_bits_per_byte": round(bits_per_byte(logits, excerpt), 4)}


def _same_bytes(states):
    """Both runs after equally many bytes, the most at which both still have the constant rate."""
    scores = {w: {row["step"]: row for row in state["curve"] if row["heldout_bits_per_byte"] != ""
                  and row["step"] <= Recipe(**state["recipe"]).descent_from}
              for w, state in states.items()}
    common = set.intersection(*(set(rows) for rows in scores.values()))
    if len(states) < 2 or not common:
        return None
    step = max(common)
    return {"tokens": scores["ternary"][step]["tokens"],
            **{w: rows[step]["heldout_bits_per_byte"] for w, rows in scores.items()}}


def write(out, work, page=None):
    """Write all of `out` (a folder) from the checkpoints in `work`, then the figures of `page`."""
    train_text, heldout = data.split(data.load_text(work))
    states = {w: torch.load(work / f"{w}.pt", weights_only=True)
              for w in ("ternary", "float") if (work / f"{w}.pt").exists()}
    if "ternary" not in states:
        raise FileNotFoundError(f"A report needs {work / 'ternary.pt'}; train the ternary model")
    from transformers import BitNetForCausalLM

    config, excerpt = DemoConfig(), _excerpt(heldout)
    model = DemoModel(config)
    model.load_state_dict(states["ternary"]["model"])
    write_checkpoint(model, out)
    (out / "heldout.txt").write_bytes(excerpt)
    counts = collections.Counter(_words(train_text.decode()))
    known = sorted(word for word, count in counts.items() if count >= WORD_COUNT)
    (out / "words.txt").write_text("\n".join(known) + "\n")

    with torch.compiler.set_stance("force_eager"):  # the reference compiles its small functions
        shipped = BitNetForCausalLM.from_pretrained(out).eval()
        runs = {weights: _run(weights, state, shipped, heldout, excerpt)
                for weights, state in states.items()}
        samples = [_sample(shipped, prompt, temperature, set(known))
                   for prompt in PROMPTS for temperature in (0.0, 0.8)]
    matrices = [p for n, p in model.named_parameters() if n.endswith("_proj.weight")]
    zeros = sum((quantise_weight(m)[0] == 0).sum().item() for m in matrices)
    n_ternary = sum(m.numel() for m in matrices)
    record = {
        "format": 1,
        "data": {"package": data.PACKAGE, "sha256": data.PACKAGE_SHA256, "licence": "CC0-1.0",
                 "train_bytes": len(train_text), "heldout_bytes": len(heldout),
                 "heldout_documents": data.N_HELDOUT},
        "shape": {**vars(config), "n_parameters": sum(p.numel() for p in model.parameters()),
                  "n_ternary_weights": n_ternary, "zero_share": round(zeros / n_ternary, 4)},
        "runs": runs, "after_the_same_bytes": _same_bytes(states), "samples": samples}
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    with open(out / "loss.csv", "w", newline="") as file:
        rows = [row for state in states.values() for row in state["curve"]]
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    for path in (out / "README.md", page):
        if path is not None and path.exists():
            path.write_text(insert(path.read_text(), figures(record)))
    return record


def figures(record):
    """The Markdown of a training.json: the commands, one table, and the samples."""
    d, shape, runs = record["data"], record["shape"], record["runs"]
    lines = ["```"]
    for weights, run in runs.items():
        lines.append(f"python -m celosia.gen.demo.train --out models/demo --weights {weights} "
                     f"--steps {run['recipe']['steps']} --descent {run['recipe']['descent']} "
                     f"--seed {run['recipe']['seed']}")
    lines += ["```", "", "| | " + " | ".join(runs) + " |", "|---|" + "---|" * len(runs)]
    rows = {"held-out bits/byte": "heldout_bits_per_byte",
            "bits/byte on heldout.txt": "excerpt_bits_per_byte",
            "steps": "steps", "bytes seen": "tokens"}
    for title, key in rows.items():
        lines.append(f"| {title} | " + " | ".join(f"{run[key]:,}" for run in runs.values()) + " |")
    passes = [f"{run['tokens'] / d['train_bytes']:.1f}" for run in runs.values()]
    lines.append("| passes over the text | " + " | ".join(passes) + " |")
    lines += ["", f"Training text {d['train_bytes']:,} bytes, held out {d['heldout_bytes']:,} bytes "
              f"(the last {d['heldout_documents']} addresses). {shape['n_parameters']:,} parameters, "
              f"{shape['n_ternary_weights']:,} of them ternary, "
              f"{100 * shape['zero_share']:.1f} % of these zero.", ""]
    pair = record["after_the_same_bytes"]
    if pair and len({run["tokens"] for run in runs.values()}) > 1:
        lines += ["The two runs saw different amounts of text, so their final figures are no fair "
                  f"pair. After the same {pair['tokens']:,} bytes, both at the constant rate, the "
                  "first 16 KB of the held-out text cost "
                  f"{pair['ternary']:.3f} bits/byte (ternary) and {pair['float']:.3f} (float).", ""]
    if not all(run["finished"] for run in runs.values()):
        lines += ["A run that these figures show is not finished yet.", ""]
    for s in record["samples"]:
        how = f"temperature {s['temperature']}, seed 0" if s["temperature"] else "greedy"
        lines += [f"{how}, {100 * s['known_words']:.0f} % known words:", "",
                  "> **" + s["prompt"].strip() + "** "
                  + " ".join(s["text"][len(s["prompt"]):].split()), ""]
    return "\n".join(lines).rstrip() + "\n"


def insert(page, block):
    """`page` with the text between the two marks replaced by `block`."""
    head, mark, rest = page.partition(BEGIN)
    tail = rest.partition(END)[2]
    if not mark or END not in rest:
        raise ValueError(f"A page for figures must hold the marks {BEGIN!r} and {END!r}")
    return f"{head}{BEGIN}\n\n{block}\n{END}{tail}"


def main(argv=None):
    """Command line of the report."""
    p = argparse.ArgumentParser(prog="python -m celosia.gen.demo.report", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, required=True, help="folder of the checkpoint")
    p.add_argument("--work", type=pathlib.Path, default=pathlib.Path("build/demo"))
    p.add_argument("--page", type=pathlib.Path, default=pathlib.Path("docs/demo_model.md"))
    args = p.parse_args(argv)
    torch.set_num_threads(1)
    record = write(args.out, args.work, args.page)
    print(figures(record))


if __name__ == "__main__":
    main()
