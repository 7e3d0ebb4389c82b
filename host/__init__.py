"""The driver: registers and buffers, numpy in and out; runs on the board and on the simulator alike."""

from .accelerator import Accelerator
from .classify import Classifier, Result
from .draft import Draft, PromptLookup
from .errors import CelosiaError, DeviceTimeout, ProgramError
from .image import Image
from .pages import CacheFull
from .sampling import Candidates, Sampler
from .sequence import Sequence
from .stats import Stats

__all__ = ["Accelerator", "CacheFull", "Candidates", "CelosiaError", "Classifier", "DeviceTimeout", "Draft", "Image",
           "ProgramError", "PromptLookup", "Result", "Sampler", "Sequence", "Stats"]
