"""Sequences of the simulated accelerator: whatever is done with them, it says what the golden machine says."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from celosia.gen.model import HeadPlan
from celosia.host.accelerator import Accelerator
from celosia.host.errors import CelosiaError, ProgramError
from celosia.host.image import Image
from celosia.hw.configs import duo, tiny

sys.path.insert(0, str(Path(__file__).parent / "gen"))
from random_models import SMALL, random_image

pytestmark = pytest.mark.sim


def key(candidates):
    return candidates.tokens.tolist(), candidates.logits.tobytes()


def script(accel, lanes):
    """All that was said on the way through generation, guesses, forks, batches, truncation and several prompts."""
    said = []
    said.append(list(accel.generate([1, 2, 3, 4, 5], 9, on_step=lambda c: said.append(key(c)))))
    accel.reset()
    said.append(list(accel.generate([1, 2, 3, 4, 5], 9, speculate=lanes - 1)))
    said.append((accel.stats.proposed_tokens, accel.stats.accepted_tokens))
    one = accel.sequence()
    accel.prefill(list(range(19)), sequence=one)
    two = one.fork()
    said += [key(c) for c in accel.decode_batch([(two, 3), (one, 4), (two, 5), (one, 6)][:lanes])] + [accel.accepted()]
    one.truncate(11)
    said.append(key(accel.prefill([7, 8, 9], sequence=one)))
    two.free()
    said.append(accel.generate_batch([[1, 2, 3], [4, 5], [6] * 17, [9], [8, 8]], 4))
    registers = accel.device.manifest["registers"]
    base = accel.device.read32(registers["CACHE_BASE"])
    return said, np.array(accel.device.peek(base, accel.image.header["cache_bytes"]))


CAPPED = replace(SMALL, attn_cap=0.25, logit_cap=3.0)


@pytest.mark.parametrize("model, options", [
    (SMALL, {}), (SMALL, {"kv": "int4"}), (SMALL, {"kv": "k8v4"}), (SMALL, {"window": 5, "sinks": 2}),
    (SMALL, {"plan": HeadPlan("shortlist", 3, 2), "kv": "int4", "window": 16}), (CAPPED, {"kv": "k8v4", "window": 9})],
    ids=["int8", "int4", "k8v4", "window", "shortlist", "capped"])
@pytest.mark.parametrize("config, memory", [(tiny, "kv260"), (duo, "stress")], ids=["tiny", "duo"])
def test_sequences_say_what_the_golden_machine_says(config, memory, model, options):
    image, found = Image.open(random_image(model, config, context=60, sequences=4, **options)[0]), []
    for backend, timing in (("sim", {"memory": memory, "seed": 5}), ("golden", {})):
        with Accelerator.open(backend, config=config.name, **timing) as accel:
            accel.load(image)
            found.append(script(accel, config.token_lanes))
    (said, cache), (expected, golden_cache) = found
    assert said == expected and np.array_equal(cache, golden_cache)


@pytest.mark.parametrize("config, memory", [(tiny, "kv260"), (duo, "stress")], ids=["tiny", "duo"])
def test_a_bidirectional_model_encodes_texts(config, memory):
    """Candidates of every token, bit for bit; and each sees all the others."""
    image, found = Image.open(random_image(replace(SMALL, bidirectional=True), config, context=None)[0]), []
    texts = [[7, 3, 19, 4][:config.token_lanes], [7], [7, 5, 19, 4][:config.token_lanes], [7, 3]]
    for backend, timing in (("sim", {"memory": memory, "seed": 5}), ("golden", {})):
        with Accelerator.open(backend, config=config.name, **timing) as accel:
            accel.load(image)
            found.append([[key(candidates) for candidates in accel.encode(text)] for text in texts])
            assert accel.pages.free_pages == accel.pages.n_pages
            for text, sentence in (([1] * 5, rf"A text must have at most {config.token_lanes} tokens to be encoded \(those of one "
                                    r"run\), not 5"), ([99], "Token ids must be 0 to 29, not 99"),
                                   ([], "The prompt must hold at least one token, not none")):
                with pytest.raises(ValueError, match=f"^{sentence}$"):
                    accel.encode(text)
            with pytest.raises(ValueError, match="^Program must be one of encode, not 'decode'$"):
                accel.prefill([1])
    assert found[0] == found[1]
    assert found[0][0][0] != found[0][2][0], "the first token must see the second"


def test_pages_that_the_host_did_not_prepare_stop_the_simulated_accelerator():
    image = Image.open(random_image(SMALL, tiny, context=60, sequences=2)[0])
    with Accelerator.open("sim", config="tiny") as accel:
        accel.load(image)
        one = accel.sequence()
        accel.prefill([1] * 20, sequence=one)
        page = accel.pages.table(one.slot)[0]
        with pytest.raises(CelosiaError, match="and refused"):
            accel._page("claim", page, slot=1)
        accel._write("CONTROL", 2)
        accel._page("unmap", index=0, slot=one.slot)
        with pytest.raises(ProgramError, match="with PAGE: "):
            accel.decode(1, sequence=one)
        accel._page("unmap", index=1, slot=one.slot)
        accel._page("map", page, 0, one.slot)
        with pytest.raises(ProgramError, match="with (OWNER|PAGE): "):
            accel.decode(1, sequence=one)
        accel.reset()
        assert accel.prefill([1] * 20).tokens.size
