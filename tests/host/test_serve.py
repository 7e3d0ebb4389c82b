"""The HTTP server: what it answers, what it refuses, and many clients at the same time."""

import json
import threading

import httpx2 as httpx
import openai
import pytest
from serving import LIMIT_S, served, small, until

from celosia.host import Accelerator
from celosia.host.cli import image_of
from celosia.host.serve.app import Limits
from celosia.host.serve.text import prompt_of
from celosia.host.tokens import ByteTokenizer, tokenizer_of

TALK = [{"role": "user", "content": "Hello"}]
KEY = "a key"


@pytest.fixture(scope="module")
def server():
    """(address, scheduler) of a server with a small random model; it asks for a key."""
    with served(small(), api_key=KEY, limits=Limits(body_bytes=4096, max_tokens=60), scheduler_options={"max_waiting": 4}) as found:
        yield found


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server[0], headers={"Authorization": f"Bearer {KEY}"}, timeout=LIMIT_S) as client:
        yield client


def text_of(accel, prompt, n, stop=None, **sampling):
    """What the accelerator alone says."""
    accel.reset()
    tokenizer = tokenizer_of(accel.image)
    show = tokenizer.stream(prompt)
    text = "".join(show(token) for token in accel.generate(prompt, n, **sampling))
    return text[:text.index(stop)] if stop else text


def said_by(events):
    return "".join(choice.delta.content or "" for event in events for choice in event.choices)


def test_the_client_of_openai(server):
    """Lists models, chats at once and in pieces, completes; and gets the tokens that the accelerator alone says."""
    client = openai.OpenAI(base_url=f"{server[0]}/v1", api_key=KEY, timeout=LIMIT_S, max_retries=0)
    with client:
        assert [model.id for model in client.models.list()] == ["small"] and client.models.retrieve("small").id == "small"
        ask = {"model": "small", "messages": TALK, "max_tokens": 12, "seed": 5}
        whole = client.chat.completions.create(**ask)
        events = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
        completion = client.completions.create(model="small", prompt="Hello", max_tokens=12, temperature=0)
        again = list(client.completions.create(model="small", prompt="Hello", max_tokens=12, temperature=0, stream=True))
    prompt, stops = prompt_of(ByteTokenizer(), TALK)
    assert (prompt, stops) == (list(b"user: Hello\nassistant:"), ("\nuser:",))
    accel = small()
    assert whole.choices[0].message.content == said_by(events) == text_of(accel, prompt, 12, temperature=1.0, seed=5)
    assert whole.choices[0].finish_reason == "length" and events[-2].choices[0].finish_reason == "length"
    usage = whole.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (len(prompt), 12, len(prompt) + 12)
    assert events[-1].usage == usage and events[0].choices[0].delta.role == "assistant" and not events[-1].choices
    assert len({event.id for event in events}) == 1 and len(events) == 1 + 12 + 2
    assert completion.choices[0].text == "".join(event.choices[0].text for event in again) == text_of(accel, list(b"Hello"), 12)


def test_a_stop_string_ends_the_answer(http):
    ask = {"prompt": "stop", "max_tokens": 16, "temperature": 2, "seed": 1}
    whole = http.post("/v1/completions", json=ask).json()["choices"][0]["text"]
    stop = whole[5:7]
    for stream in (False, True):
        answer = http.post("/v1/completions", json={**ask, "stop": [stop, "\0never"], "stream": stream})
        if stream:
            events = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
            assert events.pop() == "[DONE]" and answer.headers["content-type"].startswith("text/event-stream")
            choices = [json.loads(event)["choices"][0] for event in events]
        else:
            choices = answer.json()["choices"]
        assert "".join(choice["text"] for choice in choices) == whole[:whole.index(stop)]
        assert choices[-1]["finish_reason"] == "stop"


def test_the_context_ends_the_answer(http):
    answer = http.post("/v1/completions", json={"prompt": list(range(62)), "max_tokens": 50}).json()
    assert answer["choices"][0]["finish_reason"] == "length" and answer["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("path,body,status,said", [
    ("chat/completions", {"messages": [{"role": "user", "content": "x" * 80}]}, 400, "at most 64 tokens (the context), not 97"),
    ("completions", {"prompt": "x" * 65}, 400, "at most 64 tokens"),
    ("completions", {"prompt": ""}, 400, "prompt must be"),
    ("completions", {"prompt": ["a", "b"]}, 400, "prompt must be one text"),
    ("completions", {"prompt": [1, 256]}, 400, "must be 0 to 255, not 256"),
    ("completions", {"prompt": [-1]}, 400, "must be 0 to 255, not -1"),
    ("completions", {"prompt": [True]}, 400, "prompt must be"),
    ("chat/completions", {}, 400, "messages must be a list"),
    ("chat/completions", {"messages": [{"role": "robot", "content": ""}]}, 400, "messages[0] must have a role"),
    ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "parts of text only"),
    ("chat/completions", {"messages": [{"role": "user", "content": "\ud800"}]}, 400, "surrogate"),
    ("chat/completions", {"messages": TALK, "n": 2}, 400, "n is not offered"),
    ("chat/completions", {"messages": TALK, "tools": [{"type": "function"}]}, 400, "tools is not offered"),
    ("chat/completions", {"messages": TALK, "max_tokens": 61}, 400, "max_tokens must be an integer of 1 to 60, not 61"),
    ("chat/completions", {"messages": TALK, "max_tokens": 0}, 400, "max_tokens must be"),
    ("chat/completions", {"messages": TALK, "temperature": "hot"}, 400, "temperature must be a number of 0 to 2, not hot"),
    ("chat/completions", {"messages": TALK, "temperature": float("nan")}, 400, "temperature must be"),
    ("chat/completions", {"messages": TALK, "top_p": 0}, 400, "top_p must be"),
    ("chat/completions", {"messages": TALK, "seed": 1.5}, 400, "seed must be an integer"),
    ("chat/completions", {"messages": TALK, "stop": [""]}, 400, "stop must be"),
    ("chat/completions", {"messages": TALK, "stream": "yes"}, 400, "stream must be true or false"),
    ("chat/completions", {"messages": TALK, "stream_options": 1}, 400, "stream_options must be"),
    ("chat/completions", {"messages": TALK, "model": "gpt-4"}, 404, "The model must be 'small'"),
    ("chat/completions", [], 400, "JSON object"),
    ("chat/completions", {"messages": TALK, "user": "x" * 5000}, 413, "at most 4,096 bytes"),
    ("embeddings", {"input": "x"}, 404, "POST /v1/embeddings: Not Found"),
])
def test_what_is_refused(http, path, body, status, said):
    answer = http.post(f"/v1/{path}", content=json.dumps(body), headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code == status and said in error["message"], error
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"


@pytest.mark.parametrize("content,headers,status", [
    (b"{", {}, 400), (b"\xff", {}, 400), (b"[" * 4000, {}, 400), (b"", {}, 400),
    (b"{}", {"Content-Type": "text/plain"}, 415),
    (b"{}", {"Authorization": "Bearer wrong"}, 401), (b"{}", {"Authorization": ""}, 401),
    (b"{}", {"Host": "evil.example:80"}, 403),
])
def test_bad_bodies_and_headers(http, content, headers, status):
    answer = http.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json", **headers})
    assert answer.status_code == status and answer.json()["error"]["message"]


def test_what_needs_no_key(http):
    for path in ("/", "/health"):
        answer = http.get(path, headers={"Authorization": ""})
        assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert "http" not in http.get("/").text.replace("http-equiv", ""), "the page must need no network"
    assert http.get("/v1/models", headers={"Authorization": ""}).status_code == 401
    assert http.get("/v1/chat/completions").status_code == 405


def test_a_full_queue_says_when_to_come_again(server, http):
    """Eight sequences run and four wait: the others get 429; all that were taken end."""
    address, scheduler = server
    gate, run = threading.Event(), scheduler._accel.run

    def held(*arguments):
        gate.wait(LIMIT_S)
        return run(*arguments)

    scheduler._accel.run = held
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})))
               for _ in range(14)]
    try:
        for thread in threads:
            thread.start()
        until(lambda: scheduler.n_waiting == 4 or len(answers) >= 1)
        until(lambda: len(answers) >= 1)
    finally:
        gate.set()
        for thread in threads:
            thread.join(LIMIT_S)
        del scheduler._accel.run
    full = [answer for answer in answers if answer.status_code == 429]
    assert full and len(answers) == 14 and all(answer.status_code in (200, 429) for answer in answers)
    for answer in full:
        assert int(answer.headers["retry-after"]) >= 1 and answer.json()["error"]["type"] == "rate_limit_error"
    until(lambda: not scheduler.n_live)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_what_it_had(server, http, stream):
    scheduler = server[1]
    pages = scheduler._accel.pages
    gate, run = threading.Event(), scheduler._accel.run

    def held(*arguments):
        if scheduler.tokens >= begun + 2:
            gate.wait(LIMIT_S)
        return run(*arguments)

    begun = scheduler.tokens
    scheduler._accel.run = held
    try:
        ask = {"prompt": "leaving", "max_tokens": 57, "stream": stream}
        if stream:
            with http.stream("POST", "/v1/completions", json=ask) as answer:
                next(answer.iter_lines())
        else:
            with pytest.raises(httpx.TimeoutException):
                http.post("/v1/completions", json=ask, timeout=2)
        job = scheduler._live[0]
        until(lambda: job.cancelled)
    finally:
        gate.set()
        del scheduler._accel.run
    until(lambda: not scheduler.n_live)
    assert scheduler.tokens < begun + 10 and pages.free_pages == pages.n_pages


def test_a_device_that_fails(http, server):
    scheduler = server[1]
    launch = scheduler._accel.launch
    calls = []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise RuntimeError("the board is gone")
        return launch(*arguments)

    for stream in (False, True):
        calls.clear()
        scheduler._accel.launch = failing
        answer = http.post("/v1/completions", json={"prompt": "four", "max_tokens": 8, "stream": stream})
        del scheduler._accel.launch
        assert answer.status_code == (200 if stream else 500) and "the board is gone" in answer.text and "[DONE]" not in answer.text
    assert http.post("/v1/completions", json={"prompt": "four", "max_tokens": 1}).status_code == 200


def test_eight_clients_of_the_demo_model():
    """Each gets the text that a lone client gets, though one of them leaves in the middle."""
    prompts, n_tokens = ["I ", "The ", "We have ", "It"], 4
    accel = Accelerator.open("golden", config="tiny")
    accel.load(image_of("demo", "tiny"))
    alone = [text_of(accel, list(prompt.encode()), n_tokens) for prompt in prompts]
    accel.reset()
    answers = {}
    with served(accel) as (address, scheduler), httpx.Client(base_url=address, timeout=4 * LIMIT_S) as http:
        def ask(i):
            body = {"prompt": prompts[i % 4], "max_tokens": n_tokens, "temperature": 0}
            answers[i] = http.post("/v1/completions", json=body).json()["choices"][0]["text"]

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(7)]
        for thread in threads:
            thread.start()
        with http.stream("POST", "/v1/completions", json={"prompt": "I", "max_tokens": 200, "stream": True}) as leaving:
            next(leaving.iter_lines())
        for thread in threads:
            thread.join(4 * LIMIT_S)
        until(lambda: not scheduler.n_live)
        assert accel.pages.free_pages == accel.pages.n_pages
    assert answers == {i: alone[i % 4] for i in range(7)}
