"""What configuration ``kv260`` is to reach, and whether measured runs reach it."""

from dataclasses import dataclass

from .published import SYSTEMS

__all__ = ["TARGETS", "Target", "verdicts"]

_UNITS = {"decode_tokens_per_s": "decode, tokens/s", "prefill_tokens_per_s": "prefill, tokens/s",
          "time_to_first_token_s": "time to first token, s", "bandwidth_share": "share of pure reading"}


@dataclass(frozen=True)
class Target:
    """One figure (a key of what ``bench`` returns) of one shape.

    Parameters
    ----------
    shape, figure : str
    context, prompt_tokens : int
        Of the run that shows it: positions before the token, tokens of the prompt (0: any).
    at_least : float or None
        The figure is not to be below this; None: it is only shown.
    why : str
        Where the number comes from.
    """

    shape: str
    figure: str
    context: int
    prompt_tokens: int
    at_least: float | None
    why: str


_SHARE, _FIRST = "of what a pure sequential read reaches", "sixteen tokens share one reading of the weights"


def _targets(shape, short, long, share, prefill):
    why = "the fastest published on the board is {:g}, by {}"

    def published(positions):
        found = max((system for system in SYSTEMS if system.shape == shape and system.position in positions),
                    key=lambda system: system.decode_tokens_per_s)
        return why.format(found.decode_tokens_per_s, found.name)

    return [
        Target(shape, "decode_tokens_per_s", 0, 0, short, published((0, 250))),
        Target(shape, "decode_tokens_per_s", 1024, 0, long, published((1000, 1024))),
        Target(shape, "bandwidth_share", 0, 0, share, _SHARE),
        Target(shape, "bandwidth_share", 1024, 0, share, _SHARE),
        Target(shape, "prefill_tokens_per_s", 0, 128, prefill, _FIRST)]


TARGETS = [*_targets("bitnet-2b4t", 30.0, 27.0, 0.92, 450.0), *_targets("bitnet-0.73b", 95.0, 60.0, 0.90, 1200.0)]


def verdicts(runs, targets=None):
    """Rows of a table, one a target: what, behind how many positions, head, at least, found, how it was found, verdict, why.

    The run of a target is the first one of its shape, context and prompt in ``runs``; without one the verdict is ``no run``.
    """
    rows = []
    for target in TARGETS if targets is None else targets:
        run = next((run for run in runs if run["shape"] == target.shape and run["context"] == target.context
                    and target.prompt_tokens in (0, run["prompt_tokens"])), None)
        found = None if run is None else run[target.figure]
        behind = f"prompt of {target.prompt_tokens}" if target.prompt_tokens else f"{target.context:,}"
        rows.append((target.shape, _UNITS[target.figure], behind, "" if run is None else run["head"],
                     "" if target.at_least is None else f"{target.at_least:,g}", "" if found is None else f"{found:,.4g}",
                     "" if run is None else "extrapolated" if run["extrapolated"] else "all layers",
                     _verdict(target.at_least, found), target.why))
    return rows


def _verdict(at_least, found):
    if found is None:
        return "no run"
    if at_least is None:
        return "shown"
    return "met" if found >= at_least else "**missed**"
