"""An app's endpoints, the places they have, and the queue of requests before them.

A place is the right to have one request open at a worker; there are `concurrency` of them, and probes take them too.
The queue is served first come, first served, at the instant a place is freed or an endpoint appears: no request ever
waits while there is a place that it could have.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Awaitable
from typing import Final

from lab import plugins
from lab.core.errors import LabError
from lab.core.events import EventKind, EventRing
from lab.core.model import Endpoint, Queue, Wire
from lab.proxy import problems
from lab.proxy.accounting import Latency
from lab.proxy.backends.python_builtin.cgi_process import CgiConnection
from lab.proxy.backends.python_builtin.connection import WorkerConnection
from lab.proxy.backends.python_builtin.dialects.fastcgi import FastCgiDialect
from lab.proxy.backends.python_builtin.dialects.http import HttpDialect
from lab.proxy.backends.python_builtin.exchange import Exchange
from lab.proxy.backends.python_builtin.gateway import Gateway
from lab.proxy.manager import CgiProgram, EndpointView, RequestView, UpstreamSpec, UpstreamView
from lab.proxy.selection import SelectionPolicy
from lab.proxy.timeouts import NEVER
from lab.wire import cgi
from lab.wire.http1 import BadMessageError, RequestHead

_TELL_EVERY: Final = 1.0
"""Seconds between two events about what an app's programs do wrong: a broken one does it with every request."""


class EndpointState:
    """One endpoint: who is there, what it did, and the idle connections to it, last used first."""

    def __init__(self, endpoint: Endpoint, upstream: "Upstream", gateway: Gateway) -> None:
        self.endpoint = endpoint
        self.upstream = upstream
        self.places = endpoint.concurrency
        self.runs_programs = endpoint.wire is not Wire.HTTP
        """It speaks FastCGI or CGI: a request has to be put into variables for it."""
        self.kept = not endpoint.shared and (endpoint.wire is Wire.HTTP or endpoint.concurrency == 1)
        """Connections to it are used again. Not where several processes take them from one socket, as a pool's with
        `http-shared` and PHP-FPM's children do: an idle one would hold whoever accepted it."""
        self.in_flight = 0
        """Requests open to it, probes included."""
        self.chosen = 0
        self.routed = False
        """It may be chosen."""
        self.answered = self.failed = 0
        self.open: dict[Exchange, float] = {}
        """Requests at the worker, oldest first, with the monotonic time of each."""
        self.latency = Latency(gateway.now())
        self.free_since = gateway.now()
        """Monotonic time at which its last request ended, or at which it came to be known."""
        self._last: tuple[RequestHead, float] | None = None
        """The request that ended last, and how many seconds it took."""
        self._gateway = gateway
        self._idle: list[WorkerConnection] = []
        self._waiting: list[asyncio.Future[None]] = []

    def connection(self) -> WorkerConnection | None:
        """The connection that was used last, taken out of the pool; None when there is none."""
        while self._idle:
            connection = self._idle.pop()
            connection.deadline = NEVER  # its idle stay is over: the exchange has deadlines of its own
            if not connection.transport.is_closing():
                return connection
        return None

    def keep(self, connection: WorkerConnection) -> None:
        """Put a connection into the pool, or hang up when there are more of them than places.

        A worker that serves one connection at a time must not be kept waiting on an idle one.
        """
        if self.routed and self.kept and len(self._idle) + self.in_flight <= self.places:
            connection.reused = True
            self._idle.append(connection)
            self._gateway.wheel.arm(connection, self._gateway.now() + self.upstream.spec.timeouts.upstream_idle)
        else:
            connection.discard()

    def forget(self, connection: WorkerConnection) -> None:
        """The connection is gone."""
        self._gateway.wheel.forget(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def connect(self, exchange: Exchange) -> None:
        """Open a connection for an exchange, and tell it how that went."""
        try:
            connection = await (self._start(exchange) if self.endpoint.wire is Wire.CGI else self._open())
        except BadMessageError as bad:
            exchange.fail(problems.bad_message(bad.status, bad.detail))
        except LabError as error:
            exchange.connect_failed(problems.start_failed(self.endpoint.app, str(error)), refused=False)
        except OSError as error:
            why = error.strerror or str(error)
            exchange.connect_failed(problems.connect_failed(str(self.endpoint), why), refused=True)
        else:
            if connection.transport.is_closing():
                exchange.connect_failed(problems.connect_failed(str(self.endpoint), "it hung up at once"), refused=True)
            else:
                exchange.connected(connection)

    def connect_timeout(self, seconds: float) -> problems.Problem:
        """What a request is told for which there was no connection within `seconds`."""
        if self.endpoint.wire is Wire.CGI:
            return problems.start_failed(self.endpoint.app, f"that takes longer than {seconds:g} s.")
        return problems.connect_timeout(str(self.endpoint), seconds)

    def ended(self, exchange: Exchange, now: float) -> None:
        """A request is at the worker no longer. Its place is still to be released."""
        self._last = exchange.request, now - self.open.pop(exchange)
        self.free_since = now

    def tell(self, detail: str, pid: int | None) -> None:
        """Say in an event what the worker, or the program `pid`, did wrong."""
        kind = EventKind.CGI if self.endpoint.wire is Wire.CGI else EventKind.NOTE
        self.upstream.tell(kind, self.endpoint, detail, pid)

    def acquire(self) -> bool:
        """Take a place for a probe. It needs a connection of its own, so an idle one makes room."""
        if self.in_flight >= self.places:
            return False
        self.taken()
        while self._idle and len(self._idle) + self.in_flight > self.places:
            self._idle[0].discard()
        return True

    def taken(self) -> None:
        """One of its places is taken."""
        self.in_flight += 1
        if self.in_flight == 1:
            self.upstream.became_busy(self.routed)

    def release(self) -> None:
        """Give a place back: to whoever waits first, if anybody does."""
        self.in_flight -= 1
        if not self.in_flight:
            self.upstream.became_idle(self.routed)
        if self.routed:
            self.upstream.serve(self)
        if not self.in_flight:
            self._tell_drained()

    def leave(self) -> None:
        """Be chosen no more; hang up the idle connections."""
        self.routed = False
        for connection in self._idle.copy():
            connection.discard()

    async def drained(self, timeout: float) -> bool:
        """Wait until nothing is in flight; False after `timeout` seconds."""
        if not self.in_flight:
            return True
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await asyncio.wait_for(waiter, timeout)
        except TimeoutError:
            return False
        finally:
            self._waiting.remove(waiter)
        return True

    def view(self, now: float) -> EndpointView:
        """What is known of its traffic."""
        recent = self.latency.recent(now)
        return EndpointView(
            endpoint=self.endpoint,
            in_flight=self.in_flight,
            answered=self.answered,
            failed=self.failed,
            rps=recent.rps,
            p50_ms=recent.p50_ms,
            p99_ms=recent.p99_ms,
            request=self.request(now),
        )

    def request(self, now: float) -> RequestView | None:
        """The oldest request that it serves, else the last one that it served."""
        if self.open:
            exchange, began = next(iter(self.open.items()))
            return _request_view(exchange.request, now - began, in_flight=True)
        return self._last and _request_view(*self._last, in_flight=False)

    async def _open(self) -> WorkerConnection:
        """Connect to the worker. Raises `OSError`."""
        loop, endpoint = asyncio.get_running_loop(), self.endpoint
        dialect = FastCgiDialect(self.kept) if endpoint.wire is Wire.FASTCGI else HttpDialect()
        connection = WorkerConnection(self, dialect)
        if endpoint.path:
            await loop.create_unix_connection(lambda: connection, endpoint.path)
        else:
            await loop.create_connection(lambda: connection, endpoint.host, endpoint.port)
        return connection

    async def _start(self, exchange: Exchange) -> WorkerConnection:
        """Start a program for one request. Raises `LabError`, and `BadMessageError` for what it cannot be told."""
        gateway, limits = self._gateway, self.upstream.spec.cgi
        always = cgi.constants(exchange.port, exchange.root)
        environment = _environment(always + exchange.variables(authorized=False))
        program = await _started(gateway.start_cgi(self.endpoint.app, environment))
        return CgiConnection(self, gateway, program, limits, exchange.request.length)

    def _tell_drained(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


class Upstream:
    """One app's endpoints and queue."""

    def __init__(self, spec: UpstreamSpec, gateway: Gateway, events: EventRing) -> None:
        self.spec = spec
        self.latencies = (Latency(gateway.now()), Latency(gateway.now()))
        """Of everybody's requests, and of the lab's own."""
        self._gateway = gateway
        self._events = events
        self._routed: list[EndpointState] = []
        self._queue: OrderedDict[Exchange, None] = OrderedDict()
        self._accepted = 0
        self._longest = 0
        self._active = self._most_active = 0
        self._idle = 0
        """Routed endpoints with nothing in flight."""
        self._full = False
        self._choices = 0
        self._quiet_until = 0.0
        self._untold = 0
        self._policy = _policy(spec)

    def apply(self, spec: UpstreamSpec) -> None:
        """Follow a new spec. Requests that wait go on waiting, unless the app has become unavailable."""
        if spec.selection is not self.spec.selection:
            self._policy = _policy(spec)
        self.spec = spec
        if spec.unavailable is not None:
            self.close(problems.unavailable(spec.app, spec.unavailable))

    def close(self, problem: problems.Problem) -> None:
        """Answer everybody who waits with `problem`."""
        for exchange in list(self._queue):
            exchange.fail(problem)

    def add(self, state: EndpointState) -> None:
        """An endpoint may be chosen from now on."""
        state.routed = True
        self._routed.append(state)
        self._idle += not state.in_flight
        while self.serve(state):
            pass

    def remove(self, state: EndpointState) -> None:
        """It may not any more."""
        self._routed.remove(state)
        self._idle -= not state.in_flight
        state.leave()

    def claim(self, exchange: Exchange) -> None:
        """Count a request as one of this app's, whoever answers it."""
        exchange.upstream = self
        self._accepted += 1
        exchange.latency = self.latencies[exchange.downstream.own]

    def admit(self, exchange: Exchange) -> None:
        """Send a request to an endpoint, or let it wait, or shed it."""
        first = exchange.latency is None
        if first:
            self.claim(exchange)
        if self.spec.unavailable is not None:
            exchange.fail(problems.unavailable(self.spec.app, self.spec.unavailable))
            return
        if first and not self._idle:
            self._gateway.on_starved(self.spec.app)
        if self.spec.queue is Queue.UPSTREAM:
            candidates = [state for state in self._routed if state.in_flight < state.places]
        else:
            candidates = self._routed
        if exchange.tried:
            candidates = [state for state in candidates if state not in exchange.tried]
        if not candidates:
            self.wait(exchange)
            return
        chosen = candidates[0] if len(candidates) == 1 else self._policy.choose(candidates, exchange.request)
        self._assign(exchange, chosen)

    def wait(self, exchange: Exchange) -> None:
        """Let a request wait for a place, or shed it when too many wait."""
        if len(self._queue) >= self.spec.queue_length:
            self._tell_full()
            exchange.fail(problems.queue_full(self.spec.app, self.spec.queue_length))
            return
        self._queue[exchange] = None
        self._longest = max(self._longest, len(self._queue))
        exchange.wait()

    def script(self, target: bytes) -> cgi.Script:
        """The program that answers `target`, for an app without a site. Raises `BadMessageError` for a bad path."""
        return cgi.script_below(self.spec.script, self.spec.route, target)

    def tell(self, kind: EventKind, endpoint: Endpoint, detail: str, pid: int | None) -> None:
        """Emit an event about a program, at most one a second."""
        now = self._gateway.now()
        if now < self._quiet_until:
            self._untold += 1
            return
        who = f"CGI program of {self.spec.app}" if kind is EventKind.CGI else str(endpoint.worker)
        more = f" ({self._untold} more like this were not told)" if self._untold else ""
        self._quiet_until, self._untold = now + _TELL_EVERY, 0
        slot, generation = endpoint.worker.slot, endpoint.worker.generation
        self._events.emit(kind, f"{who}: {detail}{more}", app=self.spec.app, slot=slot, generation=generation, pid=pid)

    def serve(self, state: EndpointState) -> bool:
        """Give a free place of `state` to the request that waits longest. False when there is no place or request.

        A request that could not connect to it waits for another endpoint: it would only fail once more.
        """
        if not self._queue or not self._has_place(state):
            return False
        exchange = next((waiting for waiting in self._queue if state not in waiting.tried), None)
        if exchange is None:
            return False
        self.withdraw(exchange)
        # One that is not ready for the place leaves it to the next.
        return self._assign(exchange, state) or self.serve(state)

    def became_busy(self, routed: bool) -> None:
        """One of its endpoints has something to do; it is `routed`, or was removed."""
        self._idle -= routed
        self._active += 1
        self._most_active = max(self._most_active, self._active)

    def became_idle(self, routed: bool) -> None:
        """One of its endpoints has nothing to do any more."""
        self._idle += routed
        self._active -= 1

    def withdraw(self, exchange: Exchange) -> None:
        """A request waits no longer."""
        del self._queue[exchange]
        self._full = False

    def untried(self, exchange: Exchange) -> bool:
        """Whether a request that could not connect has another endpoint to try."""
        tried = exchange.tried
        return len(tried) <= len(self._routed) and any(state not in tried for state in self._routed)

    def queue_timeout(self) -> problems.Problem:
        """What a request is told that waited too long."""
        return problems.queue_timeout(self.spec.app, self.spec.timeouts.queue, len(self._routed))

    def view(self, endpoints: tuple[EndpointView, ...], now: float) -> UpstreamView:
        """What is known of its traffic."""
        recent = self.latencies[0].recent(now, self.latencies[1])
        return UpstreamView(
            app=self.spec.app,
            accepted=self._accepted,
            queue=len(self._queue),
            max_queue=self._longest,
            max_active=self._most_active,
            rps=recent.rps,
            p50_ms=recent.p50_ms,
            p95_ms=recent.p95_ms,
            p99_ms=recent.p99_ms,
            endpoints=endpoints,
        )

    def _has_place(self, state: EndpointState) -> bool:
        return state.in_flight < state.places or self.spec.queue is Queue.WORKER

    def _assign(self, exchange: Exchange, state: EndpointState) -> bool:
        """Give a request a place. False when it is not ready for one: it has been answered, or waits for its body."""
        if state.runs_programs and not exchange.prepare():
            return False
        self._choices += 1
        state.chosen = self._choices
        state.taken()
        exchange.proceed(state)
        return True

    def _tell_full(self) -> None:
        """Once each time that it fills up: a flood of requests is not to become a flood of events."""
        if not self._full:
            self._full = True
            text = f"The queue of {self.spec.app} is full ({self.spec.queue_length} wait): further requests get 503"
            self._events.emit(EventKind.NOTE, text, app=self.spec.app)


def _policy(spec: UpstreamSpec) -> SelectionPolicy:
    policy: SelectionPolicy = plugins.load("cgilab.selection", spec.selection)()
    return policy


def _request_view(request: RequestHead, seconds: float, in_flight: bool) -> RequestView:
    return RequestView(
        method=request.method.decode(),
        target=request.target.decode("latin-1"),
        length=max(0, request.length),
        duration_s=seconds,
        in_flight=in_flight,
    )


def _environment(variables: cgi.Variables) -> dict[str, str]:
    """A CGI program's whole environment: what the lab's own has besides is none of its business."""
    found = {os.fsdecode(name): os.fsdecode(value) for name, value in variables}
    return found | {"PATH": os.environ.get("PATH", os.defpath)}


async def _started(start: Awaitable[CgiProgram]) -> CgiProgram:
    """A program that is being started. If its client leaves meanwhile, it is killed as soon as it is there."""
    starting = asyncio.ensure_future(start)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_unwanted)
        raise


def _unwanted(starting: "asyncio.Future[CgiProgram]") -> None:
    if starting.cancelled() or starting.exception() is not None:
        return
    program = starting.result()
    program.kill()
    os.close(program.stdin)
    os.close(program.stdout)
