"""A timer that is never early.

An event loop counts a delay from when its turn began, by a clock that it read then. On a machine that stops this
process in the middle of a turn, that may be most of a second ago; a wait that was promised would be over that much too
soon.
"""

import asyncio
from collections.abc import Callable

from lab.core.clock import Clock

EARLY = 0.005
"""Seconds by which it may be early all the same: uvloop keeps time in whole milliseconds."""


class Timer:
    """Calls `deed` once, on the running loop, when `delay` seconds have passed by `clock`."""

    def __init__(self, clock: Clock, delay: float, deed: Callable[[], object]) -> None:
        self._clock = clock
        self._due = clock.monotonic() + delay
        self._deed = deed
        self._handle = asyncio.get_running_loop().call_later(delay, self._look)

    def cancel(self) -> None:
        """Call nothing any more."""
        self._handle.cancel()

    def _look(self) -> None:
        left = self._due - self._clock.monotonic()
        if left > EARLY:
            self._handle = asyncio.get_running_loop().call_later(left, self._look)
        else:
            self._deed()
