"""An app: a program, how many of it, and what becomes of its requests."""

import msgspec

from lab.core.model.forms import Count, Name, Percent, Protocol, Route, Seconds, Share, Some, Spec, Target
from lab.core.model.pool import Contract, Liveness, PoolSettings, ResourceLimits, ScalingSpec
from lab.core.model.program import CgiLimits, PhpSettings, SiteSpec
from lab.core.model.traffic import (
    BreakerSpec,
    HashSpec,
    HealthCheck,
    OutlierSpec,
    Queue,
    RateLimit,
    RetrySpec,
    Selection,
    Shedding,
    Timeouts,
)


class AppSpec(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    env: dict[str, str] = msgspec.field(default_factory=dict)
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
