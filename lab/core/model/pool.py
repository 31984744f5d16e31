"""An app's workers: how many, how they get their socket, how patiently they are started, asked, limited and scaled."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from lab.core.model.forms import Count, Niceness, Seconds, Some, Spec, Workers
from lab.core.states import Policy


class Contract(StrEnum):
    """How a worker gets its socket: an app's `protocol`."""

    HTTP_PORT = "http-port"
    """`{port}` in the command line, and PORT in the environment. The classic `search.cgi PORT`; Heroku."""
    HTTP_UNIX = "http-unix"
    """`{socket}` in the command line, and SOCKET in the environment: a Unix socket that the worker makes."""
    HTTP_FD = "http-fd"
    """A listening socket inherited as descriptor 3, LISTEN_FDS=1, LISTEN_PID (systemd's socket activation). It belongs
    to the slot: while a worker is replaced, the kernel holds new connections and none is refused."""
    HTTP_SHARED = "http-shared"
    """As `http-fd`, but one socket for the whole pool: workers compete in `accept` (gunicorn, Apache prefork). Which
    worker serves which request only the kernel knows, so figures per worker are not measured."""
    FASTCGI = "fastcgi"
    """A listening socket inherited as descriptor 0 (FCGI_LISTENSOCK_FILENO; spawn-fcgi). It belongs to the slot."""
    CGI = "cgi"
    """One process a request: RFC 3875 environment, body on stdin, answer on stdout. There are no workers to keep."""


class PoolSettings(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many workers, and how patiently they are started, stopped and started again."""

    policy: Policy = Policy.STATIC
    max_workers: Workers = 2
    """`static` keeps this many; other policies never have more."""
    min_workers: Workers = 0
    """`dynamic` never has fewer."""
    start_workers: Workers = 2
    """`dynamic` begins with so many."""
    min_spare: Workers = 1
    """`dynamic` starts workers while fewer are idle ..."""
    max_spare: Workers = 3
    """... and stops one a second while more are."""
    spawn_on_starved: bool = True
    """`dynamic` also starts one at once when a request finds no idle worker. Off: exactly as PHP-FPM does."""
    idle_timeout: Seconds = 10.0
    """`ondemand` stops a worker that was idle for so long."""
    max_requests: Count = 0
    """A worker is replaced after so many requests, up to 10 % more so that not all are at once; 0 means never."""
    standby: Workers = 0
    """So many further workers are READY but get no requests, until one takes the place of a worker that died."""
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


class Liveness(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Is a READY worker still answering? The health path is asked regularly, one request in flight at most."""

    interval: Seconds = 0.5
    """Between two questions to one worker. It grows with the pool, so that no more than 40 are asked a second in all:
    500 workers are asked every 12.5 s."""
    timeout: Seconds = 0.5
    fall: Some = 2
    """Failed probes in a row until UNHEALTHY."""
    rise: Some = 1
    """Passed probes in a row until READY again."""
    hang_timeout: Seconds = 30.0
    """A worker too busy to be probed is UNHEALTHY when one request has occupied it for this long."""
    replace_after: Seconds = 30.0
    """A worker that stays UNHEALTHY this long is replaced; 0 means never."""


class ResourceLimits(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one worker may take of the machine (setrlimit(2), nice(2)). 0 means: no limit but the machine's own."""

    address_space: Count = 0
    """Bytes of virtual memory (RLIMIT_AS): a further malloc fails."""
    files: Count = 0
    """Open files (RLIMIT_NOFILE)."""
    cpu_time: Count = 0
    """Seconds of CPU (RLIMIT_CPU): SIGXCPU, then SIGKILL one second later."""
    nice: Niceness = 0
    """How readily it lets others go first."""


class Metric(StrEnum):
    """What autoscaling looks at."""

    CPU = "cpu"
    """Percent of a core, on average over the workers."""
    MEMORY = "memory"
    """Resident bytes, on average over the workers."""
    IN_FLIGHT = "in_flight"
    """Requests in flight, on average over the workers."""
    RPS = "rps"
    """Requests a second, on average over the workers."""
    QUEUE = "queue"
    """Requests that wait in the proxy, in all."""


class ScalingSpec(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an app's `max_workers` follows its load. Either `target`, or `high` and `low`."""

    metric: Metric
    target: Annotated[float, Meta(ge=0)] = 0.0
    """Keep the metric here by scaling in proportion (target tracking); 0 means: use the thresholds."""
    high: Annotated[float, Meta(ge=0)] = 0.0
    """One more worker while the metric is above ..."""
    low: Annotated[float, Meta(ge=0)] = 0.0
    """... and one fewer while it is below. The gap between the two is the hysteresis."""
    step: Some = 1
    """Workers added or taken at a time by the thresholds."""
    min_workers: Workers = 1
    max_workers: Annotated[int, Meta(ge=1, le=1000)] = 10
    up_cooldown: Seconds = 3.0
    """After a change no growth for so long."""
    down_cooldown: Seconds = 30.0
    """After a change no shrinking for so long."""
