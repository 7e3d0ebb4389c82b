"""A board for PYNQ that is not there: a device at PYNQ's own seams, with the golden or the simulated device as its fabric.

What is PYNQ's and runs as it is: Overlay, Bitstream, DefaultIP and its binding, MMIO, allocate, PynqBuffer, the parser of
hardware descriptions, and the writing of clock dividers on download. What stands in, because it needs the board's kernel:

    pynq.Clocks._real_instance     registers of the clock generator
    SimulatedBoard                 FPGA manager, /dev/mem and memory of XRT (EmbeddedDevice of PYNQ)
    root                           /proc, /sys and /run
"""

import ctypes
import hashlib
import json

import numpy as np
from pynq.buffer import PynqBuffer
from pynq.metadata.runtime_metadata_parser import RuntimeMetadataParser
from pynq.pl_server.device import Device
from pynqmetadata.frontends import Metadata

REGISTER_BASE = 0xA000_0000
TICKS = 0x068
ASKED_MHZ = 250.0
MOST_CYCLES = 50_000    # of a sleep: a fabric at rest need not be simulated


class FakeTime:
    """Time that passes by sleeping, and a little with every look; the fabric runs while the processor sleeps."""

    def __init__(self, fabric):
        self.now_s, self.fabric = 0.0, fabric

    def monotonic(self):
        self.now_s += 1e-6
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds
        self.fabric.wait(min(round(seconds * ASKED_MHZ * 1e6), MOST_CYCLES))


class FakeClocks:
    """PYNQ writes the dividers of the hardware description, or chooses them by what it believes the PLL to be (4.0); the PLL is
    where the boot firmware left it."""

    def __init__(self, pll_mhz=1000.0):
        self.pll_mhz, self.divider = pll_mhz, 10

    def set_pl_clk(self, index, div0=None, div1=None, mhz=100.0):
        if index == 0:
            self.divider = div0 * div1 if div0 else round(1000.0 / mhz)

    def get_pl_clk(self, index):
        return self.pll_mhz / self.divider


class CachedMemory:
    """Buffers whose bytes reach the fabric's memory by flush, and come from there by invalidate."""

    def __init__(self, board):
        self.board, self.freed, self.requests = board, [], []

    def allocate(self, shape, dtype, cacheable=0):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.requests.append((size, cacheable))
        address, _ = self.board.fabric.allocate(size)
        buffer = PynqBuffer(shape, dtype, buffer=np.full(size, 0xEE, np.uint8), device=self.board, device_address=address,
                            bo=address)
        buffer.memory, buffer.pointer, buffer.return_to = self, address, self
        buffer.freed = True     # nothing of XRT's to unmap once it has come back
        return buffer

    def return_pointer(self, address):
        self.freed.append(address)


class SimulatedBoard(Device):
    """A device of PYNQ: registers by access, buffers with a cache above them, hardware description from the .hwh."""

    def __init__(self, root, fabric, time, clocks):
        super().__init__("simulated_board")
        self.capabilities = {"REGISTER_RW": True}
        self.name = "simulated"
        self.arch = "aarch64"
        self.root, self.time, self.clocks = root, time, clocks
        self.fabric = fabric
        self.default_memory = CachedMemory(self)
        self.state_after_download = "operating"
        self.hang = self.missing_bit = 0
        self.counter_mhz = None
        self.downloads = 0

    def get_bitfile_metadata(self, bitfile_name, partial=False):
        return RuntimeMetadataParser(Metadata(input=bitfile_name.replace(".bit", ".hwh")))

    def download(self, bitstream, parser=None):
        self.downloads += 1
        (self.root / "sys/class/fpga_manager/fpga0/state").write_text(self.state_after_download + "\n")
        super().post_download(bitstream, parser, self.name)

    def read_registers(self, address, length):
        assert (self.root / "sys/class/fpga_manager/fpga0/state").read_text() == "operating\n", "the processor would hang"
        offset = address - REGISTER_BASE
        if offset == TICKS:
            mhz = self.counter_mhz or self.clocks.get_pl_clk(0)
            value = int(0xFFFF_0000 + self.time.now_s * mhz * 1e6) & 0xFFFF_FFFF      # wraps while it is watched
        elif offset == 0x010 and self.hang:
            value = self.hang
        else:
            value = self.fabric.read32(offset)
        if offset == 0x058:
            value &= ~self.missing_bit
        return int(value).to_bytes(length, "little")

    def write_registers(self, address, data):
        self.fabric.write32(address - REGISTER_BASE, int.from_bytes(data, "little"))

    def flush(self, bo, offset, virtual_address, n_bytes):
        self._device_bytes(bo, offset, n_bytes)[:] = host_bytes(virtual_address, n_bytes)

    def invalidate(self, bo, offset, virtual_address, n_bytes):
        host_bytes(virtual_address, n_bytes)[:] = self._device_bytes(bo, offset, n_bytes)

    def _device_bytes(self, bo, offset, n_bytes):
        return self.fabric.peek(bo + offset, n_bytes)


def host_bytes(address, n_bytes):
    return np.ctypeslib.as_array((ctypes.c_uint8 * n_bytes).from_address(address))


def make_root(folder, cma_total_kb=500_000, cma_free_kb=400_000):
    """The files of the board's kernel that are read."""
    files = {"proc/meminfo": f"MemTotal: 4000000 kB\nCmaTotal: {cma_total_kb} kB\nCmaFree: {cma_free_kb} kB\n",
             "proc/device-tree/model": "Simulated board\0",
             "sys/class/fpga_manager/fpga0/state": "unknown\n",
             "sys/class/hwmon/hwmon3/name": "ina260_u14\n", "sys/class/hwmon/hwmon3/power1_input": "6206000\n",
             "sys/class/hwmon/hwmon1/name": "ams\n", "sys/class/hwmon/hwmon1/temp1_input": "45500\n",
             "sys/class/hwmon/hwmon1/temp1_label": "PS\n"}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def make_overlay(folder, manifest, *, ticks=True, vlnv="xilinx.com:module_ref:celosia:1.0", base=REGISTER_BASE):
    """An overlay folder as `celosia vivado --collect` writes it, around a bitstream of a few bytes."""
    place = folder / f"kv260_{manifest['config_name']}_{manifest['digest']}"
    place.mkdir(parents=True)
    stem = f"celosia_{manifest['config_name']}"
    files = {f"{stem}.bit": b"a bitstream", f"{stem}.hwh": hardware_description(vlnv, base).encode()}
    for name, data in files.items():
        (place / name).write_bytes(data)
    registers = {name: offset for name, offset in manifest["registers"].items() if ticks or name != "TICKS"}
    whole = manifest | {"board": "kv260", "clock_mhz": ASKED_MHZ, "register_base": REGISTER_BASE, "registers": registers,
                        "vlnv": "xilinx.com:module_ref:celosia:1.0",
                        "overlay_files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}}
    (place / f"{stem}.json").write_text(json.dumps(whole))
    return place


def hardware_description(vlnv, base):
    """What PYNQ's parser needs of the file that Vivado writes: processing system, accelerator, one address range."""
    clocks = "\n".join(f"""    <PARAMETER NAME="PSU__FPGA_PL{i}_ENABLE" VALUE="{int(i == 0)}"/>
    <PARAMETER NAME="PSU__CRL_APB__PL{i}_REF_CTRL__DIVISOR0" VALUE="4"/>
    <PARAMETER NAME="PSU__CRL_APB__PL{i}_REF_CTRL__DIVISOR1" VALUE="1"/>
    <PARAMETER NAME="PSU__CRL_APB__PL{i}_REF_CTRL__SRCSEL" VALUE="IOPLL"/>
    <PARAMETER NAME="PSU__CRL_APB__PL{i}_REF_CTRL__ACT_FREQMHZ" VALUE="{ASKED_MHZ}"/>""" for i in range(4))
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<EDKSYSTEM>
 <SYSTEMINFO NAME="system"/>
 <EXTERNALPORTS/>
 <EXTERNALINTERFACES/>
 <MODULES>
  <MODULE INSTANCE="accelerator" FULLNAME="/accelerator" MODTYPE="celosia" VLNV="{vlnv}" IS_PL="TRUE">
   <PARAMETERS/>
   <PORTS><PORT NAME="s_axil_araddr" DIR="I" LEFT="11" RIGHT="0"/></PORTS>
   <BUSINTERFACES>
    <BUSINTERFACE NAME="s_axil" TYPE="SLAVE" VLNV="xilinx.com:interface:aximm:1.0">
     <PORTMAPS><PORTMAP LOGICAL="ARADDR" PHYSICAL="s_axil_araddr"/></PORTMAPS>
    </BUSINTERFACE>
   </BUSINTERFACES>
  </MODULE>
  <MODULE INSTANCE="ps" FULLNAME="/ps" MODTYPE="zynq_ultra_ps_e" VLNV="xilinx.com:ip:zynq_ultra_ps_e:3.4" IS_PL="FALSE">
   <PARAMETERS>
{clocks}
   </PARAMETERS>
   <PORTS><PORT NAME="maxigp0_araddr" DIR="O" LEFT="39" RIGHT="0"/></PORTS>
   <BUSINTERFACES>
    <BUSINTERFACE NAME="M_AXI_HPM0_FPD" TYPE="MASTER" VLNV="xilinx.com:interface:aximm:1.0">
     <PORTMAPS><PORTMAP LOGICAL="ARADDR" PHYSICAL="maxigp0_araddr"/></PORTMAPS>
    </BUSINTERFACE>
   </BUSINTERFACES>
   <MEMORYMAP>
    <MEMRANGE ADDRESSBLOCK="reg0" BASEVALUE="0x{base:08X}" HIGHVALUE="0x{base + 0xFFFF:08X}" INSTANCE="accelerator"
              MASTERBUSINTERFACE="M_AXI_HPM0_FPD" SLAVEBUSINTERFACE="s_axil" MEMTYPE="REGISTER"/>
   </MEMORYMAP>
  </MODULE>
 </MODULES>
</EDKSYSTEM>
"""
