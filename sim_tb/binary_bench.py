"""Cycle-accurate figures of a binary encoder's shape on the simulated machine; weights are made up, timing and bits are not.

    check     one layer of the shape, a run of all sequences, against the golden machine: every logit
    run       all sequences of a run at their full length, with as many layers as are asked for

With fewer layers than the shape has, the layers that are missing cost what the simulated ones cost on average: a run of L layers
less a run of one layer, over L - 1. Every counter is extrapolated in that way.

A multiply-add of one bit is two operations. Counted are the matrices of the layers and both products of attention, for the tokens
that there are; not the head, the norms or what a map computes for other sequences.
"""

import time
from dataclasses import replace

import numpy as np

from celosia.gen.binary.assemble import assemble
from celosia.gen.binary.integers import fold
from celosia.gen.binary.model import ImageInput
from celosia.gen.binary.synthetic import random_model
from celosia.gen.golden.binary.machine import Machine
from celosia.host.driver import Driver
from celosia.host.image import Image
from celosia.hw.binary.configs import BINARY_CONFIGS

from .device import open_device

__all__ = ["bench", "operations", "report"]

_PAGE_BYTES = 1 << 20       # more than what the buffers' alignment takes
_STALLS = {"wait_weights": "MATMUL_WAIT_WEIGHTS", "wait_rows": "MATMUL_WAIT_DRAIN"}


def operations(model, n_tokens):
    """Operations of one sequence of ``n_tokens`` tokens in the layers of a :class:`BinaryModelConfig`: two a multiply-add."""
    matrices = 4 * model.hidden_size**2 + 2 * model.hidden_size * model.ffn_size
    return 2 * model.n_layers * (n_tokens * matrices + 2 * n_tokens**2 * model.hidden_size)


def bench(config, shape, *, prompt_tokens=0, batch=1, layers=None, memory="kv260", check=True, progress=None):
    """Measure a :class:`celosia.gen.binary.shapes.BinaryShape` on the binary configuration of a name; a dict that JSON can hold.

    Parameters
    ----------
    prompt_tokens : int
        Tokens of every sequence; 0: as many as the shape takes. Of images: their patches, or 0.
    batch : int
        Sequences of a run.
    layers : int or None
        Layers simulated (at least 2), of all that the shape has.
    check : bool
        Compare one layer with the golden machine first; AssertionError when it differs.
    progress : function of a text, optional

    Raises ValueError on sizes that do not fit.
    """
    say = progress or (lambda text: None)
    accel, model = BINARY_CONFIGS[config], shape.model
    total = model.n_layers
    layers = total if layers is None else layers
    if layers != total and not 2 <= layers < total:
        raise ValueError(f"Layers must be 2 to {total}, not {layers}")
    is_image = isinstance(model.input, ImageInput)
    most = model.input.n_tokens if is_image else model.max_tokens
    n_tokens = prompt_tokens or most
    if is_image and n_tokens != most:
        raise ValueError(f"prompt-tokens must be {most}, the patches of an image of shape {shape.name}, not {n_tokens}")
    if not 1 <= n_tokens <= most or batch < 1:
        raise ValueError(f"prompt-tokens must be 1 to {most} and batch at least 1, not {n_tokens} and {batch}")
    model = replace(model, max_tokens=n_tokens)
    if check:
        say(f"one layer of {shape.name} against the golden machine")
        check_layer(config, model, batch=batch, memory=memory)
    say(f"{batch} sequences of {n_tokens} tokens, {layers} of {total} layers")
    many, simulated, wall_s = _measured(config, replace(model, n_layers=layers), batch, memory)
    if layers == total:
        counters = many
    else:
        say("one layer")
        one, more, more_s = _measured(config, replace(model, n_layers=1), batch, memory)
        simulated, wall_s = simulated + more, wall_s + more_s
        counters = {name: one[name] + (many[name] - one[name]) * (total - 1) / (layers - 1) for name in many}

    hz, cycles = accel.clock_mhz * 1e6, counters["CYCLES"] / batch
    n_operations = operations(model, n_tokens)
    moved = sum(value for name, value in counters.items() if name.endswith("_BEATS")) * accel.port_bytes / batch
    waits = {cause: counters[name] / batch for cause, name in _STALLS.items()}
    busy = counters["MATMUL_BUSY"] / batch
    return {
        "config": accel.name, "config_digest": accel.digest, "memory": memory, "clock_mhz": accel.clock_mhz,
        "shape": shape.name, "shape_source": shape.source, "weights": "made up", "attention": model.attention,
        "activation_bits": model.act_bits, "prompt_tokens": n_tokens, "batch": batch, "layers": total, "simulated_layers": layers,
        "extrapolated": layers != total, "checked": "one layer, bit for bit" if check else "no",
        "operations_per_inference": n_operations, "cycles_per_inference": cycles, "inferences_per_s": hz / cycles,
        "gops": n_operations * hz / cycles / 1e9, "peak_gops": 2 * accel.multiply_adds * hz / 1e9,
        "share_of_peak": n_operations / (2 * accel.multiply_adds * cycles), "bytes_per_inference": moved,
        "engine": {"busy": busy, **waits, "no_command": cycles - busy - sum(waits.values())},
        "simulated_cycles": simulated, "simulated_cycles_per_s": simulated / wall_s}


def report(result):
    """A result for people."""
    def row(name, value, unit=""):
        return f"{name:<28}{value:>16} {unit}".rstrip()

    extrapolated = ", extrapolated" if result["extrapolated"] else ""
    lines = [
        f"{result['shape']} on {result['config']} ({result['config_digest']}), memory {result['memory']}, "
        f"{result['clock_mhz']:g} MHz, attention {result['attention']}, activations of {result['activation_bits']} bit",
        f"{result['simulated_layers']} of {result['layers']} layers simulated{extrapolated}; "
        f"weights made up; checked: {result['checked']}",
        row("operations", f"{result['gops']:,.0f}", f"GOPS of one bit, of {result['peak_gops']:,.0f} at most"),
        row("inferences", f"{result['inferences_per_s']:,.1f}",
            f"a second, {result['prompt_tokens']} tokens each, {result['batch']} in a run"),
        row("an inference takes", f"{result['cycles_per_inference']:,.0f}", "cycles"),
        row("an inference moves", f"{result['bytes_per_inference']:,.0f}", "bytes")]
    lines += [row(f"engine: {cause.replace('_', ' ')}", f"{value:,.0f}", "cycles an inference")
              for cause, value in result["engine"].items()]
    return "\n".join(lines)


def check_layer(config, model, *, batch=1, memory="kv260"):
    """One layer of ``model``: logits of a run of ``batch`` sequences of different lengths must be those of the golden machine;
    AssertionError where they are not."""
    accel, made = BINARY_CONFIGS[config], _made(config, replace(model, n_layers=1), batch)
    output = made.header["output"]["offset"]
    lengths = [max(1, model.max_tokens - 3 * i) for i in range(batch)]
    with _Machine(config, made, memory) as machine:
        machine.write_inputs()
        before = machine.cache.copy()
        machine.run(lengths)
        found = machine.cache[output:].copy()
    golden = Machine(np.frombuffer(made.payload, np.uint8), before, accel)
    program = made.header["programs"]["batch"]
    golden.run((program["offset"], program["count"]), lengths)
    assert (golden.cache[output:] == found).all(), "logits differ from the golden machine's"


def _made(config, model, batch):
    return assemble(fold(random_model(model)), BINARY_CONFIGS[config], sequences=batch)


def _measured(config, model, batch, memory):
    """({counter: value} of a run, cycles simulated, seconds that took)."""
    made = _made(config, model, batch)
    with _Machine(config, made, memory) as machine:
        machine.write_inputs()
        began = time.monotonic()
        machine.run([model.max_tokens] * batch)
        return dict(machine.stats.counters), machine.device.cycles, time.monotonic() - began


class _Machine(Driver):
    """The simulated binary machine with an assembled model in it."""

    def __init__(self, config, made, memory):
        size = len(made.payload) + made.header["cache_bytes"] + _PAGE_BYTES
        super().__init__(open_device(config, memory=memory, memory_bytes=size))
        self._open_windows(Image(made.header, np.frombuffer(made.payload, np.uint8), ""))

    @property
    def cache(self):
        """The cache window, uint8."""
        address, buffer = self._cache
        return self._device.peek(address, len(buffer))

    def write_inputs(self):
        """Rows or patches made up: any bytes will do."""
        place, end = self.image.header["input"], self.image.header["output"]["offset"]
        rng = np.random.default_rng(1)
        if place["kind"] == "text":
            rows = rng.integers(-2048, 2048, (end - place["offset"]) // 2, dtype=np.int16)
            self.cache[place["offset"]:end] = rows.view(np.uint8)
        else:
            self.cache[place["offset"]:end] = rng.integers(0, 256, end - place["offset"], dtype=np.uint8)

    def run(self, lengths):
        """One run on sequences of so many tokens."""
        self._set_up_program("batch")
        self._write("N_TOKENS", len(lengths))
        for slot, length in enumerate(lengths):
            self._write(f"LANE{slot}", slot << 16 | length)
        self._start("batch")
