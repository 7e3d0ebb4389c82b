"""Small random decoders, as checkpoints in memory, and images of them."""

import itertools
import random

import torch
from hypothesis import strategies as st

from celosia.gen import fit, image
from celosia.gen.assemble import assemble
from celosia.gen.golden.machine import Machine
from celosia.gen.golden.model import GoldenModel
from celosia.gen.model import EXACT, HEADS, MATRICES, MAX_PLANES, Checkpoint, ModelConfig
from celosia.gen.place import rope_table
from celosia.gen.quantise import quantise


@st.composite
def model_configs(draw, max_group=4):
    """Sizes that divide nothing; one, some or all KV heads; with and without sub-norms."""
    group, n_kv_heads = draw(st.sampled_from([(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1), (4, 1), (4, 2)]))
    group = min(group, max_group)
    return ModelConfig(
        hidden_size=draw(st.integers(5, 50)), ffn_size=draw(st.integers(3, 70)), n_layers=draw(st.integers(1, 2)),
        n_heads=group * n_kv_heads, n_kv_heads=n_kv_heads, head_dim=2 * draw(st.integers(1, 9)),
        vocab_size=draw(st.integers(2, 70)), max_positions=64, act=draw(st.sampled_from(["relu2", "silu"])),
        sub_norms=draw(st.booleans()), tied=draw(st.booleans()), attn_cap=draw(st.sampled_from([0.0, 0.0, 0.25, 50.0])))


def random_checkpoint(config, seed=0):
    """A checkpoint with normal weights, and gains around 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    layers = [{**{name: normal(*config.shape(name)) * 0.1 for name in MATRICES},
               **{name: 1 + 0.2 * normal(size) for name, size in config.gains().items()}}
              for _ in range(config.n_layers)]
    embedding = normal(config.vocab_size, config.hidden_size)
    head = embedding if config.tied else normal(config.vocab_size, config.hidden_size)
    return Checkpoint(config, embedding, layers, 1 + 0.2 * normal(config.hidden_size), head, "random")


@st.composite
def head_plans(draw, config, accel):
    """Any head that the vocabulary and the configuration allow."""
    return fit.head_plan(config, accel, draw(st.sampled_from(HEADS)), draw(st.integers(1, min(config.vocab_size, accel.top_k))),
                         draw(st.integers(1, 3)))


def mixed_planes(seed):
    """1 to 5 digit planes, for each matrix of up to four layers in an order of its own."""
    turn = itertools.cycle(random.Random(seed).sample(range(1, MAX_PLANES + 1), MAX_PLANES))
    chosen = {(i, name): next(turn) for i in range(4) for name in MATRICES}
    return lambda i, name: chosen[i, name]


def random_image(config, accel, seed=0, context=32, plan=EXACT, planes=1, **options):
    """(image bytes, Assembled, quantised model); ``options`` are those of ``assemble``."""
    model = quantise(random_checkpoint(config, seed), plan, planes)
    assembled = assemble(model, accel, context, **options)
    return image.encode(assembled.header, assembled.payload), assembled, model


def machine_of(data, accel):
    """A golden machine with an image, all pages of which belong to slot 0, the last page first."""
    machine = Machine.of_image(data, accel)
    machine.pages.give(0, reversed(range(machine.header["cache"]["pages"])))
    return machine


def golden_of(model, accel, context=32, kv="int8"):
    """The golden model whose sums have the order of ``accel``."""
    return GoldenModel(model, rope_table(model.config, context), n_slices=accel.n_ports, head_quantum=accel.port_bytes, kv=kv)


SMALL = ModelConfig(hidden_size=24, ffn_size=40, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=6, vocab_size=30,
                    max_positions=64)
