"""What happened, in order: numbered events in a bounded ring, read with a cursor.

A slow reader loses nothing silently: it is told how many events it missed. It slows nobody, for nobody waits for it.
"""

import sys
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import msgspec

from lab.core.clock import Clock
from lab.core.schema import published
from lab.core.states import Cause, WorkerState


class EventKind(StrEnum):
    """What an event tells."""

    STATE = "worker.state"
    """A worker went from one state to another: `state` is the new one, `data.from` the old one."""
    SIGNAL = "worker.signal"
    """The lab sent a signal: `data.signal` (name) and `data.by` (`person` or `lab`)."""
    STOPPED = "worker.stopped"
    """The kernel reports that the process was stopped (SIGSTOP)."""
    CONTINUED = "worker.continued"
    """The kernel reports that the process runs again (SIGCONT)."""
    HEALED = "worker.healed"
    """A successor is READY. `data` holds the photo finish: `old_pid`, `death` (signal name or exit code as text), `by`
    (`person`, `lab`, `outside`, or `itself` for a crash) and monotonic seconds `signal_at` (null unless the lab sent
    it), `exit_at` (kernel reported the death), `forked_at`, `probe_at` (probe passed), `ready_at`; `heal_ms` from
    signal, else exit, to READY; `lost` is how many requests were inside the worker when it died; `promoted`: a
    standby took its place, so `forked_at` and `probe_at` are null: that was done long before."""
    ENDPOINT_IN = "endpoint.in"
    """An endpoint entered its upstream: requests may reach it."""
    ENDPOINT_OUT = "endpoint.out"
    """An endpoint left its upstream."""
    ENDPOINT_HEALTH = "endpoint.health"
    """The proxy thinks otherwise of an endpoint: `data.from` and `data.to` are `healthy`, `unhealthy` or `ejected`;
    `text` says why."""
    PANIC = "upstream.panic"
    """Too few endpoints of an app are well, so that all of them are used again, or no longer: `data.on`."""
    BREAKER = "upstream.breaker"
    """An app's circuit breaker changed: `data.from`, `data.to` (closed, open, half_open); `text` says why."""
    SCALED = "app.scaled"
    """The wanted number of workers changed: `data.from`, `data.to`."""
    APP_STATUS = "app.status"
    """An app became available or unavailable, or began or ended building; `text` says why."""
    OUTPUT = "worker.output"
    """A worker's last words, when it failed to start: `text`."""
    RELOAD = "app.reload"
    """A program or definition changed: `data.step` is `noticed`, `verified` (a worker of it is READY), `done` or
    `refused` (the old one goes on); `text` says why."""
    SETTING = "app.setting"
    """A person changed a setting: `data.key`, `data.from`, `data.to`."""
    SHIFTED = "route.shifted"
    """A person changed the weights of a route: `data.route`, `data.from` and `data.to` (weights by app)."""
    DECISION = "app.decision"
    """Autoscaling looked and decided: `data.metric`, `data.value`, `data.from`, `data.to`; `text` says why."""
    SELECTION = "app.selection"
    """A selection policy in a file of one's own was loaded, or made a mistake: `data.file`, and for a mistake
    `data.line` (null where there is none) and `data.mistake`. Or one that is installed cannot be loaded: `text`."""
    LIMIT = "app.limit"
    """A pool reached its `max_workers` and could use more: told once each time it gets there."""
    SLOW = "request.slow"
    """A request takes longer than `slow_request`: `data.method`, `data.target`, `data.seconds`,
    `data.trace` (for `cgilab trace`, when it has ended), `data.stack` (what the
    worker was doing, as lines) and `data.seen_by` (`py-spy` or `kernel`)."""
    TOOK_LONG = "request.took_long"
    """A request ended that took as long as the proxy's setting `slow` says: `data.trace` (for `cgilab trace`),
    `data.status`, `data.seconds`, and where they went: `data.prepare`, `data.queue`, `data.connect`, `data.worker`,
    `data.transfer`. Told once a second at most."""
    TUNNEL = "tunnel.ended"
    """A tunnel (a WebSocket) is over: `data.trace` (the request that opened it), `data.seconds`, `data.from_client` and
    `data.from_worker` (bytes), `data.by` (client, worker or gateway); `text` says why. Told once a second at most."""
    CGI = "cgi.failed"
    """A CGI process broke a rule or a limit: `text` says which."""
    SERVICE = "service.state"
    """A process beside the pool went to another state: `data.name`, `data.from`, `data.to`; `text` says why."""
    LISTENING = "proxy.listening"
    """The listener is open: `data.url`."""
    FORKSERVER = "pool.forkserver"
    """The fork server died and was replaced."""
    PROCESS_STARTED = "process.started"
    """A process beside the pool (a load run) began: `data.name`, `pid`."""
    PROCESS_REPORT = "process.report"
    """It wrote a line to its report descriptor: `data.name`, `text` is the line."""
    PROCESS_ENDED = "process.ended"
    """It ended: `data.name`, `exit_code` or `signal`."""
    NOTE = "lab.note"
    """Anything else a person should see."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened. `at` is monotonic seconds (compare, subtract), `wall` is for showing the time of day."""

    seq: int
    at: float
    wall: float
    kind: EventKind
    text: str
    """One plain sentence for a person."""
    app: str | None = None
    slot: int | None = None
    generation: int | None = None
    pid: int | None = None
    state: WorkerState | None = None
    cause: Cause | None = None
    exit_code: int | None = None
    signal: str | None = None
    """Name of the signal that ended the process, such as SIGKILL."""
    data: dict[str, Any] = {}


class EventBatch(msgspec.Struct, frozen=True):
    """Events in order. `next` is the cursor of the next read. `missed` events were overwritten before this read."""

    events: tuple[Event, ...]
    next: int
    missed: int = 0


class EventRing:
    """The last `capacity` events. `seq` starts at 1 and has no gaps."""

    def __init__(
        self, clock: Clock, capacity: int = 10_000, complain: Callable[[Exception], None] | None = None
    ) -> None:
        """`complain` hears what a watcher raises. Without it, emitting raises that, after all watchers were called."""
        self._clock = clock
        self._complain = complain
        self._events: deque[Event] = deque(maxlen=capacity)
        self._next = 1
        self._watchers: list[Callable[[Event], None]] = []

    def watch(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call `callback` with every event as it is emitted, until the function returned here is called."""
        self._watchers.append(callback)
        return lambda: self._watchers.remove(callback)

    @property
    def next(self) -> int:
        """The number that the next event will carry."""
        return self._next

    def emit(self, kind: EventKind, text: str, *, at: float | None = None, **fields: Any) -> Event:
        """Append an event that happened now, or at the monotonic time `at` (then wall time is moved accordingly)."""
        now = self._clock.monotonic()
        when = now if at is None else at
        wall = self._clock.wall() - (now - when)
        event = Event(seq=self._next, at=when, wall=wall, kind=kind, text=text, **fields)
        self._next += 1
        self._events.append(event)
        errors = [error for callback in tuple(self._watchers) if (error := _failure(callback, event)) is not None]
        for error in errors:
            if self._complain is None:
                raise error
            self._complain(error)
        return event

    def read(self, since: int = 0, limit: int = 1000) -> EventBatch:
        """Up to `limit` events with `seq >= since`, oldest first. A cursor beyond the end reads nothing."""
        limit = max(limit, 1)
        oldest = self._next - len(self._events)
        begin = max(since, oldest, 1)
        missed = max(0, oldest - max(since, 1))
        if begin >= self._next:
            return EventBatch((), self._next, missed)
        start = begin - oldest
        if start == 0 and len(self._events) <= limit:
            chosen = tuple(self._events)
        else:
            stop = min(start + limit, len(self._events))
            chosen = tuple(self._events[place] for place in range(start, stop))
        return EventBatch(chosen, chosen[-1].seq + 1, missed)


def _failure(callback: Callable[[Event], None], event: Event) -> Exception | None:
    """What a watcher raises is no trouble of the one who emits."""
    try:
        callback(event)
    except Exception as error:
        return error
    return None


if __name__ == "__main__":
    sys.stdout.write(published(Event, "One event, a line of cgilab events --json"))
