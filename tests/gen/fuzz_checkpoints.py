"""Loads damaged checkpoints, one after the other, in a process whose memory and time are limited.

    python fuzz_checkpoints.py FIRST COUNT      prints the cases that are wrong, and how many ended in which way

Right is a checkpoint that packs, or a refusal: a ValueError of this project of one printable line that says what of the checkpoint
is meant. Wrong are other exceptions and sentences, more than ``LIMIT_BYTES`` of new address space, and more than ``LIMIT_S``
seconds, after which the process ends with its stack.
"""

import collections
import faulthandler
import json
import random
import re
import resource
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path

LIMIT_BYTES, LIMIT_S = 256 << 20, 20
_CEILING_BYTES = 4 << 30        # what asks for more than this fails at once
_MEANT = re.compile(r"[Tt]ensor|GGUF|\.json|\.bin|\.model|\.safetensors|\.gguf|checkpoint|llama2\.c|[Tt]okenizer|Model |tokens|"
                    r"configuration|context|a\.jinja|columns|vocab")


def _bases(folder):
    """{name: folder of a good checkpoint, or a file}, of every kind that is read."""
    import numpy as np
    import torch
    from gguf import GGMLQuantizationType as Kind
    from gguf_files import (
        BYTE_TOKENS,
        SMALL,
        WIDE,
        gguf_tensors,
        of_architecture,
        random_tensors,
        save_gguf,
        save_hf,
        ternary,
        tokenizer_metadata,
    )
    from safetensors.torch import load_file, save_file
    from test_digits import written
    from tokenizer_files import llama2c_file, tokenizer_json

    from celosia.gen.gguf_file import I2_S

    found = {}
    small = replace(of_architecture(SMALL, "bitnet"), n_layers=1, vocab_size=290)
    tensors = random_tensors(small)
    plain = save_hf(folder / "plain", small, tensors)
    (plain / "tokenizer.json").write_bytes(tokenizer_json())
    (plain / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}, "eos_token": "</s>",
                                                             "chat_template": [{"name": "default", "template": "{{ messages }}"}]}))
    (plain / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    whole, config = load_file(plain / "model.safetensors"), (plain / "config.json").read_bytes()
    found["plain"] = plain

    packed = folder / "packed"
    packed.mkdir()
    codes = {}
    for name, tensor in whole.items():
        matrix = "_proj.weight" in name
        codes[name] = torch.full((-(-len(tensor) // 4), tensor.shape[1]), 0x64, dtype=torch.uint8) if matrix else tensor
        if matrix:
            codes[f"{name}_scale"] = torch.ones(1)
    save_file(codes, packed / "model.safetensors")
    (packed / "config.json").write_text(json.dumps(json.loads(config) | {"quantization_config": {
        "quant_method": "bitnet", "linear_class": "bitlinear"}}))
    (packed / "tokenizer.bin").write_bytes(llama2c_file([("ab", -1.0)]))
    found["packed"] = packed

    shards = folder / "shards"
    shards.mkdir()
    names = sorted(whole)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for part, of in parts.items():
        save_file({name: whole[name] for name in of}, shards / part)
    (shards / "model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {"total_size": 1}, "weight_map": {name: part for part, of in parts.items() for name in of}}))
    (shards / "config.json").write_bytes(config)
    found["shards"] = shards

    for kind, zipped in (("zip", True), ("old", False)):
        pickles = folder / f"pickle_{kind}"
        pickles.mkdir()
        (pickles / "config.json").write_bytes(config)
        torch.save(whole, pickles / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        found[pickles.name] = pickles

    wide = replace(WIDE, vocab_size=290, n_kv_heads=1, ffn_size=256)
    rng = np.random.default_rng(1)
    texts = ["<unk>", "<s>", "</s>", *BYTE_TOKENS, *"abcdefghij", "ab"]
    spoken = tokenizer_metadata("llama", texts, scores=[float(-i) for i in range(270)])
    for architecture, kind, own in (("llama", Kind.F32, small), ("bitnet", Kind.TQ1_0, wide), ("bitnet-b1.58", I2_S, wide)):
        own = of_architecture(own, architecture)
        values = random_tensors(own, matrix=ternary(rng) if own is not small and kind != Kind.F32 else None)
        (folder / architecture).mkdir()
        save_gguf(folder / architecture / "model.gguf", own, architecture, gguf_tensors(own, values, architecture, kind), spoken)
        found[architecture] = folder / architecture
    (folder / "llama2c").mkdir()
    written(folder / "llama2c" / "model.bin")
    found["llama2c"] = folder / "llama2c"
    return found


def _damaged(name, data, rng):
    """A file with damage that suits it."""
    from mutations import damaged_bytes, damaged_json, damaged_safetensors
    if name.endswith(".json") and rng.random() < 0.85:
        return damaged_json(data, rng)
    if name.endswith(".safetensors") and rng.random() < 0.6:
        return damaged_safetensors(data, rng)
    return damaged_bytes(data, rng)


def _outcome(path, output):
    """packed, refused, or what is wrong."""
    from click.testing import CliRunner

    from celosia.gen import checkpoint, tokenizer
    from celosia.gen.commands import pack
    from celosia.gen.tensors import CheckpointError
    try:
        found = checkpoint.load(path)
        list(found.layers)
        tokenizer.find(path, found.config.vocab_size)
    except (CheckpointError, OSError, ValueError) as error:
        text = str(error)
        if type(error) not in (CheckpointError, ValueError) or not text.isprintable() or len(text) > 600 or not _MEANT.search(text):
            return f"no sentence: {type(error).__name__}: {text[:700]!r}"
        return "refused"
    except BaseException as error:      # a panic of Rust is no Exception
        return f"{type(error).__name__}: {error} in {traceback.format_exc()[-900:]}"
    result = CliRunner().invoke(pack, [str(path), "-o", str(output), "--context", "16"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"pack: {''.join(traceback.format_exception(result.exception))[-1200:]}"
    return "packed" if result.exit_code == 0 else "refused"


def _address_space():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmPeak"))


def main(first, count):
    """Run the cases ``first`` to ``first + count - 1`` and print what is wrong with them, and their ends, as JSON."""
    folder = Path(tempfile.mkdtemp())
    bases = _bases(folder)
    contents = {name: {file.name: file.read_bytes() for file in base.iterdir()} for name, base in bases.items()}
    (folder / "case").mkdir()
    for name in bases:      # what is imported late is in memory before the limit
        end = _outcome(_entry(bases[name]), folder / "image")
        assert end == "packed", (name, end)
    before = _address_space()
    resource.setrlimit(resource.RLIMIT_AS, (before + _CEILING_BYTES,) * 2)
    ends, wrong = collections.Counter(), []
    for case in range(first, first + count):
        rng = random.Random(case)
        base = rng.choice(sorted(bases))
        where = folder / "case" / str(case)
        where.mkdir()
        damaged = rng.choice(sorted(contents[base]))
        for name, data in contents[base].items():
            (where / name).write_bytes(_damaged(name, data, rng) if name == damaged else data)
        faulthandler.dump_traceback_later(LIMIT_S, exit=True)
        print(f"{case} {base} {damaged}", file=sys.stderr, flush=True)
        end = _outcome(_entry(where), folder / "image")
        faulthandler.cancel_dump_traceback_later()
        after = _address_space()
        if after - before > LIMIT_BYTES:
            wrong.append(f"case {case}, {base}/{damaged}: {(after - before) >> 20} MiB of new address space, then {end}")
        elif end not in ("packed", "refused"):
            wrong.append(f"case {case}, {base}/{damaged}: {end}")
        before = max(before, after)
        ends[f"{base} {end.split(':')[0][:20]}"] += 1
        for name in contents[base]:
            (where / name).unlink()
        where.rmdir()
    print(json.dumps({"wrong": wrong, "ends": dict(sorted(ends.items()))}), flush=True)


def _entry(folder):
    """What a user gives: the folder, or the one file in it."""
    return next((file for file in folder.iterdir() if file.suffix == ".gguf" or file.name == "model.bin"), folder)


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1] / "host")]
    main(int(sys.argv[1]), int(sys.argv[2]))
