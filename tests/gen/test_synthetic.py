"""Models with made-up weights, and heads in pieces."""

from dataclasses import replace

import numpy as np
import pytest
from random_models import SMALL, machine_of, random_image

from celosia.gen.golden.machine import Machine, lanes_of
from celosia.gen.pack import unpack_matmul
from celosia.gen.shapes import SHAPES, shape_of
from celosia.gen.synthetic import fill_cache, synthetic
from celosia.hw.configs import duo, tiny
from celosia.hw.isa import Opcode, Sink

MODEL = replace(SMALL, ffn_size=41, vocab_size=600)


def test_a_head_in_pieces_finds_the_same_candidates():
    found = []
    for p_words in (1024, 600):
        accel = replace(tiny, p_words=p_words)
        data, assembled = random_image(MODEL, accel)[:2]
        machine = machine_of(data, accel)
        found.append([machine.run("decode", [5, 9, 2], lanes_of(0, 3)), machine.run("decode", [7], lanes_of(3, 1))])
        pieces = [step for step in assembled.programs["decode"].steps
                  if step.opcode is Opcode.VECTOR and step.fields["sink"] is Sink.TOPK]
        assert len(pieces) == (1 if p_words == 1024 else 2)
        assert sum(step.fields["n_words"] for step in pieces) == assembled.placement.layout.words(600)
    assert found[0] == found[1]


@pytest.mark.parametrize("accel", [tiny, duo])
@pytest.mark.parametrize("head", ["exact", "ternary"])
def test_made_up_weights_are_legal_and_numbers_stay_finite(accel, head):
    made = synthetic(MODEL, accel, 40, head=head)
    for name, matrix in made.placement.matrices.items():
        if name.startswith("layer") or name == "head":
            a = matrix.address
            ports = [made.payload[a.offset + p * a.port_stride:][:a.port_bytes] for p in range(accel.n_ports)]
            trits = unpack_matmul(ports, matrix.planes, matrix.rows, matrix.columns, accel)
            real = {"down": 41, "o": made.placement.layout.attn_columns}.get(name.rpartition(".")[2], 24)
            assert set(np.unique(trits[..., :real - 4])) == {-1, 0, 1} and not trits[..., real:].any()
    machine = Machine(made.payload, np.zeros(made.header["cache_bytes"], np.uint8), accel, made.header)
    machine.pages.give(0, range(made.header["cache"]["pages"]))
    fill_cache(machine.cache, made.placement.layout, 20)
    candidates = machine.run("decode", [1, 2], lanes_of(20, 2))
    logits = [logit for _, logit in candidates]
    assert len(candidates) == accel.top_k and np.isfinite(logits).all() and len(set(logits)) > 2


def test_shapes_by_name_and_file(tmp_path):
    assert SHAPES["bitnet-2b4t"].model.attn_size == SHAPES["bitnet-2b4t"].model.hidden_size
    path = tmp_path / "mine.json"
    path.write_text('{"hidden_size": 24, "ffn_size": 40, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 6, '
                    '"vocab_size": 30, "max_positions": 64}')
    assert (shape_of(str(path)).name, shape_of(str(path)).model) == ("mine", SMALL)
    path.write_text('{"hidden_size": 24, "depth": 3}')
    with pytest.raises(ValueError, match="not depth"):
        shape_of(str(path))
    path.write_text("[]")
    with pytest.raises(ValueError, match="JSON object"):
        shape_of(str(path))
    with pytest.raises(ValueError, match="bitnet-2b4t, bitnet-0.73b, tiny, not 'llama'"):
        shape_of("llama")
