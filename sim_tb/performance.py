"""Measured figures of the demo on the simulated accelerator: writes docs/performance.md and its picture.

    python -m celosia.sim_tb.performance
"""

from pathlib import Path

import matplotlib

from celosia.gen.commands import packer
from celosia.host.accelerator import Accelerator
from celosia.host.image import Image
from celosia.host.tokens import tokenizer_of
from celosia.hw.configs import CONFIGS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["main", "measure"]

_PROMPT = "The people of the United States "
_TOKENS = 224
_DOCS = Path(__file__).resolve().parents[1] / "docs"
_CAUSES = [  # of the cycles of a decoded token, in the order of the picture
    ("a weight beat enters the engine", "MATMUL_BUSY"),
    ("the engine waits for memory", "MATMUL_WAIT_WEIGHTS"),
    ("a beat waits for look-up tables", "MATMUL_WAIT_TABLES"),
    ("a beat waits for results to leave", "MATMUL_WAIT_DRAIN"),
]


def measure(config="tiny", prompt=_PROMPT, n_tokens=_TOKENS):
    """Counters of every decoded token: a list of dicts with ``position`` and the hardware counters; and the prefill's stats."""
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


def main():
    """Measure and write."""
    config = CONFIGS["tiny"]
    steps, prefill = measure()
    _picture(steps, _DOCS / "img" / "cycles.png")
    first, last = steps[0], steps[-1]
    clock_hz = config.clock_mhz * 1e6

    def row(step):
        beats = step["PORT0_BEATS"]
        return (f"| {step['position']} | {step['CYCLES']:,} | {clock_hz / step['CYCLES']:,.0f} | {beats * config.port_bytes:,} | "
                f"{beats / step['CYCLES']:.3f} | {step['MATMUL_BUSY'] / step['CYCLES']:.3f} |")

    text = "\n".join([
        "# Performance", "",
        "Written by `make bench`; simulated, never run on hardware. Memory model `kv260`, "
        f"configuration `{config.name}` ({config.digest}), the demo model, at {config.clock_mhz:g} MHz.", "",
        "## Decoding, one token", "",
        "| position | cycles | tokens a second | bytes read | share of cycles with a beat on the port | with a weight beat |",
        "|---|---|---|---|---|---|", *(row(step) for step in (first, steps[len(steps) // 2], last)), "",
        "## Prefill", "",
        f"{prefill['tokens']} prompt tokens, {config.token_lanes} at a time: {prefill['cycles']:,} cycles, "
        f"{prefill['cycles'] / prefill['tokens']:,.0f} a token, {clock_hz * prefill['tokens'] / prefill['cycles']:,.0f} tokens a "
        "second.", "",
        "## Where the cycles of a token go", "",
        "![Cycles of a decoded token by cause](img/cycles.png)", "",
        "What is no wait of the engine is time in which it had no product to compute: it waited for activations, "
        "that is for norms, attention or quantisation.", ""])
    (_DOCS / "performance.md").write_text(text)
    print(text)


def _picture(steps, path):
    positions = [step["position"] for step in steps]
    layers = [[step[name] for step in steps] for _, name in _CAUSES]
    layers.append([step["CYCLES"] - sum(step[name] for _, name in _CAUSES) for step in steps])
    labels = [label for label, _ in _CAUSES] + ["the engine has no activations yet"]
    fig, ax = plt.subplots(figsize=(8, 4.2), constrained_layout=True)
    ax.stackplot(positions, layers, labels=labels, colors=["#8a1c4a", "#d98cab", "#4a6a8a", "#9db7d0", "#d9d9d9"])
    ax.set(xlabel="position", ylabel="cycles a token", xlim=(positions[0], positions[-1]),
           title="Cycles of a decoded token by cause (tiny, simulated)")
    ax.legend(loc="lower left", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(fig)


if __name__ == "__main__":
    main()
