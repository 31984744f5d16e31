"""From one program to the next, without betting the pool on it. Pure; the supervisor replaces the workers.

Each program that comes, and each reload that is asked for, is a revision. A new one is on trial until one worker of it
is READY; till then every other start is one of the revision that serves. A revision that is refused leaves the one
before as it was.
"""

from dataclasses import dataclass
from enum import Enum, auto

from lab.pool.build import Program


@dataclass(frozen=True, slots=True)
class Revision:
    """A program under a number. A reload brings the same program under a new number."""

    number: int
    program: Program


class Step(Enum):
    """What a prepared program means."""

    NOTHING = auto()
    """It is what runs, or what did not get READY and has not changed since."""
    TRY = auto()
    """One worker is to be replaced by one of it, to see."""
    ADOPT = auto()
    """No worker serves that could be lost: it is what runs from now on."""


class Rollout:
    """Which revision a worker is to run."""

    def __init__(self) -> None:
        self.current: Revision | None = None
        """What serves; None before the first one."""
        self.trial: Revision | None = None
        self.rolling = False
        """A change is on its way: it was neither finished nor refused."""
        self.proved = False
        """A worker of the current revision has been READY."""
        self._refused: Program | None = None
        self._last = 0

    @property
    def wanted(self) -> Revision | None:
        """What every worker is to run in the end."""
        return self.trial or self.current

    def prepared(self, program: Program, *, serving: bool, reload: bool) -> Step:
        """This is the app's program now. `reload`: a person asked for new workers, whether it changed or not."""
        if self.current is not None and not reload:
            if program == self.current.program:
                self.trial = self._refused = None
                return Step.NOTHING
            if program == self._refused or (self.trial is not None and program == self.trial.program):
                return Step.NOTHING
        self.rolling = self.current is not None
        self._last += 1
        self.trial = Revision(self._last, program)
        if serving:
            return Step.TRY
        self.adopt()
        return Step.ADOPT

    def adopt(self) -> None:
        """The trial is what runs from now on."""
        self.current, self.trial, self._refused = self.trial, None, None
        self.proved = False

    def ready(self, revision: int) -> bool:
        """A worker of that revision is READY; whether this proves what is being rolled out."""
        if self.trial is not None and revision == self.trial.number:
            self.adopt()
        if self.proved or self.current is None or revision != self.current.number:
            return False
        self.proved = True
        return self.rolling

    def refuse(self) -> None:
        """No worker of the trial gets READY: the one before goes on."""
        if self.trial is not None:
            self._refused, self.trial = self.trial.program, None
            self.rolling = False

    def done(self) -> None:
        """No worker runs anything else any more."""
        self.rolling = False
