"""The lab at one instant, as one immutable value. `cgilab status --json` is this value, encoded.

Its shape is published as snapshot.schema.json, which `python -m lab.core.snapshot` prints.

Milliseconds and rates are over the last ten seconds, counters since the lab began. None means: not measured.
"""

import sys

import msgspec

from lab.core.schema import published
from lab.core.states import BreakerState, EndpointHealth, ServiceState, WorkerState


class WorkerSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One slot and the process in it."""

    slot: int
    generation: int
    pid: int | None
    """None while the slot has no process (pending, backoff, failed)."""
    state: WorkerState
    stopped: bool
    """A kernel fact: the process is stopped (SIGSTOP), whatever `state` says."""
    endpoint: str | None
    routed: bool
    """The balancer may send it requests."""
    requests: int | None
    """Answered by this process since it was forked; None where workers share one socket."""
    in_flight: int | None
    restarts: int
    """Generations before this one, in this slot."""
    uptime_s: float | None
    cpu_percent: float | None
    rss_bytes: int | None
    rps: float
    p50_ms: float | None
    p99_ms: float | None
    retry_in_s: float | None = None
    """Seconds until the slot tries again, while it waits in back-off or after failing."""
    why: str = ""
    """Why it is not serving, in one sentence; empty when it is."""
    standby: bool = False
    """READY, and kept out of the upstream until another worker dies."""
    health: EndpointHealth = EndpointHealth.HEALTHY
    """What the proxy thinks of it, by its own checks and by the requests that it failed."""
    health_why: str = ""
    """Why it is not healthy, as the end of a sentence about it; empty when it is."""
    ejected_for_s: float | None = None
    """Seconds until it is sent requests again, while it is ejected."""
    tunnels: int = 0
    """WebSockets and the like that are open to it; each counts in `in_flight`."""


class BreakerSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """An app's circuit breaker."""

    state: BreakerState
    why: str = ""
    """Why it is not closed, as a sentence; empty when it is."""
    probe_in_s: float | None = None
    """Seconds until one request may pass as a probe, while it is open."""
    opened: int = 0
    """How often it has opened since the lab began."""


class ScalingSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Within which bounds autoscaling moves an app's `max_workers`, and by what it goes."""

    metric: str
    """cpu, memory, in_flight, rps or queue."""
    min_workers: int
    max_workers: int


class AppSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One app and its pool."""

    name: str
    route: str
    language: str
    policy: str
    protocol: str = "http-port"
    """How workers get their socket: http-port, http-unix, http-fd, http-shared, fastcgi or cgi."""
    selection: str
    concurrency: int
    wanted: int
    """Workers that the policy asks for."""
    workers: tuple[WorkerSnapshot, ...]
    queue: int
    """Requests that wait in the proxy."""
    rps: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    min_workers: int = 0
    """The fewest workers that the policy keeps."""
    max_workers: int = 0
    """The most workers that the policy may ask for."""
    scaling: ScalingSnapshot | None = None
    """None without autoscaling."""
    breaker: BreakerSnapshot | None = None
    """None without a circuit breaker."""
    retries: int = 0
    """How often a request was tried again, since the lab began."""
    retries_left: int | None = None
    """How many more the retry budget allows now; None where there is nobody to ask."""
    panic: bool = False
    """Too few endpoints are well, so requests are sent to all of them."""
    max_reached: int = 0
    """How often the pool came to `max_workers` and could have used more."""
    slow_requests: int = 0
    tunnels: int = 0
    """WebSockets and the like that are open to its workers."""
    shed: dict[str, int] = {}
    """Requests for it that a limit refused since the lab began, by cause, the lab's own included."""
    waits_for: tuple[str, ...] = ()
    """Processes beside the pool that have to be healthy before its first worker starts."""
    unavailable: str | None = None
    """Why the app cannot run here, with the command that changes it; None when it can."""
    building: bool = False
    changing: bool = False
    """Its program is being looked at, or workers of another one are on their way."""


class LeadSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a route sends to one of its apps."""

    app: str
    weight: int
    """Beside the weights of the route's other apps."""
    requests: int
    """Since both are there, the lab's own included."""
    share: float | None
    """Percent of the route's requests of the last ten seconds that it was really sent; None when there were none."""


class RouteSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One route: what it takes, where it leads, and its rate, errors and durations, the lab's own requests included."""

    name: str
    takes: str
    """In one line: methods, host, path, fields, priority."""
    implied: bool
    """It is an app's own, called like the app."""
    leads: tuple[LeadSnapshot, ...]
    requests: int
    in_flight: int
    classes: tuple[int, ...]
    """Ended requests by the first digit of their status, 0 to 5; the first counts answers that broke off."""
    errors: int
    """Those of them with 5xx, or broken off."""
    rps: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Every accepted request ends in exactly one of answered, failed, shed, abandoned."""

    accepted: int = 0
    answered: int = 0
    """By a worker with any status, or by the gateway with a 4xx."""
    failed: int = 0
    """5xx made by the gateway."""
    shed: int = 0
    """429 or 503 by a limit."""
    abandoned: int = 0
    """The client left first."""
    in_flight: int = 0
    retries: int = 0
    tunnels: int = 0
    """Open now. The request that opened one has been answered."""
    tunnel_bytes: int = 0
    """Carried by tunnels, both ways together."""
    rps: float = 0.0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None


class Invariants(msgspec.Struct, frozen=True, kw_only=True):
    """What must hold at every instant. A breach that was seen once stays told for ten seconds."""

    conserved: bool
    """accepted = answered + failed + shed + abandoned + in flight."""
    no_zombies: bool
    """No child of the fork server stayed a zombie for a second."""
    within_bounds: bool
    """No pool has more live workers than it may: `max_workers + standby`, and one more while one is replaced."""
    only_ready: bool = True
    """Only READY workers are in an upstream."""
    stops_are_final: bool = True
    """No worker that was stopped on purpose came back, and each was gone within its grace."""
    backoff_kept: bool = True
    """No slot was filled again before its back-off had passed."""
    probes_on_time: bool = True
    """No liveness probe was late because another worker hung."""


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """The lab's own requests: real ones, counted apart from everybody else's."""

    rate: float
    """Requests/s that the lab sends itself; 0 when off."""
    totals: Totals


class ServiceSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A process beside the pool that the manifest asks for."""

    name: str
    state: ServiceState
    pid: int | None
    health: str
    """How it is asked: process, tcp, http, command or file."""
    restarts: int
    needs: tuple[str, ...]
    uptime_s: float | None
    why: str = ""
    """Why it is not healthy, in one sentence; empty when it is."""


class ProxySnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The proxy as a whole, and the limits in force; a limit of 0 is none."""

    connections: int = 0
    """Clients that are connected."""
    max_connections: int = 0
    handshakes: int = 0
    """Clients in the middle of a TLS handshake, beside those."""
    handshakes_failed: dict[str, int] = {}
    """TLS handshakes that came to nothing since the lab began, by cause: `client left`, `too slow`, `certificate
    refused` (the client was not told to trust it), `not understood`, `too many`."""
    requests: int = 0
    """In flight, the lab's own included."""
    max_requests: int = 0
    pending: int = 0
    """Requests that wait for a place, in all queues."""
    max_pending: int = 0
    shed: dict[str, int] = {}
    """Requests that a limit refused since the lab began, by cause: `queue full`, `client rate`, ... Those of all apps
    together, and the lab's own, are included."""


class LabSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a face shows."""

    version: int = 1
    name: str
    listener: str
    """Its URL."""
    certificate: str | None = None
    """The file that clients of an https listener are told to trust; None where the certificate was given."""
    uptime_s: float
    at: float
    """Monotonic seconds when this was built."""
    read_only: bool = False
    apps: tuple[AppSnapshot, ...]
    processes: tuple[ServiceSnapshot, ...] = ()
    routes: tuple[RouteSnapshot, ...] = ()
    """Those that were written down, then those of the apps."""
    totals: Totals
    """Without the lab's own requests."""
    own: Traffic
    proxy: ProxySnapshot = ProxySnapshot()
    invariants: Invariants
    faults: tuple[()] = ()
    events_next: int
    """The cursor after the newest event."""

    @property
    def port(self) -> int:
        """The port of the listener."""
        return int(self.listener.rpartition(":")[2])

    def app(self, name: str) -> AppSnapshot | None:
        """The app called `name`."""
        return next((app for app in self.apps if app.name == name), None)


if __name__ == "__main__":
    sys.stdout.write(published(LabSnapshot, "The lab at one instant: cgilab status --json"))
