"""One pool: compares the workers there should be with the workers there are, and does the next thing about it.

How many there should be, the policy says; the supervisor promises that there are no more of them, save one: the
successor in a replacement, which has to be READY before the worker that it replaces is drained. Replacements go one at
a time. Standbys are workers beyond those: READY, but not routed until one takes the place of a worker that died.

Nothing here looks at every worker on each event: a pool may have a thousand of them.
"""

import asyncio
import itertools
import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from lab.core.events import EventKind
from lab.core.model import AppSpec, WorkerId
from lab.core.states import Cause, WorkerState
from lab.core.timers import Timer
from lab.pool import healing
from lab.pool.build import Builder
from lab.pool.invariants import PoolInvariants
from lab.pool.manager import AppView
from lab.pool.output import SlotOutput
from lab.pool.place import Place
from lab.pool.policies import Decision
from lab.pool.programs import Programs
from lab.pool.recycling import Recycling
from lab.pool.replacing import Replacing, Unwell
from lab.pool.rollout import Rollout, Step
from lab.pool.runner import Runner, Surroundings
from lab.pool.sizing import Sizing, take_census
from lab.pool.sockets import Sockets
from lab.pool.starts import Starts
from lab.pool.worker import By, Death, Worker

_S = WorkerState
MOST_LOOKS = 10
"""Looks into /proc in one turn: each takes some 20 us, and hundreds of workers are not to cost hundreds a second."""
_KILL_MARGIN = 2.0
"""Seconds that a process may take to be gone after SIGKILL."""


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
        self._output = output
        self._rng = rng
        self._sockets = Sockets(spec.name, surroundings.folder)
        self._sizing = Sizing(spec.pool)
        self._places: dict[int, Place] = {}
        self._starts = Starts(self._places, surroundings.clock, self._admit)
        self._rollout = Rollout()
        self._programs = Programs(builder, self._rollout, self._tell, self._serves, self._on_prepared)
        self._stopping = False
        self._replacing = Replacing(self._admit)
        self._recycling = Recycling(self._places, surroundings.routing, self._admit)
        self._unwell = Unwell(self._places)
        self._invariants = PoolInvariants()
        self._gone = asyncio.Event()

    # -- desired state

    def update(self, spec: AppSpec) -> None:
        """Make `spec` the desired state. Settings hold from now on; a changed program comes worker by worker.

        A pool that was stopped begins again.
        """
        before, self.spec = self.spec, spec
        self._sizing.change(spec.pool, anew=self._stopping)
        if self._stopping:
            self._stopping = False
            self._gone.clear()
        self._programs.prepare(spec)
        self.reconcile()
        self._recycling.watch(spec.pool)
        if spec.pool != before.pool:
            self._ask_policy(self._with.clock.monotonic())

    def reload(self) -> None:
        """Replace every worker, one after the other, by one of the program as it is now."""
        self._programs.prepare(self.spec, reload=True)

    def stop(self) -> None:
        """Drain and stop every worker; `gone` tells when none is left."""
        self._stopping = True
        self._programs.stop()
        self._recycling.stop()
        self.reconcile()

    async def gone(self) -> None:
        """Wait until no process is left after `stop`."""
        await self._gone.wait()

    @property
    def is_over(self) -> bool:
        """It was stopped and no process is left."""
        return self._gone.is_set()

    def reconcile(self) -> None:
        """Have as many slots as there should be, and start those whose turn has come."""
        self._relieve()
        self._fit(self._wanted(), standby=False)
        self._fit(self.spec.pool.standby if self._may_run else 0, standby=True)
        self._admit()
        self._finish_rollout()
        if self._stopping and not any(place.runners for place in self._places.values()):
            self._sockets.close()
            self._gone.set()

    # -- the policy

    def tick(self) -> None:
        """A second has passed: ask the policy, and look whether the pool keeps what it promises."""
        now = self._with.clock.monotonic()
        self._ask_policy(now)
        self._look(now)

    def starved(self) -> None:
        """A request found no idle worker. Where there is no room for more, it costs next to nothing to say so again."""
        if self._may_run and self._sizing.follows_load and not self._sizing.is_full:
            self._follow_policy(self._sizing.starved, self._with.clock.monotonic())
            self.reconcile()

    def _ask_policy(self, now: float) -> None:
        if self._may_run and self._sizing.follows_load and self._rollout.current is not None:
            self._follow_policy(self._sizing.tick, now)
        self.reconcile()

    def _follow_policy(self, ask: Callable[..., Decision], now: float) -> None:
        """Ask the policy and do what it says. A pool with a FAILED slot does not grow: more workers would fail, too."""
        places, before = self._places.values(), self._sizing.target
        may_grow = not any(place.has_failed for place in places)
        decision = ask(take_census(places, self._with.routing, now), may_grow=may_grow)
        for slot in decision.stop:
            self._leave(self._places[slot])
        if self._sizing.target != before:
            text = f"{self.spec.name}: {self._sizing.target} wanted instead of {before} ({self.spec.pool.policy})"
            self._tell(EventKind.SCALED, text, data={"from": before, "to": self._sizing.target})
        if decision.limited:
            most = self.spec.pool.max_workers
            self._tell(EventKind.LIMIT, f"{self.spec.name} has {most} workers, its max_workers, and could use more")

    @property
    def _may_run(self) -> bool:
        return not self._stopping and self._programs.unavailable is None

    def _wanted(self) -> int:
        return self._sizing.target if self._may_run else 0

    # -- looking

    def view(self) -> AppView:
        """The pool as it is."""
        runners = [runner for _, place in sorted(self._places.items()) for runner in place.runners]
        return AppView(
            name=self.spec.name,
            wanted=self._wanted(),
            workers=tuple(runner.view() for runner in runners),
            unavailable=self._programs.unavailable,
            building=self._programs.building,
            changing=self._programs.is_busy or self._rollout.rolling,
            protocol=self._programs.contract(self.spec),
            max_reached=self._sizing.times_limited,
            breaches=self._invariants.breaches(self._with.clock.monotonic()),
        )

    def find(self, worker: WorkerId) -> Runner | None:
        """The runner of that generation, while it has one."""
        place = self._places.get(worker.slot)
        return next((runner for runner in place.runners if runner.worker.id == worker), None) if place else None

    def measure(self, turn: int, turns: int) -> None:
        """Read CPU time and memory of the workers whose turn it is: each once in so many turns, or more of them where
        that would be more than `MOST_LOOKS` a turn."""
        turns = max(turns, math.ceil(len(self._places) / MOST_LOOKS))
        for place in itertools.islice(self._places.values(), turn % turns, None, turns):
            for runner in place.runners:
                runner.measure()

    def heal(self) -> int:
        """Thaw stopped workers and try waiting slots at once; returns how many were helped."""
        helped = 0
        for place in self._places.values():
            helped += sum(runner.thaw() for runner in place.runners)
            if place.waits:
                self._forgive(place)
                helped += 1
        self._admit()
        return helped

    def _look(self, now: float) -> None:
        runners = [runner for place in self._places.values() for runner in place.runners]
        self._invariants.look(
            now,
            self._most_live,
            due=(runner.probe_due for runner in runners if runner.probe_due is not None),
            hung=any(runner.worker.stopped or runner.worker.state is _S.UNHEALTHY for runner in runners),
        )

    # -- Owner: what runners tell

    def routes(self, runner: Runner) -> bool:
        return not self._place(runner).standby

    def is_ready(self, runner: Runner) -> None:
        place = self._place(runner)
        self._starts.forget(runner)
        outage = place.slot.recovered()
        if outage is not None:
            self._tell_healed(runner, *outage)
        self._take_over(place, runner)
        if self._rollout.ready(runner.worker.revision):
            self._programs.tell_reload(
                "verified", f"{runner.worker.id} is READY as {runner.worker.pid} with what is new"
            )
            self._forgive_waiting()
        self.reconcile()

    def is_unwell(self, runner: Runner) -> None:
        self._unwell.add(runner)
        self._admit()

    def is_gone(self, runner: Runner, death: Death) -> None:
        place = self._place(runner)
        self._invariants.gone(runner.worker.id)
        self._starts.forget(runner)
        others = [other for other in place.runners if other is not runner and other.worker.intent is None]
        unlucky = death.cause is Cause.PORT_TAKEN and place.slot.lost_port()
        if self._replacing.is_successor(runner):
            self._replacing.end()
            if not unlucky and death.by is not By.PERSON:
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

    def _place(self, runner: Runner) -> Place:
        return self._places[runner.worker.id.slot]

    # -- slots

    def _fit(self, number: int, *, standby: bool) -> None:
        """Have so many slots in this role."""
        filled = [place for place in self._places.values() if place.wanted and place.standby is standby]
        if len(filled) > number:
            for place in sorted(filled, key=lambda one: one.dispensability, reverse=True)[: len(filled) - number]:
                self._leave(place)
        free = itertools.filterfalse(self._is_taken, itertools.count())
        for lowest in itertools.islice(free, max(0, number - len(filled))):
            self._occupy(lowest, standby)

    def _occupy(self, number: int, standby: bool) -> None:
        """Fill a slot that is free."""
        if number not in self._places:
            self._places[number] = Place(number, self._output(self.spec.name, number))
        place = self._places[number]
        place.wanted, place.standby = True, standby
        self._invariants.occupied(number)
        self._add(place, None)

    def _is_taken(self, number: int) -> bool:
        return number in self._places and self._places[number].wanted

    def _leave(self, place: Place) -> None:
        place.wanted = False
        self._invariants.left(place.slot.number)
        if place.retry is not None:
            place.retry.cancel()
        if self._replacing.place is place:
            self._replacing.end()
        cause = Cause.SCALED_DOWN if self._may_run else Cause.STOPPED
        for runner in tuple(place.runners):
            self._stop(runner, cause)

    def _stop(self, runner: Runner, cause: Cause) -> None:
        settings = self.spec.pool
        grace = settings.drain_timeout + settings.stop_timeout + _KILL_MARGIN
        self._invariants.stopping(runner.worker.id, self._with.clock.monotonic() + grace)
        self._starts.forget(runner)
        runner.stop(cause, settings.stop_timeout)
        if runner.worker.state is _S.EXITED:
            self._place(runner).runners.remove(runner)

    def _add(self, place: Place, before: WorkerState | None) -> None:
        worker = Worker(WorkerId(self.spec.name, place.slot.number, place.slot.next_generation()))
        runner = Runner(worker, self, self._with, place.output, self._sockets)
        place.runners.append(runner)
        place.luck = self._rng.random()
        self._starts.wait(runner)
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
        self._invariants.waits(place.slot.number, self._with.clock.monotonic() + verdict.delay)
        runner.wait(verdict.state, verdict.delay, verdict.why)
        place.retry = Timer(self._with.clock, verdict.delay, partial(self._retry, place))

    def _retry(self, place: Place) -> None:
        self._refill(place)
        self._admit()

    def _forgive(self, place: Place) -> None:
        """Try a slot that waits at once, as if nothing had happened."""
        place.slot.forgive()
        self._invariants.forgiven(place.slot.number)
        self._refill(place)

    def _forgive_waiting(self) -> None:
        for place in self._places.values():
            if place.wanted and place.waits:
                self._forgive(place)

    def _admit(self) -> None:
        """Begin the next replacement, and start those whose turn has come."""
        if self._rollout.current is None:
            return
        if self._replacing.may_begin:
            self._begin_replacement()
        while (runner := self._starts.next(self.spec.pool.concurrent_starts)) is not None:
            self._start(runner)

    def _start(self, runner: Runner) -> None:
        revision = self._rollout.current
        tries = self._replacing.cause is Cause.RELOADED and self._replacing.is_successor(runner)
        if self._rollout.trial is not None and tries:
            revision = self._rollout.trial
        assert revision is not None
        runner.worker.revision = revision.number
        self._invariants.started(runner.worker.id, self._with.clock.monotonic(), self._most_live)
        runner.start(revision.program)

    @property
    def _most_live(self) -> int:
        return self.spec.pool.max_workers + self.spec.pool.standby + self._replacing.is_under_way

    # -- standbys

    def _relieve(self) -> None:
        """Let READY standbys serve instead of slots that are down."""
        if not self.spec.pool.standby:
            return
        down = [place for place in self._places.values() if place.is_down and not place.standby]
        spares = (runner for place in self._places.values() if (runner := place.spare) is not None)
        for place, runner in zip(down, spares, strict=False):
            self._promote(runner, place)

    def _promote(self, spare: Runner, down: Place) -> None:
        """They change roles: the slot that is down is a standby's now."""
        down.standby, self._place(spare).standby = True, False
        spare.promote()
        self._starts.let_serve()
        outage = down.slot.relieved()
        if outage is not None:
            self._tell_healed(spare, *outage, promoted=True)

    # -- replacing

    def _begin_replacement(self) -> None:
        """Add a successor beside a worker that is not well, runs something else than it should, or has served all that
        it may. In this order: there may always be some that have."""
        unwell = self._unwell.next()
        if unwell is not None:
            self._replace(unwell, Cause.UNHEALTHY)
            return
        wanted = self._rollout.wanted
        if self._rollout.rolling and wanted is not None:
            places = (place for _, place in sorted(self._places.items()) if place.is_replaceable)
            outdated = next((place for place in places if place.newest.worker.revision != wanted.number), None)
            if outdated is not None:
                self._replace(outdated, Cause.RELOADED)
                return
        spent = self._recycling.next()
        if spent is not None:
            self._replace(spent, Cause.RECYCLED)

    def _replace(self, place: Place, cause: Cause) -> None:
        self._replacing.begin(place, cause)
        self._add(place, None)

    def _take_over(self, place: Place, runner: Runner) -> None:
        """A worker is READY: if it is a successor, the worker before it is not needed any more."""
        cause = self._replacing.cause
        if cause is not None and self._replacing.is_successor(runner):
            self._replacing.end()
            self._replacing.forget_failures()
            for older in tuple(place.runners[:-1]):
                self._stop(older, cause)

    def _give_up(self, successor: Runner, others: list[Runner], death: Death) -> None:
        """A successor did not get ready: the worker that it was to replace stays, and a reload goes no further."""
        trial = self._rollout.trial
        if trial is not None and trial.number == successor.worker.revision:
            self._rollout.refuse()
            self._programs.tell_reload(
                "refused", f"{self.spec.name} goes on with what it had: {_why(successor, death)}"
            )
        for kept in others:
            kept.worker.not_replaced(death.at)
            text = f"{kept.worker.id}: the replacement did not get ready; pid {kept.worker.pid} stays"
            self._tell(EventKind.NOTE, text, slot=kept.worker.id.slot)
        self._replacing.failed(self.spec.pool, self._rng)

    def _finish_rollout(self) -> None:
        """A change is done when nothing else runs any more, and something of it has run, if anything is to run."""
        rollout = self._rollout
        if not rollout.rolling or rollout.trial is not None or rollout.current is None:
            return
        wanted = [place for place in self._places.values() if place.wanted]
        outdated = any(one.is_replaceable and one.newest.worker.revision != rollout.current.number for one in wanted)
        if not self._replacing.is_under_way and not outdated and (rollout.proved or not wanted):
            rollout.done()
            self._programs.tell_reload("done", f"{self.spec.name} runs nothing but what is new")

    def _on_prepared(self, step: Step) -> None:
        if step is not Step.NOTHING:
            self._replacing.forget_failures()
        if step is Step.ADOPT:
            self._forgive_waiting()
        self.reconcile()

    def _serves(self) -> bool:
        return any(place.wanted and place.serves for place in self._places.values())

    # -- events

    def _tell(self, kind: EventKind, text: str, **fields: Any) -> None:
        self._with.events.emit(kind, text, app=self.spec.name, **fields)

    def _tell_healed(self, runner: Runner, death: Death, lost: int, *, promoted: bool = False) -> None:
        worker = runner.worker
        photo = healing.photo(death, lost, worker, self._with.clock.monotonic(), promoted=promoted)
        self._tell(
            EventKind.HEALED,
            healing.sentence(photo, worker, routed=runner.routed),
            slot=worker.id.slot,
            generation=worker.id.generation,
            pid=worker.pid,
            data=photo,
        )


def _why(runner: Runner, death: Death) -> str:
    """Why it did not get ready, with its own last words, if it had any."""
    how = runner.view().why if death.by is By.LAB else f"{runner.worker.id} {death.sentence}."
    return f"{how} Its last words: {runner.last_words}" if runner.last_words else how
