"""The nouns of the lab: apps, their settings, endpoints. Frozen values, checked where they enter.

Times are seconds, sizes are bytes, unless a name says otherwise. Each setting has its line of explanation where it is
declared; which of them do not go together stands in lab/core/rules.py.

    app.py        an app, with all that follows:
    pool.py         its workers: how many, how they are started, asked, stopped, limited and scaled
    traffic.py      its requests: queues, time limits, selection, health, ejection, breaker, retries
    program.py      what only some programs have: a document root, PHP's own settings, bounds for CGI
    proxy.py      the proxy itself: its listener, its routes, and what holds for all apps
    processes.py  processes beside the pool
    endpoint.py   what the pool tells the proxy of a worker
    forms.py      what names, paths and numbers may look like
"""

from lab.core.model.app import AppSpec
from lab.core.model.endpoint import Endpoint, Wire, WorkerId
from lab.core.model.forms import Count, Name, Seconds, Some
from lab.core.model.pool import Contract, Liveness, Metric, PoolSettings, ResourceLimits, ScalingSpec
from lab.core.model.processes import HealthMethod, Restart, ServiceHealth, ServiceSpec
from lab.core.model.program import CgiLimits, PhpSettings, SiteSpec
from lab.core.model.proxy import (
    OPERATORS,
    POOL_STATUS,
    PROXY,
    RESERVED,
    AccessLogForm,
    ClientTimeouts,
    Explain,
    Limits,
    ListenerSpec,
    ProxySettings,
    RouteSpec,
    Tls,
)
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
    is_file,
)

__all__ = [
    "OPERATORS",
    "POOL_STATUS",
    "PROXY",
    "RESERVED",
    "AccessLogForm",
    "AppSpec",
    "BreakerSpec",
    "CgiLimits",
    "ClientTimeouts",
    "Contract",
    "Count",
    "Endpoint",
    "Explain",
    "HashSpec",
    "HealthCheck",
    "HealthMethod",
    "Limits",
    "ListenerSpec",
    "Liveness",
    "Metric",
    "Name",
    "OutlierSpec",
    "PhpSettings",
    "PoolSettings",
    "ProxySettings",
    "Queue",
    "RateLimit",
    "ResourceLimits",
    "Restart",
    "RetrySpec",
    "RouteSpec",
    "ScalingSpec",
    "Seconds",
    "Selection",
    "ServiceHealth",
    "ServiceSpec",
    "Shedding",
    "SiteSpec",
    "Some",
    "Timeouts",
    "Tls",
    "Wire",
    "WorkerId",
    "is_file",
]
