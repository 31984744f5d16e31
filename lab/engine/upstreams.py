"""What the proxy has to know of a lab: its routes, and why one is not served."""

from collections.abc import Callable

from lab.core.model import AppSpec, ListenerSpec
from lab.engine.lab import LabSpec
from lab.pool.manager import PoolView
from lab.proxy.manager import ProxySpec, UpstreamSpec


def proxy_spec(
    spec: LabSpec, listener: ListenerSpec, pool: PoolView, waits_for: Callable[[AppSpec], tuple[str, ...]]
) -> ProxySpec:
    """Desired state of the proxy. `waits_for` tells which processes an app's workers still wait for."""
    unavailable = {app.name: app.unavailable for app in pool.apps}
    upstreams = (_upstream(app, unavailable.get(app.name) or _waiting(waits_for(app))) for app in spec.apps)
    return ProxySpec(listener=listener, upstreams=tuple(upstreams), limits=spec.limits)


def _waiting(needs: tuple[str, ...]) -> str | None:
    return f"it waits for {' and '.join(needs)} to be healthy." if needs else None


def _upstream(app: AppSpec, unavailable: str | None) -> UpstreamSpec:
    return UpstreamSpec(
        app=app.name,
        route=app.route,
        selection=app.selection,
        queue=app.queue,
        queue_length=app.queue_length,
        timeouts=app.timeouts,
        site=app.site,
        script=app.source,
        cgi=app.cgi,
        unavailable=unavailable,
    )
