"""Scripts that die, are silent or too greedy: the client is told, and the next request is served."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import msgspec
import pytest

from lab.core.events import EventKind
from lab.core.model import AppSpec, Contract, PoolSettings, Timeouts
from tests.php.conftest import PATIENCE, World, php_app, with_ini

Start = Callable[..., Awaitable[World]]

WAYS = {
    "fastcgi": {"language": "php", "protocol": Contract.FASTCGI},
    "cgi": {"language": "php", "protocol": Contract.CGI},
    "fpm": {"language": "php-fpm"},
}
SCRIPTS = {
    "index.php": "<?php echo getmypid();",
    "silent.php": "<?php",
    "exit.php": "<?php echo 'so far'; exit(255);",
    "fatal.php": "<?php no_such_function();",
    "broken.php": "<?php this is no PHP",
    "greedy.php": "<?php $all = []; while (true) $all[] = str_repeat('x', 1 << 20);",
    "endless.php": "<?php while (true);",
    "late.php": "<?php echo str_repeat('x', 100000); flush(); no_such_function();",
    "killed.php": "<?php posix_kill(getmypid(), 9);",
    "half.php": "<?php echo str_repeat('x', 100000); flush(); posix_kill(getmypid(), 9);",
    "asleep.php": "<?php sleep(60);",
    "much.php": "<?php for ($i = 0; $i < 512; $i++) echo str_repeat('x', 65536);",
}


def bad_app(folder: Path, way: str, **settings: object) -> AppSpec:
    """One worker, so that whoever comes next meets the one that had the bad script."""
    defaults = {"pool": PoolSettings(max_workers=1, backoff_initial=0.01, stop_timeout=1.0)} | WAYS[way] | settings
    app = php_app(folder, SCRIPTS, **defaults)
    return with_ini(app, memory_limit="16M", max_execution_time="1", display_errors="0")


@pytest.fixture(params=WAYS)
async def world(request: pytest.FixtureRequest, start: Start, tmp_path: Path) -> World:
    return await start(bad_app(tmp_path, request.param))


async def serves(world: World) -> None:
    """The next request is answered."""
    assert (await world.client.get("/php/")).text.isdigit()


@pytest.mark.parametrize(
    ("script", "status"),
    [("silent.php", 200), ("exit.php", 200), ("fatal.php", 500), ("broken.php", 500), ("greedy.php", 500)],
)
async def test_what_php_ends_by_itself_is_answered_as_php_says_and_the_next_is_served(
    world: World, script: str, status: int
) -> None:
    answer = await world.client.get(f"/php/{script}")
    assert answer.status_code == status
    assert answer.text == ("so far" if script == "exit.php" else "")
    await serves(world)


async def test_a_script_that_runs_too_long_is_ended_by_php(world: World) -> None:
    assert (await world.client.get("/php/endless.php")).status_code == 500
    await serves(world)


async def test_a_script_that_fails_in_the_middle_has_sent_what_it_had_sent(world: World) -> None:
    answer = await world.client.get("/php/late.php")
    assert (answer.status_code, answer.text) == (200, "x" * 100_000)
    await serves(world)


async def test_a_long_answer_comes_whole(world: World) -> None:
    answer = await world.client.get("/php/much.php")
    assert len(answer.content) == 32 << 20


async def test_an_interpreter_that_dies_before_it_answers_brings_502_and_is_replaced(world: World) -> None:
    answer = await world.client.get("/php/killed.php")
    assert answer.status_code == 502
    assert answer.headers["content-type"] == "application/problem+json"
    await serves(world)


async def test_an_answer_that_breaks_off_is_seen_to_be_incomplete(world: World) -> None:
    with pytest.raises(httpx.TransportError):
        await world.client.get("/php/half.php")
    await serves(world)


async def test_the_death_of_a_worker_is_an_event_with_its_cause(start: Start, tmp_path: Path) -> None:
    world = await start(bad_app(tmp_path, "fastcgi"))
    pid = (await world.snapshot()).apps[0].workers[0].pid
    await world.client.get("/php/killed.php")
    healed = await world.event(EventKind.HEALED)
    assert healed.data["old_pid"] == pid
    assert healed.data["death"] == "SIGKILL"


async def test_what_php_says_of_a_failure_can_be_read(world: World) -> None:
    await world.client.get("/php/fatal.php")
    async with asyncio.timeout(PATIENCE):
        while True:
            events = (await world.lab.events()).events
            said = [*(event.text for event in events), *await world.lab.output("php", 0)]
            if any("Call to undefined function no_such_function()" in text for text in said):
                return
            await world.lab.events(events[-1].seq + 1, wait=0.2)


async def test_a_worker_that_ran_a_failing_script_is_not_replaced(start: Start, tmp_path: Path) -> None:
    world = await start(bad_app(tmp_path, "fastcgi"))
    pid = (await world.client.get("/php/")).text
    for script in ("fatal.php", "greedy.php", "exit.php", "endless.php"):
        await world.client.get(f"/php/{script}")
    assert (await world.client.get("/php/")).text == pid


@pytest.mark.parametrize("way", WAYS)
async def test_a_script_that_sleeps_too_long_brings_504(start: Start, tmp_path: Path, way: str) -> None:
    app = bad_app(tmp_path, way, pool=PoolSettings(max_workers=2, stop_timeout=0.2))
    world = await start(msgspec.structs.replace(app, timeouts=Timeouts(response_head=2)))
    assert (await world.client.get("/php/asleep.php")).status_code == 504
    await serves(world)


async def test_every_bad_script_is_counted_with_one_outcome(world: World) -> None:
    asked = ["silent", "exit", "fatal", "killed", "index"]
    for script in asked:
        await world.client.get(f"/php/{script}.php")
    snapshot = await world.until(lambda now: now.totals.accepted == len(asked) and not now.totals.in_flight)
    assert (snapshot.totals.answered, snapshot.totals.failed) == (len(asked) - 1, 1)
