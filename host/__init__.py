"""The driver: registers and buffers, numpy in and out; runs on the board and on the simulator alike."""

from .accelerator import Accelerator, Stats
from .errors import CelosiaError, DeviceTimeout, ProgramError
from .image import Image
from .sampling import Candidates, Sampler

__all__ = ["Accelerator", "Candidates", "CelosiaError", "DeviceTimeout", "Image", "ProgramError", "Sampler", "Stats"]
