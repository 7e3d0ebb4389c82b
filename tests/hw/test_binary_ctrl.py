# amaranth: UnusedElaboratable=no
"""Control of the binary machine: which descriptors are legal, and how they reach the units."""

import pytest

from celosia.hw.binary.check import DescriptorCheck
from celosia.hw.binary.config import BinaryConfig
from celosia.hw.binary.configs import binary_kv260, binary_tiny
from celosia.hw.binary.dispatch import Dispatch
from celosia.hw.regs import Error
from celosia.sim_tb.binary_descriptors import judge, raw
from celosia.sim_tb.run import simulate

SIZES = ("token_lanes", "engine_rows", "columns", "beat_bytes", "act_lines", "v_words", "x_words", "p_words", "max_tokens",
         "softmax")
# Two ports, rows as long as the lanes are many, no softmax, and memories of odd sizes.
binary_duo = BinaryConfig(
    name="binary-duo", n_ports=2, port_bytes=4, token_lanes=16, engine_rows=4, act_lines=100, v_words=50, x_words=70, p_words=90,
    max_tokens=48, softmax=False, queue_beats=64)


def sizes(config):
    return {name: getattr(config, name) for name in SIZES}


@pytest.mark.sim
@pytest.mark.parametrize("config", [binary_tiny, binary_duo, binary_kv260], ids=lambda config: config.name)
def test_check(config):
    simulate(DescriptorCheck(**sizes(config)), "celosia.sim_tb.tb_binary_check", name=f"check_{config.name.replace('-', '_')}",
             parameters=sizes(config))


@pytest.mark.sim
@pytest.mark.parametrize("config", [binary_tiny, binary_duo, binary_kv260], ids=lambda config: config.name)
def test_dispatch(config):
    simulate(Dispatch(n_ports=config.n_ports, **sizes(config)), "celosia.sim_tb.tb_binary_dispatch",
             name=f"dispatch_{config.name.replace('-', '_')}", parameters=sizes(config) | {"n_ports": config.n_ports})


def test_codes_that_are_not_there():
    """``judge`` itself: codes come before sizes."""
    assert judge(raw(2, operand=3), sizes(binary_tiny)) == Error.OPCODE
    assert judge(raw(2, kind=3), sizes(binary_tiny)) == Error.OPCODE
    assert judge(raw(2, post=7), sizes(binary_tiny)) == Error.OPCODE
    assert judge(raw(2, post=5), sizes(binary_duo)) == Error.OPCODE
    assert judge(raw(0), sizes(binary_tiny)) == Error.NONE


@pytest.mark.parametrize("change, sentence", [
    ({"n_ports": 1, "port_bytes": 4}, "must hold a parameter word of 8 bytes"),
    ({"token_lanes": 4}, "token_lanes must be a multiple of the bytes of a beat"),
    ({"engine_rows": 16}, "must have 8 to 256 columns"),
])
def test_rejects_bad_configurations(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        BinaryConfig(**{name: getattr(binary_duo, name) for name in binary_duo.__dataclass_fields__} | change)
