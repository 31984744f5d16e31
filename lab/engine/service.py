"""The life of one process beside the pool as a pure state machine: things that happen go in, things to do come out.

No I/O, no clock. Intent comes first: a stop that was asked for, or that a failed check led to, is recorded before any
signal is sent, so whatever the process does next is judged rightly. When it ends, `restart` decides what follows;
back-off counts ends in a row that came before it was healthy, or soon after (as systemd and supervisord do).
"""

import random
from enum import Enum, auto

from lab.core.backoff import Backoff
from lab.core.errors import IllegalTransitionError
from lab.core.model import Restart, ServiceSpec
from lab.core.states import ServiceState
from lab.pool.worker import signal_name

STABLE_AFTER = 1.0
"""Seconds. An end within this long of becoming healthy counts towards back-off."""

_S = ServiceState
_ENDED = frozenset({_S.WAITING, _S.BACKOFF, _S.STOPPED})
TRANSITIONS: dict[ServiceState, frozenset[ServiceState]] = {
    _S.WAITING: frozenset({_S.STARTING, _S.STOPPED}),
    _S.STARTING: frozenset({_S.HEALTHY, _S.STOPPING, *_ENDED}),
    _S.HEALTHY: frozenset({_S.UNHEALTHY, _S.STOPPING, *_ENDED}),
    _S.UNHEALTHY: frozenset({_S.HEALTHY, _S.STOPPING, *_ENDED}),
    _S.STOPPING: _ENDED,
    _S.BACKOFF: frozenset({_S.WAITING, _S.STOPPED}),
    _S.STOPPED: frozenset(),
}
"""For each state, the states that may follow. Whatever is not in the table cannot happen."""


class Action(Enum):
    """What has to be done after a step."""

    START = auto()
    """Run its program, then call `started` or `refused`."""
    CHECK = auto()
    """Ask it regularly how it is, call `checked`; call `overdue` when `start_timeout` is over."""
    GIVE_UP = auto()
    """Its checks fail, and it is to be started again: call `give_up`."""
    STOP = auto()
    """Send the stop signal; SIGKILL to its group when the grace ran out. Then `exited` follows."""
    RETRY = auto()
    """Call `retry` in `delay` seconds."""


class Service:
    """The machine. Each method is something that happened and returns what to do; `state` has moved on already."""

    def __init__(self, spec: ServiceSpec, rng: random.Random, backoff: Backoff | None = None) -> None:
        self.spec = spec
        self.state = _S.WAITING
        self.why = ""
        """Why it is not healthy, in a sentence; empty when it is."""
        self.pid: int | None = None
        self.started_at: float | None = None
        self.wanted = True
        """It was not asked to stop."""
        self.restarts = 0
        self.delay = 0.0
        """Seconds to wait in BACKOFF."""
        self._backoff = backoff or Backoff()
        self._rng = rng
        self._healthy_at: float | None = None
        self._failed_checks = 0
        self._failures = 0
        self._was_started = False

    @property
    def is_alive(self) -> bool:
        """There is a process, or there will be one any moment."""
        return self.state not in _ENDED

    @property
    def is_checked(self) -> bool:
        """It runs and is meant to go on."""
        return self.state in (_S.STARTING, _S.HEALTHY, _S.UNHEALTHY)

    def waits_for(self, names: tuple[str, ...]) -> None:
        """It could start if these were healthy."""
        if names:
            self.why = f"It waits for {' and '.join(names)} to be healthy."

    def begin(self) -> tuple[Action, ...]:
        """What it needs is healthy."""
        self.restarts += self._was_started
        self._was_started = True
        self._healthy_at, self._failed_checks = None, 0
        self._go(_S.STARTING, "It is not healthy yet.")
        return (Action.START,)

    def started(self, pid: int, at: float) -> tuple[Action, ...]:
        """Its process exists. It may have been asked to stop meanwhile."""
        self.pid, self.started_at = pid, at
        return (Action.STOP,) if self.state is _S.STOPPING else (Action.CHECK,)

    def refused(self, reason: str, at: float) -> tuple[Action, ...]:
        """Its program cannot be run."""
        return self._ended(reason, True, at)

    def checked(self, wrong: str, at: float) -> tuple[Action, ...]:
        """A check ended. `wrong` says what is, as the end of a sentence about it; empty when all is well."""
        if not self.is_checked:
            return ()
        if not wrong:
            self._failed_checks = 0
            if self.state is not _S.HEALTHY:
                self._healthy_at = at if self._healthy_at is None else self._healthy_at
                self._go(_S.HEALTHY, "")
            return ()
        self._failed_checks += 1
        if self.state is _S.HEALTHY:
            return self._worse(wrong)
        self.why = f"It {wrong}."
        return ()

    def overdue(self) -> tuple[Action, ...]:
        """`start_timeout` is over."""
        if self.state is not _S.STARTING:
            return ()
        late = f"It was not healthy within {self.spec.health.start_timeout:g} s"
        said = self.why.removeprefix("It ")
        self._go(_S.STOPPING, f"{late}: it {said}")
        return (Action.STOP,)

    def give_up(self) -> tuple[Action, ...]:
        """It is started again because its checks fail."""
        self._go(_S.STOPPING, self.why)
        return (Action.STOP,)

    def stop(self) -> tuple[Action, ...]:
        """It is not wanted any more."""
        self.wanted = False
        if self.is_checked:
            self._go(_S.STOPPING, "It is not wanted any more.")
            # One that is just being forked is stopped by `started`.
            return () if self.pid is None else (Action.STOP,)
        if self.state in (_S.WAITING, _S.BACKOFF):
            self._go(_S.STOPPED, "It is not wanted any more.")
        return ()

    def exited(self, status: int, at: float, said: str = "") -> tuple[Action, ...]:
        """Its process is gone; `status` as `os.waitstatus_to_exitcode` has it, `said` its last words."""
        given_up = self.state is _S.STOPPING and self.wanted
        why = self.why if given_up else f"It ended: {ending(status)}."
        if said and status != 0 and self.wanted and not given_up:
            why = f"{why} Its last words: {said}"
        return self._ended(why, given_up or status != 0, at)

    def retry(self) -> tuple[Action, ...]:
        """Its back-off is over, or somebody did not want to wait for that."""
        if self.state is _S.BACKOFF:
            self._go(_S.WAITING, self.why)
        return ()

    def _worse(self, wrong: str) -> tuple[Action, ...]:
        if self._failed_checks < self.spec.health.fall:
            return ()
        self._go(_S.UNHEALTHY, f"It {wrong}.")
        return () if self.spec.restart is Restart.NEVER else (Action.GIVE_UP,)

    def _ended(self, why: str, failed: bool, at: float) -> tuple[Action, ...]:
        self.pid = self.started_at = None
        again = self.spec.restart is Restart.ALWAYS or (failed and self.spec.restart is Restart.ON_FAILURE)
        if not self.wanted or not again:
            self._go(_S.STOPPED, why)
            return ()
        stable = self._healthy_at is not None and at - self._healthy_at >= STABLE_AFTER
        self._failures = 0 if stable else self._failures + 1
        self.delay = self._backoff.delay(self._failures, self._rng)
        self._go(_S.BACKOFF if self.delay else _S.WAITING, why)
        return (Action.RETRY,) if self.delay else ()

    def _go(self, state: ServiceState, why: str) -> None:
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransitionError(f"A process beside the pool cannot go from {self.state} to {state}.")
        self.state, self.why = state, why


def ending(status: int) -> str:
    """How a process ended, in a few words: `SIGKILL` or `exit code 1`."""
    return f"exit code {status}" if status >= 0 else signal_name(-status)
