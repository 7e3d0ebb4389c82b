"""Measured figures on the simulated accelerator: writes docs/performance.md and its pictures.

    python -m celosia.sim_tb.performance [--full]

Runs of shapes are kept in the cache folder by the digest of all that they depend on; ``--full`` adds the run of a token at
full depth, which takes some minutes more, and a page written later shows it as long as nothing it depends on changes.
"""

import hashlib
import json
import sys
from pathlib import Path

import matplotlib

from celosia.gen import pack, place, program, scratch, synthetic, verilog
from celosia.gen.cache import cache_folder
from celosia.gen.commands import packer
from celosia.gen.shapes import SHAPES
from celosia.host.accelerator import Accelerator
from celosia.host.image import Image
from celosia.host.tokens import tokenizer_of
from celosia.hw.configs import CONFIGS

from . import bench as benches
from .memory import PRESETS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["RUNS", "main", "measure"]

_PROMPT = "The people of the United States "
_TOKENS = 224
_DOCS = Path(__file__).resolve().parents[1] / "docs"
_CAUSES = [  # of the cycles of a decoded token, in the order of the picture
    ("a weight beat enters the engine", "MATMUL_BUSY"),
    ("the engine waits for memory", "MATMUL_WAIT_WEIGHTS"),
    ("a beat waits for look-up tables", "MATMUL_WAIT_TABLES"),
    ("a beat waits for results to leave", "MATMUL_WAIT_DRAIN"),
]
_COLORS = ["#8a1c4a", "#d98cab", "#4a6a8a", "#9db7d0", "#d9d9d9"]

RUNS = [    # of `bench`, on kv260
    {"shape": "bitnet-0.73b", "context": 0, "prompt_tokens": 128, "layers": 2, "head": "ternary"},
    {"shape": "bitnet-0.73b", "context": 1024, "layers": 4, "head": "ternary"},
    {"shape": "bitnet-2b4t", "context": 0, "prompt_tokens": 128, "layers": 2, "head": "ternary"},
]
FULL = {"shape": "bitnet-2b4t", "context": 0, "head": "ternary"}


def measure(config="tiny", prompt=_PROMPT, n_tokens=_TOKENS):
    """Counters of every decoded token of the demo: a list of dicts with ``position`` and the hardware counters; and the
    prefill's stats."""
    image = Image.open(packer("demo", config))
    steps = []
    with Accelerator.open("sim", config=config) as accel:
        accel.load(image)
        candidates = accel.prefill(tokenizer_of(image.header).encode(prompt))
        prefill = {"tokens": accel.stats.prompt_tokens, "cycles": accel.stats.prefill_cycles}
        for _ in range(n_tokens):
            before = dict(accel.stats.counters)
            position = accel.position
            candidates = accel.decode(int(candidates.tokens[0]))
            steps.append({"position": position} | {name: value - before[name] for name, value in accel.stats.counters.items()})
    return steps, prefill


def main(full=False):
    """Measure and write."""
    steps, prefill = measure()
    _picture(steps, _DOCS / "img" / "cycles.png")
    runs = [_kept("kv260", run) for run in RUNS]
    if full or _place("kv260", FULL).exists():
        runs.append(_kept("kv260", FULL))
    _stall_picture(runs, _DOCS / "img" / "stalls.png")
    text = "\n".join([
        "# Performance", "",
        "Written by `make bench`; simulated, never run on hardware.", "",
        *_shapes(runs), *_demo(steps, prefill)])
    (_DOCS / "performance.md").write_text(text)
    print(text)


def _place(config, run):
    """File of a run: named by the digest of all that its figures depend on."""
    sources = [Path(module.__file__) for module in (benches, pack, place, program, scratch, synthetic)]
    sources += sorted(Path(__file__).parent.glob("*.[ch]pp"))
    parts = [_verilog(config), repr(PRESETS["kv260"]), repr(SHAPES[run["shape"]]), json.dumps(run, sort_keys=True),
             *(path.read_text() for path in sources)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return cache_folder("bench") / f"{run['shape']}_{digest}.json"


_texts = {}


def _verilog(config):
    if config not in _texts:
        _texts[config] = verilog.accelerator(CONFIGS[config])
    return _texts[config]


def _kept(config, run):
    path = _place(config, run)
    if not path.exists():
        result = benches.bench(config, SHAPES[run["shape"]], progress=benches.say_to_stderr,
                               **{key: value for key, value in run.items() if key != "shape"})
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2))
    return json.loads(path.read_text())


def _shapes(runs):
    """Section: figures of model shapes."""
    first = runs[0]
    lines = [
        "## Shapes of published models", "",
        f"Configuration `{first['config']}` ({first['config_digest']}) at {first['clock_mhz']:g} MHz, memory model "
        f"`{first['memory']}`, weights made up, one layer of each shape compared bit for bit with the golden machine. "
        "Head `ternary (no rescoring)` is one digit plane: what a shortlist costs without its rescoring; `exact` is five. "
        f"Pure reading in the same run: {first['pure_read_bytes_per_s'] / 1e9:.2f} GB/s. *Share* is bytes a second that a whole "
        "token moves over that. Where fewer layers were simulated than the model has, the rest is extrapolated, counter by "
        "counter, from the difference of two runs.", "",
        "| shape | head | position | layers simulated | decode, tokens/s | share | MB a token | prefill, tokens/s | TTFT, s |",
        "|---|---|---|---|---|---|---|---|---|"]
    for run in runs:
        prefill = "| |"
        if run["prompt_tokens"]:
            prefill = f"| {run['prefill_tokens_per_s']:,.0f} ({run['prompt_tokens']} tokens) | {run['time_to_first_token_s']:.3f}"
        layers = f"{run['simulated_layers']} of {run['layers']}" + (", extrapolated" if run["extrapolated"] else "")
        lines.append(f"| {run['shape']} | {run['head']} | {run['context']} | {layers} | {run['decode_tokens_per_s']:.2f} | "
                     f"{run['bandwidth_share']:.4f} | {run['bytes_per_token'] / 1e6:.1f} {prefill} |")
    return [*lines, "", *(f"`{shape.name}`: {shape.source}." for shape in SHAPES.values() if shape.name != "tiny"), "",
            "![Where the engine's cycles go](img/stalls.png)", ""]


def _demo(steps, prefill):
    """Section: figures of the demo model."""
    config = CONFIGS["tiny"]
    clock_hz = config.clock_mhz * 1e6

    def row(step):
        beats = step["PORT0_BEATS"]
        return (f"| {step['position']} | {step['CYCLES']:,} | {clock_hz / step['CYCLES']:,.0f} | {beats * config.port_bytes:,} | "
                f"{beats / step['CYCLES']:.3f} | {step['MATMUL_BUSY'] / step['CYCLES']:.3f} |")

    return [
        "## The demo model", "",
        f"Configuration `{config.name}` ({config.digest}), memory model `kv260`, at {config.clock_mhz:g} MHz.", "",
        "| position | cycles | tokens a second | bytes read | share of cycles with a beat on the port | with a weight beat |",
        "|---|---|---|---|---|---|", *(row(step) for step in (steps[0], steps[len(steps) // 2], steps[-1])), "",
        f"Prefill: {prefill['tokens']} prompt tokens, {config.token_lanes} at a time: {prefill['cycles']:,} cycles, "
        f"{prefill['cycles'] / prefill['tokens']:,.0f} a token, {clock_hz * prefill['tokens'] / prefill['cycles']:,.0f} tokens a "
        "second.", "",
        "![Cycles of a decoded token by cause](img/cycles.png)", "",
        "What is no wait of the engine is time in which it had no product to compute: it waited for activations, "
        "that is for norms, attention or quantisation.", ""]


def _save(fig, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(fig)


def _picture(steps, path):
    positions = [step["position"] for step in steps]
    layers = [[step[name] for step in steps] for _, name in _CAUSES]
    layers.append([step["CYCLES"] - sum(step[name] for _, name in _CAUSES) for step in steps])
    labels = [label for label, _ in _CAUSES] + ["the engine has no activations yet"]
    fig, ax = plt.subplots(figsize=(8, 4.2), constrained_layout=True)
    ax.stackplot(positions, layers, labels=labels, colors=_COLORS)
    ax.set(xlabel="position", ylabel="cycles a token", xlim=(positions[0], positions[-1]),
           title="Cycles of a decoded token by cause (tiny, simulated)")
    ax.legend(loc="lower left", fontsize=8)
    _save(fig, path)


def _stall_picture(runs, path):
    """Share of a decoded token's cycles in which the engine had no beat, by cause; a bar a run."""
    causes = {"wait_weights": _CAUSES[1][0], "wait_tables": _CAUSES[2][0], "wait_drain": _CAUSES[3][0],
              "no_command": "the engine has no activations yet"}
    names = [f"{run['shape']}\n{run['head'].split()[0]} head, position {run['context']}"
             + ("" if run["extrapolated"] else ", whole") for run in runs]
    fig, ax = plt.subplots(figsize=(8, 0.8 + 0.5 * len(runs)), constrained_layout=True)
    left = [0.0] * len(runs)
    for (cause, label), color in zip(causes.items(), _COLORS[1:]):
        share = [100 * run["stalls"]["matmul"][cause] / run["cycles_per_token"] for run in runs]
        ax.barh(names, share, left=left, label=label, color=color)
        left = [a + b for a, b in zip(left, share)]
    ax.invert_yaxis()
    ax.set(xlabel="% of the cycles of a decoded token", title="Where the engine waits (kv260, simulated)")
    ax.legend(fontsize=8)
    _save(fig, path)


if __name__ == "__main__":
    main(full="--full" in sys.argv[1:])
