"""One visit to one step: what it has seen so far, and what follows from that. A new visit begins with a clean slate."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.core.events import EventKind
from lab.learning.checks import Verdict, decide, judge
from lab.learning.expressions import Facts
from lab.learning.format import Action, Step
from lab.learning.observation import Observation
from lab.learning.page import Phase

_EFFECTS = {"SIGKILL": EventKind.HEALED, "SIGSTOP": EventKind.STOPPED, "SIGCONT": EventKind.CONTINUED}
"""What each signal shows in the end."""


@dataclass
class Visit:
    """The state of the step that the learner is at. Times are monotonic seconds."""

    step: Step
    observation: Observation
    opened_at: float
    phase: Phase = Phase.DO
    facts: list[str] = field(default_factory=list)
    reply: str = ""
    ending: tuple[str, ...] | None = None
    """What is told since the step is done, instead of its own text."""
    measured: Facts | None = None
    """The figures as they were when the step was done."""
    ends_at: float | None = None
    """When a timed step's time is up; None before its first action."""
    draining: bool = False
    """Time is up; the last answers and healings are awaited."""
    runs: list[list[Verdict]] = field(default_factory=list)
    """The verdicts of each run of a timed step that is over."""

    @property
    def running(self) -> bool:
        """Whether a timed step's clock runs."""
        return self.phase is Phase.DO and self.ends_at is not None

    @property
    def waits_for_start(self) -> bool:
        """Whether a timed step's clock has yet to be started, by its first action."""
        return self.step.seconds is not None and self.ends_at is None

    def settled(self) -> bool:
        """Whether every signal sent through the lab in this step has shown its effect, in the snapshot too."""
        pending, shown_at = set(), 0.0
        for event in self.observation.events:
            if event.kind is EventKind.SIGNAL and (effect := _EFFECTS.get(event.data.get("signal", ""))):
                pending.add((event.slot, effect))
            elif (event.slot, event.kind) in pending:
                pending.remove((event.slot, event.kind))
                shown_at = event.at
        return not pending and self.observation.now.at >= shown_at

    def verdicts(self, names: Mapping[str, Any]) -> list[Verdict]:
        """The verdict of each check, in order: of the runs that are over, else of this moment."""
        if self.step.seconds is not None and self.runs and self.phase is not Phase.DO:
            columns = zip(*self.runs, strict=True)
            return [decide(check, column) for check, column in zip(self.step.check, columns, strict=True)]
        return [judge(check.expr, names) for check in self.step.check]

    def passed(self, names: Mapping[str, Any]) -> bool:
        """Whether all checks of an untimed step pass now."""
        return all(verdict is Verdict.PASS for verdict in self.verdicts(names))

    def hint(self, now: float, names: Mapping[str, Any]) -> str:
        """The key of the hint that is due, or an empty text. A timed step that runs needs none."""
        if self.phase is not Phase.DO or self.ends_at is not None:
            return ""
        open_checks = {
            check.id
            for check, verdict in zip(self.step.check, self.verdicts(names), strict=True)
            if verdict is not Verdict.PASS
        }
        due = [one for one in self.step.hint if one.on in open_checks and now - self.opened_at >= one.after_seconds]
        return due[-1].text if due else ""

    def actions(self, hinted: bool) -> tuple[Action, ...]:
        """What is possible now. Kill, for one, is off until the prediction about it is committed."""
        match self.phase:
            case Phase.DO if not self.draining:
                return (*self.step.allow, *((Action.SKIP,) if hinted else ()))
            case Phase.DONE:
                copying = (Action.COPY,) if Action.COPY in self.step.allow and not self.step.check else ()
                again = (Action.AGAIN,) if self.step.seconds is not None else ()
                return (*copying, *again, Action.CONTINUE)
        return ()
