"""Packing is a stream: its peak memory is that of a layer, the head and a block of rows, however large the checkpoint is."""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from big_checkpoints import write_bitnet, write_gguf, write_llama2c, write_pickle
from click.testing import CliRunner
from random_models import SMALL, random_checkpoint

from celosia.gen import image
from celosia.gen.assemble import assemble
from celosia.gen.checkpoint import CheckpointError, load
from celosia.gen.commands import pack
from celosia.gen.fit import DoesNotFit
from celosia.gen.model import Checkpoint, ModelConfig
from celosia.gen.quantise import quantise
from celosia.gen.rows import Rows
from celosia.gen.shapes import SHAPES
from celosia.gen.spool import Spool
from celosia.host.image import Image
from celosia.hw.configs import tiny

MIB = 1 << 20
# The peak of the process itself: that of getrusage begins with the memory of the process that started it.
SCRIPT = """
import json, sys
from celosia.gen.commands import pack
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024
before = peak()
pack.main(sys.argv[1:], standalone_mode=False)
print(json.dumps({"before": before, "peak": peak()}))
"""


def packed(source, output):
    """{"before", "peak"}: peak bytes of a process after its imports, and after it has packed a checkpoint for ``kv260``."""
    command = [sys.executable, "-c", SCRIPT, str(source), "-o", str(output), "--config", "kv260", "--planes", "1"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=3000, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert found.returncode == 0 and found.stderr == "", found.stderr       # no bar where there is no terminal
    return json.loads(found.stdout.splitlines()[-1])


LAYERED = ModelConfig(hidden_size=640, ffn_size=1728, n_layers=20, n_heads=10, n_kv_heads=5, head_dim=64, vocab_size=32_000,
                      max_positions=256)
PLAIN = replace(LAYERED, n_layers=10, vocab_size=24_000, act="silu", sub_norms=False)
WRITERS = {
    "model": lambda folder: write_bitnet(folder, LAYERED, packed=False, n_shards=3),
    "pickle": lambda folder: write_pickle(folder, replace(LAYERED, n_layers=10)),
    "model.gguf": lambda path: write_gguf(path, PLAIN),
    "model.bin": lambda path: write_llama2c(path, PLAIN)}


@pytest.mark.parametrize("name", WRITERS)
def test_peak_memory_is_not_that_of_the_checkpoint(tmp_path, name):
    """130 to 150 MiB, most of them the int8 head and blocks. All layers in int8 would take 410, a file that stays mapped 220,
    what packing took before it was a stream 1,100."""
    n_bytes = WRITERS[name](tmp_path / name)
    found = packed(tmp_path / name, tmp_path / "x.img")
    assert n_bytes > 110 * MIB and (tmp_path / "x.img").stat().st_size > 90 * MIB
    assert found["peak"] - found["before"] < 190 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "master"])
def test_bitnet_2b4t_packs_in_4_gib(tmp_path, is_packed):
    n_bytes = write_bitnet(tmp_path / "model", SHAPES["bitnet-2b4t"].model, packed=is_packed, n_shards=4)
    start = time.monotonic()
    found = packed(tmp_path / "model", tmp_path / "x.img")
    print(f"{n_bytes:,} bytes of tensors, image of {(tmp_path / 'x.img').stat().st_size:,} bytes: peak {found['peak'] / MIB:,.0f} "
          f"MiB, {time.monotonic() - start:.0f} s")
    assert Image.open(tmp_path / "x.img").header["vocab"] == 128_256
    assert found["peak"] < 4 << 30
    shutil.rmtree(tmp_path)         # gigabytes that pytest would keep


def test_a_checkpoint_that_ends_badly_leaves_nothing(tmp_path):
    """The last layer is bad, so that most of the image has been written; an image of before stays as it is."""
    config = replace(SMALL, head_dim=6, n_layers=3)
    write_pickle(tmp_path / "model", config)
    file = tmp_path / "model" / "pytorch_model.bin"
    tensors = torch.load(file, weights_only=True)
    tensors["model.layers.2.mlp.down_proj.weight"][3, 4] = float("nan")
    torch.save(tensors, file)
    (tmp_path / "x.img").write_bytes(b"old")
    result = CliRunner().invoke(pack, [str(tmp_path / "model"), "-o", str(tmp_path / "x.img")])
    assert result.exit_code == 1 and "model.layers.2.mlp.down_proj.weight must hold finite numbers" in result.output
    assert (tmp_path / "x.img").read_bytes() == b"old" and sorted(p.name for p in tmp_path.iterdir()) == ["model", "x.img"]


def test_the_folder_of_the_image_must_exist(tmp_path):
    result = CliRunner().invoke(pack, ["nowhere", "-o", str(tmp_path / "gone" / "x.img")])
    assert result.exit_code == 1
    assert result.output == f"Error: The folder of the image must exist, and {tmp_path / 'gone'} does not\n"


def test_sizes_are_checked_before_weights_are_read():
    config = replace(SMALL, ffn_size=100_000)

    def read(first, last):
        raise AssertionError("weights were read")

    class Unread:
        __getitem__ = __len__ = __iter__ = read

    rows = Rows((config.vocab_size, config.hidden_size), read)
    with pytest.raises(DoesNotFit, match="ffn 100000"):
        assemble(quantise(Checkpoint(config, rows, Unread(), torch.ones(24), rows)), tiny)


def test_progress_names_every_step_before_it_is_done():
    steps = []
    assembled = assemble(quantise(random_checkpoint(SMALL)), tiny, 32, lambda name, total: steps.append((name, total)))
    names = [segment["name"] for segment in assembled.header["segments"] if not segment["name"].endswith(".scales")]
    assert [name for name, _ in steps] == [*names[:-3], "programs"] and {total for _, total in steps} == {len(steps)}


@pytest.mark.parametrize("numbers", [torch.zeros(1).expand(30, 24), torch.zeros(30, 24).to_sparse()], ids=["expanded", "sparse"])
def test_a_pickle_may_not_hold_fewer_numbers_than_it_says(tmp_path, numbers):
    write_pickle(tmp_path / "model", SMALL)
    file = tmp_path / "model" / "pytorch_model.bin"
    torch.save(torch.load(file, weights_only=True) | {"model.embed_tokens.weight": numbers}, file)
    with pytest.raises(CheckpointError, match="^Tensor model.embed_tokens.weight must have all its numbers in pytorch_model.bin"):
        load(tmp_path / "model")


def test_a_pickle_may_not_be_compressed(tmp_path):
    write_pickle(tmp_path / "model", SMALL)
    file = tmp_path / "model" / "pytorch_model.bin"
    with zipfile.ZipFile(file) as stored:
        parts = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as compressed:
        for name, data in parts.items():
            compressed.writestr(name, data)
    with pytest.raises(CheckpointError, match="must be a pickle of nothing but tensors"):
        load(tmp_path / "model")


def test_a_long_json_is_not_read(tmp_path):
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match=f"^config.json must have at most {64 * MIB} bytes, not {1 << 40}$"):
        load(tmp_path)


def test_a_long_header_is_not_read(tmp_path):
    start = b"CELOSIA\0" + np.array([1, 2**32 - 1], "<u4").tobytes()
    with open(tmp_path / "x.img", "wb") as file:
        file.write(start)
        file.truncate(1 << 33)
    with pytest.raises(ValueError, match="must have at most 16777216 bytes, not 4294967295: the file is corrupted"):
        Image.open(tmp_path / "x.img")
    with pytest.raises(image.ImageError, match="must have at most 16777216 bytes, not 4294967295"):
        image.parse(start + bytes(100))


def test_rows_are_read_when_asked_for():
    asked, values = [], torch.arange(22.0).view(11, 2)

    def read(first, last):
        asked.append((first, last))
        return values[first:last]

    rows = Rows((11, 2), read)
    assert rows.shape == (11, 2) and len(rows) == 11 and not asked
    assert torch.equal(torch.cat(list(rows.split(4))), values) and asked == [(0, 4), (4, 8), (8, 11)]
    assert torch.equal(rows[:], values) and len(rows[5:3]) == 0 and torch.equal(rows[-3:], values[-3:])
    with pytest.raises(ValueError, match="one after the other, not with step 2"):
        rows[::2]


def test_a_spool_holds_what_was_written(tmp_path):
    spool = Spool(tmp_path)
    spool.write(3 * MIB + 5, b"late")
    spool.write(2, b"early")
    spool.grow(4 * MIB)
    assert len(spool) == 4 * MIB and not list(tmp_path.iterdir())
    wanted = bytearray(4 * MIB)
    wanted[2:7], wanted[3 * MIB + 5:3 * MIB + 9] = b"early", b"late"
    assert b"".join(spool.pieces()) == wanted and b"".join(spool.pieces(3, 5)) == b"ar"
    view = spool.view()
    spool.close()
    assert view == wanted
