"""Measured figures on the simulated accelerator: writes the tables and pictures of docs/performance.md.

    python -m celosia.sim_tb.performance [--full] [--jobs N]     measure what has changed, write docs/performance.json, then
    python -m celosia.sim_tb.performance --only-write            the page and its pictures from docs/performance.json

Every run is kept in the cache folder by the digest of all that it depends on. ``--full`` adds the run of a token at full
depth, which takes some minutes more; a page written later shows it as long as nothing that it depends on changes.
"""

import hashlib
import json
from pathlib import Path

import click

from celosia.gen.commands import packer
from celosia.gen.marks import replaced
from celosia.gen.shapes import SHAPES
from celosia.host.accelerator import Accelerator
from celosia.host.image import Image
from celosia.host.tokens import tokenizer_of
from celosia.hw.configs import CONFIGS

from . import pictures
from .cache_figures import CACHE_RUNS, cache_section
from .published import SYSTEMS
from .roofline import BOARD_BYTES_PER_S, roofline
from .runs import kept, path_of, path_of_run, results
from .tables import table as _table
from .targets import verdicts

__all__ = ["CONFIG", "FULL", "RUNS", "main", "measure", "sections", "write"]

_PROMPT = "The people of the United States "
_TOKENS = 224
_DOCS = Path(__file__).resolve().parents[1] / "docs"
CONFIG = "kv260"

# Of `bench`, on CONFIG, with its default head where none is named; the longest first.
RUNS = [
    {"shape": shape, "layers": 4} | options
    for options in ({"context": 0, "prompt_tokens": 128}, {"context": 1024}, {"context": 0, "head": "exact"})
    for shape in ("bitnet-2b4t", "bitnet-0.73b")
]
FULL = {"shape": "bitnet-2b4t", "context": 0}


def measure(config, image, prompt=_PROMPT, n_tokens=_TOKENS):
    """Counters of every decoded token of an image's model, as a dict: ``steps``, each with ``position`` and the hardware's
    counters, and ``prefill``."""
    steps = []
    with Accelerator.open("sim", config=config) as accel:
        accel.load(image)
        candidates = accel.prefill(tokenizer_of(image).encode(prompt))
        prefill = {"tokens": accel.stats.prompt_tokens, "cycles": accel.stats.prefill_cycles}
        for _ in range(n_tokens):
            before = dict(accel.stats.counters)
            position = accel.position
            candidates = accel.decode(int(candidates.tokens[0]))
            steps.append({"position": position} | {name: value - before[name] for name, value in accel.stats.counters.items()})
    return {"config": config, "config_digest": CONFIGS[config].digest, "prefill": prefill, "steps": steps}


def _demo(config="tiny"):
    """What :func:`measure` finds for the demo model, kept by digest."""
    data = packer("demo", config)
    path = path_of(config, "demo", hashlib.sha256(data).hexdigest(), _PROMPT, str(_TOKENS))
    return kept(path, lambda: measure(config, Image.open(data)))


@click.command()
@click.option("--full", is_flag=True, help="Also run a token at full depth.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Simulations at a time.")
@click.option("--only-write", is_flag=True, help="Measure nothing: write the page from what was measured last.")
def main(full, jobs, only_write):
    """Measure and write docs/performance.md."""
    stored = _DOCS / "performance.json"
    if not only_write:
        demo = _demo()
        pictures.cycles(demo["steps"], _DOCS / "img" / "cycles.png")
        steps = demo["steps"]
        wanted = [*RUNS, FULL] if full or path_of_run(CONFIG, FULL).exists() else RUNS
        measured = {"runs": results(CONFIG, wanted, jobs), "cache": results(CONFIG, CACHE_RUNS, jobs),
                    "demo": demo | {"steps": [steps[0], steps[len(steps) // 2], steps[-1]]}}
        stored.write_text(json.dumps(measured, indent=1) + "\n")
    measured = json.loads(stored.read_text())
    write(measured, _DOCS / "performance.md")
    click.echo("\n\n".join(sections(measured).values()))


def write(measured, page):
    """Put the sections between their marks in ``page``, and its pictures beside it."""
    text = page.read_text()
    for name, section in sections(measured).items():
        text = replaced(text, page, f"<!-- Written by `make bench`: {name}. -->", f"<!-- End of {name}. -->", section)
    page.write_text(text)
    runs = measured["runs"]
    pictures.stalls(runs, page.parent / "img" / "stalls.png")
    if parts := [run for run in runs if run["parts"]]:
        pictures.time(parts, page.parent / "img" / "time.png")
    pictures.roofline(roofline(CONFIG, runs, SHAPES), page.parent / "img" / "roofline.png")


def sections(measured):
    """{name: text} of all that is written between the marks of the page, from what was measured."""
    runs = measured["runs"]
    return {"targets": _targets(runs), "runs": _runs(runs), "depth": _depth(runs), "stalls": _stalls(runs), "time": _time(runs),
            "comparison": _comparison(runs), "cache": cache_section(runs, measured["cache"]), "demo": _demo_table(measured["demo"])}


def _targets(runs):
    return _table(["shape", "figure", "behind positions", "head", "at least", "found", "how", "", "the number is"], verdicts(runs))


def _layers(run):
    return f"{run['simulated_layers']} of {run['layers']}" + (", extrapolated" if run["extrapolated"] else "")


def _runs(runs):
    first = runs[0]
    rows = []
    for run in runs:
        prefill = ["", ""]
        if run["prompt_tokens"]:
            prefill = [f"{run['prefill_tokens_per_s']:,.0f} ({run['prompt_tokens']} tokens)", f"{run['time_to_first_token_s']:.3f}"]
        rows.append([run["shape"], run["head"], f"{run['context']:,}", _layers(run), f"{run['decode_tokens_per_s']:.2f}",
                     f"{run['bandwidth_share']:.4f}", f"{run['bytes_per_token'] / 1e6:.1f}", *prefill, run["checked"]])
    shapes = {run["shape"]: run["shape_source"] for run in runs}
    return "\n\n".join([
        f"Configuration `{first['config']}` ({first['config_digest']}) at {first['clock_mhz']:g} MHz, memory model "
        f"`{first['memory']}`. A pure read in the same runs: {first['pure_read_bytes_per_s'] / 1e9:.2f} GB/s.",
        _table(["shape", "head", "position", "layers simulated", "decode, tokens/s", "share", "MB a token", "prefill, tokens/s",
                "TTFT, s", "compared with the golden machine"], rows),
        "\n".join(f"- `{name}`: {source}." for name, source in shapes.items())])


def _depth(runs):
    """Whole runs beside the extrapolated ones of the same shape, head and position."""
    key = ("shape", "head", "context")
    rows = []
    for whole in (run for run in runs if not run["extrapolated"]):
        for run in (run for run in runs if run["extrapolated"] and all(run[name] == whole[name] for name in key)):
            off = run["cycles_per_token"] / whole["cycles_per_token"] - 1
            rows.append([run["shape"], run["head"], f"{run['context']:,}", f"{whole['layers']}: {whole['cycles_per_token']:,.0f}",
                         f"{run['simulated_layers']}: {run['cycles_per_token']:,.0f}", f"{100 * off:+.3f} %"])
    if not rows:
        return "No token at full depth is among these runs; `--full` adds one."
    return _table(["shape", "head", "position", "all layers: cycles", "layers simulated: cycles, extrapolated", "difference"], rows)


def _stalls(runs):
    causes = {"wait_weights": "waits for memory", "wait_tables": "for tables", "wait_drain": "for results to leave",
              "no_command": "no activations yet"}
    rows = []
    for run in runs:
        engine, total = run["stalls"]["matmul"], run["cycles_per_token"]
        rows.append([run["shape"], run["head"], f"{run['context']:,}",
                     *(f"{100 * engine[cause] / total:.2f} %" for cause in causes)])
    return _table(["shape", "head", "position", *causes.values()], rows)


def _time(runs):
    rows = []
    for run in (run for run in runs if run["parts"]):
        for part, (cycles, moved) in pictures.parts(run).items():
            ms = cycles / run["clock_mhz"] / 1e3
            read_ms = moved / run["pure_read_bytes_per_s"] * 1e3
            name = f"{run['layers']} layers" if part == "layers" else part
            rows.append([run["shape"], run["head"], f"{run['context']:,}", name, f"{ms:.3f}", f"{moved / 1e6:.2f}",
                         f"{read_ms:.3f}", f"{ms - read_ms:.3f}"])
    if not rows:
        return "No run with this division is among those above."
    table = _table(["shape", "head", "position", "part", "ms", "MB", "ms of a pure read of them", "beyond, ms"], rows)
    return f"![Where a token's time goes](img/time.png)\n\n{table}"


def _comparison(runs):
    board = BOARD_BYTES_PER_S

    def rate(tokens_per_s, bytes_per_token):
        return f"{bytes_per_token / 1e6:.1f}", f"{100 * tokens_per_s * bytes_per_token / board:.0f} %"

    rows = []
    for system in SYSTEMS:
        moved = rate(system.decode_tokens_per_s, system.bytes_per_token) if system.bytes_per_token else ("", "")
        first = f"{system.first_token_s:.2f} ({system.prompt_tokens} tokens)" if system.first_token_s else ""
        rows.append([system.name, system.model, "hardware", f"{system.position:,}" if system.position else "short",
                     f"{system.decode_tokens_per_s:g}", *moved, first,
                     system.source + (f"; bytes: {system.bytes_from}" if system.bytes_from else "")])
    for run in runs:
        first = f"{run['time_to_first_token_s']:.2f} ({run['prompt_tokens']} tokens)" if run["prompt_tokens"] else ""
        rows.append([f"**Celosia**, {run['head']} head", run["shape"], "**simulated**", f"{run['context']:,}",
                     f"{run['decode_tokens_per_s']:.2f}", *rate(run["decode_tokens_per_s"], run["bytes_per_token"]), first,
                     f"this page; {_layers(run)} layers"])
    return _table(["system", "model", "on", "position", "decode, tokens/s", "MB a token", f"of {board / 1e9:g} GB/s",
                   "first token, s", "source"], rows)


def _demo_table(demo):
    config = CONFIGS[demo["config"]]
    clock_hz, prefill = config.clock_mhz * 1e6, demo["prefill"]
    rows = [[step["position"], f"{step['CYCLES']:,}", f"{clock_hz / step['CYCLES']:,.0f}",
             f"{step['PORT0_BEATS'] * config.port_bytes:,}", f"{step['PORT0_BEATS'] / step['CYCLES']:.3f}",
             f"{step['MATMUL_BUSY'] / step['CYCLES']:.3f}"] for step in demo["steps"]]
    return "\n\n".join([
        f"Configuration `{config.name}` ({demo['config_digest']}), memory model `kv260`, at {config.clock_mhz:g} MHz.",
        _table(["position", "cycles", "tokens a second", "bytes read", "share of cycles with a beat on the port",
                "with a weight beat"], rows),
        f"Prefill: {prefill['tokens']} prompt tokens, {config.token_lanes} at a time: {prefill['cycles']:,} cycles, "
        f"{prefill['cycles'] / prefill['tokens']:,.0f} a token, {clock_hz * prefill['tokens'] / prefill['cycles']:,.0f} tokens a "
        "second."])


if __name__ == "__main__":
    main()
