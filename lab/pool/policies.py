"""How many workers a pool should have. A policy is asked once a second and after each change, and answers a number."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lab.core.model import PoolSettings
from lab.core.states import Policy


@dataclass(frozen=True, slots=True)
class Census:
    """A pool at monotonic time `now`."""

    now: float
    running: int
    """Workers that have a process and were not asked to stop."""
    idle: int
    """READY ones with no request in flight."""


class SpawnPolicy(Protocol):
    """May remember what it saw (as `dynamic` must, which doubles its rate); one instance serves one pool."""

    def wanted(self, settings: PoolSettings, census: Census) -> int:
        """How many workers there should be."""
        ...


class Static:
    """PHP-FPM's `pm = static`: always `max_workers`."""

    def wanted(self, settings: PoolSettings, census: Census) -> int:
        return settings.max_workers


POLICIES: dict[Policy, Callable[[], SpawnPolicy]] = {Policy.STATIC: Static}
