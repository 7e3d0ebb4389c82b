"""A small random model behind a scheduler or an HTTP server, for tests."""

import contextlib
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import uvicorn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gen"))
from random_models import SMALL, random_image

from celosia.gen.device import GoldenDevice
from celosia.host.accelerator import Accelerator
from celosia.host.image import Image
from celosia.host.sampling import Sampler
from celosia.host.serve.app import application
from celosia.host.serve.scheduler import Job, Scheduler
from celosia.host.tokens import tokenizer_of
from celosia.hw.configs import tiny

CONTEXT, LIMIT_S = 64, 60
MODEL = replace(SMALL, n_layers=1, vocab_size=256, tied=False)


def small(sequences=4):
    """An accelerator with a model of bytes that has 16 positions a page and ``sequences`` times 4 pages."""
    data, _, _ = random_image(MODEL, tiny, 3, CONTEXT, sequences=sequences)
    accel = Accelerator(GoldenDevice(tiny, memory_bytes=1 << 22))
    accel.load(Image.open(data))
    return accel


class Client:
    """Who submits a job and keeps what it is told."""

    def __init__(self, prompt, max_new, *, read=None, on_event=None, **sampling):
        self.events, self.ended, self._on_event = [], threading.Event(), on_event
        self.job = Job(list(prompt), max_new, Sampler(**sampling), read or (lambda token: (f"{token} ", False)), self._tell)

    def _tell(self, event):
        self.events.append(event)
        if self._on_event:
            self._on_event(self, event)
        if event.reason or event.error:
            self.ended.set()

    def wait(self):
        assert self.ended.wait(LIMIT_S), "the job must end, and does not"
        return self

    @property
    def tokens(self):
        return [int(word) for event in self.events for word in event.text.split()]


@contextlib.contextmanager
def scheduled(accel, **options):
    """A scheduler that runs; its accelerator holds nothing when it ends."""
    scheduler = Scheduler(accel, **options)
    scheduler.start()
    try:
        yield scheduler
        until(lambda: not scheduler.n_live and not scheduler.n_waiting)
    finally:
        scheduler.close()
    assert not scheduler.broken
    assert (accel.pages.free_pages, accel.pages.free_slots) == (accel.pages.n_pages, 8)


def until(true):
    """Wait until something is true."""
    for _ in range(100 * LIMIT_S):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("this must become true, and does not")


@contextlib.contextmanager
def served(accel, *, tokenizer=None, scheduler_options=None, **options):
    """(address, scheduler) of a server with the model of an accelerator."""
    tokenizer = tokenizer or tokenizer_of(accel.image)
    scheduler = Scheduler(accel, stop=tokenizer.stop, **(scheduler_options or {}))
    server = uvicorn.Server(uvicorn.Config(application(scheduler, tokenizer, "small", **options), port=0, log_level="error",
                                           timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", scheduler
    finally:
        server.should_exit = True
        thread.join(LIMIT_S)
