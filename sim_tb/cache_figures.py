"""What the cache costs and what sharing one reading of the weights gains: runs of `bench`, and their section of the page."""

from pathlib import Path

from .tables import table

__all__ = ["CACHE_RUNS", "cache_section"]

_TEXT = Path(__file__).resolve().parents[1] / "tests" / "expected" / "program_tiny.txt"
_LARGE, _SMALL = "bitnet-2b4t", "bitnet-0.73b"
_AT_MOST, _TIMES, _GAIN, _FIRST_TOKEN_S = 1.05, 3.5, 1.8, 1.0

# Of `bench`, with its default head; the longest first.
CACHE_RUNS = [
    {"shape": _SMALL, "layers": 2, "context": 0, "prompt_tokens": 768},
    {"shape": _LARGE, "layers": 4, "context": 0, "speculate": 4, "text": _TEXT.read_text() if _TEXT.exists() else ""},
    {"shape": _LARGE, "layers": 4, "context": 2048},
    {"shape": _LARGE, "layers": 4, "context": 2048, "window": 512, "sinks": 4},
    {"shape": _LARGE, "layers": 4, "context": 1024, "kv": "k8v4"},
    {"shape": _LARGE, "layers": 4, "context": 1024, "kv": "int4"},
    {"shape": _LARGE, "layers": 4, "context": 0, "sequences": 4},
    {"shape": _SMALL, "layers": 4, "context": 0, "sequences": 4},
]


def cache_section(runs, cache_runs):
    """Text from results of ``performance.RUNS`` and of ``CACHE_RUNS``."""
    every = [*runs, *cache_runs]
    parts = [_attention(every), _together(every), _drafts(every), _prompt(every)]
    return "\n\n".join(part for part in parts if part) or "No such run is among these."


def _plain(runs, shape, context=0):
    """The run of a shape with nothing special, or None."""
    return next((run for run in runs if run["shape"] == shape and run["context"] == context and run["extrapolated"]
                 and run["head"] == "shortlist" and run["sequences"] == 1 and not run["speculation"] and not run["window"]
                 and run["kv"] == "int8" and run["prompt_tokens"] < 768), None)


def _verdict(met):
    return "met" if met else "**missed**"


def _attention(runs):
    rows = []
    for run in runs:
        base = _plain(runs, run["shape"])
        if base is None or not run["context"] or run["sequences"] > 1 or run["speculation"]:
            continue
        cycles, moved = (run[key] - base[key] for key in ("cycles_per_token", "bytes_per_token"))
        share = cycles / (moved / run["pure_read_bytes_per_cycle"])
        asked = run["kv"] == "int8" and not run["window"]
        window = f"{run['window']} and the first {run['sinks']}" if run["window"] else "all"
        rows.append([run["shape"], f"{run['context']:,}", run["kv"], window, f"{run['decode_tokens_per_s']:.2f}",
                     f"{moved / 1e6:.1f}", f"{cycles:,.0f}", f"{share:.3f}", _verdict(share <= _AT_MOST) if asked else ""])
    if not rows:
        return ""
    text = ("A token behind a past, less one at position 0: bytes of the cache, cycles, and cycles over those of a pure read of "
            f"the bytes, at most {_AT_MOST:g} where records are int8 and all of the past is seen. Below 1: reading the past covers "
            "waits that a token at position 0 has.")
    return text + "\n\n" + table(["shape", "positions", "cache", "seen", "tokens/s", "MB more", "cycles more", "over a pure read",
                                  f"at most {_AT_MOST:g}"], rows)


def _together(runs):
    rows = []
    for run in runs:
        alone = _plain(runs, run["shape"], run["context"])
        if run["sequences"] > 1 and alone is not None:
            times = run["decode_tokens_per_s"] / alone["decode_tokens_per_s"]
            rows.append([run["shape"], run["sequences"], f"{run['context']:,}", f"{run['decode_tokens_per_s']:.1f}",
                         f"{alone['decode_tokens_per_s']:.1f}", f"{times:.2f}", _verdict(times >= _TIMES)])
    if not rows:
        return ""
    return "Sequences that decode together:\n\n" + table(
        ["shape", "sequences", "positions of each", "tokens/s of all", "of one alone", "times", f"at least {_TIMES:g}"], rows)


def _drafts(runs):
    rows = []
    for run in (run for run in runs if run["speculation"]):
        drafted = run["speculation"]
        rows.append([run["shape"], drafted["most"], f"{drafted['text_tokens']:,}", f"{drafted['tokens_per_run']:.2f}",
                     f"{run['decode_tokens_per_s']:.1f}", f"{drafted['gain']:.2f}", _verdict(drafted["gain"] >= _GAIN)])
    if not rows:
        return ""
    return (f"Drafts by prompt lookup, verified along a text that repeats itself (`tests/expected/{_TEXT.name}`, a program "
            "listing; its words, numbers and marks stand for tokens, and the text for what the model would write):\n\n" + table(
                ["shape", "tokens of a draft, at most", "tokens of the text", "tokens a run", "tokens/s", "times plain decoding",
                 f"at least {_GAIN:g}"], rows))


def _prompt(runs):
    rows = [[run["shape"], run["prompt_tokens"], f"{run['prefill_tokens_per_s']:,.0f}", f"{run['time_to_first_token_s']:.3f}",
             _verdict(run["time_to_first_token_s"] < _FIRST_TOKEN_S)] for run in runs if run["prompt_tokens"] == 768]
    if not rows:
        return ""
    return "A long prompt:\n\n" + table(["shape", "tokens", "tokens/s", "first token, s", f"below {_FIRST_TOKEN_S:g} s"], rows)
