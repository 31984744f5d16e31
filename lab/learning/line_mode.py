"""A lesson in a plain terminal: one fact a line, so that a screen reader can follow and input can be piped.

Nothing is redrawn and nothing moves. What happens is printed when it happens, while the next line of input is awaited.
A line from a pipe is read only when the one before has shown its effect, so a script of keys is a whole lesson.
"""

import asyncio
import sys
import threading
from collections.abc import Callable
from itertools import chain
from typing import TextIO

from lab.core.errors import LabError
from lab.engine.lab import Lab
from lab.learning import lessons, narration, prose
from lab.learning import progress as progress_file
from lab.learning.checks import Verdict
from lab.learning.format import Action
from lab.learning.page import KEYS, Page, Phase
from lab.learning.progress import Progress
from lab.learning.session import LessonSession

FINISHED, LEFT = 0, 1
"""Exit codes: the lesson was done to its end, or left before it."""
_TICK = 0.2
"""Seconds between two looks at the lab while nothing is typed."""
_PATIENCE = 8.0
"""Seconds to wait for the effect of what was done."""
_ANSWERS = "123456789"

Write = Callable[[str], object]


async def run(
    lab: Lab,
    lesson_id: str,
    *,
    progress: Progress | None = None,
    source: TextIO | None = None,
    write: Write | None = None,
) -> int:
    """Walk a person through a lesson on `lab`. Reads lines from `source` (standard input), prints through `write`.

    Returns `FINISHED` or `LEFT`. Raises `LabError` when the lesson cannot begin or the lab goes away. The lab is
    brought back to what it was in every case.
    """
    kept = progress or progress_file.load()
    lines = _read(source or sys.stdin)
    async with LessonSession(lab, lessons.load(lesson_id), kept) as session:
        return await _Conversation(session, lines, write or _print, kept.notice).hold()


class _Conversation:
    """Takes turns: tell what is new, take a line, obey it."""

    def __init__(self, session: LessonSession, lines: "asyncio.Queue[str | None]", write: Write, notice: str) -> None:
        self._session = session
        self._lines = lines
        self._write = write
        self._told: tuple[str, Phase] | None = None
        self._facts = 0
        if notice:
            write(notice)

    async def hold(self) -> int:
        """Until the lesson is over, or the person leaves."""
        lesson = self._session.lesson
        self._write(
            f"{lesson.title}. {lesson.scenes} scenes, about {lesson.toml.minutes} minutes. q leaves, ? repeats."
        )
        self._tell()
        while self._session.phase is not Phase.OVER:
            line = await self._next_line()
            if line is None or line in ("q", "quit"):
                self._write("The lesson was left before its end. The lab is brought back to what it was.")
                return LEFT
            try:
                await self._obey(line)
            except LabError as error:
                self._write(str(error))
            self._tell()
        return FINISHED

    async def _next_line(self) -> str | None:
        """The next line of input, None at its end. Meanwhile the lab is watched, and what happens is told."""
        await self._until(lambda: self._session.settled)
        while True:
            try:
                async with asyncio.timeout(_TICK):
                    line = await self._lines.get()
            except TimeoutError:
                await self._session.poll()
                self._tell()
            else:
                return line.strip() if line is not None else None

    async def _until(self, condition: Callable[[], bool], patience: float = _PATIENCE) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while not condition() and loop.time() < deadline:
            await self._session.wait(_TICK)
            self._tell()

    async def _obey(self, line: str) -> None:
        page = self._session.page()
        if line == "?":
            self._told = None
        elif line.startswith(":"):
            self._write(await self._session.command(line[1:]))
        elif page.choices and line in tuple(_ANSWERS):
            self._write(prose.plain(await self._session.choose(int(line) - 1)))
        elif line == "":
            await self._enter(page)
        else:
            await self._act(line, page)

    async def _act(self, line: str, page: Page) -> None:
        action = next((one for one in KEYS if KEYS[one][0] == line and one in page.actions), None)
        action = action or next((one for one in KEYS if KEYS[one][0] == line), None)
        if action is None:
            self._write(f"Found {line!r}; expected one of: {_offer(page)}.")
            return
        told = await self._session.act(action)
        if told and told not in self._session.page().facts:
            self._write(told)

    async def _enter(self, page: Page) -> None:
        """Go on; or, if the step is not done but something was set off, wait for it."""
        if page.phase is Phase.DO and (self._session.stirred or page.remaining_s is not None):
            patience = (page.remaining_s or 0.0) + _PATIENCE
            await self._until(lambda: self._session.phase is not Phase.DO, patience)
        elif page.phase in (Phase.PREDICT, Phase.ASK):
            self._write(f"Type a number from 1 to {len(page.choices)}, then Enter.")
        else:
            await self._session.act(Action.CONTINUE)

    # -- telling

    def _tell(self) -> None:
        """Print what is new: the step's facts first, then its page when it changed."""
        page = self._session.page()
        if self._told is None or self._told[0] != page.step:
            self._facts = 0
        for fact in page.facts[self._facts :]:
            self._write(fact)
        self._facts = len(page.facts)
        if self._told != (page.step, page.phase):
            self._tell_page(page)
            self._told = (page.step, page.phase)

    def _tell_page(self, page: Page) -> None:
        new_step = self._told is None or self._told[0] != page.step
        if page.phase is Phase.OVER:
            self._write("The lesson is done.")
        elif new_step:
            self._write("")
            self._write(f"Scene {page.scene} of {page.scenes}: {page.title}")
        elif page.phase in (Phase.ASK, Phase.DONE):
            self._tell_checks(page)
        if page.phase is not Phase.DONE or self._told is None or self._told[1] is not Phase.ASK:
            told = page.facts[: self._facts]
            fresh = [text for text in page.paragraphs if text not in told]
            for line in "\n".join((*fresh, *page.question)).splitlines():
                self._write(prose.plain(line).strip())
        for number, choice in enumerate(page.choices, 1):
            self._write(f"{number}: {choice}")
        if offer := _offer(page):
            self._write(f"Keys: {offer}.")

    def _tell_checks(self, page: Page) -> None:
        if self._told is None or self._told[1] is not Phase.DO:
            return
        if page.photo is not None and page.remaining_s is None and page.said:
            for moment in narration.photo(page.photo):
                self._write(moment)
        for check in page.checks:
            self._write(
                f"{'Passed' if check.verdict is Verdict.PASS else str(check.verdict).capitalize()}: {check.label}."
            )


def _offer(page: Page) -> str:
    """What can be typed now."""
    if page.choices:
        return f"1 to {len(page.choices)}"
    return ", ".join(f"{KEYS[action][0]} {KEYS[action][1]}" for action in page.actions)


def _read(source: TextIO) -> "asyncio.Queue[str | None]":
    """Lines of `source`, read on a thread of its own: a terminal, a pipe and a file all block, each in its own way."""
    queue: asyncio.Queue[str | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def pump() -> None:
        for line in chain(iter(source.readline, ""), (None,)):
            if loop.is_closed():
                return
            loop.call_soon_threadsafe(queue.put_nowait, line)

    threading.Thread(target=pump, name="lesson-input", daemon=True).start()
    return queue


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
