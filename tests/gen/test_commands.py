"""The commands configs and verilog. (The pack command: test_image.py.)"""

import hashlib
import json

import pytest
from click.testing import CliRunner

from celosia.gen.commands import configs, verilog
from celosia.hw.binary.configs import BINARY_CONFIGS
from celosia.hw.configs import CONFIGS


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verilog") / "tiny"
    result = CliRunner().invoke(verilog, ["--config", "tiny", "-o", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


def test_verilog_and_manifest(written):
    assert sorted(path.name for path in written.iterdir()) == ["celosia_tiny.v", "manifest.json"]
    text, manifest = (written / "celosia_tiny.v").read_text(), json.loads((written / "manifest.json").read_text())
    assert manifest["files"] == {"celosia_tiny.v": hashlib.sha256(text.encode()).hexdigest()}
    assert manifest["top"] == "celosia" and "\nmodule celosia(" in text
    assert manifest["ports"]["clk"] == {"direction": "input", "bits": 1}
    assert any("axi" in name for name in manifest["ports"])


def test_no_paths_inside(written, tree):
    for path in written.iterdir():
        assert str(tree) not in path.read_text() and "site-packages" not in path.read_text()


def test_unknown_configuration(tmp_path):
    result = CliRunner().invoke(verilog, ["--config", "huge", "-o", str(tmp_path / "x")])
    assert result.exit_code == 1 and not (tmp_path / "x").exists()
    assert "Configuration must be one of tiny, duo, kv260, binary-tiny, binary-kv260, not 'huge'" in result.output


def test_configs_are_listed():
    lines = CliRunner().invoke(configs).output.splitlines()
    tables = [lines[1:lines.index("")], lines[lines.index("") + 2:]]
    for table, configs_ in zip(tables, (CONFIGS, BINARY_CONFIGS)):
        assert [line.split()[:2] for line in table] == [[config.name, config.digest] for config in configs_.values()]
