"""Packing is a stream: its peak memory is that of a layer, the head and a block of rows, however large the checkpoint is."""

import json
import os
import subprocess
import sys
import time

import pytest
from big_checkpoints import write_bitnet

from celosia.gen.model import ModelConfig
from celosia.gen.shapes import SHAPES
from celosia.host.image import Image

MIB = 1 << 20
# Peak of the process itself: that of getrusage would begin with the memory of the process that started it.
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


def packed(*arguments):
    """{"before", "peak"}: peak bytes of a process after its imports and after ``celosia pack`` of the arguments."""
    found = subprocess.run([sys.executable, "-c", SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=3000,
                           env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert found.returncode == 0 and found.stderr == "", found.stderr
    return json.loads(found.stdout.splitlines()[-1])


def test_peak_memory_is_not_that_of_the_checkpoint(tmp_path):
    config = ModelConfig(hidden_size=640, ffn_size=1728, n_layers=12, n_heads=10, n_kv_heads=5, head_dim=64, vocab_size=32_000,
                         max_positions=256)
    n_bytes = write_bitnet(tmp_path / "model", config, packed=False, n_shards=3)
    found = packed(tmp_path / "model", "-o", tmp_path / "x.img", "--config", "kv260")
    print(n_bytes/MIB, found["before"]/MIB, found["peak"]/MIB, (tmp_path / "x.img").stat().st_size/MIB)


@pytest.mark.slow
def test_bitnet_2b4t_packs_in_4_gib(tmp_path):
    n_bytes = write_bitnet(tmp_path / "model", SHAPES["bitnet-2b4t"].model, packed=True, n_shards=4)
    start = time.monotonic()
    found = packed(tmp_path / "model", "-o", tmp_path / "x.img", "--config", "kv260")
    image = Image.open(tmp_path / "x.img")
    print(f"{n_bytes:,} bytes of tensors, image of {(tmp_path / 'x.img').stat().st_size:,} bytes, peak {found['peak'] / MIB:,.0f} "
          f"MiB, {time.monotonic() - start:.0f} s")
    assert image.header["vocab"] == 128_256
    assert found["peak"] < 4 << 30
