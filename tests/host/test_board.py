"""The driver under PYNQ, against a simulated device at PYNQ's own seams (``pynq_device.py``); no board is needed."""

import json
import os
import subprocess
import sys

import numpy as np
import pynq
import pytest
from click.testing import CliRunner
from pynq_device import REGISTER_BASE, FakeClocks, FakeTime, SimulatedBoard, make_overlay, make_root

from celosia.gen.manifest import build_manifest
from celosia.host import board, linux
from celosia.host.accelerator import Accelerator
from celosia.host.cli import image_of, main
from celosia.host.device import open_device
from celosia.host.doctor import examine
from celosia.host.errors import CelosiaError, DeviceTimeout
from celosia.hw.configs import tiny

PROMPT = list(b"The people of the United States ")


@pytest.fixture(scope="module")
def image():
    return image_of("demo", "tiny")


@pytest.fixture
def clocks(monkeypatch):
    clocks = FakeClocks()
    monkeypatch.setattr(pynq.Clocks, "_real_instance", clocks, raising=False)
    return clocks


@pytest.fixture(params=["golden"])
def simulated(request, tmp_path, monkeypatch, clocks):
    monkeypatch.delenv("BOARD", raising=False)
    monkeypatch.delenv("CELOSIA_BITSTREAMS", raising=False)
    fabric = open_device(request.param, config="tiny", memory_bytes=32 << 20)
    time = FakeTime(fabric)
    monkeypatch.setattr(board, "time", time)
    simulated = SimulatedBoard(make_root(tmp_path / "root"), fabric, time, clocks)
    monkeypatch.setattr(pynq.Device, "_active_device", simulated, raising=False)
    yield simulated
    fabric.close()


@pytest.fixture
def folder(simulated, tmp_path):
    return make_overlay(tmp_path / "bitstreams", build_manifest(tiny))


@pytest.fixture
def opened(simulated, folder):
    with Accelerator.open("board", config="tiny", bitstreams=folder.parent, root=simulated.root) as accel:
        yield accel


def refused(simulated, folder, sentence, kind=CelosiaError):
    with pytest.raises(kind, match=sentence):
        board.open_device("tiny", bitstreams=folder.parent, root=simulated.root)
    linux.Lock(simulated.root).release()      # nobody holds it any more


def test_text_is_the_golden_machine_s(opened, simulated, image):
    with Accelerator.open("golden", config="tiny") as golden:
        golden.load(image)
        expected = list(golden.generate(PROMPT, 12))
    opened.load(image)
    assert list(opened.generate(PROMPT, 12)) == expected
    assert all(cacheable == 1 for _, cacheable in simulated.default_memory.requests)
    assert simulated.downloads == 1 and isinstance(opened.device._ip, board.CelosiaIP)
    assert opened.device.report["counted_clock"].startswith("250.0 MHz")


def test_what_the_accelerator_writes_is_seen_after_invalidate(opened, image):
    opened.load(image)
    opened.prefill(PROMPT)
    device = opened.device
    base, n_bytes = device.read32(device.manifest["registers"]["CACHE_BASE"]), image.header["cache_bytes"]
    assert np.array_equal(device.peek(base, n_bytes), device.overlay.device.fabric.peek(base, n_bytes))


def test_buffers_are_given_back(opened, simulated, image):
    opened.load(image)
    opened.load(image)
    assert len(simulated.default_memory.freed) == 2
    opened.close()
    assert len(simulated.default_memory.freed) == 4
    linux.Lock(simulated.root).release()


def test_no_dirty_line_is_left_over_a_new_buffer(opened, simulated):
    """Written back later, it would destroy what the accelerator wrote."""
    address, array = opened.device.allocate(5000)
    assert np.array_equal(simulated.fabric.peek(address, 5000), array)


def test_flush_of_an_address_that_is_no_buffer_s(opened):
    address, _ = opened.device.allocate(5000)
    with pytest.raises(ValueError, match="must lie in one allocated buffer"):
        opened.device.flush(address + 4096, 4097)


def test_no_bitstream(simulated, tmp_path):
    refused(simulated, tmp_path / "nothing" / "x", "configuration tiny must lie in .* build one with `celosia vivado --config ti",
            FileNotFoundError)


@pytest.mark.parametrize("suffix", [".bit", ".hwh"])
def test_a_file_of_another_build(simulated, folder, suffix):
    (folder / f"celosia_tiny{suffix}").write_bytes(b"yesterday's")
    refused(simulated, folder, f"SHA-256 of .*celosia_tiny{suffix} must be")
    assert simulated.downloads == 0


@pytest.mark.parametrize("suffix", [".bit", ".hwh"])
def test_a_file_that_is_missing(simulated, folder, suffix):
    (folder / f"celosia_tiny{suffix}").unlink()
    refused(simulated, folder, f"celosia_tiny{suffix} must lie beside the manifest")


@pytest.mark.parametrize("suffix", [".xsa", ".dtbo"])
def test_files_that_mislead_pynq(simulated, folder, suffix):
    (folder / f"celosia_tiny{suffix}").write_bytes(b"")
    refused(simulated, folder, f"celosia_tiny{suffix} must not lie beside the bitstream")
    assert simulated.downloads == 0


@pytest.mark.parametrize("text, sentence", [("{", "must be JSON"), ("{}", "must have config_name")])
def test_a_damaged_manifest(simulated, folder, text, sentence):
    (folder / "celosia_tiny.json").write_text(text)
    refused(simulated, folder, sentence)


def test_several_overlays(simulated, folder, monkeypatch):
    make_overlay(folder.parent, build_manifest(tiny) | {"digest": "00000000"})
    refused(simulated, folder, "must be meant, and there are 2")
    monkeypatch.setenv("CELOSIA_BITSTREAMS", str(folder))
    board.open_device("tiny", root=simulated.root).close()


def test_no_device_of_pynq(simulated, folder, monkeypatch):
    monkeypatch.delattr(pynq.Device, "_active_device")
    monkeypatch.setattr(pynq.Device, "_devices", [], raising=False)
    refused(simulated, folder, "PYNQ must find a device, and says 'No Devices Found'")


def test_fpga_that_does_not_operate(simulated, folder):
    simulated.state_after_download = "write complete error"
    refused(simulated, folder, "must say operating after the download, not write complete error")


@pytest.mark.parametrize("changes, sentence", [
    ({"vlnv": "xilinx.com:module_ref:other:1.0"}, "must have one block xilinx.com:module_ref:celosia:1.0, not 0"),
    ({"base": REGISTER_BASE + 0x10000}, "must be at 0xA0000000 as the manifest says, not at 0xA0010000"),
])
def test_a_hardware_description_of_other_hardware(simulated, tmp_path, changes, sentence):
    refused(simulated, make_overlay(tmp_path / "bitstreams", build_manifest(tiny), **changes), sentence)


@pytest.mark.parametrize("pll_mhz, works", [(1000.0, True), (1019.0, True), (1021.0, False), (979.0, False), (1500.0, False)])
def test_clock_by_registers(simulated, folder, clocks, pll_mhz, works):
    clocks.pll_mhz = pll_mhz
    simulated.counter_mhz = 250.0
    if works:
        board.open_device("tiny", bitstreams=folder.parent, root=simulated.root).close()
    else:
        refused(simulated, folder, f"must be 250 MHz as built, not {pll_mhz / 4:.1f} by the clock registers")


def test_clock_by_counting(simulated, folder):
    simulated.counter_mhz = 100.0
    refused(simulated, folder, "must be 250 MHz as built, not 100.0 by counting")


def test_hardware_without_the_counter(simulated, tmp_path):
    folder = make_overlay(tmp_path / "bitstreams", build_manifest(tiny), ticks=False)
    device = board.open_device("tiny", bitstreams=folder, root=simulated.root)
    assert device.report["counted_clock"] is None
    device.close()


@pytest.mark.parametrize("key, value, register", [("digest", "00000005", "CONFIG"), ("isa_version", 99, "VERSION")])
def test_hardware_of_another_build(simulated, folder, key, value, register):
    path = folder / "celosia_tiny.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    refused(simulated, folder, f"Register {register} must read 0x.* the loaded hardware is another one")


def test_a_register_port_of_another_width(simulated, folder, monkeypatch):
    monkeypatch.setattr(simulated.fabric, "write32", lambda offset, value: None)
    refused(simulated, folder, "SCRATCH must read back 0x5a5aa5a5, not 0x00000000")


def test_too_little_contiguous_memory(simulated, folder, image):
    make_root(simulated.root, cma_total_kb=2048, cma_free_kb=100)
    with Accelerator.open("board", config="tiny", bitstreams=folder, root=simulated.root) as accel:
        with pytest.raises(MemoryError, match=r"contiguous memory, of which 102,400 of 2,097,152 bytes are free: .* cma=\d+M"):
            accel.load(image)


def test_contiguous_memory_in_pieces(opened, simulated, monkeypatch):
    def none(*arguments, **options):
        raise RuntimeError("Allocate failed: -12")
    monkeypatch.setattr(simulated.default_memory, "allocate", none)
    with pytest.raises(MemoryError, match="in one piece of contiguous memory"):
        opened.device.allocate(1 << 20)


def test_a_kernel_that_says_nothing_of_contiguous_memory(tmp_path):
    assert linux.contiguous_memory(tmp_path) is None
    linux.need_contiguous(1 << 40, tmp_path)


def test_a_hang_ends_within_the_limit(opened, simulated, image):
    opened.load(image)
    simulated.hang = 1
    start, device = simulated.time.now_s, opened.device
    assert device.wait(25_000_000) is False
    assert 0.1 <= simulated.time.now_s - start < 0.102
    with pytest.raises(DeviceTimeout, match="must be quiet"):
        opened.prefill(PROMPT)
    with pytest.raises(CelosiaError, match="its buffers are kept"):
        opened.close()
    assert simulated.default_memory.freed == [] and len(board._kept) == 2
    board._kept.clear()
    linux.Lock(simulated.root).release()


def test_an_overlay_that_is_loaded_no_more(opened, simulated, image):
    opened.load(image)
    simulated.timestamp = "another one's"
    with pytest.raises(CelosiaError, match="must still be loaded"):
        opened.prefill(PROMPT)


def test_a_second_process(opened, simulated, folder):
    script = ("import sys; from celosia.host.linux import Lock\n"
              "try: Lock(sys.argv[1])\nexcept RuntimeError as error: print(error)")
    done = subprocess.run([sys.executable, "-c", script, str(simulated.root)], capture_output=True, text=True, timeout=60,
                          check=True)
    assert f"process {os.getpid()} has it" in done.stdout
    with pytest.raises(CelosiaError, match="one process at a time"):
        board.open_device("tiny", bitstreams=folder, root=simulated.root)


def doctor(simulated, image, **options):
    lines = []
    passed = examine("board", "tiny", lambda model, config: image, lines.append, root=simulated.root, **options)
    return passed, lines


def test_doctor(simulated, folder, image, monkeypatch):
    monkeypatch.setenv("CELOSIA_BITSTREAMS", str(folder))
    passed, lines = doctor(simulated, image)
    assert passed, lines
    kinds = [line[3:16].strip() for line in lines]
    assert kinds == ["pass"] * 6 + ["not available"] * 2 + ["pass"] * 2      # the golden device behind it counts nothing
    assert "Simulated board" in lines[0] and "409,600,000 of 512,000,000 bytes free" in lines[1]
    assert "250 MHz by the clock registers" in lines[3] and "MHz counted" in lines[3]
    assert "PS 45.5 C, 6.21 W" in lines[9]


@pytest.mark.sim
@pytest.mark.parametrize("simulated", ["sim"], indirect=True)
def test_doctor_of_hardware_that_counts(simulated, folder, image, monkeypatch):
    """The accelerator's Verilog behind PYNQ's registers and buffers."""
    monkeypatch.setenv("CELOSIA_BITSTREAMS", str(folder))
    passed, lines = doctor(simulated, image)
    assert passed, lines
    assert [line[3:16].strip() for line in lines] == ["pass"] * 10


@pytest.mark.parametrize("step, harm", [
    (2, lambda simulated, folder: make_root(simulated.root, cma_free_kb=1)),
    (3, lambda simulated, folder: (folder / "celosia_tiny.bit").write_bytes(b"")),
    (3, lambda simulated, folder: setattr(simulated, "state_after_download", "unknown")),
    (4, lambda simulated, folder: setattr(simulated.clocks, "pll_mhz", 1500.0)),
    (4, lambda simulated, folder: setattr(simulated, "counter_mhz", 100.0)),
    (5, lambda simulated, folder: simulated.fabric._registers.update({8: 5})),
    (6, lambda simulated, folder: setattr(simulated, "missing_bit", 1 << 27)),
    (10, lambda simulated, folder: (simulated.root / "sys/class/hwmon/hwmon1/temp1_input").write_text("81000\n")),
])
def test_doctor_names_the_step(simulated, folder, image, monkeypatch, step, harm):
    monkeypatch.setenv("CELOSIA_BITSTREAMS", str(folder))
    harm(simulated, folder)
    passed, lines = doctor(simulated, image)
    assert not passed and lines[-1].startswith(f"{step:2} FAIL"), lines
    assert len(lines) == step
    linux.Lock(simulated.root).release()


def test_doctor_without_the_golden_machine(simulated, folder, image, monkeypatch, tmp_path):
    """The tokens come from a file that was written where the golden machine is."""
    monkeypatch.setenv("CELOSIA_BITSTREAMS", str(folder))
    kept = tmp_path / "demo.json"
    lines = []
    assert examine("golden", "tiny", lambda model, config: image, lines.append, save=kept)
    assert f"written to {kept}" in lines[8]
    passed, lines = doctor(simulated, image, expect=kept)
    assert passed and "bit for bit" in lines[8]
    found = json.loads(kept.read_text())
    found["steps"][3][1] = "00" + found["steps"][3][1][2:]
    kept.write_text(json.dumps(found))
    passed, lines = doctor(simulated, image, expect=kept)
    assert not passed and lines[-1].startswith(" 9 FAIL") and "Candidates of step 3" in lines[-1]
    kept.write_text(json.dumps(found | {"image_sha256": "0"}))
    passed, lines = doctor(simulated, image, expect=kept)
    assert not passed and "write it again for this image" in lines[-1]


def test_command_line(simulated, folder, image, monkeypatch):
    monkeypatch.setenv("CELOSIA_BITSTREAMS", str(folder))
    monkeypatch.setitem(board.open_device.__kwdefaults__, "root", simulated.root)
    result = CliRunner().invoke(main, ["run", "--backend", "board", "--config", "tiny", "--prompt", "The", "-n", "3", "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["backend"] == "board" and len(printed["tokens"]) == 3
