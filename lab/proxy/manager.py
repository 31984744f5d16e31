"""`ProxyManager`, the contract that every proxy backend fulfils: desired state in, observed traffic out.

The proxy knows endpoints, never processes. Which endpoints an upstream has, the engine tells it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from lab.core.histogram import Histogram
from lab.core.model import (
    BreakerSpec,
    CgiLimits,
    Endpoint,
    HashSpec,
    HealthCheck,
    ListenerSpec,
    OutlierSpec,
    ProxySettings,
    Queue,
    RateLimit,
    RetrySpec,
    RouteSpec,
    Selection,
    Shedding,
    SiteSpec,
    Timeouts,
)
from lab.core.snapshot import BreakerSnapshot, RouteSnapshot, Totals
from lab.core.states import EndpointHealth
from lab.core.trace import Trace, Why

OnStarved = Callable[[str], None]
"""Called with an app's name when a request for it finds no idle endpoint."""


class Page(msgspec.Struct, frozen=True):
    """What the gateway shows to those who run it."""

    content_type: str
    body: bytes
    status: int = 200
    fields: bytes = b""
    """Further field lines of its head."""


Pages = Callable[[str, str], Page | Callable[[], Page] | None]
"""Path and query to a page; to a function that writes it and may be called in a thread, where that takes long; to None
where there is none. Called for `/pool-status` and for all below `/-/`."""


class UpstreamSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the proxy has to know of an app: its route and how to share its requests out."""

    app: str
    route: str
    selection: Selection = "round_robin"
    edition: int = 0
    """Of the policy's file, if it is one: another number has it read again."""
    weights: tuple[int, ...] = ()
    slow_start: float = 0.0
    hash: HashSpec = HashSpec()
    queue: Queue = Queue.UPSTREAM
    queue_length: int = 512
    upgrades: tuple[str, ...] = ("websocket",)
    request_buffer: int = 64 * 1024
    rate_limit: RateLimit = RateLimit()
    shedding: Shedding = Shedding()
    timeouts: Timeouts = Timeouts()
    health_check: HealthCheck = HealthCheck()
    """Its path is that of the question, never empty while there is an interval."""
    outliers: OutlierSpec = OutlierSpec()
    panic_percent: float = 0.0
    breaker: BreakerSpec = BreakerSpec()
    retries: RetrySpec = RetrySpec()
    site: SiteSpec | None = None
    script: str = ""
    """SCRIPT_FILENAME for FastCGI and CGI apps without a site: the program that answers everything below the route."""
    cgi: CgiLimits = CgiLimits()
    unavailable: str | None = None
    """When set, requests are answered with 503 and this reason."""


class ProxySpec(msgspec.Struct, frozen=True, kw_only=True):
    """Desired state of the proxy."""

    listener: ListenerSpec = ListenerSpec()
    upstreams: tuple[UpstreamSpec, ...] = ()
    routes: tuple[RouteSpec, ...] = ()
    """Beside those that upstreams have by themselves, which are called like their apps."""
    settings: ProxySettings = ProxySettings()


class RequestView(msgspec.Struct, frozen=True, kw_only=True):
    """The request that an endpoint serves, or the last one that it served."""

    method: str
    target: str
    length: int
    """Bytes of its body; 0 also when it comes in chunks."""
    duration_s: float
    """So far, or until it ended."""
    in_flight: bool
    identity: str = ""
    """What traces call it, while it is in flight."""


class EndpointView(msgspec.Struct, frozen=True, kw_only=True):
    """Traffic to one endpoint. Rate and latencies are over the last ten seconds."""

    endpoint: Endpoint
    in_flight: int = 0
    answered: int = 0
    failed: int = 0
    rps: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    request: RequestView | None = None
    offered: bool = True
    """The balancer may choose it: it is in its upstream, and not held back for its health."""
    health: EndpointHealth = EndpointHealth.HEALTHY
    health_why: str = ""
    weight: float = 1.0
    """Its share beside the others', as slow start has it now."""
    ewma_ms: float | None = None
    """How long its answers take lately, as far as the app's policy has it measured."""
    ejected_for_s: float | None = None
    tunnels: int = 0
    """Open now; each takes a place and counts in `in_flight`."""


class UpstreamView(msgspec.Struct, frozen=True, kw_only=True):
    """Traffic to one app."""

    app: str
    accepted: int = 0
    """Requests since the start, the lab's own included."""
    queue: int = 0
    max_queue: int = 0
    """The longest that the queue has been."""
    max_active: int = 0
    """The most endpoints that were busy at once."""
    rps: float = 0.0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    endpoints: tuple[EndpointView, ...] = ()
    breaker: BreakerSnapshot | None = None
    """None without a circuit breaker."""
    retries: int = 0
    retries_left: int | None = None
    panic: bool = False
    shed: dict[str, int] = {}
    """Requests for it that a limit refused since the start, by cause."""


class ProxyView(msgspec.Struct, frozen=True, kw_only=True):
    """All traffic."""

    totals: Totals
    """Without the lab's own requests."""
    own: Totals
    upstreams: tuple[UpstreamView, ...]
    routes: tuple[RouteSnapshot, ...]
    connections: int
    """Open connections of clients."""
    handshakes: int = 0
    """Clients in the middle of a TLS handshake; they are not among the connections yet."""
    handshakes_failed: dict[str, int] = {}
    """TLS handshakes that came to nothing since the start, by cause."""
    certificate: str | None = None
    """A file that clients may trust, where the certificate was made here."""
    pending: int
    """Requests that wait for a place."""
    shed: dict[str, int]
    """Requests that a limit refused since the start, by cause."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that was counted at one place (a route, an app, a worker) since the start."""

    accepted: int
    in_flight: int
    classes: tuple[int, ...]
    """Requests by the first digit of their status; the first counts answers that broke off."""
    failed: int
    """Of a worker: requests that it left without an answer."""
    received: int
    """Bytes of requests' bodies."""
    sent: int
    """Bytes of answers' bodies."""
    queue: Histogram
    """How long requests waited for a place ..."""
    connect: Histogram
    """... and for a connection."""
    first_byte: Histogram
    """From a request's acceptance to the head of its answer ..."""
    total: Histogram
    """... and to its end."""
    tunnels_ended: Mapping[str, int] = field(default_factory=dict)
    """Of a route or an app: tunnels that are over, by how they ended."""


@dataclass(frozen=True, slots=True)
class AllFigures:
    """Everything that was counted. The lab's own requests are included, so that sums agree."""

    outcomes: Totals
    """Of everybody's requests ..."""
    own: Totals
    """... and of the lab's own."""
    unlogged: int
    """Lines that the access log lost."""
    routes: Mapping[str, Figures]
    apps: Mapping[str, Figures]
    workers: Mapping[Endpoint, Figures]


class ProxyManager(Protocol):
    """A backend that relays requests. Constructed without side effects; `start` and `close` bracket its life."""

    async def start(self, spec: ProxySpec) -> str:
        """Listen and return the URL, such as `http://127.0.0.1:8080`. Raises `PortInUseError`."""
        ...

    async def apply(self, spec: ProxySpec) -> None:
        """Make `spec` the desired state. The listener stays; requests in flight finish under the old one."""
        ...

    def add(self, endpoint: Endpoint) -> None:
        """The endpoint enters its app's upstream."""
        ...

    def remove(self, endpoint: Endpoint) -> None:
        """It leaves; requests in flight go on; idle connections to it are closed."""
        ...

    async def drained(self, endpoint: Endpoint, timeout: float) -> bool:
        """Wait until nothing is in flight to a removed endpoint; False after `timeout` seconds."""
        ...

    def in_flight(self, endpoint: Endpoint) -> int:
        """Requests open to it now, probes included."""
        ...

    def inside(self, endpoint: Endpoint) -> int:
        """Requests inside a worker whose end was told just now: those that were sent to it and not answered yet, and
        those whose connection broke a moment ago, for the kernel closes a process's connections before it reports its
        end."""
        ...

    def busy_since(self, endpoint: Endpoint) -> float | None:
        """Monotonic time at which its oldest request in flight was sent; None when idle."""
        ...

    def acquire(self, endpoint: Endpoint) -> bool:
        """Take one of its places for a probe; False when all are taken."""
        ...

    def release(self, endpoint: Endpoint) -> None:
        """Give the place back."""
        ...

    def served(self, endpoint: Endpoint) -> int:
        """Requests that it has answered or failed since it was added; 0 for one that is not known."""
        ...

    def request(self, endpoint: Endpoint) -> RequestView | None:
        """The oldest request that it serves, else the last one that it served; None when it never had one."""
        ...

    def idle_since(self, endpoint: Endpoint) -> float | None:
        """Monotonic time at which its last request ended, or at which it was added; None while it is busy."""
        ...

    def mark_own(self, address: tuple[str, int]) -> None:
        """A client connection from this (host, port) is the lab's own: its requests are counted apart.

        Called before the connection is made; forgotten when that connection closes.
        """
        ...

    def observe(self) -> ProxyView:
        """All traffic as it is now."""
        ...

    def latencies(self, app: str | None = None) -> Histogram:
        """Total latency of requests since the start, without the lab's own, of one app or of all: a copy."""
        ...

    def figures(self) -> AllFigures:
        """Everything that was counted since the start, as copies."""
        ...

    def held_up(self) -> str:
        """What keeps the proxy from doing anything at all, as a sentence; empty where nothing does.

        For whoever gets no answer, so it alone may be called by another thread."""
        ...

    def traces(self, identity: str | None = None, why: Why | None = None, limit: int = 20) -> tuple[Trace, ...]:
        """The newest traces that were kept, newest first: all, the one called `identity`, or those kept for `why`."""
        ...

    async def close(self) -> None:
        """Stop accepting, finish what is in flight within a bound, close every connection."""
        ...
