"""`/pool-status` on a real lab: PHP-FPM's page, made of true figures."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lab import bootstrap
from lab.core.model import AppSpec, ListenerSpec, PoolSettings
from lab.engine.lab import LabSpec
from lab.engine.local import LocalLab

SOURCE = str(bootstrap.default_manifest().parent / "search" / "python" / "search.py")


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[LocalLab]:
    pool = PoolSettings(max_workers=2, start_timeout=20)
    apps = tuple(AppSpec(name=n, route=f"/{n}", language="python", source=SOURCE, pool=pool) for n in ("one", "two"))
    local = bootstrap.local_lab(
        LabSpec(name="status", listener=ListenerSpec(port=0), apps=apps, own_rate=0), control=tmp_path / "lab.sock"
    )
    await asyncio.to_thread(local.start)
    async with asyncio.timeout(30):
        while not all(app.workers and all(w.routed for w in app.workers) for app in (await local.snapshot()).apps):
            await local.events((await local.snapshot()).events_next, wait=0.2)
    yield local
    await local.close()


async def page(lab: LocalLab, query: str = "") -> str:
    url = (await lab.snapshot()).listener + "/pool-status" + query
    return await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=40).read().decode())


async def test_the_page_shows_every_pool_in_the_words_of_php_fpm(lab: LocalLab) -> None:
    text = await page(lab)
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("pool:")] == ["one", "two"]
    for name in ("process manager:", "accepted conn:", "listen queue len:", "idle processes:", "total processes:"):
        assert text.count(name) == 2


async def test_one_pool_as_json_is_php_fpms_object_with_counted_requests(lab: LocalLab) -> None:
    for _ in range(3):
        assert (await lab.request("one")).status == 200
    found: dict[str, Any] = json.loads(await page(lab, "?json&full&app=one"))
    assert (found["pool"], found["accepted conn"], found["total processes"]) == ("one", 3, 2)
    assert found["max active processes"] >= 1
    assert sum(process["requests"] for process in found["processes"]) == 3
    live = {worker.pid for app in (await lab.snapshot()).apps if app.name == "one" for worker in app.workers}
    assert {process["pid"] for process in found["processes"]} == live


async def test_several_pools_as_json_are_a_list(lab: LocalLab) -> None:
    assert [one["pool"] for one in json.loads(await page(lab, "?json"))["pools"]] == ["one", "two"]


async def test_an_app_that_there_is_not_is_404_and_told_with_those_that_there_are(lab: LocalLab) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        await page(lab, "?json&app=three")
    with caught.value as answer:
        assert (answer.code, answer.read()) == (404, b"Found no app three; expected one or two.\n")
