# amaranth: UnusedElaboratable=no
"""Verilog to a shared library: right results, shared modules, the cache, and clear errors."""

import ctypes
from pathlib import Path

import pytest

from celosia.gen.verilog import emit, share_modules
from celosia.sim_tb.verilator import build_library, lint
from designs import Counter, Lanes

HERE = Path(__file__).parent
pytestmark = pytest.mark.sim


def lanes_result(library, value, n_cycles):
    function = ctypes.CDLL(str(library)).lanes_run
    function.restype = ctypes.c_uint64
    return function(ctypes.c_uint64(value), n_cycles)


def test_counter(capfd):
    text = emit(Counter(), "counter")
    path = build_library(text, "counter", HERE / "counter.cpp")
    library = ctypes.CDLL(str(path))
    library.counter_new.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(library.counter_new())
    assert library.counter_run(handle, 3, 1000) == 3000
    assert library.counter_run(handle, 1, 10) == 3010
    library.counter_delete(handle)
    capfd.readouterr()
    assert build_library(text, "counter", HERE / "counter.cpp") == path
    assert capfd.readouterr().err == "", "an unchanged design must not be compiled again"


def test_a_changed_harness_is_compiled_alone(tmp_path, capfd):
    text = emit(Counter(), "counter")
    build_library(text, "counter", HERE / "counter.cpp")
    capfd.readouterr()
    harness = tmp_path / "counter.cpp"
    header = tmp_path / "local.hpp"
    header.write_text("// first\n")
    harness.write_text('#include "local.hpp"\n' + (HERE / "counter.cpp").read_text())
    paths = [build_library(text, "counter", harness)]
    header.write_text("// second\n")
    paths.append(build_library(text, "counter", harness))
    assert paths[0] != paths[1] and all(path.exists() for path in paths)
    assert "simulator" not in capfd.readouterr().err
    assert ctypes.CDLL(str(paths[1])).counter_run


def test_sharing_and_blocks_change_no_result():
    """n lanes of two cells each: 3 n + 1 modules become 3, and all three builds agree with the arithmetic."""
    text = emit(Lanes(n=8), "lanes")
    shared = share_modules(text)
    assert text.count("\nmodule ") == 3 * 8 + 1
    assert shared.count("\nmodule ") == 3
    assert share_modules(shared) == shared
    values = [0, 1, 7, 55, 128, 200, 254, 255]
    expected = bytes(((v * 3 + 1) * 3 + 1) % 256 for v in values)
    for variant, blocks in ((text, ()), (shared, ()), (shared, ("lanes.lane0",))):
        library = build_library(variant, "lanes", HERE / "lanes.cpp", hier_modules=blocks)
        result = lanes_result(library, int.from_bytes(bytes(values), "little"), 2)
        assert result.to_bytes(8, "little") == expected


def test_wrong_verilog_is_reported(tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)verilator_bin failed with status 1; .*syntax error"):
        build_library("module broken(; endmodule", "broken", HERE / "counter.cpp", cache_dir=tmp_path)


def test_lint():
    assert lint(share_modules(emit(Lanes(n=2), "lanes")), "lanes") == []
    assert any("syntax error" in line for line in lint("module broken(; endmodule", "broken"))
