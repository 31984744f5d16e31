"""`/-/metrics`: everything that was counted, in the OpenMetrics text format, for Prometheus and its like.

RED (rate, errors, duration) per route, app and worker. Bounds of histograms are powers of two of microseconds, because
there the lab's own buckets end: so every count is exact, none is interpolated. Per worker there are half as many
bounds, and the whole duration alone, so that a page of a thousand workers stays readable. The lab's own requests are
included, except in `cgilab_requests`, so that the sums over workers, apps and routes agree.
"""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lab.core import openmetrics
from lab.core.histogram import Histogram
from lab.core.model import Endpoint
from lab.core.snapshot import Totals
from lab.pool.manager import PoolView
from lab.proxy.manager import AllFigures, Figures, ProxyView

if TYPE_CHECKING:
    from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric

_BOUNDS: Final = tuple(1 << power for power in range(8, 26))
"""Microseconds: 256 us to 33.6 s, each twice the one before."""
_COARSE: Final = _BOUNDS[::2]
_OUTCOMES: Final = ("answered", "failed", "shed", "abandoned")
_STAGES: Final = ("queue", "connect", "first_byte", "total")
_CLASSES: Final = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")

Places = Mapping[tuple[str, ...], Figures]
Rows = Mapping[tuple[str, ...], float]
"""By the values of labels."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What there is to tell, taken at one instant; telling it may take a while, and be done in a thread."""

    figures: AllFigures
    proxy: ProxyView
    pool: PoolView
    routed: Container[Endpoint]
    """Those in an upstream."""
    uptime: float
    """Seconds."""


def render(sight: Sight) -> bytes:
    """The page."""
    return openmetrics.page(_Families(sight))


class _Families:
    """A collector, as prometheus_client wants one."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight

    def collect(self) -> "Iterator[Metric]":
        sight, figures = self._sight, self._sight.figures
        yield _gauge("cgilab_uptime_seconds", "Since the lab began.", (), {(): sight.uptime})
        yield _gauge("cgilab_connections", "Open connections of clients.", (), {(): sight.proxy.connections})
        about = "Clients in the middle of a TLS handshake."
        yield _gauge("cgilab_tls_handshakes", about, (), {(): sight.proxy.handshakes})
        handshakes: Rows = {(cause,): count for cause, count in sight.proxy.handshakes_failed.items()}
        yield _counter("cgilab_tls_handshakes_failed", "TLS handshakes that came to nothing.", ("cause",), handshakes)
        shed: Rows = {(cause,): count for cause, count in sight.proxy.shed.items()}
        yield _counter("cgilab_shed", "Requests that a limit refused, the lab's own included.", ("cause",), shed)
        yield _counter("cgilab_access_log_lost_lines", "Lines that were not written.", (), {(): figures.unlogged})
        yield from _outcomes("cgilab", "everybody's requests", figures.outcomes)
        yield from _outcomes("cgilab_own", "the lab's own requests", figures.own)
        routes: Places = {(name,): one for name, one in figures.routes.items()}
        apps: Places = {(name,): one for name, one in figures.apps.items()}
        workers: Places = {
            (endpoint.app, str(endpoint.worker.slot), str(endpoint.worker.generation)): one
            for endpoint, one in figures.workers.items()
        }
        yield from _traffic("cgilab_route", ("route",), routes)
        yield from _traffic("cgilab_app", ("app",), apps)
        yield from _traffic("cgilab_worker", ("app", "slot", "generation"), workers)
        yield _stages("cgilab_route", ("route",), routes)
        yield _stages("cgilab_app", ("app",), apps)
        duration = _histogram("cgilab_worker_duration", ("app", "slot", "generation"))
        for labels, one in workers.items():
            _add(duration, labels, one.total, _COARSE)
        yield duration
        failed: Rows = {labels: one.failed for labels, one in workers.items()}
        about = "Requests that a worker left without an answer."
        yield _counter("cgilab_worker_failed", about, ("app", "slot", "generation"), failed)
        yield _tunnels("cgilab_route", "route", routes)
        yield _tunnels("cgilab_app", "app", apps)
        queues: Rows = {(one.app,): one.queue for one in sight.proxy.upstreams}
        yield _gauge("cgilab_app_queue_length", "Requests that wait for a place.", ("app",), queues)
        retries: Rows = {(one.app,): one.retries for one in sight.proxy.upstreams}
        yield _counter("cgilab_app_retries", "Further attempts for requests of an app.", ("app",), retries)
        opened: Rows = {(one.app,): one.breaker.opened for one in sight.proxy.upstreams if one.breaker is not None}
        yield _counter("cgilab_app_breaker_opened", "Times that the circuit breaker opened.", ("app",), opened)
        health = _health(sight)
        yield _gauge("cgilab_app_endpoints", "Endpoints by what the proxy thinks of them.", ("app", "health"), health)
        yield _gauge("cgilab_app_workers", "Workers by state.", ("app", "state"), _states(sight.pool))


def _outcomes(prefix: str, whose: str, totals: Totals) -> "Iterator[Metric]":
    ended: Rows = {(outcome,): getattr(totals, outcome) for outcome in _OUTCOMES}
    yield _counter(f"{prefix}_requests", f"How {whose} ended; each counts once.", ("outcome",), ended)
    yield _counter(f"{prefix}_accepted", f"All of {whose}.", (), {(): totals.accepted})
    yield _counter(f"{prefix}_retries", f"Further attempts for {whose}.", (), {(): totals.retries})
    yield _gauge(f"{prefix}_in_flight", f"Of {whose}, those that have not ended.", (), {(): totals.in_flight})
    yield _gauge(f"{prefix}_tunnels", f"Of {whose}, those that are open tunnels.", (), {(): totals.tunnels})
    carried: Rows = {(): totals.tunnel_bytes}
    yield _counter(f"{prefix}_tunnel_bytes", "Carried by tunnels, both ways together.", (), carried)


def _traffic(prefix: str, labels: tuple[str, ...], places: Places) -> "Iterator[Metric]":
    """Rate and errors, bytes, and what is under way."""
    statuses = {
        (*values, status): count
        for values, one in places.items()
        for status, count in zip(_CLASSES, one.classes, strict=True)
        if count
    }
    about = "Requests by the class of their status; none: the answer broke off before it began."
    yield _counter(f"{prefix}_requests", about, (*labels, "status"), statuses)
    received = {values: one.received for values, one in places.items()}
    yield _counter(f"{prefix}_received_bytes", "Bodies of requests.", labels, received)
    sent = {values: one.sent for values, one in places.items()}
    yield _counter(f"{prefix}_sent_bytes", "Bodies of answers.", labels, sent)
    in_flight = {values: one.in_flight for values, one in places.items()}
    yield _gauge(f"{prefix}_in_flight", "Requests that have not ended.", labels, in_flight)


def _tunnels(prefix: str, label: str, places: Places) -> "Metric":
    ended = {(*values, cause): count for values, one in places.items() for cause, count in one.tunnels_ended.items()}
    return _counter(f"{prefix}_tunnels_ended", "Tunnels that are over, by how they ended.", (label, "cause"), ended)


def _stages(prefix: str, labels: tuple[str, ...], places: Places) -> "HistogramMetricFamily":
    family = _histogram(f"{prefix}_duration", (*labels, "stage"))
    for values, one in places.items():
        for stage in _STAGES:
            _add(family, (*values, stage), getattr(one, stage), _BOUNDS)
    return family


def _histogram(name: str, labels: tuple[str, ...]) -> "HistogramMetricFamily":
    from prometheus_client.metrics_core import HistogramMetricFamily

    about = "Seconds until a place was free, until a connection was there, to the first byte, and in all."
    return HistogramMetricFamily(f"{name}_seconds", about if "stage" in labels else "Seconds in all.", labels=labels)


def _add(family: "HistogramMetricFamily", labels: Iterable[str], durations: Histogram, bounds: Sequence[int]) -> None:
    """One row of a histogram, with cumulative counts."""
    counts = zip((f"{bound / 1e6:.9g}" for bound in bounds), durations.below(*bounds), strict=True)
    family.add_metric(tuple(labels), [*counts, ("+Inf", durations.total)], durations.sum)


def _counter(name: str, about: str, labels: tuple[str, ...], values: Rows) -> "CounterMetricFamily":
    from prometheus_client.metrics_core import CounterMetricFamily

    family = CounterMetricFamily(name, about, labels=labels)
    for row, value in values.items():
        family.add_metric(row, value)
    return family


def _gauge(name: str, about: str, labels: tuple[str, ...], values: Rows) -> "Metric":
    from prometheus_client.metrics_core import GaugeMetricFamily

    family = GaugeMetricFamily(name, about, labels=labels)
    for row, value in values.items():
        family.add_metric(row, value)
    return family


def _health(sight: Sight) -> Rows:
    found: Counter[tuple[str, ...]] = Counter()
    for upstream in sight.proxy.upstreams:
        found.update((upstream.app, one.health.value) for one in upstream.endpoints if one.endpoint in sight.routed)
    return found


def _states(pool: PoolView) -> Rows:
    found: Counter[tuple[str, ...]] = Counter()
    for app in pool.apps:
        found.update((app.name, worker.state.value) for worker in app.workers)
    return found
