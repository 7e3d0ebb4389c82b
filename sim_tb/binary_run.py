"""Runs a program of the binary machine by registers: on the simulated device, or on any other.

    run(device, model, cache, count, lengths)      # -> Outcome
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["Outcome", "run"]

_START, _RESET, _IRQ = 1, 2, 1
_DRAINING, _LOOKS = 8, 1000
_LIMIT_CYCLES = 2_000_000


@dataclass
class Outcome:
    """How a run ended: STATUS, ERROR_CODE, ERROR_INDEX; the cache window, uint8; counters by name."""
    status: int
    code: int
    index: int
    cache: np.ndarray
    counters: dict


def run(device, model, cache, count, lengths, *, offset=0, watchdog=100_000, counters=()):
    """Run ``count`` descriptors from byte ``offset`` of ``model``. Both windows are copied into the device's memory.

    Raises TimeoutError where no interrupt comes, or the ports are not drained of a run before.
    """
    places = {**device.manifest["registers"], **device.manifest["counters"]}
    device.release()
    windows = []
    for data in (model, cache):
        address, buffer = device.allocate(len(data))
        buffer[:] = data
        windows.append((address, buffer))

    def write64(name, value):
        device.write32(places[name], value & 0xFFFF_FFFF)
        device.write32(places[name] + 4, value >> 32)

    device.write32(places["CONTROL"], _RESET)
    for _ in range(_LOOKS):
        if not device.read32(places["STATUS"]) & _DRAINING:
            break
    else:
        raise TimeoutError(f"The ports must be drained within {_LOOKS} looks at STATUS")
    for name, (address, buffer) in zip(("MODEL", "CACHE"), windows):
        write64(f"{name}_BASE", address)
        write64(f"{name}_SIZE", len(buffer))
    write64("PROGRAM_OFFSET", offset)
    device.write32(places["PROGRAM_COUNT"], count)
    device.write32(places["N_TOKENS"], len(lengths))
    for sequence, length in enumerate(lengths[:16]):
        device.write32(places[f"LANE{sequence}"], sequence << 16 | length)
    device.write32(places["WATCHDOG_CYCLES"], watchdog)
    device.write32(places["IRQ_ENABLE"], _IRQ)
    device.write32(places["CONTROL"], _START)
    if not device.wait(_LIMIT_CYCLES):
        raise TimeoutError(f"The run must end within {_LIMIT_CYCLES} cycles")
    status, code, index = (device.read32(places[name]) for name in ("STATUS", "ERROR_CODE", "ERROR_INDEX"))
    return Outcome(status, code, index, np.array(windows[1][1]), {name: device.read32(places[name]) for name in counters})
