"""Classify images and texts on an accelerator for binary encoders.

    with Classifier.open("sim", config="binary-tiny") as accel:
        accel.load("digits.img")
        for result in accel.classify(images):
            print(result.label, result.scores)

The accelerator computes integer logits of every token; the host writes tokens, and pools and scales what comes back. A run serves
several inputs: the sequences of program ``batch``.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .driver import Driver
from .image import Image
from .inputs import inputs_of
from .stats import Stats

__all__ = ["Classifier", "Result"]


@dataclass(frozen=True)
class Result:
    """What an input is.

    Members
    -------
    label : str or list
        The label with the best score; without pooling a list, one a token.
    scores : numpy.ndarray
        Softmax of the logits, float64 (labels,), or (tokens, labels).
    logits : numpy.ndarray
        Of the same shape.
    integers : numpy.ndarray
        int32 (tokens, labels): what the accelerator computed.
    """
    label: str | list
    scores: np.ndarray
    logits: np.ndarray
    integers: np.ndarray


class Classifier(Driver):
    """One accelerator for binary encoders, simulated or real. ``cycles``: of all runs since the model was loaded."""

    def __init__(self, device):
        super().__init__(device)
        self._inputs, self.cycles = None, 0

    def load(self, image):
        """Put a model image (path or ``Image``) into the device's memory.

        Raises ``ValueError`` when the image is damaged, holds no classifier or is packed for another configuration, and
        ``MemoryError`` when it does not fit.
        """
        if not isinstance(image, Image):
            image = Image.open(Path(image))
        image.need_kind("classifier")
        self._check_image(image)
        inputs = inputs_of(image)
        self._open_windows(image)
        self._inputs, self.cycles, self.stats = inputs, 0, Stats(self._device.manifest["clock_mhz"])

    @property
    def batch(self):
        """Inputs that a run takes, at most."""
        return self._need_image().header["programs"]["batch"]["sequences"]

    def classify(self, inputs):
        """A list of :class:`Result`, one for each of ``inputs``: arrays of pixels, texts or lists of token ids.

        Raises ``ValueError`` on an input that the model does not take, ``ProgramError`` when the accelerator stops a program, and
        ``DeviceTimeout`` when it does not finish.
        """
        self._need_image()
        sequences = [self._inputs.tokens(each) for each in inputs]
        results = []
        for start in range(0, len(sequences), self.batch):
            results += map(self._result, self._run(sequences[start:start + self.batch]))
        return results

    def _run(self, sequences):
        """Integer logits int32 (tokens, labels) of each of some sequences."""
        programs = self._image.header["programs"]
        program = "single" if len(sequences) <= programs["single"]["sequences"] else "batch"
        n_chunks = programs[program]["chunks"]
        self._write_tokens(sequences, n_chunks)
        self._set_up_program(program)
        self._write("N_TOKENS", len(sequences))
        for i, sequence in enumerate(sequences):
            self._write(f"LANE{i}", i << 16 | len(sequence))
        self.cycles += self._start(program)
        output, lanes, s = self._image.header["output"], self._config["token_lanes"], self._image.header["seq_tokens"]
        n_bytes = n_chunks * output["rows"] * 4 * lanes
        address, buffer = self._cache
        self._device.invalidate(address + output["offset"], n_bytes)
        rows = buffer[output["offset"]:output["offset"] + n_bytes].view("<i4").reshape(n_chunks, output["rows"], lanes)
        tokens = rows.transpose(0, 2, 1).reshape(-1, output["rows"])[:, :len(output["scale"])]
        return [tokens[i * s:i * s + len(sequence)].copy() for i, sequence in enumerate(sequences)]

    def _write_tokens(self, sequences, n_chunks):
        """The tokens of all chunks, zeros behind a sequence, where the program reads them."""
        source, config, s = self._image.header["input"], self._config, self._image.header["seq_tokens"]
        lanes, n_ports, port_bytes = config["token_lanes"], config["n_ports"], config["port_bytes"]
        columns = 8 * n_ports * port_bytes // config["engine_rows"]
        tokens = np.zeros((n_chunks * lanes, sequences[0].shape[1]), np.int64)
        for i, sequence in enumerate(sequences):
            tokens[i * s:i * s + len(sequence)] = sequence
        data = np.concatenate([self._inputs.chunk(chunk, columns) for chunk in tokens.reshape(n_chunks, lanes, -1)])
        address, buffer = self._cache
        for port, part in enumerate(data.reshape(-1, n_ports, port_bytes).transpose(1, 0, 2)):
            start = source["offset"] + port * source["port_stride"]
            buffer[start:start + part.size] = part.reshape(-1)
            self._device.flush(address + start, part.size)

    @property
    def _config(self):
        return self._device.manifest["config"]

    def _result(self, integers):
        header = self._image.header
        pooled = {"mean": lambda: integers.mean(0), "first": lambda: integers[0], "none": lambda: integers}[header["pooling"]]()
        logits = pooled * np.array(header["output"]["scale"]) + np.array(header["output"]["bias"])
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        best, labels = logits.argmax(-1), header["labels"]
        label = [labels[i] for i in best] if logits.ndim == 2 else labels[best]
        return Result(label, powers / powers.sum(-1, keepdims=True), logits, integers)
