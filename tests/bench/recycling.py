"""What replacing workers costs those who ask: requests that fail while workers come and go under load.

    python tests/bench/recycling.py [--seconds 60] [--rate 1000] [--json]

Three times the same load (open loop, `--rate` requests/s, on four C workers):
- *recycled*: a worker is replaced every 100 ms, the successor READY before it drains. Nothing may fail.
- *killed*: a worker gets SIGKILL from outside every 200 ms. Only requests that were inside it may fail; `inside` counts
  them, as the lab saw them when the worker died.
- *retried*: the same with `retries.on=connect,reset`: what was inside is sent to another worker. Nothing may fail.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from running import Running

from lab import paths
from lab.core.events import EventKind
from lab.core.states import WorkerState
from lab.engine.remote import RemoteLab

WORKERS = 4
PLACES = 16
MANIFEST = {
    "apps": [
        {
            "name": "search",
            "route": "/search",
            "language": "c",
            "source": str(paths.content("samples") / "search/c/search.c"),
            "concurrency": PLACES,
            "pool": {"max_workers": WORKERS, "stable_after": 0},
        }
    ]
}


async def recycle(remote: RemoteLab, seconds: float) -> dict[str, int]:
    """Have a worker replaced every 100 ms: ten a second are due, by their number of requests."""
    before = (await remote.snapshot()).app("search")
    per_worker = 10  # replaced per second; see `main`, which sets max_requests to rate / 10
    await asyncio.sleep(seconds)
    after = (await remote.snapshot()).app("search")
    assert before is not None
    assert after is not None
    done = sum(worker.generation for worker in after.workers) - sum(worker.generation for worker in before.workers)
    return {"replaced": done, "wanted": int(seconds * per_worker)}


async def kill(remote: RemoteLab, seconds: float) -> dict[str, int]:
    """SIGKILL to a worker every 200 ms, from outside."""
    begin, kills = time.monotonic(), 0
    while time.monotonic() < begin + seconds:
        app = (await remote.snapshot()).app("search")
        assert app is not None
        ready = [worker.pid for worker in app.workers if worker.state is WorkerState.READY and worker.pid]
        if ready:
            with contextlib.suppress(ProcessLookupError):  # the one before is gone, and nobody has told so yet
                os.kill(random.choice(ready), signal.SIGKILL)
            kills += 1
        await asyncio.sleep(max(0.0, begin + (kills + 1) * 0.2 - time.monotonic()))
    return {"kills": kills}


Deed = Callable[[RemoteLab, float], Coroutine[Any, Any, dict[str, int]]]


async def run(folder: Path, deed: Deed, rate: float, seconds: float, **keys: Any) -> dict[str, Any]:
    """One lab, one load, one deed."""
    lab = Running(folder, MANIFEST | {"apps": [_with(**keys)]})
    remote = await lab.ready()
    snapshot = await remote.snapshot()
    command = [
        sys.executable, str(Path(__file__).with_name("open_load.py")), f"{snapshot.listener}/search?q=http",
        "--rate", str(rate), "--seconds", str(seconds),
    ]  # fmt: skip
    load = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    done = await deed(remote, seconds)
    answers = json.loads((await load.communicate())[0])
    healed = [event async for event in _events(remote, snapshot.events_next) if event.kind is EventKind.HEALED]
    totals = (await remote.snapshot()).totals
    await remote.close()
    lab.stop()
    ok = answers["statuses"].pop("200", 0)
    return {
        **done,
        "requests": answers["sent"],
        "answered_200": ok,
        "failed": answers["sent"] - ok,
        "other_statuses": answers["statuses"],
        "broken": answers["broken"],
        "inside": sum(event.data["lost"] for event in healed),
        "retries": totals.retries,
        "p99_ms": answers["p99_ms"],
    }


def _with(max_requests: int = 0, **keys: Any) -> dict[str, Any]:
    (app,) = MANIFEST["apps"]
    return {**app, **keys, "pool": {**app["pool"], "max_requests": max_requests}}


async def _events(remote: RemoteLab, cursor: int) -> Any:
    while True:
        batch = await remote.events(cursor)
        if not batch.events:
            return
        cursor = batch.next
        for event in batch.events:
            yield event


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    asked_for = asked.rate, asked.seconds
    with tempfile.TemporaryDirectory(prefix="recycling-") as folder:
        results = {
            "recycled": await run(Path(folder, "r"), recycle, *asked_for, max_requests=int(asked.rate / 10)),
            "killed": await run(Path(folder, "k"), kill, *asked_for),
            "retried": await run(Path(folder, "a"), kill, *asked_for, retries={"on": ["connect", "reset"]}),
        }
    if asked.json:
        print(json.dumps(results))
        return
    for name, result in results.items():
        print(name, *(f"{key} {value}" for key, value in result.items()), sep="  ")


if __name__ == "__main__":
    asyncio.run(main())
