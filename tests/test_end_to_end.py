"""Text out of the simulated accelerator, identical to the golden machine; and what happens when something goes wrong."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from celosia.host.accelerator import Accelerator
from celosia.host.cli import image_of, main
from celosia.host.errors import ProgramError
from celosia.host.tokens import ByteTokenizer

PROMPTS = [
    "My fellow citizens, ",
    "The state of the Union is",
    "I",
    "During the last year the Treasury received $",
    "Congress; and\n\nin 1862 -- ",
]
pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def image():
    return image_of("demo", "tiny")


def steps_of(accel, prompt, n, **options):
    """Token ids and the candidates of every step, as bytes."""
    steps = []
    tokens = list(accel.generate(ByteTokenizer().encode(prompt), n,
                                 on_step=lambda c: steps.append((c.tokens.tolist(), c.logits.tobytes())), **options))
    return tokens, steps


@pytest.fixture(scope="module")
def expected(image):
    """What the golden machine says to every prompt."""
    with Accelerator.open("golden", config="tiny") as golden:
        found = {}
        for prompt in PROMPTS:
            golden.load(image)
            found[prompt] = steps_of(golden, prompt, 32)
        return found


@pytest.mark.parametrize("memory", ["kv260", "stress"])
@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_text_is_identical_to_golden(image, expected, memory, prompt):
    with Accelerator.open("sim", config="tiny", memory=memory, seed=len(prompt)) as accel:
        accel.load(image)
        assert steps_of(accel, prompt, 32) == expected[prompt]


@pytest.mark.parametrize("chunk", [1, 2, 3, 4])
def test_chunks_do_not_change_a_bit(image, expected, chunk):
    prompt = PROMPTS[1]
    with Accelerator.open("sim", config="tiny") as accel:
        accel.load(image)
        tokens, steps = steps_of(accel, prompt, 4, chunk=chunk)
    assert tokens == expected[prompt][0][:4]
    assert steps == expected[prompt][1][:4]


def test_cache_in_memory_is_the_golden_cache(image):
    caches = []
    for device in ("sim", "golden"):
        with Accelerator.open(device, config="tiny") as accel:
            accel.load(image)
            accel.prefill(ByteTokenizer().encode("We the People"))
            registers = accel.device.manifest["registers"]
            base = accel.device.read32(registers["CACHE_BASE"])
            caches.append(np.array(accel.device.peek(base, image.header["cache_bytes"])))
    assert np.array_equal(*caches)


@pytest.fixture
def accel(image):
    with Accelerator.open("sim", config="tiny") as accel:
        accel.load(image)
        yield accel


def prefill_works(accel):
    accel.reset()
    return accel.prefill([65, 66, 67]).tokens[0]


@pytest.mark.parametrize("register, value, code", [
    ("MODEL_SIZE", 200_000, "READ_WINDOW"),
    ("CACHE_SIZE", 64, "WRITE_WINDOW"),
    ("PROGRAM_COUNT", 3, "FETCH"),
])
def test_a_narrowed_window_stops_the_program_by_name(accel, image, register, value, code):
    device, registers = accel.device, accel.device.manifest["registers"]
    good = prefill_works(accel)
    accel.reset()
    if register == "PROGRAM_COUNT":
        program = image.header["programs"]["decode"]
        kept, program["count"] = program["count"], value
    else:
        kept = device.read32(registers[register])
        device.write32(registers[register], value)
    with pytest.raises(ProgramError) as error:
        accel.prefill([65, 66, 67])
    assert error.value.code == code
    if register == "PROGRAM_COUNT":
        program["count"] = kept
    else:
        device.write32(registers[register], kept)
    assert prefill_works(accel) == good


def test_an_axi_error_stops_the_program(accel):
    good = prefill_works(accel)
    base = accel.device.read32(accel.device.manifest["registers"]["MODEL_BASE"])
    accel.device.fail_reads_and_writes(base + 300_000, base + 300_100)
    accel.reset()
    with pytest.raises(ProgramError, match="AXI_READ"):
        accel.prefill([65, 66, 67])
    accel.device.fail_reads_and_writes(0, 0)
    assert prefill_works(accel) == good


def test_a_write_error_stops_the_program(accel):
    good = prefill_works(accel)
    base = accel.device.read32(accel.device.manifest["registers"]["CACHE_BASE"])
    accel.device.fail_reads_and_writes(base, base + 64)
    accel.reset()
    with pytest.raises(ProgramError, match="AXI_WRITE"):
        accel.prefill([65, 66, 67])
    accel.device.fail_reads_and_writes(0, 0)
    assert prefill_works(accel) == good


def test_a_memory_that_never_answers_ends_in_the_watchdog(accel):
    good = prefill_works(accel)
    accel.device.write32(accel.device.manifest["registers"]["WATCHDOG_CYCLES"], 5_000)
    accel.device.stop_answering(True)
    accel.reset()
    with pytest.raises(ProgramError, match="WATCHDOG"):
        accel.prefill([65, 66, 67])
    accel.device.stop_answering(False)
    assert prefill_works(accel) == good


def test_bad_requests_are_one_sentence(accel):
    with pytest.raises(ValueError, match=r"^The sequence must fit the context of \d+ positions, not 0 \+ 9999$"):
        accel.prefill([1] * 9999)
    with pytest.raises(ValueError, match="^The prompt must hold at least one token, not none$"):
        accel.prefill([])
    with pytest.raises(ValueError, match="^Token ids must be 0 to 255, not 256$"):
        accel.prefill([256])
    with pytest.raises(ProgramError, match="LAUNCH"):
        accel.launch("decode", [], [])


def test_command_line_prints_one_object():
    result = CliRunner().invoke(main, ["run", "--prompt", "The", "-n", "4", "--check", "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert len(printed["tokens"]) == 4 and printed["identical_to_golden"] is True
    assert printed["cycles"] > 0 and printed["clock_mhz"] == 250 and printed["tokens_per_s"] > 0


def test_golden_backend_needs_no_hardware():
    result = CliRunner().invoke(main, ["run", "--backend", "golden", "--prompt", "The", "-n", "3", "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert len(printed["tokens"]) == 3 and printed["tokens_per_s"] is None and "identical_to_golden" not in printed
    text = CliRunner().invoke(main, ["run", "--backend", "golden", "--prompt", "The", "-n", "3"])
    assert text.exit_code == 0 and text.stdout.startswith("The" + printed["text"])


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["configs"]], ids=" ".join)
def test_command_line_tells_about_itself(arguments):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0 and result.stdout and not result.stderr


def test_doctor_passes_on_the_simulated_device():
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    kinds = [line[3:16].strip() for line in result.stdout.splitlines()]
    missing = {2, 3, 4, 10}     # contiguous memory, bitstream, clock, sensors
    assert kinds == ["not available" if step in missing else "pass" for step in range(1, 11)]


@pytest.mark.parametrize("arguments, sentence", [
    (["run", "--config", "huge"], "must be one of"),
    (["run", "--model", "nothing.img"], "nothing.img"),
    (["run", "--prompt", "x" * 600, "-n", "1"], "must fit the context"),
    (["run", "--memory", "dream"], "Memory preset must be one of"),
])
def test_command_line_errors_are_one_sentence(arguments, sentence):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code != 0
    assert sentence in result.output and "Traceback" not in result.output
