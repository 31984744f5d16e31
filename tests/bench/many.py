"""Five hundred workers: how long until all are READY, what looking after them costs, how fast one among them heals.

    python tests/bench/many.py [--workers 500] [--kills 50] [--seconds 20] [--rounds 3] [--json]

C workers at rest, without a client and without the lab's own requests. The cost is the CPU time of the lab and of its
fork server together, over `--seconds`, in percent of one core; the workers' own time is not in it.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from running import Running, cpu_seconds, healing, reached, supervisors

from lab import paths
from lab.core.states import WorkerState


def manifest(workers: int) -> dict[str, Any]:
    """One app of so many C workers."""
    source = str(paths.content("samples") / "search/c/search.c")
    pool = {"max_workers": workers, "start_timeout": 60}
    return {"apps": [{"name": "search", "route": "/search", "language": "c", "source": source, "pool": pool}]}


async def one_round(folder: Path, workers: int, kills: int, seconds: float) -> dict[str, float]:
    """One lab, from its start to its end."""
    warm = Running(folder / "warm", manifest(1))  # compiles the sample, if that was never done
    await (await warm.ready()).close()
    warm.stop()
    lab = Running(folder / "lab", manifest(0))
    remote = await lab.ready()
    await remote.traffic(0)
    cursor, begin = (await remote.snapshot()).events_next, time.monotonic()
    await remote.scale("search", workers)
    await reached(remote, "search", WorkerState.READY, cursor, workers)
    all_ready = time.monotonic() - begin
    await asyncio.sleep(5)
    pids = supervisors(lab.process.pid)
    before, since = cpu_seconds(*pids), time.monotonic()
    await asyncio.sleep(seconds)
    cost = 100 * (cpu_seconds(*pids) - before) / (time.monotonic() - since)
    heals = []
    for number in range(kills):
        heals.append(await healing(remote, f"search/{number * 7 % workers}"))
    await remote.close()
    lab.stop()
    return {
        "all_ready_s": all_ready,
        "cost_percent": cost,
        "heal_median_ms": statistics.median(heals),
        "heal_worst_ms": max(heals),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory(prefix="many-") as folder:
        for number in range(asked.rounds):
            where = Path(folder, str(number))
            where.mkdir()
            rounds.append(await one_round(where, asked.workers, asked.kills, asked.seconds))
    result = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    if asked.json:
        print(json.dumps({"workers": asked.workers, **result, "rounds": rounds}))
        return
    print(f"{asked.workers} C workers, medians of {asked.rounds} rounds (lowest to highest)")
    for name, value in result.items():
        values = [one[name] for one in rounds]
        print(f"  {name:16} {value:8.2f}  ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    asyncio.run(main())
