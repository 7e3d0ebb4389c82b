"""The picture of docs/attention.md: error over positions, and perplexity over formats. Same figures, same bytes."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["draw"]

_COLORS = ("#8a1c4a", "#4a6a8a", "#d98cab", "#9db7d0", "#555555")
_CASES = {"first 2**15 above, the others opposite": "first far above, others opposite",
          "first position has half": "first position has half",
          "random, spread 4": "random, spread 4",
          "random, spread 300": "random, spread 300",
          "falling by 1/8 a position": "falling scores"}
_HALF_STEP = 0.5 / 127      # of int8, in V
_LEAST = 0.01               # per cent; less is drawn as this


def _errors(ax, errors):
    for (case, label), color in zip(_CASES.items(), _COLORS):
        by_length = errors[case]
        ax.loglog(list(by_length), [most for most, _ in by_length.values()], "o-", color=color, label=label, markersize=4, base=2)
    ax.axhline(_HALF_STEP, color="#999999", linestyle="--", linewidth=1)
    ax.annotate("half a step of int8", (min(by_length), _HALF_STEP), xytext=(0, 3), textcoords="offset points", fontsize=8,
                color="#555555")
    ax.set(xlabel="positions", ylabel="largest error, in the largest value V", title="Integer attention against binary64")
    ax.set_xticks(list(by_length), [f"{n:,}" for n in by_length])
    ax.legend(fontsize=8)


def _formats(ax, names, found):
    rows = [[*golden[1:], *(row for row in rounded if row.name not in ("float", *(row.name for row in golden)))]
            for golden, rounded in found]
    labels, height = [row.name for row in rows[0]], 0.8 / len(names)
    for i, (name, each) in enumerate(zip(names, rows)):
        places = [at + (i - (len(names) - 1) / 2) * height for at in range(len(each))]
        ax.barh(places, [max(row.above, _LEAST) for row in each], height, color=_COLORS[i], label=name)
    ax.axvline(2, color="#999999", linestyle="--", linewidth=1)
    ax.set_yticks(range(len(labels)), labels, fontsize=8)
    ax.invert_yaxis()
    ax.set(xscale="log", xlim=(_LEAST, None), xlabel="perplexity above float attention, % (line: 2 %)",
           title="Codes of keys and values in the cache")
    ax.legend(fontsize=8)


def draw(errors, names, found, path):
    """Write the picture: ``errors`` of ``attention_error.worst``; for each subject its name and ``attention_study.formats``."""
    fig, axes = plt.subplots(1, 2, figsize=(12, 4.6), constrained_layout=True)
    _errors(axes[0], errors)
    _formats(axes[1], names, found)
    path.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.hashsalt": "celosia"}):
        fig.savefig(path, metadata={"Date": None})
    plt.close(fig)
