"""What a change of the built-in proxy brings: two versions of it in one process, which serve in turns of 36 ms.

    git worktree add ../before HEAD~1
    tests/bench/versions.py ../before . [--json] [--seconds 60] [--on]

A machine's speed drifts by a third within minutes, and two processes that are the same differ by some percent. Here
both versions share the interpreter, its memory and every moment: while one serves, the clients of the other wait. So 60
seconds tell differences of 0.2 us. What else `proxy.py` says holds here, too: two C workers, 32 connections, core 0 for
the process; `--on` switches on everything by which the proxy explains itself. CPU is that of the loop's thread.
"""

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).parent))
from proxy import PATH, pinned, two_workers

from lab.pool.sockdiag import free_port

TURN = 0.03
"""Seconds that are measured; what waited meanwhile is served before, for `SETTLING` seconds."""
SETTLING = 0.006


class Version:
    """One version, listening. Whatever it is made of was imported from `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        self.costs: list[float] = []
        """CPU microseconds a request, turn by turn."""
        self.proxy: Any = None

    async def start(self, workers: list[int], on: bool, logs: Path) -> None:
        """Import it in the place of whichever version was imported before, and let it listen."""
        for name in [name for name in sys.modules if name.partition(".")[0] in ("lab", "gateway_process")]:
            del sys.modules[name]
        sys.path[:0] = [str(self.root), str(self.root / "tests" / "bench")]
        process = importlib.import_module("gateway_process")
        core, manager = (importlib.import_module(f"lab.{name}") for name in ("core.model", "proxy.manager"))
        if not Path(manager.__file__).is_relative_to(self.root / "lab"):
            raise SystemExit(f"{self.root} has no lab/: expected a folder of the project, such as a git worktree.")
        clock = process.SystemClock()
        self.proxy = process.PythonBuiltinProxy(clock, process.EventRing(clock), logs=logs)
        upstream = manager.UpstreamSpec(app="search", route="/")
        settings = process.EXPLAINING if on else core.ProxySettings()
        listener = core.ListenerSpec(port=self.port)
        await self.proxy.start(manager.ProxySpec(listener=listener, upstreams=(upstream,), settings=settings))
        for slot, worker in enumerate(workers):
            identity = core.WorkerId("search", slot, 1)
            self.proxy.add(core.Endpoint("search", identity, "127.0.0.1", worker, concurrency=process.CONCURRENCY))
        del sys.path[:2]

    @property
    def accepted(self) -> int:
        """Requests until now."""
        return self.proxy._gateway.counters[False].accepted

    def hold(self, held: bool) -> None:
        """Let its clients wait, or be served again."""
        for downstream in self.proxy._gateway.downstreams:
            transport = downstream.transport
            if not transport.is_closing():
                transport.pause_reading() if held else transport.resume_reading()

    async def turn(self) -> float | None:
        """Serve for a moment. Returns what a request cost; None where there was none."""
        self.hold(False)
        await asyncio.sleep(SETTLING)
        began, before = time.thread_time(), self.accepted
        await asyncio.sleep(TURN)
        spent, requests = time.thread_time() - began, self.accepted - before
        self.hold(True)
        return spent / requests * 1e6 if requests else None


async def compare(roots: list[Path], workers: list[int], seconds: float, on: bool, logs: Path) -> list[Version]:
    """Both, after so many seconds."""
    versions = [Version(root) for root in roots]
    with contextlib.ExitStack() as stack:
        for version in versions:
            await version.start(workers, on, logs)
            url = f"http://127.0.0.1:{version.port}{PATH}"
            wrk = subprocess.Popen(pinned(1, ["wrk", "-t1", "-c32", f"-d{seconds + 30:.0f}s", url]), stdout=-3)
            stack.callback(wrk.wait)
            stack.callback(wrk.kill)
        async with asyncio.timeout(20):
            while min(version.accepted for version in versions) < 5000:
                await asyncio.sleep(0.05)
        for version in versions:
            version.hold(True)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            costs = [await version.turn() for version in versions]
            for version, cost in zip(versions, costs, strict=True):
                if None not in costs:
                    version.costs.append(cost)
    return versions


def summary(versions: list[Version]) -> dict[str, Any]:
    """Medians, and how the second version differs from the first in the turns that were neighbours."""
    before, after = (version.costs for version in versions)
    pairs = list(zip(before, after, strict=True))
    differences = [late - early for early, late in pairs]
    return {
        "cpu_us": [round(statistics.median(version.costs), 2) for version in versions],
        "difference_us": round(statistics.median(differences), 2),
        "within_us": round(1.25 * statistics.stdev(differences) / len(pairs) ** 0.5, 2),
        "ratio": round(statistics.median(late / early for early, late in pairs), 3),
        "turns": len(pairs),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Compare two versions of the built-in proxy in one process.")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--on", action="store_true", help="with everything on by which it explains itself")
    parser.add_argument("roots", type=Path, nargs=2, help="folders of the project, such as git worktrees")
    given = parser.parse_args()
    roots = [root.resolve() for root in given.roots]
    with tempfile.TemporaryDirectory() as name, two_workers(Path(name)) as workers:
        os.sched_setaffinity(0, {0})
        versions = uvloop.run(compare(roots, workers, given.seconds, given.on, Path(name)))
    document = summary(versions)
    if given.json:
        print(json.dumps(document))
        return
    for version, cost in zip(versions, document["cpu_us"], strict=True):
        print(f"{cost:7.2f} us of CPU a request  {version.root}")
    print(
        f"The second took {document['difference_us']:+.2f} us (within {document['within_us']:.2f}),"
        f" {document['ratio']:.3f} x, in {document['turns']} pairs of turns."
    )


if __name__ == "__main__":
    main()
