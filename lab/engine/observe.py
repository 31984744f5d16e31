"""Builds the snapshot: what the pool sees and what the proxy counted, joined worker by worker."""

from collections.abc import Callable, Mapping

from lab.core.model import AppSpec, Endpoint, Limits, PoolSettings, ScalingSpec, WorkerId
from lab.core.snapshot import (
    AppSnapshot,
    Invariants,
    LabSnapshot,
    ProxySnapshot,
    ScalingSnapshot,
    ServiceSnapshot,
    Traffic,
    WorkerSnapshot,
)
from lab.core.states import Policy
from lab.engine.lab import LabSpec
from lab.pool.manager import AppView, PoolView, WorkerView
from lab.proxy.manager import EndpointView, ProxyView, UpstreamView


def build(
    spec: LabSpec,
    pool: PoolView,
    proxy: ProxyView,
    *,
    processes: tuple[ServiceSnapshot, ...],
    waits_for: Callable[[AppSpec], tuple[str, ...]],
    listener: str,
    started: float,
    now: float,
    read_only: bool,
    own_rate: float,
    routed: Callable[[WorkerId], bool],
    slow: Mapping[str, int],
    invariants: Invariants,
    events_next: int,
) -> LabSnapshot:
    """The lab at monotonic time `now`. `slow` counts each app's slow requests."""
    upstreams = {app.name: UpstreamView(app=app.name) for app in spec.apps}
    upstreams |= {upstream.app: upstream for upstream in proxy.upstreams}
    views = {app.name: app for app in pool.apps}
    return LabSnapshot(
        name=spec.name,
        listener=listener,
        certificate=proxy.certificate,
        uptime_s=now - started,
        at=now,
        read_only=read_only,
        apps=tuple(
            _app(app, views[app.name], upstreams[app.name], waits_for(app), slow.get(app.name, 0), now, routed)
            for app in spec.apps
            if app.name in views
        ),
        processes=processes,
        routes=proxy.routes,
        totals=proxy.totals,
        own=Traffic(rate=own_rate, totals=proxy.own),
        proxy=_proxy(spec.proxy.limits, proxy),
        invariants=invariants,
        events_next=events_next,
    )


def _proxy(limits: Limits, view: ProxyView) -> ProxySnapshot:
    return ProxySnapshot(
        connections=view.connections,
        handshakes=view.handshakes,
        handshakes_failed=view.handshakes_failed,
        max_connections=limits.connections,
        requests=view.totals.in_flight + view.own.in_flight,
        max_requests=limits.requests,
        pending=view.pending,
        max_pending=limits.pending,
        shed=view.shed,
    )


def _app(
    spec: AppSpec,
    view: AppView,
    upstream: UpstreamView,
    waits_for: tuple[str, ...],
    slow: int,
    now: float,
    routed: Callable[[WorkerId], bool],
) -> AppSnapshot:
    traffic = {one.endpoint.worker: one for one in upstream.endpoints}
    return AppSnapshot(
        name=spec.name,
        route=spec.route,
        language=spec.language,
        policy=spec.pool.policy,
        protocol=view.protocol,
        selection=spec.selection,
        concurrency=spec.concurrency,
        wanted=view.wanted,
        workers=tuple(
            _worker(worker, traffic.get(worker.worker) or _no_traffic(worker), now, routed) for worker in view.workers
        ),
        queue=upstream.queue,
        rps=upstream.rps,
        p50_ms=upstream.p50_ms,
        p95_ms=upstream.p95_ms,
        p99_ms=upstream.p99_ms,
        min_workers=_fewest(spec.pool),
        max_workers=spec.pool.max_workers,
        scaling=_scaling(spec.scaling),
        breaker=upstream.breaker,
        retries=upstream.retries,
        retries_left=upstream.retries_left,
        panic=upstream.panic,
        max_reached=view.max_reached,
        slow_requests=slow,
        tunnels=sum(endpoint.tunnels for endpoint in traffic.values()),
        shed=upstream.shed,
        waits_for=waits_for,
        unavailable=view.unavailable,
        building=view.building,
        changing=view.changing,
    )


def _fewest(pool: PoolSettings) -> int:
    return {Policy.STATIC: pool.max_workers, Policy.DYNAMIC: pool.min_workers, Policy.ONDEMAND: 0}[pool.policy]


def _scaling(spec: ScalingSpec | None) -> ScalingSnapshot | None:
    if spec is None:
        return None
    return ScalingSnapshot(metric=spec.metric, min_workers=spec.min_workers, max_workers=spec.max_workers)


def _no_traffic(view: WorkerView) -> EndpointView:
    """Of a worker that the proxy does not know (any more)."""
    return EndpointView(endpoint=Endpoint(app=view.worker.app, worker=view.worker))


def _worker(view: WorkerView, traffic: EndpointView, now: float, routed: Callable[[WorkerId], bool]) -> WorkerSnapshot:
    measured = view.endpoint is None or not view.endpoint.shared
    return WorkerSnapshot(
        slot=view.worker.slot,
        generation=view.worker.generation,
        pid=view.pid,
        state=view.state,
        stopped=view.stopped,
        endpoint=str(view.endpoint) if view.endpoint else None,
        routed=routed(view.worker) and traffic.offered,
        requests=traffic.answered if measured else None,
        in_flight=traffic.in_flight if measured else None,
        restarts=view.restarts,
        uptime_s=now - view.started_at if view.started_at is not None and view.pid is not None else None,
        cpu_percent=view.cpu_percent,
        rss_bytes=view.rss_bytes,
        rps=traffic.rps if measured else 0.0,
        p50_ms=traffic.p50_ms if measured else None,
        p99_ms=traffic.p99_ms if measured else None,
        retry_in_s=max(0.0, view.retry_at - now) if view.retry_at is not None else None,
        why=view.why,
        standby=view.standby,
        health=traffic.health,
        health_why=traffic.health_why,
        ejected_for_s=traffic.ejected_for_s,
        tunnels=traffic.tunnels,
    )
