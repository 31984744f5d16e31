"""A pool's status page in the words of PHP-FPM (`fpm_status.c`), so that what one learns here holds there.

A pure function of figures that the engine collects from pool and proxy. A figure that this lab does not measure is left
out, never made up. What PHP-FPM measures for the last request of a process (`last request cpu`, `last request memory`)
is that of the process when it was last looked at, which is at most some seconds ago: the lab sees workers from outside.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from lab.core import openmetrics
from lab.core.states import LIVE, WorkerState

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

FIGURES = tuple[tuple[str, str | int | float], ...]
"""A page as names and values, in PHP-FPM's order."""


class RequestStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The request that a worker serves, or the last one that it served."""

    duration_s: float
    method: str
    uri: str
    length: int
    """Bytes of its body."""


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One worker."""

    pid: int
    state: WorkerState
    started_wall: float
    """Seconds since 1970-01-01 UTC."""
    since_s: float
    requests: int | None
    """None where workers share one socket and only the kernel knows who serves what; so is `in_flight`."""
    in_flight: int | None
    request: RequestStatus | None = None
    cpu_percent: float | None = None
    rss_bytes: int | None = None


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One pool, with those of its workers that have a process."""

    pool: str
    policy: str
    started_wall: float
    since_s: float
    accepted: int
    """Requests accepted for this pool."""
    queue: int
    max_queue: int
    queue_length: int
    """The most requests that may wait."""
    max_active: int
    """The most workers that were active at once."""
    max_children_reached: int
    slow_requests: int
    processes: tuple[ProcessStatus, ...]


def render(status: PoolStatus, *, as_json: bool = False, full: bool = False) -> str:
    """The page. `full` adds each process, in text as blocks after lines of asterisks, in JSON as a list `processes`."""
    page = _pool(status)
    blocks = [_process(one) for one in status.processes] if full else []
    if as_json:
        return json.dumps(dict(page) | ({"processes": [dict(block) for block in blocks]} if full else {}))
    rule = "\n" + "*" * 24 + "\n"
    return rule.join([_text(page), *map(_text, blocks)])


def metrics(pools: Sequence[PoolStatus]) -> bytes:
    """All pools in the OpenMetrics text format, under the names of PHP-FPM's own page, each with a label `pool`."""
    return openmetrics.page(_Families(pools))


class _Families:
    """A collector, as prometheus_client wants one."""

    def __init__(self, pools: Sequence[PoolStatus]) -> None:
        self._pages = [(pool.pool, dict(_pool(pool))) for pool in pools]

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        for name, (metric, counts, about) in _METRICS.items():
            kind = CounterMetricFamily if counts else GaugeMetricFamily
            family = kind(f"phpfpm_{metric}", about, labels=("pool",))
            for pool, page in self._pages:
                family.add_metric((pool,), float(page[name]))
            yield family


_METRICS = {
    "start since": ("start_since_seconds", False, "Seconds since the lab began."),
    "accepted conn": ("accepted_connections", True, "Requests accepted for this pool."),
    "listen queue": ("listen_queue", False, "Requests that wait in the proxy."),
    "max listen queue": ("max_listen_queue", False, "The most requests that have waited at once."),
    "listen queue len": ("listen_queue_length", False, "The most requests that may wait."),
    "idle processes": ("idle_processes", False, "Workers that are ready and have no request."),
    "active processes": ("active_processes", False, "Workers that have one, or are starting or stopping."),
    "total processes": ("total_processes", False, "Workers that have a process."),
    "max active processes": ("max_active_processes", False, "The most workers that were active at once."),
    "max children reached": ("max_children_reached", True, "Times that the pool reached its most workers."),
    "slow requests": ("slow_requests", True, "Requests that took longer than slow_request."),
}
"""Name on the page to name of the metric (whether it only grows), and what it tells."""


def _pool(status: PoolStatus) -> FIGURES:
    live = [one for one in status.processes if one.state in LIVE]
    idle = sum(one.state is WorkerState.READY and not one.in_flight for one in live)
    return (
        ("pool", status.pool),
        ("process manager", status.policy),
        ("start time", _date(status.started_wall)),
        ("start since", int(status.since_s)),
        ("accepted conn", status.accepted),
        ("listen queue", status.queue),
        ("max listen queue", status.max_queue),
        ("listen queue len", status.queue_length),
        ("idle processes", idle),
        ("active processes", len(live) - idle),
        ("total processes", len(live)),
        ("max active processes", status.max_active),
        ("max children reached", status.max_children_reached),
        ("slow requests", status.slow_requests),
    )


def _process(one: ProcessStatus) -> FIGURES:
    state = "Running" if one.in_flight else "Idle" if one.state is WorkerState.READY else one.state.capitalize()
    asked = one.request
    measured = (
        ("requests", one.requests),
        ("request duration", round(asked.duration_s * 1_000_000) if asked else None),
        ("request method", asked.method if asked else None),
        ("request uri", asked.uri if asked else None),
        ("content length", asked.length if asked else None),
        ("last request cpu", round(one.cpu_percent, 2) if one.cpu_percent is not None else None),
        ("last request memory", one.rss_bytes),
    )
    return (
        ("pid", one.pid),
        ("state", state),
        ("start time", _date(one.started_wall)),
        ("start since", int(one.since_s)),
        *((name, value) for name, value in measured if value is not None),
    )


def _text(figures: FIGURES) -> str:
    return "".join(f"{name + ':':<22}{value}\n" for name, value in figures)


def _date(wall: float) -> str:
    """As PHP-FPM writes it: `14/Nov/2023:22:13:20 +0000`."""
    return datetime.fromtimestamp(wall, UTC).strftime("%d/%b/%Y:%H:%M:%S %z")
