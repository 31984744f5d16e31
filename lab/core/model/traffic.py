"""An app's requests: where they wait, how long for what, who is chosen, who is left out, and what is tried again."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from lab.core.model.forms import Burst, Count, Percent, Rate, Seconds, Some, Spec


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


def is_file(selection: Selection) -> bool:
    """Whether it names a file of one's own, and not a policy of the lab."""
    return selection.endswith(".py")


class Timeouts(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class RateLimit(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests a second that an app takes; the others are answered with 429 and told when to come again."""

    rate: Rate = 0.0
    """From all clients together; 0 means any."""
    burst: Burst = 10
    """So many may come at once after a pause: the size of the token bucket."""
    per_client_rate: Rate = 0.0
    """From one client: an IPv4 address, or the /64 of an IPv6 one; 0 means any."""
    per_client_burst: Burst = 10


class Shedding(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give up early on what waits too long: a queue that never empties only makes everybody late. The controlled delay
    of "Fail at Scale" (Maurer, ACM Queue 13/8, 2015), which is CoDel (RFC 8289) cut to requests."""

    target: Seconds = 0.0
    """The longest wait for a place once the queue has not been empty for an interval, such as 0.005; 0 means off."""
    interval: Seconds = 0.1
    """The longest wait until then: long enough for a burst to pass."""


class HealthCheck(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class OutlierSpec(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class BreakerSpec(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class RetrySpec(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class HashSpec(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
