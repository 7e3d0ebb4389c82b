"""One accelerator, many jobs: every run takes tokens of all live sequences (continuous batching).

            submit                      admit: a slot, and pages to the end         run: up to one token a lane
    client --------> waiting (bounded) -----------------------------------> live --------------------------------> tell(Event)

A thread owns the accelerator. Before each run the jobs that were cancelled or are overdue leave, and those that wait come in as
long as there is a slot and pages for all the tokens they may yet say, so nobody runs out of pages on the way. In the run every
live job gets one lane, in turn where there are more jobs than lanes; lanes that are left take more of the prompts. What a job
says depends on nothing but its own tokens and its own sampler.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ..sampling import Sampler

__all__ = ["Broken", "Event", "Job", "Overdue", "QueueFull", "Scheduler"]

_IDLE_S, _JOIN_S = 1.0, 60.0


class QueueFull(RuntimeError):
    """As many jobs wait as may."""


class Overdue(RuntimeError):
    """A job has waited, or run, for longer than the limit."""


class Broken(RuntimeError):
    """The accelerator has failed and could not be reset, or the scheduler has ended."""


@dataclass(frozen=True)
class Event:
    """What became of a job: text that a token added, and at the end a reason (``stop``, ``length``) or an error."""

    text: str = ""
    reason: str | None = None
    error: Exception | None = None


@dataclass(eq=False)
class Job:
    """A text to be continued.

    Members
    -------
    prompt : list of int
        Token ids.
    max_new : int
        Tokens that it may say.
    sampler : Sampler
        Chooses them.
    read : callable
        Token id -> (text it adds, whether the text ends here).
    tell : callable
        Gets an :class:`Event` for every token, and one for an error; called in the scheduler's thread.
    """

    prompt: list
    max_new: int
    sampler: Sampler
    read: Callable
    tell: Callable
    n_new: int = 0
    cancelled: bool = False
    since_s: float = 0.0        # when it began to wait or, once live, to run
    sequence: object = None
    pending: deque = field(default_factory=deque)       # tokens that are not in the cache yet


class Scheduler:
    """The thread that owns an accelerator with a loaded image.

    Parameters
    ----------
    stop : collection of int
        Token ids that end a text; they are not shown.
    max_waiting : int
        Jobs that may wait.
    wait_limit_s, run_limit_s : float
        Seconds that a job may wait, and run.
    clock : callable
        Seconds.
    """

    def __init__(self, accel, *, stop=(), max_waiting=32, wait_limit_s=120.0, run_limit_s=600.0, clock=time.monotonic):
        self._accel, self._stop, self._max_waiting = accel, frozenset(stop), max_waiting
        self._wait_limit_s, self._run_limit_s, self._clock = wait_limit_s, run_limit_s, clock
        self._changed = threading.Condition()
        self._waiting, self._live, self._turn = deque(), [], 0
        self._broken, self._closing = None, False
        self._thread = threading.Thread(target=self._loop, name="accelerator", daemon=True)
        self._vocab = accel.image.header["vocab"]
        self.capacity = min(accel.context, accel.pages.n_pages * accel.pages.page_positions)
        self.runs = self.tokens = 0

    @property
    def n_live(self):
        """Jobs that have a sequence."""
        return len(self._live)

    @property
    def n_waiting(self):
        """Jobs that have none yet."""
        return len(self._waiting)

    @property
    def broken(self):
        """The error that ended it, or None."""
        return self._broken

    def start(self):
        """Begin to run."""
        self._thread.start()

    def close(self):
        """End: jobs that are left fail with :class:`Broken`; returns when the thread has let go of the accelerator."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(_JOIN_S)

    def submit(self, job):
        """Let a job wait for its turn. ValueError where it can never run, :class:`QueueFull`, :class:`Broken`."""
        if not job.prompt:
            raise ValueError("The prompt must hold at least one token, not none")
        if len(job.prompt) > self.capacity:
            raise ValueError(f"The prompt must have at most {self.capacity} tokens (the context), not {len(job.prompt)}")
        bad = [token for token in job.prompt if not 0 <= token < self._vocab]
        if bad:
            raise ValueError(f"Token ids must be 0 to {self._vocab - 1}, not {bad[0]}")
        with self._changed:
            if self._broken or self._closing:
                raise Broken(f"The accelerator must work, and does not: {self._broken or 'the server is ending'}")
            if len(self._waiting) >= self._max_waiting:
                raise QueueFull(f"At most {self._max_waiting} requests may wait, and as many do; try again later")
            job.since_s = self._clock()
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job):
        """Nobody wants the rest of a job: what it holds is free before the next run. May be called at any time, and twice."""
        with self._changed:
            job.cancelled = True
            self._changed.notify()

    def _loop(self):
        while True:
            with self._changed:
                if not (self._closing or self._waiting or self._live):
                    self._changed.wait(_IDLE_S)
                if self._closing:
                    break
            try:
                self._sweep()
                self._admit()
                if self._live:
                    self._step()
            except Exception as error:      # a device can fail in any way, and the thread must outlive it
                self._recover(error)
        self._fail_all(Broken("The server is ending"))

    def _sweep(self):
        """Those that were cancelled or are overdue leave."""
        now = self._clock()
        with self._changed:
            waited = [job for job in self._waiting if not job.cancelled and now - job.since_s > self._wait_limit_s]
            self._waiting = deque(job for job in self._waiting if not job.cancelled and job not in waited)
        for job in waited:
            _tell(job, Event(error=Overdue(f"A request may wait {self._wait_limit_s:g} s for its turn, and this one has")))
        for job in list(self._live):
            if not job.cancelled and now - job.since_s > self._run_limit_s:
                _tell(job, Event(error=Overdue(f"A request may run {self._run_limit_s:g} s, and this one has")))
                job.cancelled = True
            if job.cancelled:
                self._leave(job)

    def _admit(self):
        """Those that fit come in, in the order in which they came."""
        while True:
            with self._changed:
                if not self._waiting or not self._fits(self._waiting[0]):
                    return
                job = self._waiting.popleft()
                job.sequence, job.since_s = self._accel.sequence(), self._clock()
                job.pending.extend(job.prompt)
                self._live.append(job)

    def _pages(self, job):
        return self._accel.pages.pages_for(min(len(job.prompt) + job.max_new - 1, self.capacity))

    def _fits(self, job):
        pool = self._accel.pages
        owed = sum(self._pages(other) - len(pool.table(other.sequence.slot)) for other in self._live)
        return pool.free_slots > 0 and pool.free_pages - owed >= self._pages(job)

    def _lanes_of_jobs(self):
        """[(job, lanes)] of the next run."""
        n_lanes, n_live = self._accel.token_lanes, len(self._live)
        first = self._turn % n_live
        turn = (self._live[first:] + self._live[:first])[:n_lanes]
        self._turn = (first + len(turn)) % n_live
        left, share = n_lanes - len(turn), []
        for job in turn:
            more = min(left, len(job.pending) - 1)
            share.append((job, 1 + more))
            left -= more
        return share

    def _step(self):
        """One run, and what follows from it."""
        share = self._lanes_of_jobs()
        lanes = [(job.sequence, job.pending[i]) for job, n in share for i in range(n)]
        ready = any(len(job.pending) == n for job, n in share)
        self._accel.run("batch" if ready else "prefill", lanes)
        self.runs += 1
        end = 0
        for job, n in share:
            end += n
            for _ in range(n):
                job.pending.popleft()
            if not job.pending and not job.cancelled:
                self._say(job, self._accel.candidates(end - 1))

    def _say(self, job, candidates):
        """The next token of a job."""
        job.n_new += 1
        self.tokens += 1
        try:
            token = job.sampler(candidates)
            text, ended = ("", True) if token in self._stop else job.read(token)
        except Exception as error:      # of its own tokenizer; the others go on
            self._leave(job)
            _tell(job, Event(error=error))
            return
        full = job.n_new == job.max_new or job.sequence.length == self.capacity
        reason = "stop" if ended else "length" if full else None
        if reason:
            self._leave(job)
        else:
            job.pending.append(token)
        _tell(job, Event(text, reason))

    def _leave(self, job):
        place = self._live.index(job)
        del self._live[place]
        self._turn -= place < self._turn
        job.sequence.free()

    def _recover(self, error):
        """Live jobs fail, and the accelerator begins anew; where it does not, all fail."""
        for job in self._live:
            _tell(job, Event(error=error))
        self._live.clear()
        try:
            self._accel.reset()
        except Exception as failure:        # as above
            self._broken = failure
            self._fail_all(failure)

    def _fail_all(self, error):
        with self._changed:
            left, self._waiting = [*self._live, *self._waiting], deque()
            self._live.clear()
        for job in left:
            _tell(job, Event(error=error))


def _tell(job, event):
    """Tell the client, unless there is none any more."""
    if not job.cancelled:
        try:
            job.tell(event)
        except RuntimeError:        # its event loop has been closed
            job.cancelled = True
