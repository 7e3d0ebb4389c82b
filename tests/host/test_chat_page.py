"""The chat page, in a browser without a screen."""

import os
import shutil
import threading

import pytest
from playwright.sync_api import expect, sync_playwright
from serving import LIMIT_S, served, small, until

from celosia.host.tokens import ByteTokenizer

KEY, HOSTILE = "a key", "<b>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Hostile(ByteTokenizer):
    """Every token is markup."""

    def stream(self, prompt=()):
        return lambda token: HOSTILE


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        message = "the chat page needs the program chromium, which is not installed (Debian: apt-get install chromium)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def server():
    with served(small(), tokenizer=Hostile(), api_key=KEY) as found:
        yield found


@pytest.fixture
def page(browser, server):
    """The page, with the key given; it must not ask anybody else for anything, nor raise."""
    page = browser.new_page()
    page.set_default_timeout(1000 * LIMIT_S)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(server[0])
    page.locator("#key").fill(KEY)
    page.locator("#key").blur()
    expect(page.locator("#model")).to_have_text("small, 64 tokens of context", timeout=1000 * LIMIT_S)
    yield page
    page.close()
    assert not errors and asked and all(url.startswith(server[0]) for url in asked)


@pytest.fixture
def gate(server):
    """An event that the accelerator waits for after two tokens of an answer."""
    scheduler, gate = server[1], threading.Event()
    run, begun = scheduler._accel.run, scheduler.tokens

    def held(*arguments):
        if scheduler.tokens >= begun + 2:
            gate.wait(LIMIT_S)
        return run(*arguments)

    scheduler._accel.run = held
    yield gate
    gate.set()
    until(lambda: not scheduler.n_live)
    del scheduler._accel.run


def state(page):
    """Texts of the conversation, the number of elements in them, and whether an answer runs."""
    return page.evaluate("""() => [[...document.querySelectorAll('article')].map(a => a.textContent),
        document.querySelectorAll('article *').length, document.querySelectorAll('.running').length]""")


def test_an_answer_comes_in_pieces_and_can_be_stopped(page, gate, server):
    page.locator("#text").fill("<i>you</i>")
    page.keyboard.press("Enter")
    expect(page.locator(".assistant")).to_have_text(2 * HOSTILE, timeout=1000 * LIMIT_S)
    assert state(page) == [["<i>you</i>", 2 * HOSTILE], 0, 1]
    assert page.locator("#stop").is_visible() and not page.locator("#send").is_visible()
    job = server[1]._live[0]
    page.keyboard.press("Escape")
    until(lambda: job.cancelled)
    page.wait_for_selector("#send:visible")
    assert state(page) == [["<i>you</i>", 2 * HOSTILE], 0, 0]
    assert page.locator("#text").evaluate("text => text === document.activeElement && text.value === ''")


def test_a_conversation_goes_on_and_begins_anew(page):
    bodies = []
    page.on("request", lambda request: bodies.append(request.post_data_json) if request.method == "POST" else None)
    page.evaluate("""() => { const real = fetch; window.fetch = (url, options) => {    // short answers
        if (options.body) options.body = JSON.stringify({...JSON.parse(options.body), max_tokens: 3});
        return real(url, options); }; }""")
    for question in ("a", "b"):
        page.locator("#text").fill(question)
        page.locator("#send").click()
        page.wait_for_selector("#send:visible")
        expect(page.locator(".running")).to_have_count(0, timeout=1000 * LIMIT_S)
        assert "3 tokens, " in page.locator("#rate").text_content() and "tokens/s" in page.locator("#rate").text_content()
    assert [message["content"] for message in bodies[1]["messages"]] == ["a", 3 * HOSTILE, "b"]
    page.locator("#text").fill("c")         # more than the context: refused, and put back into its field
    page.keyboard.press("Enter")
    page.wait_for_selector("article.error")
    assert "at most 64 tokens" in page.locator("article.error").text_content() and page.locator("#text").input_value() == "c"
    assert state(page)[0][:-1] == ["a", 3 * HOSTILE, "b", 3 * HOSTILE]
    page.locator("#new").click()
    assert state(page) == [[], 0, 0] and page.locator("#empty").is_visible()


def test_a_wrong_key_is_asked_for_again(page):
    page.locator("#key").fill("wrong")
    page.locator("#text").fill("hello")
    expect(page.locator("#model")).to_contain_text("API key", timeout=1000 * LIMIT_S)
    expect(page.locator("#text")).to_be_focused()       # who types goes on typing
    page.locator("#text").press("Shift+Enter")
    page.locator("#text").press("Enter")
    page.wait_for_selector("article.error")
    assert "API key" in page.locator("article.error").text_content() and page.locator("#text").input_value() == "hello"
    assert page.locator("#key").is_visible()
    page.keyboard.press("Alt+n")
    assert state(page) == [[], 0, 0]


def test_light_and_dark(page):
    papers = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        papers.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert papers == ["rgb(251, 250, 248)", "rgb(24, 22, 20)"]
