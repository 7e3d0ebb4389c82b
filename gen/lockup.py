"""What a program must not do, lest units wait for one another for ever. ``docs/program.md`` has the reasons."""

from celosia.hw.isa import LANE_INDEXES, Index, Opcode, Sink
from celosia.hw.links import PLANS_AHEAD

__all__ = ["check_reads_ahead", "check_shortlist", "check_streams", "drains_of", "gathers"]


def drains_of(steps):
    """{index of a MATMUL or ATTEND: index of the VECTOR that takes its stream}."""
    index = {id(step): i for i, step in enumerate(steps)}
    return {index[id(step.producer)]: i for i, step in enumerate(steps) if step.producer is not None}


def check_streams(steps):
    """Raise ValueError unless the program cannot lock up.

    Data of LOAD, MATMUL and ATTEND arrive in program order, and a MATMUL or ATTEND whose stream is not taken holds up all that
    is behind it. So no VECTOR up to the one that drains a stream may need data from behind the step that fills it.
    """
    drains = drains_of(steps)
    loads = [i for i, step in enumerate(steps) if step.opcode is Opcode.LOAD]
    index = {id(step): i for i, step in enumerate(steps)}
    open_streams = []
    for i, step in enumerate(steps):
        if i in drains:
            open_streams.append(i)
        if step.opcode is not Opcode.VECTOR:
            continue
        needed = [loads[step.waits[0] - 1]] if step.waits[0] else []
        needed += [index[id(step.producer)]] if step.producer is not None else []
        for source in open_streams:
            if any(n > source for n in needed):
                raise ValueError(f"Step {i} ({step.label}) needs data from behind step {source} ({steps[source].label}), "
                                 f"which is drained by step {drains[source]} only")
        open_streams = [source for source in open_streams if drains[source] > i]


def check_reads_ahead(steps, token_lanes):
    """Raise ValueError where an ATTEND's past could wait for a place in the ports while more than ``PLANS_AHEAD`` reads are
    asked for before the VECTOR that takes the output of the ATTEND before it."""
    drains = drains_of(steps)
    attends = [i for i, step in enumerate(steps) if step.opcode is Opcode.ATTEND]
    for before, i in zip(attends, attends[1:]):
        between = steps[i + 1:drains.get(before, i)]
        reads = sum(token_lanes if step.fields.get("index") in LANE_INDEXES else 1
                    for step in between if step.opcode in (Opcode.LOAD, Opcode.MATMUL, Opcode.ATTEND))
        if reads > PLANS_AHEAD:
            raise ValueError(f"Step {drains[before]} ({steps[drains[before]].label}) takes the output of step {before}: at most "
                             f"{PLANS_AHEAD} reads may lie between it and step {i}, not {reads}")


def gathers(opcode, fields):
    """Whether a descriptor reads by the number of a candidate."""
    return opcode is Opcode.LOAD and fields["index"] is Index.CANDIDATE or opcode is Opcode.MATMUL and bool(fields["gather"])


def check_shortlist(steps):
    """Raise ValueError unless the program waits for its shortlist, and ends, where it can: with no stream open (see ``hw.isa``)."""
    drains, ended, open_until = drains_of(steps), False, -1
    for i, step in enumerate(steps):
        if step.opcode is Opcode.END and i <= open_until:
            raise ValueError(f"Step {i} ({step.label}) ends the program while a stream waits for step {open_until}")
        if gathers(step.opcode, step.fields) and not ended:
            if i <= open_until:
                raise ValueError(f"Step {i} ({step.label}) ends the shortlist while a stream waits for step {open_until}")
            ended = True
        open_until = max(open_until, drains.get(i, -1))
        ended = ended and step.fields.get("sink") is not Sink.TOPK
