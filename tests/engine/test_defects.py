"""Defects of the engine: the lab goes on where it can, and says so where it cannot."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import pytest

from lab import bootstrap
from lab.core.clock import ManualClock
from lab.core.errors import NoLabError
from lab.core.events import EventKind, EventRing
from lab.core.model import ListenerSpec
from lab.engine.defects import Defects
from lab.engine.lab import LabSpec
from lab.engine.local import LocalLab
from lab.pool import forkserver


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[LocalLab]:
    lab = bootstrap.local_lab(LabSpec(name="defects", listener=ListenerSpec(port=0)), control=tmp_path / "lab.sock")
    await asyncio.to_thread(lab.start)
    yield lab
    await lab.close()


def fail() -> NoReturn:
    raise ZeroDivisionError("by nobody")


async def test_a_callback_that_fails_is_kept_and_told_and_the_lab_goes_on(lab: LocalLab) -> None:
    since = (await lab.events()).next
    on_engine(lab, fail)
    (event,) = (await lab.events(since, wait=5)).events
    assert event.kind is EventKind.NOTE
    assert "ZeroDivisionError: by nobody" in event.text
    log = Path(event.text.rpartition("Details: ")[2])
    assert "in fail" in log.read_text()
    assert (await lab.snapshot()).listener


async def test_an_engine_that_ends_by_surprise_leaves_no_process_and_its_faces_are_told(lab: LocalLab) -> None:
    waiting = asyncio.create_task(lab.events((await lab.snapshot()).events_next, wait=20))
    await asyncio.sleep(0)

    def leave() -> NoReturn:
        raise SystemExit(7)

    servers = forkserver.children(os.getpid())
    on_engine(lab, leave)
    with pytest.raises(NoLabError, match=r"defect of cgilab \(SystemExit"):
        await waiting
    await asyncio.to_thread(lab.stop)
    with pytest.raises(NoLabError, match="defect") as caught:
        await lab.snapshot()
    assert "defects.log" in caught.value.remedy
    assert servers
    assert not set(servers) & set(forkserver.children(os.getpid()))


async def test_a_face_that_gives_up_is_cancelled_and_not_told_that_the_lab_ended(lab: LocalLab) -> None:
    waiting = asyncio.create_task(lab.events((await lab.snapshot()).events_next, wait=20))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_the_same_defect_is_told_once(tmp_path: Path) -> None:
    events = EventRing(ManualClock())
    defects = Defects(tmp_path / "logs" / "defects.log", events)
    for _ in range(3):
        try:
            fail()
        except ZeroDivisionError as error:
            defects.found(error)
    assert len(events.read().events) == 1
    assert defects.log.read_text().count("Traceback") == 1


def on_engine(lab: LocalLab, callback: object) -> None:
    """Let the engine's own loop run into `callback`, as if a timer of its own had a defect."""
    lab._loop.call_soon_threadsafe(callback)
