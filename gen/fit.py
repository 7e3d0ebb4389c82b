"""Does this model fit this configuration? Every limit by name, and by how much it is exceeded."""

from celosia.hw.isa import Vector

from .model import HeadPlan
from .place import Layout

__all__ = ["SHORTLIST_VOCAB", "DoesNotFit", "check", "default_context", "head_plan", "require", "require_head"]

SHORTLIST_VOCAB = 4096  # tokens from which a shortlist is the default: docs/head.md


class DoesNotFit(ValueError):
    """The message is one sentence naming every limit that is exceeded; ``problems`` lists them."""

    def __init__(self, config_name, problems):
        super().__init__(f"The model does not fit configuration {config_name}: {'; '.join(problems)}")
        self.problems = problems


def default_context(model, accel):
    """The longest context that model and configuration allow."""
    return min(Layout.longest(model, accel), accel.max_positions)


def check(layout, programs=None, planes=None):
    """List of what does not fit, one phrase each; empty when all does. ``programs`` add their scratch memory, ``planes`` the
    digit planes of matrices of layers, by name (``place``)."""
    model, accel = layout.model, layout.accel
    problems = []

    def limit(needed, has, what, unit):
        if needed > has:
            problems.append(f"{what} needs {needed} {unit}, configuration {accel.name} has {has}")

    for name, size in (("hidden_size", model.hidden_size), ("ffn", model.ffn_size), ("attention output", layout.attn_columns)):
        limit(layout.columns(size), accel.max_columns, f"{name} {size}", "columns")
    limit(layout.columns(model.hidden_size), accel.max_planes_columns(5), f"head of hidden_size {model.hidden_size}",
          f"columns of {accel.accumulator_bits} bit sums")
    for name, n_planes in _most_planes(planes or {}).items():
        size = {"o": layout.attn_columns, "down": model.ffn_size}.get(name, model.hidden_size)
        limit(layout.columns(size), accel.max_planes_columns(n_planes), f"{name} of {size} columns in {n_planes} digit planes",
              f"columns of {accel.accumulator_bits} bit sums")
    limit(layout.head_beats, accel.max_head_words, f"head_dim {model.head_dim}", f"words of {accel.port_bytes} elements")
    limit(model.group * accel.token_lanes, accel.max_queries,
          f"{model.group} query heads a KV head of {accel.token_lanes} tokens", "queries")
    limit(layout.context, accel.max_positions, f"context {layout.context}", "positions")
    limit(model.vocab_size, 1 << 20, f"vocabulary {model.vocab_size}", "numbers of a candidate")
    limit(max(layout.vocab_rows // accel.engine_rows, layout.words(layout.vocab_rows)),
          (1 << Vector.as_shape()["n_words"].width) - 1, f"vocabulary {model.vocab_size}", "words of a descriptor")
    for name, program in (programs or {}).items():
        for letter, scratch, needed, has in (("X", "activation", program.x_words, accel.x_words),
                                             ("P", "parameter", program.p_words, accel.p_words)):
            if needed > has:
                held = ", ".join(f"{buffer} {words}" for buffer, words in program.held[letter].items())
                problems.append(f"program {name} needs {needed} words of {scratch} scratch ({held}), "
                                f"configuration {accel.name} has {has}")
    return problems


def _most_planes(planes):
    """{qkv, o, gate, up, down: the most digit planes in any layer}; one where ``planes`` has none."""
    most = dict.fromkeys(("qkv", "o", "gate", "up", "down"), 1)
    for name, n_planes in planes.items():
        kind = name.rpartition(".")[2].rstrip("0123456789")
        if kind in most:
            most[kind] = max(most[kind], n_planes)
    return most


def head_plan(model, accel, kind=None, candidates=None, planes=1):
    """A :class:`HeadPlan`: by default a shortlist for large vocabularies, of as many candidates as ``accel`` keeps, up to 16."""
    kind = kind or ("shortlist" if model.vocab_size >= SHORTLIST_VOCAB else "exact")
    plan = HeadPlan(kind, min(16, accel.top_k, model.vocab_size) if candidates is None else candidates, planes)
    require_head(model, accel, plan)
    return plan


def require_head(model, accel, plan):
    """Raise ValueError unless the shortlist of ``plan`` is within vocabulary and configuration."""
    most = min(model.vocab_size, accel.top_k)
    if plan.kind == "shortlist" and plan.candidates > most:
        raise ValueError(f"A shortlist must have at most {most} candidates for a vocabulary of {model.vocab_size} on configuration "
                         f"{accel.name}, not {plan.candidates}")


def require(layout, programs=None, planes=None):
    """Raise :class:`DoesNotFit` unless :func:`check` finds nothing."""
    problems = check(layout, programs, planes)
    if problems:
        raise DoesNotFit(layout.accel.name, problems)
