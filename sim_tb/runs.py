"""Runs of `bench` whose results are kept by the digest of all that they depend on, so that only what changed runs again."""

import hashlib
import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from celosia.gen import fit, model, pack, place, program, scratch, synthetic, verilog, window
from celosia.gen.cache import cache_folder
from celosia.gen.shapes import SHAPES
from celosia.host import draft
from celosia.hw.configs import CONFIGS

from . import bench as benches
from . import speculation
from .memory import PRESETS

__all__ = ["kept", "path_of", "path_of_run", "results"]

_MEMORY = "kv260"
_WRITTEN_BY = (benches, draft, fit, model, pack, place, program, scratch, speculation, synthetic, window)


def path_of(config, name, *parts):
    """File of a result in the cache folder; its name holds the digest of configuration, memory and simulator, and ``parts``."""
    sources = sorted(Path(__file__).parent.glob("*.[ch]pp"))
    texts = [_verilog(config), repr(PRESETS[_MEMORY]), *(path.read_text() for path in sources), *parts]
    return cache_folder("bench") / f"{name}_{hashlib.sha256(chr(0).join(texts).encode()).hexdigest()[:16]}.json"


_texts = {}


def _verilog(config):
    if config not in _texts:
        _texts[config] = verilog.accelerator(CONFIGS[config])
    return _texts[config]


def kept(path, measure):
    """What the file holds; without one, what ``measure()`` returns, written there first, whole or not at all."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(measure(), indent=1))
        beside.replace(path)
    return json.loads(path.read_text())


def path_of_run(config, run):
    """File of a run of `bench`."""
    modules = (Path(module.__file__).read_text() for module in _WRITTEN_BY)
    return path_of(config, run["shape"], repr(SHAPES[run["shape"]]), json.dumps(run, sort_keys=True), *modules)


def results(config, runs, jobs=1):
    """Results of ``runs`` (dicts with ``shape`` and the options of ``bench``), in their order; those that are not kept are
    measured by ``jobs`` processes at a time, and each is kept as soon as it is there."""
    places = [path_of_run(config, run) for run in runs]
    missing = [(config, run, place) for run, place in zip(runs, places) if not place.exists()]
    if missing:
        with ProcessPoolExecutor(min(jobs, len(missing)), get_context("spawn"), max_tasks_per_child=1) as pool:
            for future in [pool.submit(_measure, *each) for each in missing]:
                future.result()
    return [json.loads(place.read_text()) for place in places]


def _measure(config, run, path):
    options = {key: value for key, value in run.items() if key != "shape"}

    def say(text):
        benches.say_to_stderr(f"{run['shape']}, {run.get('head', 'default')} head, behind {run['context']}: {text}")

    kept(path, lambda: _steady(benches.bench(config, SHAPES[run["shape"]], memory=_MEMORY, progress=say, **options)))


def _steady(result):
    """A result without what depends on the machine that simulated."""
    return {key: value for key, value in result.items() if key != "simulated_cycles_per_s"}
