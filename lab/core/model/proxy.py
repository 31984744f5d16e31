"""The proxy as a whole: where it listens, which requests go to which apps, and what holds for all of them."""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from lab.core.model.forms import (
    Count,
    Host,
    HostPattern,
    Method,
    Name,
    Network,
    Port,
    Rewritten,
    Route,
    Seconds,
    Some,
    Spec,
    Weight,
)

PROXY = "proxy"
"""What `set` calls the proxy itself; no app can have this name."""
POOL_STATUS = "/pool-status"
"""The gateway answers this route itself; no app can have it."""
OPERATORS = "/-"
"""So does it everything below this."""
RESERVED = (POOL_STATUS, OPERATORS)


class Tls(StrEnum):
    """Whether clients speak TLS to the proxy, and how it proves who it is."""

    OFF = "off"
    SELF_SIGNED = "self_signed"
    """A certificate for this machine's own names, made here and kept for later labs. Nobody vouches for it, so clients
    are told to trust it: `curl --cacert`; `cgilab status` says which file."""
    FILES = "files"
    """`certificate` and `key`."""


class ListenerSpec(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class RouteSpec(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    """Fields that a request has to have, each with this value; `*` means any value."""
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    strip_prefix: bool = False
    """Workers that speak HTTP get the path without `path`. FastCGI and CGI programs are told it as always, as
    SCRIPT_NAME. Location fields of answers are not changed."""
    rewrite: Rewritten = ""
    """What stands in place of `path` when the request goes on, as though the client had asked for that."""


class Limits(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that one request may be, and the most that all of them together may be."""

    request_line: Some = 8 * 1024
    head: Some = 64 * 1024
    fields: Some = 100
    body: Count = 1024 * 1024 * 1024
    cgi_buffer: Count = 1024 * 1024
    """Of a body in chunks that is collected for CGI and FastCGI, which must be told its length first."""
    connections: Count = 0
    """Clients that are connected at a time. Beyond, the one that is idle for longest has to go, or else the new one is
    answered with 503. Of clients in the middle of a TLS handshake, who are counted too, the one that has been at it for
    longest has to go. This and the next two are off at 0."""
    requests: Count = 0
    """Requests to apps in flight at a time; further ones are answered with 503 at once."""
    pending: Count = 0
    """Requests that wait for a place in all queues together; further ones are answered with 503 at once."""


class ClientTimeouts(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The proxy's patience with clients of whom it does not know yet what they want."""

    request_head: Seconds = 10.0
    """From the first byte of a head to its last; with TLS, also for the whole handshake."""
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


class ProxySettings(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    """Empty means `access.log` among the lab's logs; a relative path is one of them, too. Once that is moved away,
    a new one is begun."""
    access_log_sample: Some = 1
    """Of so many requests one is written."""
    access_log_size: Some = 16 * 1024 * 1024
    """A file that is so long is followed by another; four old ones are kept."""
    trace_sample: Count = 0
    """Of so many requests the trace of one is kept, whatever becomes of it: 1 keeps all, 0 none. Those of slow, failed,
    shed and retried ones always are."""
