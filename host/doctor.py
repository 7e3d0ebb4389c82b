"""The self-test of a device: ten steps, one line each, from the environment to a generated text.

A step passes, fails, or is not available on this device, and then says why. The first that fails ends the test: what follows
could hang a board. The lines can be pasted into a bug report.
"""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from . import linux, sensors
from .accelerator import Accelerator
from .errors import CelosiaError, ProgramError
from .golden_record import Record
from .tokens import tokenizer_of

__all__ = ["examine"]

_PROMPT = "The people of the United States "
_NEW_TOKENS = 8
_MAX_C = 80.0       # the chip's limit is 85
_HOST_ERRORS = (CelosiaError, ValueError, LookupError, OSError, MemoryError, RuntimeError)


class _NotAvailable(Exception):
    """This device has no such thing; the reason is the text."""


def examine(backend, config, image_of, say, *, model="demo", expect=None, save=None, root="/"):
    """Run all steps on a device, ``say`` a line for each; whether none failed.

    Parameters
    ----------
    backend, config : str
        Device and configuration.
    image_of : function
        (model, configuration) to an ``Image``.
    expect, save : path, optional
        What the golden machine computed for the image, read from a file instead of computed here; where to write that file.
    root : path
        Folder that /proc and /sys are below.
    """
    examination = _Examination(backend, config, lambda: image_of(model, config), expect, save, root)
    steps = [("environment", examination.environment), ("memory for the model", examination.memory),
             ("fabric and files", examination.fabric), ("clock", examination.clock), ("identity", examination.identity),
             ("SCRATCH holds walking ones", examination.walking_ones), ("every port reads", examination.ports),
             ("bandwidth of the ports", examination.bandwidth), ("tokens of the golden machine", examination.tokens),
             ("temperature and power", examination.sensors)]
    try:
        for number, (name, step) in enumerate(steps, 1):
            try:
                detail = step()
            except _NotAvailable as reason:
                say(f"{number:2} not available  {name}: {reason}")
            except _HOST_ERRORS as error:
                say(f"{number:2} FAIL           {name}: {error}")
                return False
            else:
                say(f"{number:2} pass           {name}: {detail}")
        return True
    finally:
        examination.close()


class _Examination:
    """The steps, and what they leave to one another."""

    def __init__(self, backend, config, image_of, expect, save, root):
        self._backend, self._config, self._image_of, self._root = backend, config, image_of, root
        self._expect, self._save = expect, save
        self._accel = self._failure = self._image = self._record = None
        self._report = {}

    def close(self):
        if self._accel is not None:
            self._accel.close()

    def environment(self):
        found = [f"celosia {version('celosia')}", f"Python {platform.python_version()}", f"numpy {np.__version__}"]
        for package in ("pynq", "setuptools"):
            try:
                found.append(f"{package} {version(package)}")
            except PackageNotFoundError:
                found.append(f"no {package}")
        board = Path(self._root) / "proc/device-tree/model"
        if board.exists():
            found.append(board.read_text(errors="replace").strip("\0\n"))
        if self._backend == "board" and sys.platform == "linux":
            found.append("root" if os.geteuid() == 0 else "not root")
        return ", ".join([*found, platform.platform(terse=True), platform.machine()])

    def memory(self):
        self._image = self._image_of()
        if self._backend != "board":
            raise _NotAvailable("the device has memory of its own, no contiguous memory of Linux")
        found = linux.contiguous_memory(self._root)
        if found is None:
            raise _NotAvailable("the kernel says nothing of CMA in /proc/meminfo")
        need = len(self._image.payload) + self._image.header["cache_bytes"]
        linux.need_contiguous(need, self._root)
        return f"{found[1]:,} of {found[0]:,} bytes free, {need:,} needed"

    def fabric(self):
        options = {"report": self._report, "root": self._root} if self._backend == "board" else {}
        try:
            self._accel = Accelerator.open(self._backend, config=self._config, **options)
        except _HOST_ERRORS as error:
            self._failure = error
        if self._backend != "board":
            self._passed()
            raise _NotAvailable("the device has no bitstream")
        return f"{self._passed('files')}; {self._passed('fabric')}"

    def _passed(self, key=None):
        """The line of a check that was made while opening; raises what stopped it."""
        if self._failure is not None and key not in self._report:
            raise self._failure
        return self._report.get(key)

    def clock(self):
        if self._backend != "board":
            raise _NotAvailable("the device has no clock of its own")
        by_registers = self._passed("clock")
        if self._failure is not None and "identity" not in self._report:
            return f"{by_registers}; not counted yet"
        return f"{by_registers}; {self._passed('counted_clock') or 'the hardware has no register TICKS to count by'}"

    def identity(self):
        self._passed("identity")
        if self._failure is not None and "scratch" in self._report:
            raise self._failure
        if self._accel is None:
            return self._report["identity"]
        manifest = self._accel.device.manifest
        return (f"configuration {manifest['config_name']} {manifest['digest']}, instruction set {manifest['isa_version']}, "
                f"registers {manifest['abi_version']}")

    def walking_ones(self):
        self._passed("scratch")
        device = self._accel.device
        offset = device.manifest["registers"]["SCRATCH"]
        for bit in range(32):
            device.write32(offset, 1 << bit)
            found = device.read32(offset)
            if found != 1 << bit:
                raise CelosiaError(f"SCRATCH must read back 0x{1 << bit:08x}, not 0x{found:08x}")
        return "32 of 32"

    def ports(self):
        """Loads the model, has a bad run refused, and runs the prompt; the golden tokens decide whether what was read is right."""
        self._accel.load(self._image)
        try:
            self._accel.launch("decode", [], [])
        except ProgramError as error:
            if error.code != "LAUNCH":
                raise
            self._accel.reset()
        else:
            raise CelosiaError("A run of no tokens must be refused with LAUNCH, and was not")
        self._record = Record.of(self._accel, self._prompt(), _NEW_TOKENS)
        if not self._accel.stats.cycles:
            raise _NotAvailable("the device counts nothing")
        beats = self._beats()
        idle = [port for port, n_beats in enumerate(beats) if not n_beats]
        if idle:
            raise CelosiaError(f"Every port must read, and port {idle[0]} did not")
        return f"{', '.join(f'{n_beats:,}' for n_beats in beats)} beats"

    def _prompt(self):
        tokenizer = tokenizer_of(self._image)
        return tokenizer.encode(_PROMPT) if tokenizer.name != "none" else list(range(min(_NEW_TOKENS, self._image.header["vocab"])))

    def _beats(self):
        return [self._accel.stats.counters[f"PORT{port}_BEATS"] for port in range(self._accel.device.manifest["config"]["n_ports"])]

    def bandwidth(self):
        stats, config = self._accel.stats, self._accel.device.manifest["config"]
        if not stats.cycles:
            raise _NotAvailable("the device counts nothing")
        bytes_per_us = config["port_bytes"] * stats.clock_mhz
        reached = [n_beats / stats.cycles * bytes_per_us / 1e3 for n_beats in self._beats()]
        return (f"{', '.join(f'{figure:.2f}' for figure in reached)} GB/s on average over the run, of {bytes_per_us / 1e3:.2f} "
                "GB/s each; a larger model asks for more")

    def tokens(self):
        if self._save is not None:
            self._record.save(self._save, self._image)
        if self._expect is not None:
            expected = Record.load(self._expect, self._image)
        elif self._backend == "golden":
            raise _NotAvailable("the device is the golden machine" + (f"; written to {self._save}" if self._save else ""))
        else:
            expected = self._golden()
        self._record.check(expected)
        text = tokenizer_of(self._image).decode(self._record.tokens)
        return f"{text!r}, every candidate of {len(self._record.steps)} steps, bit for bit"

    def _golden(self):
        try:
            golden = Accelerator.open("golden", config=self._config)
        except LookupError as error:
            raise _NotAvailable(f"{error}; write the file for --expect where it is, with --backend golden --save") from error
        with golden:
            golden.load(self._image)
            return Record.of(golden, self._record.prompt, _NEW_TOKENS)

    def sensors(self):
        if self._backend != "board":
            raise _NotAvailable("the device is simulated")
        watts, degrees = sensors.power_w(self._root), sensors.temperatures_c(self._root)
        if degrees and max(degrees.values()) > _MAX_C:
            raise CelosiaError(f"The chip must be below {_MAX_C:g} C, not at {max(degrees.values()):.1f}: look at the fan")
        if watts is None and not degrees:
            raise _NotAvailable("neither hwmon nor IIO has the sensors ina260 and ams")
        told = [f"{name} {value:.1f} C" for name, value in degrees.items()]
        return ", ".join([*told, f"{watts:.2f} W at the module's input" if watts is not None else "power not available"])
