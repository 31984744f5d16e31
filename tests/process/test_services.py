"""Processes beside the pool, for real: in which order they come and go, how they are asked, what brings them back."""

import asyncio
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

import lab.engine.service
from lab.core.events import Event, EventKind
from lab.core.model import HealthMethod, Restart, ServiceHealth, ServiceSpec
from lab.core.states import ServiceState as S
from lab.engine.health import check
from lab.engine.services import Services
from tests.ports import Reserve
from tests.process.conftest import PATIENCE

SLEEP = ("sleep", "1000")
QUICK = ServiceHealth(interval=0.02)


class Beside:
    """Services on a running pool, and waits for what becomes of them."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.services = Services(bench.pool, bench.events, bench.clock, lambda: None)

    def apply(self, *specs: ServiceSpec) -> None:
        self.services.apply(specs, ())

    async def state(self, name: str, state: S, since: int = 1) -> Event:
        """Wait until it has gone to `state`."""
        return await self.bench.seen(
            lambda event: event.kind is EventKind.SERVICE and event.data == event.data | {"name": name, "to": state},
            since,
        )

    def order(self, *states: S) -> list[tuple[str, S]]:
        """Who went to one of these states, in order."""
        told = (one.data for one in self.bench.events.read(1, 10_000).events if one.kind is EventKind.SERVICE)
        return [(data["name"], data["to"]) for data in told if data["to"] in states]

    def now(self, name: str) -> Any:
        return next(one for one in self.services.view() if one.name == name)


@pytest.fixture
async def beside(bench: Any) -> AsyncIterator[Beside]:
    beside = Beside(bench)
    yield beside
    await beside.services.close()
    assert beside.services.view() == ()


def service(name: str, *needs: str, command: tuple[str, ...] = SLEEP, **keys: Any) -> ServiceSpec:
    keys.setdefault("health", QUICK)
    return ServiceSpec(name=name, command=command, needs=needs, **keys)


def shell(name: str, script: str, *needs: str, **keys: Any) -> ServiceSpec:
    return service(name, *needs, command=("/bin/sh", "-c", script), **keys)


def by(method: HealthMethod, **keys: Any) -> ServiceHealth:
    return ServiceHealth(**{"method": method, "interval": 0.02, "start_timeout": 20.0} | keys)


def gone(pid: int | None) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def test_a_process_starts_when_all_it_needs_is_healthy_and_the_rest_at_once(
    beside: Beside, tmp_path: Path
) -> None:
    gate = by(HealthMethod.FILE, path=str(tmp_path / "open"))
    beside.apply(service("top", "left", "right"), service("left", "base"), service("right", "base"))
    assert beside.services.view()[0].why == "It waits for left and right to be healthy."
    beside.apply(service("top", "left", "right"), *(service(name, health=gate) for name in ("left", "right")))
    await asyncio.gather(*(beside.state(name, S.STARTING) for name in ("left", "right")))
    assert beside.now("top").state is S.WAITING
    (tmp_path / "open").touch()
    await beside.state("top", S.HEALTHY)
    came = beside.order(S.STARTING, S.HEALTHY)
    assert set(came[:2]) == {("left", S.STARTING), ("right", S.STARTING)}
    assert came[-2:] == [("top", S.STARTING), ("top", S.HEALTHY)]


async def test_they_are_stopped_in_the_reverse_order_of_need(beside: Beside) -> None:
    beside.apply(service("web", "db", "cache"), service("cache"), service("db", "disk"), service("disk"))
    await beside.state("web", S.HEALTHY)
    pids = [one.pid for one in beside.services.view()]
    await beside.services.close()
    went = beside.order(S.STOPPING, S.STOPPED)
    assert went[:2] == [("web", S.STOPPING), ("web", S.STOPPED)]
    assert went.index(("db", S.STOPPED)) < went.index(("disk", S.STOPPING))
    assert len(went) == 8
    assert all(map(gone, pids))


async def test_one_that_is_removed_outlives_who_needed_it(beside: Beside) -> None:
    slow = shell("web", "trap 'sleep 0.2; exit' TERM; while :; do sleep 0.01; done", "db")
    beside.apply(slow, service("db"))
    await beside.state("web", S.HEALTHY)
    beside.apply()
    await beside.state("db", S.STOPPED)
    assert beside.order(S.STOPPING, S.STOPPED) == [
        ("web", S.STOPPING),
        ("web", S.STOPPED),
        ("db", S.STOPPING),
        ("db", S.STOPPED),
    ]


async def test_a_changed_one_alone_is_started_again(beside: Beside) -> None:
    beside.apply(service("web", "db"), service("db"))
    await beside.state("web", S.HEALTHY)
    web, db = (beside.now(name).pid for name in ("web", "db"))
    since = beside.bench.events.next
    beside.apply(service("web", "db"), service("db", env={"A": "1"}))
    await beside.state("db", S.HEALTHY, since)
    assert beside.now("web").pid == web
    assert beside.now("db").pid != db
    assert gone(db)


async def test_two_that_changed_together_go_and_come_in_the_order_of_need(beside: Beside) -> None:
    beside.apply(service("web", "db"), service("db"))
    await beside.state("web", S.HEALTHY)
    since = beside.bench.events.next
    beside.apply(service("web", "db", env={"A": "1"}), service("db", env={"A": "1"}))
    await beside.state("web", S.HEALTHY, since)
    told = [one.data for one in beside.bench.events.read(since, 1000).events]
    assert [(one["name"], one["to"]) for one in told if one["to"] in (S.STOPPED, S.HEALTHY)] == [
        ("web", S.STOPPED),
        ("db", S.STOPPED),
        ("db", S.HEALTHY),
        ("web", S.HEALTHY),
    ]


async def test_other_settings_hold_at_once_without_a_restart(beside: Beside, tmp_path: Path) -> None:
    beside.apply(service("db"))
    await beside.state("db", S.HEALTHY)
    pid = beside.now("db").pid
    health = by(HealthMethod.FILE, path=str(tmp_path / "none"), fall=1)
    beside.apply(service("db", health=health, restart=Restart.NEVER))
    await beside.state("db", S.UNHEALTHY)
    assert (beside.now("db").pid, beside.now("db").health) == (pid, "file")


async def test_one_on_its_way_out_is_no_longer_healthy_for_who_comes(beside: Beside) -> None:
    slow = shell("slow", "trap 'sleep 0.2; exit' TERM; while :; do sleep 0.01; done", "db")
    beside.apply(slow, service("db"))
    await beside.state("slow", S.HEALTHY)
    beside.apply(service("db", env={"A": "1"}), service("new", "db"))
    await beside.state("new", S.HEALTHY)
    assert beside.order(S.HEALTHY)[2:] == [("db", S.HEALTHY), ("new", S.HEALTHY)]


# -- health


async def test_http_is_healthy_with_2xx_and_says_what_it_got_instead(
    beside: Beside, tmp_path: Path, reserve: Reserve
) -> None:
    port = reserve()
    server = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port))
    health = by(HealthMethod.HTTP, url=f"http://127.0.0.1:{port}/ready?x=1", fall=2)
    beside.apply(service("web", command=server, folder=str(tmp_path), health=health, restart=Restart.NEVER))
    await beside.bench.until(lambda: "status 404" in beside.now("web").why)
    assert beside.now("web").why == "It answered GET /ready?x=1 with status 404."
    (tmp_path / "ready").touch()
    await beside.state("web", S.HEALTHY)
    (tmp_path / "ready").unlink()
    told = await beside.state("web", S.UNHEALTHY)
    assert told.text == "web is not healthy: it answered GET /ready?x=1 with status 404"


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
async def test_redis_comes_up_before_who_needs_it_and_saves_its_data_when_it_goes(
    beside: Beside, tmp_path: Path, reserve: Reserve
) -> None:
    port = reserve()
    redis = service(
        "redis",
        command=("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "3600 1"),
        folder=str(tmp_path),
        health=by(HealthMethod.TCP, address=f"127.0.0.1:{port}"),
    )
    filled = by(HealthMethod.COMMAND, command=("sh", "-c", f"test $(redis-cli -p {port} get a) = b"))
    fill = shell("fill", f"redis-cli -p {port} set a b; exec sleep 1000", "redis", health=filled)
    beside.apply(fill, redis)
    await beside.state("fill", S.HEALTHY)
    await beside.services.close()
    assert (tmp_path / "dump.rdb").exists()


async def test_a_command_tells_what_it_said_and_a_file_what_is_missing(beside: Beside, tmp_path: Path) -> None:
    ask = 'test -e "$FLAG" || { echo asked; echo "no flag yet"; exit 3; }'
    flag = str(tmp_path / "flag")
    beside.apply(
        service(
            "command", env={"FLAG": flag}, health=by(HealthMethod.COMMAND, command=("sh", "-c", ask), interval=0.05)
        ),
        service("file", health=by(HealthMethod.FILE, path=flag)),
    )
    await beside.bench.until(lambda: "no flag yet" in beside.now("command").why)
    assert beside.now("command").why == "It is not well: sh ended with exit code 3 (no flag yet)."
    await beside.bench.until(lambda: beside.now("file").why == f"It has not made the file {flag}.")
    Path(flag).touch()
    await asyncio.gather(beside.state("command", S.HEALTHY), beside.state("file", S.HEALTHY))


async def test_a_check_that_hangs_is_over_in_time_and_leaves_nothing(beside: Beside, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    hang = by(HealthMethod.COMMAND, command=("sh", "-c", f"echo $$ >>{pids}; sleep 999; :"), timeout=0.3)
    beside.apply(service("p", health=hang))
    await beside.bench.until(lambda: "did not answer within 0.3 s" in beside.now("p").why and pids.exists())
    await beside.bench.until(lambda: pids.read_text().endswith("\n"))
    first = int(pids.read_text().split()[0])
    await beside.bench.until(lambda: gone(first))


async def test_a_server_that_accepts_and_says_nothing_is_not_waited_for(beside: Beside) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        beside.apply(service("p", health=by(HealthMethod.HTTP, url=url, timeout=0.1)))
        await beside.bench.until(lambda: "did not answer within 0.1 s" in beside.now("p").why)


async def test_an_http_answer_that_is_there_in_time_counts_however_late_the_lab_looks(beside: Beside) -> None:
    patience, loop = 2.0, asyncio.get_running_loop()
    held_up, answered = threading.Event(), threading.Event()

    def hold_up() -> None:
        held_up.set()
        answered.wait(PATIENCE)
        time.sleep(1.1 * patience)

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            loop.call_soon_threadsafe(hold_up)
            held_up.wait(PATIENCE)
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nok")
        answered.set()

    with socket.create_server(("127.0.0.1", 0)) as server:
        serving = asyncio.create_task(asyncio.to_thread(serve))
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        spec = service("p", health=by(HealthMethod.HTTP, url=url, timeout=patience))
        assert await check(spec, beside.bench.pool) == ""
        await serving


async def test_a_command_that_ended_in_time_counts_however_late_the_lab_looks(beside: Beside, tmp_path: Path) -> None:
    patience, started, ended = 2.0, tmp_path / "started", tmp_path / "ended"

    def hold_up() -> None:
        since = time.monotonic()
        while not ended.exists() and time.monotonic() - since < PATIENCE:
            time.sleep(0.01)
        time.sleep(1.1 * patience)

    async def watch() -> None:
        while not started.exists():
            await asyncio.sleep(0.005)
        hold_up()

    command = ("sh", "-c", f"touch {started}; sleep 0.2; touch {ended}")
    watching = asyncio.create_task(watch())
    spec = service("p", health=by(HealthMethod.COMMAND, command=command, timeout=patience))
    assert await check(spec, beside.bench.pool) == ""
    await watching


async def test_nobody_listening_is_told_with_the_reason(beside: Beside, reserve: Reserve) -> None:
    address = f"127.0.0.1:{reserve()}"
    beside.apply(
        service("tcp", health=by(HealthMethod.TCP, address=address)),
        service("http", health=by(HealthMethod.HTTP, url=f"http://{address}/")),
    )
    expected = f"It does not accept connections at {address} (Connection refused)."
    await beside.bench.until(lambda: {one.why for one in beside.services.view()} == {expected})


# -- ends


async def test_one_that_is_not_healthy_in_time_is_stopped_and_tried_again(beside: Beside, tmp_path: Path) -> None:
    health = by(HealthMethod.FILE, path=str(tmp_path / "none"), start_timeout=0.5)
    beside.apply(service("p", health=health))
    told = await beside.state("p", S.BACKOFF)
    assert "was not healthy within 0.5 s: it has not made the file" in told.text
    since = beside.bench.events.next
    await beside.state("p", S.STARTING, since)
    assert beside.now("p").restarts == 1


async def test_a_crash_loop_waits_longer_each_time_and_holds_nobody_up(beside: Beside) -> None:
    beside.apply(shell("bad", "exit 3"), service("good"))
    starts = []
    since = 1
    for _ in range(4):
        told = await beside.state("bad", S.STARTING, since)
        since = told.seq + 1
        starts.append(told.at)
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert pauses[0] >= 0.08  # each delay is 100, 200, 400 ms, shortened by up to a fifth
    assert pauses[1] >= 0.16
    assert pauses[2] >= 0.32
    assert beside.now("good").state is S.HEALTHY
    assert "ended: exit code 3" in beside.bench.told()


async def test_heal_ends_the_waiting(beside: Beside, tmp_path: Path) -> None:
    flag = tmp_path / "mended"
    beside.apply(shell("p", f"test -e {flag} && exec sleep 1000"))
    for _ in range(3):
        await beside.state("p", S.BACKOFF, beside.bench.events.next)
    flag.touch()
    assert beside.services.heal() == 1
    assert beside.services.heal() == 0
    await beside.state("p", S.HEALTHY)


async def test_a_killed_one_comes_back_at_once_and_who_needs_it_goes_on(
    beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab.engine.service, "STABLE_AFTER", 0.0)
    beside.apply(service("web", "db"), service("db"))
    await beside.state("web", S.HEALTHY)
    web, db = beside.now("web").pid, beside.now("db").pid
    since = beside.bench.events.next
    os.kill(db, 9)
    told = await beside.state("db", S.WAITING, since)
    assert told.text == "db is to be started: it ended: SIGKILL"
    await beside.state("db", S.HEALTHY, since)
    assert beside.now("web").pid == web


async def test_they_come_back_when_the_fork_server_itself_is_killed(beside: Beside) -> None:
    beside.apply(service("web", "db"), service("db"))
    await beside.state("web", S.HEALTHY)
    since = beside.bench.events.next
    os.kill(beside.bench.spawner.pid, 9)
    await asyncio.gather(beside.state("web", S.HEALTHY, since), beside.state("db", S.HEALTHY, since))


async def test_one_that_may_not_come_back_stays_away(beside: Beside) -> None:
    beside.apply(
        shell("once", "sleep 0.1", restart=Restart.ON_FAILURE), shell("never", "exit 1", restart=Restart.NEVER)
    )
    await asyncio.gather(beside.state("once", S.STOPPED), beside.state("never", S.STOPPED))
    assert {one.why for one in beside.services.view()} == {"It ended: exit code 0.", "It ended: exit code 1."}


async def test_one_that_fails_is_told_with_its_last_words_and_one_that_was_stopped_is_not(beside: Beside) -> None:
    beside.apply(
        shell("bad", "echo no such disk >&2; exit 3"), service("p", command=("sh", "-c", "echo up; sleep 1000"))
    )
    told = await beside.state("bad", S.BACKOFF)
    assert told.text.endswith(": it ended: exit code 3. Its last words: no such disk")
    await beside.state("p", S.HEALTHY)
    beside.apply()
    assert (await beside.state("p", S.STOPPED)).text == "p has stopped: it ended: SIGTERM"


async def test_a_program_that_is_missing_is_told_and_tried_again(beside: Beside) -> None:
    beside.apply(service("p", command=("no-such-program",), env={"PATH": "/usr/bin:/bin"}))
    told = await beside.state("p", S.BACKOFF)
    assert "cannot start no-such-program: No such file or directory" in told.text
    await beside.state("p", S.STARTING, told.seq)


async def test_one_that_ignores_its_stop_signal_is_killed_with_all_it_started(beside: Beside, tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = f"trap '' TERM INT; sleep 1000 & echo $! >{child}; touch {tmp_path}/up; while :; do sleep 1; done"
    health = by(HealthMethod.FILE, path=str(tmp_path / "up"))
    beside.apply(shell("p", script, stop_signal="SIGINT", stop_timeout=0.1, health=health))
    await beside.state("p", S.HEALTHY)
    await beside.services.close()
    await beside.bench.until(lambda: gone(int(child.read_text())))
    assert "p has stopped: it ended: SIGKILL" in beside.bench.told()


async def test_the_stop_signal_is_the_one_asked_for(beside: Beside, tmp_path: Path) -> None:
    script = f"trap 'exit 42' USR1; touch {tmp_path}/up; while :; do sleep 0.01; done"
    health = by(HealthMethod.FILE, path=str(tmp_path / "up"))
    beside.apply(shell("p", script, stop_signal="SIGUSR1", health=health))
    await beside.state("p", S.HEALTHY)
    await beside.services.close()
    assert "p has stopped: it ended: exit code 42" in beside.bench.told()


async def test_closing_while_they_start_leaves_none(beside: Beside, tmp_path: Path) -> None:
    never = by(HealthMethod.FILE, path=str(tmp_path / "none"))
    beside.apply(*(service(f"p{number}", health=never) for number in range(5)), service("q", "p0"))
    await asyncio.sleep(0)  # they are being forked now
    await beside.services.close()
    assert beside.services.view() == ()
    assert all(state in (S.STOPPING, S.STOPPED) for _, state in beside.order(*S)[-5:])


async def test_one_that_comes_back_while_it_is_being_stopped_is_started_again(beside: Beside) -> None:
    beside.apply(service("p"))
    await beside.state("p", S.HEALTHY)
    since = beside.bench.events.next
    beside.apply()
    beside.apply(service("p"))
    await beside.state("p", S.HEALTHY, since)
    assert [state for _, state in beside.order(S.STOPPED, S.HEALTHY)] == [S.HEALTHY, S.STOPPED, S.HEALTHY]


async def test_every_transition_is_one_event_that_follows_the_one_before(beside: Beside) -> None:
    beside.apply(shell("p", "sleep 0.05; exit 1"))
    await beside.state("p", S.STARTING, (await beside.state("p", S.BACKOFF)).seq)
    told = [one.data for one in beside.bench.events.read(1, 1000).events if one.kind is EventKind.SERVICE]
    assert told[0]["from"] is None
    assert all(later["from"] == earlier["to"] for earlier, later in pairwise(told))
    assert msgspec.json.encode(told)
