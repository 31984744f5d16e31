"""How many workers a pool should have, and which of them is one too many.

The words and rules are PHP-FPM's (`fpm_pctl_perform_idle_server_maintenance` and `fpm_pctl_on_socket_accept` in
`fpm_process_ctl.c`). A policy sees a census and answers with a decision; it starts and stops nobody. It is asked once a
second, and when a request finds no idle worker.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lab.core.model import PoolSettings
from lab.core.states import Policy

_MOST_AT_ONCE = 32
"""FPM_MAX_SPAWN_RATE."""
_JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Idle:
    """A worker without a request in it."""

    slot: int
    started: float
    """Monotonic time of its fork."""
    since: float
    """Monotonic time at which its last request ended, or since when it has been there to be asked."""


@dataclass(frozen=True, slots=True)
class Census:
    """A pool at monotonic time `now`, without its standbys."""

    now: float
    running: int
    """Workers that there are to be: those that are starting, or wait to be, included."""
    starting: int = 0
    """Those of them that are not READY yet. PHP-FPM's are in no time; a program that takes longer than a tick to start
    must not be started a second time for the same need, so they count as idle where too few are."""
    idle: tuple[Idle, ...] = ()
    """READY ones with no request in flight, in any order."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to change."""

    start: int = 0
    """So many workers more."""
    stop: tuple[int, ...] = ()
    """The workers in these slots are not needed any more."""
    limited: bool = False
    """More were needed, but `max_workers` are running."""


_NOTHING = Decision()


class SpawnPolicy(Protocol):
    """May remember what it decided (as `dynamic` must, which doubles its rate); one instance serves one pool."""

    def bounds(self, settings: PoolSettings) -> tuple[int, int]:
        """The fewest and the most workers that there may be at any time."""
        ...

    def begin(self, settings: PoolSettings) -> int:
        """How many a pool begins with."""
        ...

    def tick(self, settings: PoolSettings, census: Census) -> Decision:
        """A second has passed."""
        ...

    def starved(self, settings: PoolSettings, census: Census) -> Decision:
        """A request found no idle worker. Asked once a request, so that each gets one started, and no more."""
        ...


class Static:
    """`pm = static`: always `max_workers`."""

    def bounds(self, settings: PoolSettings) -> tuple[int, int]:
        return settings.max_workers, settings.max_workers

    def begin(self, settings: PoolSettings) -> int:
        return settings.max_workers

    def tick(self, settings: PoolSettings, census: Census) -> Decision:
        return _NOTHING

    def starved(self, settings: PoolSettings, census: Census) -> Decision:
        return _NOTHING


class Dynamic:
    """`pm = dynamic`: keeps `min_spare` to `max_spare` workers idle. `spawn_on_starved`, `min_workers` go beyond it."""

    def __init__(self) -> None:
        self._rate = 1

    def bounds(self, settings: PoolSettings) -> tuple[int, int]:
        return min(settings.min_workers, settings.max_workers), settings.max_workers

    def begin(self, settings: PoolSettings) -> int:
        return settings.start_workers

    def tick(self, settings: PoolSettings, census: Census) -> Decision:
        rate, self._rate = self._rate, 1  # and so it stays, unless too few are idle
        if len(census.idle) > settings.max_spare:
            above_floor = census.running > settings.min_workers
            return Decision(stop=(_oldest(census.idle),)) if above_floor else _NOTHING
        idle = len(census.idle) + census.starting
        if idle >= settings.min_spare:
            return _NOTHING
        room = settings.max_workers - census.running
        if room <= 0:
            return Decision(limited=True)
        self._rate = min(2 * rate, _MOST_AT_ONCE)
        return Decision(start=min(rate, settings.min_spare - idle, room))

    def starved(self, settings: PoolSettings, census: Census) -> Decision:
        return _one_more(settings, census) if settings.spawn_on_starved else _NOTHING


class OnDemand:
    """`pm = ondemand`: none at first, one more for each request that finds none idle.

    PHP-FPM stops at most one a second, and looks at its oldest alone; here everyone goes who was idle for long enough.
    """

    def bounds(self, settings: PoolSettings) -> tuple[int, int]:
        return 0, settings.max_workers

    def begin(self, settings: PoolSettings) -> int:
        return 0

    def tick(self, settings: PoolSettings, census: Census) -> Decision:
        return Decision(stop=tuple(one.slot for one in census.idle if census.now - one.since >= settings.idle_timeout))

    def starved(self, settings: PoolSettings, census: Census) -> Decision:
        return _one_more(settings, census)


def requests_allowed(settings: PoolSettings, luck: float) -> int:
    """After how many requests a worker is replaced: `max_requests` and up to 10 % more.

    `luck` is the worker's own, at random from 0 to 1, so that workers that began together do not end together.
    """
    return settings.max_requests + int(settings.max_requests * _JITTER * luck)


def _oldest(idle: tuple[Idle, ...]) -> int:
    return min(idle, key=lambda one: one.started).slot


def _one_more(settings: PoolSettings, census: Census) -> Decision:
    if census.idle:
        return _NOTHING
    return Decision(start=1) if census.running < settings.max_workers else Decision(limited=True)


POLICIES: dict[Policy, Callable[[], SpawnPolicy]] = {
    Policy.STATIC: Static,
    Policy.DYNAMIC: Dynamic,
    Policy.ONDEMAND: OnDemand,
}
