"""`celosia serve`: what it starts."""

import click.testing
import pytest
from random_models import random_image
from serving import CONTEXT, MODEL

from celosia.host.serve import command
from celosia.hw.configs import tiny


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "small.img"
    path.write_bytes(random_image(MODEL, tiny, 3, CONTEXT)[0])
    return str(path)


@pytest.fixture
def invoke(monkeypatch, image):
    started = []
    monkeypatch.setattr(command.uvicorn, "run", lambda app, **options: started.append(options))

    def invoke(*arguments):
        result = click.testing.CliRunner().invoke(command.serve, ["--backend", "golden", "--model", image, *arguments])
        return result, started

    return invoke


def test_it_listens_here_alone(invoke):
    result, started = invoke()
    assert result.exit_code == 0 and result.output == ""
    assert (started[0]["host"], started[0]["port"], started[0]["limit_concurrency"]) == ("127.0.0.1", 8000, 8 + 32 + 64)


def test_an_open_server_without_a_key_is_said(invoke):
    assert "--api-key asks for a key" in invoke("--host", "0.0.0.0")[0].output
    assert invoke("--host", "0.0.0.0", "--api-key", "k")[0].output == ""


@pytest.mark.parametrize("arguments,said", [
    (("--api-key", ""), "--api-key must not be empty"), (("--max-waiting", "0"), "--max-waiting"), (("--port", "70000"), "--port")])
def test_what_is_refused(invoke, arguments, said):
    result, started = invoke(*arguments)
    assert result.exit_code == 2 and said in result.output and not started
