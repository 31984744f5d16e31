"""The engine by itself, on its own loop."""

import asyncio
import os
import signal
from pathlib import Path

from lab import bootstrap
from lab.core.model import AppSpec, ListenerSpec, PoolSettings
from lab.engine.lab import LabSpec, Signalled


async def test_a_worker_that_has_ended_just_now_does_not_keep_a_signal_from_the_others(tmp_path: Path) -> None:
    source = bootstrap.default_manifest().parent / "search" / "python" / "search.py"
    pool = PoolSettings(max_workers=3)
    app = AppSpec(name="search", route="/search", language="python", source=str(source), pool=pool)
    spec = LabSpec(name="engine", listener=ListenerSpec(port=0), apps=(app,), own_rate=0)
    lab = bootstrap.local_lab(spec, control=None)
    await asyncio.to_thread(lab.start)
    try:
        pids = await until_ready(lab)

        async def order_after_a_death_that_the_engine_has_not_heard_of() -> tuple[Signalled, ...]:
            os.kill(pids[0], signal.SIGKILL)
            while Path(f"/proc/{pids[0]}").exists():
                os.sched_yield()
            return await lab._engine.signal("search", "SIGCONT")

        order = order_after_a_death_that_the_engine_has_not_heard_of()
        sent = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(order, lab._loop))
        assert [one.pid for one in sent] == pids[1:]
    finally:
        await lab.close()


async def until_ready(lab: bootstrap.LocalLab) -> list[int]:
    """The PIDs of all workers once they serve."""
    async with asyncio.timeout(40):
        while True:
            snapshot = await lab.snapshot()
            workers = snapshot.apps[0].workers
            if workers and all(worker.routed for worker in workers):
                return [worker.pid for worker in workers]
            await lab.events(snapshot.events_next, wait=0.2)
