"""Mode Lessons as a learner uses it, mostly on a real lab: the page claims nothing that did not happen."""

import gc
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fake_lab import FakeLab
from reading import read, seen
from textual.pilot import Pilot
from textual.widget import Widget

from lab import bootstrap
from lab.core.clock import SystemClock
from lab.core.errors import NotPossibleError
from lab.engine.lab import Lab, LabSpec
from lab.engine.local import LocalLab
from lab.learning import progress
from lab.learning.page import Page, Phase
from lab.tui.app import CgilabApp
from lab.tui.glyphs import ASCII, UNICODE
from lab.tui.screens.lab import LabScreen
from lab.tui.screens.lessons import LessonsScreen
from lab.tui.widgets.flow import Flow
from lab.tui.widgets.key_bar import KeyBar
from lab.tui.widgets.lesson_list import LessonList
from lab.tui.widgets.lesson_page import LessonPage, rows_of, wrap
from lab.tui.widgets.lesson_title import LessonTitle
from lab.tui.widgets.photo_finish import PhotoFinish
from lab.tui.widgets.said import Said

SMALL, LARGE = (80, 24), (170, 50)


class Learner:
    """Somebody in front of the lessons screen."""

    def __init__(self, app: CgilabApp, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot

    def sees(self, kind: type[Widget]) -> str:
        return seen(self.app.screen.query_one(kind))

    @property
    def page(self) -> str:
        return " ".join(self.sees(LessonPage).split())

    async def press(self, *keys: str) -> None:
        """Press keys one after the other; each has had its effect before the next."""
        for key in keys:
            await self.pilot.press(key)
            for work in [worker for worker in self.app.workers if worker.name != "bridge"]:
                await work.wait()
            await self.pilot.pause()

    async def until(self, text: str, seconds: float = 40.0) -> None:
        """Look until the page shows `text`."""
        clock = SystemClock()
        deadline = clock.monotonic() + seconds
        while text not in self.page and clock.monotonic() < deadline:
            await self.app.lab.events((await self.app.lab.snapshot()).events_next, wait=0.1)
            await self.app.bridge.poll()
            await self.pilot.pause()
        assert text in self.page

    async def to_the_kill(self) -> None:
        """The first three scenes: ask, ask, predict, ask, predict."""
        await self.press("r")
        await self.until("That number is a process")
        await self.press("enter", "r", "r", "r")
        await self.until("the balancer")
        await self.press("enter", "a", "r")
        await self.until("round robin")
        await self.press("enter")
        await self.until("How long until the successor is READY?")


@asynccontextmanager
async def learning(
    lab: Lab, size: tuple[int, int] = SMALL, lesson: str | None = "first-look", *, lab_stays: bool = True
) -> AsyncIterator[Learner]:
    app = CgilabApp(lab, open_lesson=lesson, lab_stays=lab_stays)
    async with app.run_test(size=size) as pilot:
        learner = Learner(app, pilot)
        if lesson is None:
            await learner.press("2")
        await learner.press()
        yield learner


@pytest.fixture
async def real() -> AsyncIterator[LocalLab]:
    """A real lab with the default apps."""
    lab = bootstrap.local_lab(bootstrap.lab_spec(None, port=0, name="lessons"), control=None)
    lab.start()
    yield lab
    await lab.close()


async def test_in_ten_rows_the_text_goes_before_the_picture(real: LocalLab) -> None:
    async with learning(real, (40, 10)) as learner:
        await learner.until("3 real processes")
        assert learner.app.screen.query_one("#reading").size.height >= 3


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_the_first_page_names_the_workers_that_the_flow_shows(real: LocalLab, size: tuple[int, int]) -> None:
    async with learning(real, size) as learner:
        await learner.until("3 real processes")
        await learner.app.bridge.poll()
        await learner.pilot.pause()
        search = (await real.snapshot()).app("search")
        assert search is not None
        for worker in search.workers:
            assert str(worker.pid) in learner.page
            assert str(worker.pid) in learner.sees(Flow)
        assert "1/8" in learner.sees(LessonTitle)
        assert "r send a request" in " ".join(seen(learner.app.screen.query_one("#keys", KeyBar)).split())


async def test_a_kill_waits_for_the_prediction_then_shows_the_photo_finish(real: LocalLab) -> None:
    async with learning(real) as learner:
        await learner.to_the_kill()
        await learner.press("k")
        assert "Commit your prediction first" in learner.sees(Said)
        await learner.press("down", "down", "enter")
        await learner.until("You said 100 ms")
        await learner.press("k")
        await learner.until("nobody had to poll")
        finish = learner.sees(PhotoFinish)
        assert "you said 100 ms" in finish
        assert "READY" in finish
        assert "exit seen" in finish


async def test_a_kill_from_another_terminal_is_recognised_as_such(real: LocalLab) -> None:
    async with learning(real) as learner:
        await learner.to_the_kill()
        await learner.press("c", "k")
        await learner.until("nobody had to poll")
        await learner.press("enter", "y")
        await learner.until("Perhaps the lab only pretends")
        command = learner.app.clipboard
        assert command.startswith("kill -9 ")
        assert command in learner.page
        os.kill(int(command.split()[-1]), signal.SIGKILL)
        await learner.until("not sent by this lab")


async def test_escape_leaves_the_lesson_and_brings_the_lab_back(real: LocalLab) -> None:
    before = await real.spec()
    async with learning(real) as learner:
        await learner.until("3 real processes")
        assert await real.spec() != before
        await learner.press("escape")
        assert await real.spec() == before
        assert isinstance(learner.app.screen, LabScreen)
        await learner.press("2")
        assert "Three processes" in learner.sees(LessonList)


async def test_quitting_in_the_middle_brings_the_lab_back(real: LocalLab) -> None:
    before = await real.spec()
    async with learning(real) as learner:
        await learner.until("3 real processes")
        await learner.press("q")
    assert await real.spec() == before


async def test_a_lab_that_ends_with_the_screen_is_not_changed_just_before(real: LocalLab) -> None:
    async with learning(real, lab_stays=False) as learner:
        await learner.until("3 real processes")
        during = await real.spec()
        await learner.press("q")
    assert await real.spec() == during


async def test_the_list_says_what_is_done_and_begins_what_is_picked() -> None:
    progress.load().finish("first-look", 1.0)
    async with learning(FakeLab(), lesson=None) as learner:
        assert isinstance(learner.app.screen, LessonsScreen)
        assert "done" in learner.sees(LessonList)
        await learner.press("enter")
        await learner.until("3 real processes")


async def test_who_quits_before_a_lesson_has_begun_gets_no_complaint(recwarn: pytest.WarningsRecorder) -> None:
    async with learning(FakeLab(), lesson=None) as learner:
        await learner.app.run_action("screen.enter")
        learner.app.exit()
    gc.collect()
    assert not [one for one in recwarn if "never awaited" in str(one.message)]


async def test_a_lesson_that_cannot_begin_here_says_why() -> None:
    class Refusing(FakeLab):
        async def apply(self, spec: LabSpec) -> LabSpec:
            raise NotPossibleError("This lab cannot be changed today.")

    async with learning(Refusing()) as learner:
        assert "cannot begin here" in learner.page
        assert "cannot be changed today" in learner.page
        await learner.press("k", "enter", "escape")
        assert isinstance(learner.app.screen, LabScreen)


def test_text_is_wrapped_at_words_and_marks_keep_their_role() -> None:
    rows = wrap("Press **r**, then look at `ps 4121` again and again", 20)
    assert read(rows) == ["Press r, then look", "at ps 4121 again and", "again"]
    assert (" r", "strong") in rows[0]
    assert read(wrap("    kill -9 4121", 8)) == ["    kill -9 4121"]


def test_a_number_is_not_parted_from_its_unit() -> None:
    assert read(wrap("It was READY as PID 4188 after 23 ms.", 17)) == ["It was READY as", "PID 4188 after", "23 ms."]


@pytest.mark.parametrize("width", [0, 1, 20, 200])
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
def test_an_odd_page_at_any_width_is_drawn(width: int, glyphs: object) -> None:
    page = Page(
        title="t", scene=1, scenes=1, step="s", phase=Phase.DO,
        paragraphs=("", "x" * 300, "- item", "    kept"), choices=("a", ""), facts=("fact",) * 20,
    )  # fmt: skip
    assert rows_of(page, 5, width, UNICODE if glyphs is UNICODE else ASCII)
