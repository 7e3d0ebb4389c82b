"""Many jobs on one accelerator: each says what it would say alone, and what it held is free afterwards."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import CONTEXT, Client, scheduled, small, until

from celosia.host.errors import CelosiaError, ProgramError
from celosia.host.serve.scheduler import Broken, Overdue, QueueFull, Scheduler
from celosia.host.serve.text import AnswerText

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


def alone(accel, client, **sampling):
    accel.reset()
    return list(accel.generate(client.job.prompt, client.job.max_new, **sampling))


def test_jobs_say_what_they_say_alone(rng):
    accel, sampling = small(), {"temperature": 1.0, "top_p": 0.9}
    clients = [Client([rng.randrange(256) for _ in range(rng.choice((1, 3, 5, 9, 20)))], rng.randint(1, 9), seed=seed, **sampling)
               for seed in range(12)]
    lanes_of_runs, run = [], accel.run

    def watched(program, lanes):
        lanes_of_runs.append((program, len(lanes), len({sequence for sequence, _ in lanes})))
        return run(program, lanes)

    accel.run = watched
    scheduler = Scheduler(accel)
    for client in clients:
        scheduler.submit(client.job)
    scheduler.start()
    for client in clients:
        client.wait()
    scheduler.close()
    assert accel.pages.free_pages == accel.pages.n_pages
    # All lanes are in use until few jobs are left: as many runs as the tokens need, and a few.
    n_tokens = sum(len(client.job.prompt) + len(client.tokens) - 1 for client in clients)
    assert sum(n for _, n, _ in lanes_of_runs) == n_tokens
    assert len(lanes_of_runs) <= n_tokens / 4 + 10
    assert max(shared for _, _, shared in lanes_of_runs) == 4
    assert {program for program, _, _ in lanes_of_runs} == {"batch", "prefill"}
    del accel.run
    for seed, client in enumerate(clients):
        assert client.tokens == alone(accel, client, seed=seed, **sampling)
        assert [event.reason for event in client.events] == [None] * (len(client.tokens) - 1) + ["length"]


def test_nobody_runs_out_of_pages():
    """Four pages: each job may come to three, so they run one after the other, and a small one beside them."""
    accel, most = small(sequences=1), []
    with scheduled(accel) as scheduler:
        clients = [Client([1, 2], 10, on_event=lambda *_: most.append(scheduler.n_live)), *(Client([n] * 36, 3) for n in range(3))]
        for client in clients:
            scheduler.submit(client.job)
        for client in clients:
            client.wait()
    assert max(most) == 2
    for client in clients:
        assert client.tokens == alone(accel, client)


def test_the_context_ends_a_text():
    with scheduled(small(sequences=1)) as scheduler:
        client = Client(range(60), 100)
        scheduler.submit(client.job)
        assert len(client.wait().tokens) == CONTEXT - 60 + 1
        assert client.events[-1].reason == "length"
        for prompt, message in (([], "at least one token"), (range(65), "at most 64 tokens"), ([256], "must be 0 to 255")):
            with pytest.raises(ValueError, match=message):
                scheduler.submit(Client(prompt, 1).job)


def test_a_stop_token_ends_a_text():
    accel = small()
    said = alone(accel, Client([9, 8, 7], 8), temperature=1.0, seed=4)
    at = next(i for i, token in enumerate(said) if i and token not in said[:i])
    accel.reset()
    with scheduled(accel, stop=[said[at]]) as scheduler:
        client = Client([9, 8, 7], 8, temperature=1.0, seed=4)
        scheduler.submit(client.job)
        assert client.wait().tokens == said[:at]
        assert client.events[-1].reason == "stop"


def test_who_leaves_frees_its_place_at_once():
    accel, left = small(sequences=2), threading.Event()
    with scheduled(accel) as scheduler:
        def leave(client, event):
            if len(client.events) == 3:
                scheduler.cancel(client.job)
                left.set()

        leaving = Client([1], 60, on_event=leave)
        others = [Client([n, n], 20) for n in range(3)]
        for client in (leaving, *others):
            scheduler.submit(client.job)
        assert left.wait(60)
        for client in others:
            client.wait()
        scheduler.cancel(leaving.job)       # again: nothing to do
    assert len(leaving.events) == 3
    for client in others:
        assert client.tokens == alone(accel, client)


def test_a_bounded_queue():
    gate, held = threading.Event(), threading.Event()

    def hold(client, event):
        held.set()
        gate.wait(60)

    with scheduled(small(), max_waiting=2) as scheduler:
        first = Client([1], 2, on_event=hold)
        scheduler.submit(first.job)
        assert held.wait(60)
        waiting = [Client([2], 1), Client([3], 1)]
        for client in waiting:
            scheduler.submit(client.job)
        with pytest.raises(QueueFull, match="^At most 2 requests may wait"):
            scheduler.submit(Client([4], 1).job)
        scheduler.cancel(waiting[0].job)
        gate.set()
        waiting[1].wait()
        first.wait()
    assert not waiting[0].events


def test_limits_of_time():
    """The first runs for 11 s at its first token and for 22 s at its second; beside it there are no pages for the second."""
    now_s, gate = [0.0], threading.Event()

    def later(client, event):
        gate.wait(60)
        now_s[0] += 11

    with scheduled(small(sequences=1), wait_limit_s=10, run_limit_s=20, clock=lambda: now_s[0]) as scheduler:
        first, second = Client([1], 50, on_event=later), Client([2], 50)
        scheduler.submit(first.job)
        until(lambda: scheduler.n_live)
        scheduler.submit(second.job)
        gate.set()
        for client, message, n_tokens in ((second, "may wait 10 s", 0), (first, "may run 20 s", 2)):
            error = client.wait().events[-1].error
            assert isinstance(error, Overdue) and message in str(error) and len(client.tokens) == n_tokens


def test_a_run_that_fails():
    accel = small()
    launch, calls = accel.launch, []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise ProgramError("WATCHDOG", 5)
        return launch(*arguments)

    accel.launch = failing
    with scheduled(accel) as scheduler:
        clients = [Client([n], 10) for n in range(2)]
        for client in clients:
            scheduler.submit(client.job)
        assert any(isinstance(client.wait().events[-1].error, ProgramError) for client in clients)
        after = Client([5, 6], 4)
        scheduler.submit(after.job)
        after.wait()
    del accel.launch
    assert after.tokens == alone(accel, after)


def test_an_accelerator_that_cannot_be_reset():
    accel = small()

    def dead(*_):
        raise CelosiaError("dead")

    accel.launch = accel.reset = dead
    scheduler = Scheduler(accel)
    scheduler.start()
    client = Client([1], 1)
    scheduler.submit(client.job)
    assert str(client.wait().events[-1].error) == "dead"
    until(lambda: scheduler.broken)
    with pytest.raises(Broken, match="dead"):
        scheduler.submit(Client([1], 1).job)
    scheduler.close()


def test_a_reader_that_fails_fails_alone():
    def bad(token):
        raise ValueError("no such piece")

    with scheduled(small()) as scheduler:
        clients = [Client([1], 3, read=bad), Client([2], 3)]
        for client in clients:
            scheduler.submit(client.job)
        assert str(clients[0].wait().events[-1].error) == "no such piece"
        assert clients[1].wait().events[-1].reason == "length"


def test_the_end_tells_everybody():
    scheduler = Scheduler(small())
    scheduler.start()
    client = Client([1], 60, on_event=lambda client, event: client.job.cancelled)
    scheduler.submit(client.job)
    scheduler.close()
    last = client.wait().events[-1]
    assert isinstance(last.error, Broken) or last.reason == "length"
    with pytest.raises(Broken):
        scheduler.submit(Client([1], 1).job)


@given(st.lists(st.text("ab\n", max_size=4), max_size=12), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_a_stop_string(pieces, stops):
    answer = AnswerText(lambda piece: piece, stops)
    shown = whole = ""
    for piece in pieces:
        whole += piece
        text, ended = answer(piece)
        shown += text
        found = [whole.find(stop) for stop in stops if stop in whole]
        assert ended == bool(found)
        if ended:
            assert shown == whole[:min(found)] and answer.rest() == ""
            return
        assert whole.startswith(shown) and not any(stop in shown for stop in stops)
    assert shown + answer.rest() == whole
