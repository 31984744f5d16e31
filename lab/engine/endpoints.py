"""Worker readiness to upstream membership: the one place where pool and proxy meet.

An endpoint enters its upstream when its worker is READY and leaves it before the process is touched. Both are events,
because what the balancer believes and what the kernel says may differ, and a lesson is about that gap.
"""

from lab.core.events import EventKind, EventRing
from lab.core.model import Endpoint, Wire, WorkerId
from lab.core.states import WorkerState
from lab.pool.manager import PoolView
from lab.proxy.manager import ProxyManager


class Endpoints:
    """The `Routing` that the pool speaks to, on top of a proxy backend."""

    def __init__(self, proxy: ProxyManager, events: EventRing) -> None:
        self._proxy = proxy
        self._events = events
        self._routed: dict[WorkerId, Endpoint] = {}

    def routed(self, worker: WorkerId) -> bool:
        """Whether the balancer may send requests to this worker."""
        return worker in self._routed

    def of(self, app: str) -> list[Endpoint]:
        """The endpoints in an app's upstream."""
        return [endpoint for endpoint in self._routed.values() if endpoint.app == app]

    def strays(self, pool: PoolView) -> bool:
        """Whether requests may reach a worker that is not READY, or that only stands by."""
        ready = {
            worker.worker
            for app in pool.apps
            for worker in app.workers
            if worker.state is WorkerState.READY and not worker.standby
        }
        return any(worker not in ready for worker, endpoint in self._routed.items() if endpoint.wire is not Wire.CGI)

    def add(self, endpoint: Endpoint) -> None:
        self._routed[endpoint.worker] = endpoint
        self._proxy.add(endpoint)
        self._tell(EventKind.ENDPOINT_IN, endpoint, "enters")

    def remove(self, endpoint: Endpoint) -> None:
        if endpoint.worker in self._routed:
            del self._routed[endpoint.worker]
            self._proxy.remove(endpoint)
            self._tell(EventKind.ENDPOINT_OUT, endpoint, "leaves")

    async def drained(self, endpoint: Endpoint, timeout: float) -> bool:
        return await self._proxy.drained(endpoint, timeout)

    def in_flight(self, endpoint: Endpoint) -> int:
        return self._proxy.in_flight(endpoint)

    def inside(self, endpoint: Endpoint) -> int:
        return self._proxy.inside(endpoint)

    def busy_since(self, endpoint: Endpoint) -> float | None:
        return self._proxy.busy_since(endpoint)

    def acquire(self, endpoint: Endpoint) -> bool:
        return self._proxy.acquire(endpoint)

    def release(self, endpoint: Endpoint) -> None:
        self._proxy.release(endpoint)

    def served(self, endpoint: Endpoint) -> int:
        return self._proxy.served(endpoint)

    def idle_since(self, endpoint: Endpoint) -> float | None:
        return self._proxy.idle_since(endpoint)

    def _tell(self, kind: EventKind, endpoint: Endpoint, verb: str) -> None:
        worker = endpoint.worker
        self._events.emit(
            kind,
            f"{worker} ({endpoint}) {verb} the upstream of {endpoint.app}",
            app=endpoint.app,
            slot=worker.slot,
            generation=worker.generation,
            pid=endpoint.pid,
        )
