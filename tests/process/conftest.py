"""A pool of real processes to test with: small worker programs, a small real routing, and a wait for events."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from lab.config import languages
from lab.config.languages import Language
from lab.core.clock import SystemClock
from lab.core.events import Event, EventKind, EventRing
from lab.core.model import AppSpec, Endpoint, Liveness, PoolSettings, WorkerId
from lab.core.states import WorkerState
from lab.pool.backends.python_builtin import PythonBuiltinPool
from lab.pool.manager import AppView, WorkerView
from lab.pool.spawner import Spawner

PATIENCE = 40.0
"""Seconds until a test gives up waiting for something that should have come: a busy machine is no defect."""


class Routes:
    """A `Routing` with places to count and nothing to relay."""

    def __init__(self) -> None:
        self.routed: dict[WorkerId, Endpoint] = {}
        self.places: dict[WorkerId, int] = {}
        self.sent: dict[WorkerId, int] = {}
        """Requests at a worker, as a test says."""
        self.since: dict[WorkerId, float] = {}
        self.counted: dict[WorkerId, int] = {}
        self.idle_from: dict[WorkerId, float] = {}
        self.log: list[tuple[str, WorkerId]] = []
        self.idle = asyncio.Event()

    def add(self, endpoint: Endpoint) -> None:
        self.routed[endpoint.worker] = endpoint
        self.idle_from[endpoint.worker] = time.monotonic()
        self.log.append(("in", endpoint.worker))

    def remove(self, endpoint: Endpoint) -> None:
        if self.routed.pop(endpoint.worker, None) is not None:
            self.log.append(("out", endpoint.worker))

    async def occupy(self, endpoint: Endpoint) -> None:
        """Take a place of a worker, now or as soon as no probe has it."""
        while not self.acquire(endpoint):
            self.idle.clear()
            await self.idle.wait()

    async def drained(self, endpoint: Endpoint, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                while self.in_flight(endpoint):
                    self.idle.clear()
                    await self.idle.wait()
        except TimeoutError:
            return False
        return True

    def in_flight(self, endpoint: Endpoint) -> int:
        return self.places.get(endpoint.worker, 0)

    def inside(self, endpoint: Endpoint) -> int:
        return self.sent.get(endpoint.worker, 0)

    def busy_since(self, endpoint: Endpoint) -> float | None:
        return self.since.get(endpoint.worker)

    def served(self, endpoint: Endpoint) -> int:
        return self.counted.get(endpoint.worker, 0)

    def idle_since(self, endpoint: Endpoint) -> float | None:
        return None if self.in_flight(endpoint) else self.idle_from.get(endpoint.worker)

    def acquire(self, endpoint: Endpoint) -> bool:
        if self.in_flight(endpoint) >= endpoint.concurrency:
            return False
        self.places[endpoint.worker] = self.in_flight(endpoint) + 1
        return True

    def release(self, endpoint: Endpoint) -> None:
        self.places[endpoint.worker] -= 1
        self.idle.set()


class Bench:
    """A running pool and what a test needs around it."""

    PROGRAM = """
import os, socket, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen()
while True:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")
"""
    """A worker that answers 200 to everything, one request at a time."""

    def __init__(self, folder: Path, known: Mapping[str, Language] | None = None) -> None:
        """`known` languages; None means those that the lab brings along."""
        self.folder = folder
        self.clock = SystemClock()
        self.events = EventRing(self.clock)
        self.routes = Routes()
        self.spawner = Spawner(self.clock)
        self.pool = PythonBuiltinPool(
            routing=self.routes,
            events=self.events,
            clock=self.clock,
            spawner=self.spawner,
            languages=known or languages.load(),
            cache=folder / "cache",
            logs=folder / "logs",
        )

    def source(self, text: str = PROGRAM, name: str = "worker.py") -> str:
        """Write a program and return its path."""
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def app(self, text: str = PROGRAM, *, name: str = "app", language: str = "python", **pool: Any) -> AppSpec:
        """An app of one worker. That is asked often how it is, and not found unwell because the machine is busy."""
        suffix = {"python": "py"}.get(language, language)
        settings = {"max_workers": 1, "stop_timeout": 1.0, "drain_timeout": 1.0, "backoff_initial": 0.02} | pool
        return AppSpec(
            name=name,
            route=f"/{name}",
            language=language,
            source=self.source(text, f"{name}.{suffix}"),
            pool=PoolSettings(**settings),
            liveness=Liveness(interval=0.05, timeout=10.0, fall=2, rise=1, hang_timeout=PATIENCE, replace_after=0.0),
        )

    @staticmethod
    def strict(app: AppSpec, replace_after: float = 0.0) -> AppSpec:
        """The app, its workers found unwell soon: for tests in which they are."""
        soon = Liveness(interval=0.05, timeout=0.3, fall=2, rise=1, hang_timeout=0.3, replace_after=replace_after)
        return msgspec.structs.replace(app, liveness=soon)

    async def seen(self, matches: Callable[[Event], bool], since: int = 1, timeout: float = PATIENCE) -> Event:
        """The first event from `since` on that matches, now or as soon as it happens."""
        future: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

        def look(event: Event) -> None:
            if not future.done() and matches(event):
                future.set_result(event)

        for event in self.events.read(since, 10_000).events:
            look(event)
        unwatch = self.events.watch(look)
        try:
            return await asyncio.wait_for(future, timeout)
        except TimeoutError:
            raise AssertionError(f"expected event did not come; events were:\n{self.told()}") from None
        finally:
            unwatch()

    def told(self) -> str:
        """The last events, for a person."""
        return "\n".join(f"{one.seq} {one.kind} {one.text}" for one in self.events.read(1, 10_000).events[-40:])

    async def state(self, state: WorkerState, since: int = 1, **fields: Any) -> Event:
        """Wait until a worker has gone to `state`."""
        return await self.seen(
            lambda event: event.state is state and all(getattr(event, name) == value for name, value in fields.items()),
            since,
        )

    async def kind(self, kind: EventKind, since: int = 1) -> Event:
        """Wait for an event of this kind."""
        return await self.seen(lambda event: event.kind is kind, since)

    def view(self, name: str = "app") -> AppView:
        """The app as it is."""
        return next(app for app in self.pool.observe().apps if app.name == name)

    def worker(self, name: str = "app") -> WorkerView:
        """The newest worker of the app's first slot."""
        return [worker for worker in self.view(name).workers if worker.worker.slot == 0][-1]

    async def until(self, holds: Callable[[], bool], timeout: float = PATIENCE) -> None:
        """Wait for something that no event tells, such as a fact of the kernel."""
        try:
            async with asyncio.timeout(timeout):
                while not holds():
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"it did not come to hold; events were:\n{self.told()}") from None

    def count(self, state: WorkerState) -> int:
        """How often a worker has gone to `state`."""
        return sum(event.state is state for event in self.events.read(1, 10_000).events)


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests of this folder run on the loop that the engine runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    bench.spawner.launch()
    await bench.pool.start()
    yield bench
    await asyncio.wait_for(bench.pool.close(), PATIENCE)
