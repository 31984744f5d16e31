"""Ten thousand crashes: what piles up in the lab when workers die again and again, and whether each death is told.

    python tests/bench/crashes.py [--cycles 10000] [--json]

Eight C workers get SIGKILL through the lab, each as soon as it is READY. Every death has to be told exactly once, as
an event with its cause; zombies are looked for all along; descriptors, threads and memory of lab and fork server are
compared at rest, before and after (and before it there were cycles enough to fill every buffer and ring).
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from running import Running, descendants, held, supervisors

from lab import paths
from lab.core.errors import UnknownTargetError
from lab.core.events import EventKind
from lab.core.states import Cause, WorkerState
from lab.engine.remote import RemoteLab

WORKERS = 8
WARM = 1_500
"""Cycles of some eight events each, and the ring keeps 10,000."""


def manifest() -> dict[str, Any]:
    """One app of C workers."""
    source = str(paths.content("samples") / "search/c/search.c")
    app = {"name": "search", "route": "/search", "language": "c", "source": source, "pool": {"max_workers": WORKERS}}
    return {"apps": [app]}


class Killer:
    """Kills each worker as soon as it is READY and hears of every death."""

    def __init__(self, remote: RemoteLab) -> None:
        self.remote = remote
        self.cursor = 0
        self.killed: set[tuple[int, int]] = set()
        self.died: set[tuple[int, int]] = set()
        self.missed = 0
        self.told_twice = 0
        self.other_causes: Counter[str] = Counter()
        self.zombies = 0

    async def run(self, cycles: int, lab: int) -> None:
        """Until `cycles` workers were killed and are all known to be dead."""
        end = len(self.killed) + cycles
        snapshot = await self.remote.snapshot()
        self.cursor = snapshot.events_next
        app = snapshot.app("search")
        assert app is not None
        for worker in app.workers:
            if worker.state is WorkerState.READY:
                await self._kill(worker.slot, worker.generation)
        while len(self.killed) < end or self.killed - self.died:
            batch = await self.remote.events(self.cursor, wait=10)
            self.cursor = batch.next
            self.missed += batch.missed
            for event in batch.events:
                who = (event.slot or 0, event.generation or 0)
                if event.kind is EventKind.STATE and event.state is WorkerState.EXITED:
                    self.told_twice += who in self.died
                    if event.cause is not Cause.KILLED:
                        self.other_causes[f"{event.cause}: {event.text}"] += 1
                    self.died.add(who)
                elif event.kind is EventKind.STATE and event.state is WorkerState.READY and len(self.killed) < end:
                    await self._kill(*who)
            if len(self.died) % 100 < WORKERS:
                self.zombies = max(self.zombies, sum(state == "Z" for state in descendants(lab).values()))

    async def _kill(self, slot: int, generation: int) -> None:
        try:
            (sent,) = await self.remote.signal(f"search/{slot}")
        except UnknownTargetError:
            return
        if sent.generation == generation:
            self.killed.add((slot, generation))


async def at_rest(lab: Running, pids: list[int]) -> dict[str, int]:
    """What they hold once every worker is READY again."""
    remote = await lab.ready()
    await remote.close()
    await asyncio.sleep(2)
    return held(pids)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crashes-") as folder:
        lab = Running(Path(folder, "lab"), manifest())
        remote = await lab.ready()
        await remote.traffic(0)
        pids = supervisors(lab.process.pid)
        killer = Killer(remote)
        await killer.run(WARM, lab.process.pid)
        before, begin = await at_rest(lab, pids), time.monotonic()
        await killer.run(asked.cycles, lab.process.pid)
        took = time.monotonic() - begin
        after = await at_rest(lab, pids)
        lasting = sum(state == "Z" for state in descendants(lab.process.pid).values())
        await remote.close()
        lab.stop()
    result = {
        "cycles": asked.cycles,
        "seconds": round(took, 1),
        "deaths_told_twice": killer.told_twice,
        "deaths_with_another_cause": dict(killer.other_causes),
        "deaths_not_told": len(killer.killed - killer.died),
        "events_missed": killer.missed,
        "zombies_at_once": killer.zombies,
        "zombies_left": lasting,
        "before": before,
        "after": after,
        "rss_growth_mb": round((after["rss_kb"] - before["rss_kb"]) / 1024, 2),
    }
    if asked.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:26} {value}")


if __name__ == "__main__":
    asyncio.run(main())
