"""One pool: compares the workers there should be with the workers there are, and does the next thing about it.

It promises that no more workers are wanted at once than the policy says, save one: the successor in a replacement,
which has to be READY before the worker that it replaces is drained. Replacements go one at a time. A changed program
is on trial until a worker of it is READY: till then every other start is one of the program that serves.
"""

import asyncio
import os
import random
from collections.abc import Callable
from typing import Any

from lab.core.errors import LabError, UnavailableError
from lab.core.events import EventKind
from lab.core.model import AppSpec, WorkerId
from lab.core.states import Cause, WorkerState
from lab.core.tasks import background
from lab.pool import build
from lab.pool.build import Builder, Program
from lab.pool.manager import AppView
from lab.pool.output import SlotOutput
from lab.pool.policies import POLICIES, Census
from lab.pool.runner import Runner, Surroundings
from lab.pool.slot import Slot
from lab.pool.sockets import Sockets
from lab.pool.worker import Death, Worker

_S = WorkerState
_WANTED = frozenset({_S.STARTING, _S.READY, _S.UNHEALTHY})
_SERVING = frozenset({_S.READY, _S.UNHEALTHY})
_WAITING = frozenset({_S.BACKOFF, _S.FAILED})


class Place:
    """A slot with the workers in it, oldest first: one, or two while the newer one replaces the older."""

    def __init__(self, number: int, output: SlotOutput) -> None:
        self.slot = Slot(number)
        self.output = output
        self.runners: list[Runner] = []
        self.wanted = True
        self.retry: asyncio.TimerHandle | None = None

    @property
    def newest(self) -> Runner:
        """The worker that carries the slot on."""
        return self.runners[-1]

    @property
    def reluctance(self) -> tuple[int, int]:
        """The higher, the sooner it is scaled away: slots that do not serve first, then idle ones, then by number."""
        state = self.newest.worker.state if self.runners else _S.EXITED
        if state not in _WANTED:
            return 2, self.slot.number
        return int(self.newest.is_idle), self.slot.number


def _is_replaceable(place: Place) -> bool:
    """It holds a worker that was started and is wanted."""
    return bool(place.runners) and place.newest.worker.is_live and place.newest.worker.intent is None


def _serves(place: Place) -> bool:
    """It holds a worker that got READY and is wanted."""
    return any(one.worker.state in _SERVING for one in place.runners)


class Supervisor:
    """The pool of one app. All calls come on the engine's loop."""

    def __init__(
        self,
        spec: AppSpec,
        surroundings: Surroundings,
        builder: Builder,
        output: Callable[[str, int], SlotOutput],
        rng: random.Random,
    ) -> None:
        self.spec = spec
        self._with = surroundings
        self._builder = builder
        self._output = output
        self._rng = rng
        self._sockets = Sockets(spec.name, surroundings.folder)
        self._policy = POLICIES[spec.pool.policy]()
        self._places: dict[int, Place] = {}
        self._program: Program | None = None
        """What workers run."""
        self._trial: Program | None = None
        """What they are to run as soon as one worker of it is READY."""
        self._refused: Program | None = None
        """The last one that did not get READY. It is not tried again until it changes."""
        self._unavailable: str | None = None
        self._building = False
        self._stopping = False
        self._preparation: asyncio.Task[None] | None = None
        self._replacing: tuple[Place, Cause] | None = None
        self._preparing: tuple[object, ...] = ()
        self._prepare_again = False
        self._gone = asyncio.Event()

    # -- desired state

    def update(self, spec: AppSpec) -> None:
        """Make `spec` the desired state. Settings hold from now on; a changed program comes worker by worker.

        A pool that was stopped begins again.
        """
        self._stopping = False
        self._gone.clear()
        if spec.pool != self.spec.pool:
            self._policy = POLICIES[spec.pool.policy]()
        self.spec = spec
        self._prepare()
        self.reconcile()

    def stop(self) -> None:
        """Drain and stop every worker; `gone` tells when none is left."""
        self._stopping = True
        if self._preparation is not None:
            self._preparation.cancel()
            self._preparation = None
        self._building = False
        self.reconcile()

    async def gone(self) -> None:
        """Wait until no process is left after `stop`."""
        await self._gone.wait()

    @property
    def is_over(self) -> bool:
        """It was stopped and no process is left."""
        return self._gone.is_set()

    def reconcile(self) -> None:
        """Have as many slots as the policy wants, and start those whose turn has come."""
        filled = [place for place in self._places.values() if place.wanted]
        wanted = self._wanted()
        for place in sorted(filled, key=lambda place: place.reluctance, reverse=True)[: max(0, len(filled) - wanted)]:
            self._leave(place)
        for _ in range(wanted - len(filled)):
            self._occupy()
        self._admit()
        if self._stopping and not any(place.runners for place in self._places.values()):
            self._sockets.close()
            self._gone.set()

    # -- looking

    def view(self) -> AppView:
        """The pool as it is."""
        runners = [runner for _, place in sorted(self._places.items()) for runner in place.runners]
        return AppView(
            name=self.spec.name,
            wanted=self._wanted(),
            workers=tuple(runner.view() for runner in runners),
            unavailable=self._unavailable,
            building=self._building,
        )

    def find(self, worker: WorkerId) -> Runner | None:
        """The runner of that generation, while it has one."""
        place = self._places.get(worker.slot)
        return next((runner for runner in place.runners if runner.worker.id == worker), None) if place else None

    def measure(self, turn: int, turns: int) -> None:
        """Read CPU time and memory of the workers whose turn it is: each is read once in so many turns."""
        for number, place in self._places.items():
            if number % turns == turn:
                for runner in place.runners:
                    runner.measure()

    def heal(self) -> int:
        """Thaw stopped workers and try waiting slots at once; returns how many were helped."""
        helped = 0
        for place in self._places.values():
            helped += sum(runner.thaw() for runner in place.runners)
            if place.runners and place.newest.worker.state in _WAITING:
                place.slot.forgive()
                self._refill(place)
                helped += 1
        self._admit()
        return helped

    # -- Owner: what runners tell

    def routes(self, runner: Runner) -> bool:
        return True

    def is_ready(self, runner: Runner) -> None:
        place = self._places[runner.worker.id.slot]
        outage = place.slot.recovered()
        if outage is not None:
            self._tell_healed(runner, *outage)
        if self._replacing is not None and self._replacing[0] is place and place.newest is runner:
            cause = self._replacing[1]
            self._replacing = None
            for older in place.runners[:-1]:
                older.stop(cause)
        if runner.program is not None and runner.program == self._trial:
            self._adopt(runner.program)
        self.reconcile()

    def is_unwell(self, runner: Runner) -> None:
        place = self._places[runner.worker.id.slot]
        if place.newest is runner and self._replacing is None:  # else it is said again
            self._replace(place, Cause.UNHEALTHY)
            self._admit()

    def is_gone(self, runner: Runner, death: Death) -> None:
        place = self._places[runner.worker.id.slot]
        others = [other for other in place.runners if other is not runner and other.worker.intent is None]
        unlucky = runner.port_was_taken and place.slot.lost_port()
        if self._replacing is not None and self._replacing[0] is place and place.newest is runner:
            self._replacing = None
            if not unlucky:
                self._give_up(runner, others, death)
        if others and runner.worker.intent is None:
            place.slot.interrupted(death, runner.lost)
        if others or runner.worker.intent is not None:
            place.runners.remove(runner)
        elif unlucky:
            self._refill(place)
        else:
            self._follow(place, runner, death)
        self.reconcile()

    def _give_up(self, successor: Runner, others: list[Runner], death: Death) -> None:
        """A successor did not get ready: the worker that it was to replace stays, and a reload goes no further."""
        if successor.program == self._trial:
            self._refused, self._trial = self._trial, None
        for kept in others:
            kept.worker.not_replaced(death.at)
            text = f"{kept.worker.id}: the replacement did not get ready; pid {kept.worker.pid} stays"
            self._tell(EventKind.NOTE, text, slot=kept.worker.id.slot)

    # -- slots

    def _wanted(self) -> int:
        if self._stopping or self._unavailable is not None:
            return 0
        runners = [place.newest for place in self._places.values() if place.wanted and place.runners]
        running = [runner for runner in runners if runner.worker.state in _WANTED]
        idle = sum(runner.is_idle for runner in running)
        return self._policy.wanted(self.spec.pool, Census(self._with.clock.monotonic(), len(running), idle))

    def _occupy(self) -> None:
        """Fill the lowest slot that is free."""
        taken = {number for number, place in self._places.items() if place.wanted}
        number = next(number for number in range(len(self._places) + 1) if number not in taken)
        if number not in self._places:
            self._places[number] = Place(number, self._output(self.spec.name, number))
        place = self._places[number]
        place.wanted = True
        self._add(place, None)

    def _leave(self, place: Place) -> None:
        place.wanted = False
        if place.retry is not None:
            place.retry.cancel()
        if self._replacing is not None and self._replacing[0] is place:
            self._replacing = None
        cause = Cause.SCALED_DOWN if self._unavailable is None and not self._stopping else Cause.STOPPED
        for runner in tuple(place.runners):
            runner.stop(cause)
            if runner.worker.state is _S.EXITED:
                place.runners.remove(runner)

    def _add(self, place: Place, before: WorkerState | None) -> None:
        worker = Worker(WorkerId(self.spec.name, place.slot.number, place.slot.next_generation()))
        runner = Runner(worker, self, self._with, place.output, self._sockets)
        place.runners.append(runner)
        runner.tell_pending(before)

    def _refill(self, place: Place) -> None:
        """The next generation, in place of one that has ended."""
        if place.retry is not None:
            place.retry.cancel()
        before = place.runners.pop().worker
        before.make_way()
        self._add(place, before.state)

    def _follow(self, place: Place, runner: Runner, death: Death) -> None:
        """A worker ended that was wanted: refill its slot now or later."""
        verdict = place.slot.died(death, runner.lost, self.spec.pool, self._rng)
        if verdict.state is _S.PENDING:
            self._refill(place)
            return
        runner.wait(verdict.state, verdict.delay, verdict.why)
        loop = asyncio.get_running_loop()
        place.retry = loop.call_later(verdict.delay, self._retry, place)

    def _retry(self, place: Place) -> None:
        self._refill(place)
        self._admit()

    def _admit(self) -> None:
        """Start waiting workers, lowest slot first, as far as the caps on live and on starting workers allow."""
        if self._program is None:
            return
        if self._replacing is None:
            self._begin_replacement()
        runners = [runner for _, place in sorted(self._places.items()) for runner in place.runners]
        live = sum(runner.worker.is_live and runner.worker.intent is None for runner in runners)
        starting = sum(runner.worker.is_starting for runner in runners)
        most_live = self._wanted() + (self._replacing is not None)
        most_starting = self.spec.pool.concurrent_starts or os.cpu_count() or 1
        room = min(most_live - live, most_starting - starting)
        waiting = [runner for runner in runners if runner.worker.state is _S.PENDING and not runner.worker.asked]
        for runner in waiting[: max(0, room)]:
            runner.start(self._program_of(runner))

    # -- replacing

    def _begin_replacement(self) -> None:
        """Add a successor beside a worker that runs another program than it should."""
        wanted = self._trial or self._program
        places = (place for _, place in sorted(self._places.items()) if _is_replaceable(place))
        outdated = next((place for place in places if place.newest.program != wanted), None)
        if outdated is not None:
            self._replace(outdated, Cause.RELOADED)

    def _replace(self, place: Place, cause: Cause) -> None:
        self._replacing = (place, cause)
        self._add(place, None)

    def _program_of(self, runner: Runner) -> Program:
        """What this worker is to run: only the successor of a reload tries a program that has not proved itself."""
        assert self._program is not None
        if self._trial is not None and self._replacing is not None:
            place, cause = self._replacing
            if cause is Cause.RELOADED and place.newest is runner:
                return self._trial
        return self._program

    def _adopt(self, program: Program) -> None:
        """Run this program from now on. Slots that failed with another one try it at once."""
        self._program, self._trial, self._refused = program, None, None
        for place in self._places.values():
            if place.wanted and place.runners and place.newest.worker.state in _WAITING:
                place.slot.forgive()
                self._refill(place)

    # -- the program

    def _prepare(self) -> None:
        """Find or build the program, off the loop.

        One that is being prepared goes on, unless another is wanted now. It is looked at once more when it is done:
        its source may have been written after it was read, or while it was.
        """
        spec = self.spec
        needed = build.needs(spec)
        if self._preparation is not None and not self._preparation.done():
            if needed == self._preparing:
                self._prepare_again = True
                return
            self._preparation.cancel()
        self._preparing, self._prepare_again = needed, False
        if self._unavailable is not None:  # that was said of the program before
            self._unavailable, self._building = None, True
        self._preparation = background(self._become_prepared())

    async def _become_prepared(self) -> None:
        prepared = await self._try_to_prepare()
        while self._prepare_again:
            self._prepare_again = False
            prepared = await self._try_to_prepare()
        if isinstance(prepared, Program):
            self._can(prepared)
        else:
            self._cannot(prepared)

    async def _try_to_prepare(self) -> Program | LabError:
        try:
            return await self._builder.program(self.spec, self._on_build)
        except LabError as error:
            return error
        except OSError as error:
            return UnavailableError(f"{self.spec.name} cannot be prepared: {error}.")

    def _on_build(self) -> None:
        self._building = True
        self._tell_status(f"{self.spec.name} is being compiled")

    def _can(self, program: Program) -> None:
        news = self._building or self._unavailable is not None
        self._building, self._unavailable = False, None
        if news:
            self._tell_status(f"{self.spec.name} can be started")
        if program == self._program:
            self._trial = self._refused = None
        elif self._program is None or not any(_serves(place) for place in self._places.values()):
            self._adopt(program)
        elif program != self._refused:
            self._trial = program
        self.reconcile()

    def _cannot(self, error: LabError) -> None:
        self._building = False
        if self._program is None:
            self._unavailable = str(error)
            self._tell_status(f"{self.spec.name} is unavailable: {error}")
            self.reconcile()
        else:
            self._tell_status(f"{self.spec.name} goes on with the program it had: {error}")

    # -- events

    def _tell(self, kind: EventKind, text: str, **fields: Any) -> None:
        self._with.events.emit(kind, text, app=self.spec.name, **fields)

    def _tell_status(self, text: str) -> None:
        self._tell(EventKind.APP_STATUS, text)

    def _tell_healed(self, runner: Runner, death: Death, lost: int) -> None:
        worker, now = runner.worker, self._with.clock.monotonic()
        ms = 1000.0 * (now - (death.signal_at if death.signal_at is not None else death.at))
        photo = {
            "old_pid": death.pid,
            "death": death.told,
            "by": death.by,
            "signal_at": death.signal_at,
            "exit_at": death.at,
            "forked_at": worker.forked_at,
            "probe_at": worker.ready_at,
            "ready_at": now,
            "heal_ms": ms,
            "lost": lost,
        }
        self._tell(
            EventKind.HEALED,
            f"{worker.id} healed in {ms:.0f} ms: {worker.pid} serves in place of {death.pid}",
            slot=worker.id.slot,
            generation=worker.id.generation,
            pid=worker.pid,
            data=photo,
        )
