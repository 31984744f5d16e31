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
# Numbers without a bound of their own have one that the kernel can take and JSON can say.
Count = Annotated[int, Meta(ge=0, le=10**15)]
Workers = Annotated[int, Meta(ge=0, le=1000)]
Some = Annotated[int, Meta(ge=1, le=10**15)]
Protocol = Annotated[
    str,
    Meta(
        pattern=r"^(?!h2c|http|tls)[a-z0-9!#$%&'*+.^_`|~/-]{1,32}(?!\n)$",
        description="A protocol's name in lower case; not HTTP or TLS, whose requests would pass by the proxy unread.",
    ),
]
Version = Annotated[str, Meta(pattern=r"^(\d+(\.\d+)*)?(?!\n)$", description="A version such as 8.2, in quotes.")]
Percent = Annotated[float, Meta(ge=0, le=100)]
Niceness = Annotated[int, Meta(ge=0, le=19)]
Network = Annotated[
    str, Meta(pattern=r"^[0-9A-Fa-f:.]+(/[0-9]{1,3})?(?!\n)$", description="An address, or a network as 10.0.0.0/8.")
]
Port = Annotated[int, Meta(ge=0, le=65535)]
Weight = Annotated[int, Meta(ge=0, le=1_000_000)]
HostPattern = Annotated[
    str,
    Meta(
        pattern=r"^((\*\.)?[0-9A-Za-z_\-]+(\.[0-9A-Za-z_\-]+)*|\[[0-9A-Fa-f:.]+\])?(?!\n)$",
        description="A host such as example.org, or *.example.org, without a port.",
    ),
]
Method = Annotated[
    str, Meta(pattern=r"^[A-Z][A-Z0-9\-]*(?!\n)$", description="A method in capital letters, such as GET.")
]
Rewritten = Annotated[
    str,
    Meta(
        pattern=r'^(/[!"$->@-~]*)?(?!\n)$',
        description="A path that begins with /, without ?, # and spaces; or nothing.",
    ),
]


PROXY = "proxy"
"""What `set` calls the proxy itself; no app can have this name."""
POOL_STATUS = "/pool-status"
"""The gateway answers this route itself; no app can have it."""
OPERATORS = "/-"
"""So does it everything below this."""
RESERVED = (POOL_STATUS, OPERATORS)


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


class Wire(StrEnum):
    """What is spoken on a connection to an endpoint."""

    HTTP = "http"
    FASTCGI = "fastcgi"
    CGI = "cgi"


class Queue(StrEnum):
    """Where requests wait when every worker is busy."""

    UPSTREAM = "upstream"
    """In the proxy, bounded in length and time. A busy worker gets nothing."""
    WORKER = "worker"
    """At the worker: selection sends at once."""


Selection = Annotated[
    str,
    Meta(
        pattern=r"^[^\x00-\x1f]+(?!\n)$",
        description="The name of a selection policy, or the path of a Python file that ends in .py.",
    ),
]
"""How the proxy chooses among the READY endpoints of an app: an entry point of `cgilab.selection`, or a file of one's
own with a class `Policy`. A path is absolute after the manifest was read; there it is relative to the manifest."""
Share = Annotated[int, Meta(ge=1, le=100)]


def is_file(selection: Selection) -> bool:
    """Whether it names a file of one's own, and not a policy of the lab."""
    return selection.endswith(".py")


class _Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value that people write in files: unknown keys are errors."""


class PoolSettings(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class Liveness(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class Timeouts(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The proxy's patience with an app and with its clients, each with an error of its own."""

    request_body: Seconds = 30.0
    """The time over which it is judged how fast a request's body comes: in each such time something must arrive ..."""
    request_body_rate: Count = 100
    """... and this many bytes a second on average. While the worker takes none, the client is not to blame."""
    connect: Seconds = 2.0
    """Until a worker has accepted a connection."""
    queue: Seconds = 5.0
    """Until a worker has a place."""
    response_head: Seconds = 30.0
    """From the request's last byte to the response's head; also while the worker takes nothing of the body."""
    response_idle: Seconds = 30.0
    """The longest silence in a response's body, and the longest wait for a client that takes nothing of it."""
    total: Seconds = 0.0
    """From a request's head to the end of its response, whatever it waits for; 0 means no limit. Workers are told what
    is left in `X-Request-Timeout-Ms`, and a client at an address of `proxy.trusted` may ask for less in that field."""
    upstream_idle: Seconds = 4.0
    """How long an idle connection to a worker stays open. It has to be less than the worker's own patience (5 s with
    Node.js), or a request may be sent on a connection that the worker is just closing."""
    tunnel_idle: Seconds = 300.0
    """A tunnel (a WebSocket) in which nothing moves is closed after so long."""
    drain: Seconds = 5.0
    """How long a tunnel goes on when its worker is to be stopped or the lab ends; and how long one side may be silent
    after the other has said everything."""


class Limits(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that one request may be, and the most that all of them together may be."""

    request_line: Some = 8 * 1024
    head: Some = 64 * 1024
    fields: Some = 100
    body: Count = 1024 * 1024 * 1024
    cgi_buffer: Count = 1024 * 1024
    """Of a body in chunks that is collected for CGI and FastCGI, which must be told its length first."""
    connections: Count = 0
    """Clients that are connected at a time. Beyond, the one that is idle for longest has to go, or else the new one is
    answered with 503. This and the next two are off at 0."""
    requests: Count = 0
    """Requests to apps in flight at a time; further ones are answered with 503 at once."""
    pending: Count = 0
    """Requests that wait for a place in all queues together; further ones are answered with 503 at once."""


class ClientTimeouts(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The proxy's patience with clients of whom it does not know yet what they want."""

    request_head: Seconds = 10.0
    """From the first byte of a head to its last."""
    idle: Seconds = 60.0
    """How long a connection stays open without a request."""
    drain: Seconds = 5.0
    """When the lab closes: how long requests in flight may take before they are broken off."""


class Explain(StrEnum):
    """Which answers say what happened: X-Request-Id, Proxy-Status (RFC 9209) and Server-Timing."""

    OFF = "off"
    PROBLEMS = "problems"
    """Those that the gateway makes itself, because something went wrong."""
    ALL = "all"
    """Every one; workers are told the X-Request-Id, too."""


class AccessLogForm(StrEnum):
    """What a line of the access log looks like."""

    OFF = "off"
    COMBINED = "combined"
    """As Apache and nginx write it, for every log reader."""
    JSON = "json"
    """With the identity of the request, where its time went, and who answered."""


class ProxySettings(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the proxy treats all clients and all apps: `proxy` in the manifest, `cgilab set proxy KEY=VALUE`."""

    limits: Limits = Limits()
    timeouts: ClientTimeouts = ClientTimeouts()
    trusted: tuple[Network, ...] = ()
    """Proxies in front of this one: what they say in X-Forwarded-For and Forwarded about their clients is believed and
    passed on. Of everybody else it is dropped, for anybody can write it."""
    explain: Explain = Explain.PROBLEMS
    observe_from: tuple[Network, ...] = ()
    """Networks whose clients may see `/pool-status` and the pages below `/-/`, beside this machine."""
    slow: Seconds = 1.0
    """A request that takes so long is told in an event, and its trace is kept; 0 means never."""
    access_log: AccessLogForm = AccessLogForm.OFF
    access_log_file: str = ""
    """Empty means `access.log` among the lab's logs; a relative path is one of them, too."""
    access_log_sample: Some = 1
    """Of so many requests one is written."""
    access_log_size: Some = 16 * 1024 * 1024
    """A file that is so long is followed by another; four old ones are kept."""
    trace_sample: Count = 0
    """Of so many requests the trace of one is kept, whatever becomes of it: 1 keeps all, 0 none. Those of slow, failed,
    shed and retried ones always are."""


Rate = Annotated[float, Meta(ge=0, le=1e6)]
Burst = Annotated[int, Meta(ge=1, le=10**6)]


class RateLimit(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests a second that an app takes; the others are answered with 429 and told when to come again."""

    rate: Rate = 0.0
    """From all clients together; 0 means any."""
    burst: Burst = 10
    """So many may come at once after a pause: the size of the token bucket."""
    per_client_rate: Rate = 0.0
    """From one client: an IPv4 address, or the /64 of an IPv6 one; 0 means any."""
    per_client_burst: Burst = 10


class Shedding(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give up early on what waits too long: a queue that never empties only makes everybody late. The controlled delay
    of "Fail at Scale" (Maurer, ACM Queue 13/8, 2015), which is CoDel (RFC 8289) cut to requests."""

    target: Seconds = 0.0
    """The longest wait for a place once the queue has not been empty for an interval, such as 0.005; 0 means off."""
    interval: Seconds = 0.1
    """The longest wait until then: long enough for a burst to pass."""


class ResourceLimits(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one worker may take of the machine (setrlimit(2), nice(2)). 0 means: no limit but the machine's own."""

    address_space: Count = 0
    """Bytes of virtual memory (RLIMIT_AS): a further malloc fails."""
    files: Count = 0
    """Open files (RLIMIT_NOFILE)."""
    cpu_time: Count = 0
    """Seconds of CPU (RLIMIT_CPU): SIGXCPU, then SIGKILL one second later."""
    nice: Niceness = 0
    """How readily it lets others go first."""


class CgiLimits(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one CGI process may do before it is stopped."""

    time: Seconds = 30.0
    """From its start to the end of its answer."""
    header: Some = 64 * 1024
    """Bytes before the empty line."""
    output: Some = 1024 * 1024 * 1024
    """Bytes of its answer's body."""


class PhpSettings(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PHP's own settings for one app."""

    ini: dict[str, str] = {}
    """Any php.ini value, such as `memory_limit` or `max_execution_time`."""
    version: Version = ""
    """Which PHP to use where several are installed side by side, such as `8.2`; empty means the machine's default."""


class SiteSpec(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document root: files are served by the proxy, scripts are run by the workers. For FastCGI and CGI apps."""

    root: str
    """The folder. Absolute after the manifest was read; there it is relative to the manifest."""
    allow: tuple[str, ...] = ()
    """Further folders that symbolic links below the root may lead to, written as `root` is."""
    index: tuple[str, ...] = ("index.php", "index.html")
    """Tried in this order when a folder is asked for."""
    front_controller: str = ""
    """Script that gets every path that is neither a file nor a script, such as `index.php`; empty means 404."""
    scripts: tuple[str, ...] = (".php",)
    """Suffixes of files that are run and never shown."""
    deny: tuple[str, ...] = ()
    """Path prefixes below the route that get 403, such as `/data`. Names with a leading dot always do."""


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


class ScalingSpec(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class HealthCheck(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The proxy's own question to each worker: it decides where requests go, and knows no process. (The pool's liveness
    probe is another one: it decides which process is replaced.) A worker without a free place is not asked."""

    interval: Seconds = 0.0
    """Between two questions to one worker; 0 means: do not ask."""
    path: Annotated[
        str,
        Meta(pattern=r'^(/[!"$-~]*)?(?!\n)$', description="A path that begins with /, or nothing: the app's health."),
    ] = ""
    """What is asked for; empty means the app's `health`. A FastCGI worker is asked by FCGI_GET_VALUES instead."""
    timeout: Seconds = 1.0
    rise: Some = 2
    """Right answers in a row until requests are sent again. The first answer of all counts at once."""
    fall: Some = 3
    """Wrong ones in a row until no more are sent. The first answer of all counts at once."""


class OutlierSpec(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ejection: a worker that fails requests, or clearly more of them than the others, is sent none for a while, as
    Envoy's outlier detection does. Failures are connections refused or broken off, timeouts, and answers that cannot be
    passed on."""

    consecutive_errors: Count = 0
    """So many failures in a row eject a worker; 0 means never."""
    server_errors: bool = False
    """A worker's own answers of 500 and above count as failures, too."""
    success_rate_factor: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """Eject who succeeds less often than the mean minus so many standard deviations, such as 1.9; 0 means never."""
    interval: Annotated[float, Meta(ge=0.1, le=3600)] = 10.0
    """Between two comparisons of success rates."""
    min_hosts: Some = 5
    """Success rates are compared when so many workers ..."""
    min_requests: Some = 100
    """... were sent so many requests each within the interval."""
    base_ejection: Seconds = 30.0
    """How long the first ejection lasts. The second lasts twice as long, the third three times; each interval in which
    a worker was not ejected takes one back."""
    max_ejection: Seconds = 300.0
    max_ejected_percent: Percent = 50.0
    """Of an app's workers, no more are ejected at once."""


class BreakerSpec(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Circuit breaker: an app that fails is left alone for a while, and its clients are told at once instead of being
    kept waiting. Then one request goes through as a probe, and what becomes of it decides."""

    failures: Count = 0
    """So many failures within `window` open it; 0 means: do not count."""
    failure_rate: Percent = 0.0
    """So many percent of at least `min_requests` requests within `window` open it; 0 means: do not compare."""
    min_requests: Some = 20
    server_errors: bool = False
    """A worker's own answers of 500 and above count as failures, too."""
    window: Annotated[float, Meta(ge=0.1, le=3600)] = 10.0
    open_for: Annotated[float, Meta(ge=0.1, le=3600)] = 5.0
    """How long everybody is answered with 503 before the probe."""
    max_requests: Count = 0
    """The most requests that workers may have at once; a further one is answered with 503. 0 means no limit."""
    max_connections: Count = 0
    """The most connections to workers, idle ones included; a request that would need another is answered with 503.
    0 means no limit. (How many may wait is `queue_length`.)"""


RetryCondition = Annotated[
    str,
    Meta(pattern=r"^(connect|reset|timeout|[45][0-9][0-9])(?!\n)$", description="connect, reset, timeout or a status."),
]


class RetrySpec(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which requests are tried again, at another worker where there is one. What was sent is sent again only if its
    method is idempotent (RFC 9110 9.2.2) and all of its body is still held: up to 64 KiB."""

    on: tuple[RetryCondition, ...] = ("connect",)
    """`connect`: no connection could be made, so nothing was sent. `reset`: the worker hung up without an answer.
    `timeout`: no answer came within `timeouts.response_head`. A status such as 502 or 503: the worker answered so."""
    attempts: Annotated[int, Meta(ge=1, le=10)] = 3
    """How often one request is sent at most, the first time included. Connections that fail send nothing, so they count
    only against the budget."""
    budget_percent: Percent = 20.0
    """Within ten seconds, no more than so many percent of the requests are tried again ..."""
    budget_per_second: Annotated[float, Meta(ge=0, le=10**6)] = 10.0
    """... and so many a second besides, so that an app with few requests has retries, too. Without a bound, retries
    multiply the load exactly when workers fail because of it."""


class HashSpec(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the policy `consistent_hash` goes by."""

    key: Annotated[
        str,
        Meta(
            pattern=r"^(client|path|(header|cookie):[!#$%&'*+.^_`|~0-9A-Za-z-]+)(?!\n)$",
            description="One of client, path, header:NAME, cookie:NAME.",
        ),
    ] = "client"
    """Requests with the same one go to the same worker: `client` (the address), `path`, `header:NAME` or `cookie:NAME`;
    who lacks the header or cookie is told apart by the address."""
    factor: Annotated[float, Meta(ge=1.01, le=100)] = 1.25
    """No worker gets more than so many times the average of requests in flight."""


class AppSpec(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One app: a program, how many of it, and where its requests come from."""

    name: Name
    route: Route
    """Path prefix: `/api/search` takes `/api/search` and everything below `/api/search/`."""
    language: str
    """A name from languages.json."""
    source: str
    """The program's source file. Absolute after the manifest was read; there it is relative to the manifest."""
    protocol: Contract | None = None
    """None means what its language prefers."""
    health: Target = "/health"
    """Path that answers 2xx when the worker is well."""
    env: dict[str, str] = {}
    concurrency: Some = 1
    """The most requests open to one worker at a time, probes included."""
    queue: Queue = Queue.UPSTREAM
    queue_length: Count = 512
    request_buffer: Count = 64 * 1024
    """Bytes of a request's body that are collected before a worker is chosen, so that a client that sends slowly holds
    none; 0 means that each byte goes to the worker as it comes. Who asks first (`Expect: 100-continue`) is not waited
    for: the worker says whether it wants the body. nginx does the same without a bound (`proxy_request_buffering`)."""
    upgrades: tuple[Protocol, ...] = ("websocket",)
    """Protocols that a client and a worker may switch to, if both ask for it: the connection becomes a tunnel, and its
    worker's place is taken until it ends. Empty means none."""
    rate_limit: RateLimit = RateLimit()
    shedding: Shedding = Shedding()
    selection: Selection = "round_robin"
    weights: tuple[Share, ...] = ()
    """By slot, for policies that heed them: a worker with 3 is worth three with 1; slots beyond have 1."""
    slow_start: Seconds = 0.0
    """The weight of a worker that is new, or well again, grows from a tenth to all of it over so long; 0 means that it
    begins with all."""
    hash: HashSpec = HashSpec()
    pool: PoolSettings = PoolSettings()
    liveness: Liveness = Liveness()
    timeouts: Timeouts = Timeouts()
    slow_request: Seconds = 0.0
    """A request that takes longer is told in an event with what the worker was doing; 0 means never."""
    health_check: HealthCheck = HealthCheck()
    outliers: OutlierSpec = OutlierSpec()
    panic_percent: Percent = 0.0
    """When fewer of the workers than this are well and not ejected, requests are sent to all of them again: those that
    are left could not bear the load of the others. 0 means: only when none is left."""
    breaker: BreakerSpec = BreakerSpec()
    retries: RetrySpec = RetrySpec()
    resources: ResourceLimits = ResourceLimits()
    scaling: ScalingSpec | None = None
    needs: tuple[Name, ...] = ()
    """Processes beside the pool that have to be healthy before its first worker starts."""
    site: SiteSpec | None = None
    php: PhpSettings = PhpSettings()
    cgi: CgiLimits = CgiLimits()


class RouteSpec(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which requests go to which apps, and how they are told there.

    Of all routes that take a request the one with the highest priority gets it; among equals the longest path, then
    the most conditions (host, methods, each field), then a host without `*`. An app's own `route` is the short form:
    a route called like its app, with this path, no condition and priority 0, that leads to this app alone.
    """

    name: Name
    apps: Annotated[dict[Name, Weight], Meta(min_length=1)]
    """Apps that it leads to, with their weights: `{"search": 90, "search-next": 10}` gives each tenth request to the
    second. Shares are exact; an app that is unavailable or has no endpoint gets none while another one has."""
    path: Route = "/"
    """A prefix, as an app's route is one. It is compared with the path as it was sent, percent-encoding and all."""
    host: HostPattern = ""
    """What clients call the lab, whatever the port: `*.example.org` is every name below example.org, at any depth."""
    methods: tuple[Method, ...] = ()
    """Exactly these; none given means all. HEAD has to be named beside GET."""
    headers: dict[str, str] = {}
    """Fields that a request has to have, each with this value; `*` means any value."""
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    strip_prefix: bool = False
    """Workers that speak HTTP get the path without `path`. FastCGI and CGI programs are told it as always, as
    SCRIPT_NAME. Location fields of answers are not changed."""
    rewrite: Rewritten = ""
    """What stands in place of `path` when the request goes on, as though the client had asked for that."""


class Restart(StrEnum):
    """Whether a process beside the pool is started again when it ends."""

    NEVER = "never"
    ON_FAILURE = "on_failure"
    """When it ended by a signal or an exit code other than 0."""
    ALWAYS = "always"


class HealthMethod(StrEnum):
    """How a process beside the pool is known to be well."""

    PROCESS = "process"
    """It runs."""
    TCP = "tcp"
    """A connection to `address` (host:port) is accepted."""
    HTTP = "http"
    """A GET of `url` answers 2xx."""
    COMMAND = "command"
    """`command` ends with exit code 0."""
    FILE = "file"
    """The file `path` exists."""


class ServiceHealth(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a process beside the pool is asked how it is."""

    method: HealthMethod = HealthMethod.PROCESS
    address: str = ""
    url: str = ""
    command: tuple[str, ...] = ()
    path: str = ""
    interval: Annotated[float, Meta(ge=0.01, le=3600)] = 0.5
    timeout: Annotated[float, Meta(ge=0.01, le=3600)] = 2.0
    start_timeout: Seconds = 30.0
    """It has to be healthy this long after its start, or it counts as failed."""
    fall: Some = 3
    """Failed checks in a row until it is unhealthy and, as `restart` says, started again."""


class ServiceSpec(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A process beside the pool that apps, or other processes, need: `processes` in the manifest."""

    name: Name
    command: Annotated[tuple[str, ...], Meta(min_length=1)]
    env: dict[str, str] = {}
    folder: str = ""
    """Its working directory. Absolute after the manifest was read; there it is relative to the manifest."""
    needs: tuple[Name, ...] = ()
    """Others that have to be healthy before it starts, and that outlive it."""
    health: ServiceHealth = ServiceHealth()
    restart: Restart = Restart.ON_FAILURE
    stop_signal: str = "SIGTERM"
    stop_timeout: Seconds = 5.0


class Tls(StrEnum):
    """Whether clients speak TLS to the proxy, and how it proves who it is."""

    OFF = "off"
    SELF_SIGNED = "self_signed"
    """A certificate for this machine's own names, made here and kept for later labs. Nobody vouches for it, so clients
    are told to trust it: `curl --cacert`; `cgilab status` says which file."""
    FILES = "files"
    """`certificate` and `key`."""


class ListenerSpec(_Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the proxy listens, and what is spoken there. A running lab keeps all of it."""

    host: Host = "127.0.0.1"
    port: Port = 8080
    """0 asks the kernel for a free one."""
    tls: Tls = Tls.OFF
    """TLS 1.2 or 1.3; the listener's URL begins with https then."""
    certificate: str = ""
    """A PEM file, with the chain if there is one. Absolute after the manifest was read; there it is relative to it."""
    key: str = ""
    """A PEM file: the certificate's private key, without a password. Written as `certificate` is."""


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
    worker: WorkerId
    """For `cgi`, which has no workers, slot 0 of generation 0."""
    host: str = ""
    port: int = 0
    path: str = ""
    """A Unix socket; then `host` and `port` are empty."""
    pid: int | None = None
    concurrency: int = 1
    wire: Wire = Wire.HTTP
    shared: bool = False
    """Others have the same address and the kernel chooses among them: its figures say nothing about its worker."""

    @property
    def address(self) -> str | tuple[str, int]:
        """What a connection is made to."""
        return self.path or (self.host, self.port)

    def __str__(self) -> str:
        if self.wire is Wire.CGI:
            return "cgi"
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"
