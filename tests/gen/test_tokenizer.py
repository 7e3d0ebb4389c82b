"""Tokenizers of checkpoints: found, checked, carried by the image, used by ``celosia run``."""

import json

import pytest
import torch
from click.testing import CliRunner
from tokenizer_files import llama2c_file, tokenizer_json

from celosia.gen import image, tokenizer
from celosia.gen.commands import pack
from celosia.gen.golden.machine import Machine
from celosia.host.cli import main
from celosia.host.image import Image
from celosia.host.tokens import tokenizer_of
from celosia.hw.configs import tiny

VOCAB = 300
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %} the"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama with tokenizer.json and a chat template."""
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("talker")
    LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2,
                                 num_key_value_heads=1, vocab_size=VOCAB, max_position_embeddings=64)).save_pretrained(path)
    (path / "tokenizer.json").write_bytes(tokenizer_json())
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}, "chat_template": TEMPLATE}))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 7]}))
    return path


@pytest.fixture(scope="module")
def packed(folder):
    """The image of it."""
    output = folder / "talker.img"
    result = CliRunner().invoke(pack, [str(folder), "-o", str(output)])
    assert result.exit_code == 0, result.output
    assert f"tokenizer: json, {len(tokenizer_json()):,} bytes, with a chat template" in result.output
    return output


def test_the_image_carries_it(packed):
    found = Image.open(packed)
    assert found.tokenizer == tokenizer_json()
    assert found.header["tokenizer"] == {"kind": "json", "bytes": len(tokenizer_json()), "stop": [1, 7],
                                         "special": {"bos_token": "<s>"}, "chat_template": TEMPLATE}
    header, payload = image.parse(packed.read_bytes())
    assert header == found.header and payload == found.payload.tobytes()
    assert Machine.of_image(packed.read_bytes(), tiny).model.tobytes() == payload
    text = "the cat sat"
    assert tokenizer_of(found).decode(tokenizer_of(found).encode(text)) == text


def run(*arguments):
    result = CliRunner().invoke(main, ["run", "--backend", "golden", "--json", "-n", "6", *arguments])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_run_speaks_its_tokens(packed):
    tokens = tokenizer_of(Image.open(packed)).encode("the cat")
    said = run("--model", str(packed), "--prompt", "the cat")
    assert said["prompt_tokens"] == len(tokens)
    assert said == run("--model", str(packed), "--prompt-ids", ",".join(map(str, tokens)))
    asked = run("--model", str(packed), "--prompt", "the cat", "--chat")
    assert asked["tokens"] == run("--model", str(packed), "--prompt", "the cat the")["tokens"]


def test_run_ends_at_a_stop_token(packed, tmp_path):
    whole = run("--model", str(packed), "--prompt-ids", "5,9,11")["tokens"]
    header, payload = image.parse(packed.read_bytes())
    header["tokenizer"]["stop"] = [whole[2]]
    image.write(tmp_path / "stops.img", image.encode(header, payload, tokenizer_json()))
    stopped = run("--model", str(tmp_path / "stops.img"), "--prompt-ids", "5,9,11")["tokens"]
    assert stopped == whole[:whole.index(whole[2]) + 1]


@pytest.mark.parametrize("arguments, sentence", [
    (["--prompt-ids", "1,x"], "--prompt-ids must be token ids with commas between, such as 1,5,9, not '1,x'"),
    (["--prompt-ids", "1,300"], "--prompt-ids must be tokens 0 to 299, not 1,300"),
    (["--prompt-ids", "1", "--chat"], "--prompt-ids stands alone; leave out --prompt and --chat"),
])
def test_run_refuses_in_one_sentence(packed, arguments, sentence):
    result = CliRunner().invoke(main, ["run", "--backend", "golden", "--model", str(packed), *arguments])
    assert result.exit_code != 0 and sentence in result.output


def test_a_folder_without_one(folder, tmp_path):
    assert tokenizer.find(tmp_path, 256) == tokenizer.Tokenizer("bytes")
    assert tokenizer.find(tmp_path, 257) == tokenizer.Tokenizer("none")
    (tmp_path / "tokenizer.bin").write_bytes(llama2c_file([]))
    assert tokenizer.find(tmp_path, 259).kind == "llama2c"
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json())
    assert tokenizer.find(tmp_path, VOCAB).kind == "json"


def test_pack_takes_another_file(folder, tmp_path):
    file, output = tmp_path / "pieces.bin", tmp_path / "x.img"
    file.write_bytes(llama2c_file([("a", -1.0)]))
    result = CliRunner().invoke(pack, [str(folder), "-o", str(output), "--tokenizer", str(file)])
    assert result.exit_code == 0, result.output
    assert Image.open(output).header["tokenizer"]["kind"] == "llama2c" and Image.open(output).tokenizer == file.read_bytes()


@pytest.mark.parametrize("text, kept", [
    (None, None), ("{}", None), ('{"chat_template": "a"}', "a"),
    ('{"chat_template": [{"name": "tools", "template": "b"}, {"name": "default", "template": "c"}]}', "c"),
    ('{"chat_template": [3]}', None),
])
def test_chat_templates(tmp_path, text, kept):
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json())
    if text:
        (tmp_path / "tokenizer_config.json").write_text(text)
    assert tokenizer.find(tmp_path, VOCAB).chat_template == kept
    (tmp_path / "chat_template.jinja").write_text("of its own")
    assert tokenizer.find(tmp_path, VOCAB).chat_template == "of its own"


def test_sentencepiece_is_optional(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "tokenizer.model").write_bytes(b"model")
    with pytest.raises(ValueError, match="^tokenizer.model needs the package sentencepiece: pip install celosia"):
        tokenizer.find(tmp_path, VOCAB)


@pytest.mark.parametrize("files, sentence", [
    ({"tokenizer.json": b"{"}, "tokenizer.json must be a tokenizer of the package tokenizers, and is not"),
    ({"tokenizer.json": b"\xff"}, "tokenizer.json must be a tokenizer of the package tokenizers, and is not"),
    ({"tokenizer.bin": llama2c_file([])[:-1]}, "tokenizer.bin must be a tokenizer of llama2.c"),
    ({"tokenizer.bin": b"\0" * 12}, "tokenizer.bin must be a tokenizer of llama2.c"),
    ({"tokenizer.bin": llama2c_file([("a", 0.0)] * 42)}, "tokenizer.bin must have at most the model's 300 tokens, not 301"),
    ({"tokenizer.json": tokenizer_json(), "tokenizer_config.json": b"["}, "tokenizer_config.json must be a JSON object"),
    ({"tokenizer.json": tokenizer_json(), "tokenizer_config.json": b'{"chat_template": 3}'},
     "tokenizer_config.json: chat_template must be a text, not int"),
    ({"tokenizer.json": tokenizer_json(), "config.json": b'{"eos_token_id": "x"}'},
     "config.json: eos_token_id must be a token or a list of tokens, not 'x'"),
])
def test_one_sentence_for_what_cannot_be_used(tmp_path, files, sentence):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError) as error:
        tokenizer.find(tmp_path, VOCAB)
    assert str(error.value).startswith(sentence)


def test_files_of_no_kind(tmp_path):
    with pytest.raises(ValueError, match="^A tokenizer must be a file .json, .model or .bin, not words.txt$"):
        tokenizer.load("words.txt", VOCAB)
    with pytest.raises(ValueError, match="must be a file that can be read, and is not$"):
        tokenizer.load(tmp_path / "gone.json", VOCAB)
