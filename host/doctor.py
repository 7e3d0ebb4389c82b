"""The self-test of a device: one line a step, from the environment to a generated text."""

import platform
import sys
from importlib.metadata import version

import numpy as np

from .accelerator import Accelerator
from .errors import CelosiaError, ProgramError
from .image import Image
from .tokens import tokenizer_of

__all__ = ["examine"]

_PROMPT = "The people of the United States "
_NEW_TOKENS = 8


def examine(backend, config, image_of, say):
    """Run all steps on a device, ``say`` a line for each; whether all passed."""
    state = {}
    steps = [
        ("environment", lambda: _environment()),
        ("device opens, identity registers match the manifest", lambda: _open(state, backend, config)),
        ("scratch register holds walking ones", lambda: _walking_ones(state["accel"])),
        ("model image: digest, version, configuration", lambda: _load(state, image_of, config)),
        ("a run with no tokens is refused by name", lambda: _refusal(state["accel"])),
        ("text from the device", lambda: _generate(state)),
        ("the golden machine says the same", lambda: _compare(state, config)),
    ]
    passed = True
    for number, (name, step) in enumerate(steps, 1):
        try:
            detail = step()
        except (CelosiaError, ValueError, LookupError, OSError, MemoryError, RuntimeError) as error:
            say(f"{number} FAIL {name}: {error}")
            passed = False
            break
        say(f"{number} ok   {name}" + (f": {detail}" if detail else ""))
    if "accel" in state:
        state["accel"].close()
    return passed


def _environment():
    return (f"celosia {version('celosia')}, Python {sys.version.split()[0]}, numpy {np.__version__}, "
            f"{platform.system()} {platform.machine()}")


def _open(state, backend, config):
    accel = state["accel"] = Accelerator.open(backend, config=config)
    manifest = accel.device.manifest
    return f"{accel.device.name}, configuration {manifest['config_name']} {manifest['digest']}"


def _walking_ones(accel):
    offset = accel.device.manifest["registers"]["SCRATCH"]
    for bit in range(32):
        accel.device.write32(offset, 1 << bit)
        found = accel.device.read32(offset)
        if found != 1 << bit:
            raise CelosiaError(f"SCRATCH must read back 0x{1 << bit:08x}, not 0x{found:08x}")


def _load(state, image_of, config):
    state["image"] = image_of("demo", config)
    if not isinstance(state["image"], Image):
        raise CelosiaError("The demo model must be packed for this configuration; install celosia[gen]")
    state["accel"].load(state["image"])
    return f"{len(state['image'].payload):,} bytes"


def _refusal(accel):
    try:
        accel.launch("decode", [], [])
    except ProgramError as error:
        if error.code == "LAUNCH":
            accel.reset()
            return ""
        raise
    raise CelosiaError("A run of no tokens must be refused with LAUNCH, and was not")


def _generate(state):
    tokenizer = tokenizer_of(state["image"])
    state["tokens"] = list(state["accel"].generate(tokenizer.encode(_PROMPT), _NEW_TOKENS))
    stats = state["accel"].stats
    return f"{tokenizer.decode(state['tokens'])!r}, {stats.cycles_per_token:,.0f} cycles a token"


def _compare(state, config):
    with Accelerator.open("golden", config=config) as golden:
        golden.load(state["image"])
        expected = list(golden.generate(tokenizer_of(state["image"]).encode(_PROMPT), _NEW_TOKENS))
    if expected != state["tokens"]:
        raise CelosiaError(f"Tokens must be {expected}, not {state['tokens']}")
