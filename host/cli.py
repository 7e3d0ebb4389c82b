"""The command line. Commands that need more than the board has are offered by the packages that have it."""

import json
import sys
from contextlib import nullcontext
from importlib.metadata import entry_points, version

import click

from .accelerator import Accelerator
from .classify import Classifier
from .errors import CelosiaError
from .evaluate import evaluate
from .inputs import read_image
from .logits import require_npy, writing
from .opening import device_options, image_of
from .sensors import PowerMeter
from .tokens import tokenizer_of

__all__ = ["main"]

_PROMPT = "My fellow citizens, "
_BACKENDS = ["sim", "golden", "board"]
_CONFIG_HELP = "Configuration of the accelerator; default: kv260 on a board, tiny elsewhere."
_SAID_AS_ONE_SENTENCE = (CelosiaError, ValueError, LookupError, MemoryError, FileNotFoundError, TimeoutError, RuntimeError)


class _Commands(click.Group):
    """Our commands and those that installed packages offer; errors are one sentence and a non-zero exit."""

    def list_commands(self, ctx):
        return sorted({*super().list_commands(ctx), *(entry.name for entry in entry_points(group="celosia.commands"))})

    def get_command(self, ctx, name):
        found = super().get_command(ctx, name)
        if found is None:
            for entry in entry_points(group="celosia.commands", name=name):
                found = entry.load()
        return found

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise
        except _SAID_AS_ONE_SENTENCE as error:
            text = error.args[0] if isinstance(error, KeyError) and error.args else error
            raise click.ClickException(str(text)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("celosia"), message="celosia %(version)s")
def main():
    """From a transformer checkpoint to a working accelerator on an edge FPGA."""


def _config_of(backend, config):
    return config or ("kv260" if backend == "board" else "tiny")


@main.command()
@click.option("--model", default="demo", show_default=True, help="Name of a shipped model, checkpoint folder or image (.img).")
@click.option("--config", help=_CONFIG_HELP)
@click.option("--backend", type=click.Choice(_BACKENDS), default="sim", show_default=True,
              help="What computes: the simulated accelerator, the golden machine or the board (under PYNQ).")
@click.option("--prompt", help=f"Text to continue; default: {_PROMPT!r}.")
@click.option("--prompt-ids", metavar="1,5,9", help="Token ids to continue, instead of a text.")
@click.option("--chat", is_flag=True, help="Ask the prompt as a question, by the chat template of the image.")
@click.option("-n", "--new-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Tokens to generate.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-k", type=click.IntRange(min=1), help="Keep so many candidates.")
@click.option("--top-p", type=click.FloatRange(min=0, min_open=True, max=1), default=1.0, show_default=True,
              help="Keep candidates of this total probability.")
@click.option("--seed", type=int, help="Of the draws, and of the memory's stalls.")
@click.option("--chunk", type=click.IntRange(min=1), help="Prompt tokens a run; default: all token lanes.")
@click.option("--speculate", type=click.IntRange(min=0), default=0, show_default=True,
              help="Verify up to so many tokens, guessed from the text before them, in one run; the text stays the same.")
@click.option("--kv", help="Format of keys and values in the cache: int8, int4, or k8v4 (keys in int8, values in int4).")
@click.option("--window", type=click.IntRange(min=0), help="Positions that a token sees; default: the model's.")
@click.option("--sinks", type=click.IntRange(min=0), help="First positions that every token sees beside a window.")
@click.option("--memory", default="kv260", show_default=True, help="Memory timing of the simulation: kv260 or stress.")
@click.option("--check", is_flag=True, help="Compare every step's candidates with the golden machine, bit for bit.")
@click.option("--logits", "logits_file", metavar="FILE.npy", type=click.Path(dir_okay=False),
              help="Write the logits of each step, float32 (steps, vocabulary): with --backend golden all of them (those of the "
              "exact rows where the head is a shortlist), with sim those of the candidates, -inf elsewhere.")
@click.option("--image", "picture", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
              help="Classify an image (.npy: its pixels; others need Pillow).")
@click.option("--text", "sentence", help="Classify a text.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def run(model, config, backend, prompt, prompt_ids, chat, new_tokens, temperature, top_k, top_p, seed, chunk, speculate, kv, window,
        sinks, memory, check, logits_file, picture, sentence, as_json):
    """Continue a text, token by token; or classify an image or a text."""
    require_npy(logits_file)
    config = _config_of(backend, config)
    image = image_of(model, config, **_given(kv=kv, window=window, sinks=sinks))
    if image.kind == "classifier":
        _refuse_options(("model", "config", "backend", "seed", "memory", "picture", "sentence", "as_json"))
        _classify(image, backend, device_options(backend, config, memory, seed), picture, sentence, as_json)
        return
    if picture is not None or sentence is not None:
        raise click.UsageError(f"--image and --text are for classifiers, and {image.header['name']} continues a --prompt")
    tokenizer = tokenizer_of(image)
    prompt_tokens, shown_prompt = _prompt_tokens(tokenizer, image.header["vocab"], prompt, prompt_ids, chat)
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    if check and backend == "golden":
        raise click.UsageError("--check compares with the golden machine; choose --backend sim or board")

    with Accelerator.open(backend, **device_options(backend, config, memory, seed)) as accel:
        accel.load(image)
        tokens, steps = [], []
        show = tokenizer.stream(prompt_tokens)
        text = accel.generate(prompt_tokens, new_tokens, chunk=chunk, on_step=steps.append, speculate=speculate, **sampling)
        if not as_json:
            click.echo(shown_prompt, nl=False)
        with PowerMeter() if backend == "board" else nullcontext() as power:
            for token in text:
                tokens.append(token)
                if not as_json:
                    click.echo(show(token), nl=False)
                    sys.stdout.flush()
                if token in tokenizer.stop:
                    break
        stats = accel.stats
        if not as_json:
            click.echo("\n")
        if logits_file:
            _write_logits(logits_file, accel, prompt_tokens, tokens, steps)

    result = {
        "backend": backend, "config": config, "prompt_tokens": stats.prompt_tokens, "tokens": tokens,
        "text": tokenizer.continuation(prompt_tokens, tokens), "cycles": stats.cycles, "prefill_cycles": stats.prefill_cycles,
        "clock_mhz": stats.clock_mhz, "cycles_per_token": _finite(stats.cycles_per_token),
        "tokens_per_s": _finite(stats.tokens_per_s), "counters": stats.counters,
        "proposed_tokens": stats.proposed_tokens, "accepted_tokens": stats.accepted_tokens,
    }
    if power is not None:
        result |= {"mean_power_w": power.mean_w, "joules": power.joules}
    if check:
        result["identical_to_golden"] = _same_as_golden(image, config, prompt_tokens, tokens, steps, as_json)
    if as_json:
        click.echo(json.dumps(result))
    elif backend != "golden":
        _summary(result, stats)
    if check and not result["identical_to_golden"]:
        raise click.ClickException("The accelerator must compute what the golden machine computes, and did not.")


def _refuse_options(allowed):
    """UsageError where an option was given that a classifier has not."""
    context = click.get_current_context()
    for param in context.command.params:
        if param.name not in allowed and context.get_parameter_source(param.name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"{param.opts[0]} is for models that continue a text; a classifier takes --image or --text")


def _classify(image, backend, options, picture, sentence, as_json):
    """Print what an image or a text is."""
    source = image.header["input"]
    wanted, given = ("--image", picture) if source["kind"] == "image" else ("--text", sentence)
    if given is None or None not in (picture, sentence):
        raise click.UsageError(f"{image.header['name']} classifies what {wanted} gives, and nothing else")
    entry = read_image(picture, source) if picture is not None else sentence
    with Classifier.open(backend, **options) as accel:
        accel.load(image)
        (result,) = accel.classify([entry])
        cycles, clock_mhz = accel.cycles, accel.stats.clock_mhz
    scores = result.scores.tolist()
    if as_json:
        click.echo(json.dumps({"label": result.label, "scores": scores, "labels": image.header["labels"], "cycles": cycles,
                               "clock_mhz": clock_mhz, "backend": backend, "config": image.header["config"]}))
        return
    if isinstance(result.label, list):
        click.echo(" ".join(result.label))
    else:
        click.echo(result.label + "\n")
        for label, score in sorted(zip(image.header["labels"], scores), key=lambda pair: -pair[1]):
            click.echo(f"{score:7.2%}  {label}")
    if backend != "golden":
        click.echo(f"\n{cycles:,} cycles, {cycles / clock_mhz:,.0f} microseconds at {clock_mhz:g} MHz "
                   f"({'simulated' if backend == 'sim' else 'counted by the hardware'}, configuration {image.header['config']})")


def _prompt_tokens(tokenizer, vocab_size, prompt, prompt_ids, chat):
    """(token ids, text to show) of what the options ask for."""
    if prompt_ids is not None:
        if prompt is not None or chat:
            raise click.UsageError("--prompt-ids stands alone; leave out --prompt and --chat")
        try:
            tokens = [int(word) for word in prompt_ids.split(",")]
        except ValueError:
            raise ValueError(f"--prompt-ids must be token ids with commas between, such as 1,5,9, not {prompt_ids!r}") from None
        if not all(0 <= token < vocab_size for token in tokens):
            raise ValueError(f"--prompt-ids must be tokens 0 to {vocab_size - 1}, not {prompt_ids}")
        return tokens, tokenizer.decode(tokens)
    prompt = _PROMPT if prompt is None else prompt
    if chat:
        return tokenizer.chat([{"role": "user", "content": prompt}]), prompt + "\n"
    return tokenizer.encode(prompt), prompt


def _write_logits(path, accel, prompt_tokens, tokens, steps):
    """The logits from which each of ``tokens`` was chosen; the rest of a step's candidates, where all were not returned, -inf."""
    vocab_size = accel.image.header["vocab"]
    if not accel.returns_all_logits:
        click.echo(f"The accelerator returns the {accel.n_candidates} best candidates of {vocab_size} tokens: the other logits in "
                   f"{path} are -inf; --backend golden writes them all", err=True)
    if accel.scores:
        accel.reset()
        parts, at = accel.score([*prompt_tokens, *tokens[:-1]]), 1 - len(prompt_tokens)
    else:
        parts, at = (step.spread(vocab_size)[None] for step in steps), 0
    with writing(path, (len(steps), vocab_size)) as written:
        for part in parts:
            written[max(at, 0):max(at + len(part), 0)] = part[max(-at, 0):]
            at += len(part)


def _same_as_golden(image, config, prompt_tokens, tokens, steps, quiet):
    """Whether the golden machine finds the same candidates, bit for bit, along the same tokens."""
    with Accelerator.open("golden", config=config) as golden:
        golden.load(image)
        bar = click.progressbar(length=len(steps), label="golden machine", file=sys.stderr,
                                hidden=quiet or not sys.stderr.isatty())
        with bar:
            candidates = golden.prefill(prompt_tokens)
            for step, seen in enumerate(steps):
                if seen.tokens.tolist() != candidates.tokens.tolist() or seen.logits.tobytes() != candidates.logits.tobytes():
                    return False
                bar.update(1)
                if step + 1 < len(steps):
                    candidates = golden.decode(tokens[step])
    return True


def _summary(result, stats):
    if stats.new_tokens and stats.decode_cycles:
        how = "simulated" if result["backend"] == "sim" else "counted by the hardware"
        click.echo(f"{stats.cycles_per_token:,.0f} cycles a token, {stats.tokens_per_s:,.0f} tokens a second at "
                   f"{stats.clock_mhz:g} MHz ({how}, configuration {result['config']})")
    if stats.proposed_tokens:
        click.echo(f"{stats.accepted_tokens} of {stats.proposed_tokens} guessed tokens were right")
    if result.get("joules"):
        click.echo(f"{result['mean_power_w']:.2f} W on average at the module's input, prompt and answer: "
                   f"{result['joules'] / len(result['tokens']):.3f} J a token of the answer")
    if "identical_to_golden" in result:
        click.echo("identical to the golden model: " + ("yes, every candidate of every step, bit for bit"
                                                        if result["identical_to_golden"] else "NO"))


def _given(**options):
    return {name: value for name, value in options.items() if value is not None}


def _finite(value):
    return value if value == value else None


@main.command()
@click.option("--model", default="demo", show_default=True, help="Name of a shipped model, checkpoint folder or image (.img).")
@click.option("--config", help=_CONFIG_HELP)
@click.option("--backend", type=click.Choice(_BACKENDS), default="sim", show_default=True, help="What to examine.")
@click.option("--expect", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
              help="What the golden machine computes for the image, where it is not installed.")
@click.option("--save", metavar="FILE", type=click.Path(dir_okay=False), help="Write what this device computes, for --expect.")
def doctor(model, config, backend, expect, save):
    """Check, step by step, that a device works; the text can go into a bug report."""
    from .doctor import examine

    if not examine(backend, _config_of(backend, config), image_of, click.echo, model=model, expect=expect, save=save):
        raise click.ClickException("The device must pass every step; see the first that failed.")


main.add_command(evaluate)
