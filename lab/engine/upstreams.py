"""What the proxy has to know of a lab: its routes, and why one is not served; and which of them can be asked."""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from lab.core.model import AppSpec, ListenerSpec
from lab.engine.lab import LabSpec
from lab.pool.manager import PoolView
from lab.proxy.manager import ProxySpec, UpstreamSpec


def proxy_spec(
    spec: LabSpec,
    listener: ListenerSpec,
    pool: PoolView,
    waits_for: Callable[[AppSpec], tuple[str, ...]],
    editions: Mapping[str, int],
) -> ProxySpec:
    """Desired state of the proxy. `waits_for` tells which processes an app's workers still wait for; `editions` how
    often the file of a selection policy was found to be another."""
    unavailable = {app.name: app.unavailable for app in pool.apps}
    upstreams = (
        _upstream(app, unavailable.get(app.name) or _waiting(waits_for(app)), editions.get(app.selection, 0))
        for app in spec.apps
    )
    return ProxySpec(listener=listener, upstreams=tuple(upstreams), routes=spec.routes, settings=spec.proxy)


def askable(
    apps: Sequence[AppSpec], pool: PoolView, waits_for: Callable[[AppSpec], tuple[str, ...]]
) -> list[tuple[str, str]]:
    """Names of apps that can answer now, or could as soon as they were asked, each with a path to ask."""
    views = {view.name: view for view in pool.apps if view.unavailable is None}
    return [
        (app.name, front(app))
        for app in apps
        if (view := views.get(app.name)) is not None
        and app.pool.max_workers
        and (any(worker.pid for worker in view.workers) or not (view.building or view.changing or waits_for(app)))
    ]


def front(app: AppSpec) -> str:
    """The path that asks an app itself; `/site` alone would only be sent on to `/site/`."""
    return app.route if app.site is None else app.route.rstrip("/") + "/"


def _waiting(needs: tuple[str, ...]) -> str | None:
    return f"it waits for {' and '.join(needs)} to be healthy." if needs else None


def _upstream(app: AppSpec, unavailable: str | None, edition: int) -> UpstreamSpec:
    return UpstreamSpec(
        app=app.name,
        route=app.route,
        selection=app.selection,
        edition=edition,
        weights=app.weights,
        slow_start=app.slow_start,
        hash=app.hash,
        queue=app.queue,
        queue_length=app.queue_length,
        upgrades=app.upgrades,
        request_buffer=app.request_buffer,
        rate_limit=app.rate_limit,
        shedding=app.shedding,
        timeouts=app.timeouts,
        health_check=msgspec.structs.replace(app.health_check, path=app.health_check.path or app.health),
        outliers=app.outliers,
        panic_percent=app.panic_percent,
        breaker=app.breaker,
        retries=app.retries,
        site=app.site,
        script=app.source,
        cgi=app.cgi,
        unavailable=unavailable,
    )
