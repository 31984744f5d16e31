"""An app's endpoints, the places they have, and the queue of requests before them.

A place is the right to have one request open at a worker; there are `concurrency` of them, and probes take them too.
The queue is served first come, first served, at the instant a place is freed or an endpoint appears: no request ever
waits while there is a place that it could have.
"""

import asyncio
from collections import OrderedDict

from lab import plugins
from lab.core.events import EventKind, EventRing
from lab.core.model import Endpoint, Queue
from lab.proxy import problems
from lab.proxy.accounting import Latency
from lab.proxy.backends.python_builtin.connection import WorkerConnection
from lab.proxy.backends.python_builtin.exchange import Exchange
from lab.proxy.backends.python_builtin.gateway import Gateway
from lab.proxy.manager import EndpointView, UpstreamSpec, UpstreamView
from lab.proxy.selection import SelectionPolicy
from lab.proxy.timeouts import NEVER


class EndpointState:
    """One endpoint: who is there, what it did, and the idle connections to it, last used first."""

    def __init__(self, endpoint: Endpoint, upstream: "Upstream", gateway: Gateway) -> None:
        self.endpoint = endpoint
        self.upstream = upstream
        self.places = endpoint.concurrency
        self.in_flight = 0
        """Requests open to it, probes included."""
        self.chosen = 0
        self.routed = False
        """It may be chosen."""
        self.answered = self.failed = 0
        self.open: dict[Exchange, float] = {}
        """Requests at the worker, oldest first, with the monotonic time of each."""
        self.latency = Latency(gateway.now())
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
        if self.routed and len(self._idle) + self.in_flight <= self.places:
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
        loop = asyncio.get_running_loop()
        host, port = self.endpoint.host, self.endpoint.port
        try:
            _, connection = await loop.create_connection(lambda: WorkerConnection(self), host, port)
        except OSError as error:
            why = error.strerror or str(error)
            exchange.connect_failed(problems.connect_failed(str(self.endpoint), why))
        else:
            if connection.transport.is_closing():
                exchange.connect_failed(problems.connect_failed(str(self.endpoint), "it hung up at once"))
            else:
                exchange.connected(connection)

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
            self.upstream.became_busy()

    def release(self) -> None:
        """Give a place back: to whoever waits first, if anybody does."""
        self.in_flight -= 1
        if not self.in_flight:
            self.upstream.became_idle()
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
        )

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
        self._full = False
        self._choices = 0
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
        while self.serve(state):
            pass

    def remove(self, state: EndpointState) -> None:
        """It may not any more."""
        self._routed.remove(state)
        state.leave()

    def claim(self, exchange: Exchange) -> None:
        """Count a request as one of this app's."""
        exchange.upstream = self
        self._accepted += not exchange.tried
        exchange.latency = self.latencies[exchange.downstream.own]

    def admit(self, exchange: Exchange) -> None:
        """Send a request to an endpoint, or let it wait, or shed it."""
        self.claim(exchange)
        if self.spec.unavailable is not None:
            exchange.fail(problems.unavailable(self.spec.app, self.spec.unavailable))
            return
        if self.spec.queue is Queue.UPSTREAM:
            candidates = [state for state in self._routed if state.in_flight < state.places]
        else:
            candidates = self._routed
        if exchange.tried:
            candidates = [state for state in candidates if state not in exchange.tried]
        if not candidates:
            self._wait(exchange)
            return
        chosen = candidates[0] if len(candidates) == 1 else self._policy.choose(candidates, exchange.request)
        self._assign(exchange, chosen)

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
        self._assign(exchange, state)
        return True

    def became_busy(self) -> None:
        """One of its endpoints has something to do."""
        self._active += 1
        self._most_active = max(self._most_active, self._active)

    def became_idle(self) -> None:
        """One of its endpoints has nothing to do any more."""
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

    def _assign(self, exchange: Exchange, state: EndpointState) -> None:
        self._choices += 1
        state.chosen = self._choices
        state.taken()
        exchange.proceed(state)

    def _wait(self, exchange: Exchange) -> None:
        if len(self._queue) >= self.spec.queue_length:
            self._tell_full()
            exchange.fail(problems.queue_full(self.spec.app, self.spec.queue_length))
            return
        self._queue[exchange] = None
        self._longest = max(self._longest, len(self._queue))
        exchange.wait()

    def _tell_full(self) -> None:
        """Once each time that it fills up: a flood of requests is not to become a flood of events."""
        if not self._full:
            self._full = True
            text = f"The queue of {self.spec.app} is full ({self.spec.queue_length} wait): further requests get 503"
            self._events.emit(EventKind.NOTE, text, app=self.spec.app)


def _policy(spec: UpstreamSpec) -> SelectionPolicy:
    policy: SelectionPolicy = plugins.load("cgilab.selection", spec.selection)()
    return policy
