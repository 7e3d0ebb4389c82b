"""`celosia eval` and `run --logits`: what they write, what they refuse."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from random_models import SMALL, golden_of, random_image

from celosia.gen.model import HeadPlan
from celosia.host.cli import main
from celosia.host.evaluate import bits_of
from celosia.host.image import Image
from celosia.hw.configs import duo, tiny

CONTEXT = 32
IDS = np.random.default_rng(3).integers(0, SMALL.vocab_size, (3, 7))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """{name: (path of an image, its golden model)}."""
    folder, found = tmp_path_factory.mktemp("images"), {}
    few = replace(SMALL, vocab_size=13, n_layers=1)
    for name, config, plan in (("exact", SMALL, HeadPlan()), ("shortlist", SMALL, HeadPlan("shortlist", 4)),
                               ("few", few, HeadPlan())):
        data, _, model = random_image(config, tiny, 2, CONTEXT, plan)
        path = folder / f"{name}.img"
        path.write_bytes(data)
        found[name] = str(path), lambda model=model: golden_of(model, tiny, CONTEXT)
    return found


def ids_file(folder, ids):
    path = folder / "ids.npy"
    np.save(path, ids)
    return str(path)


def evaluated(*arguments):
    result = CliRunner().invoke(main, ["eval", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments):
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code and "Traceback" not in result.output
    return result.output


@pytest.mark.parametrize("kind", ["exact", "shortlist"])
def test_perplexity_and_logits_are_the_golden_models(packed, tmp_path, kind):
    image, golden = packed[kind]
    logits_file = tmp_path / "logits.npy"
    found = evaluated(image, "--ids", ids_file(tmp_path, IDS.astype(np.uint16)), "--logits", str(logits_file))
    right = torch.stack([golden().forward(row, 0) for row in IDS.tolist()])
    logits = np.load(logits_file)
    assert logits.dtype == np.float32 and logits.tobytes() == right.numpy().tobytes() and logits.shape == right.shape
    loss = torch.nn.functional.cross_entropy(right[:, :-1].double().flatten(0, 1), torch.tensor(IDS[:, 1:]).flatten())
    assert found["perplexity"] == pytest.approx(float(loss.exp()), rel=1e-12)
    assert found["bits_per_token"] == pytest.approx(float(loss) / np.log(2), rel=1e-12)
    assert (found["tokens"], found["sequences"], found["length"], found["dropped_tokens"]) == (18, 3, 7, 0)
    assert (found["backend"], found["config"], found["head"], found["name"]) == ("golden", "tiny", kind, "random")
    assert found["image"] == image and found["digest"] == Image.open(image).digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.npy", "logits.npy"]


def test_one_sequence_and_the_line(packed, tmp_path):
    result = CliRunner().invoke(main, ["eval", packed["exact"][0], "--ids", ids_file(tmp_path, IDS[0])])
    assert result.exit_code == 0, result.output
    assert "bits a token, perplexity" in result.stdout and "over 6 tokens in 1 sequence of 7" in result.stdout


def test_bits_are_finite_for_large_logits():
    logits = np.array([[1e30, 0, -1e30], [3, 3, 3]], np.float32)
    assert bits_of(logits, [0, 1]).tolist() == [0, pytest.approx(np.log2(3))]
    assert bits_of(logits, [0]).tolist() == [0]


def test_text_is_cut(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The people – of the United States")      # 35 bytes
    found = evaluated("demo", "--text", str(text), "--length", "16")
    assert (found["sequences"], found["length"], found["tokens"], found["dropped_tokens"]) == (2, 16, 30, 3)
    whole = evaluated("demo", "--text", str(text))
    assert (whole["sequences"], whole["length"], whole["tokens"], whole["dropped_tokens"]) == (1, 35, 34, 0)
    assert whole["bits_per_token"] < 8


@pytest.mark.parametrize("ids, words", [
    ([[1, 2, 30]], "Token ids must be 0 to 29, not 30"), ([[1, -2]], "Token ids must be 0 to 29, not -2"),
    ([[1] * 33], "at most as long as the context of the image, 32, not 33"), ([[1.0, 2.0]], "integers, and .* holds float64"),
    ([[True, False]], "holds bool"), ([[1], [2]], r"length of at least 2, and .* has \(2, 1\)"),
    (np.zeros((0, 5), int), r"has \(0, 5\)"), ([[[1, 2]]], r"has \(1, 1, 2\)"), (3, r"has \(\)"),
    ([["a", "b"]], "holds <U1")])
def test_ids_that_are_refused(packed, tmp_path, ids, words):
    output = refused("eval", packed["exact"][0], "--ids", ids_file(tmp_path, np.array(ids)), "--logits", str(tmp_path / "l.npy"))
    assert re.search(words, output) and output.startswith("Error: ") and output.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["ids.npy"]


def test_files_that_are_refused(packed, tmp_path):
    image, _ = packed["exact"]
    nothing, noise = tmp_path / "none.npy", tmp_path / "noise.npy"
    noise.write_bytes(b"\x93NUMPY\x01\x00nonsense")
    assert "cannot be read as one: No such file" in refused("eval", image, "--ids", str(nothing))
    assert "cannot be read as one" in refused("eval", image, "--ids", str(noise))
    np.savez(tmp_path / "two.npz", a=[1, 2], b=[3])
    assert "cannot be read as one: it is none" in refused("eval", image, "--ids", str(tmp_path / "two.npz"))
    assert "cannot be read: No such file" in refused("eval", "demo", "--text", str(tmp_path / "none.txt"))
    noise.write_bytes(b"abc\xff")
    assert "is not, from byte 3 on" in refused("eval", "demo", "--text", str(noise))
    noise.write_bytes(b"a")
    assert "at least 2 tokens, not 1" in refused("eval", "demo", "--text", str(noise))
    assert "No such file" in refused("eval", str(tmp_path / "none.img"), "--text", str(noise))
    assert "has no tokenizer" in refused("eval", image, "--text", str(noise))


def test_options_that_are_refused(packed, tmp_path):
    image, ids = packed["exact"][0], ids_file(tmp_path, IDS)
    assert "Give either --ids or --text" in refused("eval", image)
    assert "Give either --ids or --text" in refused("eval", image, "--ids", ids, "--text", ids)
    assert "--length cuts a --text" in refused("eval", image, "--ids", ids, "--length", "4")
    assert "at most the context of the image, 512, not 513" in refused("eval", "demo", "--text", ids, "--length", "513")
    assert "must end in .npy, not 'l.bin'" in refused("eval", image, "--ids", ids, "--logits", str(tmp_path / "l.bin"))
    assert "a folder that exists" in refused("eval", image, "--ids", ids, "--logits", str(tmp_path / "no" / "l.npy"))
    assert "pack again with --config duo" in refused("eval", image, "--ids", ids, "--config", duo.name)
    assert "must end in .npy" in refused("run", "--model", image, "--prompt-ids", "1", "--logits", "x")


@pytest.mark.sim
def test_simulated(packed, tmp_path):
    """All logits come where the vocabulary is no larger than the candidates; else there is a sentence."""
    image, _ = packed["few"]
    ids = ids_file(tmp_path, IDS[:2] % 13)
    files = [str(tmp_path / f"{backend}.npy") for backend in ("sim", "golden")]
    simulated, golden = (evaluated(image, "--ids", ids, "--backend", backend, "--logits", file)
                         for backend, file in zip(("sim", "golden"), files))
    assert simulated == golden | {"backend": "sim"}
    assert np.load(files[0]).tobytes() == np.load(files[1]).tobytes()
    for name, kept in (("exact", 16), ("shortlist", 4)):
        output = refused("eval", packed[name][0], "--ids", ids, "--backend", "sim")
        assert f"logits of all 30 tokens, and an accelerator of configuration tiny returns the {kept} best" in output
        assert "choose --backend golden" in output


@pytest.mark.sim
@pytest.mark.parametrize("name", ["exact", "shortlist", "few"])
def test_logits_of_a_run(packed, tmp_path, name):
    image, golden = packed[name]
    found, tokens = {}, {}
    for backend in ("golden", "sim"):
        path = tmp_path / f"{backend}.npy"
        result = CliRunner().invoke(main, ["run", "--model", image, "--backend", backend, "--prompt-ids", "1,5,9,2,4,8", "-n", "3",
                                           "--logits", str(path), "--json"])
        assert result.exit_code == 0, result.output
        tokens[backend], found[backend] = json.loads(result.stdout)["tokens"], np.load(path)
        assert ("the other logits in" in result.stderr) == (backend == "sim" and name != "few")
    assert tokens["sim"] == tokens["golden"] and found["golden"].dtype == np.float32
    right = golden().forward([1, 5, 9, 2, 4, 8, *tokens["golden"][:-1]], 0)[-3:].numpy()
    assert found["golden"].tobytes() == right.tobytes()
    kept = ~np.isneginf(found["sim"])
    assert (kept.sum(1) == {"exact": 16, "shortlist": 4, "few": 13}[name]).all()
    assert (found["sim"][kept] == right[kept]).all()
