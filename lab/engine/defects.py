"""Defects of the lab itself: whatever fails inside the engine by surprise is kept in a file and told in an event.

The engine goes on. A defect that happens again and again is kept and told once.
"""

import asyncio
import contextlib
import traceback
from pathlib import Path
from typing import Any

from lab.core.events import EventKind, EventRing

_MOST = 100
"""Different defects that are kept; each is one small write on the engine's loop."""


class Defects:
    """Keeps tracebacks in `log` and tells of them in `events`."""

    def __init__(self, log: Path, events: EventRing) -> None:
        self.log = log
        self._events = events
        self._known: set[tuple[str, int]] = set()

    def handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """For `loop.set_exception_handler`. What has no exception, such as a warning of asyncio, is no defect."""
        error = context.get("exception")
        if error is not None:
            self.found(error)

    def found(self, error: BaseException) -> None:
        """Keep and tell a defect, unless it is known."""
        place = _place(error)
        if place in self._known or len(self._known) >= _MOST:
            return
        self._known.add(place)
        with contextlib.suppress(OSError):  # a full disk must not make it worse
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", encoding="utf-8") as file:
                traceback.print_exception(error, file=file)
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        self._events.emit(EventKind.NOTE, f"A defect of cgilab, please report it ({what}). Details: {self.log}")


def _place(error: BaseException) -> tuple[str, int]:
    """File and line where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return (frames[-1].filename, frames[-1].lineno or 0) if frames else (repr(error), 0)
