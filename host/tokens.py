"""Text to token ids and back, as the image says.

    kind            needs the package
    bytes           -                   a token is a byte of UTF-8
    json            tokenizers          tokenizer.json
    llama2c         -                   tokenizer.bin of llama2.c (``host/pieces.py``)
    sentencepiece   sentencepiece       tokenizer.model
    none            -                   token ids only

A chat template needs the package jinja2; it runs in jinja2's sandbox.
"""

import codecs
import importlib

from .pieces import Pieces

__all__ = ["ByteTokenizer", "tokenizer_of"]

_WINDOW = 8     # tokens of the prompt that decide how a continuation begins


class _Tokenizer:
    """What all have. ``stop``: token ids that end a text."""

    name = ""

    def __init__(self, header=None):
        header = header or {}
        self.stop = frozenset(header.get("stop", ()))
        self._special = header.get("special") or {}
        self._chat_template = header.get("chat_template")

    @property
    def has_chat_template(self):
        """Whether :meth:`chat` can be used."""
        return bool(self._chat_template)

    def encode(self, text, *, special=True):
        """List of token ids; with the special tokens that begin a text, or without."""
        raise NotImplementedError

    def decode(self, tokens):
        """Text."""
        raise NotImplementedError

    def continuation(self, prompt, tokens):
        """The text that ``tokens`` add to ``prompt`` (both ids)."""
        before, whole = self.decode(prompt), self.decode([*prompt, *tokens])
        return whole[len(before):] if whole.startswith(before) else self.decode(tokens)

    def stream(self, prompt=()):
        """A function from one token id to the text that it adds behind the prompt and the tokens before (may be empty)."""
        tokens = list(prompt)[-_WINDOW:]
        start, read = 0, len(tokens)

        def show(token):
            nonlocal start, read
            tokens.append(token)
            before, whole = self.decode(tokens[start:read]), self.decode(tokens[start:])
            if whole.endswith("\ufffd") or len(whole) <= len(before):
                return ""
            start, read = read, len(tokens)
            return whole[len(before):]

        return show

    def chat(self, messages):
        """Token ids of a conversation, a list of {"role", "content"}, up to where the answer begins.

        ValueError where the image has no chat template, or it cannot be applied.
        """
        if not self._chat_template:
            raise ValueError("The image must have a chat template, and has none: its checkpoint had none")
        jinja2 = _package("jinja2.sandbox", "jinja2", "A chat template")
        environment = jinja2.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        try:
            text = environment.from_string(self._chat_template).render(
                messages=messages, add_generation_prompt=True, **self._special)
        except Exception as error:      # a template can fail in any way
            raise ValueError(f"The chat template must apply to these messages, and does not: {error}") from None
        return self.encode(text, special=False)


class ByteTokenizer(_Tokenizer):
    """A token is a byte of UTF-8."""

    name = "bytes"

    def encode(self, text, *, special=True):
        return list(text.encode("utf-8"))

    def decode(self, tokens):
        """Text; bytes that are no UTF-8 become U+FFFD."""
        return bytes(tokens).decode("utf-8", "replace")

    def stream(self, prompt=()):
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda token: decoder.decode(bytes([token]))


class _NoTokenizer(_Tokenizer):
    """Ids in, ids out."""

    name = "none"

    def encode(self, text, *, special=True):
        raise ValueError("The image has no tokenizer: give token ids (--prompt-ids), or pack it with --tokenizer")

    def decode(self, tokens):
        return "".join(f"{token} " for token in tokens)


class _JsonTokenizer(_Tokenizer):
    """tokenizer.json."""

    name = "json"

    def __init__(self, header, data):
        super().__init__(header)
        package = _package("tokenizers", "tokenizers", "The image's tokenizer")
        try:
            self._tokenizer = package.Tokenizer.from_str(data.decode("utf-8"))
        except Exception as error:      # the package raises nothing narrower
            raise ValueError(f"The image's tokenizer must be one of the package tokenizers, and is not: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, text, *, special=True):
        return self._tokenizer.encode(text, add_special_tokens=special).ids

    def decode(self, tokens):
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True)


class _Llama2cTokenizer(_Tokenizer):
    """tokenizer.bin of llama2.c."""

    name = "llama2c"

    def __init__(self, header, data):
        super().__init__(header)
        self._pieces = Pieces.parse(data)

    def encode(self, text, *, special=True):
        return self._pieces.encode(text, begin=special)

    def decode(self, tokens):
        return self._pieces.decode(tokens)


class _SentencepieceTokenizer(_Tokenizer):
    """tokenizer.model."""

    name = "sentencepiece"

    def __init__(self, header, data):
        super().__init__(header)
        package = _package("sentencepiece", "sentencepiece", "The image's tokenizer")
        try:
            self._processor = package.SentencePieceProcessor(model_proto=data)
        except (RuntimeError, OSError):
            raise ValueError("The image's tokenizer must be a sentencepiece model, and is not") from None

    def encode(self, text, *, special=True):
        return self._processor.encode(text, add_bos=special and self._processor.bos_id() >= 0)

    def decode(self, tokens):
        return self._processor.decode([token for token in tokens if token < self._processor.get_piece_size()])


_WITH_FILE = {each.name: each for each in (_JsonTokenizer, _Llama2cTokenizer, _SentencepieceTokenizer)}
_WITHOUT = {each.name: each for each in (ByteTokenizer, _NoTokenizer)}


def tokenizer_of(image):
    """The tokenizer of an ``Image``; ValueError when this version does not know it or its package is missing."""
    header = image.header["tokenizer"]
    kind = header["kind"]
    if kind in _WITHOUT:
        return _WITHOUT[kind](header)
    if kind not in _WITH_FILE:
        raise ValueError(f"The image's tokenizer must be one of {', '.join((*_WITHOUT, *_WITH_FILE))}, not {kind!r}")
    return _WITH_FILE[kind](header, image.tokenizer)


def _package(module, name, what):
    """An optional package, imported when it is needed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ValueError(f"{what} needs the package {name}, which is not installed: pip install {name}") from None


def _refuse(message):
    raise ValueError(message)
