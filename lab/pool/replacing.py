"""Replacing one worker by another without a gap: one at a time, and none for a while after one that failed; and those
that wait for it because they are not well."""

import asyncio
import random
from collections.abc import Callable, Mapping

from lab.core.backoff import Backoff
from lab.core.model import PoolSettings
from lab.core.states import Cause, WorkerState
from lab.pool.place import Place
from lab.pool.runner import Runner


class Unwell:
    """Those that are to be replaced for being UNHEALTHY, as soon as it is their turn."""

    def __init__(self, places: Mapping[int, Place]) -> None:
        self._places = places
        self._runners: list[Runner] = []

    def add(self, runner: Runner) -> None:
        """It has been UNHEALTHY for long enough. May be said again and again, also of one that has a successor."""
        if self._places[runner.worker.id.slot].newest is runner and runner not in self._runners:
            self._runners.append(runner)

    def next(self) -> Place | None:
        """The place whose worker is to be replaced next: of those that still carry their slot on and are not well."""
        while self._runners:
            runner = self._runners.pop(0)
            place = self._places[runner.worker.id.slot]
            if place.is_replaceable and place.newest is runner and runner.worker.state is WorkerState.UNHEALTHY:
                return place
        return None


class Replacing:
    """The replacement that is under way in one pool, if there is one: the newest worker of `place` takes over there."""

    def __init__(self, again: Callable[[], None]) -> None:
        """`again` is called when the next one may begin after one that failed."""
        self.place: Place | None = None
        self.cause: Cause | None = None
        self._again = again
        self._failures = 0
        self._hold: asyncio.TimerHandle | None = None

    @property
    def is_under_way(self) -> bool:
        """A successor is on its way."""
        return self.place is not None

    @property
    def may_begin(self) -> bool:
        """None is under way, and none has failed just now."""
        return self.place is None and self._hold is None

    def begin(self, place: Place, cause: Cause) -> None:
        """The worker that comes next in `place` is a successor."""
        self.place, self.cause = place, cause

    def is_successor(self, runner: Runner) -> bool:
        """Whether this worker is to take over from another one."""
        return self.place is not None and self.place.runners[-1:] == [runner]

    def end(self) -> None:
        """It is over: the successor took over, or nobody is to any more."""
        self.place = self.cause = None

    def forget_failures(self) -> None:
        """What comes next is something else, or one has succeeded."""
        self._failures = 0
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None

    def failed(self, settings: PoolSettings, rng: random.Random) -> None:
        """It failed: the next one has to wait, the longer the more of them have failed in a row."""
        failures = self._failures + 1
        self.forget_failures()
        self._failures = failures
        delay = Backoff(settings.backoff_initial, settings.backoff_max).delay(failures, rng)
        self._hold = asyncio.get_running_loop().call_later(delay, self._let_go)

    def _let_go(self) -> None:
        self._hold = None
        self._again()
