"""Mode Lessons: text beside a live picture of what it talks about, predictions, live verdicts, hints.

The screen decides nothing about a lesson: `LessonSession` says what there is to show and what is possible, the screen
draws it and hands over what the learner does. It watches the same looks of the bridge that mode Lab does.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar

from textual import getters, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.screen import Screen

from lab.core.errors import LabError
from lab.learning import lessons
from lab.learning import progress as progress_file
from lab.learning.format import Action
from lab.learning.page import KEYS, Page, Phase
from lab.learning.session import LessonSession
from lab.tui.app import CgilabApp
from lab.tui.bridge import Polled
from lab.tui.widgets.event_log import EventLog
from lab.tui.widgets.flow import Flow
from lab.tui.widgets.key_bar import Key, KeyBar
from lab.tui.widgets.lesson_list import LessonList
from lab.tui.widgets.lesson_page import LETTERS, LessonPage
from lab.tui.widgets.lesson_title import LessonTitle
from lab.tui.widgets.photo_finish import PhotoFinish
from lab.tui.widgets.said import Banner, Said

_FOOTER = (
    Key("esc", "Leave", "screen.leave"),
    Key("1", "Lab", "app.mode('lab')"),
    Key("p", "Own on/off", "screen.traffic"),
    Key("?", "Explain", "app.explain"),
    Key(":", "Command", "app.command_line"),
    Key("q", "Quit", "app.quit"),
)
_LIST_KEYS = (Key("enter", "begin", "screen.enter"), Key("esc", "on to the lab", "screen.leave"))


class LessonsScreen(Screen[None]):
    """A list of lessons, or one lesson. `app.open_lesson` is begun at once."""

    app = getters.app(CgilabApp)

    HELP = (
        "Lessons. Each one asks for a prediction, lets you do the thing on this machine, and tells what was measured."
    )
    CSS = """
    LessonsScreen #lesson { height: 1fr; display: none; }
    LessonsScreen.-open #lesson { display: block; }
    LessonsScreen.-open LessonList { display: none; }
    LessonsScreen LessonList { height: 1fr; padding: 1 2; }
    LessonsScreen #reading { height: 1fr; min-height: 5; padding: 1 2 0 2; scrollbar-size-vertical: 1; }
    LessonsScreen LessonPage { height: auto; }
    LessonsScreen #picture { height: auto; padding: 0 2; }
    LessonsScreen EventLog { display: none; }
    LessonsScreen LessonTitle { height: 1; padding: 0 2; background: $panel 60%; }
    LessonsScreen Said { padding: 0 2; }
    LessonsScreen #keys { padding: 0 1; }
    LessonsScreen.-wide #lesson { layout: horizontal; }
    LessonsScreen.-wide #reading { width: 5fr; height: 100%; }
    LessonsScreen.-wide #picture { width: 6fr; height: 100%; padding: 1 2; }
    LessonsScreen.-wide PhotoFinish { margin-top: 1; }
    LessonsScreen.-wide EventLog { display: block; height: 1fr; margin-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "do('request')", "Send a request", tooltip="One request of your own"),
        Binding("k", "do('kill')", "Kill", tooltip="SIGKILL to the worker that the lesson is about"),
        Binding("z", "freeze", "Freeze or thaw", tooltip="SIGSTOP or SIGCONT to the worker that the lesson is about"),
        Binding("y", "copy", "Copy", tooltip="Copy the command or the card of this page"),
        Binding("g", "do('again')", "Play again", tooltip="Run a timed step once more"),
        Binding("s", "do('skip')", "Go on without it", tooltip="Leave a step undone"),
        Binding("p", "app.traffic", "Own traffic", tooltip="Pause or resume the requests that the lab sends itself"),
        Binding("enter,space", "enter", "Continue", tooltip="Choose what is under the cursor, or go on"),
        Binding("up", "move(-1)", "Up", show=False),
        Binding("down", "move(1)", "Down", show=False),
        Binding("escape", "leave", "Leave the lesson", tooltip="Back to the lab, as it was before"),
        *(Binding(letter, f"choose({place})", show=False) for place, letter in enumerate(LETTERS[:6])),
    ]
    AUTO_FOCUS = "LessonPage"

    def __init__(self) -> None:
        super().__init__()
        self._session: LessonSession | None = None
        self._progress = progress_file.load()
        self._turn = asyncio.Lock()
        self._shown: tuple[str, Phase] | None = None
        """The step and phase that are on screen; what was said about an earlier one is over."""

    def compose(self) -> ComposeResult:
        yield Banner()
        yield LessonTitle()
        yield LessonList()
        with Container(id="lesson"):
            with VerticalScroll(id="reading", can_focus=False):
                yield LessonPage()
            with Container(id="picture"):
                yield Flow()
                yield PhotoFinish()
                yield EventLog()
        yield Said()
        yield KeyBar(id="keys")
        yield KeyBar(keys=_FOOTER, classes="-footer")

    def on_mount(self) -> None:
        """Open the lesson that the app was started with, or the list."""
        self._list()
        if self._progress.notice:
            self._say(self._progress.notice, "bad")
        if self.app.open_lesson:
            self._begin(self.app.open_lesson)

    async def on_unmount(self) -> None:
        """Whoever quits in the middle of a lesson finds the lab as it was before, if it is still to be found."""
        if self._session is not None and self.app.lab_stays:
            await self._quietly(self._session.leave)

    def on_polled(self, message: Polled) -> None:
        """Draw the lab as it is now, and let the lesson look at it too."""
        self.query_one(Flow).show(message.snapshot, message.events)
        self.query_one(EventLog).show(message.events, message.missed)
        if self._session is not None and not self._turn.locked():
            self._take_turn(self._look)

    def on_lesson_page_chosen(self, message: LessonPage.Chosen) -> None:
        """A choice was clicked."""
        self.action_choose(message.number)

    def action_do(self, name: str) -> None:
        """Do one of the lesson's actions; the session says why not when it is not possible now."""
        self._take_turn(lambda session: session.act(Action(name)))

    def action_freeze(self) -> None:
        """Freeze, or thaw where the step is about thawing."""
        thaw = self._session is not None and Action.THAW in self._session.step.allow
        self.action_do("thaw" if thaw else "freeze")

    def action_copy(self) -> None:
        """Copy what the page offers; where it offers nothing, what the app does."""
        if self._session is not None and Action.COPY in self._session.page().actions:
            self._take_turn(self._copy)
        else:
            self.app.action_copy()

    def action_choose(self, number: int) -> None:
        """Choose an option of the open question by its letter."""
        if self._session is not None and number < len(self._session.page().choices):
            self._take_turn(lambda session: self._choose(session, number))

    def action_enter(self) -> None:
        """Begin the lesson under the cursor, choose the option under it, or go on."""
        if self._session is None:
            selected = self.query_one(LessonList).selected
            if selected is not None and not self.has_class("-open"):
                self._begin(selected.id)
        elif self._session.phase is Phase.OVER:
            self._close(to_lab=False)
        elif self._session.page().choices:
            self.action_choose(self.query_one(LessonPage).cursor)
        else:
            self.action_do("continue")

    def action_move(self, by: int) -> None:
        """Move the cursor of the list or of the choices; without choices, the text."""
        page = self._session.page() if self._session is not None else None
        if page is None:
            self.query_one(LessonList).move(by)
        elif page.choices:
            self.query_one(LessonPage).move(by)
        else:
            self.query_one("#reading").scroll_relative(y=by, animate=False)

    def action_leave(self) -> None:
        """Leave the lesson, and go to the lab."""
        self._close(to_lab=True)

    # -- a lesson's life

    def _begin(self, lesson_id: str) -> None:
        self.set_class(True, "-open")
        self.query_one("#keys", KeyBar).show(())
        self.query_one(LessonPage).say("The stage is being set: three workers, one program.")
        self.query_one(LessonPage).focus()
        self._open(lesson_id)

    @work
    async def _open(self, lesson_id: str) -> None:
        """Set the stage and show the first page; a lesson that cannot begin here says why."""
        async with self._turn:
            try:
                session = LessonSession(self.app.lab, lessons.load(lesson_id), self._progress)
                await session.__aenter__()
            except LabError as error:
                self.query_one(LessonPage).say(f"This lesson cannot begin here.\n\n{error}\n\nEsc goes to the lab.")
                return
            self._session = session
            self._draw()

    @work
    async def _close(self, *, to_lab: bool) -> None:
        async with self._turn:
            session, self._session = self._session, None
            if session is not None:
                await self._quietly(session.leave)
            self._list()
        if to_lab:
            self.app.action_mode("lab")

    async def _quietly(self, call: Callable[[], Awaitable[None]]) -> None:
        """A lab that is gone cannot be brought back to what it was; the banner tells that already."""
        try:
            await call()
        except LabError as error:
            self._say(str(error), "bad")

    @work
    async def _take_turn(self, call: Callable[[LessonSession], Awaitable[str]]) -> None:
        """One call of the session at a time; then draw what came of it."""
        async with self._turn:
            if self._session is None:
                return
            try:
                told = await call(self._session)
            except LabError as error:
                self._say(str(error), "warn")
                return
            if told:
                self._say(told)
            self._draw()

    async def _look(self, session: LessonSession) -> str:
        await session.poll()
        return ""

    async def _choose(self, session: LessonSession, number: int) -> str:
        """The page shows the reply; nothing else is to be said."""
        await session.choose(number)
        return ""

    async def _copy(self, session: LessonSession) -> str:
        text = await session.act(Action.COPY)
        self.app.copy_to_clipboard(text)
        return f"Copied, if your terminal allows it: {text}"

    # -- drawing

    def _list(self) -> None:
        self.set_class(False, "-open")
        self._shown = None
        try:
            self.query_one(LessonList).show(lessons.catalogue(self._progress))
        except LabError as error:
            self._say(str(error), "bad")
        self.query_one(LessonTitle).clear()
        self.query_one(PhotoFinish).clear()
        self.query_one("#keys", KeyBar).show(_LIST_KEYS)

    def _draw(self) -> None:
        if self._session is None:
            return
        page = self._session.page()
        if (page.step, page.phase) != self._shown:
            self._shown = (page.step, page.phase)
            self._say("")
            self.query_one("#reading").scroll_home(animate=False)
        self.query_one(LessonTitle).show(self._session.lesson.title, page)
        self.query_one(LessonPage).show(page)
        self._draw_finish(page)
        self.query_one("#keys", KeyBar).show(tuple(_keys(page)))

    def _draw_finish(self, page: Page) -> None:
        """The last healing, while it happens and when it is explained; the text needs the room in between."""
        finish = self.query_one(PhotoFinish)
        timed = self._session is not None and self._session.step.seconds is not None
        if page.photo is None or (timed and page.phase is not Phase.DO):
            finish.clear()
        elif page.photo is not finish.event:
            finish.show(page.photo, page.said)

    def _say(self, text: str, role: str = "strong") -> None:
        self.query_one(Said).show(text, role)


def _keys(page: Page) -> list[Key]:
    """The row of keys: what is possible now, and nothing else."""
    if page.phase is Phase.OVER:
        return [Key("enter", "back to the list", "screen.enter"), Key("esc", "on to the lab", "screen.leave")]
    if page.choices:
        last = LETTERS[len(page.choices) - 1]
        return [Key(f"a-{last}", "choose", "screen.move(1)"), Key("enter", "take it", "screen.enter")]
    keys = {Action.FREEZE: "screen.freeze", Action.THAW: "screen.freeze", Action.COPY: "screen.copy"}
    keys[Action.CONTINUE] = "screen.enter"
    return [Key(*KEYS[one], keys.get(one, f"screen.do('{one}')")) for one in page.actions]
