"""The accelerator on a board under PYNQ; the only file of this package that needs the package pynq.

Opening checks one thing after another and touches a register only when nothing speaks against it any more: a read from a
fabric that is not configured, or has no clock, stops the processor for ever.

    lock ─ files ─ download ─ driver ─ fabric operating ─ clock ─ ID ─ CONFIG ─ clock counted ─ SCRATCH

Written for PYNQ 3.0.1; it has run against a simulated PYNQ device, not on a board.
"""

import time

import numpy as np
import pynq

from . import linux
from .errors import CelosiaError
from .overlays import find

__all__ = ["BoardDevice", "CelosiaIP", "open_device"]

ID_MAGIC = 0x4F4C4543
_VLNV = "xilinx.com:module_ref:celosia:1.0"
_CONTROL_RESET = 2
_BUSY, _DONE, _ERROR, _DRAINING = 1, 2, 4, 8
_POLL_S = 0.0002
_QUIET_S = 1.0
_COUNT_S = 0.1
_CLOCK_TOLERANCE = 0.02
_PAGE_BYTES = 4096
_kept = []      # buffers that the fabric may still write to: never freed


class CelosiaIP(pynq.DefaultIP):
    """The driver that PYNQ gives to the accelerator's registers; read and write by byte offset."""

    bindto = [_VLNV]


def open_device(config="kv260", *, bitstreams=None, root="/", report=None):
    """The accelerator of a configuration on this board.

    ``bitstreams``: folder of the overlay (``host/overlays.py`` says where else it is sought). ``root``: folder that /proc, /sys
    and /run are below. ``report``: a dict that gets a line for every check that passed.

    Raises ``CelosiaError`` or ``FileNotFoundError``, one sentence, at the first check that fails.
    """
    report = {} if report is None else report
    lock = linux.Lock(root)
    try:
        return BoardDevice(find(config, bitstreams), lock, root, report)
    except BaseException:
        lock.release()
        raise


def _device():
    """PYNQ's own device; CelosiaError where it finds none."""
    try:
        return pynq.Device.active_device
    except RuntimeError as error:
        raise CelosiaError(f"PYNQ must find a device, and says {str(error)!r}: run on the board, as root, with PYNQ's environment "
                           "(`source /etc/profile.d/pynq_venv.sh`)") from error


class BoardDevice:
    """Registers by MMIO, buffers from PYNQ's contiguous memory.

    Members
    -------
    manifest : dict
        What ``celosia vivado --collect`` wrote.
    overlay : pynq.Overlay
    report : dict
        What was checked, a line each: ``files``, ``fabric``, ``clock``, ``identity``, ``counted_clock``, ``scratch``.
    """

    name = "board"

    def __init__(self, files, lock, root, report):
        self.manifest, self.report = files.manifest, report
        self._lock, self._root, self._buffers = lock, root, {}
        files.check()
        report["files"] = f"{files.bit.name} and .hwh in {files.bit.parent} have the manifest's SHA-256"
        self.overlay = pynq.Overlay(str(files.bit.resolve()), device=_device())
        self._ip = self._driver()
        self._check_clock()
        self._check_identity()
        self._check_counter()
        self._check_scratch()

    def _driver(self):
        found = {name: ip for name, ip in self.overlay.ip_dict.items() if ip["type"] == _VLNV}
        if len(found) != 1:
            raise CelosiaError(f"The hardware description must have one block {_VLNV}, not {len(found)}: PYNQ may have kept that "
                               "of an older build; remove _current_metadata.pkl and global_pl_state.json from its folder pl_server")
        (name, ip), = found.items()
        if ip["phys_addr"] != self.manifest["register_base"]:
            raise CelosiaError(f"Registers must be at 0x{self.manifest['register_base']:X} as the manifest says, not at "
                               f"0x{ip['phys_addr']:X}: the .hwh is of another build")
        state = linux.fabric_state(self._root)
        if state != "operating":
            raise CelosiaError(f"The FPGA manager must say operating after the download, not {state or 'nothing'}: the bitstream "
                               "did not load; see dmesg, and `xmutil unloadapp` if an application holds the fabric")
        driver = getattr(self.overlay, name)
        if not isinstance(driver, CelosiaIP):
            raise CelosiaError(f"PYNQ must bind {_VLNV} to the driver of celosia, not to {type(driver).__name__}: another package "
                               "binds the same name")
        self.report["fabric"] = f"FPGA manager {state}, {_VLNV} at 0x{ip['phys_addr']:X}"
        return driver

    def _check_clock(self):
        wanted, found = self.manifest["clock_mhz"], float(pynq.Clocks.fclk0_mhz)
        self._need_clock(found, "by the clock registers")
        self.report["clock"] = f"{found:g} MHz by the clock registers, {wanted:g} asked"

    def _check_identity(self):
        manifest = self.manifest
        wanted = {"ID": ID_MAGIC, "VERSION": manifest["isa_version"] | manifest["abi_version"] << 16,
                  "CONFIG": int(manifest["digest"], 16)}
        for name, value in wanted.items():
            found = self._read(name)
            if found != value:
                raise CelosiaError(f"Register {name} must read 0x{value:08x} as the manifest says, not 0x{found:08x}: "
                                   "the loaded hardware is another one")
        self.report["identity"] = ", ".join(f"{name} 0x{value:08x}" for name, value in wanted.items())

    def _check_counter(self):
        if "TICKS" not in self.manifest["registers"]:
            self.report["counted_clock"] = None
            return
        start, first = time.monotonic(), self._read("TICKS")
        time.sleep(_COUNT_S)
        ticks = (self._read("TICKS") - first) & 0xFFFF_FFFF
        found = ticks / (time.monotonic() - start) / 1e6
        self._need_clock(found, "by counting")
        self.report["counted_clock"] = f"{found:.1f} MHz counted over {_COUNT_S:g} s"

    def _need_clock(self, found_mhz, how):
        wanted_mhz = self.manifest["clock_mhz"]
        if abs(found_mhz - wanted_mhz) > _CLOCK_TOLERANCE * wanted_mhz:
            raise CelosiaError(f"The fabric's clock must be {wanted_mhz:g} MHz as built, not {found_mhz:.1f} {how}: pl_clk0 must "
                               "come from IOPLL (docs/board.md, what goes wrong)")

    def _check_scratch(self):
        for value in (0x5A5A_A5A5, 0xA5A5_5A5A):
            self._ip.write(self.manifest["registers"]["SCRATCH"], value)
            if (found := self._read("SCRATCH")) != value:
                raise CelosiaError(f"SCRATCH must read back 0x{value:08x}, not 0x{found:08x}: the width of the register port "
                                   "differs from the design's")
        self.report["scratch"] = "written and read back"

    def _read(self, name):
        return self.read32(self.manifest["registers"][name])

    def read32(self, offset):
        """One register."""
        return int(self._ip.read(offset))

    def write32(self, offset, value):
        """Write one register."""
        self._ip.write(offset, int(value))

    def allocate(self, n_bytes):
        """(address, uint8 array) of a cacheable buffer; MemoryError when contiguous memory does not suffice.

        What is written into the array reaches the accelerator by :meth:`flush`; what the accelerator wrote is seen after
        :meth:`invalidate`. The array dies with :meth:`release`.
        """
        size = -(-n_bytes // _PAGE_BYTES) * _PAGE_BYTES
        linux.need_contiguous(size, self._root)
        try:
            buffer = pynq.allocate((size,), np.uint8, cacheable=1)
        except RuntimeError as error:
            raise MemoryError(f"A buffer of {size:,} bytes must lie in one piece of contiguous memory, and PYNQ found none "
                              f"({error}): close other notebooks, or restart the board and load the model first") from error
        address = int(buffer.device_address)
        self._buffers[address] = buffer
        buffer.flush()      # no line that is still dirty may be written back over what the accelerator writes
        return address, buffer.view(np.ndarray)[:n_bytes]

    def release(self):
        """Give all buffers back, once the accelerator has nothing under way."""
        if not self._quiet():
            _kept.extend(self._buffers.values())
            self._buffers = {}
            raise CelosiaError(f"The accelerator must be quiet within {_QUIET_S:g} s of a reset, and is not: its buffers are kept, "
                               "as it may still write to them; restart the board")
        for buffer in self._buffers.values():
            buffer.freebuffer()
        self._buffers = {}

    def flush(self, address, n_bytes):
        """Make what the host wrote visible to the accelerator."""
        self._part(address, n_bytes).flush()

    def invalidate(self, address, n_bytes):
        """Make what the accelerator wrote visible to the host."""
        self._part(address, n_bytes).invalidate()

    def peek(self, address, n_bytes):
        """View of the memory as the accelerator left it, uint8."""
        self.invalidate(address, n_bytes)
        return self._part(address, n_bytes).view(np.ndarray)

    def _part(self, address, n_bytes):
        for start, buffer in self._buffers.items():
            if start <= address and address + n_bytes <= start + len(buffer):
                return buffer[address - start:address - start + n_bytes]
        raise ValueError(f"Addresses 0x{address:x} to 0x{address + n_bytes:x} must lie in one allocated buffer")

    def wait(self, timeout_cycles):
        """Until the run is done or stopped; False when it is not within ``timeout_cycles``. Sleeps between looks at STATUS."""
        if not self.overlay.is_loaded():
            raise CelosiaError("The overlay must still be loaded, and another one is: open the device again")
        return self._until(lambda status: status & (_DONE | _ERROR), timeout_cycles / (self.manifest["clock_mhz"] * 1e6))

    def _until(self, reached, limit_s):
        end = time.monotonic() + limit_s
        while not reached(self._read("STATUS")):
            if time.monotonic() >= end:
                return False
            time.sleep(_POLL_S)
        return True

    def _quiet(self):
        if not self._buffers:
            return True
        self.write32(self.manifest["registers"]["CONTROL"], _CONTROL_RESET)
        return self._until(lambda status: not status & (_BUSY | _DRAINING), _QUIET_S)

    def close(self):
        """Stop the accelerator, give the buffers and the lock back; the overlay stays loaded."""
        try:
            if self._lock is not None:
                self.release()
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None
