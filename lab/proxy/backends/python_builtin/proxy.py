"""`PythonBuiltinProxy`: the contract `ProxyManager`, on the loop that calls it and in no other thread."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lab import paths
from lab.core.clock import Clock
from lab.core.errors import UnknownTargetError
from lab.core.events import EventRing
from lab.core.histogram import Histogram
from lab.core.model import RESERVED, Endpoint, RouteSpec, Tls
from lab.core.program import StartCgi
from lab.core.snapshot import RouteSnapshot, Totals
from lab.core.trace import Trace, Why
from lab.proxy import problems
from lab.proxy.accounting import Tally
from lab.proxy.backends.python_builtin import tls
from lab.proxy.backends.python_builtin.branch import Branch, RouteState, base, branch_figures, implied, view
from lab.proxy.backends.python_builtin.downstream import Downstream
from lab.proxy.backends.python_builtin.endpoint import EndpointState
from lab.proxy.backends.python_builtin.files import SiteRoute
from lab.proxy.backends.python_builtin.gateway import Gateway, ignore, no_cgi
from lab.proxy.backends.python_builtin.handshakes import Handshakes
from lab.proxy.backends.python_builtin.listener import BACKLOG, listen
from lab.proxy.backends.python_builtin.pages import PageRoute
from lab.proxy.backends.python_builtin.upstream import Upstream
from lab.proxy.manager import AllFigures, OnStarved, Pages, ProxyManager, ProxySpec, ProxyView, RequestView
from lab.proxy.routes import Routes

_READERS = 4
"""Threads that wait for the disk on behalf of apps with a site. They begin with the first request that needs one."""

_LAST_LINES = 2.0
"""Seconds that the access log gets to write its last lines."""

_MARK = 1.0
"""Seconds between two copies of the histograms."""


class PythonBuiltinProxy:
    """A reverse proxy in the process that uses it."""

    def __init__(
        self,
        clock: Clock,
        events: EventRing,
        pages: Pages | None = None,
        start_cgi: StartCgi = no_cgi,
        on_starved: OnStarved = ignore,
        logs: Path = Path(),
    ) -> None:
        """`pages` are shown to those who run the lab; without it there are none. `logs` is the access log's folder."""
        self.pages = pages
        self._clock = clock
        self._events = events
        self._gateway = Gateway(clock, events, start_cgi, on_starved, logs)
        self._disk = ThreadPoolExecutor(_READERS, thread_name_prefix="site-files")
        self._upstreams: dict[str, Upstream] = {}
        self._routes: dict[str, RouteState] = {}
        """Those that were written down, by name."""
        self._endpoints: dict[Endpoint, EndpointState] = {}
        now = clock.monotonic()
        self._gone = (Tally(now), Tally(now))
        """Of apps that were removed: everybody's requests, and the lab's own."""
        self._server: asyncio.Server | None = None
        self._handshakes: Handshakes | None = None
        """None where no TLS is spoken."""
        self._certificate: str | None = None
        """The file that clients may trust, where it was made here."""
        self._marking: asyncio.TimerHandle | None = None

    async def start(self, spec: ProxySpec) -> str:
        """Listen and return the URL.

        Raises `PortInUseError` naming who holds the port, and `UnavailableError` for a certificate that cannot be used.
        """
        await self.apply(spec)
        secure = spec.listener.tls is not Tls.OFF
        if secure:
            context, public = await asyncio.to_thread(tls.context, spec.listener, paths.state() / "tls")
            self._certificate = None if public is None else str(public)
        sock = listen(spec.listener)
        host, port = sock.getsockname()[:2]
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._gateway.authority = authority.encode()
        self._gateway.port = port
        loop, gateway = asyncio.get_running_loop(), self._gateway
        accept: Callable[[], asyncio.Protocol] = partial(Downstream, gateway)
        if secure:
            gateway.proto = b"https"
            self._handshakes = Handshakes(context, self._certificate, gateway, self._events)
            accept = self._handshakes.entrance
        self._server = await loop.create_server(accept, sock=sock, backlog=BACKLOG)
        self._gateway.wheel.start()
        self._marking = loop.call_later(_MARK, self._mark)
        return f"{gateway.proto.decode()}://{authority}"

    async def apply(self, spec: ProxySpec) -> None:
        """Follow a new spec. Requests of an app that is gone and still wait are told so; those in flight finish."""
        self._gateway.follow(spec)
        self._gateway.recorder.follow(spec.settings)
        for upstream in spec.upstreams:
            if upstream.app in self._upstreams:
                self._upstreams[upstream.app].apply(upstream)
            else:
                self._upstreams[upstream.app] = Upstream(upstream, self._gateway, self._events)
        for app in self._upstreams.keys() - {upstream.app for upstream in spec.upstreams}:
            self._drop(app)
        self._lay(spec.routes)

    def add(self, endpoint: Endpoint) -> None:
        """Route to an endpoint. Raises `UnknownTargetError` for an app that is not in the spec. Twice is once."""
        state = self._state(endpoint)
        if not state.routed:
            state.upstream.add(state)

    def remove(self, endpoint: Endpoint) -> None:
        """Route to it no more. Its figures are kept until another generation takes its slot."""
        state = self._endpoints.get(endpoint)
        if state is not None and state.routed:
            state.upstream.remove(state)

    async def drained(self, endpoint: Endpoint, timeout: float) -> bool:
        state = self._endpoints.get(endpoint)
        return state is None or await state.drained(timeout)

    def in_flight(self, endpoint: Endpoint) -> int:
        state = self._endpoints.get(endpoint)
        return 0 if state is None else state.in_flight

    def inside(self, endpoint: Endpoint) -> int:
        state = self._endpoints.get(endpoint)
        return 0 if state is None else state.inside()

    def busy_since(self, endpoint: Endpoint) -> float | None:
        state = self._endpoints.get(endpoint)
        return None if state is None else next(iter(state.open.values()), None)

    def request(self, endpoint: Endpoint) -> RequestView | None:
        state = self._endpoints.get(endpoint)
        return None if state is None else state.request(self._clock.monotonic())

    def acquire(self, endpoint: Endpoint) -> bool:
        return self._state(endpoint).acquire()

    def release(self, endpoint: Endpoint) -> None:
        state = self._endpoints.get(endpoint)
        if state is not None:
            state.release()

    def served(self, endpoint: Endpoint) -> int:
        state = self._endpoints.get(endpoint)
        return 0 if state is None else state.answered + state.failed

    def idle_since(self, endpoint: Endpoint) -> float | None:
        state = self._endpoints.get(endpoint)
        return None if state is None or state.open or state.tunnels else state.free_since

    def mark_own(self, address: tuple[str, int]) -> None:
        self._gateway.own_addresses.add(address)

    def observe(self) -> ProxyView:
        """All traffic. Endpoints that were removed are in it until another generation takes their slot."""
        now = self._clock.monotonic()
        endpoints: dict[str, list[EndpointState]] = {app: [] for app in self._upstreams}
        for endpoint, state in self._endpoints.items():
            endpoints.setdefault(endpoint.app, []).append(state)
        return ProxyView(
            totals=self._totals(0, now),
            own=self._totals(1, now),
            upstreams=tuple(
                upstream.view(tuple(state.view(now) for state in endpoints[app]), now)
                for app, upstream in self._upstreams.items()
            ),
            routes=tuple(self._route_views(now)),
            connections=len(self._gateway.downstreams),
            handshakes=0 if self._handshakes is None else len(self._handshakes),
            handshakes_failed={} if self._handshakes is None else dict(self._handshakes.failed),
            certificate=self._certificate,
            pending=self._gateway.pending,
            shed=dict(sum(self._gateway.shed.values(), Counter())),
        )

    def latencies(self, app: str | None = None) -> Histogram:
        """Raises `UnknownTargetError` for an app that is not in the spec."""
        if app is not None:
            return self._upstream(app).latencies[0].total.copy()
        merged = self._gone[0].total.copy()
        for upstream in self._upstreams.values():
            merged.merge(upstream.latencies[0].total)
        return merged

    def figures(self) -> AllFigures:
        now = self._clock.monotonic()
        routes = {state.spec.name: state.figures() for state in self._routes.values()}
        apps = {app: upstream.figures() for app, upstream in self._upstreams.items()}
        return AllFigures(
            outcomes=self._totals(0, now),
            own=self._totals(1, now),
            unlogged=self._gateway.recorder.unlogged,
            routes={app: branch_figures([one.branch]) for app, one in self._upstreams.items()} | routes,
            apps=apps,
            workers={endpoint: state.figures() for endpoint, state in self._endpoints.items()},
        )

    def held_up(self) -> str:
        places = (upstream.stuck_at for upstream in tuple(self._upstreams.values()))
        found = next(filter(None, places), "")
        return f"Everybody waits for choose at {found}: it is in code that cannot be interrupted." if found else ""

    def traces(self, identity: str | None = None, why: Why | None = None, limit: int = 20) -> tuple[Trace, ...]:
        return self._gateway.recorder.traces.read(identity, why, limit)

    async def close(self) -> None:
        """Stop accepting, give requests in flight `timeouts.drain`, then break them off and hang up on everybody."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self._gateway.draining = True
        if self._handshakes is not None:
            self._handshakes.close()
        self._gateway.outbox.flush()
        for downstream in list(self._gateway.downstreams):
            downstream.drain()
        if self._gateway.downstreams:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gateway.deserted.wait(), self._gateway.timeouts.drain)
        for downstream in list(self._gateway.downstreams):
            downstream.break_off()
        await asyncio.sleep(0)  # what they are told is sent meanwhile
        for downstream in list(self._gateway.downstreams):
            downstream.transport.abort()
        for state in self._endpoints.values():
            state.leave()
        await asyncio.sleep(0)
        self._disk.shutdown(wait=False)
        for upstream in self._upstreams.values():
            upstream.dissolve()
        self._gateway.wheel.stop()
        if (log := self._gateway.recorder.close()) is not None:
            await asyncio.to_thread(log.join, _LAST_LINES)
        if self._marking is not None:
            self._marking.cancel()

    def _lay(self, specs: Sequence[RouteSpec]) -> None:
        """Have requests follow these routes, and those of the apps themselves."""
        known, self._routes = self._routes, {}
        for spec in specs:
            state = known.get(spec.name) or RouteState(spec, self._gateway.on_starved, self._clock.monotonic())
            self._routes[spec.name] = state
            state.branches = {app: branch for app, branch in state.branches.items() if app in self._upstreams}
            state.branches |= {app: self._branch(spec, self._upstreams[app]) for app in spec.apps}
            state.apply(spec)
        table = [(state.spec, state.entry) for state in self._routes.values()]
        for upstream in self._upstreams.values():
            spec = implied(upstream.spec)
            table.append((spec, self._branch(spec, upstream)))
        reserved = [] if self.pages is None else [(path, self._page(path, self.pages)) for path in RESERVED]
        self._gateway.routes = Routes(table, reserved)

    def _branch(self, route: RouteSpec, upstream: Upstream) -> Branch:
        """The way from a route to an app, laid where the route says."""
        branch = upstream.branch_of(route.name)
        branch.base = base(route, upstream.spec.route)
        branch.upstream = branch.destination = upstream
        if upstream.spec.site is not None:
            branch.destination = SiteRoute(upstream, branch.base, self._gateway, self._disk)
        return branch

    def _page(self, path: str, pages: Pages) -> Branch:
        branch = Branch(path, "", self._clock.monotonic())
        branch.destination = PageRoute(pages, self._gateway, self._disk)
        return branch

    def _route_views(self, now: float) -> Iterator[RouteSnapshot]:
        """Those that were written down, then those of the apps."""
        for state in self._routes.values():
            yield state.view(now)
        for upstream in self._upstreams.values():
            yield view(implied(upstream.spec), [upstream.branch], [upstream.branch], now)

    def _upstream(self, app: str) -> Upstream:
        if app not in self._upstreams:
            known = ", ".join(self._upstreams) or "none"
            raise UnknownTargetError(f"Found no app {app!r} in the proxy; expected one of: {known}.")
        return self._upstreams[app]

    def _state(self, endpoint: Endpoint) -> EndpointState:
        """What is known of an endpoint. A new one makes idle, earlier generations of its slot be forgotten."""
        upstream = self._upstream(endpoint.app)
        state = self._endpoints.get(endpoint)
        if state is None or state.upstream is not upstream:
            for other, old in list(self._endpoints.items()):
                superseded = (other.app, other.worker.slot) == (endpoint.app, endpoint.worker.slot)
                if superseded and not old.routed and not old.in_flight:
                    del self._endpoints[other]
            state = self._endpoints[endpoint] = EndpointState(endpoint, upstream, self._gateway)
        return state

    def _drop(self, app: str) -> None:
        """Forget an app, but for the endpoints that still have something in flight: `drained` waits for it."""
        upstream = self._upstreams.pop(app)
        upstream.close(problems.unavailable(app, "it was removed."))
        upstream.dissolve()
        for gone, tally in zip(self._gone, upstream.latencies, strict=True):
            gone.absorb(tally)
        for endpoint, state in self._endpoints.items():
            if state.upstream is upstream:
                self.remove(endpoint)
        self._forget_homeless()

    def _forget_homeless(self) -> None:
        for endpoint, state in list(self._endpoints.items()):
            if endpoint.app not in self._upstreams and not state.in_flight:
                del self._endpoints[endpoint]

    def _totals(self, own: int, now: float) -> Totals:
        upstreams = (upstream.latencies[own] for upstream in self._upstreams.values())
        return self._gateway.counters[own].totals(self._gone[own].recent(now, *upstreams))

    def _mark(self) -> None:
        now = self._clock.monotonic()
        self._forget_homeless()
        for upstream in self._upstreams.values():
            upstream.mark(now, {upstream.spec.app, *self._routes})
        for state in self._endpoints.values():
            state.latency.mark(now)
        for latency in self._gone:
            latency.mark(now)
        self._marking = asyncio.get_running_loop().call_later(_MARK, self._mark)


if TYPE_CHECKING:  # plug-ins are loaded by name, so nothing else would hold this one to its contract
    _: type[ProxyManager] = PythonBuiltinProxy
