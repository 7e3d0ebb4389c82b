"""The contract between a built accelerator and the host: what it is, and where its registers are."""

from dataclasses import asdict

from celosia.hw import regs

from .image import FORMAT_VERSION as IMAGE_VERSION

__all__ = ["MANIFEST_VERSION", "build_manifest"]

MANIFEST_VERSION = 1


def build_manifest(config):
    """The manifest of a configuration as a dict that JSON can hold; no dates, no paths."""
    return {
        "manifest_version": MANIFEST_VERSION,
        "config_name": config.name,
        "config": asdict(config),
        "digest": config.digest,
        "clock_mhz": config.clock_mhz,
        "isa_version": config.isa_version,
        "abi_version": regs.ABI_VERSION,
        "image_version": IMAGE_VERSION,
        "registers": {register.name: register.offset for register in regs.REGISTERS},
        "counters": {register.name: register.offset for register in regs.COUNTERS},
        "errors": {name: value for value, name in regs.Error.NAMES.items()},
        "page_ops": {name.lower(): value for name, value in vars(regs.PageOp).items() if name.isupper()},
        "topk_offset": regs.TOPK_OFFSET,
        "topk_lane_bytes": regs.TOPK_LANE_BYTES,
    }
