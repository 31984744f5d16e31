"""Time, handed in. Logic never asks the operating system what time it is, so tests can turn the clock by hand."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one to measure with, one to tell people the time of day."""

    def monotonic(self) -> float:
        """Seconds of CLOCK_MONOTONIC. The same clock in every process of this machine, so figures compare."""
        ...

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC. For showing only; it may jump."""
        ...


class SystemClock:
    """The machine's own clocks."""

    # The function itself: the proxy asks for the time so often that a method around it could be measured.
    monotonic = staticmethod(time.monotonic)

    def wall(self) -> float:
        return time.time()


class ManualClock:
    """A clock that stands still until `advance` is called."""

    def __init__(self, monotonic: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self._monotonic = monotonic
        self._wall = wall

    def monotonic(self) -> float:
        return self._monotonic

    def wall(self) -> float:
        return self._wall

    def advance(self, seconds: float) -> None:
        """Move both clocks forward by `seconds`."""
        self._monotonic += seconds
        self._wall += seconds
