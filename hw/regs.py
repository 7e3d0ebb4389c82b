"""The register table: one line a register, used by hardware, software and documentation.

32-bit registers on AXI4-Lite, byte offsets. Access: "r" read, "w" write takes effect at once, "rw" kept value.
64-bit quantities take two registers, low half first.
"""

from typing import NamedTuple

__all__ = ["ABI_VERSION", "ID_MAGIC", "ADDRESS_BITS", "Register", "REGISTERS", "COUNTERS", "Error", "PageOp", "TOPK_OFFSET",
           "TOPK_LANE_BYTES", "offset"]

ABI_VERSION = 2
ID_MAGIC = 0x4F4C4543  # "CELO", little endian
ADDRESS_BITS = 13
TOPK_OFFSET = 0x1000    # candidate i of token lane t, best first: token at 0x1000 + 0x100 t + 8 i, logit (binary32) 4 bytes later
TOPK_LANE_BYTES = 0x100


class Register(NamedTuple):
    name: str
    offset: int
    access: str
    meaning: str


class Error:
    """Values of ERROR_CODE."""
    NONE = 0
    OPCODE = 1        # unknown opcode, or an unknown code in a field
    SIZE = 2          # a size beyond the configuration
    READ_WINDOW = 3   # a read outside its window
    WRITE_WINDOW = 4  # a write outside its window
    AXI_READ = 5      # memory answered a read with an error
    AXI_WRITE = 6     # memory answered a write with an error
    WATCHDOG = 7      # no progress for WATCHDOG_CYCLES
    LAUNCH = 8        # N_TOKENS or LANE out of range, lanes of a slot apart, or positions that do not follow one another
    FETCH = 9         # the program ran past PROGRAM_COUNT
    PAGE = 10         # a position is read whose page the table has not, or that is free or another slot's own
    OWNER = 11        # a position is written whose page the table has not, or that does not belong to the slot

    NAMES = {1: "OPCODE", 2: "SIZE", 3: "READ_WINDOW", 4: "WRITE_WINDOW", 5: "AXI_READ", 6: "AXI_WRITE",
             7: "WATCHDOG", 8: "LAUNCH", 9: "FETCH", 10: "PAGE", 11: "OWNER"}


class PageOp:
    """What PAGE does; page, index and slot beside it. What is refused changes nothing and is said in PAGE_STATUS."""
    CLAIM = 0     # a free page becomes the slot's own: it may read and write it
    SHARE = 1     # a page of the slot's own becomes nobody's: all may read it, nobody may write it
    RELEASE = 2   # a page that is not free becomes free
    MAP = 3       # entry `index` of the slot's table becomes the page, which must not be free nor another slot's own
    UNMAP = 4     # entry `index` of the slot's table becomes none
    CLEAR = 5     # all pages become free, all entries none


REGISTERS = [
    Register("ID", 0x000, "r", "0x4F4C4543"),
    Register("VERSION", 0x004, "r", "bits 15:0 instruction set, 31:16 register table"),
    Register("CONFIG", 0x008, "r", "digest of the configuration's sizes"),
    Register("CONTROL", 0x00C, "w", "bit 0 start, bit 1 reset (stops, drains the ports, clears the error), bit 2 clear DONE"),
    Register("STATUS", 0x010, "r", "bit 0 busy, bit 1 done (until cleared or started), bit 2 error, bit 3 draining"),
    Register("ERROR_CODE", 0x014, "r", "why the program stopped"),
    Register("ERROR_INDEX", 0x018, "r", "index of the descriptor it stopped at"),
    Register("IRQ_ENABLE", 0x01C, "rw", "bit 0: interrupt on done or error"),
    Register("MODEL_BASE", 0x020, "rw", "address of the model window, 64 bits"),
    Register("MODEL_SIZE", 0x028, "rw", "bytes of the model window, 64 bits"),
    Register("CACHE_BASE", 0x030, "rw", "address of the cache window, 64 bits"),
    Register("CACHE_SIZE", 0x038, "rw", "bytes of the cache window, 64 bits"),
    Register("PROGRAM_OFFSET", 0x040, "rw", "first descriptor, bytes into the model window, 64 bits"),
    Register("PROGRAM_COUNT", 0x048, "rw", "descriptors of the program, END included"),
    Register("N_TOKENS", 0x04C, "rw", "token lanes of this run"),
    Register("PAGE", 0x050, "w", "bits 11:0 page, 23:12 index, 27:24 slot, 31:28 what to do (PageOp); not while a program runs"),
    Register("WATCHDOG_CYCLES", 0x054, "rw", "cycles without progress before the program is stopped; 0 = never"),
    Register("SCRATCH", 0x058, "rw", "no effect"),
    Register("TOPK_COUNT", 0x05C, "r", "candidates of every token lane that the last run found"),
    Register("PAGE_STATUS", 0x060, "r", "bit 0: at work; bit 1: something was refused since the last reset of CONTROL"),
    Register("ACCEPTED", 0x064, "r", "bit t: the token of lane t is the best candidate of lane t - 1, of the same segment, and so "
             "up to the segment's second lane"),
    Register("TICKS", 0x068, "r", "cycles since the last reset of the fabric, modulo 2**32"),
    *(Register(f"TOKEN{t}", 0x080 + 4 * t, "rw", f"token id of lane {t}") for t in range(16)),
    *(Register(f"LANE{t}", 0x0C0 + 4 * t, "rw", f"bits 15:0 position of lane {t}, 19:16 slot of its sequence") for t in range(16)),
]

# Counters of the last run, 64 bits each (48 kept), from 0x100. They start at zero with every start.
_COUNTER_NAMES = [
    ("CYCLES", "cycles from start to done"),
    ("DESCRIPTORS", "descriptors issued"),
    ("MATMUL_BUSY", "cycles in which a weight beat entered the engine"),
    ("MATMUL_WAIT_WEIGHTS", "cycles it was ready for a beat that was not there"),
    ("MATMUL_WAIT_TABLES", "cycles a beat waited for look-up tables"),
    ("MATMUL_WAIT_DRAIN", "cycles a beat waited for results to leave"),
    ("VECTOR_BUSY", "cycles with a vector descriptor at work"),
    ("VECTOR_WAIT", "of these, cycles it waited for its stream or sink"),
    ("ATTEND_BUSY", "cycles with an attention descriptor at work"),
    ("WRITE_BEATS", "beats written"),
    ("FETCH_BEATS", "beats of descriptors read"),
    ("PORT0_BEATS", "beats read by port 0 (descriptors not counted)"),
    ("PORT1_BEATS", "beats read by port 1"),
    ("PORT2_BEATS", "beats read by port 2"),
    ("PORT3_BEATS", "beats read by port 3"),
    ("PORT0_FULL", "cycles port 0 could not ask because its queue was full"),
    ("PORT0_IDLE", "cycles port 0 had nothing to ask for"),
]
COUNTERS = [Register(name, 0x100 + 8 * i, "r", meaning) for i, (name, meaning) in enumerate(_COUNTER_NAMES)]


def offset(name):
    """Byte offset of a register or counter by name; KeyError when there is none."""
    return {register.name: register.offset for register in REGISTERS + COUNTERS}[name]
