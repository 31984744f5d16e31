"""A worker's life, with real processes."""

import os
import signal

import pytest

from lab.core.errors import UnknownTargetError
from lab.core.events import EventKind
from lab.core.states import Cause, WorkerState

_S = WorkerState


async def test_a_worker_becomes_ready_and_enters_its_upstream(bench):
    await bench.pool.apply((bench.app(),))
    event = await bench.state(_S.READY)
    worker = bench.worker()
    assert worker.state is _S.READY
    assert worker.pid == event.pid
    assert worker.worker in bench.routes.routed
    assert [one.state for one in bench.events.read().events if one.state] == [_S.PENDING, _S.STARTING, _S.READY]


async def test_a_killed_worker_is_replaced_and_the_photo_finish_is_in_order(bench):
    await bench.pool.apply((bench.app(),))
    await bench.state(_S.READY)
    old = bench.worker()
    bench.pool.signal(old.worker, signal.SIGKILL)
    healed = await bench.kind(EventKind.HEALED)
    photo = healed.data
    assert photo["old_pid"] == old.pid
    assert (photo["death"], photo["by"], photo["lost"]) == ("SIGKILL", "person", 0)
    times = [photo[name] for name in ("signal_at", "exit_at", "forked_at", "probe_at", "ready_at")]
    assert times == sorted(times)
    assert photo["heal_ms"] == pytest.approx((times[-1] - times[0]) * 1000)
    death = await bench.state(_S.EXITED)
    assert (death.cause, death.signal, death.pid) == (Cause.KILLED, "SIGKILL", old.pid)
    with pytest.raises(UnknownTargetError):
        bench.pool.signal(old.worker, signal.SIGKILL)
