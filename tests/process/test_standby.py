"""Workers that are READY and wait for another one's death."""

import asyncio
import os
import signal

import msgspec

from lab.core.events import EventKind
from lab.core.states import Cause, WorkerState
from lab.pool.backends import python_builtin

_S = WorkerState
WAITS_AT_ITS_GATE = """
import os, time
while os.path.exists(os.environ["GATE"]):
    time.sleep(0.005)
"""


def standbys(bench) -> list[int]:
    """Slots of workers that stand by."""
    return [worker.worker.slot for worker in bench.view().workers if worker.standby]


def routed(bench) -> list[int]:
    """Slots of workers that requests may reach."""
    return sorted(worker.slot for worker in bench.routes.routed)


async def start(bench, app, number: int) -> None:
    """Run the app until so many workers are READY."""
    await bench.pool.apply((app,))
    for slot in range(number):
        await bench.state(_S.READY, slot=slot)


async def test_a_standby_is_ready_and_not_routed(bench):
    await start(bench, bench.app(max_workers=2, standby=1), 3)
    assert (routed(bench), standbys(bench)) == ([0, 1], [2])
    assert bench.view().wanted == 2


async def test_a_standby_takes_over_in_the_turn_of_the_loop_that_reports_the_death(bench):
    await start(bench, bench.app(standby=1), 2)
    old, spare = bench.view().workers
    afterwards = []

    def look(event):
        if event.state is _S.EXITED:
            asyncio.get_running_loop().call_soon(lambda: afterwards.append(routed(bench)))

    bench.events.watch(look)
    bench.pool.signal(old.worker, signal.SIGKILL)
    healed = await bench.kind(EventKind.HEALED)
    assert (healed.pid, healed.slot, healed.data["old_pid"]) == (spare.pid, 1, old.pid)
    await bench.state(_S.READY, slot=0, generation=2)
    assert afterwards == [[1]]
    assert (routed(bench), standbys(bench)) == ([1], [0])


async def test_the_photo_finish_of_a_promotion_tells_no_fork_that_was_long_before(bench):
    await start(bench, bench.app(standby=1), 2)
    old = bench.worker()
    bench.routes.sent[old.worker] = 1
    bench.pool.signal(old.worker, signal.SIGKILL)
    photo = (await bench.kind(EventKind.HEALED)).data
    assert (photo["promoted"], photo["forked_at"], photo["probe_at"], photo["lost"]) == (True, None, None, 1)
    times = [photo[name] for name in ("signal_at", "exit_at", "ready_at")]
    assert times == sorted(times)
    ready = await bench.state(_S.READY, slot=0, generation=2)
    healings = [event for event in bench.events.read().events if event.kind is EventKind.HEALED]
    assert len(healings) == 1, "the slot that is a standby's now was not out of service"
    assert ready.seq > healings[0].seq


async def test_a_standby_that_dies_is_replaced_and_nobody_is_promoted(bench):
    await start(bench, bench.app(standby=1), 2)
    spare = bench.view().workers[1]
    bench.pool.signal(spare.worker, signal.SIGKILL)
    await bench.state(_S.READY, slot=1, generation=2)
    assert (routed(bench), standbys(bench)) == ([0], [1])
    assert "stands by" in (await bench.kind(EventKind.HEALED)).text


async def test_a_standby_that_gets_ready_while_a_slot_is_down_serves_in_its_place(bench):
    gate = bench.folder / "gate"
    app = bench.app(WAITS_AT_ITS_GATE + bench.PROGRAM, standby=1, backoff_initial=30.0, stable_after=60.0)
    await start(bench, msgspec.structs.replace(app, env={"GATE": str(gate)}), 2)
    old, spare = bench.view().workers
    gate.touch()
    bench.pool.signal(spare.worker, signal.SIGKILL)
    await bench.state(_S.STARTING, slot=1, generation=2)
    os.kill(old.pid, signal.SIGKILL)  # by a stranger, and too early: its slot backs off
    await bench.state(_S.BACKOFF, slot=0)
    assert routed(bench) == []
    gate.unlink()
    healed = await bench.kind(EventKind.HEALED)
    assert (healed.slot, healed.data["old_pid"]) == (1, spare.pid)
    healed = await bench.seen(lambda event: event.kind is EventKind.HEALED, healed.seq + 1)
    assert (healed.slot, healed.data["old_pid"], healed.data["promoted"]) == (1, old.pid, True)
    assert routed(bench) == [1]


async def test_a_standby_that_recovers_stays_a_standby(bench):
    await start(bench, bench.strict(bench.app(standby=1)), 2)
    spare = bench.view().workers[1]
    bench.pool.signal(spare.worker, signal.SIGSTOP)
    unhealthy = await bench.state(_S.UNHEALTHY, slot=1)
    bench.pool.signal(spare.worker, signal.SIGCONT)
    await bench.state(_S.READY, unhealthy.seq, slot=1)
    assert (routed(bench), standbys(bench)) == ([0], [1])


async def test_a_frozen_standby_takes_nobody_s_place(bench):
    await start(bench, bench.app(standby=2), 3)
    old, frozen, well = bench.view().workers
    bench.pool.signal(frozen.worker, signal.SIGSTOP)
    await bench.kind(EventKind.STOPPED)
    bench.pool.signal(old.worker, signal.SIGKILL)
    assert (await bench.kind(EventKind.HEALED)).pid == well.pid


async def test_a_standby_that_is_well_again_while_a_slot_is_down_serves_in_its_place(bench, monkeypatch):
    monkeypatch.setattr(python_builtin, "_TICK", 0.1)
    await start(bench, bench.strict(bench.app(standby=1, backoff_initial=30.0, stable_after=60.0)), 2)
    old, spare = bench.view().workers
    bench.pool.signal(spare.worker, signal.SIGSTOP)
    await bench.state(_S.UNHEALTHY, slot=1)
    os.kill(old.pid, signal.SIGKILL)  # by a stranger, and too early: its slot backs off
    await bench.state(_S.BACKOFF, slot=0)
    assert routed(bench) == []
    bench.pool.signal(spare.worker, signal.SIGCONT)
    assert (await bench.kind(EventKind.HEALED)).pid == spare.pid
    assert routed(bench) == [1]


async def test_a_reload_renews_standbys_too_and_leaves_everybody_their_role(bench):
    await start(bench, bench.app(max_workers=2, standby=1), 3)
    before = {worker.pid for worker in bench.view().workers}
    bench.pool.reload("app")
    await bench.seen(lambda event: event.kind is EventKind.RELOAD and event.data["step"] == "done")
    assert (routed(bench), standbys(bench)) == ([0, 1], [2])
    await bench.until(lambda: len(bench.view().workers) == 3)
    assert before.isdisjoint(worker.pid for worker in bench.view().workers)


async def test_standbys_come_and_go_with_the_setting_and_nobody_else_is_touched(bench):
    app = bench.app(max_workers=2)
    await start(bench, app, 2)
    await start(bench, bench.app(max_workers=2, standby=2), 4)
    assert standbys(bench) == [2, 3]
    await bench.pool.apply((bench.app(max_workers=2, standby=1),))
    gone = await bench.state(_S.EXITED)
    assert (gone.slot, gone.cause) == (3, Cause.SCALED_DOWN)
    assert (routed(bench), standbys(bench)) == ([0, 1], [2])
    assert bench.view().breaches == ()


async def test_every_death_in_a_row_is_healed_by_the_standby_of_the_moment(bench):
    await start(bench, bench.app(max_workers=2, standby=1), 3)
    since = 1
    for _ in range(6):
        victim = next(worker for worker in bench.view().workers if worker.state is _S.READY and not worker.standby)
        bench.pool.signal(victim.worker, signal.SIGKILL)
        healed = await bench.seen(lambda event: event.kind is EventKind.HEALED, since)
        since = healed.seq + 1
        assert healed.data["old_pid"] == victim.pid
        assert healed.data["promoted"]
        await bench.until(lambda: len(standbys(bench)) == 1)
        assert len(routed(bench)) == 2
    assert bench.view().breaches == ()
