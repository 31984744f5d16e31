"""A lab in memory behind the façade `Lab`: no process, no socket, and a clock turned by hand, so that screens repeat.

It is an implementation of the contract, not a mock of one: commands change its workers, tell events through a real
`EventRing`, and raise the real errors. `advance` lets time and traffic pass.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

from msgspec.structs import replace

from lab.core.clock import ManualClock
from lab.core.errors import LabError, NotPossibleError, ReadOnlyError, UnknownTargetError
from lab.core.events import EventBatch, EventKind, EventRing
from lab.core.model import AppSpec, Contract, PoolSettings, RouteSpec
from lab.core.snapshot import (
    AppSnapshot,
    Invariants,
    LabSnapshot,
    LeadSnapshot,
    RouteSnapshot,
    ScalingSnapshot,
    ServiceSnapshot,
    Totals,
    Traffic,
    WorkerSnapshot,
)
from lab.core.standing import Actual, Believed, Standing, differences
from lab.core.states import Cause, EndpointHealth, Policy, WorkerState
from lab.engine import settings, shares
from lab.engine.lab import Answer, Changed, LabSpec, ProcessSpec, Scaled, Shifted, Signalled

HEAL = (0.0, 0.0007, 0.0014, 0.019, 0.023)
"""Seconds from the signal to: signal, exit seen, forked, probe passed, READY."""


def spec() -> LabSpec:
    """The default lab: search in C with three workers, auth in Python with two."""
    search = AppSpec(
        name="search",
        route="/api/search",
        language="c",
        source="/lab/search.c",
        concurrency=32,
        pool=PoolSettings(max_workers=3),
    )
    auth = AppSpec(
        name="auth",
        route="/api/auth",
        language="python",
        source="/lab/auth.py",
        selection="least_connections",
        pool=PoolSettings(max_workers=2),
    )
    return LabSpec(apps=(search, auth))


@dataclass
class FakeWorker:
    """One slot. Tests change its fields to bring it into any state."""

    slot: int
    pid: int | None
    state: WorkerState = WorkerState.READY
    stopped: bool = False
    generation: int = 1
    requests: int = 0
    in_flight: int = 0
    retry_at: float | None = None
    why: str = ""
    standby: bool = False
    shared: bool = False
    """It shares its socket with others: its figures are not measured."""
    born: float = 1000.0

    def snapshot(self, now: float, rps: float, slowness: float) -> WorkerSnapshot:
        """As the lab shows it. Latencies follow from the slot, so that every worker has its own."""
        serves = self.state is WorkerState.READY and not self.stopped and not self.standby
        alive = self.pid is not None
        timed = serves and self.requests and not self.shared
        return WorkerSnapshot(
            slot=self.slot,
            generation=self.generation,
            pid=self.pid,
            state=self.state,
            stopped=self.stopped,
            endpoint=f"127.0.0.1:{40000 + self.slot}" if alive else None,
            routed=self.state is WorkerState.READY and not self.standby,
            requests=None if self.shared else self.requests,
            in_flight=None if self.shared else self.in_flight,
            restarts=self.generation - 1,
            uptime_s=now - self.born if alive else None,
            cpu_percent=round(1.2 * slowness, 1) if alive else None,
            rss_bytes=int(1_884_160 * slowness) if alive else None,
            rps=rps if serves else 0.0,
            p50_ms=round(slowness * (0.4 + 0.1 * (self.slot % 5)), 2) if timed else None,
            p99_ms=round(slowness * (2.1 + 0.3 * (self.slot % 5)), 2) if timed else None,
            retry_in_s=max(0.0, self.retry_at - now) if self.retry_at is not None else None,
            why=self.why,
            standby=self.standby,
        )


@dataclass
class FakeApp:
    """One app and its workers."""

    spec: AppSpec
    workers: list[FakeWorker] = field(default_factory=list)
    unavailable: str | None = None
    building: bool = False
    waits_for: tuple[str, ...] = ()
    queue: int = 0

    @property
    def name(self) -> str:
        return self.spec.name


class FakeLab:
    """`Lab` in memory. `rate` is the requests/s of clients; `gone` makes every call raise that error."""

    def __init__(self, desired: LabSpec | None = None, *, read_only: bool = False, rate: float = 312.0) -> None:
        self.clock = ManualClock()
        self.ring = EventRing(self.clock)
        self.read_only = read_only
        self.rate = rate
        self.gone: LabError | None = None
        self.invariants = Invariants(conserved=True, no_zombies=True, within_bounds=True)
        self.processes: list[ServiceSnapshot] = []
        self.tunnels = 0
        """Open to the first app. Each has carried 1 MiB."""
        self.closed = False
        self._pids = count(4121)
        self._random = random.Random(7)
        self._answered = self._failed = self._own_answered = 0
        self._spec = desired or spec()
        self._own_rate = self._spec.own_rate
        self._asked = 0
        self.apps = [self._new_app(app) for app in self._spec.apps]
        self.ring.emit(EventKind.LISTENING, "listening on http://127.0.0.1:8080", data={"url": "http://127.0.0.1:8080"})

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, with traffic spread evenly over the workers that serve."""
        self.clock.advance(seconds)
        for app in self.apps:
            serving = self._serving(app)
            for number, worker in enumerate(serving):
                worker.requests += round(self._share(app) * seconds / len(serving)) + (number == 0)
        self._answered += round(self.rate * seconds)
        self._own_answered += round(self._own_rate * seconds)

    def worker(self, app: str, slot: int) -> FakeWorker:
        """The worker in that slot, to be changed."""
        return next(worker for worker in self._app(app).workers if worker.slot == slot)

    def back_off(self, app: str, slot: int, seconds: float, why: str) -> None:
        """Bring a slot into back-off: its worker died and the slot waits before it tries again."""
        worker = self.worker(app, slot)
        self._tell_death(app, worker, "SIGSEGV", Cause.CRASHED)
        worker.pid, worker.state, worker.why = None, WorkerState.BACKOFF, why
        worker.retry_at = self.clock.monotonic() + seconds
        self.ring.emit(EventKind.STATE, f"{app}/{slot} waits: {why}", app=app, slot=slot, state=WorkerState.BACKOFF)

    def kill_from_outside(self, app: str, slot: int) -> None:
        """A worker dies by `kill -9` in another terminal, and heals."""
        self._die(app, self.worker(app, slot), "SIGKILL", "outside")

    async def snapshot(self) -> LabSnapshot:
        self._check_here()
        now = self.clock.monotonic()
        busy = self.rate > 0
        return LabSnapshot(
            name="lab",
            listener="http://127.0.0.1:8080",
            uptime_s=now - 1000.0,
            at=now,
            read_only=self.read_only,
            apps=tuple(self._snapshot(app, now) for app in self.apps),
            processes=tuple(self.processes),
            routes=tuple(map(self._route, self._spec.routes)),
            totals=Totals(
                accepted=self._answered + self._failed,
                answered=self._answered,
                failed=self._failed,
                in_flight=2 if busy else 0,
                tunnels=self.tunnels,
                tunnel_bytes=self.tunnels << 20,
                rps=self.rate,
                p50_ms=0.5 if busy else None,
                p95_ms=1.9 if busy else None,
                p99_ms=3.0 if busy else None,
            ),
            own=Traffic(
                rate=self._own_rate,
                totals=Totals(accepted=self._own_answered, answered=self._own_answered, rps=self._own_rate, p50_ms=0.6),
            ),
            invariants=self.invariants,
            events_next=self.ring.next,
        )

    def _route(self, route: RouteSpec) -> RouteSnapshot:
        """A route whose requests are shared out exactly as it says."""
        whole = sum(route.apps.values())
        leads = (
            LeadSnapshot(app=app, weight=weight, requests=weight, share=100 * weight / whole if self.rate else None)
            for app, weight in route.apps.items()
        )
        return RouteSnapshot(
            name=route.name,
            takes=route.path,
            implied=False,
            leads=tuple(leads),
            requests=whole,
            in_flight=0,
            classes=(0, 0, whole, 0, 0, 0),
            errors=0,
            rps=self.rate,
            p50_ms=0.5,
            p95_ms=1.9,
            p99_ms=3.0,
        )

    async def events(self, since: int = 0, limit: int = 1000, wait: float = 0.0) -> EventBatch:
        self._check_here()
        return self.ring.read(since, limit)

    async def spec(self) -> LabSpec:
        self._check_here()
        return replace(self._spec, apps=tuple(app.spec for app in self.apps))

    async def apply(self, spec: LabSpec) -> LabSpec:
        self._check_writable()
        before, self._spec = self._spec, spec
        known = {app.name: app for app in self.apps}
        self.apps = [known.get(app.name) or self._new_app(app) for app in spec.apps]
        for app, wanted in zip(self.apps, spec.apps, strict=True):
            app.spec = wanted
            self._resize(app)
        self._own_rate = spec.own_rate
        return before

    async def signal(self, target: str, signal: str = "SIGKILL") -> tuple[Signalled, ...]:
        self._check_writable()
        hit = [(app, worker) for app, worker in self._targets(target) if worker.pid is not None]
        told = tuple(Signalled(app.name, one.slot, one.generation, one.pid or 0, signal) for app, one in hit)
        for app, worker in hit:
            self._deliver(app.name, worker, signal)
        return told

    async def scale(self, app: str, workers: int) -> Scaled:
        self._check_writable()
        found = self._app(app)
        if found.spec.pool.policy is not Policy.STATIC:
            raise NotPossibleError(f"{app} follows the policy {found.spec.pool.policy}.")
        before = found.spec.pool.max_workers
        found.spec = replace(found.spec, pool=replace(found.spec.pool, max_workers=workers))
        self._resize(found)
        text = f"{app}: {before} -> {workers} workers"
        self.ring.emit(EventKind.SCALED, text, app=app, data={"from": before, "to": workers})
        return Scaled(app, before, workers)

    async def set(self, app: str, changes: dict[str, str]) -> tuple[Changed, ...]:
        self._check_writable()
        found = self._app(app)
        found.spec, told = settings.change(found.spec, changes)
        self._resize(found)
        for one in told:
            self.ring.emit(EventKind.SETTING, f"{app}: {one.key} is {one.after}, was {one.before}", app=app)
        return told

    async def shift(self, route: str, weights: dict[str, int]) -> Shifted:
        self._check_writable()
        before = self._spec.known_route(route)
        after = shares.shifted(before, weights)
        self._spec = self._spec.leading(after)
        self.ring.emit(EventKind.SHIFTED, f"{route} leads to {shares.told(after.apps)}")
        return Shifted(route, before.apps, after.apps)

    async def reload(self, app: str) -> None:
        self._check_writable()
        for worker in self._app(app).workers:
            self._tell_death(app, worker, "SIGTERM", Cause.RELOADED)
            self._refill(app, worker)
        self.ring.emit(EventKind.RELOAD, f"{app} is reloaded", app=app, data={"step": "done"})

    async def heal(self) -> int:
        self._check_writable()
        helped = [(app.name, one) for app in self.apps for one in app.workers if one.stopped or one.pid is None]
        for app, worker in helped:
            if worker.stopped:
                self._deliver(app, worker, "SIGCONT")
            else:
                self._refill(app, worker)
        return len(helped)

    async def request(self, app: str, path: str | None = None) -> Answer:
        self._check_here()
        found = self._app(app)
        serving = self._serving(found)
        if not serving:
            return Answer(app=app, path=path or found.spec.route, status=503, pid=None, ms=0.2, body="")
        chosen = serving[self._asked % len(serving)]
        self._asked += 1
        chosen.requests += 1
        self._own_answered += 1
        body = f'{{"query": "test", "results": [], "pid": {chosen.pid}, "language": "{found.spec.language}"}}'
        return Answer(app=app, path=path or found.spec.route, status=200, pid=chosen.pid, ms=0.6, body=body)

    async def traffic(self, rate: float, app: str | None = None) -> float:
        self._check_writable()
        if not 0 <= rate <= 200:
            raise NotPossibleError(f"Found {rate:g} requests/s; expected 0 to 200.")
        before, self._own_rate = self._own_rate, rate
        return before

    async def standings(self, app: str | None = None) -> tuple[Standing, ...]:
        self._check_here()
        return tuple(
            self._standing(one.name, worker) for one in self.apps for worker in one.workers if worker.pid is not None
        )

    def _standing(self, app: str, worker: FakeWorker) -> Standing:
        """A frozen worker leaves three requests in its accept queue; the balancer has noticed nothing yet."""
        stuck = 3 if worker.stopped else 0
        believed = Believed(
            routed=True,
            in_flight=stuck,
            places=32,
            answered=918,
            failed=0,
            weight=1.0,
            health=EndpointHealth.HEALTHY,
            ewma_ms=0.4,
        )
        process = "stopped" if worker.stopped else "sleeping"
        actual = Actual(process=process, established=2, waiting=stuck, room=511)
        told = differences(believed, actual, shared=False)
        endpoint = f"127.0.0.1:{40000 + worker.slot}"
        return Standing(
            app=app,
            slot=worker.slot,
            generation=worker.generation,
            pid=worker.pid,
            endpoint=endpoint,
            believed=believed,
            actual=actual,
            differences=told,
        )

    async def output(self, app: str, slot: int) -> tuple[str, ...]:
        self.worker(app, slot)
        return ("listening on 127.0.0.1",)

    async def start_process(self, process: ProcessSpec) -> int:
        self._check_writable()
        pid = next(self._pids)
        self.ring.emit(EventKind.PROCESS_STARTED, f"{process.name} started", pid=pid, data={"name": process.name})
        return pid

    async def stop_process(self, name: str) -> None:
        self._check_writable()
        self.ring.emit(EventKind.PROCESS_ENDED, f"{name} ended", exit_code=0, data={"name": name})

    async def close(self) -> None:
        self.closed = True

    def _check_here(self) -> None:
        if self.gone is not None:
            raise self.gone

    def _check_writable(self) -> None:
        self._check_here()
        if self.read_only:
            raise ReadOnlyError("This lab is read-only; nothing was changed.")

    def _new_app(self, desired: AppSpec) -> FakeApp:
        app = FakeApp(desired)
        self._resize(app)
        return app

    def _resize(self, app: FakeApp) -> None:
        wanted = 0 if app.spec.protocol is Contract.CGI else app.spec.pool.max_workers
        for leaver in app.workers[wanted:]:
            self._tell_death(app.name, leaver, "SIGTERM", Cause.SCALED_DOWN)
        app.workers = [worker for worker in app.workers if worker.slot < wanted]
        missing = range(len(app.workers), wanted)
        app.workers += [FakeWorker(slot, next(self._pids), born=self.clock.monotonic()) for slot in missing]

    def _app(self, name: str) -> FakeApp:
        for app in self.apps:
            if app.name == name:
                return app
        known = ", ".join(app.name for app in self.apps)
        raise UnknownTargetError(f"Found no app {name!r}; expected one of: {known}.")

    def _serving(self, app: FakeApp) -> list[FakeWorker]:
        return [one for one in app.workers if one.state is WorkerState.READY and not (one.stopped or one.standby)]

    def _share(self, app: FakeApp) -> float:
        """Requests/s of one app: the first gets two thirds of the clients' traffic."""
        weight = 1.0 if len(self.apps) == 1 else (2 / 3 if app is self.apps[0] else 1 / 3 / (len(self.apps) - 1))
        return (self.rate + self._own_rate) * weight

    def _snapshot(self, app: FakeApp, now: float) -> AppSnapshot:
        slowness = 1.0 if app.spec.language == "c" else 4.0
        share = self._share(app) / max(1, len(self._serving(app)))
        workers = tuple(worker.snapshot(now, round(share, 1), slowness) for worker in app.workers)
        serves = self.rate > 0 and (bool(self._serving(app)) or app.spec.protocol is Contract.CGI)
        pool, scaling = app.spec.pool, app.spec.scaling
        return AppSnapshot(
            name=app.name,
            route=app.spec.route,
            language=app.spec.language,
            policy=str(pool.policy),
            protocol=str(app.spec.protocol or Contract.HTTP_PORT),
            selection=app.spec.selection,
            concurrency=app.spec.concurrency,
            wanted=pool.max_workers if pool.policy is Policy.STATIC else len(app.workers),
            min_workers=pool.max_workers if pool.policy is Policy.STATIC else pool.min_workers,
            max_workers=pool.max_workers,
            scaling=ScalingSnapshot(
                metric=str(scaling.metric), min_workers=scaling.min_workers, max_workers=scaling.max_workers
            )
            if scaling is not None
            else None,
            workers=workers if app.unavailable is None else (),
            queue=app.queue,
            tunnels=self.tunnels if app is self.apps[0] else 0,
            rps=self._share(app) if serves else 0.0,
            p50_ms=0.5 * slowness if serves else None,
            p95_ms=1.9 * slowness if serves else None,
            p99_ms=3.0 * slowness if serves else None,
            unavailable=app.unavailable,
            building=app.building,
            waits_for=app.waits_for,
        )

    def _targets(self, target: str) -> Iterable[tuple[FakeApp, FakeWorker]]:
        everyone = [(app, worker) for app in self.apps for worker in app.workers]
        if target == "random":
            return [self._random.choice([one for one in everyone if one[1].pid is not None])]
        found = [
            (app, worker)
            for app, worker in everyone
            if target in (app.name, f"{app.name}/{worker.slot}", str(worker.pid))
        ]
        if not found:
            raise UnknownTargetError(f"Found no worker {target!r}; expected a PID, APP, APP/SLOT or random.")
        return found

    def _deliver(self, app: str, worker: FakeWorker, signal: str) -> None:
        who = {"app": app, "slot": worker.slot, "generation": worker.generation, "pid": worker.pid}
        data = {"signal": signal, "by": "person"}
        self.ring.emit(EventKind.SIGNAL, f"{signal} sent to {app}/{worker.slot} pid {worker.pid}", data=data, **who)
        if signal == "SIGSTOP":
            worker.stopped = True
            self.ring.emit(EventKind.STOPPED, f"{app}/{worker.slot} pid {worker.pid} is stopped", **who)
        elif signal == "SIGCONT":
            worker.stopped = False
            self.ring.emit(EventKind.CONTINUED, f"{app}/{worker.slot} pid {worker.pid} runs again", **who)
        else:
            self._die(app, worker, signal, "person")

    def _die(self, app: str, worker: FakeWorker, signal: str, by: str) -> None:
        start = self.clock.monotonic()
        old = worker.pid
        self._tell_death(app, worker, signal, Cause.KILLED, by=by, at=start + HEAL[1])
        self._refill(app, worker)
        data = {
            "old_pid": old,
            "death": signal,
            "by": by,
            "signal_at": start if by != "outside" else None,
            "exit_at": start + HEAL[1],
            "forked_at": start + HEAL[2],
            "probe_at": start + HEAL[3],
            "ready_at": start + HEAL[4],
            "heal_ms": 23.0 if by != "outside" else 22.3,
            "lost": 0,
        }
        who = {"app": app, "slot": worker.slot, "generation": worker.generation, "pid": worker.pid}
        text = f"{app}/{worker.slot} ready as {worker.pid} after 23 ms"
        self.ring.emit(EventKind.HEALED, text, at=start + HEAL[4], data=data, **who)

    def _tell_death(
        self, app: str, worker: FakeWorker, signal: str, cause: Cause, by: str = "", at: float | None = None
    ) -> None:
        sender = {"person": " (sent by you)", "outside": " (not sent by this lab)"}.get(by, "")
        self.ring.emit(
            EventKind.STATE,
            f"{app}/{worker.slot} pid {worker.pid} died: {signal}{sender}",
            at=at,
            app=app,
            slot=worker.slot,
            generation=worker.generation,
            pid=worker.pid,
            state=WorkerState.EXITED,
            cause=cause,
            signal=signal,
            data={"from": "ready", "by": by},
        )

    def _refill(self, app: str, worker: FakeWorker) -> None:
        worker.pid, worker.generation = next(self._pids), worker.generation + 1
        worker.state, worker.stopped, worker.requests = WorkerState.READY, False, 0
        worker.retry_at, worker.why, worker.born = None, "", self.clock.monotonic()
        who = {"app": app, "slot": worker.slot, "generation": worker.generation, "pid": worker.pid}
        self.ring.emit(EventKind.STATE, f"{app}/{worker.slot} ready as {worker.pid}", state=WorkerState.READY, **who)
