"""Damaged checkpoints of every kind pack or get a sentence, within limits of memory and time; and what damage has found."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fuzz_checkpoints import LIMIT_BYTES
from gguf_files import SMALL, of_architecture, random_tensors, save_hf

from celosia.gen.checkpoint import CheckpointError, load
from celosia.gen.model import ModelConfig

HERE = Path(__file__).parent
N_CASES = 300


@pytest.mark.skipif(sys.platform != "linux", reason="the limits of a process are those of Linux")
def test_damaged_files_pack_or_get_a_sentence():
    """For many more: ``python tests/gen/fuzz_checkpoints.py FIRST COUNT``."""
    done = subprocess.run([sys.executable, str(HERE / "fuzz_checkpoints.py"), "0", str(N_CASES)], capture_output=True, text=True,
                          timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == []
    assert sum(found["ends"].values()) == N_CASES
    for end in ("packed", "refused"):
        assert sum(count for name, count in found["ends"].items() if name.endswith(f" {end}")) > N_CASES / 20


@pytest.fixture
def pickled(tmp_path):
    """A function that writes a checkpoint folder with a pickle, from {name: tensor} changed by another function."""
    def write(change, **options):
        config = replace(of_architecture(SMALL, "bitnet"), n_layers=1)
        tensors = random_tensors(config)
        save_hf(tmp_path, config, tensors)
        (tmp_path / "model.safetensors").unlink()
        found = {f"{name}.weight": torch.from_numpy(tensor) for name, tensor in tensors.items()}
        torch.save(change(found), tmp_path / "pytorch_model.bin", **options)
        return tmp_path

    return write


class BigBytes:
    """A pickle of it is ``bytearray(n)``, which torch allows."""

    def __reduce__(self):
        return bytearray, (4 * LIMIT_BYTES,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("change", [
    lambda found: found | {"model.norm.weight": torch.ones(1).expand(1 << 40)},
    lambda found: found | {"x": BigBytes()},
    lambda found: found | {"model.norm.weight": torch.eye(24).to_sparse()},
    lambda found: found | {"model.norm.weight": torch.ones(24, device="meta")},
], ids=["a number again and again", "bytes out of nothing", "sparse", "without numbers"])
def test_pickles_of_other_things(pickled, change, zipped):
    sentence = "^pytorch_model.bin must be a pickle of nothing but tensors|^Tensor model.norm.weight must have all its numbers in"
    with pytest.raises(CheckpointError, match=sentence):
        load(pickled(change, _use_new_zipfile_serialization=zipped))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_parameters_and_shared_tensors(pickled, zipped):
    """What a training loop saves: parameters, and views of one storage."""
    def change(found):
        joined = torch.cat([found["model.norm.weight"], found["model.layers.0.input_layernorm.weight"]])
        views = {"model.norm.weight": joined[:24], "model.layers.0.input_layernorm.weight": joined[24:]}
        return {name: torch.nn.Parameter(tensor) for name, tensor in found.items()} | views

    found = load(pickled(change, _use_new_zipfile_serialization=zipped))
    assert not any(tensor.requires_grad for tensor in (found.embedding[:], found.final_norm, *found.layers[0].values()))


@pytest.mark.parametrize("name", ["x" * 201, "a\nb"])
def test_names_that_cannot_stand_in_a_sentence(pickled, name):
    with pytest.raises(CheckpointError, match="^Names of tensors must have at most 200 printable characters, and '.+' has not$"):
        load(pickled(lambda found: found | {name: torch.ones(1)}))


def test_a_size_that_is_no_size():
    with pytest.raises(ValueError, match="^Model n_layers must be at most 2147483647, not 9223372036854775808$"):
        ModelConfig(**SMALL.to_json() | {"n_layers": 2**63})
