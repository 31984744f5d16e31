"""Whole labs that run PHP, and a client in front of them."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from lab import bootstrap
from lab.core.events import Event, EventKind
from lab.core.model import AppSpec, Contract, ListenerSpec, PhpSettings, PoolSettings, SiteSpec
from lab.core.snapshot import AppSnapshot, LabSnapshot
from lab.core.states import Policy
from lab.engine.lab import LabSpec
from lab.engine.local import LocalLab

HERE = Path(__file__).parent
PATIENCE = 60.0
"""Seconds: a busy machine starts PHP slowly."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without PHP these tests are left out."""
    missing = [tool for tool in ("php-cgi",) if shutil.which(tool) is None]
    for item in items:
        if missing and HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(missing)}"))


class World:
    """A running lab, and a client of it that keeps cookies and follows no redirect."""

    def __init__(self, lab: LocalLab, client: httpx.AsyncClient) -> None:
        self.lab = lab
        self.client = client

    async def snapshot(self) -> LabSnapshot:
        return await self.lab.snapshot()

    async def until(self, holds: Callable[[LabSnapshot], bool]) -> LabSnapshot:
        """The first snapshot of which that holds."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not holds(snapshot := await self.lab.snapshot()):
                    await self.lab.events(snapshot.events_next, wait=0.2)
        except TimeoutError:
            told = "\n".join(event.text for event in (await self.lab.events()).events[-30:])
            raise AssertionError(f"it did not come to hold; what happened:\n{told}") from None
        return snapshot

    async def event(self, kind: EventKind, since: int = 1) -> Event:
        """The first event of a kind, now or when it comes."""
        async with asyncio.timeout(PATIENCE):
            while True:
                batch = await self.lab.events(since, wait=1)
                for event in batch.events:
                    if event.kind is kind:
                        return event
                since = batch.next


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Any]]:
    """`await start(app, ...)` gives a `World` in which every app has a worker that serves. It is ended afterwards."""
    async with AsyncExitStack() as stack:

        async def begin(*apps: AppSpec) -> World:
            return await stack.enter_async_context(_running(apps))

        yield begin


@asynccontextmanager
async def _running(apps: tuple[AppSpec, ...]) -> AsyncIterator[World]:
    spec = LabSpec(name="php", listener=ListenerSpec(port=0), apps=apps, own_rate=0)
    lab = bootstrap.local_lab(spec, control=None)
    await asyncio.to_thread(lab.start)
    try:
        url = (await lab.snapshot()).listener
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
            world = World(lab, client)
            await world.until(lambda snapshot: all(map(_serves, snapshot.apps)))
            yield world
    finally:
        await lab.close()


def _serves(app: AppSnapshot) -> bool:
    """It has a worker, or needs none before the first request."""
    starts_later = app.protocol == Contract.CGI or app.policy == Policy.ONDEMAND
    return starts_later or any(worker.routed for worker in app.workers)


def php_app(
    folder: Path, files: dict[str, str], *, name: str = "php", site: dict[str, Any] | None = None, **settings: Any
) -> AppSpec:
    """An app whose document root has these files."""
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    defaults = {
        "route": f"/{name}",
        "language": "php",
        "source": str(folder / "index.php"),
        "site": SiteSpec(root=str(folder), **(site or {})),
        "pool": PoolSettings(max_workers=2),
    }
    return AppSpec(name=name, **(defaults | settings))


def with_ini(app: AppSpec, **ini: str) -> AppSpec:
    """The app with these values of php.ini."""
    return msgspec.structs.replace(app, php=PhpSettings(ini=app.php.ini | ini))
