"""``celosia serve``."""

import click
import uvicorn

from ..accelerator import Accelerator
from ..cli import image_of
from ..tokens import tokenizer_of
from .app import Limits, application
from .scheduler import Scheduler

__all__ = ["serve"]

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SPARE_CONNECTIONS, _SHUTDOWN_S = 64, 5


@click.command()
@click.option("--model", default="demo", show_default=True, help="Name of a shipped model, checkpoint folder or image (.img).")
@click.option("--config", default="tiny", show_default=True, help="Configuration of the accelerator.")
@click.option("--backend", default="sim", show_default=True, help="What computes: sim, golden, or a device that a package offers.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every interface.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--api-key", envvar="CELOSIA_API_KEY", help="Requests must carry it; also read from CELOSIA_API_KEY.")
@click.option("--name", help="Name of the model in the interface; default: the image's.")
@click.option("--max-waiting", type=click.IntRange(min=1), default=32, show_default=True,
              help="Requests that may wait; more get 429.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=4096, show_default=True,
              help="Tokens of an answer that may be asked for.")
@click.option("--max-body-bytes", type=click.IntRange(min=1024), default=256 << 10, show_default=True, help="Size of a request.")
@click.option("--wait-limit", type=click.FloatRange(min=1), default=120, show_default=True, help="Seconds that a request may wait.")
@click.option("--run-limit", type=click.FloatRange(min=1), default=600, show_default=True, help="Seconds that a request may run.")
def serve(model, config, backend, host, port, api_key, name, max_waiting, max_tokens, max_body_bytes, wait_limit, run_limit):
    """Serve a model over HTTP as OpenAI does, with a chat page at /."""
    if api_key == "":
        raise click.UsageError("--api-key must not be empty; leave it out for a server without a key")
    image = image_of(model, config)
    image.need_kind("decoder")
    with Accelerator.open(backend, config=config) as accel:
        accel.load(image)
        tokenizer = tokenizer_of(image)
        scheduler = Scheduler(accel, stop=tokenizer.stop, max_waiting=max_waiting, wait_limit_s=wait_limit, run_limit_s=run_limit)
        limits = Limits(body_bytes=max_body_bytes, max_tokens=max_tokens, answer_s=wait_limit + run_limit + 60)
        app = application(scheduler, tokenizer, name or image.header["name"], api_key=api_key, loopback=host in _LOOPBACK,
                          limits=limits)
        if host not in _LOOPBACK and api_key is None:
            click.echo(f"Everyone who reaches {host} can ask; --api-key asks for a key", err=True)
        uvicorn.run(app, host=host, port=port, log_level="info", timeout_keep_alive=10, timeout_graceful_shutdown=_SHUTDOWN_S,
                    limit_concurrency=accel.device.manifest["config"]["max_sequences"] + max_waiting + _SPARE_CONNECTIONS)
