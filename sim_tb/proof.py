"""Proofs: the Asserts of a design hold in every state that it can reach, shown by Yosys (``sat -tempinduct``).

    design --RTLIL--> Yosys: flat, memories as registers --> temporal induction of at most ``depth`` cycles

The design begins in its initial state with whatever inputs its Assumes allow; ``rst`` may come at any time. The base case runs the
first cycles; the step shows that after cycles in which all Asserts held, from any state at all, they hold in the next one.
"""

import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from amaranth.back import rtlil

__all__ = ["prove"]

_RUNNER = """
import sys
from pyosys import libyosys as yosys
design = yosys.Design()
for command in sys.stdin.read().splitlines():
    yosys.run_pass(command, design)
"""
_SCRIPT = (
    "read_rtlil {folder}/in.il", "hierarchy -top proof", "proc", "flatten", "opt_clean", "memory -nomap", "memory_map",
    "opt", "async2sync", "dffunmap", "chformal -lower", "opt_clean",
    "sat -tempinduct -set-assumes -prove-asserts -maxsteps {depth} -timeout {timeout_s} -verify proof")


def prove(component, *, depth, timeout_s=120):
    """Raise AssertionError with the values of a counterexample, of the base case or of the last step, unless all Asserts hold.

    Raises RuntimeError when Yosys is not installed or stops for another reason.
    """
    if importlib.util.find_spec("pyosys") is None:
        raise RuntimeError("Proofs need Yosys: install the package pyosys (extra `dev`)")
    with tempfile.TemporaryDirectory(prefix="celosia_") as folder:
        (Path(folder) / "in.il").write_text(rtlil.convert(component, name="proof"))
        script = "\n".join(_SCRIPT).format(folder=folder, depth=depth, timeout_s=timeout_s)
        done = subprocess.run([sys.executable, "-c", _RUNNER], input=script, text=True, capture_output=True, check=False)
    said = done.stdout + done.stderr
    if "Induction step proven: SUCCESS!" in said and not done.returncode:
        return
    if re.search("model found for base case|Reached maximum number of time steps|Interrupted SAT solver", said):
        raise AssertionError(f"An Assert does not hold, or not by induction over {depth} cycles:\n{said[-6000:]}")
    raise RuntimeError(f"Yosys must end with a proof, and stopped:\n{said[-2000:]}")
