"""The HTTP side: requests in, jobs to the scheduler, answers or events out."""

import asyncio
import contextlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ..sampling import Sampler
from .scheduler import Broken, Job, Overdue, QueueFull
from .schema import ApiError, parse
from .text import AnswerText, prompt_of

__all__ = ["Limits", "application"]

_PAGE = Path(__file__).parent / "page.html"
_PAGE_POLICY = ("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; "
                "form-action 'none'; frame-ancestors 'none'")
_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}
_RETRY_AFTER_S = 2
_CLOSED_BY_CLIENT = 499


@dataclass(frozen=True)
class Limits:
    """Bytes of a body, tokens of an answer, and seconds: for a body to arrive, and for an answer to be fetched in all."""

    body_bytes: int = 256 << 10
    max_tokens: int = 4096
    body_s: float = 30.0
    answer_s: float = 900.0


class _Events(StreamingResponse):
    """Server-sent events of a job, which ends when the client leaves, or after a limit."""

    media_type = "text/event-stream"

    def __init__(self, lines, job, scheduler, limit_s):
        super().__init__(lines, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._of, self._limit_s = (scheduler, job), limit_s

    async def __call__(self, scope, receive, send):
        scheduler, job = self._of
        try:
            with anyio.move_on_after(self._limit_s):
                await super().__call__(scope, receive, send)
        finally:
            scheduler.cancel(job)


class _Server:
    """The handlers; see :func:`application`."""

    def __init__(self, scheduler, tokenizer, name, api_key, loopback, limits):
        self.scheduler, self.tokenizer, self.name, self.limits = scheduler, tokenizer, name, limits
        self._key = None if api_key is None else f"Bearer {api_key}".encode()
        self._loopback, self._created = loopback, int(time.time())

    def page(self, request):
        return HTMLResponse(_PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": _PAGE_POLICY})

    def health(self, request):
        scheduler = self.scheduler
        state = {"status": "failed" if scheduler.broken else "ok", "live": scheduler.n_live, "waiting": scheduler.n_waiting,
                 "runs": scheduler.runs, "tokens": scheduler.tokens}
        return JSONResponse(state, status_code=503 if scheduler.broken else 200)

    async def models(self, request):
        self._admit(request)
        entry = {"id": self.name, "object": "model", "created": self._created, "owned_by": "celosia",
                 "max_model_len": self.scheduler.capacity}
        wanted = request.path_params.get("name")
        if wanted is None:
            return JSONResponse({"object": "list", "data": [entry]})
        if wanted != self.name:
            raise ApiError(404, f"The model must be {self.name!r}, not {wanted!r}", param="model", code="model_not_found")
        return JSONResponse(entry)

    async def chat(self, request):
        return await self._answer(request, chat=True)

    async def completions(self, request):
        return await self._answer(request, chat=False)

    def _admit(self, request):
        """ApiError for who may not ask: a wrong key, or a page of another site that has its name point here."""
        host = request.headers.get("host", "")
        if self._loopback and (host if host.endswith("]") else host.rpartition(":")[0] or host) not in _LOOPBACK:
            raise ApiError(403, "The Host of a request must be the loopback interface's, 127.0.0.1 or localhost")
        given = request.headers.get("authorization", "").encode()
        if self._key is not None and not hmac.compare_digest(given, self._key):
            raise ApiError(401, "The API key must be the server's: Authorization: Bearer KEY", code="invalid_api_key",
                           headers={"WWW-Authenticate": "Bearer"})

    async def _body(self, request):
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "Content-Type must be application/json")
        data, n_bytes, most = [], 0, self.limits.body_bytes
        try:
            with anyio.fail_after(self.limits.body_s):
                async for part in request.stream():
                    n_bytes += len(part)
                    if n_bytes <= most:
                        data.append(part)
                    elif n_bytes > 4 * most:    # up to here it is read, so that the client gets to the answer
                        break
        except TimeoutError:
            raise ApiError(408, f"The body must arrive within {self.limits.body_s:g} s") from None
        if n_bytes > most:
            raise ApiError(413, f"The body must have at most {most:,} bytes")
        return b"".join(data)

    async def _answer(self, request, *, chat):
        self._admit(request)
        wanted = parse(await self._body(request), chat=chat, model=self.name, most_tokens=self.limits.max_tokens)
        prompt, stops = await anyio.to_thread.run_sync(self._prompt, wanted)
        events, loop = asyncio.Queue(), asyncio.get_running_loop()
        read = AnswerText(self.tokenizer.stream(prompt), (*wanted.stop, *stops))
        job = Job(prompt, wanted.max_tokens, Sampler(temperature=wanted.temperature, top_p=wanted.top_p, seed=wanted.seed), read,
                  lambda event: loop.call_soon_threadsafe(events.put_nowait, event))
        self._submit(job)
        shape = _Shape(chat, self.name, wanted.include_usage)
        try:
            first = await self._unless_gone(request, events.get())
            if wanted.stream and first is not None:
                answer = _Events(_lines(shape, job, events, _checked(first)), job, self.scheduler, self.limits.answer_s)
                job = None      # it is the answer's now
                return answer
            whole = await self._unless_gone(request, _whole(events, _checked(first), read)) if first is not None else None
            return Response(status_code=_CLOSED_BY_CLIENT) if whole is None else JSONResponse(shape.whole(*whole, job))
        finally:
            if job is not None:
                self.scheduler.cancel(job)

    def _prompt(self, wanted):
        try:
            if wanted.messages is not None:
                return prompt_of(self.tokenizer, wanted.messages)
            return (self.tokenizer.encode(wanted.prompt) if isinstance(wanted.prompt, str) else wanted.prompt), ()
        except ValueError as error:
            raise ApiError(400, str(error)) from None

    def _submit(self, job):
        capacity = self.scheduler.capacity
        if len(job.prompt) > capacity:
            raise ApiError(400, f"The prompt must have at most {capacity} tokens (the context), not {len(job.prompt)}",
                           code="context_length_exceeded")
        try:
            self.scheduler.submit(job)
        except QueueFull as error:
            raise ApiError(429, str(error), code="queue_full", headers={"Retry-After": str(_RETRY_AFTER_S)}) from None
        except Broken as error:
            raise ApiError(503, str(error)) from None
        except ValueError as error:
            raise ApiError(400, str(error), param="prompt") from None

    async def _unless_gone(self, request, coroutine):
        """What the coroutine returns, or None when the client has gone before; ApiError when it takes too long."""
        async def gone():
            while (await request.receive())["type"] != "http.disconnect":
                pass

        tasks = [asyncio.ensure_future(coroutine), asyncio.ensure_future(gone())]
        try:
            done, _ = await asyncio.wait(tasks, timeout=self.limits.answer_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise ApiError(503, f"An answer must come within {self.limits.answer_s:g} s, and did not")
            return tasks[0].result() if tasks[0] in done else None
        finally:
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task


def _checked(event):
    """An event that is no error; ApiError of one that is."""
    if event.error is not None:
        raise _error_of(event.error)
    return event


def _error_of(error):
    return ApiError(503 if isinstance(error, (Broken, Overdue)) else 500, str(error))


async def _whole(events, event, read):
    """(text, reason) of a job whose first event is ``event``."""
    text = event.text
    while not event.reason:
        event = _checked(await events.get())
        text += event.text
    return text + read.rest(), event.reason


async def _lines(shape, job, events, event):
    """The server-sent events of a job whose first event is ``event``: one a token."""
    for head in shape.head():
        yield _line(head)
    while True:
        yield _line(shape.piece(event.text + (job.read.rest() if event.reason else "")))
        if event.reason:
            break
        event = await events.get()
        if event.error is not None:
            yield _line(_error_of(event.error).body)
            return
    for tail in shape.tail(event.reason, job):
        yield _line(tail)
    yield "data: [DONE]\n\n"


def _line(value):
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


class _Shape:
    """The objects of OpenAI's interface, of a chat or of a completion."""

    def __init__(self, chat, model, include_usage):
        self._chat, self._include_usage = chat, include_usage
        self._kind = "chat.completion" if chat else "text_completion"
        number = secrets.token_hex(12)
        self._common = {"id": f"chatcmpl-{number}" if chat else f"cmpl-{number}", "created": int(time.time()), "model": model}

    @staticmethod
    def _usage(job):
        return {"prompt_tokens": len(job.prompt), "completion_tokens": job.n_new, "total_tokens": len(job.prompt) + job.n_new}

    def whole(self, text, reason, job):
        """The answer in one object."""
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return {**self._common, "object": self._kind, "usage": self._usage(job),
                "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": reason}]}

    def _chunk(self, said, reason=None):
        return {**self._common, "object": self._kind + (".chunk" if self._chat else ""),
                **({"usage": None} if self._include_usage else {}),
                "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": reason}]}

    def head(self):
        """What comes before the first token."""
        return [self._chunk({"delta": {"role": "assistant", "content": ""}})] if self._chat else []

    def piece(self, text):
        """The text of one token."""
        return self._chunk({"delta": {"content": text}} if self._chat else {"text": text})

    def tail(self, reason, job):
        """What comes behind the last token."""
        last = [self._chunk({"delta": {}} if self._chat else {"text": ""}, reason)]
        return last + ([{**last[0], "choices": [], "usage": self._usage(job)}] if self._include_usage else [])


def _api_error(request, error):
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


def _http_error(request, error):
    said = f"{request.method} {request.url.path}: {error.detail}"
    return _api_error(request, ApiError(error.status_code, said, headers=error.headers))


def _our_error(request, error):
    return _api_error(request, ApiError(500, "The server has failed; its log says how"))


def _gone(request, error):
    return Response(status_code=_CLOSED_BY_CLIENT)


def application(scheduler, tokenizer, name, *, api_key=None, loopback=True, limits=None):
    """The ASGI application, which starts the scheduler and ends it.

    ``name`` is the model's; with ``api_key`` requests to ``/v1`` must carry it; with ``loopback`` their Host must be this machine.
    """
    server = _Server(scheduler, tokenizer, name, api_key, loopback, limits or Limits())

    @contextlib.asynccontextmanager
    async def lifespan(app):
        scheduler.start()
        yield
        await anyio.to_thread.run_sync(scheduler.close)

    routes = [Route("/", server.page), Route("/health", server.health), Route("/v1/models", server.models),
              Route("/v1/models/{name:path}", server.models),
              Route("/v1/chat/completions", server.chat, methods=["POST"]),
              Route("/v1/completions", server.completions, methods=["POST"])]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={
        ApiError: _api_error, HTTPException: _http_error, ClientDisconnect: _gone, Exception: _our_error})
