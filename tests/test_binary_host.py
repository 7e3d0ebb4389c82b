"""Binary encoders from a checkpoint folder to labels: pack, image, host library and command line, on the golden machine."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image as Picture

from celosia.gen.binary import float_model
from celosia.gen.binary.integers import fold
from celosia.gen.binary.model import ImageInput, TextInput
from celosia.gen.commands import packer
from celosia.gen.device import open_device
from celosia.gen.golden.binary import model as golden
from celosia.host import Accelerator, Classifier, Image
from celosia.host.cli import main
from celosia.host.inputs import read_image
from tests_gen_random_binary import random_config, random_model, write_checkpoint
