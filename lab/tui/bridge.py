"""From the lab to the screen: one look a fifth of a second, one message a look, and the last minute for the charts.

The engine never calls a screen; the screen pulls. So a slow terminal slows nobody, and however many requests the lab
relays, the screen handles five messages a second (two over ssh). A lab that went away is told, not raised.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from textual.message import Message

from lab.core.errors import LabError
from lab.core.events import Event, EventKind
from lab.core.snapshot import LabSnapshot
from lab.core.states import DELIBERATE, WorkerState
from lab.engine.lab import Lab

WINDOW_S = 60
"""How much of the past the charts show."""
_BATCH = 1000
_BACKLOG = 500
"""Events of the time before the first look that are still read, and events that are kept for a screen that returns."""


class Polled(Message):
    """One look at the lab: how it is, and what happened since the look before. Posted to the active screen."""

    def __init__(
        self, snapshot: LabSnapshot, events: tuple[Event, ...], missed: int = 0, *, backlog: bool = False
    ) -> None:
        super().__init__()
        self.snapshot = snapshot
        self.events = events
        self.missed = missed
        """Events that were overwritten before this look."""
        self.backlog = backlog
        """The first look: its events are of the time before, so they are no news."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One second of traffic that ended at `at`. Rates are counted in it; latencies are the lab's, over ten seconds."""

    at: float
    clients: float
    own: float
    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Moment:
    """A fault or its healing, for the charts. `role` is `bad` or `good`. Ends that were asked for are no faults."""

    at: float
    role: str


class History:
    """The last minute, one sample a second, and the moments in it."""

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque(maxlen=WINDOW_S)
        self.moments: deque[Moment] = deque(maxlen=200)
        self.now = 0.0
        self.version = 0
        """Counts up whenever there is something new to draw."""
        self._from: LabSnapshot | None = None

    def add(self, snapshot: LabSnapshot, events: tuple[Event, ...]) -> None:
        """Take in one look. `now`, the right edge of the charts, moves with each sample."""
        fresh = [moment for moment in map(_moment, events) if moment is not None]
        self.moments.extend(fresh)
        self.version += bool(fresh)
        if self._from is None:
            self._from, self.now = snapshot, snapshot.at
        elif snapshot.at - self._from.at >= 1.0:
            self.samples.append(_sample(self._from, snapshot))
            self.now = snapshot.at
            self.version += 1
            self._from = snapshot


def _sample(before: LabSnapshot, now: LabSnapshot) -> Sample:
    """What was counted between two looks. Latencies are the clients', or the lab's own while nobody else asks."""
    passed = now.at - before.at
    shown = now.totals if now.totals.p50_ms is not None else now.own.totals
    clients = max(0, now.totals.accepted - before.totals.accepted) / passed
    own = max(0, now.own.totals.accepted - before.own.totals.accepted) / passed
    return Sample(now.at, clients, own, shown.p50_ms, shown.p95_ms, shown.p99_ms)


def _moment(event: Event) -> Moment | None:
    if event.kind is EventKind.HEALED:
        return Moment(event.at, "good")
    ended = event.kind is EventKind.STATE and event.state is WorkerState.EXITED and event.pid is not None
    if event.kind is EventKind.STOPPED or (ended and event.cause not in DELIBERATE):
        return Moment(event.at, "bad")
    return None


def interval(environ: Mapping[str, str] = os.environ) -> float:
    """Seconds between two looks: every change of the screen travels, so fewer over ssh."""
    return 0.5 if environ.get("SSH_CONNECTION") else 0.2


class Bridge:
    """Looks at the lab for as long as `run` runs. `deliver` gets each look, `trouble` the error when one failed."""

    def __init__(self, lab: Lab, deliver: Callable[[Polled], None], trouble: Callable[[LabError], None]) -> None:
        self.latest: LabSnapshot | None = None
        self.history = History()
        self.log: deque[Event] = deque(maxlen=_BACKLOG)
        """The newest events, for a screen that was not there when they came."""
        self._lab = lab
        self._deliver = deliver
        self._trouble = trouble
        self._cursor: int | None = None

    async def run(self) -> None:
        """Look at the lab at a steady pace. A lab that is slow to answer is asked less often, never twice at a time."""
        pace = interval()
        while True:
            await self.poll()
            await asyncio.sleep(pace)

    async def poll(self) -> None:
        """One look, now."""
        try:
            snapshot = await self._lab.snapshot()
            backlog = self._cursor is None
            if self._cursor is None:
                self._cursor = max(1, snapshot.events_next - _BACKLOG)
            batch = await self._lab.events(self._cursor, _BATCH)
        except LabError as error:
            self._trouble(error)
            return
        self._cursor = batch.next
        self.latest = snapshot
        self.log.extend(batch.events)
        self.history.add(snapshot, batch.events)
        self._deliver(Polled(snapshot, batch.events, batch.missed, backlog=backlog))
