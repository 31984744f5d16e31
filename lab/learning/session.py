"""The walk through a lesson, as one explicit state machine that the screen, line mode and the verification share.

A step goes PREDICT -> DO -> ASK -> DONE; phases that it does not have are passed over. `act` and `choose` are what the
learner does, `poll` looks at the lab, `page` is what there is to show now. The session knows no screen and no terminal.

Promise: whatever happens between `begin` and `leave`, `leave` brings the lab back to where it was.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from msgspec.structs import replace

from lab.core.clock import Clock, SystemClock
from lab.core.errors import LabError, NotPossibleError
from lab.core.events import Event, EventKind
from lab.core.snapshot import AppSnapshot
from lab.core.states import WorkerState
from lab.engine.commands import execute
from lab.engine.lab import Answer, Lab
from lab.learning import predictions, prose
from lab.learning.checks import Verdict, judge
from lab.learning.expressions import Facts
from lab.learning.format import Action, Lesson, Step
from lab.learning.narration import Narrator
from lab.learning.observation import Observation, Target, kernel_state, measure, names
from lab.learning.page import CheckView, Page, Phase
from lab.learning.progress import Progress
from lab.learning.setup import Stage
from lab.learning.visit import Visit

_DRAIN = 3.0
"""Seconds that a timed step waits, when its time is up, for the last answers and healings."""
_SIGNALS = {Action.KILL: "SIGKILL", Action.FREEZE: "SIGSTOP", Action.THAW: "SIGCONT"}
_NOISY = "Too noisy to tell: close something busy and run it again, or go on."


class LessonSession:
    """One learner, one lesson, one lab. Calls do not overlap: each is awaited before the next."""

    def __init__(
        self,
        lab: Lab,
        lesson: Lesson,
        progress: Progress,
        *,
        clock: Clock | None = None,
        kernel: Callable[[int], str | None] = kernel_state,
    ) -> None:
        self.lab = lab
        self.lesson = lesson
        self._progress = progress
        self._clock = clock or SystemClock()
        self._kernel = kernel
        self._stage = Stage(lab)
        self._app = lesson.toml.setup.apps[0].name
        self._language = ""
        self._narrator = Narrator(self._app)
        self._place = -1
        self._cursor = 0
        self._rate = lesson.toml.setup.traffic
        self._answers: tuple[Answer, ...] = ()
        self._done: dict[str, Facts] = {}
        self._said: dict[str, str] = {}
        self._chosen: dict[str, int] = {}
        self._visit: Visit

    async def __aenter__(self) -> Self:
        try:
            await self.begin()
        except BaseException:
            await self.leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave()

    async def begin(self) -> None:
        """Bring the lab to the lesson's state and open the first step. Raises `LabError` when that is not possible."""
        self._language = await self._stage.set_up(self.lesson.toml.setup)
        await self._open(0)

    async def leave(self) -> None:
        """Bring the lab back to what it was. May be called twice."""
        await self._stage.restore()

    # -- what a face asks

    @property
    def step(self) -> Step:
        """The step that the learner is at."""
        return self._visit.step

    @property
    def phase(self) -> Phase:
        """Where in the step."""
        return self._visit.phase

    @property
    def observation(self) -> Observation:
        """What has been seen since the step began."""
        return self._visit.observation

    @property
    def settled(self) -> bool:
        """Whether every signal sent through the lab in this step has shown its effect."""
        return self._visit.settled()

    @property
    def stirred(self) -> bool:
        """Whether anything was set off in this step, so that waiting for its effect makes sense."""
        return any(event.kind in (EventKind.SIGNAL, EventKind.STATE) for event in self.observation.events)

    def names(self) -> dict[str, Any]:
        """The vocabulary of expressions and templates, as of the last look."""
        return names(self.observation, self._done, self._said, self._visit.measured)

    def verdicts(self) -> list[Verdict]:
        """The verdict of each check of the step, in order."""
        return self._visit.verdicts(self.names())

    def broken(self) -> list[str]:
        """The invariants of the lesson that do not hold now. It should always be empty."""
        known = self.names()
        return [one for one in self.lesson.toml.invariant.always if judge(one, known) is Verdict.FAIL]

    def page(self) -> Page:
        """What there is to show now."""
        visit, step = self._visit, self.step
        section = self.lesson.section(step.id)
        hint = visit.hint(self._clock.monotonic(), self.names())
        labels = [self.lesson.section(f"check-{check.id}").title for check in step.check]
        healings = [event for event in visit.observation.events if event.kind is EventKind.HEALED]
        return Page(
            title=section.title,
            scene=step.scene,
            scenes=self.lesson.scenes,
            step=step.id,
            phase=visit.phase,
            paragraphs=self._paragraphs(),
            question=self._question(),
            choices=self._choices(),
            reply=visit.reply,
            checks=tuple(map(CheckView, labels, self.verdicts())),
            hint=self._text(hint) if hint else "",
            actions=visit.actions(bool(hint)),
            facts=tuple(visit.facts),
            photo=healings[-1] if healings else None,
            said=self._said.get(step.settles) if step.settles else None,
            remaining_s=max(0.0, visit.ends_at - self._clock.monotonic()) if visit.running and visit.ends_at else None,
        )

    def appendix(self) -> list[str]:
        """Where the lesson's subject is met, and what to read on: paragraphs for after the end."""
        sections = [self.lesson.section(key) for key in ("meet", "read-on")]
        return [text for one in sections for text in (f"**{one.title}**", *self._filled(one.paragraphs))]

    # -- what the learner does

    async def poll(self) -> tuple[Event, ...]:
        """Look at the lab, and move on if the checks pass. Returns the events since the last look."""
        snapshot = await self.lab.snapshot()
        batch = await self.lab.events(self._cursor)
        self._cursor = batch.next
        visit, seen = self._visit, self.observation
        visit.observation = replace(
            seen,
            now=snapshot,
            events=seen.events + batch.events,
            missed=seen.missed + batch.missed,
            target=_aim(visit.step, snapshot.app(self._app), seen.target),
        )
        visit.facts += self._narrator.tell(batch.events)
        visit.facts += [fact for one in self.broken() if (fact := f"An invariant is broken: {one}.") not in visit.facts]
        if visit.phase is Phase.DO:
            await self._look()
        return batch.events

    async def wait(self, seconds: float) -> tuple[Event, ...]:
        """Poll when the next event comes, or after `seconds`."""
        await self.lab.events(self._cursor, limit=1, wait=seconds)
        return await self.poll()

    async def act(self, action: Action) -> str:
        """Do one thing; returns a sentence about it, or for Copy the text to copy. Raises `LabError`.

        An action that is not possible now raises `NotPossibleError` that says why.
        """
        if action not in self.page().actions:
            raise NotPossibleError(self._why_not(action))
        match action:
            case Action.COPY:
                return prose.plain(self._to_copy())
            case Action.AGAIN:
                await self._open(self._place, self._visit.runs)
                return ""
            case Action.CONTINUE | Action.SKIP:
                await self._go_on()
                return ""
        await self._start_clock()
        told = await (self._request() if action is Action.REQUEST else self._signal(_SIGNALS[action]))
        await self.poll()
        return told

    async def command(self, line: str) -> str:
        """Run one line of the lab's command language, such as `kill 4123`. Raises `LabError`."""
        if self.phase is Phase.PREDICT:
            raise NotPossibleError(self._why_not(Action.KILL))
        told = await execute(self.lab, line)
        await self.poll()
        return told

    async def choose(self, number: int) -> str:
        """Choose option `number` (from 0) of the open question; returns the reply. Raises `NotPossibleError`."""
        choices = self._choices()
        if not 0 <= number < len(choices):
            raise NotPossibleError(f"Found option {number + 1}; expected 1 to {len(choices)}.")
        return await (self._commit(number, choices[number]) if self.phase is Phase.PREDICT else self._answer(number))

    # -- a step's life

    async def _open(self, place: int, runs: Sequence[list[Verdict]] = ()) -> None:
        """Begin a visit to the step number `place`: its traffic, its target, its own window of events."""
        step = self.lesson.toml.step[place]
        if self._place < 0 or step.scene != self.step.scene:
            self._answers = ()
        self._place = place
        await self._set_traffic(step.traffic if step.traffic is not None else self.lesson.toml.setup.traffic)
        self._visit = Visit(step, await self._begin_window(step), self._clock.monotonic(), runs=list(runs))
        if step.predict is not None and step.predict not in self._chosen:
            self._visit.phase = Phase.PREDICT
        elif not step.check:
            self._finish_step()

    async def _begin_window(self, step: Step) -> Observation:
        """An observation that begins now: events from here on, counters as they stand."""
        snapshot = await self.lab.snapshot()
        self._cursor = snapshot.events_next
        return Observation(
            begun=snapshot,
            now=snapshot,
            app=self._app,
            title=self._language,
            answers=self._answers,
            target=_aim(step, snapshot.app(self._app), None),
            kernel=self._kernel,
        )

    async def _start_clock(self) -> None:
        """The first action of a timed step starts its clock, and its window anew."""
        if self._visit.waits_for_start and self.step.seconds is not None:
            self._visit.observation = await self._begin_window(self.step)
            self._visit.ends_at = self._clock.monotonic() + self.step.seconds

    async def _look(self) -> None:
        """Is the step done? An untimed one when all checks pass, a timed one when its time is up and all is quiet."""
        visit = self._visit
        if self.step.seconds is None:
            if visit.passed(self.names()):
                self._finish_step()
        elif visit.ends_at is not None and self._clock.monotonic() >= visit.ends_at:
            if not visit.draining:
                visit.draining = True
                await self._set_traffic(0)
            elif self._quiet() or self._clock.monotonic() >= visit.ends_at + _DRAIN:
                visit.runs.append(visit.verdicts(self.names()))
                self._finish_step()

    def _quiet(self) -> bool:
        return self._visit.settled() and self.observation.now.own.totals.in_flight == 0

    def _finish_step(self) -> None:
        """The step is done: keep its figures, compare the prediction, tell what was seen, and ask for the cause."""
        visit, step = self._visit, self.step
        visit.measured = self._done[step.id] = measure(self.observation)
        known = self.names()
        said = next((say.text for say in step.say if judge(say.when, known) is Verdict.PASS), None)
        told = list(self._filled(self.lesson.section(said).paragraphs)) if said else []
        if step.settles in self._chosen:
            told.insert(1, self._settle(step.settles))
        visit.phase = Phase.ASK if step.ask else Phase.DONE
        if Verdict.UNKNOWN in self.verdicts():
            told.append(_NOISY)
        visit.ending = tuple(told) or None

    async def _go_on(self) -> None:
        """To the next step, or to the end."""
        self._done.setdefault(self.step.id, measure(self.observation))
        if self._place + 1 < len(self.lesson.toml.step):
            await self._open(self._place + 1)
        else:
            self._visit.phase = Phase.OVER
            self._keep(lambda: self._progress.finish(self.lesson.id, self._clock.wall()))

    # -- predictions and questions

    async def _commit(self, number: int, said: str) -> str:
        key = self.step.predict or ""
        self._chosen[key], self._said[key] = number, said
        self._keep(lambda: self._progress.predicted(self.lesson.id, key, said))
        self._visit.phase = Phase.DO
        if not self.step.check:
            await self._go_on()
        return f"Kept: {said}."

    def _settle(self, key: str) -> str:
        """Compare a prediction with what was measured, keep how near it came, and say so."""
        nearness = predictions.compare(self.lesson.prediction(key), self._chosen[key], self.names())
        self._keep(lambda: self._progress.predicted(self.lesson.id, key, self._said[key], nearness))
        return predictions.reply(nearness, self._said[key])

    async def _answer(self, number: int) -> str:
        """Every option has its own reply; a wrong one leaves the question open."""
        visit, key = self._visit, self.step.ask or ""
        visit.reply = prose.fill(self.lesson.section(f"ask-{key}").options[number].reply, self.names())
        if number + 1 == self.lesson.question(key).right:
            visit.phase = Phase.DONE
        return visit.reply

    def _question(self) -> tuple[str, ...]:
        key = self._question_key()
        return self._filled(self.lesson.section(key).paragraphs) if key else ()

    def _choices(self) -> tuple[str, ...]:
        key = self._question_key()
        return self._filled([one.text for one in self.lesson.section(key).options]) if key else ()

    def _question_key(self) -> str:
        match self.phase:
            case Phase.PREDICT:
                return f"predict-{self.step.predict}"
            case Phase.ASK:
                return f"ask-{self.step.ask}"
        return ""

    def _keep(self, write: Callable[[], None]) -> None:
        """Progress that cannot be written is told, and stops nobody."""
        try:
            write()
        except LabError as error:
            self._visit.facts.append(str(error))

    # -- actions

    async def _request(self) -> str:
        answer = await self.lab.request(self._app)
        self._answers = (*self._answers, answer)
        self._visit.observation = replace(self.observation, answers=self._answers)
        who = f"pid {answer.pid}" if answer.pid is not None else "no worker"
        told = f"{answer.status}  {who}  {prose.shown(answer.ms)} ms"
        self._visit.facts.append(told)
        return told

    async def _signal(self, signal: str) -> str:
        target = self.observation.target
        sent = await self.lab.signal(str(target.pid) if target else "random", signal)
        return "; ".join(f"{one.signal} to PID {one.pid}" for one in sent)

    async def _set_traffic(self, rate: float) -> None:
        """The learner may pause it in between; only a step that wants another rate than the one before changes it."""
        if rate != self._rate:
            await self.lab.traffic(rate, self._app)
            self._rate = rate

    def _to_copy(self) -> str:
        if self.step.copy is not None:
            return prose.fill(self.step.copy, self.names())
        return "\n".join(self.page().paragraphs)

    def _why_not(self, action: Action) -> str:
        if self.phase is Phase.PREDICT:
            return "Commit your prediction first: a guess made before the measurement is what makes it teach."
        if self.phase is Phase.ASK:
            return "Answer the question first."
        if self.phase is Phase.DONE:
            return "This step is done: Enter goes on."
        if action is Action.CONTINUE:
            missing = [one.label for one in self.page().checks if one.verdict is not Verdict.PASS]
            return f"Not yet: {'; '.join(missing)}." if missing else "Not yet: this step still runs."
        return f"{action.capitalize()} is not part of this step."

    # -- text

    def _paragraphs(self) -> tuple[str, ...]:
        """What is read now. Before a prediction is committed it is the question alone: the rest might give it away."""
        match self.phase:
            case Phase.PREDICT:
                return ()
            case Phase.OVER:
                return tuple(self.appendix())
        ending = self._visit.ending
        return ending if ending is not None else self._filled(self.lesson.section(self.step.id).paragraphs)

    def _text(self, key: str) -> str:
        return " ".join(self._filled(self.lesson.section(key).paragraphs))

    def _filled(self, texts: Sequence[str]) -> tuple[str, ...]:
        known = self.names()
        return tuple(prose.fill(text, known) for text in texts)


def _aim(step: Step, app: AppSnapshot | None, pinned: Target | None) -> Target | None:
    """The worker that the step is about. It stays the same until a READY successor sits in its slot."""
    if step.target is None or app is None:
        return None
    here = [one for one in app.workers if one.slot == step.target and one.pid is not None]
    if pinned is not None and (
        any(one.pid == pinned.pid for one in here) or not any(one.state is WorkerState.READY for one in here)
    ):
        return pinned
    return Target(step.target, here[-1].pid or 0) if here else None
