"""`/pool-status`: PHP-FPM's status page for every pool of the lab, made of what pool and proxy know.

`?json`, `?openmetrics` and `?full` as PHP-FPM has them; `?app=NAME` shows one pool, with 404 if there is none. As JSON,
one pool is PHP-FPM's object, several are `{"pools": [...]}`.
"""

import json
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs

from lab.core import openmetrics
from lab.core.clock import Clock
from lab.core.model import AppSpec
from lab.core.printable import printable
from lab.engine.lab import LabSpec
from lab.pool import status
from lab.pool.manager import AppView, PoolView, WorkerView
from lab.proxy.manager import EndpointView, Page, ProxyView, RequestView, UpstreamView

_TEXT = "text/plain; charset=utf-8"


def render(
    query: str,
    spec: LabSpec,
    pool: PoolView,
    proxy: ProxyView,
    slow: Mapping[str, int],
    clock: Clock,
    started: float,
) -> Page:
    """The page; 404 for an app that there is not.

    `slow` counts each app's slow requests, `started` is when the lab began, in monotonic seconds.
    """
    asked = parse_qs(query, keep_blank_values=True)
    known = [app.name for app in spec.apps]
    names = asked.get("app", known)
    for name in names:
        if name not in known:
            text = f"Found no app {printable(name.encode(), 80)}; expected {' or '.join(known)}.\n"
            return Page(_TEXT, text.encode(), 404)
    upstreams = {upstream.app: upstream for upstream in proxy.upstreams}
    pools = [
        _pool(app, view, upstreams[app.name], slow.get(app.name, 0), clock, started)
        for app in spec.apps
        for view in pool.apps
        if app.name == view.name and app.name in names and app.name in upstreams
    ]
    if "openmetrics" in asked:
        return Page(openmetrics.CONTENT_TYPE, status.metrics(pools))
    as_json, full = "json" in asked, "full" in asked
    pages = [status.render(one, as_json=as_json, full=full) for one in pools]
    return Page("application/json", _joined(pages)) if as_json else Page(_TEXT, "\n".join(pages).encode())


def _joined(pages: Sequence[str]) -> bytes:
    return (pages[0] if len(pages) == 1 else json.dumps({"pools": [json.loads(page) for page in pages]})).encode()


def _pool(
    spec: AppSpec, view: AppView, upstream: UpstreamView, slow: int, clock: Clock, started: float
) -> status.PoolStatus:
    now = clock.monotonic()
    traffic = {one.endpoint.worker: one for one in upstream.endpoints}
    return status.PoolStatus(
        pool=spec.name,
        policy=spec.pool.policy,
        started_wall=clock.wall() - (now - started),
        since_s=now - started,
        accepted=upstream.accepted,
        queue=upstream.queue,
        max_queue=upstream.max_queue,
        queue_length=spec.queue_length,
        max_active=upstream.max_active,
        max_children_reached=view.max_reached,
        slow_requests=slow,
        processes=tuple(
            _process(worker, worker.pid, worker.started_at, traffic.get(worker.worker), clock)
            for worker in view.workers
            if worker.pid is not None and worker.started_at is not None
        ),
    )


def _process(
    worker: WorkerView, pid: int, started: float, traffic: EndpointView | None, clock: Clock
) -> status.ProcessStatus:
    since = clock.monotonic() - started
    if worker.endpoint is not None and worker.endpoint.shared:
        traffic = None  # only the kernel knows who served what
        requests = in_flight = None
    else:
        requests, in_flight = (traffic.answered, traffic.in_flight) if traffic else (0, 0)
    return status.ProcessStatus(
        pid=pid,
        state=worker.state,
        started_wall=clock.wall() - since,
        since_s=since,
        requests=requests,
        in_flight=in_flight,
        request=_request(traffic.request) if traffic and traffic.request else None,
        cpu_percent=worker.cpu_percent,
        rss_bytes=worker.rss_bytes,
    )


def _request(seen: RequestView) -> status.RequestStatus:
    return status.RequestStatus(duration_s=seen.duration_s, method=seen.method, uri=seen.target, length=seen.length)
