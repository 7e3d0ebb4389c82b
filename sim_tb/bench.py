"""Cycle-accurate figures of a model shape on the simulated accelerator; weights are made up, timing and bits are not.

    check     one layer of the shape, a chunk and a token, against the golden machine: cache bytes and candidates
    read      a program that only reads, from end to end of a piece of the model window: what the memory can give
    decode    K tokens behind N positions of random records
    prefill   P tokens from position 0, in chunks of all token lanes; the last chunk computes the candidates

With fewer layers than the shape has, the layers that are missing cost what the simulated ones cost on average: a run of
L layers less a run of one layer, both without head, over L - 1. Every counter is extrapolated in that way.
"""

import sys
import time
from dataclasses import replace

import numpy as np

from celosia.gen.golden.machine import Machine, lanes_of
from celosia.gen.synthetic import EMBEDDING_ROWS, fill_cache, synthetic
from celosia.host.accelerator import Accelerator
from celosia.host.image import Image
from celosia.hw.configs import CONFIGS

from .device import open_device
from .trace import events, timeline

__all__ = ["bench", "check_layer", "layer_timeline", "report", "say_to_stderr"]

_PAGE_BYTES = 1 << 20       # more than what the buffers' alignment takes
_CHECK_VOCAB, _CHECK_PAST = 1000, 24
_STALLS = {     # unit: {cause: counter}
    "matmul": {"wait_weights": "MATMUL_WAIT_WEIGHTS", "wait_tables": "MATMUL_WAIT_TABLES", "wait_drain": "MATMUL_WAIT_DRAIN"},
    "vector": {"wait_stream_or_sink": "VECTOR_WAIT"},
    "port0": {"queue_full": "PORT0_FULL", "nothing_to_read": "PORT0_IDLE"},
}


def bench(config, shape, *, context=0, tokens=1, prompt_tokens=0, layers=None, head="shortlist", memory="kv260", check=True,
          progress=None):
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
    progress : function of a text, optional

    Raises ValueError on sizes that do not fit.
    """
    say = progress or (lambda text: None)
    accel, model = _config(config), shape.model
    layers = model.n_layers if layers is None else layers
    if layers != model.n_layers and not 2 <= layers < model.n_layers:
        raise ValueError(f"Layers must be 2 to {model.n_layers}, not {layers}")
    if tokens < 1 or context < 0 or prompt_tokens < 0:
        raise ValueError("Tokens must be at least 1, context and prompt-tokens at least 0, "
                         f"not {tokens}, {context}, {prompt_tokens}")
    positions = max(context + tokens, prompt_tokens)
    if positions > min(model.max_positions, accel.max_positions):
        raise ValueError(f"Context and tokens must fit {min(model.max_positions, accel.max_positions)} positions, not {positions}")
    if check:
        say(f"one layer of {shape.name} against the golden machine")
        check_layer(config, model, head=head)

    made = synthetic(replace(model, n_layers=layers), accel, positions, name=shape.name, head=head)
    with _Runs(config, made, memory) as runs:
        fill_cache(runs.cache, made.placement.layout, context)
        say("pure reading")
        read = runs.run("read", 1, 0)
        pure = _bytes(read, accel) / read["CYCLES"]
        total = model.n_layers
        decoded, parts = [], []
        for i in range(tokens):
            say(f"decoding at position {context + i}, {layers} of {total} layers")
            counters, token_parts = runs.extrapolated("decode", 1, context + i, layers, total)
            decoded.append(counters)
            parts.append(token_parts)
        prefilled = []
        for first in range(0, prompt_tokens, accel.token_lanes):
            n = min(accel.token_lanes, prompt_tokens - first)
            last = first + n == prompt_tokens
            say(f"prefill of positions {first} to {first + n - 1}, {layers} of {total} layers")
            prefilled.append(runs.extrapolated("decode" if last else "prefill", n, first, layers, total)[0])
        simulated, wall_s = runs.device.cycles, runs.wall_s

    hz, mean = accel.clock_mhz * 1e6, _mean(decoded)
    cycles, moved = mean["CYCLES"], _bytes(mean, accel)
    prefill_s = sum(run["CYCLES"] for run in prefilled) / hz
    return {
        "config": accel.name, "config_digest": accel.digest, "memory": memory, "clock_mhz": accel.clock_mhz,
        "shape": shape.name, "shape_source": shape.source, "weights": "made up", "embedding_rows": EMBEDDING_ROWS,
        "head": "ternary (no rescoring)" if head == "ternary" else head,
        "context": context, "tokens": tokens, "prompt_tokens": prompt_tokens,
        "layers": total, "simulated_layers": layers, "extrapolated": layers != total,
        "checked": "one layer, bit for bit" if check else "no",
        "decode_tokens_per_s": hz / cycles,
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
        fill_cache(runs.cache, made.placement.layout, context)
        runs.device.trace(True)
        runs.run("prefill", accel.token_lanes, context)
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
        row("decode", f"{result['decode_tokens_per_s']:.2f}", f"tokens/s behind {result['context']} positions")]
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


def check_layer(config, model, *, head="shortlist"):
    """One layer of ``model`` with a short head: a chunk of all token lanes behind a few positions, then one token. Cache
    bytes and candidates must be those of the golden machine; AssertionError, which names what differs."""
    accel = _config(config)
    small = replace(model, n_layers=1, vocab_size=min(model.vocab_size, _CHECK_VOCAB))
    made = synthetic(small, accel, _CHECK_PAST + accel.token_lanes + 1, head=head)
    machine = Machine(made.payload, np.zeros(made.header["cache_bytes"], np.uint8), accel, made.header)
    machine.pages.give(0, range(made.header["cache"]["pages"]))
    fill_cache(machine.cache, made.placement.layout, _CHECK_PAST)
    with _Runs(config, made, "kv260") as runs:
        runs.cache[:] = machine.cache
        for n, first in ((accel.token_lanes, _CHECK_PAST), (1, _CHECK_PAST + accel.token_lanes)):
            ids = _ids(n, first)
            golden = machine.run("decode", ids, lanes_of(first, n))
            runs.run("decode", n, first)
            where = f"{n} tokens at {first}"
            assert np.isfinite([logit for _, logit in golden]).all(), f"logits of {where} must be finite"
            assert (runs.cache == machine.cache).all(), f"cache of {where} differs from the golden machine's"
            assert runs.candidates() == [(token, int(np.float32(logit).view(np.uint32))) for token, logit in golden], \
                f"candidates of {where} differ from the golden machine's"


class _Runs:
    """Runs of the programs of a :class:`Synthetic` on a simulated device, each with its counters."""

    def __init__(self, config, made, memory):
        size = len(made.payload) + made.header["cache_bytes"] + _PAGE_BYTES
        self.device = open_device(config, memory=memory, memory_bytes=size)
        self._accel = Accelerator(self.device)
        self._accel.load(Image(made.header, made.payload, ""))
        self._accel.sequence(written=made.header["context"])      # its pages: 0, 1, 2, ...
        at = self.device.manifest["registers"]["CACHE_BASE"]
        base = self.device.read32(at) | self.device.read32(at + 4) << 32
        self.cache = self.device.peek(base, made.header["cache_bytes"])
        self.wall_s = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.cache = None
        self.device.close()

    def run(self, program, n_tokens, first_position):
        """{counter: value} of one run on tokens made up."""
        before, began = dict(self._accel.stats.counters), time.monotonic()
        places = [(0, first_position + t) for t in range(n_tokens)]
        self._accel.launch(program, _ids(n_tokens, first_position), places)
        self.wall_s += time.monotonic() - began
        return {name: value - before.get(name, 0) for name, value in self._accel.stats.counters.items()}

    def extrapolated(self, program, n_tokens, first_position, layers, total):
        """As ``run``, with what ``total - layers`` more layers would add to every counter; and the parts of that sum,
        {part: counters}, or None when all layers were simulated."""
        counters = self.run(program, n_tokens, first_position)
        if layers == total:
            return counters, None
        many = counters if program == "prefill" else self.run("prefill", n_tokens, first_position)
        one = self.run("first_layer", n_tokens, first_position)
        layer = {name: (many[name] - one[name]) / (layers - 1) for name in counters}
        parts = {"rest": {name: one[name] - layer[name] for name in counters},
                 "layers": {name: total * layer[name] for name in counters},
                 "head": {name: counters[name] - many[name] for name in counters}}
        return {name: sum(part[name] for part in parts.values()) for name in counters}, parts

    def candidates(self):
        """[(token, bits of the logit)] of the last run, best first."""
        found = self._accel.candidates()
        return list(zip(found.tokens.tolist(), found.logits.view(np.uint32).tolist()))


def _config(name):
    if name not in CONFIGS:
        raise ValueError(f"Configuration must be one of {', '.join(CONFIGS)}, not {name!r}")
    return CONFIGS[name]


def _ids(n_tokens, first_position):
    return [(7 * (first_position + t) + 3) % EMBEDDING_ROWS for t in range(n_tokens)]


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
