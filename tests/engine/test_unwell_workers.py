"""Workers that die, freeze or fail in a whole lab: what clients notice, and what people are shown."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from lab import bootstrap
from lab.core.errors import NoLabError
from lab.core.events import EventKind
from lab.core.model import AppSpec, ListenerSpec, Liveness, PoolSettings
from lab.core.snapshot import AppSnapshot
from lab.core.states import BreakerState, EndpointHealth, WorkerState
from lab.engine.lab import LabSpec
from lab.engine.local import LocalLab

SERVES = """
import http.server, os, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if "health" not in self.path:
            time.sleep(0.02)
        if "die" in self.path:
            os._exit(1)
        self.send_response(200)
        self.send_header("Content-Length", "9" if "half" in self.path else "0")
        self.end_headers()
        if "half" in self.path:
            os._exit(1)

    def log_message(self, *told):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[LocalLab]:
    source = tmp_path / "serves.py"
    source.write_text(SERVES)
    pool = PoolSettings(max_workers=3, start_timeout=30, stable_after=0)
    app = AppSpec(
        name="app", route="/app", language="python", source=str(source), concurrency=4, pool=pool,
        liveness=Liveness(interval=30),
    )  # fmt: skip
    spec = LabSpec(name="unwell", listener=ListenerSpec(port=0), apps=(app,), own_rate=0)
    local = bootstrap.local_lab(spec, control=tmp_path / "lab.sock")
    await asyncio.to_thread(local.start)
    await seen(local, all_routed)
    yield local
    await local.close()


def all_routed(app: AppSnapshot) -> bool:
    return len(app.workers) == 3 and all(worker.routed for worker in app.workers)


async def seen(lab: LocalLab, holds: Callable[[AppSnapshot], bool]) -> AppSnapshot:
    """The app, once something holds of it."""
    async with asyncio.timeout(40):
        while not holds(app := (await lab.snapshot()).apps[0]):
            await asyncio.sleep(0.02)
    return app


async def get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> int:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head.split()[1])


async def statuses(lab: LocalLab, path: str, on: Callable[[int], bool]) -> list[int]:
    """Ask on one connection, one request after the other, while `on` holds of how many there were."""
    reader, writer = await asyncio.open_connection("127.0.0.1", (await lab.snapshot()).port)
    found: list[int] = []
    while on(len(found)):
        found.append(await get(reader, writer, path))
    writer.close()
    return found


async def during(lab: LocalLab, deed: Awaitable[None], clients: int = 8) -> list[int]:
    """The statuses that clients got while something was done."""
    going = True
    asking = [asyncio.ensure_future(statuses(lab, "/app/", lambda number: going)) for _ in range(clients)]
    try:
        await deed
    finally:
        going = False
    return list(itertools.chain.from_iterable(await asyncio.gather(*asking)))


async def test_20_kills_fail_no_idempotent_request_when_resets_are_tried_again(lab: LocalLab) -> None:
    await lab.set("app", {"retries.on": "connect,reset"})

    async def kill() -> None:
        for _ in range(6):
            app = await seen(lab, lambda app: all_routed(app) and any(worker.in_flight for worker in app.workers))
            await lab.signal(f"app/{max(app.workers, key=lambda worker: worker.in_flight or 0).slot}", "SIGKILL")
            generations = sum(worker.generation for worker in app.workers)
            await seen(lab, lambda app, before=generations: sum(one.generation for one in app.workers) > before)

    found = await during(lab, kill())
    assert set(found) == {200}
    while (snapshot := await lab.snapshot()).totals.in_flight:
        await asyncio.sleep(0.02)
    assert snapshot.totals.failed == 0
    assert snapshot.totals.answered == snapshot.totals.accepted == len(found)
    assert snapshot.totals.retries > 0
    assert snapshot.apps[0].retries > 0
    assert snapshot.invariants.conserved


async def test_22_a_frozen_worker_is_ready_to_the_pool_and_unhealthy_to_the_proxy(lab: LocalLab) -> None:
    changes = {"health_check.interval": "0.05", "health_check.timeout": "1", "health_check.fall": "2"}
    await lab.set("app", changes)
    await lab.signal("app/1", "SIGSTOP")
    app = await seen(lab, lambda app: app.workers[1].health is EndpointHealth.UNHEALTHY)
    worker = app.workers[1]
    assert worker.state is WorkerState.READY
    assert not worker.routed
    assert worker.health_why == "did not answer GET /health within 1 s"
    assert await statuses(lab, "/app/", lambda number: number < 12) == [200] * 12
    await lab.signal("app/1", "SIGCONT")
    await seen(lab, all_routed)
    told = [event for event in (await lab.events(limit=1000)).events if event.kind is EventKind.ENDPOINT_HEALTH]
    assert [event.data["to"] for event in told] == ["unhealthy", "healthy"]
    assert {event.slot for event in told} == {1}


async def test_10_an_own_request_whose_answer_breaks_off_says_so_and_not_that_there_is_no_lab(lab: LocalLab) -> None:
    with pytest.raises(NoLabError, match="was not answered: the connection broke after"):
        await lab.request("app", "/app/half")


async def test_23_an_app_that_dies_of_its_requests_opens_its_breaker(lab: LocalLab) -> None:
    await lab.set("app", {"breaker.failures": "2", "breaker.open_for": "60"})
    found = await statuses(lab, "/app/die", lambda number: number < 4)
    assert found == [502, 502, 503, 503]
    app = await seen(lab, lambda app: app.breaker is not None and app.breaker.state is BreakerState.OPEN)
    assert app.breaker is not None
    assert app.breaker.why.startswith("2 requests failed within 10 s. The last one: ")
    await lab.set("app", {"breaker.failures": "0"})
    assert (await lab.snapshot()).apps[0].breaker is None
