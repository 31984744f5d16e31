"""What a killed worker takes with it: nothing fails but what was inside, and the lab says how much that was."""

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

from lab import bootstrap
from lab.core.events import EventKind
from lab.core.model import AppSpec, ListenerSpec, PoolSettings
from lab.engine.lab import LabSpec
from lab.engine.local import LocalLab

WORKS = """
import http.server, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        time.sleep(0.005)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
KILLS, WORKERS, CLIENTS = 6, 3, 8


async def ready(lab: LocalLab) -> list[int]:
    """The PIDs of all workers, as soon as requests may reach each of them."""
    async with asyncio.timeout(60):
        while True:
            snapshot = await lab.snapshot()
            pids = [worker.pid for worker in snapshot.apps[0].workers if worker.routed and worker.pid]
            if len(pids) == WORKERS:
                return pids
            await lab.events(snapshot.events_next, wait=0.1)


async def keep_asking(port: int, statuses: Counter[int], over: asyncio.Event) -> None:
    while not over.is_set():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /app HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        statuses[int((await reader.read())[9:12])] += 1
        writer.close()


async def test_20_nothing_fails_but_what_was_inside_a_killed_worker_and_that_is_counted(tmp_path: Path) -> None:
    source = tmp_path / "works.py"
    source.write_text(WORKS)
    app = AppSpec(
        name="app", route="/app", language="python", source=str(source), concurrency=4,
        pool=PoolSettings(max_workers=WORKERS, start_timeout=30, stable_after=0),
    )  # fmt: skip
    lab = bootstrap.local_lab(
        LabSpec(name="lost", listener=ListenerSpec(port=0), apps=(app,), own_rate=0), control=tmp_path / "lab.sock"
    )
    await asyncio.to_thread(lab.start)
    try:
        await ready(lab)
        port = int((await lab.snapshot()).listener.rpartition(":")[2])
        statuses: Counter[int] = Counter()
        over = asyncio.Event()
        asking = [asyncio.ensure_future(keep_asking(port, statuses, over)) for _ in range(CLIENTS)]
        for _ in range(KILLS):
            answered = statuses[200]
            pids = await ready(lab)
            while statuses[200] < answered + 20:
                await asyncio.sleep(0.005)
            os.kill(pids[0], signal.SIGKILL)
            async with asyncio.timeout(60):
                while pids[0] in {worker.pid for worker in (await lab.snapshot()).apps[0].workers}:
                    await asyncio.sleep(0.02)
        await ready(lab)
        over.set()
        await asyncio.gather(*asking)
        events = (await lab.events(limit=10_000)).events
        lost = sum(event.data["lost"] for event in events if event.kind is EventKind.HEALED)
    finally:
        await lab.close()
    assert statuses.keys() <= {200, 502}
    assert statuses[502] <= lost <= KILLS * app.concurrency
