"""Logits of every token of a run, from the bytes and descriptors of an image.

A program computes the head for the last token alone, and of a shortlist the exact rows of the candidates alone. Here the same
descriptors run in the golden machine for all tokens (LAST reads as ALL), and those of the first candidate for every group of
rows instead, so that there is a logit for the whole vocabulary:

    head        logits
    exact       of the rows of int8
    ternary     of the rows of few digit planes, as the accelerator returns them
    shortlist   of the rows of int8, whatever made the shortlist: those of the candidates are what the accelerator returns
"""

import torch

from celosia.hw.isa import Index, Opcode, Sink, Tokens

__all__ = ["score"]


def score(machine, program, token_ids, lanes):
    """Logits float32 (tokens, vocabulary) after every token of ``token_ids``; fills the cache as a run does.

    ``program`` is one with a head, as :meth:`celosia.gen.golden.machine.Machine.run` takes it. Raises MachineError as that does.
    """
    steps = [(index, opcode, _for_all(fields)) for index, (opcode, _, fields)
             in enumerate(machine.begin(program, token_ids, lanes)) if opcode is not Opcode.END]
    gathering = [i for i, (_, opcode, fields) in enumerate(steps) if _gathers(opcode, fields)]
    for step in steps[:gathering[0]] if gathering else steps:
        machine.execute(*step)
    if gathering:
        _score_groups(machine, steps, steps[gathering[0]:], len(token_ids))
    return torch.stack([_in_order(*machine.offered(lane, forget=True)) for lane in range(len(token_ids))])


def _in_order(tokens, values):
    """Values by token id."""
    return values[torch.argsort(tokens)]


def _for_all(fields):
    return fields | {"tokens": Tokens.ALL} if fields.get("tokens") is Tokens.LAST else fields


def _gathers(opcode, fields):
    return opcode is Opcode.LOAD and fields["index"] is Index.CANDIDATE or opcode is Opcode.MATMUL and bool(fields["gather"])


def _score_groups(machine, steps, rescoring, n_tokens):
    """Run the descriptors that score the first candidate on every group of rows."""
    config = machine.config
    vocab_size = next(fields["imm0"] for _, _, fields in steps if fields.get("sink") is Sink.TOPK)
    for lane in range(n_tokens):
        machine.offered(lane, forget=True)
    loads = [step for step in rescoring if step[1] is Opcode.LOAD and step[2]["rank"] == 0]
    matmul = next(step for step in rescoring if step[1] is Opcode.MATMUL)
    vector = next(step for step in rescoring if step[2].get("sink") is Sink.RESCORE)
    for group in range(-(-vocab_size // config.row_quantum)):
        for index, opcode, fields in (*loads, matmul):
            machine.execute(index, opcode, machine.of_group(opcode, fields, group))
        index, opcode, fields = vector
        machine.execute(index, opcode, fields | {"sink": Sink.TOPK, "imm0": vocab_size,
                                                 "d_base": group * config.row_quantum // config.vector_lanes})
