"""Small made-up tokenizer files."""

import struct

TEXT = "the cat sat on the mat, the dog lay by the door, the end"


def tokenizer_json():
    """tokenizer.json: bytes joined as in ``TEXT``; token 0 ``<s>`` begins a text, token 1 is ``</s>``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([TEXT] * 4, trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer.to_str().encode()


def llama2c_file(pieces):
    """tokenizer.bin of llama2.c: three special tokens, 256 bytes, and ``pieces`` (text, score)."""
    special = [("<unk>", 0.0), ("\n<s>\n", 0.0), ("\n</s>\n", 0.0), *((f"<0x{byte:02X}>", 0.0) for byte in range(256))]
    entries = [(text.encode(), score) for text, score in [*special, *pieces]]
    return struct.pack("<I", max(len(raw) for raw, _ in entries)) + b"".join(
        struct.pack("<fi", score, len(raw)) + raw for raw, score in entries)
