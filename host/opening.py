"""What commands open: an image by its file or by the name of a model, a device by its kind."""

from .device import plugin
from .image import Image

__all__ = ["device_options", "image_of"]


def image_of(model, config, **cache):
    """An ``Image``: of a file, or of a model by name, packed for the configuration (the packer must be installed) with the options
    ``cache`` (sequences, kv, window, sinks, rebase).

    Raises ``ValueError`` where an image that has been packed should be packed otherwise.
    """
    if not model.endswith(".img"):
        return Image.open(plugin("images", "packer")(model, config, **cache))
    if cache:
        raise ValueError(f"--{' and --'.join(cache)} must be given to celosia pack; {model} has been packed")
    return Image.open(model)


def device_options(backend, config, memory="kv260", seed=None):
    """Options of ``Accelerator.open(backend, ...)``."""
    return {"config": config, **({"memory": memory, "seed": seed or 0} if backend == "sim" else {})}
