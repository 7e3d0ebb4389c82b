"""What packing did with a checkpoint: one page of HTML, or the same as JSON (keys: docs/checkpoints.md).

    Assembled ── describe ──► dict ── write ──► FILE.json, or FILE.html by the template report.html

Nothing in it depends on the day, the machine or the folder: the same checkpoint and options give the same bytes.
"""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import jinja2

from celosia.hw.configs import CONFIGS

from . import fit, image
from .estimate import READ_SHARE, decode_beats, simulate_program, tokens_per_s
from .place import Layout
from .program import compile_programs, main_program
from .window import place

__all__ = ["ASSUMPTIONS", "describe", "kinds", "require_suffix", "write"]

PROMPT_TOKENS = 128
SUFFIXES = (".html", ".json")
ASSUMPTIONS = (
    "Predicted by a performance model of the compiled program (gen/estimate.py), not simulated and not measured on hardware.",
    f"Memory gives {READ_SHARE:g} of a beat of all ports a cycle, as a pure read does in the simulated memory of the KV260.",
    "Units keep the rates of their benches and wait for one another as the descriptors say; the engine takes a beat a cycle.",
    "The clock is the one that the configuration states; no bitstream has met it.",
    "Against the simulated figures of docs/performance.md decoding is predicted within 1 %, a prompt within 4 %.",
)


def require_suffix(path):
    """ValueError, one sentence, unless ``path`` is a report that :func:`write` knows, in a folder that exists."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"Report must end in {' or '.join(SUFFIXES)}, not {path.name!r}")
    if not path.parent.is_dir():
        raise ValueError(f"Report must lie in a folder that exists, not {path.parent}")


def kinds(assembled):
    """[{"kind", "bytes", "weights", "bits_per_weight"}]: segments by kind; weights without padding, None where it has none."""
    weights, sizes = {}, {}
    for tensor in assembled.tensors:
        kind = tensor.name.rpartition(".")[2]
        kind = "qkv" if kind in ("q", "k", "v") else kind
        if tensor.planes:
            weights[kind] = weights.get(kind, 0) + tensor.rows * tensor.columns
    for segment in assembled.header["segments"]:
        name = segment["name"]
        kind = re.sub(r"^layer\d+\.|\d+(?=$|\.scales)", "", name)
        kind = "row scales" if name.endswith(".scales") else "norms" if kind.endswith("norm") else kind
        sizes[kind] = sizes.get(kind, 0) + segment["bytes"]
    return [{"kind": kind, "bytes": size, "weights": weights.get(kind),
             "bits_per_weight": 8 * size / weights[kind] if kind in weights else None} for kind, size in sizes.items()]


def describe(assembled, checkpoint_path, tokenizer, file_bytes):
    """The report as a dict that JSON can hold.

    Parameters
    ----------
    assembled : celosia.gen.assemble.Assembled
    checkpoint_path : path
        Of what was read; only its last part is told.
    tokenizer : celosia.gen.tokenizer.Tokenizer
    file_bytes : int
        Of the image.
    """
    header, placement = assembled.header, assembled.placement
    layout, model = placement.layout, placement.layout.model
    parameters = sum(t.rows * t.columns for t in assembled.tensors if t.name not in ("coarse", *(["head"] if model.tied else [])))
    return {
        "image": {"name": header["name"], "bytes": file_bytes, "payload_bytes": header["payload_bytes"],
                  "config": header["config"], "config_digest": header["config_digest"], "context": header["context"],
                  "head": header["head"], "parameters": parameters, "bits_per_parameter": 8 * file_bytes / parameters},
        "read": {"source": Path(checkpoint_path).resolve().name, "format": _format(Path(checkpoint_path)),
                 "architecture": model.to_json(),
                 "tokenizer": {"kind": tokenizer.kind, "bytes": len(tokenizer.data),
                               "chat_template": bool(tokenizer.chat_template)}},
        "tensors": [asdict(tensor) for tensor in assembled.tensors],
        "kinds": kinds(assembled),
        "memory": {"segments": [{key: segment[key] for key in ("name", "offset", "bytes")} for segment in header["segments"]],
                   "programs": {name: listed | {"name": name} for name, listed in header["programs"].items()},
                   "cache_bytes": header["cache_bytes"],
                   "cache_bytes_per_position": model.n_layers * model.n_kv_heads * layout.record_bytes},
        "performance": _performance(assembled.programs, layout) | {"assumptions": list(ASSUMPTIONS)},
        "configurations": [_fits(placement, config, layout) for config in CONFIGS.values()],
    }


def _format(path):
    return {".gguf": "GGUF", ".bin": "llama2.c"}.get(path.suffix if path.is_file() else "", "folder of Hugging Face")


def _performance(programs, layout):
    """Predicted speed of the programs on the layout's configuration."""
    accel, context, main = layout.accel, layout.context, main_program(programs)
    n_prompt = min(PROMPT_TOKENS, context)
    cycles = 0
    for first in range(0, n_prompt, accel.token_lanes):
        n = min(accel.token_lanes, n_prompt - first)
        cycles += simulate_program(main if first + n == n_prompt else programs["prefill"], layout, n, first).cycles
    seconds = cycles / (accel.clock_mhz * 1e6)
    decode = [{"position": position, "tokens_per_s": tokens_per_s(programs, layout, position),
               "bytes_per_token": simulate_program(main, layout, 1, position).moved_bytes}
              for position in sorted({0, context // 2, context - 1})]
    return {"clock_mhz": accel.clock_mhz, "beat_bytes": accel.beat_bytes,
            "decode_beats": decode_beats(main, layout), "decode": decode,
            "prefill": {"tokens": n_prompt, "tokens_per_s": n_prompt / seconds, "time_to_first_token_s": seconds}}


def _fits(placement, config, packed):
    """Whether and how the model would run on ``config``, with the planes that it was given; for the configuration that it was
    packed for, in its context."""
    matrices, plan = placement.matrices, placement.plan
    context = packed.context if config == packed.accel else fit.default_context(packed.model, config)
    found = {"config": config.name, "config_digest": config.digest, "context": context}
    try:
        plan = fit.head_plan(packed.model, config, plan.kind, min(plan.candidates, config.top_k), plan.planes)
        layout = Layout(packed.model, config, context, kv=packed.kv)
        pages = packed.pages * packed.accel.page_positions // config.page_positions
        layout = replace(layout, pages=max(layout.pages, min(pages, config.max_pages)))
        planes = {name: matrix.planes for name, matrix in matrices.items()}
        placed, size, cache_bytes = place(layout, {name: matrix.scale for name, matrix in matrices.items()}, planes, plan=plan)
        programs = compile_programs(placed)
        fit.require(layout, programs, planes)
    except ValueError as error:
        return found | {"fits": False, "why_not": str(error), "memory_bytes": None, "performance": None}
    size += sum(len(program.encode()) for program in programs.values())
    return found | {"fits": True, "why_not": None, "memory_bytes": size + cache_bytes,
                    "performance": _performance(programs, layout)}


def write(path, found):
    """Write a report by its suffix, whole or not at all; ValueError on an unknown suffix."""
    require_suffix(path)
    text = json.dumps(found, indent=1) + "\n" if Path(path).suffix == ".json" else _page(found)
    image.write(path, text.encode())


def _page(found):
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined,
                                     autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"commas": "{:,}".format, "fixed": lambda value, digits: f"{value:,.{digits}f}",
                            "percent": lambda value: f"{100 * value:.2f} %", "size": _size}
    return environment.get_template("report.html").render(found, areas=_areas(found["memory"]), errors=_errors(found["tensors"]))


def _size(n_bytes):
    """Bytes as people read them: three digits and a binary unit."""
    for unit in ("bytes", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.3g} {unit}" if unit != "bytes" else f"{n_bytes} bytes"
        n_bytes /= 1024
    return f"{n_bytes:.3g} GiB"


def _areas(memory):
    """[{"name", "bytes", "share", "start", "tone"}]: what lies in memory one after the other, the cache as the last."""
    areas = []
    for segment in memory["segments"]:
        kind = segment["name"].split(".")[0]
        name = {"rope": "positions", "final_norm": "final norm", "program": "programs", "coarse": "head"}.get(kind, kind)
        if not areas or areas[-1]["name"] != name:
            areas.append({"name": name, "bytes": 0})
        areas[-1]["bytes"] += segment["bytes"]
    areas.append({"name": "KV cache", "bytes": memory["cache_bytes"]})
    total, start, layers = sum(area["bytes"] for area in areas), 0, 0
    for area in areas:
        is_layer = re.fullmatch(r"layer\d+", area["name"]) is not None
        layers += is_layer
        area["tone"] = (f"layer{layers % 2}" if is_layer else area["name"].replace(" ", "-"))
        area |= {"start": 1000 * start / total, "share": area["bytes"] / total}
        start += area["bytes"]
    return areas


def _errors(tensors):
    """[{"kind", "planes", "largest", "mean", "sources", "count"}] of the tensors, by kind."""
    groups = {}
    for tensor in tensors:
        groups.setdefault(tensor["name"].rpartition(".")[2], []).append(tensor)
    return [{"kind": kind, "count": len(group), "planes": sorted({t["planes"] for t in group}),
             "largest": max(t["relative_error"] for t in group), "mean": sum(t["relative_error"] for t in group) / len(group),
             "sources": sorted({t["source"] for t in group})} for kind, group in groups.items()]
