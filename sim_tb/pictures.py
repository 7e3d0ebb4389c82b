"""The pictures of docs/performance.md, one function each: figures in, a file out (PNG or SVG, by its name).

Same figures, same bytes: no dates, no version of the library, and identifiers in SVG that do not change.
"""

import itertools
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["CAUSES", "cycles", "parts", "roofline", "stalls", "time"]

CAUSES = [  # of the cycles of a decoded token, in the order of the picture
    ("a weight beat enters the engine", "MATMUL_BUSY"),
    ("the engine waits for memory", "MATMUL_WAIT_WEIGHTS"),
    ("a beat waits for look-up tables", "MATMUL_WAIT_TABLES"),
    ("a beat waits for results to leave", "MATMUL_WAIT_DRAIN"),
]
_NO_COMMAND = "the engine has no activations yet"
_COLORS = ["#8a1c4a", "#d98cab", "#4a6a8a", "#9db7d0", "#d9d9d9"]
_OURS, _OTHERS, _LINES = _COLORS[0], _COLORS[2], "#555555"
_MARKERS = "osD^vP*X<>hpd8H"
_PARTS = {"layers": _COLORS[0], "head, start and end": _COLORS[2]}


def _save(fig, path):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with plt.rc_context({"svg.hashsalt": "celosia"}):
        fig.savefig(path, dpi=120, metadata=metadata)
    plt.close(fig)


def _name(run):
    """A run in two lines."""
    return (f"{run['shape']}\n{run['head'].split()[0]} head, position {run['context']}"
            + ("" if run["extrapolated"] else ", all layers"))


def cycles(steps, path):
    """Cycles of a decoded token by cause, over its position; ``steps``: counters of tokens."""
    positions = [step["position"] for step in steps]
    layers = [[step[name] for step in steps] for _, name in CAUSES]
    layers.append([step["CYCLES"] - sum(step[name] for _, name in CAUSES) for step in steps])
    fig, ax = plt.subplots(figsize=(8, 4.2), constrained_layout=True)
    ax.stackplot(positions, layers, labels=[*(label for label, _ in CAUSES), _NO_COMMAND], colors=_COLORS)
    ax.set(xlabel="position", ylabel="cycles a token", xlim=(positions[0], positions[-1]),
           title="Cycles of a decoded token by cause (tiny, simulated)")
    ax.legend(loc="lower left", fontsize=8)
    _save(fig, path)


def stalls(runs, path):
    """Share of a decoded token's cycles in which the engine had no beat, by cause; a bar a run."""
    causes = {"wait_weights": CAUSES[1][0], "wait_tables": CAUSES[2][0], "wait_drain": CAUSES[3][0], "no_command": _NO_COMMAND}
    fig, ax = plt.subplots(figsize=(8, 1.4 + 0.5 * len(runs)), constrained_layout=True)
    left = [0.0] * len(runs)
    for (cause, label), color in zip(causes.items(), _COLORS[1:]):
        share = [100 * run["stalls"]["matmul"][cause] / run["cycles_per_token"] for run in runs]
        ax.barh([_name(run) for run in runs], share, left=left, label=label, color=color)
        left = [a + b for a, b in zip(left, share)]
    ax.invert_yaxis()
    ax.tick_params(axis="y", labelsize=8)
    ax.set(xlabel="% of the cycles of a decoded token", title=f"Where the engine waits ({runs[0]['config']}, simulated)")
    fig.legend(loc="outside lower center", ncols=2, fontsize=8)
    _save(fig, path)


def parts(run):
    """{part: (cycles, bytes)} of a token of a run: its layers; and all else, the head above all."""
    found = run["parts"]
    return {"layers": (found["layers"]["cycles"], found["layers"]["bytes"]),
            "head, start and end": tuple(found["rest"][key] + found["head"][key] for key in ("cycles", "bytes"))}


def time(runs, path):
    """Time of a decoded token by its parts, in their order; pale is time in which the ports carried nothing. ``runs``: those
    with ``parts``."""
    fig, ax = plt.subplots(figsize=(8, 1.4 + 0.5 * len(runs)), constrained_layout=True)
    for row, run in enumerate(runs):
        left, per_ms = 0.0, run["clock_mhz"] * 1e3
        carried = run["pure_read_bytes_per_cycle"]
        for label, (cycles_, moved) in parts(run).items():
            color = _PARTS[label]
            full, whole = min(moved / carried, cycles_) / per_ms, cycles_ / per_ms
            ax.barh(row, whole, left=left, color=color, alpha=0.35)
            ax.barh(row, full, left=left, color=color, label=label if row == 0 else None)
            left += whole
    ax.set_yticks(range(len(runs)), [_name(run) for run in runs], fontsize=8)
    ax.invert_yaxis()
    ax.set(xlabel="ms of a decoded token; pale: beyond what a pure read of its bytes takes",
           title=f"Where a token's time goes ({runs[0]['config']}, simulated)")
    fig.legend(loc="outside lower center", ncols=3, fontsize=8)
    _save(fig, path)


def roofline(found, path):
    """The roofline of :func:`celosia.sim_tb.roofline.roofline`, and below it the share of the memory that every system uses."""
    bars = 1.3 + 0.27 * len(found["shares"])
    fig = plt.figure(figsize=(12.5, 6.2 + bars), layout="constrained")
    top, bottom = fig.subfigures(2, height_ratios=[6.2, bars])
    _roofs(top.subplots(), found)
    _shares(bottom.subplots(), found)
    fig.suptitle(f"{found['config']} at {found['clock_mhz']:g} MHz: simulated, never run on hardware. "
                 "Published systems: measured on hardware by their authors.", fontsize=11)
    _save(fig, path)


def _roofs(ax, found):
    ceilings, points = found["ceilings"], found["points"]
    intensities = [point["ops_per_byte"] for point in points] or [10.0]
    low, high = min(*intensities, 4.0) / 2, max(*intensities, ceilings["ops_per_s"] / ceilings["port_bytes_per_s"]) * 2.5
    ports, roof, one = (ceilings[key] for key in ("port_bytes_per_s", "ops_per_s", "ops_per_s_one_lane"))
    read = ceilings["pure_read_bytes_per_s"]
    handles = [_slope(ax, ceilings["board_bytes_per_s"], roof, low, high, ":", "board's memory at DDR4-2400, nominal"),
               _slope(ax, ports, roof, low, high, "--", "peak of the ports")]
    if read:
        handles.append(_slope(ax, read, roof, low, high, "-", "pure read, memory model"))
    ax.hlines(roof, roof / ports, high, color=_LINES)
    ax.hlines(one, one / ports, high, color=_LINES, linestyle="--", linewidth=1)
    ax.annotate(f"{ceilings['token_lanes']} token lanes: {roof / 1e9:,.0f} Gop/s", (high, roof), (-4, 4), fontsize=9,
                textcoords="offset points", ha="right")
    ax.annotate(f"one token lane, as in decoding: {one / 1e9:,.0f} Gop/s", (high, one), (-4, 4), fontsize=9,
                textcoords="offset points", ha="right")
    points = _styled(points)
    handles += [_mark(ax, *point) for point in points]
    decoding = [point for point in points if point[1] <= one]
    if decoding:
        _zoom(ax.inset_axes([0.42, 0.07, 0.56, 0.38]), decoding, ceilings)
    ax.set(xscale="log", yscale="log", xlim=(low, high), xlabel="operations a byte of memory traffic", ylabel="operations/s",
           title="Roofline")
    ax.set_ylim(min([y for _, y, *_ in points] or [one]) / 8, roof * 2)
    ax.grid(alpha=0.3, which="both", linewidth=0.5)
    ax.legend(handles=handles, fontsize=7.5, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _styled(points):
    """[(operations a byte, operations a second, marker, style)] of points; filled is simulated."""
    styled = []
    for kind, color in (("simulated", _OURS), ("published", _OTHERS)):
        for marker, point in zip(itertools.cycle(_MARKERS), (point for point in points if point["kind"] == kind)):
            label = f"{point['name']}\n    {point['source']}" if kind == "published" else f"{point['name']} ({point['source']})"
            styled.append((point["ops_per_byte"], point["ops_per_s"], marker, {
                "color": color, "markerfacecolor": color if kind == "simulated" else "none", "label": label}))
    return styled


def _mark(ax, x, y, marker, style):
    handle, = ax.plot(x, y, marker, markersize=8, alpha=0.85, markeredgewidth=1.6, **style)
    return handle


def _zoom(ax, points, ceilings):
    """The same, of tokens that are decoded, in Gop/s and on even scales."""
    ports, one = ceilings["port_bytes_per_s"], ceilings["ops_per_s_one_lane"]
    low, high = 0.8 * min(x for x, *_ in points), 1.15 * max(x for x, *_ in points)
    corner = min(max(one / ports, low), high)
    ax.plot([low, corner], [low * ports / 1e9, corner * ports / 1e9], "--", color=_LINES, linewidth=1)
    ax.plot([corner, high], [one / 1e9, one / 1e9], "--", color=_LINES, linewidth=1)
    for x, y, marker, style in points:
        _mark(ax, x, y / 1e9, marker, style)
    ax.set(xlim=(low, high), ylim=(0, 1.1 * one / 1e9), ylabel="Gop/s")
    ax.set_title("tokens that are decoded, even scales", fontsize=8, pad=3)
    ax.tick_params(labelsize=7)
    ax.yaxis.label.set_size(8)
    ax.grid(alpha=0.3, linewidth=0.5)


def _slope(ax, bytes_per_s, roof, low, high, style, text):
    """A memory ceiling up to the compute roof."""
    end = min(roof / bytes_per_s, high)
    line, = ax.plot([low, end], [low * bytes_per_s, end * bytes_per_s], style, color=_LINES,
                    label=f"{text}: {bytes_per_s / 1e9:.2f} GB/s")
    return line


def _shares(ax, found):
    shares, ceilings = found["shares"], found["ceilings"]
    for row, share in enumerate(shares):
        ax.barh(row, 100 * share["share"], color=_OURS if share["kind"] == "simulated" else _OTHERS)
        ax.text(101, row, f"{share['tokens_per_s']:.1f} of {share['ceiling_tokens_per_s']:.1f} tokens/s, "
                f"{100 * share['share']:.0f} %", va="center", fontsize=8)
    board = ceilings["board_bytes_per_s"]
    for value, side, text in ((ceilings["port_bytes_per_s"], "right", "peak of the ports"),
                              (ceilings["boot_bytes_per_s"], "left", "DDR4-2133")):
        ax.axvline(100 * value / board, color=_LINES, linestyle="--", linewidth=1)
        ax.annotate(f" {text}, {value / 1e9:.2f} GB/s ", (100 * value / board, 1), (0, 3), xycoords=("data", "axes fraction"),
                    textcoords="offset points", ha=side, fontsize=7.5)
    ax.set_yticks(range(len(shares)), [f"{share['name']} ({'simulated' if share['kind'] == 'simulated' else 'hardware'})"
                                       for share in shares], fontsize=8)
    ax.invert_yaxis()
    ax.set(xlim=(0, 100), xlabel=f"tokens/s times bytes a token, % of {board / 1e9:g} GB/s")
    ax.set_title("Tokens a second against the memory's ceiling for the same model and packing", pad=16)
