"""Asks an app's endpoints how they are, each on a connection of its own, as `HealthCheck` says.

A question takes one of the worker's places: one that serves a request at a time is not to find a question in its way,
and while all places are taken nothing is asked, for requests show more than questions. A question that was asked is not
taken back while the endpoint is in use: a simple program that writes to a connection whose other end is closed gets
SIGPIPE, and nobody is to die of having been asked how it is. It is waited for again, and counts as wrong each time.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from lab.core.model import HealthCheck, Wire
from lab.core.tasks import background
from lab.wire import fastcgi
from lab.wire.http1 import BadMessageError, parse_response

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.endpoint import EndpointState
    from lab.proxy.backends.python_builtin.upstream import Upstream

_MOST: Final = 64 * 1024
"""Bytes of an answer that are read."""

_VALUES: Final = "FCGI_GET_VALUES"

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
        """One question, to its answer."""
        spec = self._upstream.spec.health_check
        asking = asyncio.ensure_future(_answer(state, spec))
        try:
            await asyncio.wait({asking}, timeout=spec.timeout)
            if asking.done():
                self._heard(state, asking.result())
            while not asking.done():
                self._heard(state, f"did not answer {_question(state, spec)} within {spec.timeout:g} s")
                await asyncio.wait({asking}, timeout=spec.interval)
        finally:
            asking.cancel()


async def _answer(state: "EndpointState", spec: HealthCheck) -> str:
    """Ask an endpoint; what is wrong with the answer, if anything is."""
    endpoint, question = state.endpoint, _question(state, spec)
    try:
        if endpoint.path:
            reader, writer = await asyncio.open_unix_connection(endpoint.path)
        else:
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    except OSError as error:
        return f"did not accept a connection for {question} ({error.strerror or error})"
    answer = bytearray()
    with contextlib.closing(writer), contextlib.suppress(ConnectionError):  # a reset: what came before it counts
        writer.write(_words(state, question))
        while len(answer) < _MOST and (data := await reader.read(_MOST)):
            answer += data
            if _is_whole(state, bytes(answer)):
                break
    return _wrong(state, question, bytes(answer))


def _question(state: "EndpointState", spec: HealthCheck) -> str:
    return _VALUES if state.endpoint.wire is Wire.FASTCGI else f"GET {spec.path}"


def _words(state: "EndpointState", question: str) -> bytes:
    """The question as it is sent."""
    if state.endpoint.wire is Wire.FASTCGI:
        return fastcgi.get_values(("FCGI_MAX_CONNS",))
    fields = "Host: localhost\r\nUser-Agent: cgilab-health\r\nConnection: close\r\n"
    return f"{question} HTTP/1.1\r\n{fields}\r\n".encode()


def _is_whole(state: "EndpointState", answer: bytes) -> bool:
    """Whether nothing has to follow. What is wrong is whole: nothing could mend it."""
    with contextlib.suppress(BadMessageError):
        if state.endpoint.wire is Wire.FASTCGI:
            return fastcgi.values(answer) is not None
        head = parse_response(answer, to_head=False)
        return head is not None and 0 <= head.length <= len(answer) - head.end
    return True


def _wrong(state: "EndpointState", question: str, answer: bytes) -> str:
    if not answer:
        return f"hung up instead of answering {question}"
    with contextlib.suppress(BadMessageError):
        if state.endpoint.wire is Wire.FASTCGI:
            if fastcgi.values(answer) is not None:
                return ""
        elif (head := parse_response(answer, to_head=False)) is not None:
            return "" if 200 <= head.status < 300 else f"answered {question} with status {head.status}"
    return f"answered {question} with {answer[:40]!r}, which is no answer"
