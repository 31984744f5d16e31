"""What must hold is seen to be broken when it is, and stays told for a while."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lab.core.clock import ManualClock
from lab.core.events import EventRing
from lab.core.model import Endpoint, ListenerSpec, Wire, WorkerId
from lab.core.snapshot import Totals
from lab.core.states import WorkerState
from lab.engine.endpoints import Endpoints
from lab.engine.invariants import TOLD_S, Watch, breaches
from lab.pool.manager import AppView, PoolView, WorkerView
from lab.proxy.backends.python_builtin import PythonBuiltinProxy
from lab.proxy.manager import ProxySpec, ProxyView, UpstreamSpec

WORKER = WorkerId("app", 0, 1)
NOTHING = Totals()


def pool(state: WorkerState = WorkerState.READY, *, zombies: int = 0, **more: Any) -> PoolView:
    """One app with one worker."""
    breaches = more.pop("breaches", ())
    worker = WorkerView(
        worker=WORKER,
        state=state,
        pid=1,
        stopped=False,
        endpoint=None,
        restarts=0,
        started_at=None,
        cpu_percent=None,
        rss_bytes=None,
        retry_at=None,
        why="",
        **more,
    )
    app = AppView(name="app", wanted=1, workers=(worker,), unavailable=None, building=False, breaches=breaches)
    return PoolView(apps=(app,), zombies=zombies)


def traffic(totals: Totals = NOTHING, own: Totals = NOTHING) -> ProxyView:
    return ProxyView(totals=totals, own=own, upstreams=(), routes=(), connections=0, pending=0, shed={})


@pytest.fixture
async def endpoints() -> AsyncIterator[Endpoints]:
    """Those of a proxy in whose upstream the worker is."""
    clock = ManualClock()
    events = EventRing(clock)
    proxy = PythonBuiltinProxy(clock, events)
    upstreams = (UpstreamSpec(app="app", route="/app"), UpstreamSpec(app="script", route="/script"))
    await proxy.start(ProxySpec(listener=ListenerSpec(port=0), upstreams=upstreams))
    found = Endpoints(proxy, events)
    found.add(Endpoint(app="app", worker=WORKER, host="127.0.0.1", port=1))
    yield found
    await proxy.close()


@pytest.mark.parametrize(
    ("seen", "counted", "expected"),
    [
        (pool(), traffic(), []),
        (pool(), traffic(Totals(accepted=6, answered=1, failed=1, shed=1, abandoned=1, in_flight=2)), []),
        (pool(), traffic(Totals(accepted=2, answered=1)), ["conserved"]),
        (pool(), traffic(own=Totals(accepted=1, answered=2)), ["conserved"]),
        (pool(zombies=1), traffic(), ["no_zombies"]),
        (pool(WorkerState.UNHEALTHY), traffic(), ["only_ready"]),
        (pool(WorkerState.DRAINING), traffic(), ["only_ready"]),
        (pool(standby=True), traffic(), ["only_ready"]),
    ],
)
async def test_each_breach_is_seen(
    endpoints: Endpoints, seen: PoolView, counted: ProxyView, expected: list[str]
) -> None:
    assert list(breaches(seen, counted, endpoints)) == expected


async def test_a_program_that_is_started_for_each_request_has_no_worker_to_be_ready(endpoints: Endpoints) -> None:
    endpoints.add(Endpoint(app="script", worker=WorkerId("script", 0, 0), wire=Wire.CGI))
    await asyncio.sleep(0)
    assert list(breaches(pool(), traffic(), endpoints)) == []


def test_a_breach_that_was_seen_once_is_told_for_ten_seconds() -> None:
    watch = Watch()
    assert not watch.look(100.0, iter(["only_ready"]), pool()).only_ready
    assert not watch.look(100.0 + TOLD_S - 0.1, iter(()), pool()).only_ready
    after = watch.look(100.0 + TOLD_S, iter(()), pool())
    assert after.only_ready
    assert after.conserved


def test_what_a_pool_tells_of_itself_is_told_for_as_long_as_it_does() -> None:
    watch = Watch()
    told = watch.look(100.0, iter(()), pool(breaches=("within_bounds", "backoff_kept")))
    assert (told.within_bounds, told.backoff_kept, told.probes_on_time) == (False, False, True)
    assert watch.look(100.1, iter(()), pool()).within_bounds
