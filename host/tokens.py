"""Text to token ids and back."""

import codecs

__all__ = ["ByteTokenizer", "tokenizer_of"]


class ByteTokenizer:
    """A token is a byte of UTF-8."""

    name = "bytes"

    def encode(self, text):
        """List of token ids."""
        return list(text.encode("utf-8"))

    def decode(self, tokens):
        """Text; bytes that are no UTF-8 become U+FFFD."""
        return bytes(tokens).decode("utf-8", "replace")

    def stream(self):
        """A function from one token id to the text that it completes (may be empty)."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda token: decoder.decode(bytes([token]))


def tokenizer_of(header):
    """The tokenizer that an image names; ValueError when this version does not know it."""
    if header["tokenizer"] != ByteTokenizer.name:
        raise ValueError(f"The image's tokenizer must be 'bytes', not {header['tokenizer']!r}")
    return ByteTokenizer()
