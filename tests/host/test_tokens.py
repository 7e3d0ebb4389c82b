"""Tokenizers as an image carries them."""

import importlib.util
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_files import llama2c_file, tokenizer_json

from celosia.host.tokens import ByteTokenizer, tokenizer_of


def image(kind, data=b"", **header):
    return SimpleNamespace(header={"tokenizer": {"kind": kind, "bytes": len(data), **header}}, tokenizer=data)


def streamed(tokenizer, prompt, tokens):
    show = tokenizer.stream(prompt)
    return "".join(show(token) for token in tokens)


@given(st.text())
def test_bytes_round_trip(text):
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert streamed(tokenizer, [], tokenizer.encode(text)) == text


def test_unknown_tokenizer():
    with pytest.raises(ValueError, match="one of bytes, none, json, llama2c, sentencepiece, not 'words'$"):
        tokenizer_of(image("words"))


def test_no_tokenizer():
    tokenizer = tokenizer_of(image("none"))
    assert tokenizer.decode([1, 5]) == "1 5 " and streamed(tokenizer, [1, 5], [7, 8]) == "7 8 "
    assert tokenizer.continuation([1, 5], [7]) == "7 "
    with pytest.raises(ValueError, match="^The image has no tokenizer: give token ids"):
        tokenizer.encode("a")


def test_json_is_what_the_package_says():
    import tokenizers
    data = tokenizer_json()
    reference, ours = tokenizers.Tokenizer.from_str(data.decode()), tokenizer_of(image("json", data, stop=[1]))
    text = "the cat sat on the mat, the end \u20ac"
    assert ours.encode(text) == reference.encode(text).ids and ours.encode(text)[0] == 0
    assert ours.encode(text, special=False) == ours.encode(text)[1:]
    tokens = ours.encode(text)
    assert ours.decode(tokens) == text and ours.decode([*tokens, 5000]) == text and ours.stop == {1}
    for cut in range(1, len(tokens) - 3):
        assert streamed(ours, tokens[:cut], tokens[cut:]) == ours.continuation(tokens[:cut], tokens[cut:])
        assert ours.decode(tokens[:cut]) + ours.continuation(tokens[:cut], tokens[cut:]) == text


def test_llama2c_joins_the_best_first():
    data = llama2c_file([("ab", -1.0), ("bc", -2.0), ("abc", -3.0), (" a", -9.0), ("cc", -0.5), ("a", -20.0), ("b", -21.0),
                         ("c", -22.0), (" ", -23.0)])
    ids = {piece: 259 + i for i, piece in enumerate(("ab", "bc", "abc", " a", "cc", "a", "b", "c", " "))}
    tokenizer = tokenizer_of(image("llama2c", data))
    assert tokenizer.encode("abc") == [1, ids[" "], ids["abc"]]
    assert tokenizer.encode("abcc", special=False) == [ids[" "], ids["ab"], ids["cc"]]
    assert tokenizer.encode("ccc", special=False) == [ids[" "], ids["cc"], ids["c"]]
    assert tokenizer.encode("ac", special=False) == [ids[" a"], ids["c"]]
    assert tokenizer.encode("\u00e9", special=False) == [ids[" "], 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.encode("") == [1]


@given(st.text(st.sampled_from("abc \u00e9\U0001f600\n"), max_size=30), st.integers(0, 30))
def test_llama2c_round_trip(text, cut):
    tokenizer = tokenizer_of(image("llama2c", llama2c_file([("ab", -1.0), (" a", -1.0), ("a", -3.0), (" ", -4.0), ("b", -3.0)])))
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.decode(tokenizer.encode(text, special=False)) == text
    cut = min(cut, len(tokens))
    if "\ufffd" not in tokenizer.decode(tokens[:cut]):
        assert streamed(tokenizer, tokens[:cut], tokens[cut:]) == tokenizer.continuation(tokens[:cut], tokens[cut:])


def test_llama2c_of_the_stories(tree):
    file = tree.parent / "shared" / "models" / "tok512.bin"
    if not file.exists():
        pytest.skip("tok512.bin of karpathy/tinyllamas is not there")
    tokenizer = tokenizer_of(image("llama2c", file.read_bytes()))
    assert tokenizer.encode("Once upon a time") == [1, 403, 407, 261, 378]
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind, data, sentence", [
    ("json", b"{}", "^The image's tokenizer must be one of the package tokenizers, and is not"),
    ("json", b"\xff", "^The image's tokenizer must be one of the package tokenizers, and is not"),
    ("llama2c", b"", "^A tokenizer of llama2.c must hold"),
    ("llama2c", llama2c_file([])[:-1], "^A tokenizer of llama2.c must hold"),
    ("llama2c", llama2c_file([]) + b"\0\0\0\0\xff\xff\xff\xff", "^A tokenizer of llama2.c must hold"),
])
def test_a_damaged_tokenizer(kind, data, sentence):
    with pytest.raises(ValueError, match=sentence):
        tokenizer_of(image(kind, data))


def test_sentencepiece(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece", reason="the package sentencepiece is optional")
    words = " ".join("the cat sat on the mat and the dog lay by the door".split() * 20)
    (tmp_path / "text.txt").write_text("\n".join([words] * 5))
    sentencepiece.SentencePieceTrainer.train(input=str(tmp_path / "text.txt"), vocab_size=40,
                                             model_prefix=str(tmp_path / "tokenizer"), model_type="bpe", minloglevel=2)
    tokenizer = tokenizer_of(image("sentencepiece", (tmp_path / "tokenizer.model").read_bytes()))
    tokens = tokenizer.encode("the cat sat")
    assert tokens[0] == 1 and tokenizer.decode([*tokens, 5000]) == "the cat sat"
    assert streamed(tokenizer, tokens[:3], tokens[3:]) == tokenizer.continuation(tokens[:3], tokens[3:])
    with pytest.raises(ValueError, match="^The image's tokenizer must be a sentencepiece model, and is not$"):
        tokenizer_of(image("sentencepiece", b"no model"))


def test_a_package_that_is_missing(monkeypatch):
    import importlib

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ValueError, match="^The image's tokenizer needs the package tokenizers, which is not installed"):
        tokenizer_of(image("json", tokenizer_json()))


TEMPLATE = """{{ bos_token }}{% for m in messages %}
{{ m.role }}: {{ m.content }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""
ASKED = [{"role": "user", "content": "the cat"}]


@pytest.mark.skipif(importlib.util.find_spec("jinja2") is None, reason="the package jinja2 is optional")
def test_chat_template():
    tokenizer = tokenizer_of(image("json", tokenizer_json(), special={"bos_token": "<s>"}, chat_template=TEMPLATE))
    tokens = tokenizer.chat(ASKED)
    assert tokens == tokenizer.encode("user: the cat\nassistant:") and tokens.count(0) == 1


@pytest.mark.parametrize("template, sentence", [
    (None, "^The image must have a chat template, and has none"),
    ("{{ raise_exception('no system') }}", "^The chat template must apply to these messages, and does not: no system$"),
    ("{% for", "^The chat template must apply"),
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "^The chat template must apply"),
    ("{{ messages.append(1) }}", "^The chat template must apply"),
])
def test_a_chat_template_that_does_not_apply(template, sentence):
    pytest.importorskip("jinja2", reason="the package jinja2 is optional")
    with pytest.raises(ValueError, match=sentence):
        tokenizer_of(image("bytes", chat_template=template)).chat(ASKED)

