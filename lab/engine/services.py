"""Processes beside the pool that a lab needs, such as a database: started in the order of need, stopped in reverse.

A process starts as soon as everything it needs is healthy, so what does not depend on each other starts together. It
is stopped only when whoever needs it, process or app, is gone. An app gets its first worker when all that it needs is
healthy. From then on it keeps its workers whatever becomes of those processes: what can still be answered is
answered, and a database that restarts does not become a restart of everything.

So it is with a changed definition too: it alone is started again, and who needs it goes on, as when it crashes
(docker compose does the same; systemd's Requires= would restart those as well). All run through the pool's fork
server: in sessions of their own, and dead when the lab is, however it ended.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from lab.core.clock import Clock
from lab.core.events import EventKind, EventRing
from lab.core.model import AppSpec, ServiceSpec
from lab.core.snapshot import ServiceSnapshot
from lab.core.states import Policy, ServiceState
from lab.core.tasks import background
from lab.engine.service import Service
from lab.engine.service_runner import Runner
from lab.pool.manager import PoolManager

_S = ServiceState
_CLOSE_MARGIN = 2.0
"""Seconds between SIGKILL and the end, at most."""


class Services:
    """All of them. All calls come on the engine's loop."""

    def __init__(self, pool: PoolManager, events: EventRing, clock: Clock, on_release: Callable[[], None]) -> None:
        """`on_release` is called when an app need not wait any more."""
        self._pool = pool
        self._events = events
        self._clock = clock
        self._on_release = on_release
        self._rng = random.Random()
        self._specs: dict[str, ServiceSpec] = {}
        self._runners: dict[str, Runner] = {}
        self._apps: dict[str, AppSpec] = {}
        self._begun: set[str] = set()
        """Apps whose needs were all healthy once."""
        self._leaving: dict[str, tuple[AppSpec, asyncio.Task[None]]] = {}
        """Apps that were removed and may still have workers."""
        self._due: asyncio.Handle | None = None
        self._gone = asyncio.Event()

    def apply(self, specs: Iterable[ServiceSpec], apps: Iterable[AppSpec]) -> None:
        """Make these the desired processes, for these apps, and return at once."""
        self._specs = {spec.name: spec for spec in specs}
        before, self._apps = self._apps, {app.name: app for app in apps}
        for name in self._apps.keys() & self._leaving.keys():
            self._leaving.pop(name)[1].cancel()
        for name in before.keys() - self._apps.keys():
            if name in self._begun and before[name].needs:
                self._leaving[name] = before[name], background(self._let_go(name))
            self._begun.discard(name)
        self._reconcile()
        for name, app in self._apps.items():
            if name not in before and (missing := self.waits_for(app)):
                self._events.emit(EventKind.APP_STATUS, f"{name} waits for {' and '.join(missing)}", app=name)

    def waits_for(self, app: AppSpec) -> tuple[str, ...]:
        """The processes that have to be healthy before the app's first worker starts; empty once they all were."""
        return () if app.name in self._begun else self._missing(app.needs)

    def view(self) -> tuple[ServiceSnapshot, ...]:
        """The processes as they are, in the order in which the manifest has them; those that leave last."""
        now = self._clock.monotonic()
        names = dict.fromkeys((*self._specs, *self._runners))
        return tuple(self._runners[name].view(now) for name in names)

    def heal(self) -> int:
        """Start those again that wait in back-off; returns how many."""
        waiting = [runner for runner in self._runners.values() if runner.service.state is _S.BACKOFF]
        for runner in waiting:
            runner.retry()
        return len(waiting)

    async def close(self) -> None:
        """Stop them in the reverse order of need and return when none is left, or when that took too long.

        The apps that need them have to be leaving already, and are waited for.
        """
        patience = _CLOSE_MARGIN + max((_end_of(app) for app in self._apps.values() if app.needs), default=0.0)
        patience += sum(spec.stop_timeout + _CLOSE_MARGIN for spec in self._specs.values())
        self._gone.clear()
        self.apply((), ())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), patience)
        for _, task in self._leaving.values():
            task.cancel()

    # -- inside

    def _soon(self) -> None:
        """Look at all of them once what happens now has happened."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_soon(self._reconcile)

    def _reconcile(self) -> None:
        """Do the next thing for each of them, and for the apps that wait."""
        self._due = None
        for name, runner in tuple(self._runners.items()):
            if not self._is_leaving(name):
                runner.service.spec = self._specs[name]
            elif not self._is_needed(name):
                runner.stop()
            if runner.service.state is _S.STOPPED and self._is_leaving(name):
                del self._runners[name]
        for name, spec in self._specs.items():
            if name not in self._runners:
                service = Service(spec, self._rng)
                service.waits_for(self._missing(spec.needs))
                self._runners[name] = Runner(service, self._pool, self._events, self._clock, self._soon)
        for name in self._specs:
            self._admit(name)
        self._release()
        if not self._runners:
            self._gone.set()

    def _admit(self, name: str) -> None:
        """Start it, if it waits and what it needs is healthy."""
        runner = self._runners[name]
        if runner.service.state is _S.WAITING and not self._is_leaving(name):
            missing = self._missing(runner.service.spec.needs)
            runner.service.waits_for(missing)
            if not missing:
                runner.begin()

    def _release(self) -> None:
        """Tell of the apps that need not wait any more."""
        released = [app for app in self._apps.values() if app.name not in self._begun and not self._missing(app.needs)]
        self._begun.update(app.name for app in released)
        for app in released:
            if app.needs:
                are = "is" if len(app.needs) == 1 else "are"
                text = f"{app.name} may start: {' and '.join(app.needs)} {are} healthy"
                self._events.emit(EventKind.APP_STATUS, text, app=app.name)
        if any(app.needs for app in released):
            self._on_release()

    def _missing(self, needs: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in needs if not self._is_healthy(name))

    def _is_healthy(self, name: str) -> bool:
        runner = self._runners.get(name)
        return runner is not None and runner.service.state is _S.HEALTHY and not self._is_leaving(name)

    def _is_leaving(self, name: str) -> bool:
        """It is not wanted any more, or only with another program, or only once the stop it was sent is over."""
        service = self._runners[name].service
        return name not in self._specs or _program(self._specs[name]) != _program(service.spec) or not service.wanted

    def _is_needed(self, name: str) -> bool:
        """Somebody who leaves too still needs it. Who stays goes on without, as after a crash."""
        processes = (runner.service for one, runner in self._runners.items() if self._is_leaving(one))
        apps = (app for app, _ in self._leaving.values())
        return any(name in one.spec.needs for one in processes if one.is_alive) or any(
            name in app.needs for app in apps
        )

    async def _let_go(self, app: str) -> None:
        await self._pool.gone(app)
        del self._leaving[app]
        self._soon()


def held(app: AppSpec) -> AppSpec:
    """The app without workers, while it waits. Its program may be built meanwhile."""
    return replace(app, pool=replace(app.pool, policy=Policy.STATIC, max_workers=0, standby=0))


def _program(spec: ServiceSpec) -> tuple[object, ...]:
    """What a process was started with: it has to be started again to change it."""
    return spec.command, spec.env, spec.folder


def _end_of(app: AppSpec) -> float:
    return app.pool.drain_timeout + app.pool.stop_timeout
