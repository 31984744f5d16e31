"""Asks an app's endpoints how they are, each on a connection of its own, as `HealthCheck` says.

A question takes one of the worker's places: one that serves a request at a time is not to find a question in its way,
and while all places are taken nothing is asked, for requests show more than questions. A question that was asked is not
taken back while the endpoint is in use: a simple program that writes to a connection whose other end is closed gets
SIGPIPE, and nobody is to die of having been asked how it is. It is waited for again, and counts as wrong each time.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from lab.core.model import Wire
from lab.core.tasks import background
from lab.wire.probe import Probe
from lab.wire.question import Get, GetValues, unanswered

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.endpoint import EndpointState
    from lab.proxy.backends.python_builtin.upstream import Upstream

Heard = Callable[["EndpointState", str], None]
"""Called with an endpoint and the end of a sentence about what is wrong with it: empty when it is well."""


class HealthChecks:
    """One task for each endpoint that is asked; none while nobody is."""

    def __init__(self, upstream: "Upstream", heard: Heard) -> None:
        self._upstream = upstream
        self._heard = heard
        self._tasks: dict[EndpointState, asyncio.Task[None]] = {}

    def apply(self) -> None:
        """Begin, or end, as the upstream's settings say now. Another path or interval counts from the next question."""
        if self._upstream.spec.health_check.interval:
            for state in self._upstream.routed:
                self.add(state)
        else:
            self.close()

    def add(self, state: "EndpointState") -> None:
        """Ask an endpoint from now on, if any are asked. Twice is once."""
        if self._upstream.spec.health_check.interval and state not in self._tasks:
            self._tasks[state] = background(self._ask_on(state))

    def remove(self, state: "EndpointState") -> None:
        """Ask it no more."""
        task = self._tasks.pop(state, None)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """Ask nobody any more."""
        for state in tuple(self._tasks):
            self.remove(state)

    async def _ask_on(self, state: "EndpointState") -> None:
        while True:
            if state.acquire():
                try:
                    await self._ask(state)
                finally:
                    state.release()
            await asyncio.sleep(self._upstream.spec.health_check.interval)

    async def _ask(self, state: "EndpointState") -> None:
        """One question, to its answer. One that comes late ends the question, and says no more than that."""
        spec, endpoint = self._upstream.spec.health_check, state.endpoint
        question = GetValues() if endpoint.wire is Wire.FASTCGI else Get(spec.path)
        try:
            probe = Probe(endpoint.address)
        except OSError:  # this process has no descriptor left
            return
        try:
            probe.ask(question)
            if (wrong := await probe.answer(spec.timeout)) is not None:
                self._heard(state, wrong)
                return
            late = unanswered(question, spec.timeout)
            self._heard(state, late)
            while await probe.answer(spec.interval) is None:
                self._heard(state, late)
        finally:
            probe.hang_up()
