"""A whole lab to send load to."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab import bootstrap
from lab.core.events import EventKind
from lab.core.model import AppSpec, ListenerSpec, PoolSettings
from lab.engine.lab import Lab, LabSpec
from lab.engine.local import LocalLab


class Events:
    """Events of a lab, read one after another."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._cursor = 0

    async def pid_at(self, kind: EventKind) -> int:
        """The PID that the next event of this kind names."""
        while True:
            batch = await self._lab.events(self._cursor, wait=20)
            for event in batch.events:
                self._cursor = event.seq + 1
                if event.kind is kind and event.pid is not None:
                    return event.pid


@pytest.fixture
async def lab() -> AsyncIterator[LocalLab]:
    """One READY worker of the app `search` behind a listener, and no requests of the lab's own."""
    app = AppSpec(
        name="search",
        route="/api/search",
        language="python",
        source=str(Path(__file__).with_name("answering.py")),
        concurrency=32,
        pool=PoolSettings(max_workers=1, start_timeout=20),
    )
    spec = LabSpec(name="loaded", listener=ListenerSpec(port=0), apps=(app,), own_rate=0)
    local = bootstrap.local_lab(spec, control=None)
    await asyncio.to_thread(local.start)
    try:
        await Events(local).pid_at(EventKind.ENDPOINT_IN)
        yield local
    finally:
        await local.close()


@pytest.fixture
def events(lab: LocalLab) -> Events:
    """Its events."""
    return Events(lab)
