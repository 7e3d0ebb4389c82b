"""Packing of binary encoders for the command line."""

from celosia.gen import image
from celosia.hw.binary.config import BinaryConfig

from .assemble import assemble
from .checkpoint import load
from .integers import fold

__all__ = ["encoded", "pack_file"]


def _assembled(path, config, sequences=None):
    if not isinstance(config, BinaryConfig):
        raise ValueError("Configuration of a binary encoder must be one of the binary machine, such as binary-tiny, not "
                         f"{config.name}")
    model = fold(load(path))
    return model, assemble(model, config, sequences)


def encoded(path, config, **options):
    """The bytes of an image of a checkpoint folder. ``options``: sequences. ValueError, one sentence."""
    _check_options(options)
    model, assembled = _assembled(path, config, options.get("sequences"))
    return image.encode(assembled.header, assembled.payload, model.words)


def pack_file(path, output, config, sequences=None, **options):
    """Write the image of a checkpoint folder; returns what was packed, for people. ``options`` are those of decoders, all None."""
    _check_options(options)
    model, assembled = _assembled(path, config, sequences)
    image.save(output, assembled.header, assembled.payload, model.words)
    return _table(assembled)


def _check_options(options):
    given = sorted(name for name, value in options.items() if value is not None and name != "sequences")
    if given:
        raise ValueError(f"A binary encoder takes no option {given[0].replace('_', '-')}")


def _table(assembled):
    header = assembled.header
    lines = [f"{'segment':<28}{'bytes':>12}"]
    lines += [f"{segment['name']:<28}{segment['bytes']:>12,}" for segment in header["segments"]]
    programs = [f"program {name}: {program['count']} descriptors, {program['sequences']} sequences of "
                f"{header['seq_tokens']} tokens, {program['chunks']} chunks" for name, program in header["programs"].items()]
    return "\n".join([*lines, f"{'payload':<28}{header['payload_bytes']:>12,}", "",
                      f"configuration {header['config']} ({header['config_digest']})", *programs])
