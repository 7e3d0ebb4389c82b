"""The image file: written by the generator, read by the generator, the host and the golden machine."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import SMALL, model_configs, random_checkpoint, random_image

from celosia.gen import fit, image
from celosia.gen.assemble import assemble
from celosia.gen.commands import pack, packer
from celosia.gen.golden.machine import Machine
from celosia.gen.manifest import build_manifest
from celosia.gen.model import HEADS, MATRICES, HeadPlan, PackedTensor
from celosia.gen.pack import unpack_matmul
from celosia.gen.place import ALIGN_BYTES
from celosia.gen.quantise import quantise
from celosia.host.image import Image
from celosia.hw.configs import CONFIGS, duo, kv260, tiny
from celosia.hw.isa import ISA_VERSION


@pytest.fixture(scope="module")
def small():
    return random_image(SMALL, tiny)


def test_both_readers_read_what_was_written(small, tmp_path):
    data, assembled, _ = small
    image.write(tmp_path / "small.img", data)
    assert list(tmp_path.iterdir()) == [tmp_path / "small.img"]
    header, payload = image.parse((tmp_path / "small.img").read_bytes())
    found = Image.open(tmp_path / "small.img")
    assert header == found.header == json.loads(json.dumps(assembled.header))
    assert payload == found.payload.tobytes() == assembled.payload
    assert Image.open(data).digest == found.digest


@settings(max_examples=15, deadline=None)
@given(config=model_configs(), accel=st.sampled_from([tiny, duo, kv260]), seed=st.integers(0, 99))
def test_header_describes_the_payload(config, accel, seed):
    data, assembled, model = random_image(config, accel, seed)
    header = assembled.header
    assert header["payload_bytes"] == len(assembled.payload) and header["config_digest"] == accel.digest
    end = 0
    for segment in header["segments"]:
        assert segment["offset"] == end and segment["offset"] % ALIGN_BYTES == 0
        end += segment["bytes"]
        part = assembled.payload[segment["offset"]:end]
        assert hashlib.sha256(part).hexdigest() == segment["sha256"]
    assert end == len(assembled.payload)
    for program in assembled.programs.values():
        where = header["programs"][program.name]
        assert assembled.payload[where["offset"]:][:64 * where["count"]] == program.encode()
    layout = assembled.placement.layout
    n_regions = config.n_layers * config.n_kv_heads * accel.n_ports
    assert header["cache_bytes"] >= n_regions * -(-layout.context // accel.n_ports) * layout.record_bytes
    regions, _ = layout.cache()
    starts = sorted(r.offset + p * r.port_stride for r in regions.values() for p in range(accel.n_ports))
    assert all(b - a >= -(-layout.context // accel.n_ports) * layout.record_bytes for a, b in zip(starts, starts[1:]))


@settings(max_examples=10, deadline=None)
@given(config=model_configs(), accel=st.sampled_from([tiny, duo, kv260]))
def test_matrices_lie_where_the_placement_says(config, accel):
    _, assembled, model = random_image(config, accel)
    payload = np.frombuffer(assembled.payload, np.uint8)
    matrix = assembled.placement.matrices["layer0.down"]
    assert matrix.address.offset % ALIGN_BYTES == 0 and matrix.address.port_stride % ALIGN_BYTES == 0
    ports = [payload[matrix.address.offset + p * matrix.address.port_stride:][:matrix.address.port_bytes]
             for p in range(accel.n_ports)]
    trits = unpack_matmul(ports, 1, config.hidden_size, config.ffn_size, accel)[0]
    assert np.array_equal(trits, model.layers[0].down.weights.numpy())


@pytest.mark.parametrize("kind", HEADS)
def test_tensors_say_what_became_of_them(kind):
    loaded = random_checkpoint(SMALL)
    model = quantise(loaded, HeadPlan(kind, 4, 2), 3)
    found = {each.name: each for each in assemble(model, tiny, 32).tensors}
    heads = ["coarse", "head"] if kind == "shortlist" else ["head"]
    assert list(found) == ["embedding", *(f"layer{i}.{name}" for i in range(SMALL.n_layers) for name in MATRICES), *heads]
    assert found["embedding"] == PackedTensor("embedding", 30, 24, 0, 0.0, "float32")
    for i, layer in enumerate(loaded.layers):
        for name in MATRICES:
            each, weight, became = found[f"layer{i}.{name}"], layer[name], getattr(model.layers[i], name)
            wrong = weight.double() - became.weights.double() * became.scale.double()[:, None]
            assert (each.rows, each.columns, each.planes, each.source) == (*SMALL.shape(name), 3, "float32")
            assert each.relative_error == pytest.approx(float(wrong.norm() / weight.double().norm()))
    assert found["head"].planes == (2 if kind == "ternary" else 5)
    assert (0.05 if kind == "ternary" else 0.001) < found["head"].relative_error < (0.3 if kind == "ternary" else 0.01)
    assert kind != "shortlist" or found["coarse"].planes == 2 and 0.05 < found["coarse"].relative_error < 0.3


def test_same_model_same_bytes(small):
    assert random_image(SMALL, tiny)[0] == small[0]


def test_same_bytes_in_another_process(small, tree):
    """Whatever the hash seed and the folder; and no path is inside."""
    code = ("import hashlib; from random_models import *; from celosia.hw.configs import tiny; "
            "print(hashlib.sha256(random_image(SMALL, tiny)[0]).hexdigest())")
    env = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(tree / "tests" / "gen")}
    found = subprocess.run([sys.executable, "-c", code], cwd="/", env=env, capture_output=True, text=True, timeout=120)
    assert found.stdout.strip() == hashlib.sha256(small[0]).hexdigest(), found.stderr
    assert str(tree).encode() not in small[0]


READERS = [image.parse, Image.open, lambda data: Machine.of_image(data, tiny)]


def refusals(data):
    """The sentences of both file readers; the machine refuses too."""
    sentences = []
    for reader in READERS:
        with pytest.raises(ValueError) as error:
            reader(data)
        sentences.append(str(error.value))
    assert all("\n" not in sentence for sentence in sentences)
    return sentences[:2]


@given(st.data())
def test_every_damaged_byte_is_noticed(small, data):
    raw = bytearray(small[0])
    at = data.draw(st.one_of(st.integers(0, len(raw) - 1), st.integers(0, 3000)))
    raw[at] ^= data.draw(st.integers(1, 255))
    refusals(bytes(raw))


@given(st.data())
def test_every_truncation_is_noticed(small, data):
    size = data.draw(st.one_of(st.integers(0, len(small[0]) - 1), st.integers(0, 5000)))
    for sentence in refusals(small[0][:size]):
        assert "truncated" in sentence or size < 16


def test_sentences():
    data = random_image(SMALL, tiny)[0]
    assert all("begin" in s for s in refusals(b"PK\3\4" + bytes(100)))
    assert all("format version" in s.lower() and "not 9" in s for s in refusals(data[:8] + b"\x09" + data[9:]))
    assert all("corrupted" in s for s in refusals(data[:-40] + b"!" + data[-39:]))
    assert all("corrupted" in s for s in refusals(data + b"more"))


def test_other_configuration_and_instruction_set(small):
    found = Image.open(small[0])
    found.check(config="tiny", digest=tiny.digest, isa_version=ISA_VERSION)
    with pytest.raises(ValueError) as error:
        found.check(config="kv260", digest=kv260.digest, isa_version=ISA_VERSION)
    assert str(error.value) == (f"image was packed for configuration tiny ({tiny.digest}), this accelerator is "
                                f"kv260 ({kv260.digest}): pack again with --config kv260")
    with pytest.raises(ValueError, match=f"instruction set {ISA_VERSION}, this accelerator has {ISA_VERSION + 1}"):
        found.check(config="tiny", digest=tiny.digest, isa_version=ISA_VERSION + 1)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.img"
    image.write(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        image.write(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_pack_command(tree, tmp_path):
    checkpoint, output = tree / "models" / "demo", tmp_path / "demo.img"
    result = CliRunner().invoke(pack, [str(checkpoint), "-o", str(output), "--config", "tiny", "--context", "64"])
    assert result.exit_code == 0, result.output
    assert Image.open(output).header["context"] == 64 and output.read_bytes() == packer("demo", "tiny", 64)
    for words in ("qkv", "1.67", "KV cache (int8): 864 bytes a position", "beats of 8 bytes"):
        assert words in result.output


def test_pack_command_makes_any_head(tree, tmp_path):
    sizes = {}
    for head, planes in (("exact", 1), ("ternary", 1), ("ternary", 2), ("shortlist", 1)):
        output = tmp_path / f"{head}{planes}.img"
        result = CliRunner().invoke(pack, [str(tree / "models" / "demo"), "-o", str(output), "--context", "64", "--head", head,
                                           "--candidates", "3", "--shortlist-planes", str(planes)])
        assert result.exit_code == 0, result.output
        header = Image.open(output).header
        assert header["head"] == {"kind": head, "candidates": 3, "planes": planes}
        sizes[head, planes] = {s["name"]: s["bytes"] for s in header["segments"] if s["name"] in ("coarse", "head")}
    exact = sizes["exact", 1]["head"]
    assert sizes["ternary", 1] == {"head": exact // 5} and sizes["ternary", 2] == {"head": 2 * exact // 5}
    assert sizes["shortlist", 1] == {"coarse": exact // 5, "head": exact}


def test_large_vocabularies_get_a_shortlist():
    model = replace(SMALL, vocab_size=fit.SHORTLIST_VOCAB)
    assert fit.head_plan(model, tiny) == HeadPlan("shortlist", 16, 1)
    assert fit.head_plan(model, duo) == HeadPlan("shortlist", duo.top_k, 1)
    assert fit.head_plan(SMALL, tiny).kind == "exact"


@pytest.mark.parametrize("arguments, sentence", [
    (["nowhere"], "A checkpoint must be a directory with a config.json"),
    (["{demo}", "--config", "huge"], "Configuration must be one of tiny, duo, kv260, not 'huge'"),
    (["{demo}", "--head", "shortlist", "--candidates", "17"], "A shortlist must have at most 16 candidates for a vocabulary"),
    (["{demo}", "--head", "shortlist", "--candidates", "0"], "The candidates of a shortlist must be at least 1, not 0"),
    (["{demo}", "--head", "ternary", "--shortlist-planes", "5"], "The planes of a shortlist must be 1 to 4, not 5"),
    (["{demo}", "--context", "100000"], "Context must be 1 to 512 positions for this model, not 100000"),
])
def test_pack_command_refuses_in_one_sentence(tree, tmp_path, arguments, sentence):
    arguments = [a.format(demo=tree / "models" / "demo") for a in arguments]
    result = CliRunner().invoke(pack, [*arguments, "-o", str(tmp_path / "x.img")])
    assert result.exit_code == 1 and sentence in result.output and not list(tmp_path.iterdir())


def test_packer_knows_shipped_models():
    with pytest.raises(ValueError, match="Model must be a checkpoint or one of demo, digits-w1a1, .*, not 'nothing'"):
        packer("nothing", "tiny")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_manifest_is_plain_json(config):
    manifest = build_manifest(config)
    assert json.loads(json.dumps(manifest)) == manifest
    assert manifest["digest"] == config.digest and manifest["registers"]["ID"] == 0
    assert manifest["errors"]["WATCHDOG"] == 7
