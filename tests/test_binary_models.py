"""The shipped binary models on their test sets: the simulated machine equals the golden model, integer for integer."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from celosia.gen.binary import checkpoint, integers
from celosia.gen.binary.train import data
from celosia.gen.commands import _MODELS, packer
from celosia.gen.golden.binary import model as golden
from celosia.host import Classifier, Image
from celosia.host.cli import main
from celosia.sim_tb.device import open_device

pytestmark = pytest.mark.sim
LEAST = {"digits-w1a8": 0.97, "digits-w1a1": 0.92, "digits-w1a1-softmax": 0.92}


def agreement(name, memory="kv260", count=None):
    """Share that the simulated machine labels rightly, of ``count`` inputs of the test part, after comparing all integers."""
    model = integers.fold(checkpoint.load(_MODELS / name))
    split = data.digits() if name.startswith("digits") else data.docstrings()
    part = split.test[:count]
    if part.inputs.ndim == 3:
        x, inputs = golden.image_rows(model, data.patches(part.inputs)), list(part.inputs.numpy())
    else:
        x, inputs = golden.text_rows(model, part.inputs), [row[:n].tolist() for row, n in zip(part.inputs, part.length)]
    expected = golden.forward(model, x, part.length)
    with Classifier(open_device("binary-tiny", memory=memory, memory_bytes=16 << 20)) as accel:
        accel.load(Image.open(packer(name, "binary-tiny")))
        results = accel.classify(inputs)
    for i, (result, logits, length) in enumerate(zip(results, expected, part.length)):
        assert torch.equal(torch.as_tensor(result.integers, dtype=torch.int64), logits[:length]), f"input {i} of {name} differs"
    return np.mean([result.label == split.labels[label] for result, label in zip(results, part.label)])


@pytest.mark.parametrize("name", ["digits-w1a1", "digits-w1a1-softmax"])
def test_all_digits(name):
    assert agreement(name) >= LEAST[name]


@pytest.mark.slow
def test_all_digits_in_eight_bits():
    assert agreement("digits-w1a8") >= LEAST["digits-w1a8"]


@pytest.mark.parametrize("name", ["digits-w1a8", "docstrings-w1a1", "docstrings-w1a8"])
def test_some_inputs_with_stalls(name):
    agreement(name, memory="stress", count=24)


@pytest.mark.parametrize("options, label", [
    (["--model", "docstrings", "--text", "Return a random element from the non-empty sequence."], None),
    (["--model", "digits", "--image", "seven.npy"], "7")])
def test_command_line(options, label, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seven = int((data.digits().test.label == 7).nonzero()[0, 0])
    np.save("seven.npy", data.digits().test.inputs[seven].numpy().astype(np.uint8))
    found = {}
    for backend in ("sim", "golden"):
        ran = CliRunner().invoke(main, ["run", "--config", "binary-tiny", "--backend", backend, "--json", *options])
        assert ran.exit_code == 0, ran.output
        found[backend] = json.loads(ran.output)
    assert found["sim"]["cycles"] > 0
    assert found["sim"]["scores"] == found["golden"]["scores"]
    assert found["sim"]["label"] == found["golden"]["label"] == (label or found["sim"]["label"])
