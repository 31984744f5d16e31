"""Is a READY worker still well? Asked at intervals, for as long as it is to serve.

Each worker has a pulse of its own, so that one that hangs delays no other. A pulse is a timer and, now and then, one
connection: no task, for a pool may have a thousand of them. A question that was not answered in time counts as wrong,
and is waited for again, for the worker may only be frozen; the answer that comes then ends the question, and says no
more than that: who is always late is not well.
"""

import asyncio
import contextlib
import math
from typing import Protocol

from lab.core.clock import Clock
from lab.core.errors import UnknownTargetError
from lab.core.model import Endpoint, Liveness
from lab.pool.manager import Routing
from lab.pool.sockets import Binding, Sockets
from lab.wire.probe import Probe
from lab.wire.question import Question, unanswered

PROBES_A_SECOND = 40
"""The most that one pool asks in all: with more workers than fit, each is asked less often."""

TOGETHER = 0.25
"""Seconds. A crowd is asked in groups, so often, for much of what a question costs a lab at rest is waking up for it:
500 workers took 3.8 % of a core one by one, and 2.4 % in groups (tests/bench/many.py)."""


class Patient(Protocol):
    """The worker that is asked."""

    @property
    def routed(self) -> bool:
        """Requests may reach it, so that a question needs one of its places."""
        ...

    @property
    def liveness(self) -> Liveness: ...

    @property
    def question(self) -> Question: ...

    def answered(self, wrong: str) -> None:
        """It was asked. `wrong` is empty when all is well, else the end of a sentence about it."""
        ...

    def hangs(self, seconds: float) -> None:
        """It was too busy to be asked: one request has occupied it for so long, which is too long."""
        ...

    def beat(self) -> None:
        """Another interval has passed."""
        ...


class Pulse:
    """Asks one worker from `start` to `stop`."""

    def __init__(
        self, patient: Patient, binding: Binding, endpoint: Endpoint, sockets: Sockets, routing: Routing, clock: Clock
    ) -> None:
        self._patient = patient
        self._binding = binding
        self._endpoint = endpoint
        self._sockets = sockets
        self._routing = routing
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._probe: Probe | None = None
        self._missed = False
        """The answer to its question is late, and has counted as wrong."""
        self.due: float | None = None
        """Monotonic time at which the next question is to be asked; None while one is, or none is to come."""
        self.occupies = False
        """It has one of the worker's places just now."""

    def start(self) -> None:
        """Ask after one interval, and then again and again.

        Workers that have others answer are not asked. Of them only a death is seen.
        """
        if self._binding.answers_itself:
            now, pause = self._clock.monotonic(), self._sockets.lent / PROBES_A_SECOND
            if pause > self._patient.liveness.interval:
                self.due = math.ceil((now + pause) / TOGETHER) * TOGETHER
            else:
                self.due = now + self._patient.liveness.interval
            self._timer = asyncio.get_running_loop().call_later(self.due - now, self._beat)

    def stop(self) -> None:
        """Ask no more."""
        if self._timer is not None:
            self._timer.cancel()
        self.due = None
        self._leave()
        if self._probe is not None:
            self._binding.leave(self._probe)
            self._probe = None

    def _beat(self) -> None:
        self.due = None
        if self._probe is not None or (self._enter() and self._ask()):
            self._timer = asyncio.get_running_loop().call_later(self._patient.liveness.timeout, self._late)
        else:
            self.start()
            self._judge_by_its_request()
            self._patient.beat()

    def _enter(self) -> bool:
        """Whether it can be asked: a worker in which all places are taken may not take up one more connection."""
        if not self._patient.routed:
            return self._routing.in_flight(self._endpoint) < self._endpoint.concurrency
        self.occupies = self._routing.acquire(self._endpoint)
        return self.occupies

    def _ask(self) -> bool:
        try:
            self._probe = self._binding.ask(self._patient.question)
        except OSError:  # this process has no descriptor left, which says nothing about the worker
            self._leave()
            return False
        self._probe.hear(self._heard)
        return True

    def _judge_by_its_request(self) -> None:
        if not self._patient.routed:
            return
        since, now = self._routing.busy_since(self._endpoint), self._clock.monotonic()
        if since is not None and now - since >= self._patient.liveness.hang_timeout:
            self._patient.hangs(now - since)

    def _late(self) -> None:
        """It goes on waiting for the answer: the worker may only be frozen. Perhaps only this loop was late, and the
        answer is here."""
        if self._probe is not None:
            self._probe.look()
        if self._probe is None:
            return
        self._missed = True
        self._ended(unanswered(self._patient.question, self._patient.liveness.timeout))

    def _heard(self, wrong: str) -> None:
        self._probe = None
        if self._timer is not None:
            self._timer.cancel()
        if self._missed:
            self._missed = False
            self.start()
        else:
            self._ended(wrong)

    def _ended(self, wrong: str) -> None:
        self._leave()
        self.start()  # first, for what follows may stop it
        self._patient.answered(wrong)
        self._patient.beat()

    def _leave(self) -> None:
        if self.occupies:
            self.occupies = False
            with contextlib.suppress(UnknownTargetError):  # its app was removed meanwhile
                self._routing.release(self._endpoint)
