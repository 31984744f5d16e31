"""One coarse timer wheel for every deadline of the proxy: no timer object a request, no system call to set one.

A connection's deadline moves several times a request and nearly never comes. So setting one is an assignment; the
wheel looks at each connection only when the earliest deadline it was told of is due, and moves it on if it has a later
one by then. A deadline is therefore met up to one tick late, and never early.
"""

import asyncio
import math
from abc import ABC, abstractmethod
from typing import Final

from lab.core.clock import Clock

TICK: Final = 0.05
"""Seconds between two turns of the wheel."""

NEVER: Final = math.inf


class Timed(ABC):
    """Something that has a deadline.

    It has slots, and so have those that every request passes: where a class with slots inherits a dictionary, Python
    3.11 looks up every call of a method of its own by name.
    """

    __slots__ = ("deadline", "looked_at")

    def __init__(self) -> None:
        self.deadline = NEVER
        """Monotonic seconds. May be moved later, or to `NEVER`, at will; to move it earlier, `TimerWheel.arm`."""
        self.looked_at = NEVER
        """Monotonic seconds of the wheel's next look at it. The wheel's own."""

    @abstractmethod
    def expired(self) -> None:
        """The deadline has passed. It is `NEVER` again by now."""


class TimerWheel:
    """Calls `expired` of what is due, on the running loop, from `start` to `stop`."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic
        self._begin = self._now()
        self._turned = 0
        self._buckets: dict[int, dict[Timed, None]] = {}
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Turn from now on."""
        self._handle = asyncio.get_running_loop().call_later(TICK, self._turn)

    def stop(self) -> None:
        """Forget every deadline."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None
        self._buckets.clear()

    def arm(self, timed: Timed, deadline: float) -> None:
        """Set the deadline of `timed`. When it is not earlier than the one before, as nearly always, that is all.

        What happens with every request does this in its own place, and calls `arm` only if it is earlier.
        """
        timed.deadline = deadline
        if deadline < timed.looked_at:
            self._put(timed, deadline)

    def forget(self, timed: Timed) -> None:
        """`timed` is gone: look at it no more."""
        timed.deadline = NEVER
        self._take(timed)

    def _put(self, timed: Timed, deadline: float) -> None:
        self._take(timed)
        tick = max(self._turned, math.floor((deadline - self._begin) / TICK)) + 1
        timed.looked_at = self._begin + tick * TICK
        self._buckets.setdefault(tick, {})[timed] = None

    def _take(self, timed: Timed) -> None:
        if timed.looked_at < NEVER:
            tick = round((timed.looked_at - self._begin) / TICK)
            self._buckets.get(tick, {}).pop(timed, None)
            timed.looked_at = NEVER

    def _turn(self) -> None:
        now = self._now()
        current = int((now - self._begin) / TICK)
        while self._turned < current:
            self._turned += 1
            for timed in self._buckets.pop(self._turned, ()):
                timed.looked_at = NEVER
                if timed.deadline <= now:
                    timed.deadline = NEVER
                    timed.expired()
                elif timed.deadline < NEVER:
                    self.arm(timed, timed.deadline)
        self._handle = asyncio.get_running_loop().call_later(TICK, self._turn)
