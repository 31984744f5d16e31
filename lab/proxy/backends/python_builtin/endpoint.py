"""One endpoint: the places at a worker, the connections to it, and what is known of its traffic.

A place is the right to have one request open at a worker; there are `concurrency` of them, and probes take them too.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from lab.core.errors import LabError
from lab.core.events import EventKind
from lab.core.model import Endpoint, Wire
from lab.core.states import EndpointHealth
from lab.proxy import problems
from lab.proxy.accounting import Tally
from lab.proxy.backends.python_builtin import cgi_process
from lab.proxy.backends.python_builtin.connection import WorkerConnection
from lab.proxy.backends.python_builtin.dialects.fastcgi import FastCgiDialect
from lab.proxy.backends.python_builtin.dialects.http import HttpDialect
from lab.proxy.backends.python_builtin.exchange import Exchange
from lab.proxy.backends.python_builtin.gateway import Gateway
from lab.proxy.ewma import PeakEwma
from lab.proxy.health import Health
from lab.proxy.manager import EndpointView, Figures, RequestView
from lab.proxy.outliers import Record
from lab.proxy.timeouts import NEVER
from lab.wire.http1 import BadMessageError, RequestHead

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.tunnel import Tunnel
    from lab.proxy.backends.python_builtin.upstream import Upstream

_TOGETHER: Final = 1.0
"""Seconds from the moment in which a dying worker's connections break until its end has surely been told."""


class EndpointState:
    """One endpoint: who is there, what it did, and the idle connections to it, last used first."""

    __slots__ = (
        "_broke_at",
        "_broken",
        "_gateway",
        "_idle",
        "_last",
        "_last_took",
        "_waiting",
        "answered",
        "chosen",
        "eligible",
        "endpoint",
        "failed",
        "free_since",
        "health",
        "hop",
        "in_flight",
        "judged",
        "kept",
        "latency",
        "open",
        "peak",
        "places",
        "position",
        "record",
        "room",
        "routed",
        "runs_programs",
        "since",
        "slot",
        "told",
        "tunnels",
        "upstream",
        "weight",
        "who",
    )

    def __init__(self, endpoint: Endpoint, upstream: "Upstream", gateway: Gateway) -> None:
        self.endpoint = endpoint
        self.upstream = upstream
        self.hop, self.who = str(endpoint), str(endpoint.worker)
        """Its address and its worker, as people name them."""
        self.told: dict[int, bytes] = {}
        """How an answer of its worker explains itself, by status: a format for the milliseconds that it took."""
        self.places = endpoint.concurrency
        self.room: float = endpoint.concurrency
        """The most requests that it may be given: its places, or without end where it has a queue of its own."""
        self.position = -1
        """Where it stands among the endpoints that are offered for choice; -1 while it is not, having no place."""
        self.runs_programs = endpoint.wire is not Wire.HTTP
        """It speaks FastCGI or CGI: a request has to be put into variables for it."""
        self.kept = not endpoint.shared and (endpoint.wire is Wire.HTTP or endpoint.concurrency == 1)
        """Connections to it are used again. Not where several processes take them from one socket, as a pool's with
        `http-shared` and PHP-FPM's children do: an idle one would hold whoever accepted it."""
        self.slot = endpoint.worker.slot
        self.in_flight = 0
        """Requests open to it, probes included."""
        self.chosen = 0
        self.weight = 1.0
        self.since = 0.0
        """Monotonic time at which it was routed to, or was well again: a slow start begins there."""
        self.peak: PeakEwma | None = None
        """How long its answers take lately, while its app's policy wants to know."""
        self.routed = False
        """It is in its upstream."""
        self.eligible = False
        """It may be chosen: it is routed, and not held back for its health."""
        self.health = Health()
        """What its answers to the proxy's own questions say."""
        self.record: Record | None = None
        """What the requests that it had say; None while nobody asks."""
        self.judged = EndpointHealth.HEALTHY
        """What is thought of it by both."""
        self.answered = self.failed = 0
        self.open: dict[Exchange, float] = {}
        """Requests at the worker, oldest first, with the monotonic time of each."""
        self.tunnels: set[Tunnel] = set()
        """Each has one of its places."""
        self.latency = Tally(gateway.now())
        self.free_since = gateway.now()
        """Monotonic time at which its last request ended, or at which it came to be known."""
        self._last: RequestHead | None = None
        """The request that ended last ..."""
        self._last_took = 0.0
        """... and how many seconds it took."""
        self._broken, self._broke_at = 0, -_TOGETHER
        """Connections that ended with a request at the worker, one soon after the other, and when the last one did."""
        self._gateway = gateway
        self._idle: list[WorkerConnection] = []
        self._waiting: list[asyncio.Future[None]] = []

    def take(self, exchange: Exchange, now: float) -> WorkerConnection | None:
        """Give one of its places to an exchange, and the connection that was used last; None when there is none."""
        self.in_flight = taken = self.in_flight + 1
        if taken == 1 or taken >= self.room:
            self._turned(taken)
        self.open[exchange] = now
        while self._idle:
            connection = self._idle.pop()
            connection.deadline = NEVER  # its idle stay is over: the exchange has deadlines of its own
            if not connection.transport.is_closing():
                return connection
        return None

    def forget(self, connection: WorkerConnection) -> None:
        """The connection is gone."""
        self._gateway.wheel.forget(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def connect(self, exchange: Exchange) -> None:
        """Open a connection for an exchange, and tell it how that went."""
        connection: WorkerConnection
        try:
            if self.endpoint.wire is Wire.CGI:
                connection = await cgi_process.start(self, exchange, self._gateway)
            else:
                connection = await self._open()
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

    @property
    def ewma(self) -> float:
        """Seconds that its answers take lately; 0.0 where that is not measured."""
        return 0.0 if self.peak is None else self.peak.value(self._gateway.now())

    def ended(self, exchange: Exchange, now: float, answered: float | None = None) -> None:
        """A request is at the worker no longer. Its place is still to be released.

        `answered` is the time at which the head of its answer was here: how long the rest takes, the client decides.
        """
        took = now - self.open.pop(exchange)
        self._last, self._last_took = exchange.request, took
        self.free_since = now
        if self.peak is not None:
            if answered is not None:
                self.peak.record(took - (now - answered), now)
            else:
                self.peak.at_least(took, now)

    def served(self, exchange: Exchange, connection: WorkerConnection, reusable: bool, now: float) -> None:
        """A request was answered: its connection is kept for the next one if it is `reusable`, its place released.

        The connection is hung up when there are more of them than places: a worker that serves one at a time must not
        be kept waiting on an idle one.
        """
        connection.exchange = None
        self.answered += 1
        self._last, self._last_took = exchange.request, now - self.open.pop(exchange)
        self.free_since = now
        if self.peak is not None:
            self.peak.record(self._last_took - (now - (exchange.first or now)), now)
        if self.runs_programs:
            for remark in connection.dialect.remarks():
                self.tell(remark, connection.pid)
        usable = reusable and self.routed and self.kept and not connection.blocked
        if usable and len(self._idle) + self.in_flight <= self.places:
            if exchange.downstream.blocked:
                connection.transport.resume_reading()  # the next client may take its answer
            connection.reused = True
            self._idle.append(connection)
            connection.deadline = due = now + self.upstream.spec.timeouts.upstream_idle
            if due < connection.looked_at:
                self._gateway.wheel.arm(connection, due)
        else:
            connection.discard()
        self.in_flight = left = self.in_flight - 1  # as `release` does
        if not left or self.position < 0 or self.upstream.queue:
            self._released(left)

    def broke(self) -> None:
        """A connection ended with a request at the worker. Perhaps its worker did, too: that is told any moment."""
        now = self._gateway.now()
        self._broken = self._broken + 1 if now - self._broke_at < _TOGETHER else 1
        self._broke_at = now

    def inside(self) -> int:
        """Requests inside the worker, whose end was told just now."""
        broken = self._broken if self._gateway.now() - self._broke_at < _TOGETHER else 0
        return broken + sum(exchange.is_sent for exchange in self.open)

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
        """One of its places is taken. `take` does the same in its place."""
        self.in_flight = taken = self.in_flight + 1
        if taken == 1 or taken >= self.room:
            self._turned(taken)

    def release(self) -> None:
        """Give a place back: to whoever waits first, if anybody does. `served` does the same in its place."""
        self.in_flight = left = self.in_flight - 1
        if not left or self.position < 0 or self.upstream.queue:
            self._released(left)

    def leave(self) -> None:
        """Be chosen no more; hang up the idle connections, give tunnels their last seconds."""
        self.routed = self.eligible = False
        for tunnel in self.tunnels:
            tunnel.drain()
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
        record = self.record
        return EndpointView(
            endpoint=self.endpoint,
            in_flight=self.in_flight,
            answered=self.answered,
            failed=self.failed,
            rps=recent.rps,
            p50_ms=recent.p50_ms,
            p99_ms=recent.p99_ms,
            request=self.request(now),
            offered=self.eligible,
            health=self.judged,
            health_why=self._why(),
            ejected_for_s=max(0.0, record.until - now) if record is not None and record.ejected else None,
            tunnels=len(self.tunnels),
            weight=round(self.weight, 2),
            ewma_ms=None if self.peak is None else self.peak.value(now) * 1000,
        )

    def figures(self) -> Figures:
        """Everything that was counted of it."""
        return self.latency.figures(self.answered + self.failed, self.in_flight, self.failed)

    def request(self, now: float) -> RequestView | None:
        """The oldest request that it serves, else the last one that it served."""
        if self.open:
            exchange, began = next(iter(self.open.items()))
            return _request_view(exchange.request, now - began, exchange.identity)
        return None if self._last is None else _request_view(self._last, self._last_took)

    @property
    def connections(self) -> int:
        """Connections to it, and those that are being made: each request has one."""
        return self.in_flight + len(self._idle)

    def spare(self) -> bool:
        """Hang up the connection that was idle longest. False when all are in use."""
        if self._idle:
            self._idle[0].discard()
            return True
        return False

    def _why(self) -> str:
        """Why it is not healthy, as the end of a sentence about it."""
        if self.record is not None and self.record.ejected:
            return self.record.why
        return "" if self.health.healthy else self.health.why

    async def _open(self) -> WorkerConnection:
        """Connect to the worker. Raises `OSError`."""
        loop, endpoint = asyncio.get_running_loop(), self.endpoint
        dialect = FastCgiDialect(self.kept) if endpoint.wire is Wire.FASTCGI else HttpDialect()
        connection = WorkerConnection(self, dialect)
        if endpoint.path:
            await loop.create_unix_connection(lambda: connection, endpoint.path)
        else:
            await loop.create_connection(lambda: connection, endpoint.host, endpoint.port)
        connection.transport.set_write_buffer_limits(0)  # uvloop sends at once then, and not at the end of its turn
        return connection

    def _turned(self, taken: int) -> None:
        """The first place was taken, or the last one."""
        if taken == 1:
            self.upstream.became_busy(self.eligible)
        if taken >= self.room and self.position >= 0:
            self.upstream.filled(self)

    def _released(self, left: int) -> None:
        """A place was given back that somebody may wait for, or the last one that was taken."""
        if not left:
            self.upstream.became_idle(self.eligible)
        if self.routed:
            self.upstream.freed(self)
        if not self.in_flight:
            self._tell_drained()

    def _tell_drained(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


def _request_view(request: RequestHead, seconds: float, identity: str = "") -> RequestView:
    """With `identity` it is in flight."""
    return RequestView(
        method=request.method.decode(),
        target=request.target.decode("latin-1"),
        length=max(0, request.fields.length),
        duration_s=seconds,
        in_flight=bool(identity),
        identity=identity,
    )
