"""The slow log: a slow request is told once, with what its worker was doing."""

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab import bootstrap
from lab.core.events import Event, EventKind
from lab.core.model import AppSpec, ListenerSpec, PoolSettings
from lab.core.trace import Why
from lab.engine.lab import LabSpec
from lab.engine.local import LocalLab

LINGERS = """
import http.server, os, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if "slow" in self.path:
            self.lingers()
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def lingers(self):
        while not os.path.exists(os.environ["TOLD"]):
            time.sleep(0.005)

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Where this file is, requests last no longer."""
    return tmp_path / "told"


@pytest.fixture
async def lab(tmp_path: Path, told: Path) -> AsyncIterator[LocalLab]:
    source = tmp_path / "lingers.py"
    source.write_text(LINGERS)
    app = AppSpec(
        name="app", route="/app", language="python", source=str(source), slow_request=0.2,
        env={"TOLD": str(told)}, pool=PoolSettings(max_workers=1, start_timeout=20),
    )  # fmt: skip
    spec = LabSpec(name="slow", listener=ListenerSpec(port=0), apps=(app,), own_rate=0)
    local = bootstrap.local_lab(spec, control=tmp_path / "lab.sock")
    await asyncio.to_thread(local.start)
    async with asyncio.timeout(30):
        while not any(worker.routed for worker in (await local.snapshot()).apps[0].workers):
            await local.events((await local.snapshot()).events_next, wait=0.2)
    yield local
    await local.close()


async def slow_events(lab: LocalLab) -> list[Event]:
    return [event for event in (await lab.events(limit=10_000)).events if event.kind is EventKind.SLOW]


async def slow_request(lab: LocalLab, told: Path, target: str = "/app/slow") -> None:
    """A request that lasts until it was told to be slow."""
    before = len(await slow_events(lab))
    asked = asyncio.ensure_future(lab.request("app", target))
    async with asyncio.timeout(30):
        while len(await slow_events(lab)) == before:
            await lab.events((await lab.snapshot()).events_next, wait=0.1)
    told.touch()
    assert (await asked).status == 200
    told.unlink()


async def test_a_slow_request_is_told_once_with_the_stack_of_its_worker(lab: LocalLab, told: Path) -> None:
    await slow_request(lab, told, "/app/slow?why=1")
    (event,) = await slow_events(lab)
    assert (event.data["method"], event.data["target"]) == ("GET", "/app/slow?why=1")
    assert event.data["seconds"] >= 0.2
    assert event.pid == (await lab.snapshot()).apps[0].workers[0].pid
    assert event.data["seen_by"] in ("py-spy", "kernel")
    if event.data["seen_by"] == "py-spy":
        assert any("lingers" in line for line in event.data["stack"])


async def test_29_a_slow_request_is_told_with_the_name_of_its_trace(lab: LocalLab, told: Path) -> None:
    await lab.set("proxy", {"slow": "0.1"})
    await slow_request(lab, told, "/app/slow?why=2")
    (event,) = await slow_events(lab)
    (trace,) = await lab.traces(event.data["trace"])
    assert (trace.target, trace.kept) == ("/app/slow?why=2", (Why.SLOW,))


async def test_slow_requests_are_counted_where_they_are_shown(lab: LocalLab, told: Path) -> None:
    await slow_request(lab, told)
    await slow_request(lab, told)
    async with asyncio.timeout(30):  # a snapshot may be a moment old
        while (snapshot := await lab.snapshot()).apps[0].slow_requests < 2:
            await asyncio.sleep(0.05)
    assert snapshot.apps[0].slow_requests == 2
    url = f"{snapshot.listener}/pool-status?json"
    page = await asyncio.to_thread(lambda: json.loads(urllib.request.urlopen(url, timeout=40).read()))
    assert page["slow requests"] == 2


async def test_a_quick_request_is_not_told(lab: LocalLab) -> None:
    await lab.set("app", {"slow_request": "30"})  # on a busy machine anything may take a while
    assert (await lab.request("app", "/app/quick")).status == 200
    assert await slow_events(lab) == []
