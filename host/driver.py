"""What all accelerators have in common for the host: windows, a start, a wait, and what went wrong."""

from .device import open_device
from .errors import CelosiaError, DeviceTimeout, ProgramError
from .stats import Stats

__all__ = ["Driver"]

ID_MAGIC = 0x4F4C4543
CONTROL_START, CONTROL_RESET, CONTROL_CLEAR = 1, 2, 4
STATUS_BUSY, STATUS_DONE, STATUS_ERROR, STATUS_DRAINING = 1, 2, 4, 8
_QUIET_TRIES, _QUIET_CYCLES = 100, 10_000
_WATCHDOG_CYCLES = 1_000_000


class Driver:
    """One accelerator, simulated or real. Blocking; every wait has a limit.

    Raises ``CelosiaError`` when the device is not what its manifest says.
    """

    def __init__(self, device):
        self._device = device
        self._registers = {**device.manifest["registers"], **device.manifest["counters"]}
        self._image = self._cache = None
        found = self._read("ID"), self._read("VERSION"), self._read("CONFIG")
        manifest = device.manifest
        wanted = (ID_MAGIC, manifest["isa_version"] | manifest["abi_version"] << 16, int(manifest["digest"], 16))
        for what, is_, must in zip(("ID", "VERSION", "CONFIG"), found, wanted):
            if is_ != must:
                raise CelosiaError(f"Register {what} must read 0x{must:08x} as the manifest says, not 0x{is_:08x}: "
                                   "the loaded hardware is another one")
        self._write("CONTROL", CONTROL_RESET)
        self._write("IRQ_ENABLE", 1)
        self._await_quiet()
        self.stats = Stats(manifest["clock_mhz"])

    @classmethod
    def open(cls, device="sim", **options):
        """An accelerator on a device by name (``sim``, ``golden``); options go to the device, e.g. ``config="tiny"``."""
        return cls(open_device(device, **options))

    def close(self):
        """Give the device back."""
        self._device.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    @property
    def device(self):
        """The device underneath."""
        return self._device

    @property
    def image(self):
        """The loaded image, or None."""
        return self._image

    def _check_image(self, image):
        """ValueError unless the image was packed for this accelerator."""
        manifest = self._device.manifest
        image.check(config=manifest["config_name"], digest=manifest["digest"], isa_version=manifest["isa_version"])

    def _open_windows(self, image):
        """Put an image into the device's memory, instead of the one before, and open both windows."""
        self._image = None
        self._device.release()
        address, buffer = self._device.allocate(len(image.payload))
        buffer[:] = image.payload
        self._device.flush(address, len(buffer))
        self._write64("MODEL_BASE", address)
        self._write64("MODEL_SIZE", len(buffer))
        cache_bytes = image.header["cache_bytes"]
        self._cache = self._device.allocate(cache_bytes)
        self._write64("CACHE_BASE", self._cache[0])
        self._write64("CACHE_SIZE", cache_bytes)
        self._image = image
        self._write("WATCHDOG_CYCLES", _WATCHDOG_CYCLES)

    def _set_up_program(self, program):
        programs = self._need_image().header["programs"]
        if program not in programs:
            raise ValueError(f"Program must be one of {', '.join(sorted(programs))}, not {program!r}")
        self._await_quiet()
        self._write64("PROGRAM_OFFSET", programs[program]["offset"])
        self._write("PROGRAM_COUNT", programs[program]["count"])

    def _start(self, program):
        """Start what has been set up, and wait for its end; the cycles it took. ``program`` is named in errors."""
        self._write("CONTROL", CONTROL_START)
        self._device.wait(self._limit_cycles())
        status = self._read("STATUS")
        if status & STATUS_ERROR:
            self._raise_error()
        if not status & STATUS_DONE:
            self._write("CONTROL", CONTROL_RESET)
            self._await_quiet()
            raise DeviceTimeout(f"Program {program!r} must end within {self._limit_cycles()} cycles; it was stopped")
        self._write("CONTROL", CONTROL_CLEAR)
        for name in self._device.manifest["counters"]:
            self.stats.counters[name] = self.stats.counters.get(name, 0) + self._read64(name)
        return self._read64("CYCLES")

    def _limit_cycles(self):
        return 2_000_000 + 64 * len(self._image.payload)

    def _raise_error(self):
        names = {value: name for name, value in self._device.manifest["errors"].items()}
        code = self._read("ERROR_CODE")
        raise ProgramError(names.get(code, str(code)), self._read("ERROR_INDEX"))

    def _await_quiet(self):
        for _ in range(_QUIET_TRIES):
            if not self._read("STATUS") & (STATUS_BUSY | STATUS_DRAINING):
                return
            self._device.wait(_QUIET_CYCLES)
        raise DeviceTimeout(f"The accelerator must be quiet within {_QUIET_TRIES * _QUIET_CYCLES:,} cycles before a run; "
                            "its memory does not answer")

    def _need_image(self):
        if self._image is None:
            raise CelosiaError("A model must be loaded first: accel.load(image)")
        return self._image

    def _read(self, name):
        return self._device.read32(self._registers[name])

    def _write(self, name, value):
        self._device.write32(self._registers[name], value)

    def _read64(self, name):
        offset = self._registers[name]
        return self._device.read32(offset) | self._device.read32(offset + 4) << 32

    def _write64(self, name, value):
        offset = self._registers[name]
        self._device.write32(offset, value & 0xFFFF_FFFF)
        self._device.write32(offset + 4, value >> 32)
