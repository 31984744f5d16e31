"""What happened, newest below. It follows the end until somebody scrolls back, and keeps the last five hundred.

The end of a sentence is where its why stands, so what is too long for a row goes on below it.
"""

import textwrap
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from textual.events import Resize

from lab.core.events import Event, EventKind
from lab.core.states import DELIBERATE, BreakerState, EndpointHealth, ServiceState, WorkerState
from lab.tui import figures
from lab.tui.painting import PaintedScroll, Row

_KEPT = 500
_ROWS = 4
"""The most rows that one event takes."""
_FRAMES = 3
"""How many calls of a slow worker's stack are told, the innermost first."""
_QUIET = frozenset({EventKind.ENDPOINT_IN, EventKind.ENDPOINT_OUT, EventKind.PROCESS_REPORT})
_QUIET_STATES = frozenset({WorkerState.PENDING, WorkerState.STARTING, WorkerState.STOPPING, WorkerState.DRAINING})
_QUIET_STEPS = frozenset({ServiceState.WAITING, ServiceState.STARTING, ServiceState.STOPPING})
"""Of processes beside the pool."""
_BAD = frozenset({EventKind.OUTPUT, EventKind.FORKSERVER, EventKind.CGI})
_NOTABLE = frozenset({EventKind.LIMIT, EventKind.SLOW})
_HEALTH = frozenset({EventKind.ENDPOINT_HEALTH, EventKind.BREAKER, EventKind.PANIC})
_HEALTH_ROLES = {
    EndpointHealth.HEALTHY: "good",
    EndpointHealth.UNHEALTHY: "bad",
    EndpointHealth.EJECTED: "bad",
    BreakerState.CLOSED: "good",
    BreakerState.HALF_OPEN: "warn",
    BreakerState.OPEN: "bad",
    True: "bad",
    False: "good",
}
"""By what an app or one of its endpoints became: its health, its breaker's state, whether it panics."""
_BAD_STEPS = frozenset({ServiceState.UNHEALTHY, ServiceState.BACKOFF})
_BAD_STATES = frozenset({WorkerState.UNHEALTHY, WorkerState.FAILED, WorkerState.KILLING})


def sentence(event: Event) -> str:
    """What happened in one sentence; of a slow request also what the worker was doing."""
    stack = event.data.get("stack") or ()
    frames = [line for line in stack if not line.startswith("Thread")][:_FRAMES]
    return f"{event.text}, in {' < '.join(frames)} ({event.data.get('seen_by')})" if frames else event.text


def role(event: Event) -> str:
    """How loud an event is. Deaths that somebody asked the pool for are no alarm."""
    if event.kind is EventKind.HEALED or event.data.get("step") == "done":
        return "good"
    if event.kind in (EventKind.STOPPED, EventKind.CONTINUED):
        return "cold"
    if event.kind in _HEALTH:
        return _HEALTH_ROLES[event.data.get("to", event.data.get("on"))]
    if event.kind is EventKind.SERVICE:
        return "bad" if event.data.get("to") in _BAD_STEPS else "text"
    if event.kind in _BAD or event.data.get("step") == "refused":
        return "bad"
    if event.kind in _NOTABLE:
        return "warn"
    if event.state in _BAD_STATES or (event.state is WorkerState.EXITED and event.cause not in DELIBERATE):
        return "bad"
    return "warn" if event.state is WorkerState.BACKOFF else "text"


@dataclass(frozen=True, slots=True)
class Line:
    """One event as it is shown: the time of day, what happened, and how loud that is."""

    clock: str
    text: str
    role: str

    def rows(self, width: int, more: str) -> Iterator[Row]:
        """The event in rows of at most `width` cells, the text in a column of its own."""
        room = max(len(more), width - len(self.clock))
        fits = len(self.text) <= room  # nearly always, and much faster
        first, *further = [self.text] if fits else textwrap.wrap(self.text, room, max_lines=_ROWS, placeholder=more)
        yield ((self.clock, "dim"), (first, self.role))
        for text in further:
            yield ((" " * len(self.clock), "dim"), (text, self.role))


class EventLog(PaintedScroll):
    """Only what a person wants to read: steps that every start and stop goes through are left to the timeline."""

    HELP = (
        "What happened, with the time of day to the millisecond. Arrow keys and page keys scroll; at the end it "
        "follows.\n\n"
        "Red is a fault: a death that nobody asked for, a program that was refused, a process beside the pool that "
        "fails. Green is a healing or a reload that is done, blue a worker that was frozen or thawed. Yellow is worth "
        "a look: a pool that reached its most workers and could use more; a slow request, with what its worker was "
        "doing, the innermost call first. Decisions of a policy or of autoscaling say why.\n\n"
        "The steps of every ordinary start and stop are left out here; `cgilab events` prints all of them.\n\n"
        "y copies the newest event."
    )
    can_focus = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._told: deque[Line] = deque(maxlen=_KEPT)
        self._rows: list[Row] = []
        self._seen = self._missed = 0

    @property
    def to_copy(self) -> str:
        """What `y` copies: the newest event."""
        return f"{self._told[-1].clock.strip()} {self._told[-1].text}" if self._told else ""

    def show(self, events: Iterable[Event], missed: int = 0) -> None:
        """Append what is new in `events`; `missed` more were overwritten before anybody read them."""
        fresh = [event for event in events if event.seq > self._seen]
        if not fresh and not missed:
            return
        following = self.scroll_y >= self.max_scroll_y
        self._missed += missed
        self._told.extend(
            Line(f"  {figures.clock(event.wall)} ", sentence(event), role(event))
            for event in fresh
            if not _quiet(event)
        )
        self._seen = fresh[-1].seq if fresh else self._seen
        self._lay_out(following=following)

    @property
    def count(self) -> int:
        return len(self._rows)

    def heading(self, width: int) -> Row:
        missed = f"  {self._missed} came too fast to be read here" if self._missed else ""
        return (("EVENTS", "head"), (missed, "warn"))

    def line(self, number: int, width: int) -> Row:
        return self._rows[number]

    def on_resize(self, event: Resize) -> None:
        """Stay at the newest line."""
        self._lay_out(following=True)

    def _lay_out(self, *, following: bool) -> None:
        width = self.size.width - self.styles.scrollbar_size_vertical
        self._rows = [row for line in self._told for row in line.rows(width, self.glyphs.more)]
        self.measure()
        if following:
            self.scroll_to(y=max(0, self.count - self.shown), animate=False, force=True)
        self.refresh()


def _quiet(event: Event) -> bool:
    if event.kind is EventKind.SERVICE:
        return event.data.get("to") in _QUIET_STEPS
    never_was = event.state is WorkerState.EXITED and event.pid is None
    return never_was or event.kind in _QUIET or event.state in _QUIET_STATES
