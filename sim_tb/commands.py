"""Commands ``bench`` and ``roofline`` for the command line."""

import json
from pathlib import Path

import click

from celosia.gen.binary.shapes import BINARY_SHAPES
from celosia.gen.model import HEADS
from celosia.gen.shapes import SHAPES, shape_of
from celosia.hw.binary.configs import BINARY_CONFIGS
from celosia.hw.formats import KV_FORMATS

from . import bench as benches
from . import binary_bench
from . import roofline as rooflines

__all__ = ["bench", "roofline"]

_MEASURED = Path(__file__).resolve().parents[1] / "docs" / "performance.json"


@click.command()
@click.option("--config", default="kv260", show_default=True, help="Configuration of the accelerator.")
@click.option("--shape", "shape_name", default="tiny", show_default=True, metavar="NAME|FILE",
              help=f"Sizes of the model: {', '.join(SHAPES)}, or a JSON file with the fields of a model; "
                   f"of a binary encoder: {', '.join(BINARY_SHAPES)}.")
@click.option("--context", default=0, show_default=True, type=click.IntRange(min=0), help="Positions before the decoded tokens.")
@click.option("--tokens", default=1, show_default=True, type=click.IntRange(min=1), help="Tokens to decode.")
@click.option("--prompt-tokens", default=0, show_default=True, type=click.IntRange(min=0), help="Tokens to prefill.")
@click.option("--sequences", default=1, show_default=True, type=click.IntRange(min=1),
              help="Sequences that decode together; decode_tokens_per_s is then the total.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1), help="Sequences of a run of a binary encoder.")
@click.option("--speculate", default=0, type=click.IntRange(min=0), metavar="K",
              help="Verify drafts of up to K tokens along --text.")
@click.option("--text", "text_file", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
              help="Text that is taken as what the model writes.")
@click.option("--kv", type=click.Choice(KV_FORMATS), default="int8", show_default=True, help="Format of the KV cache.")
@click.option("--window", default=0, type=click.IntRange(min=0), help="Positions that a token sees; default: all.")
@click.option("--sinks", default=0, type=click.IntRange(min=0), help="First positions that every token sees, with a window.")
@click.option("--layers", type=click.IntRange(min=1), help="Simulate so many layers and extrapolate; default: all.")
@click.option("--head", type=click.Choice(HEADS), default="shortlist", show_default=True,
              help="exact: rows of five digit planes; ternary: of one; shortlist: the best by one, scored again by five.")
@click.option("--memory", default="kv260", show_default=True, help="Memory preset of the simulator.")
@click.option("--check/--no-check", default=True, show_default=True, help="Compare one layer with the golden machine first.")
@click.option("--timeline", is_flag=True, help="Instead: when the descriptors of a prefill of two layers finish.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def bench(context_of_click, config, shape_name, context, tokens, prompt_tokens, sequences, batch, speculate, text_file, kv, window,
          sinks, layers, head, memory, check, timeline, as_json):
    """Cycle-accurate figures of a model shape with made-up weights, on the simulated accelerator."""
    if config in BINARY_CONFIGS:
        _bench_binary(context_of_click, config, shape_name, prompt_tokens, batch, layers, memory, check, as_json)
        return
    if batch > 1:
        raise ValueError("Batch is for binary encoders; give --sequences with this configuration")
    if timeline:
        click.echo(benches.layer_timeline(config, shape_of(shape_name), context=context, memory=memory))
        return
    try:
        result = benches.bench(config, shape_of(shape_name), context=context, tokens=tokens, prompt_tokens=prompt_tokens,
                               sequences=sequences, speculate=speculate, text=Path(text_file).read_text() if text_file else None,
                               kv=kv, window=window, sinks=sinks, layers=layers, head=head, memory=memory, check=check,
                               progress=benches.say_to_stderr)
    except AssertionError as error:
        raise click.ClickException(f"The accelerator is not exact: {error}") from error
    click.echo(json.dumps(result, indent=2) if as_json else benches.report(result))


def _bench_binary(context, config, shape_name, prompt_tokens, batch, layers, memory, check, as_json):
    known = {"config", "shape_name", "prompt_tokens", "batch", "layers", "memory", "check", "as_json"}
    given = sorted(name for name in context.params if name not in known
                   and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE)
    if given:
        raise ValueError(f"A binary encoder must be measured without {', '.join('--' + name.replace('_', '-') for name in given)}")
    if shape_name not in BINARY_SHAPES:
        raise ValueError(f"Shape must be one of {', '.join(BINARY_SHAPES)} with configuration {config}, not {shape_name!r}")
    try:
        result = binary_bench.bench(config, BINARY_SHAPES[shape_name], prompt_tokens=prompt_tokens, batch=batch, layers=layers,
                                    memory=memory, check=check, progress=benches.say_to_stderr)
    except AssertionError as error:
        raise click.ClickException(f"The accelerator is not exact: {error}") from error
    click.echo(json.dumps(result, indent=2) if as_json else binary_bench.report(result))


@click.command()
@click.option("--config", default="kv260", show_default=True, help="Configuration of the accelerator.")
@click.option("--shape", "shape_names", multiple=True, metavar="NAME|FILE",
              help="Show only this shape, and published systems with the same model; may be repeated.")
@click.option("--bench", "bench_files", multiple=True, type=click.Path(exists=True, dir_okay=False), metavar="JSON",
              help="Results of `celosia bench --json`; may be repeated. Default: what `make bench` left.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), metavar="PNG|SVG", help="Picture to write.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def roofline(config, shape_names, bench_files, output, as_json):
    """What memory and engine allow, what was simulated, what published systems reach on the board."""
    if output and Path(output).suffix not in (".png", ".svg"):
        raise ValueError(f"Picture must end in .png or .svg, not {output!r}")
    shapes = {name: shape_of(name) for name in shape_names} or SHAPES
    shapes = {shape.name: shape for shape in shapes.values()}
    runs = rooflines.read_runs(bench_files or ([_MEASURED] if _MEASURED.exists() else []))
    systems = [system for system in rooflines.SYSTEMS if not shape_names or system.shape in shapes]
    found = rooflines.roofline(config, runs, shapes, systems=systems)
    if output:
        from . import pictures  # matplotlib is there only for development
        pictures.roofline(found, output)
    click.echo(json.dumps(found, indent=2) if as_json else rooflines.table(found))
