"""The nouns of the lab: apps, their settings, endpoints. Frozen values, checked where they enter.

Times are seconds, sizes are bytes, unless a name says otherwise.
"""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from lab.core.states import Policy

# A bare `$` would also match before a line feed at the end.
Name = Annotated[
    str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}(?!\n)$", description="A name of lower-case letters, digits and hyphens.")
]
Route = Annotated[
    str, Meta(pattern=r'^/[!"$->@-~]*(?!\n)$', description="A path that begins with /, without ?, # and spaces.")
]
Target = Annotated[
    str,
    Meta(pattern=r'^/[!"$-~]*(?!\n)$', description="A path that begins with /, without # and spaces; ? may follow."),
]
# An empty one would mean every address.
Host = Annotated[str, Meta(pattern=r"^[!-~]+(?!\n)$", description="An address or a name of this machine.")]
Seconds = Annotated[float, Meta(ge=0, le=365 * 24 * 3600)]
Count = Annotated[int, Meta(ge=0)]
Workers = Annotated[int, Meta(ge=0, le=1000)]
Some = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]


POOL_STATUS = "/pool-status"
"""The gateway answers this route itself; no app can have it."""


class Contract(StrEnum):
    """How a worker gets its socket: an app's `protocol`."""

    HTTP_PORT = "http-port"
    """`{port}` in the command line, and PORT in the environment."""


class Queue(StrEnum):
    """Where requests wait when every worker is busy."""

    UPSTREAM = "upstream"
    """In the proxy, bounded in length and time. A busy worker gets nothing."""
    WORKER = "worker"
    """At the worker: selection sends at once."""


class Selection(StrEnum):
    """How the proxy chooses among the READY endpoints of an app."""

    ROUND_ROBIN = "round_robin"
    LEAST_CONNECTIONS = "least_connections"


class _Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value that people write in files: unknown keys are errors."""


class PoolSettings(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many workers, and how patiently they are started, stopped and started again."""

    policy: Policy = Policy.STATIC
    max_workers: Workers = 2
    """`static` keeps this many."""
    start_timeout: Seconds = 10.0
    """A worker that is not READY after this long is killed; this counts as a failed start."""
    stop_timeout: Seconds = 5.0
    """Between SIGTERM and SIGKILL."""
    drain_timeout: Seconds = 10.0
    """The longest wait for requests in flight before SIGTERM."""
    stable_after: Seconds = 1.0
    """A death within this long of READY counts towards back-off."""
    backoff_initial: Seconds = 0.1
    backoff_max: Seconds = 30.0
    intensity_failures: Some = 5
    """This many failed starts ..."""
    intensity_window: Seconds = 10.0
    """... within this long stop respawning: the slot is FAILED."""
    concurrent_starts: Count = 0
    """The most workers that start at the same time; 0 means the number of cores."""


class Liveness(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Is a READY worker still answering? The health path is asked regularly, one request in flight at most."""

    interval: Seconds = 0.5
    timeout: Seconds = 0.5
    fall: Some = 2
    """Failed probes in a row until UNHEALTHY."""
    rise: Some = 1
    """Passed probes in a row until READY again."""
    hang_timeout: Seconds = 30.0
    """A worker too busy to be probed is UNHEALTHY when one request has occupied it for this long."""
    replace_after: Seconds = 30.0
    """A worker that stays UNHEALTHY this long is replaced; 0 means never."""


class Timeouts(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The proxy's patience, each with an error of its own."""

    request_head: Seconds = 10.0
    request_body: Seconds = 30.0
    connect: Seconds = 2.0
    queue: Seconds = 5.0
    response_head: Seconds = 30.0
    response_idle: Seconds = 30.0
    client_idle: Seconds = 60.0
    """How long an idle keep-alive connection of a client stays open."""
    upstream_idle: Seconds = 5.0
    """How long an idle connection to a worker stays open."""


class Limits(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that one request may be."""

    request_line: Some = 8 * 1024
    head: Some = 64 * 1024
    fields: Some = 100
    body: Count = 1024 * 1024 * 1024


class AppSpec(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One app: a program, how many of it, and where its requests come from."""

    name: Name
    route: Route
    """Path prefix: `/api/search` takes `/api/search` and everything below `/api/search/`."""
    language: str
    """A name from languages.json."""
    source: str
    """The program's source file. Absolute after the manifest was read; there it is relative to the manifest."""
    protocol: Contract = Contract.HTTP_PORT
    health: Target = "/health"
    """Path that answers 2xx when the worker is well."""
    env: dict[str, str] = {}
    concurrency: Some = 1
    """The most requests open to one worker at a time, probes included."""
    queue: Queue = Queue.UPSTREAM
    queue_length: Count = 512
    selection: Selection = Selection.ROUND_ROBIN
    pool: PoolSettings = PoolSettings()
    liveness: Liveness = Liveness()
    timeouts: Timeouts = Timeouts()


class ListenerSpec(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the proxy listens. Port 0 asks the kernel for a free one."""

    host: Host = "127.0.0.1"
    port: Port = 8080


class WorkerId(msgspec.Struct, frozen=True, order=True):
    """One process in the life of a slot. `str()` gives `search/2` as people name it."""

    app: str
    slot: int
    generation: int

    def __str__(self) -> str:
        return f"{self.app}/{self.slot}"


class Endpoint(msgspec.Struct, frozen=True):
    """An address that answers for an app, and the worker behind it."""

    app: str
    host: str
    port: int
    worker: WorkerId
    pid: int | None = None
    concurrency: int = 1

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"
