"""What happened, newest below. It follows the end until somebody scrolls back, and keeps the last five hundred."""

from collections import deque
from collections.abc import Iterable
from typing import Any

from textual.events import Resize

from lab.core.events import Event, EventKind
from lab.core.states import DELIBERATE, ServiceState, WorkerState
from lab.tui import figures
from lab.tui.painting import PaintedScroll, Row, fit

_KEPT = 500
_QUIET = frozenset({EventKind.ENDPOINT_IN, EventKind.ENDPOINT_OUT, EventKind.PROCESS_REPORT})
_QUIET_STATES = frozenset({WorkerState.PENDING, WorkerState.STARTING, WorkerState.STOPPING, WorkerState.DRAINING})
_QUIET_STEPS = frozenset({ServiceState.WAITING, ServiceState.STARTING, ServiceState.STOPPING})
"""Of processes beside the pool."""
_BAD = frozenset({EventKind.OUTPUT, EventKind.FORKSERVER, EventKind.CGI})
_NOTABLE = frozenset({EventKind.LIMIT, EventKind.SLOW})
_BAD_STEPS = frozenset({ServiceState.UNHEALTHY, ServiceState.BACKOFF})
_BAD_STATES = frozenset({WorkerState.UNHEALTHY, WorkerState.FAILED, WorkerState.KILLING})


def role(event: Event) -> str:
    """How loud an event is. Deaths that somebody asked the pool for are no alarm."""
    if event.kind is EventKind.HEALED or event.data.get("step") == "done":
        return "good"
    if event.kind in (EventKind.STOPPED, EventKind.CONTINUED):
        return "cold"
    if event.kind is EventKind.SERVICE:
        return "bad" if event.data.get("to") in _BAD_STEPS else "text"
    if event.kind in _BAD or event.data.get("step") == "refused":
        return "bad"
    if event.kind in _NOTABLE:
        return "warn"
    if event.state in _BAD_STATES or (event.state is WorkerState.EXITED and event.cause not in DELIBERATE):
        return "bad"
    return "warn" if event.state is WorkerState.BACKOFF else "text"


class EventLog(PaintedScroll):
    """Only what a person wants to read: steps that every start and stop goes through are left to the timeline."""

    HELP = (
        "What happened, with the time of day to the millisecond. Arrow keys and page keys scroll; at the end it "
        "follows.\n\n"
        "The steps of every ordinary start and stop are left out here; `cgilab events` prints all of them.\n\n"
        "y copies the newest line."
    )
    can_focus = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._lines: deque[Row] = deque(maxlen=_KEPT)
        self._seen = self._missed = 0

    @property
    def to_copy(self) -> str:
        """What `y` copies: the newest line."""
        return "".join(text for text, _ in self._lines[-1]).strip() if self._lines else ""

    def show(self, events: Iterable[Event], missed: int = 0) -> None:
        """Append what is new in `events`; `missed` more were overwritten before anybody read them."""
        fresh = [event for event in events if event.seq > self._seen]
        if not fresh and not missed:
            return
        following = self.scroll_y >= self.max_scroll_y
        self._missed += missed
        self._lines.extend(_row(event) for event in fresh if not _quiet(event))
        self._seen = fresh[-1].seq if fresh else self._seen
        self.measure()
        if following:
            self.scroll_to(y=max(0, self.count - self.shown), animate=False, force=True)
        self.refresh()

    @property
    def count(self) -> int:
        return len(self._lines)

    def heading(self, width: int) -> Row:
        missed = f"  {self._missed} came too fast to be read here" if self._missed else ""
        return (("EVENTS", "head"), (missed, "warn"))

    def line(self, number: int, width: int) -> Row:
        (clock, told) = self._lines[number]
        return (clock, (fit(told[0], width - len(clock[0]), self.glyphs.more).rstrip(), told[1]))

    def on_resize(self, event: Resize) -> None:
        """Stay at the newest line."""
        self.measure()
        self.scroll_to(y=max(0, self.count - self.shown), animate=False, force=True)


def _quiet(event: Event) -> bool:
    if event.kind is EventKind.SERVICE:
        return event.data.get("to") in _QUIET_STEPS
    return event.kind in _QUIET or event.state in _QUIET_STATES


def _row(event: Event) -> Row:
    return ((f"  {figures.clock(event.wall)} ", "dim"), (event.text, role(event)))
