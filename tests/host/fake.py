"""A device that is a dictionary of registers; a start answers with candidates by a rule."""

import numpy as np

from celosia.gen.manifest import build_manifest
from celosia.hw import regs
from celosia.hw.configs import tiny


class FakeDevice:
    """Candidates of a lane are (its token + 1) and (its token + 2), with logits 2.0 and 1.0."""

    name = "fake"

    def __init__(self, *, memory_bytes=1 << 20, finish=True):
        self.manifest = build_manifest(tiny)
        self.registers = {regs.offset("ID"): regs.ID_MAGIC,
                          regs.offset("VERSION"): self.manifest["isa_version"] | self.manifest["abi_version"] << 16,
                          regs.offset("CONFIG"): int(self.manifest["digest"], 16)}
        self.memory = np.zeros(memory_bytes, np.uint8)
        self.top = 0
        self.finish = finish
        self.runs = []
        self.error = None
        self.closed = False

    def read32(self, offset):
        return self.registers.get(offset, 0)

    def write32(self, offset, value):
        if offset == regs.offset("CONTROL"):
            if value & 2:
                self.registers[regs.offset("STATUS")] = 0
            if value & 1:
                self._start()
        else:
            self.registers[offset] = value

    def allocate(self, n_bytes):
        if self.top + n_bytes > len(self.memory):
            raise MemoryError(f"no room for {n_bytes} bytes")
        start, self.top = self.top, self.top + n_bytes
        return start, self.memory[start:self.top]

    def release(self):
        self.top = 0

    def flush(self, address, n_bytes):
        pass

    def invalidate(self, address, n_bytes):
        pass

    def wait(self, timeout_cycles):
        return self.finish

    def close(self):
        self.closed = True

    def _start(self):
        read = lambda name: self.registers.get(regs.offset(name), 0)  # noqa: E731
        tokens = [read(f"TOKEN{t}") for t in range(read("N_TOKENS"))]
        self.runs.append((read("PROGRAM_OFFSET"), tokens, read("LANE0") & 0xFFFF))
        if not self.finish:
            self.registers[regs.offset("STATUS")] = 1
        elif self.error:
            self.registers[regs.offset("STATUS")] = 4
            self.registers[regs.offset("ERROR_CODE")], self.registers[regs.offset("ERROR_INDEX")] = self.error
        else:
            self.registers[regs.offset("STATUS")] = 2
            self.registers[regs.offset("CYCLES")] = 100
            self.registers[regs.offset("TOPK_COUNT")] = 2
            for lane, token in enumerate(tokens):
                for i, logit in enumerate((2.0, 1.0)):
                    offset = regs.TOPK_OFFSET + regs.TOPK_LANE_BYTES * lane + 8 * i
                    self.registers[offset] = (token + 1 + i) % 256
                    self.registers[offset + 4] = int(np.float32(logit).view(np.uint32))
