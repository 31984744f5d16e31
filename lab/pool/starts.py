"""Whose turn it is to start in one pool: the lowest slot first, and no more at the same time than the machine can take.

A crowd that starts at once starts slower than in turns, and delays those that serve already.
"""

import asyncio
import math
import os
from collections.abc import Callable, Iterable, Mapping

from lab.core.clock import Clock
from lab.core.model import WorkerId
from lab.pool.place import Place
from lab.pool.runner import Runner

_HEAD_START = 0.01
"""Seconds. A standby that was called upon answers what has waited before another one is started in its place, for a
program that starts wants a core, too: 3.4 ms to the next answer instead of 4.8 (tests/bench/restart.py, Python)."""


class Starts:
    """Those that wait for their turn, and those that are starting."""

    def __init__(self, places: Mapping[int, Place], clock: Clock, again: Callable[[], None]) -> None:
        """`again` is called when one that had to wait for another reason than the cap may start."""
        self._places = places
        self._clock = clock
        self._again = again
        self._waiting: dict[WorkerId, Runner] = {}
        self._starting: set[Runner] = set()
        self._standbys_wait_until = -math.inf

    def wait(self, runner: Runner) -> None:
        """It is to be started."""
        self._waiting[runner.worker.id] = runner

    def forget(self, runner: Runner) -> None:
        """It is not to be started any more, or its start is over: it is READY, or gone."""
        self._waiting.pop(runner.worker.id, None)
        self._starting.discard(runner)

    def next(self, most: int) -> Runner | None:
        """Who is to be started now, if anybody is; from then on it counts as starting. At most `most` are (0: as many
        as there are cores)."""
        if len(self._starting) >= (most or os.cpu_count() or 1):
            return None
        worker = min(self._eligible(), default=None)
        if worker is None:
            return None
        runner = self._waiting.pop(worker)
        self._starting.add(runner)
        return runner

    def let_serve(self) -> None:
        """A standby has been called upon: no other one is started before it has had a moment to itself."""
        self._standbys_wait_until = self._clock.monotonic() + _HEAD_START
        asyncio.get_running_loop().call_later(_HEAD_START, self._again)

    def _eligible(self) -> Iterable[WorkerId]:
        if self._clock.monotonic() >= self._standbys_wait_until:
            return self._waiting
        return (worker for worker in self._waiting if not self._places[worker.slot].standby)
