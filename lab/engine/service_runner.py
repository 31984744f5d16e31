"""One process beside the pool: does what its state machine says, and tells each transition in an event.
At any time there is at most one process, one check of it, and one timer.
"""

import asyncio
import signal
from collections.abc import Callable

from lab.core.clock import Clock
from lab.core.errors import LabError
from lab.core.events import EventKind, EventRing
from lab.core.model import HealthMethod
from lab.core.snapshot import ServiceSnapshot
from lab.core.states import ServiceState
from lab.core.tasks import background
from lab.core.timers import Timer
from lab.engine.health import check
from lab.engine.processes import Stoppable
from lab.engine.service import Action, Service
from lab.pool.manager import PoolManager

_S = ServiceState
_FIRST_PAUSE = 0.02
"""Seconds until a process that starts is asked for the first time; doubled until it is the interval."""
_PHRASES = {
    _S.WAITING: "is to be started",
    _S.STARTING: "is starting",
    _S.HEALTHY: "is healthy",
    _S.UNHEALTHY: "is not healthy",
    _S.BACKOFF: "waits before it is started again",
    _S.STOPPING: "is being stopped",
    _S.STOPPED: "has stopped",
}


class Runner:
    """One process: does what its state machine says, and tells it in events."""

    def __init__(
        self, service: Service, pool: PoolManager, events: EventRing, clock: Clock, on_change: Callable[[], None]
    ) -> None:
        self.service = service
        self._pool = pool
        self._events = events
        self._clock = clock
        self._on_change = on_change
        self._told: ServiceState | None = None
        self._process: Stoppable | None = None
        self._running: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._timer: Timer | None = None
        """Of its start, or of its back-off."""
        self._deeds: dict[Action, Callable[[], None]] = {
            Action.START: self._start,
            Action.CHECK: self._check,
            Action.GIVE_UP: lambda: self._step(self.service.give_up()),
            Action.STOP: self._stop,
            Action.RETRY: lambda: self._later(self.service.delay, self.retry),
        }
        self._tell()

    def begin(self) -> None:
        """What it needs is healthy: start it."""
        self._step(self.service.begin())

    def stop(self) -> None:
        """It is not wanted any more."""
        self._step(self.service.stop())

    def retry(self) -> None:
        """Wait no longer, if it waits to be started again."""
        self._step(self.service.retry())

    def view(self, now: float) -> ServiceSnapshot:
        """The process as it is."""
        service, spec = self.service, self.service.spec
        return ServiceSnapshot(
            name=spec.name,
            state=service.state,
            pid=service.pid,
            health=spec.health.method,
            restarts=service.restarts,
            needs=spec.needs,
            uptime_s=None if service.started_at is None else now - service.started_at,
            why=service.why,
        )

    def _step(self, actions: tuple[Action, ...]) -> None:
        self._tell()
        for action in actions:
            self._deeds[action]()

    def _tell(self) -> None:
        state, before = self.service.state, self._told
        if state is before:
            return
        self._told = state
        if state is not _S.STARTING and self._timer is not None:
            self._timer.cancel()
        said = state is _S.STARTING or (before, state) == (_S.BACKOFF, _S.WAITING)
        name, why = self.service.spec.name, self.service.why if not said else ""
        text = f"{name} {_PHRASES[state]}" + (f": {why[0].lower()}{why[1:].rstrip('.')}" if why else "")
        data = {"name": name, "from": before, "to": state}
        self._events.emit(EventKind.SERVICE, text, pid=self.service.pid, data=data)
        self._on_change()

    def _start(self) -> None:
        self._running = background(self._run())

    async def _run(self) -> None:
        """The process from its start to its end."""
        spec = self.service.spec
        try:
            process = await self._pool.run(spec.name, spec.command, spec.env, spec.folder or None, lambda line: None)
        except (LabError, OSError) as error:
            self._step(self.service.refused(str(error), self._clock.monotonic()))
            return
        self._process = Stoppable(process, signal.Signals[spec.stop_signal], spec.stop_timeout)
        self._step(self.service.started(process.pid, self._clock.monotonic()))
        status = await self._process.ended()
        if self._asking is not None:
            self._asking.cancel()
        said = process.last_words()
        self._step(self.service.exited(status, self._clock.monotonic(), said))

    def _check(self) -> None:
        self._later(self.service.spec.health.start_timeout, lambda: self._step(self.service.overdue()))
        self._asking = background(self._ask())

    async def _ask(self) -> None:
        """Ask it how it is until it is gone: often at first, so that nobody waits longer for it than it takes."""
        pause = self.service.spec.health.interval
        if self.service.spec.health.method is not HealthMethod.PROCESS:
            pause = min(_FIRST_PAUSE, pause)
        while True:
            await asyncio.sleep(pause)
            wrong = await check(self.service.spec, self._pool)
            self._step(self.service.checked(wrong, self._clock.monotonic()))
            interval = self.service.spec.health.interval
            pause = min(2 * pause, interval) if self.service.state is _S.STARTING else interval

    def _stop(self) -> None:
        assert self._process is not None
        self._process.stop()

    def _later(self, delay: float, deed: Callable[[], None]) -> None:
        self._timer = Timer(self._clock, delay, deed)
