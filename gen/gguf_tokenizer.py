"""The tokenizer in the metadata of a GGUF file, as a tokenizer.json of the package ``tokenizers``.

    tokenizer.ggml.model = llama    BPE of sentencepiece: pieces with scores, ``<0x0A>`` for bytes of no piece, blanks as U+2581
                           gpt2     BPE of bytes: pieces and merges; ``tokenizer.ggml.pre`` says how a text is cut before

A ``llama`` has no merges: of two neighbours whose join is a piece, those with the highest score are joined first. So its merges are
all cuts of a piece into two, in the order of the scores. Cuts of texts are those of the tokenizer.json of the models that the
names stand for: ``gpt-2`` the package's own, ``llama-bpe`` (and names that llama.cpp treats alike) that of Llama 3, ``smollm``
single digits before that of GPT-2.
"""

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

__all__ = ["of_metadata"]

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6      # tokenizer.ggml.token_type; 1 is normal, 5 unused
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3", "falcon3")
_LLAMA3_CUT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
               r"|\s+(?!\S)|\s+")
_CUTS = ("gpt-2", "smollm", *_LLAMA3)
_LONGEST_PIECE = 1024
_BLANK = "\u2581"
_ADVICE = "give a tokenizer.json with --tokenizer"


def of_metadata(metadata):
    """(bytes of a tokenizer.json, tokens that end a text, {name: special text}, chat template or None) of the metadata of a GGUF
    file; None where it has no tokenizer. ValueError, one sentence, when it is of no use."""
    def get(key, default=None):
        return metadata.get(f"tokenizer.{key}", default)

    kind = get("ggml.model")
    if kind in (None, "none", "no_vocab"):
        return None
    if kind not in ("llama", "gpt2"):
        raise ValueError(f"GGUF metadata tokenizer.ggml.model must be llama or gpt2, not {str(kind)[:40]!r}: {_ADVICE}")
    tokens = get("ggml.tokens")
    if not isinstance(tokens, list) or not tokens or max(map(len, tokens)) > _LONGEST_PIECE or len(set(tokens)) != len(tokens):
        raise ValueError("GGUF metadata tokenizer.ggml.tokens must be different texts of at most "
                         f"{_LONGEST_PIECE} characters: {_ADVICE}")
    types = _numbers(get("ggml.token_type", np.ones(len(tokens))), len(tokens), "token_type").tolist()
    ids = {name: _token(get(f"ggml.{name}_token_id"), tokens, name) for name in ("bos", "eos", "eot", "unknown", "padding")}
    if kind == "llama":
        ids["bos"] = 1 if ids["bos"] is None and len(tokens) > 1 else ids["bos"]
        built = _sentencepiece(tokens, _numbers(get("ggml.scores"), len(tokens), "scores").tolist(), types,
                               bool(get("ggml.add_space_prefix", True)))
    else:
        built = _byte_level(tokens, get("ggml.merges"), get("ggml.pre"))
    for of, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        built.add_tokens([AddedToken(text, special=special, normalized=False) for text, each in zip(tokens, types) if each == of])
    if ids["bos"] is not None and get("ggml.add_bos_token", kind == "llama" or get("ggml.pre") in _LLAMA3):
        begin = tokens[ids["bos"]]
        built.post_processor = processors.TemplateProcessing(single=[begin, "$A"], pair=[begin, "$A", begin, "$B"],
                                                             special_tokens=[(begin, ids["bos"])])
    template = get("chat_template")
    special = {f"{short}_token": tokens[ids[name]] for short, name in
               (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")) if ids[name] is not None}
    stop = tuple(sorted({ids[name] for name in ("eos", "eot") if ids[name] is not None}))
    return built.to_str().encode(), stop, special, template if isinstance(template, str) else None


def _sentencepiece(tokens, scores, types, blank_in_front):
    vocabulary = {text: token for token, text in enumerate(tokens)}
    pieces = {text for text, of in zip(tokens, types) if of not in (_UNKNOWN, _CONTROL, _BYTE)}
    merges = [(-scores[vocabulary[piece]], vocabulary[piece], at) for piece in pieces for at in range(1, len(piece))
              if piece[:at] in pieces and piece[at:] in pieces]
    merges = [(tokens[token][:at], tokens[token][at:]) for _, token, at in sorted(merges)]
    unknown = next((text for text, of in zip(tokens, types) if of == _UNKNOWN), None)
    built = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    blanks = [normalizers.Replace(" ", _BLANK)]
    built.normalizer = normalizers.Sequence([normalizers.Prepend(_BLANK), *blanks] if blank_in_front else blanks)
    parts = [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    built.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if blank_in_front else parts)
    return built


def _byte_level(tokens, merges, cut):
    if cut not in _CUTS:
        raise ValueError(f"GGUF metadata tokenizer.ggml.pre must be one of {', '.join(_CUTS)}, not {str(cut)[:40]!r}: {_ADVICE}")
    vocabulary = {text: token for token, text in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges] if isinstance(merges, list) else [()]
    if not all(len(pair) == 2 and {*pair, "".join(pair)} <= vocabulary.keys() for pair in pairs):
        raise ValueError(f"GGUF metadata tokenizer.ggml.merges must be pairs of tokens that join to a token: {_ADVICE}")
    built = tokenizers.Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=cut in _LLAMA3))
    if cut in _LLAMA3:
        before = [pre_tokenizers.Split(Regex(_LLAMA3_CUT), "isolated")]
    else:
        before = [pre_tokenizers.Digits(individual_digits=True)] if cut == "smollm" else []
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut not in _LLAMA3)
    built.pre_tokenizer = pre_tokenizers.Sequence([*before, bytes_])
    built.decoder = decoders.ByteLevel()
    return built


def _numbers(values, n_values, name):
    if not isinstance(values, np.ndarray) or len(values) != n_values or not np.isfinite(values).all():
        raise ValueError(f"GGUF metadata tokenizer.ggml.{name} must be a number for each of the {n_values} tokens: {_ADVICE}")
    return values


def _token(value, tokens, name):
    """A token id, or None where there is none (llama.cpp writes 2**32 - 1 for that)."""
    if value is None or value == 2**32 - 1:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(tokens):
        raise ValueError(f"GGUF metadata tokenizer.ggml.{name}_token_id must be one of the {len(tokens)} tokens, "
                         f"not {str(value)[:40]!r}")
    return value
