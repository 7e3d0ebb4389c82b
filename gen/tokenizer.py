"""Which tokenizer a checkpoint has, and how an image carries it.

    kind            file                  what it is
    json            tokenizer.json        of the package ``tokenizers``
    sentencepiece   tokenizer.model       of the package ``sentencepiece``, which must be installed to check it
    llama2c         *.bin                 of llama2.c: uint32 longest piece; then float32 score, int32 bytes, UTF-8 of each piece
    bytes           -                     a token is a byte of UTF-8 (256 tokens)
    none            -                     token ids only

The tokenizer of a GGUF file is in its metadata, and becomes a tokenizer.json (``gen/gguf_tokenizer.py``).
The file travels whole behind the model window of the image; the chat template, the special tokens that it names and the
tokens at which a text ends stand in the header. ``host/tokens.py`` reads them.
"""

import importlib.util
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as shown

import tokenizers

from . import gguf_tokenizer
from .gguf_file import GGUFFile

__all__ = ["NAMES", "Tokenizer", "find", "load", "plain"]

NAMES = ("tokenizer.json", "tokenizer.model", "tokenizer.bin")
_KINDS = {".json": "json", ".model": "sentencepiece", ".bin": "llama2c"}
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
_LLAMA2C_STOP = (1, 2)      # its texts are separated by the token of the beginning
_LLAMA2C_LEAST = 259        # three special tokens and all bytes


@dataclass(frozen=True)
class Tokenizer:
    """``data``: the file. ``stop``: token ids that end a text. ``special``: {name: text}, for the chat template."""
    kind: str
    data: bytes = b""
    stop: tuple = ()
    special: dict = field(default_factory=dict)
    chat_template: str | None = None

    def header(self):
        """What the image's header says of it."""
        return {"kind": self.kind, "bytes": len(self.data), "stop": sorted(self.stop), "special": self.special,
                "chat_template": self.chat_template}


def plain(vocab_size):
    """The tokenizer of a checkpoint that has no file of one."""
    return Tokenizer("bytes" if vocab_size == 256 else "none")


def find(path, vocab_size):
    """The tokenizer of a GGUF file, or in a checkpoint folder: the first of ``NAMES``; else :func:`plain`."""
    if Path(path).suffix == ".gguf":
        found = gguf_tokenizer.of_metadata(GGUFFile(path).metadata)
        if found is None:
            return plain(vocab_size)
        data, stop, special, template = found
        _check_count(_count_json(data, "The tokenizer of the file"), vocab_size, "The tokenizer of the file")
        return Tokenizer("json", data, stop, special, template)
    files = [Path(path) / name for name in NAMES]
    return next((load(file, vocab_size) for file in files if file.is_file()), plain(vocab_size))


def load(file, vocab_size):
    """The tokenizer of a file, and what the JSON files beside it say. ValueError, one sentence, when it is of no use."""
    file = Path(file)
    if file.suffix not in _KINDS:
        raise ValueError(f"A tokenizer must be a file .json, .model or .bin, not {file.name}")
    try:
        data = file.read_bytes()
    except OSError:
        raise ValueError(f"Tokenizer {file} must be a file that can be read, and is not") from None
    kind = _KINDS[file.suffix]
    n_tokens = {"json": _count_json, "sentencepiece": _count_sentencepiece, "llama2c": _count_llama2c}[kind](data, file.name)
    _check_count(n_tokens, vocab_size, file.name)
    if kind == "llama2c":
        return Tokenizer(kind, data, _LLAMA2C_STOP)
    config = _optional_json(file.parent / "tokenizer_config.json")
    return Tokenizer(kind, data, _stop(file.parent), _special(config), _chat_template(file.parent, config))


def _check_count(n_tokens, vocab_size, name):
    if n_tokens > vocab_size:
        raise ValueError(f"{name} must have at most the model's {vocab_size} tokens, not {n_tokens}")


def _count_json(data, name):
    try:
        found = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:      # the package raises nothing narrower
        raise ValueError(f"{name} must be a tokenizer of the package tokenizers, and is not: {error}") from None
    return max(found.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _count_sentencepiece(data, name):
    if importlib.util.find_spec("sentencepiece") is None:
        raise ValueError(f"{name} needs the package sentencepiece: pip install celosia[sentencepiece]")
    import sentencepiece
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=data).get_piece_size()
    except (RuntimeError, OSError):
        raise ValueError(f"{name} must be a sentencepiece model, and is not") from None


def _count_llama2c(data, name):
    at, count = 4, 0
    while at + 8 <= len(data):
        size, = struct.unpack_from("<i", data, at + 4)
        if size < 0:
            break
        at, count = at + 8 + size, count + 1
    if at != len(data) or count < _LLAMA2C_LEAST:
        raise ValueError(f"{name} must be a tokenizer of llama2.c, a score and a text of every token, and is not")
    return count


def _optional_json(path):
    """The JSON object of a file; {} when there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} must be a JSON object, and is not")
    return found


def _special(config):
    """{name: text} of special tokens: a text, or an object with ``content``."""
    found = {name: config.get(name) for name in _SPECIAL}
    found = {name: token.get("content") if isinstance(token, dict) else token for name, token in found.items()}
    return {name: token for name, token in found.items() if isinstance(token, str)}


def _stop(folder):
    """Ids that end a text: those of generation_config.json, else of config.json; a number or a list."""
    for name in ("generation_config.json", "config.json"):
        found = _optional_json(folder / name).get("eos_token_id")
        if found is not None:
            ids = found if isinstance(found, list) else [found]
            if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
                raise ValueError(f"{name}: eos_token_id must be a token or a list of tokens, not {shown(found)}")
            return tuple(ids)
    return ()


def _chat_template(folder, config):
    """Text of the template: of chat_template.jinja, else of the configuration (of several, the one named default)."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError):
            raise ValueError(f"{file.name} must be UTF-8, and is not") from None
    found = config.get("chat_template")
    if isinstance(found, list):
        found = next((entry.get("template") for entry in found if isinstance(entry, dict) and entry.get("name") == "default"), None)
    if found is not None and not isinstance(found, str):
        raise ValueError(f"tokenizer_config.json: chat_template must be a text, not {type(found).__name__}")
    return found
