"""Commands for the command line: ``configs``, ``pack``, ``verilog``; and the packer that ``run --model`` uses."""

import hashlib
import json
import re
from pathlib import Path

import click
from tqdm import tqdm

from celosia.hw.binary.configs import BINARY_CONFIGS
from celosia.hw.configs import CONFIGS, config_of
from celosia.hw.formats import KV_FORMATS

from . import checkpoint, fit, image, report, tokenizer
from .assemble import assemble
from .binary import command as binary
from .binary.checkpoint import is_binary
from .estimate import decode_beats
from .manifest import build_manifest
from .model import HEADS, MAX_PLANES
from .program import main_program
from .quantise import AUTO_ERROR, quantise
from .verilog import accelerator

__all__ = ["commands", "configs", "pack", "packer", "verilog"]

_MODELS = Path(__file__).resolve().parents[1] / "models"
_SHORT = {"digits": "digits-w1a8", "docstrings": "docstrings-w1a8"}     # the most exact of several twins
_config_option = click.option("--config", "config_name", default="tiny", show_default=True,
                              help="Configuration of the accelerator.")


def _config(name):
    if name not in CONFIGS:
        raise ValueError(f"Configuration must be one of {', '.join(CONFIGS)}, not {name!r}")
    return CONFIGS[name]


def packer(model, config_name, context=None, **cache):
    """The bytes of an image of a shipped model (by name) or a checkpoint. ``cache``: sequences, kv, window, sinks,
    rebase of ``assemble``. ValueError, one sentence."""
    shipped = sorted(file.parent.name for file in _MODELS.glob("*/config.json"))
    name = _SHORT.get(str(model), str(model))
    path = _MODELS / name if name in shipped else Path(model)
    if not path.exists():
        shipped = ", ".join(shipped) or "(none)"
        raise ValueError(f"Model must be a checkpoint or one of {shipped}, not {model!r}")
    if is_binary(path):
        return binary.encoded(path, config_of(config_name), context=context, **cache)
    config, loaded = _config(config_name), checkpoint.load(path)
    assembled = assemble(quantise(loaded, fit.head_plan(loaded.config, config), "auto"), config, context, **cache)
    return image.encode(*_parts(assembled, tokenizer.find(path, loaded.config.vocab_size)))


def _parts(assembled, chosen):
    """(header, payload, tokenizer's file) of an image."""
    return assembled.header | {"tokenizer": chosen.header()}, assembled.spool, chosen.data


@click.command()
def configs():
    """List the configurations."""
    decoders = [("name", "digest", "ports", "token lanes", "vector lanes", "weights a beat", "columns", "positions", "MHz")]
    for config in CONFIGS.values():
        decoders.append((config.name, config.digest, f"{config.n_ports} x {8 * config.port_bytes} bit", config.token_lanes,
                         config.vector_lanes, 5 * config.beat_bytes, config.max_columns, config.max_positions,
                         f"{config.clock_mhz:g}"))
    binary = [("name", "digest", "ports", "token lanes", "rows x columns", "multiply-adds", "tokens", "sequences", "MHz")]
    for config in BINARY_CONFIGS.values():
        binary.append((config.name, config.digest, f"{config.n_ports} x {8 * config.port_bytes} bit", config.token_lanes,
                       f"{config.engine_rows} x {config.columns}", config.multiply_adds, config.max_tokens, config.max_sequences,
                       f"{config.clock_mhz:g}"))
    click.echo("\n\n".join(map(_columns, (decoders, binary))))


def _columns(rows):
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(f"{value!s:<{width}}" for value, width in zip(row, widths)).rstrip() for row in rows)


@click.command()
@click.argument("checkpoint_path", metavar="CHECKPOINT", type=click.Path())
@click.option("-o", "--output", required=True, metavar="IMAGE", type=click.Path(dir_okay=False), help="Image file to write.")
@_config_option
@click.option("--context", type=click.IntRange(min=1), help="Positions of the KV cache; default: what model and "
              "configuration allow.")
@click.option("--sequences", type=click.IntRange(min=1), default=1, show_default=True,
              help="Sequences of that many positions for which the cache has pages.")
@click.option("--kv", type=click.Choice(KV_FORMATS), default="int8", show_default=True,
              help="Format of keys and values in the cache.")
@click.option("--window", type=click.IntRange(0, 65535), help="Positions that a token sees, in every layer; 0: all. Default: the "
              "model's.")
@click.option("--sinks", type=click.IntRange(0, 65535), default=0, show_default=True,
              help="First positions that every token sees beside a window.")
@click.option("--rebase/--no-rebase", default=True, show_default=True, help="Sinks before the window lie next to it, as positions "
              "count within what is kept (StreamingLLM), or where they are.")
@click.option("--head", type=click.Choice(HEADS), help="exact: all logits from rows of int8; ternary: from few digit planes; "
              "shortlist: the best by those, scored again by rows of int8. "
              f"Default: shortlist from {fit.SHORTLIST_VOCAB} tokens on, else exact.")
@click.option("--candidates", type=int, help="Candidates of the shortlist; default: 16, or what the configuration keeps.")
@click.option("--planes", type=click.Choice(["auto", *map(str, range(1, MAX_PLANES + 1))]), default="auto", show_default=True,
              help="Balanced ternary digits of a weight of float matrices; auto: the fewest for each matrix that keep its "
              f"relative error within {100 * AUTO_ERROR:g} %. Ternary matrices stay ternary.")
@click.option("--shortlist-planes", default=1, show_default=True,
              help="Digit planes of the rows that make the shortlist (or the ternary head).")
@click.option("--tokenizer", "tokenizer_file", metavar="FILE", type=click.Path(), help="tokenizer.json, a sentencepiece .model or "
              "a .bin of llama2.c; default: what the checkpoint folder has.")
@click.option("--report", "report_file", metavar="FILE.html|.json", type=click.Path(dir_okay=False), help="Also write what was "
              "read, lost and laid out, what it fits and how fast it should be: a page, or the same as JSON.")
def pack(checkpoint_path, output, config_name, context, sequences, kv, window, sinks, rebase, head, candidates, planes,
         shortlist_planes, tokenizer_file, report_file):
    """Pack a checkpoint into an image for a configuration."""
    try:
        if report_file:
            report.require_suffix(report_file)
        folder = Path(output).resolve().parent
        if not folder.is_dir():
            raise ValueError(f"The folder of the image must exist, and {folder} does not")
        if is_binary(checkpoint_path):
            click.echo(binary.pack_file(checkpoint_path, output, config_of(config_name), **_given_options()))
            return
        config = _config(config_name)
        loaded = checkpoint.load(checkpoint_path)
        vocab_size = loaded.config.vocab_size
        chosen = tokenizer.load(tokenizer_file, vocab_size) if tokenizer_file else tokenizer.find(checkpoint_path, vocab_size)
        model = quantise(loaded, fit.head_plan(loaded.config, config, head, candidates, shortlist_planes),
                         planes if planes == "auto" else int(planes))
        with tqdm(desc="packing", unit="tensor", leave=False, disable=None) as bar:
            def progress(name, total):
                bar.total = total
                bar.set_postfix_str(name, refresh=False)
                bar.update()
                bar.refresh()

            assembled = assemble(model, config, context, progress, folder, sequences=sequences, kv=kv, window=window, sinks=sinks,
                                 rebase=rebase)
            image.save(output, *_parts(assembled, chosen))
        if report_file:
            report.write(report_file, report.describe(assembled, checkpoint_path, chosen, Path(output).stat().st_size))
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(_table(assembled, Path(output).stat().st_size))
    click.echo(_tokenizer_line(chosen))


def _given_options():
    """{name: value} of the options that were given, but for those that every packing has."""
    context = click.get_current_context()
    return {name: value for name, value in context.params.items() if name not in ("checkpoint_path", "output", "config_name")
            and context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT}


def _table(assembled, file_bytes):
    """What was packed: segments by kind, and what a token costs."""
    layout = assembled.placement.layout
    lines = [f"{'tensor':<18}{'bits a weight':>14}{'bytes':>14}"]
    for row in report.kinds(assembled):
        bits = f"{row['bits_per_weight']:.2f}" if row["weights"] else ""
        lines.append(f"{row['kind']:<18}{bits:>14}{row['bytes']:>14,}")
    cache = layout.model.n_layers * layout.model.n_kv_heads * layout.record_bytes
    beats = decode_beats(main_program(assembled.programs), layout)
    attend = cache // layout.accel.port_bytes / layout.accel.n_ports
    return "\n".join([
        *lines, f"{'image':<32}{file_bytes:>14,}", "",
        f"configuration {layout.accel.name} ({layout.accel.digest}), context {layout.context}",
        f"KV cache ({layout.kv}): {cache:,} bytes a position, {assembled.header['cache_bytes']:,} bytes in all, "
        f"{layout.pages} pages of {layout.accel.page_positions} positions",
        f"decoding a token reads {beats:,} beats of {layout.accel.beat_bytes} bytes, and {attend:,.1f} more for every "
        f"position before it"])


def _tokenizer_line(chosen):
    template = ", with a chat template" if chosen.chat_template else ""
    return f"tokenizer: {chosen.kind}" + (f", {len(chosen.data):,} bytes{template}" if chosen.data else "")


def _ports(text):
    """{name: {"direction", "bits"}} of module ``celosia`` in Verilog text."""
    body = text[text.index("module celosia("):]
    found = re.findall(r"^  (input|output) (?:reg )?(?:\[(\d+):0\] )?(\w+);", body[:body.index("endmodule")], re.M)
    return {name: {"direction": direction, "bits": int(top or 0) + 1} for direction, top, name in sorted(found, key=lambda p: p[2])}


@click.command()
@_config_option
@click.option("-o", "--output", required=True, metavar="DIR", type=click.Path(file_okay=False), help="Folder to write into.")
def verilog(config_name, output):
    """Write the Verilog of a configuration, and its manifest."""
    try:
        config = config_of(config_name)
        click.echo(f"generating configuration {config.name} ({config.digest})", err=True)
        text = accelerator(config)
        folder, name = Path(output), f"celosia_{config.name}.v"
        folder.mkdir(parents=True, exist_ok=True)
        image.write(folder / name, text.encode())
        manifest = build_manifest(config) | {
            "top": "celosia", "ports": _ports(text), "files": {name: hashlib.sha256(text.encode()).hexdigest()}}
        image.write(folder / "manifest.json", (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{folder / name}: {len(text):,} characters, {text.count(chr(10) + 'endmodule')} modules")


commands = {"configs": configs, "pack": pack, "verilog": verilog}
