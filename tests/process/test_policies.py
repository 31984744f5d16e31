"""Pools that grow and shrink with their load, with real processes."""

import msgspec
import pytest

from lab.core.events import EventKind
from lab.core.states import Cause, Policy, WorkerState
from lab.pool.backends import python_builtin

_S = WorkerState
TICK = 0.2
NEVER_LISTENS = "import time\ntime.sleep(1000)\n"


@pytest.fixture(autouse=True)
def quick_ticks(monkeypatch):
    """A second is long for a test."""
    monkeypatch.setattr(python_builtin, "_TICK", TICK)


async def ticks(bench, number: int) -> None:
    """Wait until the policy was asked so many times more."""
    later = bench.clock.monotonic() + (number + 0.5) * TICK
    await bench.until(lambda: bench.clock.monotonic() > later)


def dynamic(bench, **settings):
    spare = {"max_workers": 6, "start_workers": 2, "min_spare": 1, "max_spare": 2}
    return calm(bench.app(policy=Policy.DYNAMIC, **(spare | settings)))


def ondemand(bench, **settings):
    return calm(bench.app(policy=Policy.ONDEMAND, **({"max_workers": 3, "idle_timeout": 60.0} | settings)))


def calm(app):
    """Without probes, which would occupy workers now and then."""
    return msgspec.structs.replace(app, liveness=msgspec.structs.replace(app.liveness, interval=60.0))


def with_pool(app, **settings):
    return msgspec.structs.replace(app, pool=msgspec.structs.replace(app.pool, **settings))


def ready(bench) -> list[int]:
    """Slots with a READY worker."""
    return [worker.worker.slot for worker in bench.view().workers if worker.state is _S.READY]


def occupy(bench) -> None:
    """One request inside every READY worker."""
    for worker in bench.view().workers:
        if worker.state is _S.READY:
            bench.routes.places[worker.worker] = 1


async def test_dynamic_begins_with_start_workers_and_stays_there_while_enough_are_idle(bench):
    await bench.pool.apply((dynamic(bench),))
    await bench.until(lambda: ready(bench) == [0, 1])
    await ticks(bench, 3)
    assert bench.count(_S.STARTING) == 2
    assert bench.view().wanted == 2


async def test_dynamic_starts_workers_while_too_few_are_idle_and_stops_the_oldest_when_too_many_are(bench):
    await bench.pool.apply((dynamic(bench),))
    await bench.until(lambda: ready(bench) == [0, 1])
    occupy(bench)
    await bench.until(lambda: ready(bench) == [0, 1, 2])
    assert (await bench.kind(EventKind.SCALED)).data == {"from": 2, "to": 3}
    oldest = min(bench.view().workers, key=lambda worker: worker.started_at)
    occupy(bench)
    await bench.until(lambda: ready(bench) == [0, 1, 2, 3])
    bench.routes.places.clear()
    first = await bench.state(_S.EXITED)
    assert (first.pid, first.cause) == (oldest.pid, Cause.SCALED_DOWN)
    await bench.until(lambda: len(ready(bench)) == 2)
    assert bench.view().breaches == ()


async def test_max_workers_is_told_once_each_time_it_is_reached(bench):
    await bench.pool.apply((dynamic(bench, max_workers=2),))
    await bench.until(lambda: ready(bench) == [0, 1])
    occupy(bench)
    limit = await bench.kind(EventKind.LIMIT)
    for _ in range(5):
        bench.pool.starved("app")
    await ticks(bench, 2)
    assert bench.view().max_reached == 1
    await bench.pool.apply((dynamic(bench, max_workers=3),))
    await bench.until(lambda: ready(bench) == [0, 1, 2])
    occupy(bench)
    await bench.seen(lambda event: event.kind is EventKind.LIMIT, limit.seq + 1)
    assert bench.view().max_reached == 2


async def test_a_starved_request_gets_a_worker_at_once(bench):
    await bench.pool.apply((dynamic(bench),))
    await bench.until(lambda: ready(bench) == [0, 1])
    occupy(bench)
    bench.pool.starved("app")
    assert bench.view().workers[2].state in (_S.PENDING, _S.STARTING)
    assert bench.view().wanted == 3


async def test_ondemand_has_no_worker_until_a_request_needs_one_and_none_when_nobody_did_for_long(bench):
    app = ondemand(bench, idle_timeout=0.3)
    await bench.pool.apply((app,))
    bench.pool.starved("app")
    assert bench.view().wanted == 1
    ready_at = await bench.state(_S.READY)
    death = await bench.state(_S.EXITED)
    assert death.cause is Cause.SCALED_DOWN
    assert death.at - ready_at.at >= 0.3
    assert bench.view().wanted == 0
    bench.pool.starved("app")
    assert (await bench.state(_S.READY, death.seq)).generation == 2


async def test_ondemand_starts_one_for_each_starved_request_and_none_beyond_max_workers(bench):
    await bench.pool.apply((ondemand(bench),))
    for _ in range(5):
        bench.pool.starved("app")
    await bench.until(lambda: ready(bench) == [0, 1, 2])
    assert (bench.view().wanted, bench.view().max_reached) == (3, 1)
    assert bench.count(_S.STARTING) == 3


async def test_ondemand_starts_nobody_while_one_is_idle(bench):
    await bench.pool.apply((ondemand(bench),))
    bench.pool.starved("app")
    await bench.state(_S.READY)
    bench.pool.starved("app")
    assert bench.view().wanted == 1


async def test_a_busy_worker_is_not_stopped_for_being_idle_and_its_request_is_finished(bench):
    app = ondemand(bench, drain_timeout=30.0)
    await bench.pool.apply((app,))
    bench.pool.starved("app")
    await bench.state(_S.READY)
    occupy(bench)
    await bench.pool.apply((with_pool(app, idle_timeout=0.1),))
    await ticks(bench, 3)
    assert bench.count(_S.DRAINING) == 0
    bench.routes.places.clear()
    await bench.state(_S.EXITED)


async def test_a_worker_of_an_ondemand_pool_that_is_killed_is_replaced(bench):
    await bench.pool.apply((ondemand(bench),))
    bench.pool.starved("app")
    await bench.state(_S.READY)
    bench.pool.signal(bench.worker().worker, 9)
    await bench.state(_S.READY, generation=2)


async def test_a_pool_with_a_failed_slot_does_not_grow(bench):
    await bench.pool.apply((ondemand(bench, max_workers=5, intensity_failures=1),))
    bench.source("raise SystemExit(1)\n", "app.py")
    bench.pool.starved("app")
    await bench.state(_S.FAILED)
    for _ in range(5):
        bench.pool.starved("app")
    assert bench.view().wanted == 1


async def test_the_policy_changes_while_the_pool_runs_and_restarts_nobody(bench):
    app = calm(bench.app(max_workers=3))
    await bench.pool.apply((app,))
    await bench.until(lambda: ready(bench) == [0, 1, 2])
    before = {worker.pid for worker in bench.view().workers}
    await bench.pool.apply((with_pool(app, policy=Policy.DYNAMIC, max_workers=6, max_spare=3),))
    assert bench.view().wanted == 3
    await bench.pool.apply((with_pool(app, policy=Policy.ONDEMAND, idle_timeout=60.0),))
    assert bench.view().wanted == 3
    await bench.pool.apply((with_pool(app, max_workers=4),))
    await bench.until(lambda: ready(bench) == [0, 1, 2, 3])
    assert before <= {worker.pid for worker in bench.view().workers}
    await bench.pool.apply((with_pool(app, policy=Policy.ONDEMAND, max_workers=2, idle_timeout=60.0),))
    assert bench.view().wanted == 2
    await bench.until(lambda: len(bench.view().workers) == 2)
    assert bench.count(_S.STARTING) == 4


async def test_a_new_idle_timeout_holds_at_once(bench):
    app = ondemand(bench)
    await bench.pool.apply((app,))
    bench.pool.starved("app")
    await bench.state(_S.READY)
    await bench.pool.apply((with_pool(app, idle_timeout=0.0),))
    assert bench.view().wanted == 0
    await bench.state(_S.EXITED)


async def test_workers_that_take_long_to_start_are_not_started_again_each_tick(bench):
    slow = calm(
        bench.app(
            NEVER_LISTENS, policy=Policy.DYNAMIC, max_workers=9, start_workers=1, min_spare=1, max_spare=2,
            start_timeout=30.0,
        )
    )  # fmt: skip
    await bench.pool.apply((slow,))
    await bench.state(_S.STARTING)
    await ticks(bench, 3)
    assert bench.view().wanted == 1
    await bench.pool.apply(())


async def test_a_dynamic_pool_that_was_removed_and_comes_back_begins_anew(bench):
    app = dynamic(bench)
    await bench.pool.apply((app,))
    await bench.until(lambda: ready(bench) == [0, 1])
    occupy(bench)
    await bench.until(lambda: len(ready(bench)) == 3)
    bench.routes.places.clear()
    await bench.pool.apply(())
    await bench.pool.apply((app,))
    assert bench.view().wanted == 2


async def test_how_workers_get_their_socket_is_told_before_there_is_a_program(bench):
    await bench.pool.apply((bench.app(),))
    assert bench.view().protocol == "http-port"
