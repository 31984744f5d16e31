"""A lab in a process of its own, and what benchmarks see from outside: descendants, what it holds, what wrk says."""

import asyncio
import atexit
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.core.errors import NoLabError
from lab.core.events import Event, EventKind
from lab.core.states import WorkerState
from lab.engine.remote import RemoteLab

TICKS = os.sysconf("SC_CLK_TCK")


class Running:
    """`cgilab up` with folders of its own, and with `manifest` instead of the samples' if one is given."""

    def __init__(self, folder: Path, manifest: dict[str, Any] | None = None) -> None:
        folder.mkdir()
        self.control = folder / "lab.sock"
        self.log = folder / "log"
        command = [sys.executable, "-m", "lab", "up", "--port", "0"]
        if manifest is not None:
            (folder / "manifest.json").write_text(json.dumps({"version": 1, **manifest}))
            command += ["--manifest", str(folder / "manifest.json")]
        env = {**os.environ, "CGILAB_CONTROL": str(self.control), "XDG_STATE_HOME": str(folder)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        atexit.register(self.process.kill)  # whatever goes wrong here, no lab stays

    async def connected(self, seconds: float = 60) -> RemoteLab:
        """A connection, as soon as there is a control socket."""
        async with asyncio.timeout(seconds):
            while True:
                if self.process.poll() is not None:
                    raise SystemExit(f"The lab ended:\n{self.log.read_text()}")
                with contextlib.suppress(NoLabError):
                    return await RemoteLab.connect(self.control)
                await asyncio.sleep(0.01)

    async def ready(self, seconds: float = 60) -> RemoteLab:
        """A connection, once every worker that is wanted serves or stands by."""
        remote = await self.connected(seconds)
        async with asyncio.timeout(seconds):
            while True:
                snapshot = await remote.snapshot()
                if all(_complete(app) for app in snapshot.apps):
                    return remote
                await remote.events(snapshot.events_next, wait=0.2)

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


async def happened(remote: RemoteLab, cursor: int, wanted: Callable[[Event], bool], seconds: float = 60) -> Event:
    """The first event from `cursor` on that is wanted, as soon as it is there. Each is looked at once, in order."""
    async with asyncio.timeout(seconds):
        while True:
            batch = await remote.events(cursor, wait=5)
            cursor = batch.next
            if (found := next(filter(wanted, batch.events), None)) is not None:
                return found


async def reached(remote: RemoteLab, app: str, state: WorkerState, cursor: int, count: int = 1) -> float:
    """When the `count`th worker of `app` came to `state`."""

    def is_the_last(event: Event) -> bool:
        nonlocal count
        count -= event.app == app and event.state is state
        return count == 0

    return (await happened(remote, cursor, is_the_last)).at


async def healing(remote: RemoteLab, worker: str) -> float:
    """Kill a worker; milliseconds until its successor serves, as the lab tells it."""
    cursor = (await remote.snapshot()).events_next
    await remote.signal(worker)
    event = await happened(remote, cursor, lambda event: event.kind is EventKind.HEALED)
    return float(event.data["heal_ms"])


def _complete(app: Any) -> bool:
    if app.unavailable:
        raise SystemExit(f"{app.name}: {app.unavailable}")
    ready = [worker for worker in app.workers if worker.state is WorkerState.READY]
    return not app.building and len(ready) >= app.wanted


def descendants(root: int) -> dict[int, str]:
    """PID to state letter of every process below `root`, from /proc."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            parents[int(entry.name)] = (int(parent), state)
    below: dict[int, str] = {}
    found = [root]
    while found:
        parent = found.pop()
        for pid, (above, state) in parents.items():
            if above == parent:
                below[pid] = state
                found.append(pid)
    return below


def supervisors(lab: int) -> list[int]:
    """The lab's process and its fork server."""
    servers = []
    for pid in descendants(lab):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended just now
            if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes():
                servers.append(pid)
    return [lab, *servers]


def held(pids: list[int]) -> dict[str, int]:
    """Open descriptors and threads of these processes together, and their resident memory in kB."""
    kept = {
        what: sum(sum(1 for _ in Path(f"/proc/{pid}/{folder}").iterdir()) for pid in pids)
        for what, folder in (("descriptors", "fd"), ("threads", "task"))
    }
    return kept | {"rss_kb": sum(_rss_kb(pid) for pid in pids)}


def _rss_kb(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


def cpu_seconds(*pids: int) -> float:
    """User and system time of these processes together."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(one[11]) + int(one[12]) for one in fields) / TICKS


def wrk(url: str, seconds: float, connections: int) -> dict[str, float]:
    """What wrk measures with one thread: requests/s, p99 in ms, and failed requests of all kinds."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", url]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    failed = sum(map(int, errors.groups())) if errors else 0
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s|m)", text).groups()
    return {
        "rps": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
        "p99_ms": float(value) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[unit],
        "failed": failed + (int(wrong[1]) if wrong else 0),
    }


def show(document: dict[str, Any], *, as_json: bool) -> None:
    """Print what was measured, a figure a line."""
    if as_json:
        print(json.dumps(document))
        return
    for name, value in document.items():
        print(f"{name}: {value}")


def need(*tools: str) -> None:
    """End with a clear word when a program is missing."""
    missing = [tool for tool in tools if shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None]
    if missing:
        raise SystemExit(f"Found no {', '.join(missing)}; on Debian: apt-get install {' '.join(missing)}")
