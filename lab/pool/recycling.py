"""Which workers have served all the requests that they may (`max_requests`)."""

import asyncio
from collections.abc import Callable, Mapping

from lab.core.model import PoolSettings
from lab.pool.manager import Routing
from lab.pool.place import Place
from lab.pool.policies import requests_allowed
from lab.pool.runner import Runner

_SHORTEST_PAUSE = 0.01
_COUNTS_A_SECOND = 5000
"""Of how many workers the requests are counted in a second: those of a small pool more often than those of a large."""


class Recycling:
    """Looks again and again, as long as there is a limit. Requests go on meanwhile, so it looks often."""

    def __init__(self, places: Mapping[int, Place], routing: Routing, on_due: Callable[[], None]) -> None:
        """`on_due` is called after each look that found somebody."""
        self._places = places
        self._routing = routing
        self._on_due = on_due
        self._settings = PoolSettings()
        self._due: list[Runner] = []
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, settings: PoolSettings) -> None:
        """From now on this is the limit."""
        self._settings = settings
        if not settings.max_requests:
            self.stop()
        elif self._timer is None:
            self._look()

    def stop(self) -> None:
        """There is no limit any more."""
        self._due = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def next(self) -> Place | None:
        """The place whose worker is to be replaced next: the one most overdue, as of the last look."""
        while self._due:
            runner = self._due.pop(0)
            place = self._places[runner.worker.id.slot]
            if place.is_replaceable and place.newest is runner:
                return place
        return None

    def _look(self) -> None:
        pause = max(_SHORTEST_PAUSE, len(self._places) / _COUNTS_A_SECOND)
        self._timer = asyncio.get_running_loop().call_later(pause, self._look)
        over = [(excess, runner) for place in self._places.values() for excess, runner in self._spent(place)]
        self._due = [runner for _, runner in sorted(over, key=lambda one: one[0], reverse=True)]
        if self._due:
            self._on_due()

    def _spent(self, place: Place) -> list[tuple[int, Runner]]:
        """Its worker, and by how much it has exceeded its limit, if it has."""
        runner = place.ready
        if runner is None or runner.endpoint is None or not runner.routed:
            return []
        excess = self._routing.served(runner.endpoint) - requests_allowed(self._settings, place.luck)
        return [(excess, runner)] if excess >= 0 else []
