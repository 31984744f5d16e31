"""What there is to show of a lesson at one moment, as one value. Faces draw it; they decide nothing."""

from enum import StrEnum

import msgspec

from lab.core.events import Event
from lab.learning.checks import Verdict
from lab.learning.format import Action


class Phase(StrEnum):
    """Where in a step the learner is."""

    PREDICT = "predict"
    """A prediction is due; nothing else is possible before it."""
    DO = "do"
    """Something is to be done, and checks wait for it."""
    ASK = "ask"
    """The checks have passed; a question about the cause is open."""
    DONE = "done"
    """Read, and continue."""
    OVER = "over"
    """The lesson is finished."""


KEYS: dict[Action, tuple[str, str]] = {
    Action.REQUEST: ("r", "send a request"),
    Action.KILL: ("k", "kill"),
    Action.FREEZE: ("z", "freeze"),
    Action.THAW: ("z", "thaw"),
    Action.COPY: ("y", "copy"),
    Action.AGAIN: ("g", "play again"),
    Action.SKIP: ("s", "go on without it"),
    Action.CONTINUE: ("enter", "continue"),
}
"""The key of each action, and what it is called: the same on the screen and in line mode."""


class CheckView(msgspec.Struct, frozen=True):
    """A check of the step, and what it answers now."""

    label: str
    verdict: Verdict


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to show. Texts may carry the inline marks of `lab.learning.prose`."""

    title: str
    scene: int
    scenes: int
    step: str
    phase: Phase
    paragraphs: tuple[str, ...]
    question: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    """Options of the open question; `LessonSession.choose` takes their number, from 0."""
    reply: str = ""
    """What the last choice was answered with."""
    checks: tuple[CheckView, ...] = ()
    hint: str = ""
    actions: tuple[Action, ...] = ()
    facts: tuple[str, ...] = ()
    """What was seen in this step, one sentence each, oldest first."""
    photo: Event | None = None
    """The last healing in this step."""
    said: str | None = None
    """What the learner predicted about it."""
    remaining_s: float | None = None
    """Seconds left of a timed step that runs."""
