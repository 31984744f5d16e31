"""Builds the snapshot: what the pool sees and what the proxy counted, joined worker by worker."""

from collections.abc import Callable

from lab.core.model import AppSpec, WorkerId
from lab.core.snapshot import AppSnapshot, Invariants, LabSnapshot, Totals, Traffic, WorkerSnapshot
from lab.core.states import WorkerState
from lab.engine.lab import LabSpec
from lab.pool.manager import AppView, PoolView, WorkerView
from lab.proxy.manager import EndpointView, ProxyView, UpstreamView

_COUNTED = frozenset({WorkerState.STARTING, WorkerState.READY, WorkerState.UNHEALTHY})


def build(
    spec: LabSpec,
    pool: PoolView,
    proxy: ProxyView,
    *,
    listener: str,
    started: float,
    now: float,
    read_only: bool,
    own_rate: float,
    routed: Callable[[WorkerId], bool],
    events_next: int,
) -> LabSnapshot:
    """The lab at monotonic time `now`."""
    upstreams = {upstream.app: upstream for upstream in proxy.upstreams}
    views = {app.name: app for app in pool.apps}
    return LabSnapshot(
        name=spec.name,
        listener=listener,
        uptime_s=now - started,
        at=now,
        read_only=read_only,
        apps=tuple(
            _app(app, views[app.name], upstreams.get(app.name), now, routed) for app in spec.apps if app.name in views
        ),
        totals=proxy.totals,
        own=Traffic(rate=own_rate, totals=proxy.own),
        invariants=Invariants(
            conserved=_conserved(proxy.totals) and _conserved(proxy.own),
            no_zombies=pool.zombies == 0,
            within_bounds=all(_within_bounds(app) for app in pool.apps),
        ),
        events_next=events_next,
    )


def _app(
    spec: AppSpec, view: AppView, upstream: UpstreamView | None, now: float, routed: Callable[[WorkerId], bool]
) -> AppSnapshot:
    traffic = {one.endpoint.worker: one for one in upstream.endpoints} if upstream else {}
    return AppSnapshot(
        name=spec.name,
        route=spec.route,
        language=spec.language,
        policy=spec.pool.policy,
        selection=spec.selection,
        concurrency=spec.concurrency,
        wanted=view.wanted,
        workers=tuple(_worker(worker, traffic.get(worker.worker), now, routed) for worker in view.workers),
        queue=upstream.queue if upstream else 0,
        rps=upstream.rps if upstream else 0.0,
        p50_ms=upstream.p50_ms if upstream else None,
        p95_ms=upstream.p95_ms if upstream else None,
        p99_ms=upstream.p99_ms if upstream else None,
        unavailable=view.unavailable,
        building=view.building,
    )


def _worker(
    view: WorkerView, traffic: EndpointView | None, now: float, routed: Callable[[WorkerId], bool]
) -> WorkerSnapshot:
    return WorkerSnapshot(
        slot=view.worker.slot,
        generation=view.worker.generation,
        pid=view.pid,
        state=view.state,
        stopped=view.stopped,
        endpoint=str(view.endpoint) if view.endpoint else None,
        routed=routed(view.worker),
        requests=traffic.answered if traffic else 0,
        in_flight=traffic.in_flight if traffic else 0,
        restarts=view.restarts,
        uptime_s=now - view.started_at if view.started_at is not None and view.pid is not None else None,
        cpu_percent=view.cpu_percent,
        rss_bytes=view.rss_bytes,
        rps=traffic.rps if traffic else 0.0,
        p50_ms=traffic.p50_ms if traffic else None,
        p99_ms=traffic.p99_ms if traffic else None,
        retry_in_s=max(0.0, view.retry_at - now) if view.retry_at is not None else None,
        why=view.why,
    )


def _conserved(totals: Totals) -> bool:
    ended = totals.answered + totals.failed + totals.shed + totals.abandoned
    return totals.accepted == ended + totals.in_flight


def _within_bounds(app: AppView) -> bool:
    """At most the wanted number of slots are filled, and at most one of them by two while it is replaced."""
    filled = [worker.worker.slot for worker in app.workers if worker.state in _COUNTED]
    slots = len(set(filled))
    return slots <= app.wanted and len(filled) - slots <= 1
