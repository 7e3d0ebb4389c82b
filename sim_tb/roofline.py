"""Roofline of a configuration: what memory and engine allow, where measured runs and published systems lie under it.

    operations      two for every weight that a token is multiplied with, head included, and for every product of its attention
    intensity       operations for every byte that moves between memory and fabric
    memory ceiling  intensity times the bytes a second of the ports, or of a pure read
    compute roof    two operations for every weight of a beat and token lane, every cycle
    share           tokens a second times bytes a token, over the nominal rate of the board's memory; the same rate for all
"""

import json
from pathlib import Path

from celosia.hw.configs import CONFIGS

from .published import SYSTEMS

__all__ = ["BOARD_BYTES_PER_S", "BOOT_BYTES_PER_S", "operations", "prefill_operations", "read_runs", "roofline", "table"]

_BOARD = "kv260"
BOARD_BYTES_PER_S = 19.2e9      # 64 bits of DDR4-2400: what the board's memory is sold as
BOOT_BYTES_PER_S = 17.07e9      # DDR4-2133: what its boot firmware sets, and the memory model has


def operations(model, context):
    """Operations of one token behind ``context`` positions."""
    return 2 * (_layer_weights(model) + model.vocab_size * model.hidden_size) + _attention(model, context)


def prefill_operations(model, n_tokens):
    """Operations of a prompt from position 0, with one head."""
    attention = sum(_attention(model, position) for position in range(n_tokens))
    return 2 * (n_tokens * _layer_weights(model) + model.vocab_size * model.hidden_size) + attention


def _layer_weights(model):
    kv_size = model.n_kv_heads * model.head_dim
    return model.n_layers * model.hidden_size * (2 * model.attn_size + 2 * kv_size + 3 * model.ffn_size)


def _attention(model, context):
    """Scores and values of a token and all before it."""
    return 4 * model.n_layers * model.attn_size * (context + 1)


def read_runs(paths):
    """Results of runs in JSON files: what ``make bench`` leaves, or ``celosia bench --json`` prints. ValueError on others."""
    runs = []
    for path in paths:
        found = json.loads(Path(path).read_text())
        found = found.get("runs", [found]) if isinstance(found, dict) else found
        if not isinstance(found, list) or not all(isinstance(run, dict) and "decode_tokens_per_s" in run for run in found):
            raise ValueError(f"{path} must hold results of `celosia bench --json` or of `make bench`")
        runs += found
    return runs


def roofline(config_name, runs, shapes, *, systems=SYSTEMS):
    """Ceilings, points and shares as a dict that JSON can hold.

    Parameters
    ----------
    config_name : str
    runs : list of dict
        Results of ``bench``; those of other configurations and shapes are left out.
    shapes : dict of str to Shape
        The shapes that are shown, by name.
    systems : sequence of System
        Published systems to show beside them, on the configuration of their board.

    Raises ValueError on an unknown configuration.
    """
    if config_name not in CONFIGS:
        raise ValueError(f"Configuration must be one of {', '.join(CONFIGS)}, not {config_name!r}")
    config = CONFIGS[config_name]
    runs = [run for run in runs if run["config"] == config_name and run["shape"] in shapes]
    hz = config.clock_mhz * 1e6
    per_lane = 2 * config.engine_rows * config.columns * hz
    points, shares = [], []
    for run in runs:
        shape_points, share = _simulated(run, shapes[run["shape"]].model)
        points += shape_points
        shares.append(share)
    for system in systems if config_name == _BOARD else ():
        if system.weights and system.bytes_per_token:
            points.append(_point(_label(system), "published", 2 * system.weights / system.bytes_per_token,
                                 2 * system.weights * system.decode_tokens_per_s, system.source))
            shares.append(_share(_label(system), "published", system.decode_tokens_per_s, system.bytes_per_token, system.source))
    return {
        "config": config_name, "clock_mhz": config.clock_mhz,
        "ceilings": {
            "port_bytes_per_s": config.beat_bytes * hz,
            "pure_read_bytes_per_s": max((run["pure_read_bytes_per_s"] for run in runs), default=None),
            "boot_bytes_per_s": BOOT_BYTES_PER_S, "board_bytes_per_s": BOARD_BYTES_PER_S,
            "ops_per_s": per_lane * config.token_lanes, "token_lanes": config.token_lanes, "ops_per_s_one_lane": per_lane},
        "points": points, "shares": shares}


def _simulated(run, model):
    """(points, share) of a run."""
    source = "simulated" + (", extrapolated" if run["extrapolated"] else ", all layers")
    head = run["head"].split()[0]
    name = f"{run['shape']}, decode at {run['context']:,}, {head} head" + ("" if run["extrapolated"] else ", all layers")
    ops = operations(model, run["context"])
    points = [_point(name, "simulated", ops / run["bytes_per_token"], ops * run["decode_tokens_per_s"], source)]
    if run["prompt_tokens"] and run["prefill_bytes"]:
        ops = prefill_operations(model, run["prompt_tokens"])
        points.append(_point(f"{run['shape']}, prefill of {run['prompt_tokens']}", "simulated", ops / run["prefill_bytes"],
                             ops / run["time_to_first_token_s"], source))
    return points, _share(name, "simulated", run["decode_tokens_per_s"], run["bytes_per_token"], source)


def _label(system):
    return f"{system.name}: {system.model}, {f'decode at {system.position:,}' if system.position else 'short context'}"


def _point(name, kind, intensity, ops_per_s, source):
    return {"name": name, "kind": kind, "ops_per_byte": intensity, "ops_per_s": ops_per_s, "source": source}


def _share(name, kind, tokens_per_s, bytes_per_token, source):
    ceiling = BOARD_BYTES_PER_S / bytes_per_token
    return {"name": name, "kind": kind, "tokens_per_s": tokens_per_s, "ceiling_tokens_per_s": ceiling,
            "share": tokens_per_s / ceiling, "source": source}


def table(found):
    """A roofline as text."""
    ceilings = found["ceilings"]
    read = ceilings["pure_read_bytes_per_s"]
    width = max((len(row["name"]) for row in found["points"]), default=0)
    lines = [
        f"{found['config']} at {found['clock_mhz']:g} MHz: ports {ceilings['port_bytes_per_s'] / 1e9:.2f} GB/s"
        + (f", pure read of the memory model {read / 1e9:.2f} GB/s" if read else "")
        + f"; {ceilings['ops_per_s'] / 1e9:,.0f} Gop/s with {ceilings['token_lanes']} token lanes, "
        f"{ceilings['ops_per_s_one_lane'] / 1e9:,.0f} with one",
        f"{'':<{width}}{'op/byte':>9}{'Gop/s':>10}"]
    lines += [f"{point['name']:<{width}}{point['ops_per_byte']:>9.1f}{point['ops_per_s'] / 1e9:>10,.1f}  {point['source']}"
              for point in found["points"]]
    lines.append(f"{'':<{width}}{'tokens/s':>9}{'of':>10}  at {BOARD_BYTES_PER_S / 1e9:g} GB/s")
    lines += [f"{share['name']:<{width}}{share['tokens_per_s']:>9.2f}{share['ceiling_tokens_per_s']:>10.2f}  "
              f"{100 * share['share']:.0f} %" for share in found["shares"]]
    return "\n".join(lines)
