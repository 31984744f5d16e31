"""What must hold at every instant, while the pool is treated badly."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter

import msgspec
import pytest

from lab.core.errors import UnknownTargetError
from lab.core.events import Event
from lab.core.model import Contract, WorkerId
from lab.core.states import Policy, WorkerState
from lab.pool import supervisor
from lab.pool.backends import python_builtin

_S = WorkerState
LIVE = {_S.STARTING, _S.READY, _S.UNHEALTHY}
SERVES_BY_ANY_CONTRACT = """
import os, socket, time
time.sleep(float(os.environ["SLOW"]))
if "LISTEN_FDS" in os.environ:
    server = socket.socket(fileno=3)
elif "SOCKET" in os.environ:
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.environ["SOCKET"])
else:
    server = socket.socket()
    server.bind(("127.0.0.1", int(os.environ["PORT"])))
server.listen()
while True:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")
"""
NEVER_LISTENS = "import time\ntime.sleep(1000)\n"


class Count:
    """Counts the live workers of `app` from what is told, and remembers the most there ever were at once."""

    def __init__(self, bench) -> None:
        self.live: set[tuple[int, int]] = set()
        self.most = 0
        bench.events.watch(self._look)

    def _look(self, event: Event) -> None:
        if event.state is None:
            return
        if event.state in LIVE:
            self.live.add((event.slot, event.generation))
        else:
            self.live.discard((event.slot, event.generation))
        self.most = max(self.most, len(self.live))


async def all_ready(bench, number: int) -> None:
    await bench.until(lambda: [worker.state for worker in bench.view().workers] == [_S.READY] * number)


def slots(bench, state: WorkerState) -> list[int]:
    """The slot of each worker that went to `state`, as often as one did."""
    return [event.slot for event in bench.events.read(1, 10_000).events if event.state is state]


def hold_up_the_loop(seconds: float) -> None:
    """No timer and no reader is called meanwhile."""
    time.sleep(seconds)


async def test_a_storm_of_kills_breaks_nothing_and_all_come_back(bench):
    rng, count = random.Random(7), Count(bench)
    await bench.pool.apply((bench.app(max_workers=4, standby=1, stable_after=0.0),))
    await all_ready(bench, 5)
    for number in range(60):
        victim = rng.choice(bench.view().workers)
        if victim.pid is not None and number % 2:
            os.kill(victim.pid, signal.SIGKILL)
        elif victim.pid is not None:
            with contextlib.suppress(UnknownTargetError):  # it was killed before, and has not been told of yet
                bench.pool.signal(victim.worker, signal.SIGKILL)
        await asyncio.sleep(0.01)  # the storm's pace
    await all_ready(bench, 5)
    assert count.most <= 5
    assert len(bench.routes.routed) == 4
    assert bench.view().breaches == ()


async def test_scaling_to_and_fro_during_start_breaks_nothing(bench):
    rng, count = random.Random(11), Count(bench)
    for _ in range(25):
        await bench.pool.apply((bench.app(max_workers=rng.randrange(6)),))
        await asyncio.sleep(rng.random() * 0.06)  # anywhere within a start
        if rng.random() < 0.3:
            bench.pool.reload("app")
    await bench.pool.apply((bench.app(max_workers=3),))
    await all_ready(bench, 3)
    assert count.most <= 6
    assert bench.view().breaches == ()


async def test_no_more_workers_start_at_the_same_time_than_the_setting_says(bench):
    starting, most = set(), []

    def look(event: Event) -> None:
        if event.state is _S.STARTING:
            starting.add(event.slot)
        elif event.state is not None:
            starting.discard(event.slot)
        most.append(len(starting))

    bench.events.watch(look)
    await bench.pool.apply((bench.app(max_workers=5, concurrent_starts=2),))
    await all_ready(bench, 5)
    assert max(most) == 2


@pytest.mark.parametrize("policy", [Policy.STATIC, Policy.DYNAMIC, Policy.ONDEMAND])
async def test_a_program_that_exits_at_once_is_started_ever_less_often_under_every_policy(bench, monkeypatch, policy):
    monkeypatch.setattr(python_builtin, "_TICK", 0.1)
    app = bench.app(
        "raise SystemExit(1)\n", policy=policy, max_workers=8, start_workers=2, max_spare=5, min_spare=3,
        backoff_initial=0.05,
    )  # fmt: skip
    await bench.pool.apply((app,))
    for _ in range(3):
        bench.pool.starved("app")
    await bench.state(_S.STARTING)
    await bench.until(lambda: min(Counter(slots(bench, _S.STARTING)).values()) >= 4)
    for slot in set(slots(bench, _S.STARTING)):
        told = [event for event in bench.events.read(1, 10_000).events if event.slot == slot]
        deaths = [event.at for event in told if event.state is _S.EXITED]
        starts = [event.at for event in told if event.state is _S.STARTING]
        for number, (death, start) in enumerate(zip(deaths, starts[1:], strict=False)):
            assert start - death >= 0.8 * 0.05 * 2**number - 0.005
    assert bench.view().breaches == ()


async def test_one_hung_worker_among_others_is_found_and_nobody_else_is_affected(bench):
    await bench.pool.apply((bench.strict(bench.app(max_workers=4)),))
    await all_ready(bench, 4)
    workers = [worker.worker for worker in bench.view().workers]
    bench.pool.signal(workers[1], signal.SIGSTOP)
    await bench.state(_S.UNHEALTHY, slot=1)
    hung = bench.events.next
    bench.pool.signal(workers[3], signal.SIGSTOP)
    await bench.state(_S.UNHEALTHY, hung, slot=3)
    await bench.until(lambda: [one.state for one in bench.view().workers][::2] == [_S.READY, _S.READY])
    await bench.until(lambda: bench.view().breaches == () and bench.pool.heal() == 0)
    await all_ready(bench, 4)


async def test_no_probe_counts_as_late_for_settings_that_are_changed_while_a_worker_hangs(bench):
    await bench.pool.apply((bench.strict(bench.app(max_workers=4)),))
    await all_ready(bench, 4)
    bench.pool.signal(bench.worker().worker, signal.SIGSTOP)
    await bench.state(_S.UNHEALTHY)
    for number in range(3):  # in one turn of the loop, in which no probe can begin
        hold_up_the_loop(0.06)
        await bench.pool.apply((bench.strict(bench.app(max_workers=4, idle_timeout=1.0 + number)),))
    assert bench.view().breaches == ()


async def test_a_worker_that_was_stopped_during_its_start_is_gone_within_its_grace_and_never_comes_back(
    bench, monkeypatch
):
    monkeypatch.setattr(python_builtin, "_TICK", 0.1)
    await bench.pool.apply((bench.app(NEVER_LISTENS, max_workers=2, start_timeout=30.0),))
    await bench.state(_S.STARTING, slot=1)
    await bench.pool.apply((bench.app(NEVER_LISTENS, max_workers=1, start_timeout=30.0),))
    gone = await bench.state(_S.EXITED, slot=1)
    three_looks = gone.at + 0.35
    await bench.until(lambda: bench.clock.monotonic() > three_looks)
    assert not [event for event in bench.events.read(gone.seq + 1).events if event.slot == 1]
    assert bench.view().breaches == ()


async def test_a_worker_that_cannot_be_ended_within_its_grace_is_told_as_a_breach(bench, monkeypatch):
    monkeypatch.setattr(python_builtin, "_TICK", 0.1)
    monkeypatch.setattr(supervisor, "_KILL_MARGIN", 0.1)
    await bench.pool.apply((bench.app(drain_timeout=0.1, stop_timeout=0.1),))
    await bench.state(_S.READY)
    assert bench.view().breaches == ()
    os.kill(bench.spawner.pid, signal.SIGSTOP)  # who delivers all signals to groups
    await bench.pool.apply((bench.app(max_workers=0, drain_timeout=0.1, stop_timeout=0.1),))
    await bench.until(lambda: bench.view().breaches == ("stops_are_final",))
    os.kill(bench.spawner.pid, signal.SIGCONT)
    await bench.state(_S.EXITED)


async def test_kills_during_a_reload_leave_as_many_workers_as_there_should_be(bench):
    rng, count = random.Random(3), Count(bench)
    await bench.pool.apply((bench.app(max_workers=3, stable_after=0.0),))
    await all_ready(bench, 3)
    for _ in range(4):
        bench.pool.reload("app")
        for _ in range(5):
            victim = rng.choice(bench.view().workers)
            with contextlib.suppress(UnknownTargetError):  # it waits for its turn
                bench.pool.signal(victim.worker, signal.SIGKILL)
            await asyncio.sleep(0.02)  # the storm's pace
    await bench.until(lambda: [worker.state for worker in bench.view().workers] == [_S.READY] * 3)
    assert count.most <= 4
    assert bench.view().breaches == ()


class Mischief:
    """What may be done to a pool, at random."""

    def __init__(self, bench, seed: int) -> None:
        self._bench = bench
        self._rng = random.Random(seed)

    async def commit(self) -> None:
        """One misdeed."""
        deeds = (
            self._settings, self._settings, self._remove, self._reload, self._heal, self._starve, self._spend,
            self._kill_fork_server,
        )  # fmt: skip
        workers = [worker for app in self._bench.pool.observe().apps for worker in app.workers]
        if workers and self._rng.random() < 0.3:
            with contextlib.suppress(UnknownTargetError):  # it has no process
                number = self._rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGCONT))
                self._bench.pool.signal(self._rng.choice(workers).worker, number)
        else:
            await self._rng.choice(deeds)(tuple(worker.worker for worker in workers))
        await asyncio.sleep(self._rng.random() * 0.03)  # anywhere within a start

    async def _settings(self, _: tuple[WorkerId, ...]) -> None:
        draw = self._rng.randrange
        text = f"{SERVES_BY_ANY_CONTRACT if draw(8) else 'raise SystemExit(1)'}\n# {draw(3)}\n"
        app = self._bench.app(
            text, policy=self._rng.choice(list(Policy)), max_workers=draw(6), min_workers=draw(3), max_spare=2,
            start_workers=draw(4), standby=draw(3), idle_timeout=draw(3) / 2, max_requests=20 * draw(2), stable_after=0,
        )  # fmt: skip
        contracts = [Contract.HTTP_PORT, Contract.HTTP_UNIX, Contract.HTTP_FD, Contract.HTTP_SHARED, Contract.CGI]
        slow = {"SLOW": self._rng.choice(("0", "0", "0.1"))}
        app = msgspec.structs.replace(app, protocol=self._rng.choice(contracts), env=slow)
        await self._bench.pool.apply((self._bench.strict(app),))

    async def _remove(self, _: tuple[WorkerId, ...]) -> None:
        if self._rng.random() < 0.3:
            await self._bench.pool.apply(())

    async def _reload(self, workers: tuple[WorkerId, ...]) -> None:
        if workers:
            self._bench.pool.reload("app")

    async def _kill_fork_server(self, _: tuple[WorkerId, ...]) -> None:
        if self._rng.random() < 0.2 and self._bench.spawner.pid:
            os.kill(self._bench.spawner.pid, signal.SIGKILL)

    async def _heal(self, _: tuple[WorkerId, ...]) -> None:
        self._bench.pool.heal()

    async def _starve(self, _: tuple[WorkerId, ...]) -> None:
        self._bench.pool.starved("app")

    async def _spend(self, workers: tuple[WorkerId, ...]) -> None:
        self._bench.routes.counted |= dict.fromkeys(workers[::2], 100)


async def test_whatever_is_done_to_a_pool_in_whatever_order_nothing_breaks_and_it_comes_back(bench, monkeypatch):
    monkeypatch.setattr(python_builtin, "_TICK", 0.2)
    defects: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: defects.append(context))
    mischief = Mischief(bench, seed=7)
    end = bench.clock.monotonic() + 3.0
    while bench.clock.monotonic() < end:
        await mischief.commit()
        apps = bench.pool.observe().apps
        assert [app.breaches for app in apps] in ([], [()])
        serving = {one.worker for app in apps for one in app.workers if one.state is _S.READY and not one.standby}
        shown = {one.worker for app in apps for one in app.workers}
        assert serving == shown & bench.routes.routed.keys()
    await bench.pool.apply((bench.app(max_workers=3, standby=1),))
    bench.pool.heal()
    await all_ready(bench, 4)
    assert len(bench.routes.routed) == 3
    assert defects == []
