"""A worker's life, with real processes."""

import asyncio
import os
import select
import signal
import time
from pathlib import Path

import msgspec
import pytest

from lab.core.errors import UnknownTargetError
from lab.core.events import EventKind
from lab.core.model import Liveness
from lab.core.states import Cause, WorkerState
from tests.process.conftest import PATIENCE

_S = WorkerState

IGNORES_SIGTERM = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
WAITS_AT_ITS_GATE = """
import os, time
while os.environ.get("GATE") and not os.path.exists(os.environ["GATE"]):
    time.sleep(0.005)
"""
ONLY_THE_FIRST_SERVES = """
import os, time
if not os.environ["CGILAB_WORKER"].startswith("app/0."):
    time.sleep(1000)
"""
NEVER_LISTENS = "import time\nprint('thinking', flush=True)\ntime.sleep(1000)\n"


async def test_a_worker_becomes_ready_and_enters_its_upstream(bench):
    await bench.pool.apply((bench.app(),))
    event = await bench.state(_S.READY)
    worker = bench.worker()
    assert worker.state is _S.READY
    assert worker.pid == event.pid
    assert worker.worker in bench.routes.routed
    assert [one.state for one in bench.events.read().events if one.state] == [_S.PENDING, _S.STARTING, _S.READY]


async def test_slots_are_shown_as_pending_while_their_program_is_prepared(bench):
    await bench.pool.apply((bench.app(max_workers=2),))
    assert [worker.state for worker in bench.view().workers] == [_S.PENDING, _S.PENDING]


async def test_a_killed_worker_is_replaced_and_the_photo_finish_is_in_order(bench):
    await bench.pool.apply((bench.app(),))
    await bench.state(_S.READY)
    old = bench.worker()
    bench.pool.signal(old.worker, signal.SIGKILL)
    photo = (await bench.kind(EventKind.HEALED)).data
    assert photo["old_pid"] == old.pid
    assert (photo["death"], photo["by"], photo["lost"]) == ("SIGKILL", "person", 0)
    times = [photo[name] for name in ("signal_at", "exit_at", "forked_at", "probe_at", "ready_at")]
    assert times == sorted(times)
    assert photo["heal_ms"] == pytest.approx((times[-1] - times[0]) * 1000)
    death = await bench.state(_S.EXITED)
    assert (death.cause, death.signal, death.pid) == (Cause.KILLED, "SIGKILL", old.pid)
    with pytest.raises(UnknownTargetError):
        bench.pool.signal(old.worker, signal.SIGKILL)


async def test_requests_inside_a_killed_worker_are_counted_as_lost(bench):
    await bench.pool.apply((bench.app(),))
    await bench.state(_S.READY)
    worker = bench.worker()
    bench.routes.sent[worker.worker] = 3
    bench.pool.signal(worker.worker, signal.SIGKILL)
    assert (await bench.kind(EventKind.HEALED)).data["lost"] == 3


async def test_a_kill_from_outside_is_told_as_such_and_healed(bench):
    app = bench.app(stable_after=0.0)
    await bench.pool.apply((app,))
    await bench.state(_S.READY)
    os.kill(bench.worker().pid, signal.SIGTERM)
    photo = (await bench.kind(EventKind.HEALED)).data
    assert (photo["by"], photo["signal_at"], photo["death"]) == ("outside", None, "SIGTERM")


async def test_intent_is_recorded_before_the_signal_and_a_stop_never_respawns(bench):
    app = bench.app(max_workers=2)
    await bench.pool.apply((app,))
    await bench.state(_S.READY, slot=0)
    await bench.state(_S.READY, slot=1)
    await bench.pool.apply((bench.app(max_workers=1),))
    death = await bench.state(_S.EXITED)
    assert (death.slot, death.cause, death.signal) == (1, Cause.SCALED_DOWN, "SIGTERM")
    told = [event for event in bench.events.read().events if event.slot == 1]
    draining = next(event.seq for event in told if event.state is _S.DRAINING)
    signalled = next(event.seq for event in told if event.kind is EventKind.SIGNAL)
    assert draining < signalled < death.seq
    assert [worker.worker.slot for worker in bench.view().workers] == [0]
    assert bench.count(_S.STARTING) == 2


def kill_unheard(pid: int) -> None:
    """Kill a process from outside, and return when it has ended. The loop stands still: nobody has heard of it."""
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([pidfd], [], [], PATIENCE)[0]
    finally:
        os.close(pidfd)


def sent(bench) -> list[str]:
    """The signals that were told as sent."""
    return [event.data["signal"] for event in bench.events.read().events if event.kind is EventKind.SIGNAL]


async def test_a_signal_that_comes_too_late_is_refused_and_neither_told_nor_blamed(bench):
    await bench.pool.apply((bench.app(),))
    await bench.state(_S.READY)
    worker = bench.worker()
    kill_unheard(worker.pid)
    with pytest.raises(UnknownTargetError, match="has ended just now"):
        bench.pool.signal(worker.worker, signal.SIGKILL)
    photo = (await bench.kind(EventKind.HEALED)).data
    assert (photo["by"], photo["signal_at"]) == ("outside", None)
    assert sent(bench) == []


async def test_a_signal_is_told_before_the_end_that_it_brings(bench):
    await bench.pool.apply((bench.app(),))
    await bench.state(_S.READY)
    bench.pool.signal(bench.worker().worker, signal.SIGKILL)
    death = await bench.state(_S.EXITED)
    signalled = await bench.kind(EventKind.SIGNAL)
    assert signalled.seq < death.seq
    assert signalled.at <= death.at


async def test_healing_helps_nobody_who_has_ended_meanwhile(bench):
    await bench.pool.apply((bench.app(),))
    await bench.state(_S.READY)
    worker = bench.worker()
    bench.pool.signal(worker.worker, signal.SIGSTOP)
    await bench.kind(EventKind.STOPPED)
    kill_unheard(worker.pid)
    assert bench.pool.heal() == 0
    await bench.kind(EventKind.HEALED)
    assert sent(bench) == ["SIGSTOP"]


async def test_a_worker_that_ended_before_it_was_stopped_was_sent_nothing(bench):
    await bench.pool.apply((bench.app(NEVER_LISTENS),))
    kill_unheard((await bench.state(_S.STARTING)).pid)
    await bench.pool.apply(())
    death = await bench.state(_S.EXITED)
    assert (death.cause, death.signal) == (Cause.STOPPED, "SIGKILL")
    assert sent(bench) == []


async def test_scaling_down_takes_idle_workers_first(bench):
    await bench.pool.apply((bench.app(max_workers=2),))
    await bench.state(_S.READY, slot=0)
    await bench.state(_S.READY, slot=1)
    busy = next(worker for worker in bench.view().workers if worker.worker.slot == 1)
    await bench.routes.occupy(busy.endpoint)
    await bench.pool.apply((bench.app(max_workers=1),))
    assert (await bench.state(_S.EXITED)).slot == 0
    bench.routes.release(busy.endpoint)


async def test_scaling_down_while_others_start_leaves_the_one_that_serves(bench):
    app = bench.app(ONLY_THE_FIRST_SERVES + bench.PROGRAM, max_workers=1, start_timeout=30.0, concurrent_starts=2)
    await bench.pool.apply((app,))
    await bench.state(_S.READY)
    await bench.pool.apply((msgspec.structs.replace(app, pool=msgspec.structs.replace(app.pool, max_workers=3)),))
    await bench.state(_S.STARTING, slot=2)
    await bench.pool.apply((app,))
    assert {(await bench.state(_S.EXITED, slot=slot)).cause for slot in (1, 2)} == {Cause.SCALED_DOWN}
    assert [worker.slot for worker in bench.routes.routed] == [0]


async def test_a_slot_that_is_filled_again_counts_its_generations_on(bench):
    await bench.pool.apply((bench.app(max_workers=1),))
    await bench.state(_S.READY)
    await bench.pool.apply((bench.app(max_workers=0),))
    gone = await bench.state(_S.EXITED)
    await bench.pool.apply((bench.app(max_workers=1),))
    assert (await bench.state(_S.READY, gone.seq)).generation == 2


async def test_requests_in_flight_are_finished_before_sigterm(bench):
    await bench.pool.apply((bench.app(drain_timeout=5.0),))
    await bench.state(_S.READY)
    endpoint = bench.worker().endpoint
    await bench.routes.occupy(endpoint)
    await bench.pool.apply((bench.app(max_workers=0, drain_timeout=5.0),))
    draining = await bench.state(_S.DRAINING)
    assert endpoint.worker not in bench.routes.routed
    assert bench.count(_S.STOPPING) == 0
    bench.routes.release(endpoint)
    await bench.state(_S.STOPPING, draining.seq)
    await bench.state(_S.EXITED)


async def test_a_worker_that_ignores_sigterm_is_killed_when_its_grace_is_over(bench):
    app = bench.app(IGNORES_SIGTERM + bench.PROGRAM, stop_timeout=0.2)
    await bench.pool.apply((app,))
    await bench.state(_S.READY)
    await bench.pool.apply(())
    killing = await bench.state(_S.KILLING)
    death = await bench.state(_S.EXITED)
    assert (death.cause, death.signal) == (Cause.STOPPED, "SIGKILL")
    stopping = await bench.state(_S.STOPPING)
    assert killing.at - stopping.at >= 0.19  # uvloop counts whole milliseconds from when its turn began


async def test_more_patience_that_is_set_while_a_worker_ends_is_for_the_next(bench):
    await bench.pool.apply((bench.app(IGNORES_SIGTERM + bench.PROGRAM, max_workers=1, stop_timeout=0.3),))
    await bench.state(_S.READY)
    busy = bench.worker()
    await bench.routes.occupy(busy.endpoint)
    await bench.pool.apply((bench.app(IGNORES_SIGTERM + bench.PROGRAM, max_workers=0, stop_timeout=0.3),))
    await bench.state(_S.DRAINING)
    await bench.pool.apply((bench.app(IGNORES_SIGTERM + bench.PROGRAM, max_workers=0, stop_timeout=60.0),))
    bench.routes.release(busy.endpoint)
    assert "did not end within 0.3 s of SIGTERM" in (await bench.state(_S.KILLING)).text
    await bench.state(_S.EXITED)
    assert bench.view().breaches == ()


async def test_a_stop_during_start_completes_within_its_grace(bench):
    await bench.pool.apply((bench.app(NEVER_LISTENS),))
    await bench.state(_S.STARTING)
    await bench.pool.apply(())
    stopping = await bench.state(_S.STOPPING)
    await bench.state(_S.EXITED, stopping.seq)
    assert bench.count(_S.KILLING) == 0
    assert bench.count(_S.STARTING) == 1


async def test_a_stop_before_the_fork_was_answered_ends_the_process_as_soon_as_it_exists(bench):
    await bench.pool.apply((bench.app(),))
    await bench.state(_S.READY)
    await bench.pool.apply((bench.app(max_workers=2),))
    await bench.pool.apply((bench.app(max_workers=1),))
    await bench.state(_S.EXITED)
    states = [event.state for event in bench.events.read().events if event.slot == 1 and event.state]
    assert states == [_S.PENDING, _S.STARTING, _S.STOPPING, _S.EXITED]


async def test_freezing_is_told_and_does_not_change_the_state_by_itself(bench):
    app = bench.app()
    calm = msgspec.structs.replace(app, liveness=msgspec.structs.replace(app.liveness, interval=60.0))
    await bench.pool.apply((calm,))
    await bench.state(_S.READY)
    worker = bench.worker().worker
    bench.pool.signal(worker, signal.SIGSTOP)
    await bench.kind(EventKind.STOPPED)
    frozen = bench.worker()
    assert (frozen.stopped, frozen.state) == (True, _S.READY)
    assert worker in bench.routes.routed
    assert bench.pool.heal() == 1
    await bench.kind(EventKind.CONTINUED)
    assert not bench.worker().stopped


async def test_a_frozen_worker_leaves_its_upstream_and_comes_back_when_thawed(bench):
    await bench.pool.apply((bench.strict(bench.app()),))
    await bench.state(_S.READY)
    worker = bench.worker().worker
    bench.pool.signal(worker, signal.SIGSTOP)
    unhealthy = await bench.state(_S.UNHEALTHY)
    assert worker not in bench.routes.routed
    bench.pool.signal(worker, signal.SIGCONT)
    await bench.state(_S.READY, unhealthy.seq)
    assert worker in bench.routes.routed
    assert bench.worker().worker.generation == 1


async def test_a_frozen_worker_that_is_scaled_away_is_thawed_to_hear_sigterm(bench):
    await bench.pool.apply((bench.strict(bench.app(stop_timeout=30.0)),))
    await bench.state(_S.READY)
    bench.pool.signal(bench.worker().worker, signal.SIGSTOP)
    await bench.state(_S.UNHEALTHY)
    await bench.pool.apply((bench.strict(bench.app(max_workers=0, stop_timeout=30.0)),))
    assert (await bench.state(_S.EXITED)).signal == "SIGTERM"


async def test_one_hung_worker_does_not_delay_the_detection_of_another(bench):
    app = bench.app(max_workers=3)
    patience = 1.0
    await bench.pool.apply((msgspec.structs.replace(app, liveness=Liveness(interval=0.05, timeout=patience, fall=1)),))
    for slot in range(3):
        await bench.state(_S.READY, slot=slot)
    workers = [worker.worker for worker in bench.view().workers]
    for worker in workers:
        bench.pool.signal(worker, signal.SIGSTOP)
    found = [(await bench.state(_S.UNHEALTHY, slot=slot)).at for slot in range(3)]
    assert max(found) - min(found) < 1.5 * patience, "one after the other, each would have waited for the one before"


async def test_a_worker_that_has_answered_is_well_however_late_the_lab_looks(bench):
    answered = bench.folder / "answered"
    counts = bench.PROGRAM + f"        open({str(answered)!r}, 'a').write('.')\n"
    acquire, strict = bench.routes.acquire, Liveness(interval=0.05, timeout=0.1, fall=1)
    readable, writable = os.pipe()
    before = 0

    def answers() -> int:
        return answered.stat().st_size if answered.exists() else 0

    def held_up(endpoint):
        """The lab is held up as soon as it has asked, until the time for the answer is long over."""
        nonlocal before
        before = answers()
        os.write(writable, b".")
        return acquire(endpoint)

    def hold_up():
        since = time.monotonic()
        os.read(readable, 1)
        while time.monotonic() - since < 2 * strict.timeout or (answers() == before and not late(since)):
            time.sleep(0.005)

    def late(since: float) -> bool:
        return time.monotonic() - since > PATIENCE

    asyncio.get_running_loop().add_reader(readable, hold_up)
    bench.routes.acquire = lambda endpoint: False  # it is busy, and not asked
    await bench.pool.apply((msgspec.structs.replace(bench.app(counts), liveness=strict),))
    await bench.state(_S.READY)
    await bench.until(lambda: answers() == 1)
    bench.routes.acquire = held_up
    await bench.until(lambda: answers() >= 1 + 6)
    bench.routes.acquire = acquire
    asyncio.get_running_loop().remove_reader(readable)
    os.close(readable)
    os.close(writable)
    assert bench.count(_S.UNHEALTHY) == 0


async def test_a_worker_that_always_answers_late_is_not_well_by_any_of_its_answers(bench):
    answered = bench.folder / "answered"
    late = bench.PROGRAM.replace("        connection.sendall", "        time.sleep(0.6)\n        connection.sendall")
    counts = "import time\n" + late + f"        open({str(answered)!r}, 'a').write('.')\n"
    strict = Liveness(interval=0.05, timeout=0.05, fall=2)
    await bench.pool.apply((msgspec.structs.replace(bench.app(counts), liveness=strict),))
    await bench.state(_S.UNHEALTHY)
    before = answered.stat().st_size
    await bench.until(lambda: answered.stat().st_size >= before + 4)  # a new question follows the answer to the last
    assert bench.count(_S.READY) == 1


async def test_a_busy_worker_is_not_probed_but_judged_by_its_oldest_request(bench):
    await bench.pool.apply((bench.strict(bench.app()),))
    await bench.state(_S.READY)
    worker = bench.worker()
    await bench.routes.occupy(worker.endpoint)
    bench.routes.since[worker.worker] = bench.clock.monotonic()
    unhealthy = await bench.state(_S.UNHEALTHY)
    assert "busy with one request" in unhealthy.text


async def test_a_worker_that_stays_unhealthy_is_replaced_before_it_is_stopped(bench):
    await bench.pool.apply((bench.strict(bench.app(stop_timeout=0.2), replace_after=0.1),))
    await bench.state(_S.READY)
    bench.pool.signal(bench.worker().worker, signal.SIGSTOP)
    successor = await bench.state(_S.READY, generation=2)
    death = await bench.state(_S.EXITED, generation=1)
    assert successor.seq < death.seq
    assert death.cause is Cause.UNHEALTHY


async def test_a_changed_program_comes_worker_by_worker_with_the_new_one_ready_first(bench):
    app = bench.app(max_workers=2)
    await bench.pool.apply((app,))
    await bench.state(_S.READY, slot=0)
    await bench.state(_S.READY, slot=1)
    await bench.pool.apply((msgspec.structs.replace(app, env={"COLOUR": "green"}),))
    for slot in range(2):
        old = await bench.state(_S.EXITED, slot=slot)
        new = await bench.state(_S.READY, slot=slot, generation=2)
        assert new.seq < old.seq
        assert old.cause is Cause.RELOADED
    order = [(event.slot, event.state) for event in bench.events.read().events if event.generation == 2 and event.state]
    assert order.index((0, _S.READY)) < order.index((1, _S.STARTING))


async def test_a_new_program_that_does_not_get_ready_leaves_the_old_worker_serving(bench):
    await bench.pool.apply((bench.app(),))
    await bench.state(_S.READY)
    before = bench.worker().pid
    await bench.pool.apply((bench.app("raise SystemExit(3)\n"),))
    await bench.seen(lambda event: event.kind is EventKind.NOTE and "did not get ready" in event.text)
    assert [(worker.pid, worker.state) for worker in bench.view().workers] == [(before, _S.READY)]


async def test_while_a_new_program_is_on_trial_other_slots_are_refilled_with_the_old_one(bench):
    app = bench.app(WAITS_AT_ITS_GATE + bench.PROGRAM, max_workers=2)
    await bench.pool.apply((app,))
    for slot in range(2):
        await bench.state(_S.READY, slot=slot)
    gate = bench.folder / "gate"
    await bench.pool.apply((msgspec.structs.replace(app, env={"GATE": str(gate)}),))
    await bench.state(_S.STARTING, slot=0, generation=2)
    bench.pool.signal(bench.view().workers[-1].worker, signal.SIGKILL)
    await bench.state(_S.READY, slot=1, generation=2)
    gate.touch()
    await bench.state(_S.READY, slot=0, generation=2)
    await bench.state(_S.READY, slot=1, generation=3)


async def test_after_a_failed_reload_the_old_program_goes_on_refilling(bench):
    app = bench.app("import os\nif os.environ.get('BROKEN'):\n    raise SystemExit(3)\n" + bench.PROGRAM)
    await bench.pool.apply((app,))
    await bench.state(_S.READY)
    await bench.pool.apply((msgspec.structs.replace(app, env={"BROKEN": "1"}),))
    note = await bench.seen(lambda event: event.kind is EventKind.NOTE and "did not get ready" in event.text)
    bench.pool.signal(bench.worker().worker, signal.SIGKILL)
    successor = await bench.state(_S.READY, note.seq)
    assert successor.generation > 2
    assert bench.count(_S.BACKOFF) == 0


async def test_a_worker_that_gets_ready_while_its_successor_starts_serves_until_the_successor_is_ready(bench):
    gates = [bench.folder / "old", bench.folder / "new"]
    app = bench.app(WAITS_AT_ITS_GATE + bench.PROGRAM)
    old, new = (msgspec.structs.replace(app, env={"GATE": str(gate)}) for gate in gates)
    await bench.pool.apply((old,))
    await bench.state(_S.STARTING, generation=1)
    await bench.pool.apply((new,))
    await bench.state(_S.STARTING, generation=2)
    gates[0].touch()
    await bench.state(_S.READY, generation=1)
    assert [worker.state for worker in bench.view().workers] == [_S.READY, _S.STARTING]
    gates[1].touch()
    ready = await bench.state(_S.READY, generation=2)
    assert (await bench.state(_S.EXITED, generation=1)).seq > ready.seq


async def test_a_successor_that_is_scaled_away_before_its_turn_does_not_hold_up_the_reload(bench):
    flag = bench.folder / "flag"
    waits = f"import os, time\nwhile os.path.exists({str(flag)!r}):\n    time.sleep(0.005)\n"
    app = bench.app(waits + bench.PROGRAM, max_workers=2, concurrent_starts=1)
    await bench.pool.apply((app,))
    for slot in range(2):
        await bench.state(_S.READY, slot=slot)
    flag.touch()
    wider = msgspec.structs.replace(app, pool=msgspec.structs.replace(app.pool, max_workers=3))
    await bench.pool.apply((wider,))
    await bench.state(_S.STARTING, slot=2)
    await bench.pool.apply((msgspec.structs.replace(wider, env={"COLOUR": "green"}),))
    await bench.state(_S.PENDING, slot=0, generation=2)
    await bench.pool.apply((msgspec.structs.replace(app, env={"COLOUR": "green"}),))
    flag.unlink()
    await bench.state(_S.EXITED, slot=0, generation=1)
    await bench.state(_S.READY, slot=1, generation=2)


async def test_settings_alone_restart_nobody(bench):
    await bench.pool.apply((bench.app(),))
    await bench.state(_S.READY)
    await bench.pool.apply((bench.app(max_workers=2, stop_timeout=0.5),))
    await bench.state(_S.READY, slot=1)
    assert bench.count(_S.STARTING) == 2


async def test_output_is_kept_at_hand_and_whole_in_the_log(bench):
    noisy = "import os\nos.write(1, b'hello \\xff\\x1b[31m\\nsecond\\n')\n"
    await bench.pool.apply((bench.app(noisy + bench.PROGRAM),))
    await bench.state(_S.READY)
    assert bench.pool.output("app", 0) == ("hello \\xff\\x1b[31m", "second")
    await bench.pool.close()
    assert (bench.folder / "logs" / "app-0.log").read_bytes() == b"hello \xff\x1b[31m\nsecond\n"


async def test_the_kernel_tells_cpu_and_memory(bench):
    await bench.pool.apply((bench.app(),))
    await bench.state(_S.READY)
    await bench.until(lambda: bench.worker().cpu_percent is not None)
    assert bench.worker().rss_bytes > 1_000_000


async def test_an_app_that_comes_back_while_it_drains_counts_its_generations_on(bench):
    await bench.pool.apply((bench.app(),))
    await bench.state(_S.READY)
    endpoint = bench.worker().endpoint
    await bench.routes.occupy(endpoint)
    await bench.pool.apply(())
    await bench.state(_S.DRAINING)
    await bench.pool.apply((bench.app(),))
    assert (await bench.state(_S.READY, generation=2)).slot == 0
    assert bench.count(_S.EXITED) == 0
    bench.routes.release(endpoint)
    await bench.state(_S.EXITED, generation=1)
    assert [worker.worker.generation for worker in bench.view().workers] == [2]


async def test_a_slot_that_waits_in_back_off_leaves_at_once_when_it_is_scaled_away(bench):
    await bench.pool.apply((bench.app("raise SystemExit(1)\n", backoff_initial=60.0),))
    await bench.state(_S.BACKOFF)
    assert bench.worker().retry_at > bench.clock.monotonic() + 20
    since = bench.events.next
    await bench.pool.apply((bench.app("raise SystemExit(1)\n", max_workers=0),))
    assert (await bench.state(_S.EXITED, since)).slot == 0
    assert bench.view().workers == ()


async def test_an_app_that_is_removed_and_comes_back_at_once_is_started(bench):
    app = bench.app()
    await bench.pool.apply((app,))
    await bench.pool.apply(())
    await bench.pool.apply((app,))
    await bench.state(_S.READY)


async def test_a_source_that_is_written_while_it_is_read_is_read_once_more(bench):
    app = bench.app()
    source = Path(app.source)
    text, slow = source.read_text(), source.with_name("slow")
    os.mkfifo(slow)
    slow.replace(source)  # to read it takes until somebody writes
    await bench.pool.apply((app,))
    writer = await asyncio.to_thread(os.open, source, os.O_WRONLY)
    bench.source(text, "new")
    source.with_name("new").replace(source)
    await bench.pool.apply((app,))
    os.write(writer, b"the half of a prog")
    os.close(writer)
    await bench.state(_S.READY)
    more = msgspec.structs.replace(app, pool=msgspec.structs.replace(app.pool, max_workers=2))
    await bench.pool.apply((more,))
    await bench.state(_S.READY, slot=1)
    assert {event.generation for event in bench.events.read().events if event.state is _S.PENDING} == {1}
