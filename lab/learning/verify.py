"""Lessons never rot: each is walked by a script, on a real lab, and everything that it claims is held against it.

Every check must fail before its step was done and pass afterwards; a check that is the wrong way round turns the
verification red. Every text must have something to quote, every wrong answer a reply, every invariant must hold
throughout; the lab must be back where it was, no process may be left, and all of it takes under a minute.
"""

import asyncio
import os
import signal
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from lab import paths
from lab.core.clock import SystemClock
from lab.core.errors import LabError
from lab.engine.lab import Lab
from lab.learning import expressions, lessons
from lab.learning import format as lesson_format
from lab.learning.checks import Verdict
from lab.learning.format import Action, Lesson
from lab.learning.observation import kernel_state
from lab.learning.page import Phase
from lab.learning.progress import Progress
from lab.learning.prose import NOT_SEEN
from lab.learning.session import LessonSession

MAX_SECONDS = 60.0
_OUTSIDE = "outside "
_TICK = 0.1

MakeLab = Callable[[], Awaitable[Lab]]


class LessonReport(msgspec.Struct, frozen=True):
    """What the verification of one lesson found. No problems: it holds."""

    id: str
    seconds: float
    steps: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


class Report(msgspec.Struct, frozen=True):
    """What the verification found."""

    lessons: tuple[LessonReport, ...]

    @property
    def ok(self) -> bool:
        """Whether every lesson holds."""
        return all(lesson.ok for lesson in self.lessons)


async def verify(
    make_lab: MakeLab, lesson_id: str | None = None, *, folder: Path | None = None, patience: float = 8.0
) -> Report:
    """Walk one lesson, or all, each on a fresh lab that `make_lab` starts and that is closed afterwards.

    `folder` holds the lessons (the lab's own by default). A step has `patience` s to pass after its walkthrough.
    A lesson that cannot be read or walked is a problem of the report, not an error. An unknown `lesson_id` raises
    `UnknownTargetError`.
    """
    where = folder or paths.content("lessons")
    if lesson_id is not None:
        found = [lessons.load(lesson_id, folder).folder]
    else:
        found = sorted(file.parent.name for file in where.glob("*/lesson.toml"))
    return Report(tuple([await _verify(make_lab, where / name, patience) for name in found]))


def render(report: Report) -> str:
    """The report as lines for a terminal."""
    lines = []
    for lesson in report.lessons:
        word = "ok" if lesson.ok else "FAILED"
        lines.append(f"{lesson.id}: {word}, {lesson.steps} steps in {lesson.seconds:.1f} s")
        lines += [f"  {problem}" for problem in lesson.problems]
    return "\n".join(lines)


async def _verify(make_lab: MakeLab, folder: Path, patience: float) -> LessonReport:
    clock = SystemClock()
    begun = clock.monotonic()
    problems: list[str] = []
    steps = 0
    try:
        lesson = lesson_format.read(folder)
        steps = len(lesson.toml.step)
        await _Walk(lesson, patience, problems).on(make_lab)
    except (LabError, expressions.ExpressionError) as error:
        problems.append(str(error))
    seconds = clock.monotonic() - begun
    if seconds > MAX_SECONDS:
        problems.append(f"found {seconds:.0f} s; expected at most {MAX_SECONDS:g}")
    return LessonReport(folder.name.partition("-")[2], seconds, steps, tuple(problems))


class _Walk:
    """One walk through a lesson, step by step as its `walk` says. What does not hold goes into `problems`."""

    def __init__(self, lesson: Lesson, patience: float, problems: list[str]) -> None:
        self._lesson = lesson
        self._patience = patience
        self._problems = problems
        self._seen: set[int] = set()

    async def on(self, make_lab: MakeLab) -> None:
        """Walk on a fresh lab; afterwards look at what is left of it."""
        lab = await make_lab()
        try:
            before = await lab.spec()
            with tempfile.TemporaryDirectory() as folder:
                async with LessonSession(lab, self._lesson, Progress(Path(folder) / "progress.json")) as session:
                    await self._visit(session)
                    await self._steps(session)
            if await lab.spec() != before:
                self._complain("the lab", "was not brought back to what it was")
            self._note(session)
        finally:
            await lab.close()
        left = sorted(pid for pid in self._seen if kernel_state(pid) is not None)
        if left:
            self._complain("the lab", f"left processes behind: {', '.join(map(str, left))}")

    async def _visit(self, session: LessonSession) -> None:
        """Ask every app from outside, at the address that the lesson shows, as its readers will with curl."""
        import httpx  # takes a quarter of a second, and only a verification needs it

        lab = await session.lab.snapshot()
        trust = ssl.create_default_context(cafile=lab.certificate)
        async with httpx.AsyncClient(verify=trust, trust_env=False, timeout=self._patience) as stranger:
            for app in lab.apps:
                try:
                    body = (await stranger.get(lab.listener + app.route)).text
                except httpx.HTTPError as error:
                    self._complain(app.route, f"cannot be asked from outside: {error}")
                    continue
                if not any(f'"pid": {worker.pid}' in body for worker in app.workers):
                    self._complain(app.route, f"asked from outside, no worker of {app.name} answers: {body[:80]!r}")

    async def _steps(self, session: LessonSession) -> None:
        while session.phase is not Phase.OVER:
            step = session.step
            if session.phase is Phase.PREDICT:
                await session.choose(0)
            if session.step is step:
                await self._do(session)
                await self._answer(session)
                await session.act(Action.CONTINUE)

    async def _do(self, session: LessonSession) -> None:
        """The checks fail, the walkthrough is done, the checks pass."""
        await self._look(session)
        self._expect(session, Verdict.FAIL, "before its step was done")
        for word in session.step.walk:
            if session.phase is Phase.DO:
                await self._act(session, word)
                await self._until(session, lambda: session.settled, 5.0)
        limit = self._patience + (session.step.seconds or 0.0)
        if not await self._until(session, lambda: session.phase is not Phase.DO, limit):
            self._expect(session, Verdict.PASS, f"{limit:g} s after its walkthrough")
            raise LabError(f"{session.step.id}: its walkthrough does not finish it.")
        self._expect(session, Verdict.PASS, "after its walkthrough")
        self._read(session)

    async def _act(self, session: LessonSession, word: str) -> None:
        if not word.startswith(_OUTSIDE):
            await session.act(Action(word))
        elif session.observation.target is not None:
            os.kill(session.observation.target.pid, signal.Signals[f"SIG{word.removeprefix(_OUTSIDE).upper()}"])

    async def _answer(self, session: LessonSession) -> None:
        """Choose every wrong answer, which must leave the question open, then the right one."""
        if session.phase is not Phase.ASK or session.step.ask is None:
            return
        right = self._lesson.question(session.step.ask).right - 1
        for number in range(len(session.page().choices)):
            if number != right:
                await session.choose(number)
                self._read(session)
        await session.choose(right)
        self._read(session)

    async def _until(self, session: LessonSession, condition: Callable[[], bool], seconds: float) -> bool:
        """Watch the lab until `condition`; False when `seconds` were not enough."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not condition():
            if loop.time() >= deadline:
                return False
            await session.wait(_TICK)
            self._note(session)
        return True

    async def _look(self, session: LessonSession) -> None:
        await session.poll()
        self._note(session)

    def _note(self, session: LessonSession) -> None:
        """Remember every process that was seen, and complain about an invariant that does not hold."""
        apps = session.observation.now.apps
        self._seen |= {worker.pid for app in apps for worker in app.workers if worker.pid is not None}
        for broken in session.broken():
            self._complain(session.step.id, f"the invariant {broken!r} does not hold")

    def _expect(self, session: LessonSession, wanted: Verdict, when: str) -> None:
        for check, verdict in zip(session.step.check, session.verdicts(), strict=True):
            if verdict is not wanted:
                self._complain(session.step.id, f"check {check.id!r}: found {verdict} {when}; expected {wanted}")

    def _read(self, session: LessonSession) -> None:
        """Every text on the page must have found what it quotes."""
        page = session.page()
        for text in (*page.paragraphs, *page.question, *page.choices, page.reply):
            if NOT_SEEN in text:
                self._complain(page.step, f"the text quotes what was not measured: {text!r}")

    def _complain(self, where: str, problem: str) -> None:
        if (line := f"{where}: {problem}") not in self._problems:
            self._problems.append(line)
