"""Builds the snapshot: what the pool sees and what the proxy counted, joined worker by worker."""

from collections.abc import Callable, Mapping

from lab.core.model import AppSpec, Limits, PoolSettings, ScalingSpec, WorkerId
from lab.core.snapshot import (
    AppSnapshot,
    Invariants,
    LabSnapshot,
    LeadSnapshot,
    ProxySnapshot,
    RouteSnapshot,
    ScalingSnapshot,
    ServiceSnapshot,
    Traffic,
    WorkerSnapshot,
)
from lab.core.states import EndpointHealth, Policy
from lab.engine.lab import LabSpec
from lab.pool.manager import AppView, PoolView, WorkerView
from lab.proxy.manager import EndpointView, ProxyView, RouteView, UpstreamView


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
    upstreams = {upstream.app: upstream for upstream in proxy.upstreams}
    views = {app.name: app for app in pool.apps}
    return LabSnapshot(
        name=spec.name,
        listener=listener,
        certificate=proxy.certificate,
        uptime_s=now - started,
        at=now,
        read_only=read_only,
        apps=tuple(
            _app(app, views[app.name], upstreams.get(app.name), waits_for(app), slow.get(app.name, 0), now, routed)
            for app in spec.apps
            if app.name in views
        ),
        processes=processes,
        routes=tuple(map(_route, proxy.routes)),
        totals=proxy.totals,
        own=Traffic(rate=own_rate, totals=proxy.own),
        proxy=_proxy(spec.proxy.limits, proxy),
        invariants=invariants,
        events_next=events_next,
    )


def _proxy(limits: Limits, view: ProxyView) -> ProxySnapshot:
    return ProxySnapshot(
        connections=view.connections,
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
    upstream: UpstreamView | None,
    waits_for: tuple[str, ...],
    slow: int,
    now: float,
    routed: Callable[[WorkerId], bool],
) -> AppSnapshot:
    traffic = {one.endpoint.worker: one for one in upstream.endpoints} if upstream else {}
    return AppSnapshot(
        name=spec.name,
        route=spec.route,
        language=spec.language,
        policy=spec.pool.policy,
        protocol=view.protocol,
        selection=spec.selection,
        concurrency=spec.concurrency,
        wanted=view.wanted,
        workers=tuple(_worker(worker, traffic.get(worker.worker), now, routed) for worker in view.workers),
        queue=upstream.queue if upstream else 0,
        rps=upstream.rps if upstream else 0.0,
        p50_ms=upstream.p50_ms if upstream else None,
        p95_ms=upstream.p95_ms if upstream else None,
        p99_ms=upstream.p99_ms if upstream else None,
        min_workers=_fewest(spec.pool),
        max_workers=spec.pool.max_workers,
        scaling=_scaling(spec.scaling),
        breaker=upstream.breaker if upstream else None,
        retries=upstream.retries if upstream else 0,
        retries_left=upstream.retries_left if upstream else None,
        panic=upstream.panic if upstream else False,
        max_reached=view.max_reached,
        slow_requests=slow,
        tunnels=sum(endpoint.tunnels for endpoint in traffic.values()),
        shed=upstream.shed if upstream else {},
        waits_for=waits_for,
        unavailable=view.unavailable,
        building=view.building,
        changing=view.changing,
    )


def _route(view: RouteView) -> RouteSnapshot:
    return RouteSnapshot(
        name=view.name,
        takes=view.takes,
        implied=view.implied,
        leads=tuple(
            LeadSnapshot(
                app=lead.app,
                weight=lead.weight,
                requests=lead.accepted,
                share=None if lead.share is None else 100 * lead.share,
            )
            for lead in view.leads
        ),
        requests=view.accepted,
        in_flight=view.in_flight,
        classes=view.classes[:6],
        errors=view.classes[0] + view.classes[5],
        rps=view.rps,
        p50_ms=view.p50_ms,
        p95_ms=view.p95_ms,
        p99_ms=view.p99_ms,
    )


def _fewest(pool: PoolSettings) -> int:
    return {Policy.STATIC: pool.max_workers, Policy.DYNAMIC: pool.min_workers, Policy.ONDEMAND: 0}[pool.policy]


def _scaling(spec: ScalingSpec | None) -> ScalingSnapshot | None:
    if spec is None:
        return None
    return ScalingSnapshot(metric=spec.metric, min_workers=spec.min_workers, max_workers=spec.max_workers)


def _worker(
    view: WorkerView, traffic: EndpointView | None, now: float, routed: Callable[[WorkerId], bool]
) -> WorkerSnapshot:
    measured = view.endpoint is None or not view.endpoint.shared
    return WorkerSnapshot(
        slot=view.worker.slot,
        generation=view.worker.generation,
        pid=view.pid,
        state=view.state,
        stopped=view.stopped,
        endpoint=str(view.endpoint) if view.endpoint else None,
        routed=routed(view.worker) and (traffic is None or traffic.offered),
        requests=(traffic.answered if traffic else 0) if measured else None,
        in_flight=(traffic.in_flight if traffic else 0) if measured else None,
        restarts=view.restarts,
        uptime_s=now - view.started_at if view.started_at is not None and view.pid is not None else None,
        cpu_percent=view.cpu_percent,
        rss_bytes=view.rss_bytes,
        rps=traffic.rps if traffic and measured else 0.0,
        p50_ms=traffic.p50_ms if traffic and measured else None,
        p99_ms=traffic.p99_ms if traffic and measured else None,
        retry_in_s=max(0.0, view.retry_at - now) if view.retry_at is not None else None,
        why=view.why,
        standby=view.standby,
        health=traffic.health if traffic else EndpointHealth.HEALTHY,
        health_why=traffic.health_why if traffic else "",
        ejected_for_s=traffic.ejected_for_s if traffic else None,
        tunnels=traffic.tunnels if traffic else 0,
    )
