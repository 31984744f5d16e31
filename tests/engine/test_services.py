"""An app and the processes that it needs, in a whole lab: it waits for them, outlives their troubles, goes first."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from lab import bootstrap
from lab.core.errors import NotPossibleError
from lab.core.events import Event, EventKind
from lab.core.model import AppSpec, HealthMethod, ListenerSpec, PoolSettings, Restart, ServiceHealth, ServiceSpec
from lab.core.snapshot import LabSnapshot
from lab.core.states import Policy, ServiceState, WorkerState
from lab.engine.lab import LabSpec
from lab.engine.local import LocalLab
from lab.engine.services import held

SOURCE = bootstrap.default_manifest().parent / "search" / "python" / "search.py"


def spec(flag: Path, **app: Any) -> LabSpec:
    """An app that needs a process that is healthy while the file `flag` exists."""
    health = ServiceHealth(method=HealthMethod.FILE, path=str(flag), interval=0.02)
    needed = ServiceSpec(name="db", command=("sleep", "1000"), health=health, restart=Restart.NEVER)
    pool = app.pop("pool", PoolSettings(max_workers=1, start_timeout=30))
    search = AppSpec(name="search", route="/s", language="python", source=str(SOURCE), needs=("db",), pool=pool, **app)
    return LabSpec(name="services", listener=ListenerSpec(port=0), apps=(search,), processes=(needed,), own_rate=0)


@asynccontextmanager
async def running(spec: LabSpec) -> AsyncIterator[LocalLab]:
    lab = bootstrap.local_lab(spec, control=None)
    await asyncio.to_thread(lab.start)
    try:
        yield lab
    finally:
        await lab.close()


async def until(lab: LocalLab, holds: Callable[[LabSnapshot], bool]) -> LabSnapshot:
    async with asyncio.timeout(30):
        while True:
            snapshot = await lab.snapshot()
            if holds(snapshot):
                return snapshot
            await lab.events(snapshot.events_next, wait=0.1)


def serves(snapshot: LabSnapshot) -> bool:
    return any(worker.routed for worker in snapshot.apps[0].workers)


async def test_an_app_has_no_worker_and_says_why_until_what_it_needs_is_healthy(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    async with running(spec(flag)) as lab, httpx.AsyncClient() as client:
        snapshot = await lab.snapshot()
        app, (needed,) = snapshot.apps[0], snapshot.processes
        assert (app.waits_for, app.workers, app.wanted, app.max_workers) == (("db",), (), 0, 1)
        assert (needed.state, needed.needs) == (ServiceState.STARTING, ())
        refused = await client.get(f"{snapshot.listener}/s")
        assert refused.status_code == 503
        assert refused.json()["detail"] == "search is unavailable: it waits for db to be healthy."
        flag.touch()
        snapshot = await until(lab, serves)
        assert snapshot.apps[0].waits_for == ()
        assert (await client.get(f"{snapshot.listener}/s")).status_code == 200
        told = [event.text for event in (await lab.events()).events if event.kind is EventKind.APP_STATUS]
        assert told == ["search waits for db", "search may start: db is healthy"]


@pytest.mark.parametrize("policy", [Policy.DYNAMIC, Policy.ONDEMAND])
async def test_under_every_policy_it_waits_and_then_begins_as_the_policy_has_it(tmp_path: Path, policy: Policy) -> None:
    flag = tmp_path / "flag"
    pool = PoolSettings(policy=policy, max_workers=4, start_workers=2, start_timeout=30)
    async with running(spec(flag, pool=pool)) as lab:
        assert (await lab.request("search")).status == 503
        assert (await lab.snapshot()).apps[0].workers == ()
        flag.touch()
        await until(lab, lambda snapshot: not snapshot.apps[0].waits_for)
        async with asyncio.timeout(40):
            while (await lab.request("search")).status != 200:
                await asyncio.sleep(0.02)
        assert not any(event.kind is EventKind.LIMIT for event in (await lab.events()).events)


def test_a_policy_has_nothing_to_say_while_an_app_waits(tmp_path: Path) -> None:
    dynamic = PoolSettings(policy=Policy.DYNAMIC, max_workers=4, min_workers=2, standby=1)
    (app,) = spec(tmp_path, pool=dynamic).apps
    assert held(app).pool == msgspec.structs.replace(dynamic, policy=Policy.STATIC, max_workers=0, standby=0)


async def test_an_app_keeps_its_workers_when_what_it_needs_is_in_trouble_or_is_replaced(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    async with running(spec(flag)) as lab:
        pid = (await until(lab, serves)).apps[0].workers[0].pid
        flag.unlink()
        await until(lab, lambda snapshot: snapshot.processes[0].state is ServiceState.UNHEALTHY)
        assert (await lab.request("search")).pid == pid
        now = await lab.spec()
        changed = msgspec.structs.replace(now.processes[0], env={"A": "1"})
        await lab.apply(msgspec.structs.replace(now, processes=(changed,)))
        assert (await lab.request("search")).pid == pid
        assert (await lab.snapshot()).apps[0].waits_for == ()


async def test_workers_are_gone_before_the_process_that_they_need_is_stopped(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    async with running(spec(flag)) as lab:
        await until(lab, serves)
        now = await lab.spec()
        since = (await lab.events()).next
        await lab.apply(msgspec.structs.replace(now, apps=(), processes=()))
        await until(lab, lambda snapshot: not snapshot.processes)
        told = (await lab.events(since)).events
        exits = [event.seq for event in told if event.state is WorkerState.EXITED]
        stops = [event.seq for event in told if event.data.get("to") is ServiceState.STOPPING]
        assert len(exits) == len(stops) == 1
        assert exits < stops


async def test_a_lab_that_closes_stops_workers_first_and_leaves_nothing(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    async with running(spec(flag)) as lab:
        snapshot = await until(lab, serves)
        pids = [snapshot.apps[0].workers[0].pid, snapshot.processes[0].pid]
        seen: list[Event] = []
        lab._engine._events.watch(seen.append)
    (exited,) = (event.seq for event in seen if event.state is WorkerState.EXITED)
    (stopping,) = (event.seq for event in seen if event.data.get("to") is ServiceState.STOPPING)
    assert exited < stopping
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


async def test_closing_a_lab_while_its_app_still_waits_takes_no_time(tmp_path: Path) -> None:
    async with running(spec(tmp_path / "never")) as lab:
        pid = (await until(lab, lambda snapshot: snapshot.processes[0].pid is not None)).processes[0].pid
    assert not Path(f"/proc/{pid}").exists()


async def test_a_running_lab_cannot_become_one_whose_needs_are_wrong(tmp_path: Path) -> None:
    async with running(spec(tmp_path / "flag")) as lab:
        now = await lab.spec()
        with pytest.raises(NotPossibleError, match=r'search: needs\[0\]: found "db", expected a process of this lab'):
            await lab.apply(msgspec.structs.replace(now, processes=()))
        circle = msgspec.structs.replace(now.processes[0], needs=("db",))
        with pytest.raises(NotPossibleError, match="db: needs: found the circle db -> db"):
            await lab.apply(msgspec.structs.replace(now, processes=(circle,)))
        assert await lab.spec() == now


async def test_heal_starts_again_what_waits_in_back_off(tmp_path: Path) -> None:
    failing = ServiceSpec(name="bad", command=("false",))
    async with running(msgspec.structs.replace(spec(tmp_path / "flag"), processes=(failing,), apps=())) as lab:
        waits = await until(
            lab,
            lambda snapshot: (
                snapshot.processes[0].restarts >= 4  # by now its back-off is longer than a slow machine's lag
                and snapshot.processes[0].state is ServiceState.BACKOFF
            ),
        )
        assert await lab.heal() == 1
        await until(lab, lambda snapshot: snapshot.processes[0].restarts > waits.processes[0].restarts)


LAB = """
import json, sys, time
from lab import bootstrap
lab = bootstrap.local_lab(bootstrap.lab_spec(bootstrap.Path(sys.argv[1]), port=0, name="killed"), control=None)
lab.start()
time.sleep(60)
"""
CHILD = """#!/bin/sh
(setsid sleep 1000 & echo $! >>"$1.new")
echo $$ >>"$1.new"
mv "$1.new" "$1"
exec sleep 1000
"""


def test_killing_the_lab_kills_the_processes_beside_its_pool(tmp_path: Path) -> None:
    script = tmp_path / "child.sh"
    script.write_text(CHILD)
    script.chmod(0o755)
    pids = tmp_path / "pids"
    manifest = tmp_path / "lab.json"
    app = {"name": "a", "route": "/a", "language": "python", "source": str(SOURCE), "needs": ["p"]}
    process = {"name": "p", "command": ["./child.sh", str(pids)]}
    manifest.write_text(json.dumps({"version": 1, "apps": [app], "processes": [process]}))
    with subprocess.Popen([sys.executable, "-c", LAB, manifest]) as lab:
        try:
            wait_for(pids.exists)
        finally:
            lab.send_signal(signal.SIGKILL)
    left = [Path(f"/proc/{pid}") for pid in pids.read_text().split()]
    assert len(left) == 2
    wait_for(lambda: not any(process.exists() for process in left))


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)
