"""Binary encoders from a checkpoint folder to labels: pack, image, host library and command line, on the golden machine."""

import json
import random

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image as Picture

from celosia.gen.binary import float_model
from celosia.gen.binary.integers import fold
from celosia.gen.binary.model import ImageInput, TextInput
from celosia.gen.binary.synthetic import random_config, random_model, write_checkpoint
from celosia.gen.commands import packer
from celosia.gen.device import open_device
from celosia.gen.golden.binary import model as golden
from celosia.host import Accelerator, Classifier, Image
from celosia.host.cli import main
from celosia.host.inputs import read_image

GREY = ImageInput(height=8, width=8, channels=1, patch=2, maximum=16)
COLOUR = ImageInput(height=6, width=4, channels=3, patch=2, maximum=255)
TEXT = TextInput(vocabulary="words", vocab_size=20)
BYTES = TextInput(vocabulary="bytes", vocab_size=256)


def a_checkpoint(folder, source, seed=0, **given):
    config = random_config(random.Random(seed), input=source, **{"labels": ("a", "b", "c"), "pooling": "mean"} | given)
    model = random_model(config, seed)
    return model, write_checkpoint(model, folder / "it")


def opened(path, config):
    accel = Classifier(open_device(config, memory_bytes=16 << 20))
    accel.load(Image.open(packer(str(path), config)))
    return accel


def pictures(source, n, seed=0):
    shape = (n, source.height, source.width) + ((source.channels,) if source.channels > 1 else ())
    return np.random.default_rng(seed).integers(0, source.maximum + 1, shape)


def patches(source, pixels):
    """Token by token, patch by patch, with nothing but loops."""
    p, found = source.patch, []
    for top in range(0, source.height, p):
        for left in range(0, source.width, p):
            found.append([int(value) for y in range(p) for x in range(p)
                          for value in np.atleast_1d(pixels[top + y, left + x])])
    return found


@pytest.mark.parametrize("config", ["binary-tiny", "binary-kv260"])
@pytest.mark.parametrize("source", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("pooling", ["mean", "first", "none"])
def test_images(config, source, pooling, tmp_path):
    """As many as fill two runs and a part of a third."""
    model, path = a_checkpoint(tmp_path, source, pooling=pooling, act_bits=8, n_layers=1)
    accel, integers = opened(path, config), fold(model)
    images = pictures(source, 2 * accel.batch + 1)
    results = accel.classify(images)
    tokens = np.array([patches(source, pixels) for pixels in images])
    lengths = [source.n_tokens] * len(images)
    wanted = golden.forward(integers, golden.image_rows(integers, tokens - source.zero), lengths)
    pooled = float_model.pooled(model.config, wanted.double(), lengths).numpy() * integers.head_scale + integers.head_bias
    floats = float_model.forward(model, float_model.image_rows(model, tokens), lengths)
    reference = float_model.pooled(model.config, floats, lengths)
    assert np.median(np.abs(pooled - reference.numpy())) < 0.1 * reference.std()
    for result, want, logits in zip(results, wanted.numpy(), pooled, strict=True):
        np.testing.assert_array_equal(result.integers, want)
        np.testing.assert_allclose(result.logits, logits, rtol=1e-12)
        np.testing.assert_allclose(result.scores, np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
        assert (np.array(result.label) == np.array(["a", "b", "c"])[logits.argmax(-1)]).all()


@pytest.mark.parametrize("source", [TEXT, BYTES], ids=["words", "bytes"])
def test_texts(source, tmp_path):
    model, path = a_checkpoint(tmp_path, source, max_tokens=8, act_bits=1)
    accel, integers = opened(path, "binary-tiny"), fold(model)
    texts = ["W2 w3, w19 (never seen)", "w4", "w5 " * 20, "w7 w6"]
    ids = [[2, 3, 19, 1, 1], [4], [5] * 8, [7, 6]] if source is TEXT else [list(text.lower().encode())[:8] for text in texts]
    for result, each in zip(accel.classify(texts), ids, strict=True):
        want = golden.forward(integers, golden.text_rows(integers, [each]), [len(each)])[0].numpy()
        np.testing.assert_array_equal(result.integers, want)
        np.testing.assert_array_equal(accel.classify([each])[0].integers, want)


def test_one_input_runs_the_shorter_program(tmp_path):
    _, path = a_checkpoint(tmp_path, TEXT, max_tokens=16)
    accel = opened(path, "binary-tiny")
    programs = accel.image.header["programs"]
    assert programs["single"]["sequences"] == 1 and programs["batch"]["sequences"] == accel.batch == 8
    assert programs["single"]["count"] < programs["batch"]["count"]


def test_images_are_the_same_bytes(tmp_path):
    _, path = a_checkpoint(tmp_path, GREY)
    first, second = (packer(str(path), "binary-tiny") for _ in range(2))
    assert first == second
    header = Image.open(first).header
    ends = [segment["offset"] + segment["bytes"] for segment in header["segments"]]
    assert [segment["offset"] for segment in header["segments"]] == [0, *ends[:-1]] and ends[-1] == header["payload_bytes"]


@pytest.mark.parametrize("entry, sentence", [
    (np.zeros((8, 9), int), "Images must have shape \\(8, 8, 1\\), not \\(8, 9\\)"),
    (np.full((8, 8), 17), "Pixels must be integers of 0 to 16, not 17 to 17"),
    (np.full((8, 8), 0.5), "Pixels must be integers of 0 to 16, not 0.5 to 0.5")])
def test_bad_images_are_one_sentence(entry, sentence, tmp_path):
    _, path = a_checkpoint(tmp_path, GREY, n_layers=1)
    with pytest.raises(ValueError, match=sentence):
        opened(path, "binary-tiny").classify([entry])


def test_bad_texts_are_one_sentence(tmp_path):
    _, path = a_checkpoint(tmp_path, TEXT, n_layers=1)
    accel = opened(path, "binary-tiny")
    with pytest.raises(ValueError, match="Text must have at least one word, and '...' has none"):
        accel.classify(["..."])
    with pytest.raises(ValueError, match="Token ids must be 0 to 19 and at least one, not \\[20\\]"):
        accel.classify([[20]])


def test_kinds_are_not_mixed_up(tmp_path):
    _, path = a_checkpoint(tmp_path, TEXT, n_layers=1)
    image = Image.open(packer(str(path), "binary-tiny"))
    with pytest.raises(ValueError, match="Model must be a decoder, and it is a classifier"):
        Accelerator(open_device("tiny", memory_bytes=1 << 20)).load(image)
    with pytest.raises(ValueError, match="must be one of the binary machine, such as binary-tiny, not tiny"):
        packer(str(path), "tiny")
    with pytest.raises(ValueError, match="A binary encoder takes no option kv"):
        packer(str(path), "binary-tiny", kv="int4")
    with pytest.raises(ValueError, match="this accelerator is binary-kv260"):
        Classifier(open_device("binary-kv260", memory_bytes=1 << 20)).load(image)


def run(*arguments):
    return CliRunner().invoke(main, ["run", "--backend", "golden", "--config", "binary-tiny", *map(str, arguments)])


def test_command_line_classifies_images(tmp_path):
    _, path = a_checkpoint(tmp_path, GREY)
    pixels = pictures(GREY, 1)[0]
    np.save(tmp_path / "it.npy", pixels.astype(np.uint8))
    Picture.fromarray(np.floor(pixels * 255 / 16 + 0.5).astype(np.uint8)).save(tmp_path / "it.png")
    found = [run("--model", path, "--json", "--image", tmp_path / name) for name in ("it.npy", "it.png")]
    assert [each.exit_code for each in found] == [0, 0], [each.output for each in found]
    results = [json.loads(each.output) for each in found]
    assert results[0] == results[1] and results[0]["label"] in "abc" and results[0]["cycles"] == 0
    assert sum(results[0]["scores"]) == pytest.approx(1)
    wanted = opened(path, "binary-tiny").classify([pixels])[0]
    assert results[0]["scores"] == wanted.scores.tolist()
    assert run("--model", path, "--image", tmp_path / "it.npy").output.startswith(wanted.label + "\n")


def test_command_line_classifies_texts(tmp_path):
    _, path = a_checkpoint(tmp_path, TEXT)
    output = tmp_path / "it.img"
    packed = CliRunner().invoke(main, ["pack", str(path), "-o", str(output), "--config", "binary-tiny", "--sequences", "2"])
    assert packed.exit_code == 0 and "program batch" in packed.output, packed.output
    assert Image.open(output).header["programs"]["batch"]["sequences"] == 2
    result = run("--model", output, "--json", "--text", "w3 w4")
    assert result.exit_code == 0 and json.loads(result.output)["labels"] == ["a", "b", "c"], result.output


@pytest.mark.parametrize("arguments, sentence", [
    ((), "it classifies what --text gives, and nothing else"),
    (("--image", "FILE"), "it classifies what --text gives, and nothing else"),
    (("--text", "w2", "--temperature", "1"), "--temperature is for models that continue a text"),
    (("--text", "w2", "--kv", "int4"), "A binary encoder takes no option kv")])
def test_command_line_says_what_is_wrong(arguments, sentence, tmp_path):
    _, path = a_checkpoint(tmp_path, TEXT, n_layers=1)
    (tmp_path / "file").write_bytes(b"no image")
    result = run("--model", path, *(tmp_path / "file" if each == "FILE" else each for each in arguments))
    assert result.exit_code and sentence in " ".join(result.output.split()), result.output


def test_pack_refuses_options_of_decoders(tmp_path):
    _, path = a_checkpoint(tmp_path, TEXT, n_layers=1)
    output = ["-o", str(tmp_path / "it.img")]
    result = CliRunner().invoke(main, ["pack", str(path), *output, "--config", "binary-tiny", "--head", "exact"])
    assert result.exit_code and "A binary encoder takes no option head" in result.output


def test_files_that_are_no_images(tmp_path):
    for name in ("it.png", "it.npy"):
        (tmp_path / name).write_bytes(b"no image")
        with pytest.raises(ValueError, match="Image .* must be"):
            read_image(tmp_path / name, {"channels": 1})


def test_other_commands_want_a_decoder(tmp_path):
    _, path = a_checkpoint(tmp_path, TEXT, n_layers=1)
    output = tmp_path / "it.img"
    assert CliRunner().invoke(main, ["pack", str(path), "-o", str(output), "--config", "binary-tiny"]).exit_code == 0
    for command in ("eval", "serve"):
        arguments = [command, "--model", str(output)] if command == "serve" else [command, str(output), "--text", str(output)]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code and "Model must be a decoder, and it is a classifier" in result.output, result.output
