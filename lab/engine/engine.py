"""The engine: the only owner of desired state. It runs on one event loop, with pool, proxy and control socket on it.

Every method is called on that loop. `LocalLab` brings calls over from other threads, `control` from other processes.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from lab.core import openmetrics
from lab.core.clock import Clock
from lab.core.errors import NoLabError, NotPossibleError, PortInUseError, ReadOnlyError, UnknownTargetError
from lab.core.events import Event, EventBatch, EventKind, EventRing
from lab.core.model import PROXY, AppSpec, ListenerSpec
from lab.core.program import CgiProgram, StartCgi
from lab.core.snapshot import LabSnapshot
from lab.core.spelling import counted
from lab.core.standing import Standing
from lab.core.states import Policy
from lab.core.tasks import background
from lab.core.trace import Trace, Why
from lab.engine import invariants, metrics, observe, pages, settings, shares, standings, status_page, targets
from lab.engine.admission import admit, check_paths
from lab.engine.defects import Defects
from lab.engine.endpoints import Endpoints
from lab.engine.farewell import Farewell, Roll
from lab.engine.lab import Answer, Changed, LabSpec, ProcessSpec, Scaled, Shifted, Signalled
from lab.engine.processes import Processes
from lab.engine.reload import Reloader
from lab.engine.scaling import Decision, Scaling
from lab.engine.services import Services, held
from lab.engine.slow_requests import SlowRequests
from lab.engine.traffic import OwnTraffic
from lab.engine.upstreams import askable, front, proxy_spec
from lab.pool.manager import PoolManager, PoolView, Routing
from lab.proxy.manager import OnStarved, Page, Pages, ProxyManager, ProxySpec, ProxyView

MAX_WORKERS = 1000
_SNAPSHOT_AGE = 0.1
_PORTS_TRIED = 100

PoolFactory = Callable[[Routing, EventRing, Clock], PoolManager]
ProxyFactory = Callable[[Clock, EventRing, Pages, StartCgi, OnStarved], ProxyManager]


class Engine:
    """`Lab`, on the engine's own loop. `start` and `close` bracket its life; `close` also when `start` raised.

    What fails inside it by surprise is kept in the file `defects`. `reloader` tells it what was edited.
    """

    def __init__(
        self,
        spec: LabSpec,
        make_pool: PoolFactory,
        make_proxy: ProxyFactory,
        *,
        clock: Clock,
        defects: Path,
        reloader: Reloader,
        exact_port: bool = False,
        read_only: bool = False,
    ) -> None:
        self._spec = spec
        self._clock = clock
        self._exact_port = exact_port
        self._read_only = read_only
        self._rng = random.Random()
        self._events = EventRing(clock, complain=self.defect)
        self._defects = Defects(defects, self._events)
        shown = pages.Pages(self._readiness, self._status_page, self._metrics)
        self._proxy = make_proxy(clock, self._events, shown, self._start_cgi, self._starved)
        self._endpoints = Endpoints(self._proxy, self._events)
        self._pool = make_pool(self._endpoints, self._events, clock)
        self._own = OwnTraffic(self._proxy, clock, self._askable)
        self._processes = Processes(self._pool, self._events)
        self._services = Services(self._pool, self._events, clock, self._release)
        self._watch = invariants.Watch()
        self._slow = SlowRequests(self._pool, self._proxy, self._events, clock, self._endpoints.of)
        self._reloader = reloader
        self._scaling = Scaling(clock, self._views, self._obey)
        self._started = clock.monotonic()
        self._listener = ""
        self._editions: Counter[str] = Counter()
        """How often each file with a selection policy was found to be another."""
        self._latest: LabSnapshot | None = None
        self._may_be_asked: list[tuple[str, str]] | None = None
        """Until the next event: nothing that it goes by changes without one, and a big pool takes long to look at."""
        self._stack = AsyncExitStack()
        self._stack.push_async_callback(self._pool.close)
        self._waiters: set[asyncio.Future[None]] = set()
        self._reapplying: set[asyncio.Task[None]] = set()
        self._closing = False
        self._events.watch(self._on_event)
        self.farewell = Farewell()

    @property
    def name(self) -> str:
        """The lab's name."""
        return self._spec.name

    @property
    def read_only(self) -> bool:
        """Whether every command that changes something is refused."""
        return self._read_only

    async def start(self) -> None:
        """Listen, then start the workers. Returns when the listener is open. Raises `PortInUseError`."""
        asyncio.get_running_loop().set_exception_handler(self._defects.handle)
        await self._pool.start()
        self._stack.push_async_callback(self._end_services)
        await self._listen()
        self._stack.push_async_callback(self._processes.close)
        self._services.apply(self._spec.processes, self._spec.apps)
        await self._apply_apps()
        self._stack.callback(self._slow.close)
        self._slow.follow(self._spec.apps)
        self._stack.callback(self._scaling.close)
        self._scaling.follow(self._spec.apps)
        self._stack.push_async_callback(self._reloader.close)
        self._reloader.start(self._spec, self._events, self._take_over, self._look_again, self._read_again)
        self._own.set(self._spec.own_rate)
        self._stack.push_async_callback(self._own.close)

    async def close(self) -> None:
        """Stop own traffic, then load runs, then take no more requests, then the workers, then the processes that they
        needed; return when none is left."""
        self._closing = True
        roll = self._roll()
        try:
            await self._stack.aclose()
        finally:
            self.farewell = roll.again()

    def abandon(self) -> Farewell:
        """As `close`, but at once and for another thread: the engine's own loop does nothing any more."""
        roll, why = self._roll(), self.held_up()
        self._pool.abandon()
        return roll.again(f"The lab did not end by itself, so its workers were killed. {why}".rstrip())

    def held_up(self) -> str:
        """What keeps the lab from answering, as far as that is known. May be called by any thread."""
        return self._proxy.held_up()

    def defect(self, error: BaseException) -> None:
        """Keep and tell what failed by surprise."""
        self._defects.found(error)

    @property
    def defects(self) -> Path:
        """Where defects are kept."""
        return self._defects.log

    # -- looking

    async def snapshot(self) -> LabSnapshot:
        now = self._clock.monotonic()
        if self._latest is None or now - self._latest.at >= _SNAPSHOT_AGE:
            pool, proxy = self._views()
            self._latest = observe.build(
                self._spec,
                pool,
                proxy,
                processes=self._services.view(),
                waits_for=self._services.waits_for,
                listener=self._listener,
                started=self._started,
                now=now,
                read_only=self._read_only,
                own_rate=self._own.rate,
                routed=self._endpoints.routed,
                slow=self._slow.counts,
                invariants=self._watch.look(now, invariants.breaches(pool, proxy, self._endpoints), pool),
                events_next=self._events.next,
            )
        return self._latest

    async def events(self, since: int = 0, limit: int = 1000, wait: float = 0.0) -> EventBatch:
        batch = self._events.read(since, limit)
        if not batch.events and wait > 0:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await asyncio.wait((waiter,), timeout=wait)
            finally:
                self._waiters.discard(waiter)
            batch = self._events.read(since, limit)
        return batch

    async def spec(self) -> LabSpec:
        return self._spec

    async def output(self, app: str, slot: int) -> tuple[str, ...]:
        self._spec.known(app)
        return self._pool.output(app, slot)

    async def standings(self, app: str | None = None) -> tuple[Standing, ...]:
        if app is not None:
            self._spec.known(app)
        return await standings.look(app, *self._views(), self._endpoints.routed)

    async def traces(self, identity: str | None = None, why: Why | None = None, limit: int = 20) -> tuple[Trace, ...]:
        return self._proxy.traces(identity, why, limit)

    # -- changing

    async def apply(self, spec: LabSpec) -> LabSpec:
        self._writable()
        before = self._spec
        admit(spec, before, self._reloader.known)
        await self._become(spec)
        if not self._own.is_at(spec.own_rate):
            self._own.set(spec.own_rate)
        return before

    async def signal(self, target: str, signal: str = "SIGKILL") -> tuple[Signalled, ...]:
        self._writable()
        number = targets.signal_number(signal)
        sent = []
        gone: UnknownTargetError | None = None
        for view in targets.resolve(target, self._pool.observe(), self._rng):
            worker = view.worker
            try:
                pid = self._pool.signal(worker, number)
            except UnknownTargetError as error:  # it has ended just now; the others of its app are still meant
                gone = error
            else:
                sent.append(Signalled(worker.app, worker.slot, worker.generation, pid, number.name))
                if target == targets.RANDOM:
                    break
        if gone is not None and not sent:
            raise gone
        self._latest = None
        return tuple(sent)

    async def scale(self, app: str, workers: int) -> Scaled:
        self._writable()
        spec = self._spec.known(app)
        if spec.pool.policy is not Policy.STATIC:
            raise NotPossibleError(
                f"{app} follows the policy {spec.pool.policy}.",
                f"Set the most that it may have: cgilab set {app} max_workers={workers}",
            )
        if not 0 <= workers <= MAX_WORKERS:
            raise NotPossibleError(f"Found {workers} workers; expected 0 to {MAX_WORKERS}.")
        bounds = spec.scaling
        if bounds is not None and not bounds.min_workers <= workers <= bounds.max_workers:
            raise NotPossibleError(
                f"{app} scales itself, within {bounds.min_workers} to {bounds.max_workers} workers.",
                f"Move scaling.min_workers or scaling.max_workers, or end it: cgilab set {app} scaling=null",
            )
        before = spec.pool.max_workers
        if workers != before:
            await self._resize(spec, workers)
        return Scaled(app, before, workers)

    async def set(self, app: str, changes: dict[str, str]) -> tuple[Changed, ...]:
        self._writable()
        if app == PROXY:
            proxy, told = settings.change(self._spec.proxy, changes)
            await self._become_set(msgspec.structs.replace(self._spec, proxy=proxy), told)
            return told
        before = self._spec.known(app)
        await check_paths(before, settings.change(before, changes)[0])
        changed, told = settings.change(self._spec.known(app), changes)  # anew: somebody else may have set something
        await self._become_set(self._spec.having(changed), told)
        return told

    async def shift(self, route: str, weights: dict[str, int]) -> Shifted:
        self._writable()
        before = self._spec.known_route(route)
        after = shares.shifted(before, weights)
        spec = self._spec.leading(after)
        admit(spec, self._spec, self._reloader.known)
        if after != before:
            text = f"{route} leads to {shares.told(after.apps)}, was {shares.told(before.apps)}"
            data = {"route": route, "from": before.apps, "to": after.apps}
            self._events.emit(EventKind.SHIFTED, text, data=data)
            await self._become(spec)
        return Shifted(route, before.apps, after.apps)

    async def reload(self, app: str) -> None:
        self._writable()
        self._spec.known(app)
        text = f"{app} is reloaded, worker by worker, as you asked"
        self._events.emit(EventKind.RELOAD, text, app=app, data={"step": "noticed"})
        self._pool.reload(app)

    async def heal(self) -> int:
        self._writable()
        return self._pool.heal() + self._services.heal()

    async def request(self, app: str, path: str | None = None) -> Answer:
        self._writable()
        known = self._spec.known(app)
        asked = path if path is not None else front(known)
        if not asked.startswith("/") or any(not 0x21 <= ord(letter) <= 0x7E for letter in asked):
            raise NotPossibleError(f"Found path {asked!r}; expected printable ASCII that starts with a slash.")
        return await self._own.ask(app, asked)

    async def traffic(self, rate: float, app: str | None = None) -> float:
        self._writable()
        if app is not None:
            self._spec.known(app)
        before = self._own.set(rate, app)
        self._spec = msgspec.structs.replace(self._spec, own_rate=rate)
        return before

    async def start_process(self, process: ProcessSpec) -> int:
        self._writable()
        return await self._processes.start(process)

    async def stop_process(self, name: str) -> None:
        self._writable()
        self._processes.stop(name)

    # -- inside

    async def _listen(self) -> None:
        wanted = self._spec.listener
        last = wanted.port if self._exact_port or wanted.port == 0 else min(wanted.port + _PORTS_TRIED, 65535)
        for port in range(wanted.port, last + 1):
            listener = msgspec.structs.replace(wanted, port=port)
            try:
                self._listener = await self._proxy.start(self._proxy_spec(listener))
            except PortInUseError:
                if port == last:
                    raise
            else:
                break
        self._stack.push_async_callback(self._proxy.close)
        scheme, _, authority = self._listener.partition("://")
        host, _, bound = authority.rpartition(":")
        listener = msgspec.structs.replace(wanted, port=int(bound))
        self._spec = msgspec.structs.replace(self._spec, listener=listener)
        self._own.aim(host, int(bound), secure=scheme == "https")
        text = f"Listening at {self._listener}"
        if wanted.port not in (0, int(bound)):
            text += f": port {wanted.port} is in use by another process, so the next free one was taken"
        self._events.emit(EventKind.LISTENING, text, data={"url": self._listener, "asked": wanted.port})

    async def _become(self, spec: LabSpec) -> None:
        self._spec = spec
        self._latest = self._may_be_asked = None
        self._services.apply(spec.processes, spec.apps)
        await self._proxy.apply(self._proxy_spec(spec.listener))
        await self._apply_apps()
        # What is desired by now: another change may have come and gone while this one waited.
        self._slow.follow(self._spec.apps)
        self._scaling.follow(self._spec.apps)
        self._reloader.follow(self._spec)

    async def _become_set(self, spec: LabSpec, told: tuple[Changed, ...]) -> None:
        """Become what `set` asks for, and tell it."""
        admit(spec, self._spec, self._reloader.known)
        for one in told:
            if one.before != one.after:
                text = f"{one.app}: {one.key} is {one.after or 'empty'}, was {one.before or 'empty'}"
                data = {"key": one.key, "from": one.before, "to": one.after}
                app = None if one.app == PROXY else one.app
                self._events.emit(EventKind.SETTING, text, app=app, data=data)
        await self._become(spec)

    async def _take_over(self, spec: LabSpec) -> None:
        """Become what an edited manifest says."""
        admit(spec, self._spec, self._reloader.known)
        await self._become(spec)

    async def _start_cgi(self, app: str, env: dict[str, str]) -> CgiProgram:
        """The pool, as the proxy knows it, which is made first."""
        return await self._pool.cgi(app, env)

    def _starved(self, app: str) -> None:
        self._pool.starved(app)

    async def _look_again(self) -> None:
        """Something was edited that programs are made from."""
        await self._apply_apps()

    async def _apply_apps(self) -> None:
        """Give the pool its apps; one whose processes are not healthy yet has no workers."""
        apps = self._spec.apps
        await self._pool.apply(tuple(held(app) if self._services.waits_for(app) else app for app in apps))

    def _release(self) -> None:
        """What an app waited for is healthy."""
        if not self._closing:
            self._later(self._apply_apps())

    async def _end_services(self) -> None:
        """The processes that apps need outlive the workers."""
        await self._pool.apply(())
        await self._services.close()

    async def _resize(self, app: AppSpec, workers: int) -> None:
        text = f"{app.name} scaled from {app.pool.max_workers} to {counted(workers, 'worker')}"
        data = {"from": app.pool.max_workers, "to": workers}
        self._events.emit(EventKind.SCALED, text, app=app.name, data=data)
        pool = msgspec.structs.replace(app.pool, max_workers=workers)
        await self._become(self._spec.having(msgspec.structs.replace(app, pool=pool)))

    async def _obey(self, name: str, decision: Decision) -> None:
        """Do what autoscaling decided."""
        app = self._spec.app(name)
        if app is None or self._closing:
            return
        data = {"metric": decision.metric, "value": decision.value, "from": decision.before, "to": decision.after}
        grown = f"{counted(decision.after, 'worker')} instead of {decision.before}"
        text = f"{name}: {decision.why}" + (f": {grown}" if decision.after != decision.before else "")
        self._events.emit(EventKind.DECISION, text, app=name, data=data)
        if decision.after != decision.before:
            await self._resize(app, decision.after)

    def _roll(self) -> Roll:
        workers = (worker for app in self._pool.observe().apps for worker in app.workers)
        return Roll.call({worker.pid for worker in workers if worker.pid is not None})

    def _views(self) -> tuple[PoolView, ProxyView]:
        return self._pool.observe(), self._proxy.observe()

    def _proxy_spec(self, listener: ListenerSpec) -> ProxySpec:
        return proxy_spec(self._spec, listener, self._pool.observe(), self._services.waits_for, self._editions)

    async def _read_again(self, files: frozenset[str]) -> None:
        """Files of selection policies hold something else than they did."""
        self._editions.update(files)
        await self._proxy.apply(self._proxy_spec(self._spec.listener))

    def _status_page(self, query: str) -> Page:
        slow = self._slow.counts
        return status_page.render(query, self._spec, *self._views(), slow, self._clock, self._started)

    def _readiness(self) -> Page:
        proxy = self._proxy.observe()
        offered = {one.endpoint for app in proxy.upstreams for one in app.endpoints if one.offered}
        endpoints = {app.name: len(offered.intersection(self._endpoints.of(app.name))) for app in self._spec.apps}
        able = {name for name, _ in self._askable()}
        on_demand = {app.name for app in self._spec.apps if app.pool.policy is Policy.ONDEMAND and app.name in able}
        return pages.readiness(endpoints, on_demand)

    def _metrics(self) -> Callable[[], Page]:
        pool, proxy = self._views()
        uptime = self._clock.monotonic() - self._started
        routed = {endpoint for app in self._spec.apps for endpoint in self._endpoints.of(app.name)}
        sight = metrics.Sight(self._proxy.figures(), proxy, pool, routed, uptime)
        return lambda: Page(openmetrics.CONTENT_TYPE, metrics.render(sight))

    def _on_event(self, event: Event) -> None:
        self._may_be_asked = None
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        if event.kind is EventKind.APP_STATUS:
            self._later(self._proxy.apply(self._proxy_spec(self._spec.listener)))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = background(work)
        self._reapplying.add(task)
        task.add_done_callback(self._reapplying.discard)

    def _askable(self) -> list[tuple[str, str]]:
        if self._may_be_asked is None:
            self._may_be_asked = askable(self._spec.apps, self._pool.observe(), self._services.waits_for)
        return self._may_be_asked

    def _writable(self) -> None:
        if self._closing:
            raise NoLabError("The lab is ending.")
        if self._read_only:
            raise ReadOnlyError("This lab is read-only: it can be watched, not changed.")
