"""Tokenizers in the metadata of GGUF files: the tokens of what they were made from, and those of llama.cpp."""

import importlib.util
import json
import random
import struct
from dataclasses import replace

import llama_cpp
import pytest
import tokenizers
from click.testing import CliRunner
from gguf import TokenType
from gguf_files import (
    BYTE_TOKENS,
    SMALL,
    STORIES,
    gguf_tensors,
    of_architecture,
    random_tensors,
    save_gguf,
    tokenizer_metadata,
)
from tokenizers import decoders, models, pre_tokenizers, trainers

from celosia.gen.commands import pack
from celosia.gen.gguf_file import GGUFFile
from celosia.gen.gguf_tokenizer import of_metadata
from celosia.gen.tokenizer import find
from celosia.host.image import Image
from celosia.host.tokens import tokenizer_of

TEXTS = ["", "Once upon a time", " the  king's   men,\n\n\tand they'LL say 12345 and 7!", "   ", "\n", "the kingmen",
         "na\u00efve caf\u00e9 \u65e5\u672c \U0001f600",
         "for (int i = 0; i < 10; ++i) {\r\n  x[i] += 3.14;\n}\n", "I'd   we've\u00a0it's"]


def random_texts(seed, n_texts=40):
    """Texts of words, blanks, digits and characters that no vocabulary has."""
    rng = random.Random(seed)
    parts = ["the", "and", " ", "  ", "\n", "King", "'s", "12", "3456", ".", ", ", "!?", "\u00e9", "\u4e2d\u6587", "ing", "A", "q",
             "\t", "_"]
    return ["".join(rng.choice(parts) for _ in range(rng.randint(1, 25))) for _ in range(n_texts)]


def trained(text, n_tokens, cut, special=()):
    """A byte-level BPE of the package ``tokenizers``."""
    built = tokenizers.Tokenizer(models.BPE())
    built.pre_tokenizer, built.decoder = cut, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=n_tokens, special_tokens=list(special), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    built.train_from_iterator(text.splitlines(keepends=True), trainer)
    return built


@pytest.fixture(scope="module")
def text(pytestconfig):
    """Words, and numbers so frequent that they become tokens where nothing cuts them."""
    return (pytestconfig.rootpath / "models" / "demo" / "heldout.txt").read_text() + " 12345 3456 they'LL\n" * 300


@pytest.fixture(scope="module")
def byte_level(text):
    """(tokenizer, metadata without ``pre``), the latter with a token that no merges lead to: Llama 3 takes it even so."""
    built = trained(text, 419, pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|begin|>", "<|end|>", "<|turn|>"])
    found = json.loads(built.to_str())
    tokens = [built.id_to_token(i) for i in range(built.get_vocab_size())] + ["\u0120kingmen"]
    types = [TokenType.CONTROL] * 2 + [TokenType.USER_DEFINED] + [TokenType.NORMAL] * (len(tokens) - 3)
    merges = [" ".join(pair) for pair in found["model"]["merges"]]
    return built, tokenizer_metadata("gpt2", tokens, types, merges=merges, bos_token_id=0, eos_token_id=1, eot_token_id=2)


@pytest.fixture(scope="module")
def pieces(text):
    """Metadata of a sentencepiece vocabulary: pieces that begin with blanks, scores in the order in which they were joined."""
    built = tokenizers.Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    built.train_from_iterator(text.splitlines(), trainers.BpeTrainer(vocab_size=200, show_progress=False))
    found = sorted(built.get_vocab(), key=built.get_vocab().get)
    tokens = ["<unk>", "<s>", "</s>", *BYTE_TOKENS, *found]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256, *[TokenType.NORMAL] * len(found)]
    scores = [0.0] * 259 + [-float(i) for i in range(len(found))]
    return tokenizer_metadata("llama", tokens, types, scores=scores, bos_token_id=1, eos_token_id=2)


def written(path, values):
    """A GGUF file of a small model with this tokenizer."""
    config = of_architecture(replace(SMALL, vocab_size=len(values["tokenizer.ggml.tokens"])), "llama")
    return save_gguf(path / "model.gguf", config, "llama", gguf_tensors(config, random_tensors(config), "llama"), values)


def encoder(path):
    """The tokenizer of a file as the board runs it."""
    data, *_ = of_metadata(GGUFFile(path).metadata)
    built = tokenizers.Tokenizer.from_str(data.decode())
    return lambda text: built.encode(text).ids


def test_byte_level_tokens_are_those_of_the_original(tmp_path, byte_level):
    original, values = byte_level
    path = written(tmp_path, values | {"tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.add_bos_token": True})
    encode = encoder(path)
    for text in TEXTS + random_texts(1):
        assert encode(text) == [0, *original.encode(text).ids]
    assert encode("<|turn|>the<|end|>") == [0, 2, *original.encode("the").ids, 1]


@pytest.mark.skipif(not STORIES.exists(), reason="needs tok512.bin of karpathy/tinyllamas")
def test_scored_pieces_are_those_of_llama2c(tmp_path):
    """The same vocabulary through ``host/pieces.py``, which joins by scores itself."""
    from celosia.host.pieces import Pieces
    data = STORIES.with_name("tok512.bin").read_bytes()
    at, found = 4, []
    while at < len(data):
        score, size = struct.unpack_from("<fi", data, at)
        found.append((data[at + 8:at + 8 + size].decode().replace(" ", "\u2581"), score))
        at += 8 + size
    tokens = ["<unk>", "<s>", "</s>", *(piece for piece, _ in found[3:])]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL] + [TokenType.BYTE] * 256
    types += [TokenType.NORMAL] * (len(tokens) - len(types))
    encode = encoder(written(tmp_path, tokenizer_metadata("llama", tokens, types, scores=[float(score) for _, score in found])))
    theirs = Pieces.parse(data)
    for text in TEXTS + random_texts(2):
        assert encode(text) == theirs.encode(text)


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None,
                    reason="llama.cpp was not asked: its wheel xllamacpp (Linux, x86_64) is not installed")
@pytest.mark.parametrize("cut", ["gpt-2", "smollm", "llama-bpe", "falcon3", "pieces"])
def test_tokens_are_those_of_llama_cpp(tmp_path, byte_level, pieces, cut):
    path = written(tmp_path, pieces if cut == "pieces" else byte_level[1] | {"tokenizer.ggml.pre": cut})
    texts, encode = TEXTS + random_texts(3), encoder(path)
    for text, theirs in zip(texts, llama_cpp.tokens_of(path, texts)):
        assert encode(text) == theirs, text


def test_the_image_carries_it(tmp_path, pieces):
    path = written(tmp_path, pieces | {"tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}"})
    result = CliRunner().invoke(pack, [str(path), "-o", str(tmp_path / "image")])
    assert result.exit_code == 0, result.output
    found = Image.open(tmp_path / "image")
    tokenizer = tokenizer_of(found)
    assert found.header["tokenizer"]["special"] == {"bos_token": "<s>", "eos_token": "</s>"} and tokenizer.stop == {2}
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_file_without_a_tokenizer(tmp_path):
    config = of_architecture(SMALL, "llama")
    path = save_gguf(tmp_path / "a.gguf", config, "llama", gguf_tensors(config, random_tensors(config), "llama"))
    assert find(path, 30).kind == "none"


ADVICE = "give a tokenizer.json with --tokenizer"


@pytest.mark.parametrize("change, sentence", [
    ({"model": "t5"}, f"tokenizer.ggml.model must be llama or gpt2, not 't5': {ADVICE}"),
    ({"pre": "tekken"}, "tokenizer.ggml.pre must be one of gpt-2, smollm, llama-bpe, llama3, llama-v3, falcon3, not 'tekken': "
                        + ADVICE),
    ({"pre": None}, f"tokenizer.ggml.pre must be one of gpt-2, smollm, llama-bpe, llama3, llama-v3, falcon3, not 'None': {ADVICE}"),
    ({"tokens": ["a", "a"]}, f"tokenizer.ggml.tokens must be different texts of at most 1024 characters: {ADVICE}"),
    ({"tokens": ["a" * 1025]}, f"tokenizer.ggml.tokens must be different texts of at most 1024 characters: {ADVICE}"),
    ({"merges": ["a"]}, f"tokenizer.ggml.merges must be pairs of tokens that join to a token: {ADVICE}"),
    ({"merges": None}, f"tokenizer.ggml.merges must be pairs of tokens that join to a token: {ADVICE}"),
    ({"token_type": [1]}, f"tokenizer.ggml.token_type must be a number for each of the 420 tokens: {ADVICE}"),
    ({"eos_token_id": 420}, "tokenizer.ggml.eos_token_id must be one of the 420 tokens, not '420'"),
    ({"model": "llama"}, f"tokenizer.ggml.scores must be a number for each of the 420 tokens: {ADVICE}"),
])
def test_one_sentence_for_what_cannot_be_used(tmp_path, byte_level, change, sentence):
    values = byte_level[1] | {"tokenizer.ggml.pre": "gpt-2"}
    path = written(tmp_path, values | {f"tokenizer.ggml.{key}": value for key, value in change.items()})
    with pytest.raises(ValueError) as error:
        find(path, 420)
    assert str(error.value) == f"GGUF metadata {sentence}"


def test_more_tokens_than_the_model(tmp_path, pieces):
    with pytest.raises(ValueError, match="^The tokenizer of the file must have at most the model's 30 tokens, not 459$"):
        find(written(tmp_path, pieces), 30)
