"""One worker and what belongs to its process: does what its state machine says, and tells it in events."""

import asyncio
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from lab.core.clock import Clock
from lab.core.errors import NotPossibleError, UnknownTargetError
from lab.core.events import EventKind, EventRing
from lab.core.model import AppSpec, Contract, Endpoint, Liveness
from lab.core.states import Cause, WorkerState
from lab.core.tasks import background
from lab.pool.build import Program
from lab.pool.manager import Routing, WorkerView
from lab.pool.notices import Notices
from lab.pool.output import Capture, SlotOutput
from lab.pool.procfs import Usage
from lab.pool.pulse import Pulse
from lab.pool.readiness import StartProbe
from lab.pool.sockets import Binding, RuntimeFolder, Sockets
from lab.pool.spawner import Child, Order, Spawner
from lab.pool.worker import Action, By, Death, Worker, signal_name
from lab.ports import holder_of
from lab.wire.question import Get, GetValues, Question

_S = WorkerState
_get = lru_cache(maxsize=64)(Get)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every runner works with."""

    routing: Routing
    events: EventRing
    clock: Clock
    spawner: Spawner
    disk: ThreadPoolExecutor
    folder: RuntimeFolder
    notices: Notices


class Owner(Protocol):
    """Who decides what follows: the supervisor of the pool."""

    spec: AppSpec

    def routes(self, runner: "Runner") -> bool:
        """Whether requests may reach it, now that it is READY (again). If not, it stands by until `promote`."""
        ...

    def is_ready(self, runner: "Runner") -> None:
        """It became READY for the first time."""
        ...

    def is_unwell(self, runner: "Runner") -> None:
        """It has been UNHEALTHY for `replace_after`; said again with each interval until it is asked to stop."""
        ...

    def is_gone(self, runner: "Runner", death: Death) -> None:
        """Its process ended, or could not be started."""
        ...


class Runner:
    """Hears of the process as the spawner's `Watcher`. At any time it has at most one task, one timer and one pulse."""

    def __init__(
        self, worker: Worker, owner: Owner, surroundings: Surroundings, output: SlotOutput, sockets: Sockets
    ) -> None:
        self.worker = worker
        self.program: Program | None = None
        """What it runs, from `start` on."""
        self.endpoint: Endpoint | None = None
        self.retry_at: float | None = None
        self.routed = False
        """Requests may reach it."""
        self.lost = 0
        """Requests that were inside the worker when it died."""
        self.last_words = ""
        """What it wrote last, once it is gone."""
        self._owner = owner
        self._with = surroundings
        self._output = output
        self._sockets = sockets
        self._binding: Binding | None = None
        self._pulse: Pulse | None = None
        self._capture: Capture | None = None
        self._child: Child | None = None
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._start_probe: StartProbe | None = None
        self._grace = 0.0
        """Seconds between SIGTERM and SIGKILL, from `stop` on."""
        self._why = ""
        self._told = worker.state
        self._deeds: dict[Action, Callable[[], None]] = {
            Action.FORK: self._fork,
            Action.PROBE: self._probe,
            Action.ROUTE: self._route,
            Action.UNROUTE: self._unroute,
            Action.DRAIN: self._drain,
            Action.TERMINATE: self._terminate,
            Action.KILL: self._kill,
        }
        self._usage = Usage(surroundings.clock)

    @property
    def is_idle(self) -> bool:
        """READY with no request in it."""
        return self.worker.state is _S.READY and self._in_flight() == 0

    @property
    def probe_due(self) -> float | None:
        """Monotonic time at which its next liveness probe is to begin; None while one runs or none is to come."""
        return self._pulse.due if self._pulse is not None else None

    # -- asked by the supervisor

    def tell_pending(self, before: WorkerState | None) -> None:
        """Tell that the slot is to be filled; `before` is the state of the generation before, if there was one."""
        text = f"{self.worker.id} is to be filled (generation {self.worker.id.generation})"
        self._tell(EventKind.STATE, text, state=self.worker.state, data={"from": before})

    def start(self, program: Program) -> None:
        """Its turn has come: fork it and run this program."""
        self.program = program
        self._step(self.worker.start(), "")

    def promote(self) -> None:
        """It is READY: let requests reach it."""
        assert self.endpoint is not None
        self.routed = True
        self._with.routing.add(self.endpoint)

    def stop(self, cause: Cause, grace: float) -> None:
        """Drain it, ask it to end, and make it end after `grace` seconds, whatever is said later. If there is no
        process, it is gone at once, without `is_gone`."""
        if self.worker.intent is None:
            self._grace = grace
        self._step(self.worker.stop(cause), f"{self._named} is not wanted any more: {cause.replace('_', ' ')}")
        if self.worker.state is _S.EXITED:
            self._quiet()
            self._sockets.vacate(self.worker.id.slot)

    def wait(self, state: WorkerState, delay: float, why: str) -> None:
        """Its slot waits before it tries again. Until when is told apart from why, so that a screen can count down."""
        self.retry_at = self._with.clock.monotonic() + delay
        self._why = why
        self.worker.wait(state)
        verb = "waits" if state is _S.BACKOFF else "failed and tries once more in"
        self._tell_state(f"{self.worker.id} {verb} {_duration(delay)}: {why}")

    def signal(self, number: int) -> int:
        """Send a signal on a person's order; returns the PID. Raises `UnknownTargetError` when it is gone."""
        child = self._child
        if child is None:
            raise UnknownTargetError(f"{self.worker.id} has no process now.", "Wait for its successor.")
        if not self._send(child, number):
            raise UnknownTargetError(f"{self.worker.id} has ended just now.", "Wait for its successor.")
        return child.pid

    def thaw(self) -> bool:
        """Let it continue if it is stopped; returns whether it was."""
        return self._child is not None and self.worker.stopped and self._send(self._child, signal.SIGCONT)

    def measure(self) -> None:
        """Read CPU time and memory from the kernel."""
        if self._child is not None:
            self._usage.read(self._child.pid)

    def view(self) -> WorkerView:
        """The worker as it is now."""
        worker = self.worker
        return WorkerView(
            worker=worker.id,
            state=worker.state,
            pid=self._child.pid if self._child is not None else None,
            stopped=worker.stopped,
            endpoint=self.endpoint if self._child is not None else None,
            restarts=worker.id.generation - 1,
            started_at=worker.forked_at,
            cpu_percent=self._usage.cpu_percent,
            rss_bytes=self._usage.rss_bytes,
            retry_at=self.retry_at,
            why=self._start_probe.why if self._start_probe is not None else self._why,
            standby=worker.state is _S.READY and not self.routed,
        )

    # -- Watcher

    def forked(self, child: Child) -> None:
        assert self.program is not None
        assert self._binding is not None
        self._child = child
        identity = self.worker.id
        self.endpoint = self._binding.endpoint(identity, child.pid, self.program.concurrency)
        self._step(self.worker.forked(child.pid, child.forked_at), f"{identity} starts as {child.pid}", child.forked_at)
        if self.worker.intent is not None:
            self._step(self.worker.drained(), f"{self._named} is asked to end")

    def refused(self, reason: str) -> None:
        assert self.program is not None
        self._output.keep(f"{self.program.argv[0]}: {reason}")
        death = self.worker.exited(None, self._with.clock.monotonic())
        self._end(death, f"{self.worker.id} cannot be executed: {reason}")

    def exited(self, status: int, at: float) -> None:
        worker = self.worker
        assert self._binding is not None
        taken = worker.state is _S.STARTING and self._binding.lost()
        if self.endpoint is not None:
            self.lost = self._with.routing.inside(self.endpoint)
        named, binding = self._named, self._binding
        death = worker.exited(status, at, port_taken=taken)
        if death.cause is Cause.PORT_TAKEN:
            holder = holder_of(binding.port) or "another process"
            self._end(death, f"{named} did not get {binding}: {holder} has it; the next start gets another one")
        else:
            self._end(death, f"{named} {death.sentence}")

    def stopped(self, stopped: bool, at: float) -> None:
        self.worker.stopped = stopped
        kind, verb = (EventKind.STOPPED, "is stopped") if stopped else (EventKind.CONTINUED, "runs again")
        self._tell(kind, f"{self._named} {verb}", at)

    # -- doing what the machine says

    def _step(self, actions: tuple[Action, ...], text: str, at: float | None = None) -> None:
        """Tell the step that the machine has just taken, then carry it out."""
        self._tell_state(text, at)
        for action in actions:
            self._deeds[action]()

    def _fork(self) -> None:
        assert self.program is not None
        try:
            self._binding = self._sockets.lend(
                self.program.contract, self.worker.id.slot, inherited=not self.program.binds
            )
            self._capture = Capture(self._output)
            try:
                self._with.spawner.fork(self._order(self.program, self._binding, self._capture.fd), self)
            finally:
                self._capture.release()
        except (OSError, NotPossibleError) as error:  # OSError: this process has no descriptor left
            self._loop.call_soon(self.refused, str(error))

    def _order(self, program: Program, binding: Binding, output: int) -> Order:
        env = program.environment(binding)
        if program.notifies:
            env["NOTIFY_SOCKET"] = self._with.notices.address()
        return Order(
            argv=program.command(binding),
            env=env,
            name=f"{self.worker.id}.{self.worker.id.generation}",
            own_pid=binding.own_pid,
            fds={1: output, 2: output} | binding.fds,
            limits=program.limits,
        )

    def _probe(self) -> None:
        assert self._child is not None
        assert self._binding is not None
        assert self.program is not None
        notices = self._with.notices if self.program.notifies else None
        self._start_probe = StartProbe(self._child.pid, self._binding, self.question, notices)
        self._task = background(self._until_ready(self._start_probe))
        patience = self._owner.spec.pool.start_timeout
        self._timer = self._loop.call_later(patience, self._overdue, f"was not ready after {patience:g} s")

    def _route(self) -> None:
        if self._owner.routes(self):
            self.promote()

    def _unroute(self) -> None:
        assert self.endpoint is not None
        self.routed = False
        self._with.routing.remove(self.endpoint)

    def _drain(self) -> None:
        self._quiet()
        self._task = background(self._until_drained())

    def _terminate(self) -> None:
        self._quiet()
        self._send_group(signal.SIGTERM)
        if self.worker.stopped:  # or the signal waits; systemd's SendSIGCONT
            self._send_group(signal.SIGCONT)
        late = f"did not end within {self._grace:g} s of SIGTERM"
        self._timer = self._loop.call_later(self._grace, self._overdue, late)

    def _kill(self) -> None:
        self._quiet()
        self._send_group(signal.SIGKILL)

    async def _until_ready(self, start: StartProbe) -> None:
        await start.passed(self.liveness.timeout)
        worker, at = self.worker, self._with.clock.monotonic()
        self._start_probe = None
        if self._timer is not None:
            self._timer.cancel()
        actions = worker.passed(at)
        took = _duration(at - (worker.forked_at or at))
        self._step(actions, f"{worker.id} ready as {worker.pid} after {took}", at)
        self._watch()
        self._owner.is_ready(self)

    def _watch(self) -> None:
        assert self.endpoint is not None
        assert self._binding is not None
        surroundings = self._with
        self._pulse = Pulse(self, self._binding, self.endpoint, self._sockets, surroundings.routing, surroundings.clock)
        self._pulse.start()

    # -- Patient

    @property
    def liveness(self) -> Liveness:
        return self._owner.spec.liveness

    @property
    def question(self) -> Question:
        assert self.program is not None
        return GetValues() if self.program.contract is Contract.FASTCGI else _get(self._owner.spec.health)

    def answered(self, wrong: str) -> None:
        worker = self.worker
        actions = worker.probed(not wrong, self._with.clock.monotonic(), self.liveness)
        if wrong:
            self._unwell(actions, wrong)
            return
        if actions:
            self._why = ""
        self._step(actions, f"{worker.id} ready again as {worker.pid}")

    def hangs(self, seconds: float) -> None:
        actions = self.worker.hung(self._with.clock.monotonic())
        self._unwell(actions, f"has been busy with one request for {_duration(seconds)}")

    def beat(self) -> None:
        since, patience = self.worker.unhealthy_at, self.liveness.replace_after
        if since is not None and 0 < patience <= self._with.clock.monotonic() - since:
            self._owner.is_unwell(self)

    def _unwell(self, actions: tuple[Action, ...], why: str) -> None:
        if actions:
            self._why = f"It {why}."
        self._step(actions, f"{self._named} is unhealthy: it {why}")

    async def _until_drained(self) -> None:
        assert self.endpoint is not None
        await self._with.routing.drained(self.endpoint, self._owner.spec.pool.drain_timeout)
        if self.worker.state is _S.DRAINING:  # it may have died in this turn of the loop, too late to end this task
            self._step(self.worker.drained(), f"{self._named} is asked to end")

    def _overdue(self, late: str) -> None:
        self._why = f"It {late}."
        self._step(self.worker.overdue(), f"{self._named} {late} and is killed")

    def _end(self, death: Death, how: str) -> None:
        """It is gone: leave the upstream first, so that no request is sent there while the rest is done."""
        self._quiet()
        if self.endpoint is not None:
            self._with.routing.remove(self.endpoint)
        self.last_words = self._capture.finish() if self._capture is not None else ""
        self._give_back()
        self._child = self._start_probe = None
        fields = {"cause": death.cause, "exit_code": death.exit_code, "signal": death.signal}
        self._tell_state(how, death.at, **fields)
        if self.last_words and death.ready_at is None and death.by is not By.PERSON and self.worker.intent is None:
            self._tell(EventKind.OUTPUT, self.last_words)
        self._owner.is_gone(self, death)

    def _give_back(self) -> None:
        """What it was lent; a worker that died unasked has a successor, which may have its socket."""
        if self._child is not None:
            self._with.notices.forget(self._child.pid)
        if self._binding is not None:
            self._sockets.take_back(self._binding, self.worker.id.slot, successor=self.worker.intent is None)
            self._binding = None

    # -- signals, timers, events

    @property
    def _named(self) -> str:
        """`search/2 pid 4122`, or `search/2` while it has no process."""
        worker = self.worker
        return f"{worker.id} pid {worker.pid}" if worker.pid is not None else str(worker.id)

    def _send(self, child: Child, number: int) -> bool:
        """Send a signal on a person's order; False when the process ended before. What it did is known once it is done,
        and told before the end that may follow from it."""
        at = self._with.clock.monotonic()
        if not child.signal(number):
            return False
        self.worker.ordered(number, at)
        self._tell_signal(number, By.PERSON, at)
        return True

    def _send_group(self, number: int) -> None:
        """The lab's own, to all who are left of the group. One that is too late for the worker is not told as sent."""
        assert self._child is not None
        if not self._child.is_over:
            self._tell_signal(number, By.LAB)
        self._child.signal_group(number)

    def _in_flight(self) -> int:
        """Requests inside the worker, without the lab's own probe."""
        if self.endpoint is None:
            return 0
        probes = self._pulse is not None and self._pulse.occupies
        return self._with.routing.in_flight(self.endpoint) - probes

    def _quiet(self) -> None:
        """End the timer, the task and the pulse."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._pulse is not None:
            self._pulse.stop()
        self._timer = self._task = self._pulse = None

    def _tell_signal(self, number: int, by: By, at: float | None = None) -> None:
        name, sender = signal_name(number), "you" if by is By.PERSON else "the lab"
        text = f"{sender} sent {name} to {self._named}"
        self._tell(EventKind.SIGNAL, text, at, data={"signal": name, "by": by})

    def _tell_state(self, text: str, at: float | None = None, **fields: Any) -> None:
        before, self._told = self._told, self.worker.state
        if before is not self._told:
            self._tell(EventKind.STATE, text, at, state=self._told, data={"from": before}, **fields)

    def _tell(self, kind: EventKind, text: str, at: float | None = None, **fields: Any) -> None:
        worker = self.worker
        self._with.events.emit(
            kind,
            text,
            at=at,
            app=worker.id.app,
            slot=worker.id.slot,
            generation=worker.id.generation,
            pid=worker.pid,
            **fields,
        )


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
