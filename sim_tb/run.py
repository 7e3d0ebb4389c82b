"""A component on the simulator: emit its Verilog, compile it once, run a cocotb bench, raise when the bench fails.

    component ── emit, share ──► Verilog ── Verilator, g++ ──► build/sim/<name>_<digest>/ ── bench ──► pass or raise

Called from tests; the benches are `sim_tb/tb_<unit>.py` and use `celosia.sim_tb.link`.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import cocotb_tools.config

from celosia.gen.verilog import emit, share_modules
from celosia.sim_tb import verilator

__all__ = ["simulate"]

_PYTHON_HOST = Path(__file__).resolve().parent / "python_host.cpp"
_COCOTB_MAIN = Path(cocotb_tools.config.share_dir) / "lib" / "verilator" / "verilator.cpp"


def simulate(component, bench: str, *, name: str, parameters: dict | None = None,
             testcase: str | Sequence[str] | None = None, seed: int = 1, timeout_s: float = 600,
             waves: bool = False) -> None:
    """Run `bench` on `component`, emitted as module `name`.

    Parameters
    ----------
    bench : name of a module, as in `"celosia.sim_tb.tb_rope"`
    parameters : JSON values that the bench reads with `celosia.sim_tb.link.parameters()`
    testcase : run only the test functions of this name (or these names); with `cocotb.parametrize`, all their variants
    seed : of the bench's random numbers (`link.rng`)
    timeout_s : limit for the run, and again for the compilation
    waves : compile with tracing and leave `dump.vcd` in the run's folder, whose path is printed

    Raises `AssertionError` with the names of the failed tests and the end of the log.
    """
    text = share_modules(emit(component, name))
    program = _build(text, name, waves=waves, timeout_s=timeout_s)
    run_dir = Path(tempfile.mkdtemp(prefix="run_", dir=program.parent))
    status = _run(program, run_dir, bench, name, parameters or {}, testcase, seed, waves, timeout_s)
    failed, n_tests = _results(run_dir / "results.xml")
    log = run_dir / "log.txt"
    if status is None:
        raise AssertionError(f"{name}: the bench ran longer than {timeout_s} s; the end of {log}:\n"
                             + verilator.tail(log, 40))
    if failed:
        raise AssertionError(f"{name}: {len(failed)} of {n_tests} tests failed: {', '.join(failed)}; "
                             f"the end of {log}:\n" + verilator.tail(log, 60))
    if status != 0 or not n_tests:
        raise AssertionError(f"{name}: the bench ran {n_tests} tests and ended with status {status}; "
                             f"the end of {log}:\n" + verilator.tail(log, 40))
    if waves:
        print(f"celosia: waves in {run_dir / 'dump.vcd'}", file=sys.stderr)
    else:
        shutil.rmtree(run_dir)


def _build(text: str, name: str, *, waves: bool, timeout_s: float) -> Path:
    """The simulator of module `name` with cocotb inside.  Only its ports are visible: that halves the time to
    compile and quadruples the speed against cocotb's usual `--public-flat-rw`."""
    control = "".join(f'public_flat_rw -module "{name}" -var "{port}"\n' for port in _ports(text))
    flags = ("--vpi", *(("--trace",) if waves else ()))
    libs = cocotb_tools.config.libs_dir
    directory = verilator.folder(None, name, (text, control, *flags, _PYTHON_HOST.read_text(),
                                              importlib.metadata.version("cocotb"), str(libs)))
    program = directory / f"{name}.so"

    def build() -> None:
        objects = verilator.compile_model(directory, text, name, control=control, flags=flags, cflags=("-O1",),
                                          timeout_s=timeout_s, cache_dir=None)
        verilator.link(directory, program, _COCOTB_MAIN, objects, "-shared", str(_PYTHON_HOST), f"-Wl,-rpath,{libs}",
                       f"-L{libs}", "-lcocotbvpi_verilator", timeout_s=timeout_s)

    verilator.cached(directory, build, label=f"bench of {name}", size=len(text), timeout_s=timeout_s)
    return program


def _ports(text: str) -> list[str]:
    """Ports of the first module: `module name(a, b);`."""
    header = next(line for line in text.splitlines() if line.startswith("module "))
    return [port.strip() for port in header[header.index("(") + 1:header.rindex(")")].split(",")]


def _run(program: Path, run_dir: Path, bench: str, name: str, parameters: dict, testcase, seed: int, waves: bool,
         timeout_s: float) -> int | None:
    names = [testcase] if isinstance(testcase, str) else testcase or []
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYGPI_PYTHON_BIN": sys.executable,
        "GPI_USERS": cocotb_tools.config.pygpi_entry_point(),
        "LD_PRELOAD": str(program),
        "TOPLEVEL_LANG": "verilog",
        "COCOTB_TOPLEVEL": name,
        "COCOTB_TEST_MODULES": bench,
        "COCOTB_TEST_FILTER": "|".join(rf"\.{n}(/|$)" for n in names),
        "COCOTB_RANDOM_SEED": str(seed),
        "COCOTB_RESULTS_FILE": str(run_dir / "results.xml"),
        "COCOTB_TRUST_INERTIAL_WRITES": "1",
        "COCOTB_ANSI_OUTPUT": "0",
        "CELOSIA_BENCH_PARAMETERS": json.dumps(parameters),
    }
    with open(run_dir / "log.txt", "w") as log:
        command = [os.path.realpath(sys.executable), *(["--trace"] if waves else [])]
        return verilator.wait(subprocess.Popen(command, cwd=run_dir, stdout=log, stderr=log, env=environment,
                                               start_new_session=True), timeout_s)


def _results(path: Path) -> tuple[list[str], int]:
    """(names of failed tests, number of tests) of a cocotb results file; a missing or cut file counts no tests."""
    try:
        cases = list(ElementTree.parse(path).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return [], 0
    failed = [case.get("name", "?") for case in cases if case.find("failure") is not None
              or case.find("error") is not None]
    return failed, sum(case.find("skipped") is None for case in cases)
