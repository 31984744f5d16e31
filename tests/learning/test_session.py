"""The walk through a lesson, on a real lab: real processes die, real requests are answered."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from lab.core.clock import SystemClock
from lab.core.errors import NotPossibleError
from lab.core.events import EventKind
from lab.core.model import RouteSpec
from lab.engine.local import LocalLab
from lab.learning import lessons
from lab.learning.checks import Verdict
from lab.learning.format import Action
from lab.learning.observation import kernel_state
from lab.learning.page import Phase
from lab.learning.progress import Progress
from lab.learning.session import LessonSession

Write = Callable[..., Path]


async def until(session: LessonSession, phase: Phase, seconds: float = 40.0) -> None:
    """Poll until the session has reached `phase`."""
    clock = SystemClock()
    deadline = clock.monotonic() + seconds
    while session.phase is not phase and clock.monotonic() < deadline:
        await session.wait(0.1)
    assert session.phase is phase


@pytest.fixture
def progress(tmp_path: Path) -> Progress:
    return Progress(tmp_path / "progress.json")


@pytest.mark.compiler
async def test_a_lesson_begins_when_no_worker_is_about_to_be_replaced_by_one_as_it_wants_them(
    lab: LocalLab, write_lesson: Write, progress: Progress
) -> None:
    cursor = 0
    async with asyncio.timeout(30):
        while sum(worker.routed for worker in (await lab.snapshot()).apps[0].workers) < 3:
            cursor = (await lab.events(cursor, wait=1)).next
    folder = write_lesson("workers = 2", "workers = 3")
    async with LessonSession(lab, lessons.load("short", folder), progress):
        told = [event.data.get("step") for event in (await lab.events(0)).events if event.kind is EventKind.RELOAD]
        assert told == ["verified", "done"]  # these workers take one request at a time, those before took 32


async def test_kill_is_off_until_the_prediction_is_committed(
    lab: LocalLab, write_lesson: Write, progress: Progress
) -> None:
    async with LessonSession(lab, lessons.load("short", write_lesson()), progress) as session:
        assert session.phase is Phase.PREDICT
        assert session.page().actions == ()
        with pytest.raises(NotPossibleError, match="prediction first"):
            await session.act(Action.KILL)
        with pytest.raises(NotPossibleError, match="prediction first"):
            await session.command("kill random")
        await session.choose(1)
        assert session.page().actions == (Action.KILL,)
        assert progress.record("short").predictions["heal"].said == "100 s"


async def test_a_kill_is_seen_quoted_compared_and_asked_about(
    lab: LocalLab, write_lesson: Write, progress: Progress
) -> None:
    async with LessonSession(lab, lessons.load("short", write_lesson()), progress) as session:
        await session.choose(0)
        victim = session.page().paragraphs[0].split()[-1].rstrip(".")
        assert kernel_state(int(victim)) is not None
        assert session.verdicts() == [Verdict.FAIL]
        await session.act(Action.KILL)
        await until(session, Phase.ASK)
        assert kernel_state(int(victim)) is None
        page = session.page()
        assert f"PID {victim} died by SIGKILL." in page.paragraphs
        assert page.photo is not None
        assert page.photo.data["old_pid"] == int(victim)
        assert page.said == "1 ms"
        assert any("READY again" in fact for fact in page.facts)
        assert await session.choose(0) == "Somebody did."
        assert session.phase is Phase.ASK, "a wrong answer leaves the question open"
        assert await session.choose(1) == "Yes."
        with pytest.raises(NotPossibleError, match="Enter goes on"):
            await session.act(Action.KILL)
        await session.act(Action.CONTINUE)
        assert session.phase is Phase.OVER
        assert progress.done("short")
        assert progress.record("short").predictions["heal"].nearness in ("right", "close", "far")


async def test_the_lab_is_brought_back_when_the_lesson_is_left_in_the_middle(
    lab: LocalLab, write_lesson: Write, progress: Progress
) -> None:
    before, rate = await lab.spec(), (await lab.snapshot()).own.rate
    async with LessonSession(lab, lessons.load("short", write_lesson()), progress) as session:
        assert [app.name for app in (await lab.spec()).apps] == ["search"]
        assert (await lab.snapshot()).own.rate == 0
        await session.choose(0)
    assert await lab.spec() == before
    assert (await lab.snapshot()).own.rate == rate


async def test_a_lesson_has_no_routes_but_those_of_its_apps_and_what_was_laid_comes_back(
    lab: LocalLab, write_lesson: Write, progress: Progress
) -> None:
    now = await lab.spec()
    everything = RouteSpec(name="everything", priority=1, apps={now.apps[-1].name: 1})
    before = replace(now, routes=(everything,))
    await lab.apply(before)
    async with LessonSession(lab, lessons.load("short", write_lesson()), progress):
        assert (await lab.spec()).routes == ()
    assert await lab.spec() == before


async def test_a_lesson_can_be_left_while_a_worker_is_frozen_and_begun_again(
    lab: LocalLab, write_lesson: Write, progress: Progress
) -> None:
    lesson = lessons.load("short", write_lesson('allow = ["kill"]', 'allow = ["freeze"]'))
    async with LessonSession(lab, lesson, progress) as session:
        await session.choose(0)
        target = session.observation.target
        assert target is not None
        await session.act(Action.FREEZE)
        while not session.settled:
            await session.wait(0.1)
        assert kernel_state(target.pid) == "T"
    async with asyncio.timeout(30):
        while kernel_state(target.pid) == "T":
            await lab.events((await lab.snapshot()).events_next, wait=0.05)
    cursor = (await lab.snapshot()).events_next
    (frozen,) = await lab.signal("search/0", "SIGSTOP")
    stopped = False
    async with asyncio.timeout(30):
        while not stopped:  # the kernel tells a moment later; whom the lab does not know to be frozen it cannot thaw
            batch = await lab.events(cursor, wait=1)
            cursor = batch.next
            stopped = any(event.pid == frozen.pid and event.kind is EventKind.STOPPED for event in batch.events)
    async with LessonSession(lab, lesson, progress) as session:
        assert session.phase is Phase.PREDICT


async def test_the_lab_is_brought_back_after_an_error(lab: LocalLab, write_lesson: Write, progress: Progress) -> None:
    before = await lab.spec()
    with pytest.raises(NotPossibleError):
        async with LessonSession(lab, lessons.load("short", write_lesson()), progress) as session:
            await session.act(Action.CONTINUE)
    assert await lab.spec() == before


async def test_a_language_that_is_missing_gives_way_to_the_next(
    lab: LocalLab, write_lesson: Write, progress: Progress, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = write_lesson("kill {{ target.pid }}", "kill a {{ app.language }} program")
    async with LessonSession(lab, lessons.load("short", folder), progress) as session:
        await session.choose(0)
        assert session.page().paragraphs == ("Press **k** to kill a Python program.",)


async def test_a_kill_from_outside_is_told_from_one_of_this_lab(
    lab: LocalLab, write_lesson: Write, progress: Progress
) -> None:
    folder = write_lesson("died by {{ death.signal }}", "died, killed from {{ death.by }}")
    async with LessonSession(lab, lessons.load("short", folder), progress) as session:
        await session.choose(0)
        target = session.observation.target
        assert target is not None
        os.kill(target.pid, signal.SIGKILL)
        await until(session, Phase.ASK)
        assert f"PID {target.pid} died, killed from outside." in session.page().paragraphs
        assert any("not sent by this lab" in fact for fact in session.page().facts)


async def test_a_hint_comes_when_a_step_stays_open_and_with_it_the_way_on(
    lab: LocalLab, write_lesson: Write, progress: Progress
) -> None:
    folder = write_lesson(
        'allow = ["kill"]', 'allow = ["kill"]\nhint = [{ on = "gone", after_seconds = 0, text = "meet" }]'
    )
    async with LessonSession(lab, lessons.load("short", folder), progress) as session:
        await session.choose(0)
        page = session.page()
        assert page.hint == "Everywhere."
        assert Action.SKIP in page.actions
        await session.act(Action.SKIP)
        assert session.phase is Phase.OVER
