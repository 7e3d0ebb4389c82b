"""Power and temperature, from hwmon or IIO, whichever the kernel offers; None where neither does.

On a KV260 the INA260 measures the input of the whole module: fabric, processors and memory together.
"""

import threading
import time
from pathlib import Path

__all__ = ["PowerMeter", "power_w", "temperatures_c"]

_POWER_CHIP, _TEMPERATURE_CHIP = "ina260", "ams"
_PERIOD_S = 0.05


def _chips(root, prefix):
    """Folders of the chips whose name begins with ``prefix``: hwmon's first, then IIO's."""
    for pattern in ("sys/class/hwmon/hwmon*", "sys/bus/iio/devices/iio:device*"):
        for folder in sorted(Path(root).glob(pattern)):
            if (_text(folder / "name") or "").startswith(prefix):
                yield folder


def _text(path):
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path):
    text = _text(path)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _scaled(folder, channel):
    """A channel of IIO in its unit: (raw + offset) scale; None where it cannot be read."""
    raw, scale = _number(folder / f"{channel}_raw"), _number(folder / f"{channel}_scale")
    return None if raw is None or scale is None else (raw + (_number(folder / f"{channel}_offset") or 0.0)) * scale


def power_w(root="/"):
    """Watts at the input of the module; None where no sensor is."""
    for chip in _chips(root, _POWER_CHIP):
        microwatts = _number(chip / "power1_input")
        if microwatts is not None:
            return microwatts / 1e6
        for raw in sorted(chip.glob("in_power*_raw")):
            milliwatts = _scaled(chip, raw.name.removesuffix("_raw"))
            if milliwatts is not None:
                return milliwatts / 1e3
    return None


def temperatures_c(root="/"):
    """{name: degrees Celsius} of the chip; empty where no sensor is."""
    found = {}
    for chip in _chips(root, _TEMPERATURE_CHIP):
        for path in sorted(chip.glob("temp*_input")):
            millidegrees = _number(path)
            if millidegrees is not None:
                name = path.name.removesuffix("_input")
                found[_text(chip / f"{name}_label") or name] = millidegrees / 1e3
        for path in sorted(chip.glob("in_temp*_raw")):
            name = path.name.removesuffix("_raw")
            millidegrees = _scaled(chip, name)
            if millidegrees is not None:
                found.setdefault(name.removeprefix("in_"), millidegrees / 1e3)
        if found:
            break
    return found


class PowerMeter:
    """Integrates measured power over a ``with`` block, a sample each 50 ms.

    Members
    -------
    joules, mean_w : float or None
        None where no sensor is. A block shorter than a period has the mean of its two ends.
    """

    def __init__(self, root="/"):
        self._root, self.joules, self.mean_w = root, None, None

    def __enter__(self):
        self._samples, self._stop = [self._sample()], threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if self._samples[0][1] is not None:
            self._thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        if not self._thread.is_alive():
            return
        self._thread.join()
        self._samples.append(self._sample())
        known = [sample for sample in self._samples if sample[1] is not None]
        seconds = known[-1][0] - known[0][0]
        if seconds > 0:
            self.joules = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(known, known[1:]))
            self.mean_w = self.joules / seconds

    def _sample(self):
        return time.monotonic(), power_w(self._root)

    def _watch(self):
        while not self._stop.wait(_PERIOD_S):
            self._samples.append(self._sample())
