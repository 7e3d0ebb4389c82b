import numpy as np
import pytest
from fake import FakeDevice

from celosia.host.accelerator import Accelerator
from celosia.host.errors import CelosiaError, DeviceTimeout, ProgramError
from celosia.host.image import Image

PROGRAMS = {"prefill": {"offset": 0, "count": 10}, "decode": {"offset": 640, "count": 12}}

CACHE = {"page_positions": 16, "pages": 2, "page_bytes": 1024, "regions": 1, "region_bytes": 2048, "port_stride": 2048}


def image(device, **changes):
    manifest = device.manifest
    header = {"config": "tiny", "config_digest": manifest["digest"], "isa_version": manifest["isa_version"], "vocab": 256,
              "context": 20, "cache_bytes": 4096, "cache": CACHE, "programs": PROGRAMS,
              "tokenizer": {"kind": "bytes", "bytes": 0}, **changes}
    return Image(header, np.arange(5000, dtype=np.uint8), "")


@pytest.fixture
def device():
    return FakeDevice()


@pytest.fixture
def accel(device):
    accel = Accelerator(device)
    accel.load(image(device))
    return accel


def test_load_fills_the_model_window(device, accel):
    registers = device.manifest["registers"]
    assert device.read32(registers["MODEL_SIZE"]) == 5000
    assert np.array_equal(device.memory[:5000], np.arange(5000, dtype=np.uint8))
    assert device.read32(registers["CACHE_BASE"]) == 5000


@pytest.mark.parametrize("chunk, sizes", [(None, [4, 3]), (1, [1] * 7), (3, [3, 3, 1]), (4, [4, 3])])
def test_prefill_cuts_the_prompt_and_heads_only_the_last(device, accel, chunk, sizes):
    candidates = accel.prefill(range(7), chunk=chunk)
    assert [len(tokens) for _, tokens, _ in device.runs] == sizes
    assert [offset for offset, _, _ in device.runs] == [0] * (len(sizes) - 1) + [640]
    assert [first for _, _, first in device.runs] == np.cumsum([0] + sizes[:-1]).tolist()
    assert candidates.tokens.tolist() == [7, 8] and candidates.logits.tolist() == [2.0, 1.0]


def test_logits_have_the_cap_of_the_model(device, accel):
    cap, plain = np.float32(1.5), accel.prefill(range(7))
    accel.load(image(device, logit_cap=1.5))
    capped = accel.prefill(range(7))
    assert capped.tokens.tolist() == plain.tokens.tolist()
    assert np.array_equal(capped.logits, cap * np.tanh(plain.logits / cap)) and capped.logits.dtype == np.float32


def test_generate_continues_and_counts(device, accel):
    assert list(accel.generate([1, 2], 3)) == [3, 4, 5]
    assert accel.position == 4 and accel.stats.prompt_tokens == 2 and accel.stats.new_tokens == 2
    assert accel.stats.cycles == 300 and accel.stats.cycles_per_token == 100 and accel.stats.tokens_per_s == 2.5e6


def test_generate_stops_where_the_context_is_full(accel):
    assert len(list(accel.generate(range(18), 100))) == 3


def test_second_prompt_follows_the_first(device, accel):
    list(accel.generate([1, 2], 2))
    accel.prefill([9])
    assert device.runs[-1] == (640, [9], 3)


@pytest.mark.parametrize("act, sentence", [
    (lambda a: a.prefill([]), "The prompt must hold at least one token, not none"),
    (lambda a: a.prefill([3, 256]), "Token ids must be 0 to 255, not 256"),
    (lambda a: a.prefill([-1]), "Token ids must be 0 to 255, not -1"),
    (lambda a: a.prefill([0] * 21), r"The sequence must fit the context of 20 positions, not 0 \+ 21"),
    (lambda a: a.prefill([0], chunk=5), r"chunk must be 1 to 4 \(the token lanes\), not 5"),
])
def test_refuses(device, accel, act, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        act(accel)
    assert device.runs == [] and accel.position == 0


def test_error_of_the_hardware_has_a_name(device, accel):
    device.error = 3, 17
    with pytest.raises(ProgramError, match="^The accelerator stopped at descriptor 17 with READ_WINDOW: ") as error:
        accel.prefill([1])
    assert error.value.code == "READ_WINDOW" and error.value.index == 17
    device.error = None
    accel.reset()
    assert accel.prefill([1]).tokens[0] == 2


def test_a_run_that_does_not_end_is_stopped(device, accel):
    device.finish = False
    with pytest.raises(DeviceTimeout, match="^Program 'decode' must end within"):
        accel.prefill([1])


def test_needs_a_model(device):
    with pytest.raises(CelosiaError, match="^A model must be loaded first"):
        Accelerator(device).prefill([1])


def test_refuses_an_image_of_another_configuration(device):
    with pytest.raises(ValueError, match="^image was packed for configuration kv260 .* pack again with --config tiny$"):
        Accelerator(device).load(image(device, config="kv260", config_digest="12345678"))


def test_refuses_a_model_that_memory_cannot_hold():
    device = FakeDevice(memory_bytes=5500)
    with pytest.raises(MemoryError):
        Accelerator(device).load(image(device))


def test_refuses_hardware_that_is_not_what_the_manifest_says(device):
    device.registers[device.manifest["registers"]["CONFIG"]] = 5
    with pytest.raises(CelosiaError, match="^Register CONFIG must read 0x.* not 0x00000005"):
        Accelerator(device)


def test_closes_the_device(device):
    with Accelerator(device):
        assert not device.closed
    assert device.closed
