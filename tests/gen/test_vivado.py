"""Projects for Vivado: what they ask for, on a stub of its commands; and that mistakes of every kind are seen."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from click.testing import CliRunner

from celosia.gen.verilog import accelerator, memory_tiles
from celosia.gen.vivado import project
from celosia.gen.vivado.boards import BOARDS
from celosia.gen.vivado.check import check, record
from celosia.gen.vivado.command import vivado
from celosia.gen.vivado.interfaces import interfaces
from celosia.host.overlays import find
from celosia.hw.configs import CONFIGS

SOUND = [(config, board) for config in ("tiny", "duo") for board in BOARDS if board != "pynq-z2"]


@pytest.fixture(scope="module")
def duo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("duo")
    project.write(folder, project.files(CONFIGS["duo"], BOARDS["kv260"]))
    return folder


def harmed(folder, tmp_path, name, old, new, count=1):
    """A copy of a project in which ``old`` was replaced in one file."""
    copy = tmp_path / "harmed"
    shutil.copytree(folder, copy)
    text = (copy / name).read_text()
    assert old in text, f"{name} must hold {old!r} for this test to mean something"
    (copy / name).write_text(text.replace(old, new, count))
    return copy


@pytest.mark.parametrize("config, board", SOUND)
@pytest.mark.parametrize("interconnect", ["smartconnect", "direct"])
def test_sound(tmp_path, config, board, interconnect):
    project.write(tmp_path, project.files(CONFIGS[config], BOARDS[board], interconnect=interconnect))
    assert check(tmp_path, BOARDS[board]) == []


def test_sound_with_four_ports(tmp_path):
    project.write(tmp_path, project.files(CONFIGS["kv260"], BOARDS["kv260"]))
    assert check(tmp_path, BOARDS["kv260"]) == []
    design = record(tmp_path, BOARDS["kv260"])
    assert [kind for kind in design.cells.values() if kind == "smartconnect"] == ["smartconnect"] * 5


BUILD, VERILOG = "build.tcl", "celosia_duo.v"
MISTAKES = {        # file, what stands there, what stands there instead, what must be said
    "width": (BUILD, "PSU__SAXIGP3__DATA_WIDTH 32", "PSU__SAXIGP3__DATA_WIDTH 128", "Memory port HP1 must be 32 bits"),
    "clock": (BUILD, "lappend clocks memory1/aclk ps/saxihp1_fpd_aclk", "lappend clocks memory1/aclk",
              "Pin ps/saxihp1_fpd_aclk must be on the clock"),
    "clock of a cell": (BUILD, " interrupts/s_axi_aclk", "", "Pin interrupts/s_axi_aclk must be on the clock"),
    "reset": (BUILD, " accelerator/rst_n}", "}", "Pin accelerator/rst_n must be on the reset"),
    "interrupt": (BUILD, "[get_bd_pins accelerator/irq]", "[get_bd_pins accelerator/other]",
                  "Pin accelerator/irq must be on the interrupt"),
    "address": (BUILD, "0xA0000000", "0x90000000", "must lie in the window of HPM0"),
    "overlap": (BUILD, "0xA0010000", "0xA0000000", "must not overlap"),
    "crossed ports": (BUILD, "get_bd_intf_pins ps/S_AXI_HP1_FPD", "get_bd_intf_pins ps/S_AXI_HP0_FPD", "share ps/S_AXI_HP0_FPD"),
    "loose port": (BUILD, "connect_bd_intf_net [get_bd_intf_pins accelerator/m_axi_1]",
                   "note [get_bd_intf_pins accelerator/m_axi_1]", "Interface m_axi_1 of the accelerator must be connected"),
    "other memory": (BUILD, "*DDR*", "*QSPI*", "must reach DDR"),
    "PLL": (BUILD, "SRCSEL IOPLL", "SRCSEL RPLL", "must be IOPLL, not RPLL"),
    "second master": (BUILD, "M_AXI_GP1 0", "M_AXI_GP1 1", "PSU__USE__M_AXI_GP1 of the processing system must be 0"),
    "frequency": (BUILD, "PL0_REF_CTRL__FREQMHZ 250", "PL0_REF_CTRL__FREQMHZ 300", "pl_clk0 must be 250 MHz, not 333"),
    "fan": (BUILD, "[get_bd_pins fan/Dout]", "[get_bd_pins fan/Din]", "The fan's pin must be driven"),
    "file": (BUILD, "celosia_duo.v", "another.v", "There is no file another.v"),
    "attribute": (VERILOG, '(* X_INTERFACE_INFO = "xilinx.com:interface:aximm:1.0 m_axi_1 ARLEN" *)', "",
                  "Pin m_axi_1_arlen must carry X_INTERFACE_INFO"),
    "width of an interface": (VERILOG, "m_axi_1, PROTOCOL AXI4, DATA_WIDTH 32", "m_axi_1, PROTOCOL AXI4, DATA_WIDTH 64",
                              "DATA_WIDTH of m_axi_1 must be the 32 bits"),
    "association": (VERILOG, "s_axil:m_axi_0:m_axi_1", "s_axil:m_axi_0", "The clock must be associated with"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_seen(duo, tmp_path, mistake):
    name, old, new, sentence = MISTAKES[mistake]
    problems = check(harmed(duo, tmp_path, name, old, new), BOARDS["kv260"])
    assert any(sentence in problem for problem in problems), problems


def test_missing_timing_ends_with_an_error(duo):
    design = record(duo, BOARDS["kv260"], setup_slack_ns=-0.05)
    assert design.status == 1 and "Timing must be met at 250 MHz" in design.message


def test_retuned_pll_ends_with_an_error(duo):
    design = record(duo, replace(BOARDS["kv260"], io_pll_feedback=90))
    assert design.status == 1 and "feedback divider 60" in design.message


def test_pins_and_attributes_agree():
    text, config = accelerator(CONFIGS["duo"]), CONFIGS["duo"]
    found = interfaces(text)
    assert set(found) == {"clk", "rst_n", "irq", "s_axil", "m_axi_0", "m_axi_1"}
    for name, interface in found.items():
        for logical, (pin, _, _) in interface.fields.items():
            assert pin == name or pin == f"{name}_{logical.lower()}"
    port = found["m_axi_0"]
    assert port.fields["ARADDR"] == ("m_axi_0_araddr", "output", config.addr_bits)
    assert port.fields["RDATA"] == ("m_axi_0_rdata", "input", 8 * config.port_bytes)
    assert "AWADDR" in port.fields and "AWADDR" not in found["m_axi_1"].fields
    assert found["m_axi_1"].parameters["READ_WRITE_MODE"] == "READ_ONLY"


def test_no_ultra_memory_has_first_contents():
    text = accelerator(CONFIGS["kv260"])
    styled = re.findall(r'\(\* ram_style = "ultra" \*\)\n.*\n(.*)\n', text)
    assert styled and not any("initial" in line for line in styled)
    assert memory_tiles(text)["ultra"] > 40


@pytest.mark.parametrize("board, config, sentence", [
    ("pynq-z2", "tiny", "AXI3"), ("ultra96v2", "kv260", "UltraRAM tiles, and Avnet Ultra96-V2 has 0")])
def test_refused(board, config, sentence):
    with pytest.raises(ValueError, match=sentence):
        project.files(CONFIGS[config], BOARDS[board])


def test_refused_clock():
    with pytest.raises(ValueError, match="whole fraction .* 250, 200, .* not 300"):
        project.files(CONFIGS["tiny"], BOARDS["kv260"], clock_mhz=300)


@pytest.mark.parametrize("name", ["build.tcl", "fan.xdc", "Makefile", "celosia_duo.dtso", "shell.json"])
def test_expected_text(duo, name, expected):
    expected(f"vivado_{name}", (duo / name).read_text())


def test_device_tree_compiles(duo, tmp_path):
    if shutil.which("dtc") is None and not os.environ.get("CI"):
        pytest.skip("dtc is not installed (Debian: apt install device-tree-compiler)")
    done = subprocess.run(["dtc", "-@", "-O", "dtb", "-o", tmp_path / "x.dtbo", duo / "celosia_duo.dtso"], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr


def test_collect(duo, tmp_path):
    with pytest.raises(ValueError, match="must have been built, and has no celosia_duo.bit"):
        project.collect(duo, tmp_path)
    built = tmp_path / "built"
    shutil.copytree(duo, built)
    for name in ("celosia_duo.bit", "celosia_duo.hwh", "celosia_duo.bit.bin", "celosia_duo.dtbo", "timing.rpt"):
        (built / name).write_bytes(name.encode())
    (built / "result.json").write_text('{"actual_clock_mhz": 250.0}')
    place = project.collect(built, tmp_path / "bitstreams")
    manifest = json.loads((place / "celosia_duo.json").read_text())
    assert place.name == f"kv260_duo_{CONFIGS['duo'].digest}" and manifest["build"] == {"actual_clock_mhz": 250.0}
    assert set(manifest["overlay_files"]) == {"celosia_duo.bit", "celosia_duo.hwh", "celosia_duo.bit.bin"}
    assert (place / "timing.rpt").exists()
    overlay = find("duo", place.parent)
    overlay.check()
    assert overlay.bit == place / "celosia_duo.bit" and overlay.manifest == manifest
    assert {path.name for path in (place / "without_pynq").iterdir()} == {"celosia_duo.bit.bin", "celosia_duo.dtbo", "shell.json"}


def test_command(tmp_path):
    done = CliRunner().invoke(vivado, ["--config", "tiny", "-o", str(tmp_path / "a")])
    assert done.exit_code == 0 and "checked against a recording stub" in done.output
    done = CliRunner().invoke(vivado, ["--config", "tiny", "--board", "pynq-z2", "-o", str(tmp_path / "b")])
    assert done.exit_code == 1 and "AXI3" in done.output and not (tmp_path / "b").exists()
    first = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    CliRunner().invoke(vivado, ["--config", "tiny", "-o", str(tmp_path / "c")])
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()}
