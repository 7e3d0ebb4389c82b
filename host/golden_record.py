"""What a device computed for an image: the candidates of every step, to be kept in a file and compared bit for bit."""

import json
from dataclasses import dataclass
from pathlib import Path

from .errors import CelosiaError

__all__ = ["Record"]


@dataclass
class Record:
    """A greedy continuation.

    Members
    -------
    prompt, tokens : list of int
        Token ids of the prompt and of its continuation.
    steps : list of [list of int, str]
        Of each step the candidates' token ids, best first, and their logits: binary32, little endian, hexadecimal.
    """

    prompt: list
    tokens: list
    steps: list

    @classmethod
    def of(cls, accel, prompt, n_tokens):
        """Continue ``prompt`` greedily on an accelerator that has a model loaded."""
        steps = []
        tokens = list(accel.generate(prompt, n_tokens, on_step=lambda found: steps.append(
            [found.tokens.tolist(), found.logits.astype("<f4").tobytes().hex()])))
        return cls([int(token) for token in prompt], tokens, steps)

    @classmethod
    def load(cls, path, image):
        """From a file that :meth:`save` wrote for the same image; ValueError otherwise."""
        try:
            found = json.loads(Path(path).read_text())
            record = cls(found["prompt"], found["tokens"], found["steps"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path} must be a file of `celosia doctor --backend golden --save`, and is not") from None
        if found.get("image_sha256") != image.digest:
            raise ValueError(f"{path} must be of the image with SHA-256 {image.digest}, and is of {found.get('image_sha256')}: "
                             "write it again for this image")
        return record

    def save(self, path, image):
        """Write as JSON, with the digest of the image."""
        text = json.dumps({"image_sha256": image.digest, "prompt": self.prompt, "tokens": self.tokens, "steps": self.steps})
        Path(path).write_text(text + "\n")

    def check(self, expected):
        """CelosiaError at the first step that is not the expected one."""
        if self.prompt != expected.prompt or len(self.steps) != len(expected.steps):
            raise CelosiaError("Both records must be of the same prompt and length: write the expected one again")
        for step, (found, wanted) in enumerate(zip(self.steps, expected.steps)):
            if found != wanted:
                what = f"tokens {wanted[0][:3]}, not {found[0][:3]}" if found[0] != wanted[0] else "the golden machine's logits"
                raise CelosiaError(f"Candidates of step {step} must be {what}" + ("" if found[0] != wanted[0] else ", and differ"))
