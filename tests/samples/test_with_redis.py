"""One count for all workers: the sample that has Redis beside its pool."""

import asyncio
import shutil

import pytest
from msgspec.structs import replace

from lab import bootstrap, paths
from lab.core.model import ListenerSpec
from lab.engine.lab import Answer, LabSpec
from lab.engine.local import LocalLab
from tests.ports import Reserve

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")

WRITTEN = "6390"


def on_port(port: str) -> LabSpec:
    """The sample as it is, but with another port for Redis: two test runs may be at it."""
    spec = bootstrap.lab_spec(paths.content("samples") / "with-redis.json", port=0, name="with-redis")
    (app,), (redis,) = spec.apps, spec.processes
    command = tuple(port if word == WRITTEN else word for word in redis.command)
    asked = tuple(port if word == WRITTEN else word for word in redis.health.command)
    return replace(
        spec,
        listener=ListenerSpec(port=0),
        apps=(replace(app, env={"REDIS": f"127.0.0.1:{port}"}),),
        processes=(replace(redis, command=command, health=replace(redis.health, command=asked)),),
        own_rate=0,
    )


async def until_all_serve(lab: LocalLab) -> None:
    async with asyncio.timeout(30):
        while sum(worker.routed for worker in (await lab.snapshot()).apps[0].workers) < 3:
            await lab.events((await lab.snapshot()).events_next, wait=0.05)


async def answered(lab: LocalLab, status: int) -> Answer:
    """Ask until the answer has this status."""
    async with asyncio.timeout(30):
        while (answer := await lab.request("counter")).status != status:
            await lab.events((await lab.snapshot()).events_next, wait=0.05)
    return answer


async def test_workers_share_one_count_and_outlive_redis(reserve: Reserve) -> None:
    lab = bootstrap.local_lab(on_port(str(reserve())), control=None)
    await asyncio.to_thread(lab.start)
    try:
        await until_all_serve(lab)
        assert '"count": 1,' in (await lab.request("counter")).body
        answers = [await lab.request("counter") for _ in range(8)]
        assert [f'"count": {number},' in answer.body for number, answer in enumerate(answers, 2)] == [True] * 8
        assert len({answer.pid for answer in answers}) > 1
        now = await lab.spec()
        await lab.apply(replace(now, processes=(replace(now.processes[0], command=("sleep", "1000")),)))
        assert "no count" in (await answered(lab, 503)).body
        pids = {worker.pid for worker in (await lab.snapshot()).apps[0].workers}
        await lab.apply(now)
        assert (await answered(lab, 200)).pid in pids
    finally:
        await lab.close()
