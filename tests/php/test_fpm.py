"""PHP-FPM under the lab: one worker with workers of its own, as many as the pool settings say."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from lab.core.model import AppSpec, Liveness, PoolSettings, Timeouts
from lab.core.states import Policy
from lab.pool import php
from tests.php.conftest import PATIENCE, World, php_app

Start = Callable[..., Awaitable[World]]

SCRIPTS = {
    "index.php": "<?php echo getmypid();",
    "slow.php": "<?php usleep(1000000); echo getmypid();",
    "hangs.php": "<?php sleep(60);",
    "env.php": "<?php echo getenv('GREETING'), ' ', php_sapi_name();",
}


def fpm(folder: Path, **settings: object) -> AppSpec:
    return php_app(folder, SCRIPTS, language="php-fpm", **settings)


def master(world_snapshot: object) -> int:
    """The PID of the only worker that the lab knows."""
    (worker,) = world_snapshot.apps[0].workers
    return int(worker.pid)


def children(pid: int) -> set[int]:
    return {child.pid for child in psutil.Process(pid).children()}


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a fact of the kernel, which no event tells."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.02)


def test_its_settings_are_the_pools_under_their_own_names(tmp_path: Path) -> None:
    pool = PoolSettings(policy=Policy.ONDEMAND, max_workers=7, idle_timeout=2.5, max_requests=100, stop_timeout=3.0)
    app = fpm(tmp_path, pool=pool, site={"scripts": (".php", ".phar")}, env={"GREETING": "hello"})
    managed = php.as_one_worker(app)
    assert (managed.pool.policy, managed.pool.max_workers, managed.pool.max_requests) == (Policy.STATIC, 1, 0)
    assert managed.pool.stop_timeout == 3.0
    assert managed.concurrency == 7
    expected = {
        "FPM_PM": "ondemand",
        "FPM_MAX_CHILDREN": "7",
        "FPM_PROCESS_IDLE_TIMEOUT": "3s",
        "FPM_MAX_REQUESTS": "100",
        "FPM_EXTENSIONS": ".php .phar",
        "GREETING": "hello",
    }
    assert managed.env.items() >= expected.items()


def test_every_setting_of_its_file_is_one_that_it_is_given(tmp_path: Path) -> None:
    given = php.as_one_worker(fpm(tmp_path)).env
    used = {line.split("${")[1].rstrip("}") for line in php.FPM_CONFIG.read_text().splitlines() if "${" in line}
    assert used == given.keys() | {"SOCKET"}


def test_other_apps_stay_as_they_are(tmp_path: Path) -> None:
    app = php_app(tmp_path, SCRIPTS)
    assert php.as_one_worker(app) is app


async def test_the_lab_sees_one_worker_and_the_kernel_its_children(start: Start, tmp_path: Path) -> None:
    world = await start(fpm(tmp_path, pool=PoolSettings(max_workers=3), env={"GREETING": "hello"}))
    pid = master(await world.snapshot())
    await until(lambda: len(children(pid)) == 3)
    assert int((await world.client.get("/php/")).text) in children(pid)
    assert (await world.client.get("/php/env.php")).text == "hello fpm-fcgi"


async def test_as_many_requests_run_at_once_as_it_has_children(start: Start, tmp_path: Path) -> None:
    world = await start(fpm(tmp_path, pool=PoolSettings(max_workers=3)))
    answers = await asyncio.gather(*(world.client.get("/php/slow.php") for _ in range(3)))
    assert len({answer.text for answer in answers}) == 3


async def test_ondemand_has_children_only_while_they_are_asked(start: Start, tmp_path: Path) -> None:
    pool = PoolSettings(policy=Policy.ONDEMAND, max_workers=3, idle_timeout=3.0)
    world = await start(fpm(tmp_path, pool=pool, timeouts=Timeouts(upstream_idle=0.2)))
    pid = master(await world.until(lambda now: any(worker.routed for worker in now.apps[0].workers)))
    answers = await asyncio.gather(*(world.client.get("/php/slow.php") for _ in range(3)))
    assert {int(answer.text) for answer in answers} <= children(pid)
    await until(lambda: not children(pid))
    assert (await world.client.get("/php/")).status_code == 200


async def test_a_child_that_hangs_is_ended_by_fpm_and_another_takes_its_place(start: Start, tmp_path: Path) -> None:
    patience = Liveness(hang_timeout=0.5, replace_after=0.5)
    world = await start(fpm(tmp_path, pool=PoolSettings(max_workers=1), liveness=patience))
    assert (await world.client.get("/php/hangs.php")).status_code == 502
    assert (await world.client.get("/php/")).status_code == 200


async def test_its_children_are_replaced_after_their_requests(start: Start, tmp_path: Path) -> None:
    world = await start(fpm(tmp_path, pool=PoolSettings(max_workers=1, max_requests=3)))
    pids = {(await world.client.get("/php/")).text for _ in range(10)}
    assert len(pids) >= 3
    assert (await world.snapshot()).totals.failed == 0


async def test_a_changed_number_of_children_comes_with_a_new_master_and_fails_no_request(
    start: Start, tmp_path: Path
) -> None:
    world = await start(fpm(tmp_path, pool=PoolSettings(max_workers=1)))
    before = master(await world.snapshot())
    asking = asyncio.create_task(_keep_asking(world, lambda: Path(f"/proc/{before}").exists()))
    await world.lab.set("php", {"max_workers": "4"})
    await asking
    after = master(await world.until(lambda snapshot: len(snapshot.apps[0].workers) == 1))
    await until(lambda: len(children(after)) == 4)
    assert (await world.snapshot()).totals.failed == 0


async def _keep_asking(world: World, wanted: Callable[[], bool]) -> None:
    while wanted():
        assert (await world.client.get("/php/")).status_code == 200


async def test_when_the_master_is_killed_no_child_is_left_and_another_one_serves(start: Start, tmp_path: Path) -> None:
    world = await start(fpm(tmp_path, pool=PoolSettings(max_workers=2, backoff_initial=0.01)))
    pid = master(await world.snapshot())
    await until(lambda: len(children(pid)) == 2)
    left = children(pid)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not any(map(psutil.pid_exists, left)))
    answer = await world.client.get("/php/")
    assert answer.status_code == 200
    assert int(answer.text) not in left


async def test_a_script_with_another_suffix_runs_when_the_site_says_so(start: Start, tmp_path: Path) -> None:
    """FPM has a rule of its own against running uploads (security.limit_extensions)."""
    (tmp_path / "page.phtml").write_text("<?php echo 6 * 7;")
    world = await start(fpm(tmp_path, site={"scripts": (".php", ".phtml")}))
    assert (await world.client.get("/php/page.phtml")).text == "42"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_it_runs_as_whoever_runs_the_lab(tmp_path: Path) -> None:
    assert php.as_one_worker(fpm(tmp_path)).env["FPM_USER"] == "root"
