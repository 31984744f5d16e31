"""The slow log: which requests take longer than `slow_request`, and what their worker was doing meanwhile.

A worker is looked at while it still works: afterwards there is nothing to see. Each slow request is told once, in an
event. (PHP-FPM: `request_slowlog_timeout`, and the count `slow requests` of its status page.)
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable

from lab.core.clock import Clock
from lab.core.events import EventKind, EventRing
from lab.core.model import AppSpec, Endpoint, WorkerId
from lab.core.tasks import background
from lab.pool.manager import PoolManager
from lab.proxy.manager import ProxyManager, RequestView

_LOOKS = 4
"""Looks within the time that is slow: a request is told at most a quarter of it too late."""
_SHORTEST, _LONGEST = 0.02, 0.25


class SlowRequests:
    """Looks at the oldest request of each endpoint of the apps that ask for it, and at nothing while none does."""

    def __init__(
        self,
        pool: PoolManager,
        proxy: ProxyManager,
        events: EventRing,
        clock: Clock,
        endpoints: Callable[[str], Iterable[Endpoint]],
    ) -> None:
        """`endpoints` gives those of an app that requests may reach."""
        self.counts: Counter[str] = Counter()
        """Slow requests of each app since the lab began."""
        self._pool = pool
        self._proxy = proxy
        self._events = events
        self._clock = clock
        self._endpoints = endpoints
        self._patience: dict[str, float] = {}
        self._told: dict[WorkerId, float] = {}
        """For each worker the beginning of the request that was told last."""
        self._looking: asyncio.Task[None] | None = None

    def follow(self, apps: tuple[AppSpec, ...]) -> None:
        """Look at the apps that set `slow_request`, from now on."""
        self._patience = {app.name: app.slow_request for app in apps if app.slow_request > 0}
        if self._patience and self._looking is None:
            self._looking = background(self._look())

    def close(self) -> None:
        """Look no more."""
        self._patience = {}
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look(self) -> None:
        while self._patience:
            pause = min(self._patience.values()) / _LOOKS
            await asyncio.sleep(min(max(pause, _SHORTEST), _LONGEST))
            found = [
                (endpoint, since)
                for app, patience in self._patience.items()
                for endpoint in self._endpoints(app)
                if (since := self._slow(endpoint, patience)) is not None
            ]
            await asyncio.gather(*(self._tell(endpoint, since) for endpoint, since in found))
        self._looking = None

    def _slow(self, endpoint: Endpoint, patience: float) -> float | None:
        """Since when its oldest request occupies it, if that is too long ago and was not told yet."""
        since = self._proxy.busy_since(endpoint)
        if since is None:
            self._told.pop(endpoint.worker, None)
            return None
        if self._clock.monotonic() - since < patience or self._told.get(endpoint.worker) == since:
            return None
        self._told[endpoint.worker] = since
        return since

    async def _tell(self, endpoint: Endpoint, since: float) -> None:
        request = self._proxy.request(endpoint)
        stack = await self._pool.stack(endpoint.worker)
        self.counts[endpoint.app] += 1
        seconds = self._clock.monotonic() - since
        self._events.emit(
            EventKind.SLOW,
            f"{endpoint.worker} has been busy with {_named(request)} for {seconds:.1f} s",
            app=endpoint.app,
            slot=endpoint.worker.slot,
            generation=endpoint.worker.generation,
            pid=endpoint.pid,
            data={
                "method": request.method if request else None,
                "target": request.target if request else None,
                "trace": request.identity if request else None,
                "seconds": seconds,
                "stack": list(stack.lines),
                "seen_by": stack.seen_by,
            },
        )


def _named(request: RequestView | None) -> str:
    return f"{request.method} {request.target}" if request else "a request"
