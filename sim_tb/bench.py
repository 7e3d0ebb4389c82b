"""Cycle-accurate figures of a model shape on the simulated accelerator; weights are made up, timing and bits are not.

    check     one layer of the shape, a chunk and a token, against the golden machine: cache bytes and candidates
    read      a program that only reads, from end to end of a piece of the model window: what the memory can give
    decode    K tokens behind N positions of random records, for one sequence or for several at once
    verify    drafts of up to K tokens along a text, each with the token before it in one run (``speculation``)
    prefill   P tokens from position 0, in chunks of all token lanes; the last chunk computes the candidates

With fewer layers than the shape has, the layers that are missing cost what the simulated ones cost on average: a run of
L layers less a run of one layer, both without head, over L - 1. Every counter is extrapolated in that way.
"""

import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np

from celosia.gen.golden.machine import Machine
from celosia.gen.synthetic import EMBEDDING_ROWS, fill_cache, synthetic
from celosia.host.accelerator import Accelerator
from celosia.host.draft import PromptLookup
from celosia.host.image import Image
from celosia.hw.configs import CONFIGS

from .device import open_device
from .speculation import pieces, verifications
from .trace import events, timeline

__all__ = ["bench", "check_layer", "layer_timeline", "report", "say_to_stderr"]

_PAGE_BYTES = 1 << 20       # more than what the buffers' alignment takes
_CHECK_VOCAB = 1000
_STALLS = {     # unit: {cause: counter}
    "matmul": {"wait_weights": "MATMUL_WAIT_WEIGHTS", "wait_tables": "MATMUL_WAIT_TABLES", "wait_drain": "MATMUL_WAIT_DRAIN"},
    "vector": {"wait_stream_or_sink": "VECTOR_WAIT"},
    "port0": {"queue_full": "PORT0_FULL", "nothing_to_read": "PORT0_IDLE"},
}


def bench(config, shape, *, context=0, tokens=1, prompt_tokens=0, layers=None, head="shortlist", memory="kv260", check=True,
          sequences=1, speculate=0, text=None, kv="int8", window=0, sinks=0, progress=None):
    """Measure ``shape`` (:class:`celosia.gen.shapes.Shape`) on configuration ``config``; a dict that JSON can hold.

    Parameters
    ----------
    context : int
        Positions in the cache before the first decoded token.
    tokens, prompt_tokens : int
        Tokens decoded; tokens prefilled (0: none).
    layers : int or None
        Layers simulated (at least 2), of all that the shape has.
    head : str
        ``exact`` (rows of five digit planes), ``ternary`` (of one) or ``shortlist`` (the best by one, scored again by five).
    check : bool
        Compare one layer with the golden machine first; AssertionError when it differs.
    sequences : int
        Sequences that decode together, each behind ``context`` positions of its own.
    speculate, text : int, str
        Most tokens of a draft (0: none), and the text that is taken as what the model writes.
    kv, window, sinks : str, int, int
        Format of the cache; positions that a token sees (0: all) and first positions that all tokens see.
    progress : function of a text, optional

    Raises ValueError on sizes that do not fit.
    """
    say = progress or (lambda text: None)
    accel, model = _config(config), shape.model.with_window(window, sinks) if window else shape.model
    layers = model.n_layers if layers is None else layers
    if layers != model.n_layers and not 2 <= layers < model.n_layers:
        raise ValueError(f"Layers must be 2 to {model.n_layers}, not {layers}")
    if tokens < 1 or context < 0 or prompt_tokens < 0:
        raise ValueError("Tokens must be at least 1, context and prompt-tokens at least 0, "
                         f"not {tokens}, {context}, {prompt_tokens}")
    if not 1 <= sequences <= min(accel.token_lanes, accel.max_sequences):
        raise ValueError(f"Sequences must be 1 to {min(accel.token_lanes, accel.max_sequences)} with this configuration, "
                         f"not {sequences}")
    if not 0 <= speculate < accel.token_lanes:
        raise ValueError(f"Speculate must be 0 to {accel.token_lanes - 1}, a token lane less, not {speculate}")
    if sinks and not window:
        raise ValueError(f"Sinks must be given with a window, not {sinks} sinks alone")
    if bool(speculate) != (text is not None) or speculate and sequences > 1:
        raise ValueError("Speculation takes a text and one sequence: give --speculate K with --text FILE, without --sequences")
    positions = max(context + max(tokens, speculate + 1), prompt_tokens)
    if positions > min(model.max_positions, accel.max_positions):
        raise ValueError(f"Context and tokens must fit {min(model.max_positions, accel.max_positions)} positions, not {positions}")
    if check:
        say(f"one layer of {shape.name} against the golden machine")
        check_layer(config, model, head=head, kv=kv)

    made = synthetic(model.first_layers(layers), accel, positions, name=shape.name, head=head, kv=kv, sequences=sequences)
    with _Runs(config, made, memory, sequences=sequences) as runs:
        fill_cache(runs.cache, made.placement.layout, _positions(made))
        say("pure reading")
        read = runs.run("read", [(0, 0)])
        pure = _bytes(read, accel) / read["CYCLES"]
        total, program = model.n_layers, "decode" if sequences == 1 else "batch"
        decoded, parts = [], []
        for i in range(tokens):
            say(f"decoding at position {context + i}, {layers} of {total} layers")
            lanes = [(slot, context + i) for slot in range(sequences)]
            counters, token_parts = runs.extrapolated(program, lanes, layers, total)
            decoded.append(counters)
            parts.append(token_parts)
        drafted = None
        if speculate:
            drafted = _drafted(text, speculate, lambda n: decoded[0] if n == 1 else runs.extrapolated(
                "batch", _chunk(context, n), layers, total)[0], say)
        prefilled = []
        for first in range(0, prompt_tokens, accel.token_lanes):
            n = min(accel.token_lanes, prompt_tokens - first)
            last = first + n == prompt_tokens
            say(f"prefill of positions {first} to {first + n - 1}, {layers} of {total} layers")
            prefilled.append(runs.extrapolated("decode" if last else "prefill", _chunk(first, n), layers, total)[0])
        simulated, wall_s = runs.device.cycles, runs.wall_s

    hz, mean = accel.clock_mhz * 1e6, _mean(decoded)
    cycles, moved = mean["CYCLES"] / sequences, _bytes(mean, accel) / sequences
    prefill_s = sum(run["CYCLES"] for run in prefilled) / hz
    return {
        "config": accel.name, "config_digest": accel.digest, "memory": memory, "clock_mhz": accel.clock_mhz,
        "shape": shape.name, "shape_source": shape.source, "weights": "made up", "embedding_rows": EMBEDDING_ROWS,
        "head": "ternary (no rescoring)" if head == "ternary" else head,
        "context": context, "tokens": tokens, "prompt_tokens": prompt_tokens,
        "layers": total, "simulated_layers": layers, "extrapolated": layers != total,
        "checked": "one layer, bit for bit" if check else "no",
        "sequences": sequences, "kv": kv, "window": window, "sinks": sinks, "speculation": drafted,
        "decode_tokens_per_s": hz / cycles * (drafted["gain"] if drafted else 1),
        "prefill_tokens_per_s": prompt_tokens / prefill_s if prefilled else None,
        "time_to_first_token_s": prefill_s if prefilled else None,
        "cycles_per_token": cycles, "bytes_per_token": moved,
        "prefill_bytes": sum(_bytes(run, accel) for run in prefilled) if prefilled else None,
        "parts": None if layers == total else _parts(parts, accel),
        "bandwidth_share": moved / cycles / pure,
        "pure_read_bytes_per_cycle": pure, "pure_read_bytes_per_s": pure * hz,
        "stalls": _stalls(mean), "prefill_stalls": _stalls(_mean(prefilled)) if prefilled else None,
        "simulated_cycles": simulated, "simulated_cycles_per_s": simulated / wall_s}


def layer_timeline(config, shape, *, context=0, memory="kv260"):
    """Text: when every descriptor of a prefill of all token lanes behind ``context`` positions finished (``trace``). Two layers:
    the first one is whole."""
    accel = _config(config)
    made = synthetic(replace(shape.model, n_layers=2), accel, context + accel.token_lanes, name=shape.name, head="ternary")
    with _Runs(config, made, memory) as runs:
        fill_cache(runs.cache, made.placement.layout, _positions(made))
        runs.device.trace(True)
        runs.run("prefill", _chunk(context, accel.token_lanes))
        return timeline(events(made.programs["prefill"].steps, runs.device.finished))


def report(result):
    """A result for people."""
    def row(name, value, unit=""):
        return f"{name:<28}{value:>16} {unit}".rstrip()

    extrapolated = ", extrapolated" if result["extrapolated"] else ""
    lines = [
        f"{result['shape']} on {result['config']} ({result['config_digest']}), memory {result['memory']}, "
        f"{result['clock_mhz']:g} MHz, head {result['head']}",
        f"{result['simulated_layers']} of {result['layers']} layers simulated{extrapolated}; "
        f"weights made up; checked: {result['checked']}",
        row("decode", f"{result['decode_tokens_per_s']:.2f}", f"tokens/s behind {result['context']} positions"
            + (f", {result['sequences']} sequences together" if result["sequences"] > 1 else ""))]
    if result["speculation"]:
        lines.append(row("speculation", f"{result['speculation']['gain']:.2f}", "times plain decoding, along the text"))
    if result["prompt_tokens"]:
        lines += [row("prefill", f"{result['prefill_tokens_per_s']:.1f}", f"tokens/s, {result['prompt_tokens']} tokens"),
                  row("time to first token", f"{result['time_to_first_token_s']:.4f}", "s")]
    lines += [row("a token moves", f"{result['bytes_per_token']:,.0f}", "bytes"),
              row("a token takes", f"{result['cycles_per_token']:,.0f}", "cycles"),
              row("pure reading", f"{result['pure_read_bytes_per_s'] / 1e9:.3f}", "GB/s"),
              row("bandwidth share", f"{result['bandwidth_share']:.4f}")]
    for unit, causes in result["stalls"].items():
        lines += [row(f"{unit}: {cause.replace('_', ' ')}", f"{value:,.0f}", "cycles a token") for cause, value in causes.items()]
    return "\n".join(lines)


def check_layer(config, model, *, head="shortlist", kv="int8", past=24):
    """One layer of ``model`` with a short head: a chunk of all token lanes behind ``past`` positions, one token, then two sequences
    and a draft at once. Cache bytes and candidates must be those of the golden machine; AssertionError, which names what
    differs."""
    accel = _config(config)
    small = replace(model.first_layers(1), vocab_size=min(model.vocab_size, _CHECK_VOCAB))
    last = past + accel.token_lanes
    made = synthetic(small, accel, last + accel.token_lanes, head=head, kv=kv, sequences=2)
    machine = Machine(made.payload, np.zeros(made.header["cache_bytes"], np.uint8), accel, made.header)
    fill_cache(machine.cache, made.placement.layout, _positions(made))
    with _Runs(config, made, "kv260", sequences=2) as runs:
        for slot, pages in enumerate(runs.pages):
            machine.pages.give(slot, pages)
        runs.cache[:] = machine.cache
        mixed = [(1, past), *((0, last + 1 + i) for i in range(min(2, accel.token_lanes - 1)))]
        for program, lanes in (("decode", _chunk(past, accel.token_lanes)), ("decode", [(0, last)]), ("batch", mixed)):
            machine.run(program, _ids(lanes), lanes)
            runs.run(program, lanes)
            where = f"{len(lanes)} tokens at {lanes[0][1]}"
            assert (runs.cache == machine.cache).all(), f"cache of {where} differs from the golden machine's"
            for lane in range(len(lanes)) if program == "batch" else (len(lanes) - 1,):
                golden = machine.candidates(lane)
                assert np.isfinite([logit for _, logit in golden]).all(), f"logits of {where} must be finite"
                assert runs.candidates(lane) == [(token, int(np.float32(logit).view(np.uint32))) for token, logit in golden], \
                    f"candidates of {where}, lane {lane}, differ from the golden machine's"


def _positions(made):
    """Positions of all pages of a cache."""
    cache = made.header["cache"]
    return cache["pages"] * cache["page_positions"]


def _chunk(first_position, n):
    """Lanes (slot, position) of ``n`` tokens of the first sequence."""
    return [(0, first_position + t) for t in range(n)]


def _drafted(text, most, counters_of, say):
    """What speculation gains along ``text``: ``counters_of(n)`` measures a run of n lanes."""
    runs = verifications(pieces(text), PromptLookup(), most)
    cycles = {}
    for n in sorted({1, *(run.lanes for run in runs)}):
        say(f"verifying a draft of {n - 1}")
        cycles[n] = counters_of(n)["CYCLES"]
    tokens, spent = sum(run.tokens for run in runs), sum(cycles[run.lanes] for run in runs)
    return {"most": most, "draft": "prompt lookup", "text_tokens": tokens, "runs": len(runs),
            "tokens_per_run": tokens / len(runs), "runs_by_lanes": {str(n): count for n, count in sorted(
                Counter(run.lanes for run in runs).items())},
            "cycles_by_lanes": {str(n): value for n, value in cycles.items()}, "gain": tokens * cycles[1] / spent}


class _Runs:
    """Runs of the programs of a :class:`Synthetic` on a simulated device, each with its counters. There are ``sequences``, of slots
    0, 1, .., that hold all positions of the context, in the ``pages`` of each."""

    def __init__(self, config, made, memory, sequences=1):
        size = len(made.payload) + made.header["cache_bytes"] + _PAGE_BYTES
        self.device = open_device(config, memory=memory, memory_bytes=size)
        self._accel = Accelerator(self.device)
        self._accel.load(Image(made.header, made.payload, ""))
        at = self.device.manifest["registers"]["CACHE_BASE"]
        base = self.device.read32(at) | self.device.read32(at + 4) << 32
        self.cache = self.device.peek(base, made.header["cache_bytes"])
        self.wall_s = 0.0
        self._sequences = [self._accel.sequence(written=made.header["context"]) for _ in range(sequences)]
        self.pages = [self._accel.pages.table(sequence.slot) for sequence in self._sequences]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.cache = None
        self.device.close()

    def run(self, program, lanes):
        """{counter: value} of one run on tokens made up, for lanes (slot, position)."""
        before, began = dict(self._accel.stats.counters), time.monotonic()
        self._accel.launch(program, _ids(lanes), lanes)
        self.wall_s += time.monotonic() - began
        return {name: value - before.get(name, 0) for name, value in self._accel.stats.counters.items()}

    def extrapolated(self, program, lanes, layers, total):
        """As ``run``, with what ``total - layers`` more layers would add to every counter; and the parts of that sum,
        {part: counters}, or None when all layers were simulated."""
        counters = self.run(program, lanes)
        if layers == total:
            return counters, None
        many = counters if program == "prefill" else self.run("prefill", lanes)
        one = self.run("first_layer", lanes)
        layer = {name: (many[name] - one[name]) / (layers - 1) for name in counters}
        parts = {"rest": {name: one[name] - layer[name] for name in counters},
                 "layers": {name: total * layer[name] for name in counters},
                 "head": {name: counters[name] - many[name] for name in counters}}
        return {name: sum(part[name] for part in parts.values()) for name in counters}, parts

    def candidates(self, lane):
        """[(token, bits of the logit)] of a lane of the last run, best first."""
        found = self._accel.candidates(lane)
        return list(zip(found.tokens.tolist(), found.logits.view(np.uint32).tolist()))


def _config(name):
    if name not in CONFIGS:
        raise ValueError(f"Configuration must be one of {', '.join(CONFIGS)}, not {name!r}")
    return CONFIGS[name]


def _ids(lanes):
    return [(7 * (slot + position) + 3) % EMBEDDING_ROWS for slot, position in lanes]


def _bytes(counters, accel):
    """Bytes that a run moved over the ports: read, fetched, written."""
    beats = sum(value for name, value in counters.items() if name.endswith("_BEATS"))
    return beats * accel.port_bytes


def _parts(tokens, accel):
    """{part: cycles and bytes a token} of the parts of every token; ``rest`` is what is neither a layer nor the head: start,
    embedding row, end."""
    means = {part: _mean([token[part] for token in tokens]) for part in tokens[0]}
    return {part: {"cycles": mean["CYCLES"], "bytes": _bytes(mean, accel)} for part, mean in means.items()}


def _mean(runs):
    return {name: sum(run[name] for run in runs) / len(runs) for name in runs[0]}


def _stalls(counters):
    """{unit: {cause: cycles}}; what the engine did not wait for with a command at work, it had no command for."""
    stalls = {unit: {cause: counters[name] for cause, name in causes.items()} for unit, causes in _STALLS.items()}
    stalls["matmul"]["no_command"] = counters["CYCLES"] - counters["MATMUL_BUSY"] - sum(stalls["matmul"].values())
    stalls["vector"]["no_command"] = counters["CYCLES"] - counters["VECTOR_BUSY"]
    stalls["attend"] = {"no_command": counters["CYCLES"] - counters["ATTEND_BUSY"]}
    return stalls


def say_to_stderr(text):
    """Progress for the command line."""
    print(f"celosia: {text}", file=sys.stderr, flush=True)
