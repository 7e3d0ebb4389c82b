"""A random encoder on the golden machine: inputs, a run, and what the golden model makes of them."""

import numpy as np

from celosia.gen.binary.assemble import assemble
from celosia.gen.binary.integers import fold
from celosia.gen.binary.model import ImageInput
from celosia.gen.binary.pack import pack_lines, pack_rows
from celosia.gen.golden.binary.machine import Machine
from celosia.gen.golden.binary.model import forward, image_rows, text_rows

__all__ = ["Run"]


class Run:
    """A model of ``program`` on random inputs. ``machine`` has them in its cache window; ``lengths`` are those of the sequences."""

    def __init__(self, model, accel, *, program="batch", seed=0, sequences=None):
        self.integers, self.accel, rng = fold(model), accel, np.random.default_rng(seed)
        self.assembled = assemble(self.integers, accel, sequences)
        self.header = self.assembled.header
        self.program, self.compiled = self.header["programs"][program], self.assembled.programs[program]
        n, s, c = self.program["sequences"], self.header["seq_tokens"], model.config
        if isinstance(c.input, ImageInput):
            self.lengths = [c.input.n_tokens] * n
            tokens = rng.integers(0, c.input.maximum + 1, (n, c.input.n_tokens, c.input.n_columns)) - c.input.zero
            self._x = image_rows(self.integers, tokens)
        else:
            self.lengths = rng.integers(1, c.max_tokens + 1, n).tolist()
            ids = rng.integers(0, c.input.vocab_size, (n, c.max_tokens))
            tokens = self._x = text_rows(self.integers, ids)
        padded = np.zeros((n, s, tokens.shape[2]), np.int64)
        padded[:, :tokens.shape[1]] = tokens
        self.cache = np.zeros(self.header["cache_bytes"], np.uint8)
        chunks = padded.reshape(-1, accel.token_lanes, tokens.shape[2])
        self._put([pack_lines(chunk, c.input.bits, accel) if isinstance(c.input, ImageInput) else pack_rows(chunk.T, accel)
                   for chunk in chunks])
        self.machine = Machine(np.frombuffer(self.assembled.payload, np.uint8), self.cache, accel, seed=seed)

    def _put(self, chunks):
        source = self.header["input"]
        for i, ports in enumerate(chunks):
            for port, data in enumerate(ports):
                start = source["offset"] + port * source["port_stride"] + i * source["chunk_bytes"] // self.accel.n_ports
                self.cache[start:start + len(data)] = data

    def run(self):
        """Run the whole program."""
        self.machine.run((self.program["offset"], self.program["count"]), self.lengths)

    def logits(self):
        """[int64 (tokens, labels)] of the sequences, from the cache window."""
        output, m, s = self.header["output"], self.accel.token_lanes, self.header["seq_tokens"]
        n_bytes = self.program["chunks"] * output["rows"] * 4 * m
        rows = self.cache[output["offset"]:output["offset"] + n_bytes].view("<i4").reshape(-1, output["rows"], m)
        tokens = rows.transpose(0, 2, 1).reshape(-1, s, output["rows"])[:, :, :len(self.header["labels"])]
        return [tokens[i, :length].astype(np.int64) for i, length in enumerate(self.lengths)]

    def expected(self):
        """The same from the golden model."""
        found = forward(self.integers, self._x, self.lengths).numpy()
        return [found[i, :length] for i, length in enumerate(self.lengths)]

    def check(self):
        for got, want in zip(self.logits(), self.expected(), strict=True):
            np.testing.assert_array_equal(got, want)
