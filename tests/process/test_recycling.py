"""Workers that are replaced before they fail: after so many requests, for a new program, or because a person asks."""

import signal

import msgspec

from lab.core.events import Event, EventKind
from lab.core.model import WorkerId
from lab.core.states import Cause, WorkerState

_S = WorkerState
BREAKS_IF_TOLD = """
import os
if os.path.exists(os.environ["BREAK"]):
    print("no database")
    raise SystemExit(3)
"""


def steps(bench) -> list[str]:
    """What was told of reloads."""
    return [event.data["step"] for event in bench.events.read().events if event.kind is EventKind.RELOAD]


def is_reload(step: str):
    return lambda event: event.kind is EventKind.RELOAD and event.data["step"] == step


async def all_ready(bench, number: int) -> None:
    for slot in range(number):
        await bench.state(_S.READY, slot=slot)


async def test_a_worker_is_replaced_after_max_requests_by_one_that_is_ready_before_it_drains(bench):
    await bench.pool.apply((bench.app(max_requests=10),))
    await bench.state(_S.READY)
    first = bench.worker().worker
    bench.routes.counted[first] = 9
    await bench.until(lambda: first in bench.routes.routed)
    bench.routes.counted[first] = 11
    draining = await bench.state(_S.DRAINING)
    ready = await bench.state(_S.READY, generation=2)
    assert ready.seq < draining.seq
    assert (await bench.state(_S.EXITED)).cause is Cause.RECYCLED
    assert [worker.worker.generation for worker in bench.view().workers] == [2]


async def test_nobody_is_replaced_before_max_requests(bench):
    await bench.pool.apply((bench.app(max_workers=2, max_requests=1000),))
    await all_ready(bench, 2)
    watched, other = (worker.worker for worker in bench.view().workers)
    bench.routes.counted |= {watched: 999, other: 1100}
    await bench.state(_S.EXITED, slot=other.slot)
    assert bench.worker().worker == watched


async def test_without_max_requests_a_worker_lives_on(bench):
    app = bench.app(max_requests=10)
    await bench.pool.apply((app,))
    await bench.state(_S.READY)
    await bench.pool.apply((msgspec.structs.replace(app, pool=msgspec.structs.replace(app.pool, max_requests=0)),))
    bench.routes.counted[bench.worker().worker] = 1_000_000
    later = bench.clock.monotonic() + 0.2
    await bench.until(lambda: bench.clock.monotonic() > later)
    assert bench.count(_S.STARTING) == 1


async def test_max_requests_holds_for_workers_that_run_already(bench):
    app = bench.app()
    await bench.pool.apply((app,))
    await bench.state(_S.READY)
    bench.routes.counted[bench.worker().worker] = 500
    await bench.pool.apply((msgspec.structs.replace(app, pool=msgspec.structs.replace(app.pool, max_requests=100)),))
    assert (await bench.state(_S.EXITED)).cause is Cause.RECYCLED


async def test_a_pool_is_made_smaller_before_the_rest_is_recycled(bench):
    await bench.pool.apply((bench.app(max_workers=3),))
    await all_ready(bench, 3)
    bench.routes.counted |= {worker.worker: 100 for worker in bench.view().workers}
    await bench.pool.apply((bench.app(max_workers=1, max_requests=10),))
    await bench.state(_S.READY, generation=2)
    assert bench.view().breaches == ()


async def test_of_several_that_are_due_one_is_replaced_at_a_time_the_most_overdue_first(bench):
    await bench.pool.apply((bench.app(max_workers=3, max_requests=10),))
    await all_ready(bench, 3)
    workers = [worker.worker for worker in bench.view().workers]
    since = bench.events.next
    bench.routes.counted |= dict(zip(workers, (20, 40, 30), strict=True))
    for slot in range(3):
        await bench.state(_S.EXITED, since, slot=slot)
    told = [event for event in bench.events.read(since).events if event.generation == 2]
    assert [event.slot for event in told if event.state is _S.READY] == [1, 2, 0]
    starts = [event.seq for event in told if event.state is _S.STARTING]
    readies = [event.seq for event in told if event.state is _S.READY]
    assert all(ready < start for ready, start in zip(readies, starts[1:], strict=False))
    assert bench.view().breaches == ()


async def test_recycling_keeps_up_with_workers_that_are_due_as_soon_as_they_are_ready(bench):
    def spend(event: Event) -> None:
        """Each worker has served all that it may when it enters the upstream."""
        if event.state is _S.READY:
            bench.routes.counted |= dict.fromkeys(bench.routes.routed, 1)

    bench.events.watch(spend)
    await bench.pool.apply((bench.app(max_workers=2, max_requests=1),))
    await bench.until(lambda: bench.count(_S.EXITED) >= 10)
    exits = [event for event in bench.events.read(1, 10_000).events if event.state is _S.EXITED]
    assert {event.cause for event in exits} == {Cause.RECYCLED}
    assert {event.slot for event in exits} == {0, 1}
    assert bench.view().breaches == ()


async def test_a_frozen_worker_gets_its_turn_though_others_are_due_all_the_time(bench):
    def spend(event: Event) -> None:
        """All but slot 0 have served all that they may when they enter the upstream."""
        if event.state is _S.READY:
            bench.routes.counted |= {worker: 1 for worker in bench.routes.routed if worker.slot}

    bench.events.watch(spend)
    app = bench.app(max_workers=3, max_requests=1)
    patient = msgspec.structs.replace(bench.strict(app).liveness, replace_after=2.0, interval=0.2)
    await bench.pool.apply((msgspec.structs.replace(app, liveness=patient),))
    await bench.state(_S.READY, slot=0)
    bench.pool.signal(bench.worker().worker, signal.SIGSTOP)
    assert (await bench.state(_S.EXITED, slot=0)).cause is Cause.UNHEALTHY
    unhealthy = await bench.state(_S.UNHEALTHY, slot=0)
    turn = await bench.state(_S.PENDING, unhealthy.seq, slot=0)
    pending = [event for event in bench.events.read(1, 10_000).events if event.state is _S.PENDING]
    assert len(pending) > 5, "others were replaced all the time"
    assert turn.at - unhealthy.at < 2 * (patient.replace_after + patient.interval + patient.timeout)


async def test_a_reload_replaces_every_worker_though_nothing_changed(bench):
    await bench.pool.apply((bench.app(max_workers=3),))
    await all_ready(bench, 3)
    before = {worker.pid for worker in bench.view().workers}
    bench.pool.reload("app")
    await bench.seen(is_reload("done"))
    await bench.until(lambda: len(bench.view().workers) == 3)
    assert before.isdisjoint(worker.pid for worker in bench.view().workers)
    exits = [event for event in bench.events.read().events if event.state is _S.EXITED]
    assert [event.cause for event in exits] == [Cause.RELOADED] * 3
    assert steps(bench) == ["verified", "done"]


async def test_a_reload_while_nobody_runs_is_done_at_once(bench):
    await bench.pool.apply((bench.app(max_workers=0),))
    await bench.pool.apply((bench.app(max_workers=1),))
    await bench.state(_S.READY)
    await bench.pool.apply((bench.app(max_workers=0),))
    await bench.state(_S.EXITED)
    bench.pool.reload("app")
    await bench.seen(is_reload("done"))
    assert steps(bench) == ["done"]


async def test_two_reloads_at_once_are_one(bench):
    await bench.pool.apply((bench.app(max_workers=2),))
    await all_ready(bench, 2)
    bench.pool.reload("app")
    bench.pool.reload("app")
    await bench.seen(is_reload("done"))
    await bench.until(lambda: bench.count(_S.EXITED) == 2)
    assert bench.count(_S.STARTING) == 4


async def test_a_reload_that_fails_says_why_and_leaves_everybody_serving(bench):
    mark = bench.folder / "break"
    app = msgspec.structs.replace(bench.app(BREAKS_IF_TOLD + bench.PROGRAM, max_workers=2), env={"BREAK": str(mark)})
    await bench.pool.apply((app,))
    await all_ready(bench, 2)
    before = [worker.pid for worker in bench.view().workers]
    mark.touch()
    bench.pool.reload("app")
    refused = await bench.seen(is_reload("refused"))
    assert "exit code 3" in refused.text
    assert "no database" in refused.text
    assert [worker.pid for worker in bench.view().workers] == before
    mark.unlink()
    bench.pool.reload("app")
    await bench.seen(is_reload("done"))


async def test_a_successor_that_a_person_kills_says_nothing_about_the_program(bench):
    gate = bench.folder / "gate"
    waits = f"import os, time\nwhile os.path.exists({str(gate)!r}):\n    time.sleep(0.005)\n"
    await bench.pool.apply((bench.app(waits + bench.PROGRAM),))
    await bench.state(_S.READY)
    gate.touch()
    bench.pool.reload("app")
    successor = await bench.state(_S.STARTING, generation=2)
    bench.pool.signal(WorkerId("app", 0, 2), signal.SIGKILL)
    await bench.state(_S.STARTING, successor.seq, generation=3)
    gate.unlink()
    await bench.seen(is_reload("done"))
    assert steps(bench) == ["verified", "done"]


async def test_a_changed_program_is_verified_then_done(bench):
    await bench.pool.apply((bench.app(max_workers=2),))
    await all_ready(bench, 2)
    await bench.pool.apply((bench.app(bench.PROGRAM + "# changed\n", max_workers=2),))
    await bench.seen(is_reload("done"))
    assert steps(bench) == ["verified", "done"]


async def test_a_changed_program_that_does_not_get_ready_in_time_is_refused_with_what_it_lacked(bench):
    await bench.pool.apply((bench.app(),))
    await bench.state(_S.READY)
    await bench.pool.apply((bench.app("import time\ntime.sleep(1000)\n", start_timeout=0.3),))
    assert "not ready after 0.3 s" in (await bench.seen(is_reload("refused"))).text
    assert bench.worker().state is _S.READY


async def test_a_first_start_is_no_reload(bench):
    await bench.pool.apply((bench.app(),))
    await bench.state(_S.READY)
    assert steps(bench) == []


async def test_a_program_that_replaces_one_that_never_started_is_told_when_it_works(bench):
    await bench.pool.apply((bench.app("raise SystemExit(1)\n", backoff_initial=30.0),))
    await bench.state(_S.BACKOFF)
    await bench.pool.apply((bench.app(backoff_initial=30.0),))
    await bench.seen(is_reload("done"))
    assert steps(bench) == ["verified", "done"]


async def test_a_slot_that_failed_with_the_old_program_tries_the_new_one_as_soon_as_that_has_proved_itself(bench):
    once = bench.folder / "once"
    fails = f"import os\ntry:\n    os.mkdir({str(once)!r})\nexcept FileExistsError:\n    raise SystemExit(1)\n"
    await bench.pool.apply((bench.app(fails + bench.PROGRAM, max_workers=2, backoff_initial=30.0),))
    await bench.state(_S.READY)
    failed = await bench.state(_S.BACKOFF)
    await bench.pool.apply((bench.app(max_workers=2, backoff_initial=30.0),))
    await bench.state(_S.READY, slot=failed.slot, generation=2)
    await bench.seen(is_reload("done"))


async def test_successors_that_fail_are_tried_ever_less_often(bench):
    mark = bench.folder / "break"
    app = msgspec.structs.replace(
        bench.app(BREAKS_IF_TOLD + bench.PROGRAM, max_requests=1, backoff_initial=0.05), env={"BREAK": str(mark)}
    )
    await bench.pool.apply((app,))
    ready = await bench.state(_S.READY)
    mark.touch()
    bench.routes.counted[bench.worker().worker] = 5
    await bench.until(lambda: bench.count(_S.EXITED) >= 4)
    told = bench.events.read(ready.seq).events
    deaths = [event.at for event in told if event.state is _S.EXITED]
    starts = [event.at for event in told if event.state is _S.STARTING]
    for number, (death, start) in enumerate(zip(deaths, starts[1:], strict=False)):
        assert start - death >= 0.8 * 0.05 * 2**number - 0.005
    assert bench.view().workers[0].pid == ready.pid
