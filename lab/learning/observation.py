"""What a check sees: the lab's snapshots, the events since the step began, and the kernel's own word about a process.

Nothing that a person types is evidence. An observation is one frozen value, so that it can be recorded and judged
again; `names` turns it into the vocabulary of expressions and templates.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from lab.core.events import Event, EventKind
from lab.core.snapshot import AppSnapshot, LabSnapshot, Totals
from lab.core.states import LIVE, Cause, WorkerState
from lab.engine.lab import Answer
from lab.learning.expressions import Facts
from lab.learning.narration import obituary, out_ms
from lab.learning.prose import counted

NAMES = frozenset(
    {
        *("True", "False", "lab", "app", "target", "death", "pids", "answer", "measure", "done", "said"),
        *("conserved", "no_zombies", "within_bounds", "complete"),
        *("worker_replaced", "alive", "stopped", "routed", "live", "in_flight", "count", "len", "distinct"),
    }
)
"""Every name that an expression or a template of a lesson may use."""


def kernel_state(pid: int) -> str | None:
    """The kernel's letter for a process, from /proc/PID/stat (proc(5)): T is stopped, Z a zombie. None: it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return None


class Target(msgspec.Struct, frozen=True):
    """The worker that a step is about."""

    slot: int
    pid: int


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What has been seen since a step began."""

    begun: LabSnapshot
    """The lab as the step began; for a timed step, as its clock started."""
    now: LabSnapshot
    app: str
    title: str
    """The app's language, as a person names it."""
    events: tuple[Event, ...] = ()
    answers: tuple[Answer, ...] = ()
    """To the learner's own requests, since the scene began."""
    target: Target | None = None
    missed: int = 0
    """Events that were overwritten before they could be read."""
    kernel: Callable[[int], str | None] = kernel_state
    """Whom to ask about a process."""

    @property
    def workers(self) -> AppSnapshot | None:
        """The lesson's app in the newest snapshot."""
        return self.now.app(self.app)


def healed(observation: Observation) -> list[Event]:
    """The healings of the lesson's app since the step began, oldest first."""
    return [event for event in observation.events if event.kind is EventKind.HEALED and event.app == observation.app]


def deaths(observation: Observation, cause: str | None = None) -> list[Event]:
    """Processes of the lesson's app that ended, by `cause` if one is given."""
    return [
        event
        for event in observation.events
        if event.kind is EventKind.STATE
        and event.app == observation.app
        and event.state is WorkerState.EXITED
        and cause in (None, event.cause)
    ]


def measure(observation: Observation) -> Facts:
    """The figures of a step; they stay readable later as `done.STEP`."""
    own, before = observation.now.own.totals, observation.begun.own.totals
    healings = healed(observation)
    times = [event.data["heal_ms"] for event in healings if event.data.get("heal_ms") is not None]
    return Facts(
        kills=len(deaths(observation, Cause.KILLED)),
        deaths=len(deaths(observation)),
        heal_ms=float(median(times)) if times else None,
        lost=sum(event.data.get("lost") or 0 for event in healings),
        sent=own.accepted - before.accepted + before.in_flight,
        answered=own.answered - before.answered,
        unanswered=own.accepted - before.accepted + before.in_flight - (own.answered - before.answered),
        ended=_ended(own) - _ended(before) if own.in_flight == 0 else None,
        waits=sum(1 for event in observation.events if event.state is WorkerState.BACKOFF),
        out_ms=out_ms(observation.events, observation.target.pid) if observation.target else None,
    )


def _ended(totals: Totals) -> int:
    return totals.answered + totals.failed + totals.shed + totals.abandoned


def names(
    observation: Observation, done: Mapping[str, Facts], said: Mapping[str, str], measured: Facts | None = None
) -> dict[str, Any]:
    """The vocabulary: a value or a function for each of `NAMES`."""
    app = observation.workers
    workers = app.workers if app else ()
    last = observation.answers[-1] if observation.answers else None
    return {
        "True": True,
        "False": False,
        "lab": Facts(url=observation.now.listener, route=app.route if app else None),
        "app": Facts(
            name=observation.app,
            language=observation.title,
            workers=len(workers),
            pids=tuple(worker.pid for worker in workers if worker.pid is not None),
        ),
        "target": Facts(slot=observation.target.slot, pid=observation.target.pid) if observation.target else None,
        "death": _death(observation),
        "pids": tuple(answer.pid for answer in observation.answers if answer.status == 200),
        "answer": Facts(status=last.status, pid=last.pid, ms=last.ms) if last else None,
        "measure": measured or measure(observation),
        "done": Facts(**{key.replace("-", "_"): facts for key, facts in done.items()}),
        "said": Facts(**said),
        "conserved": observation.now.invariants.conserved,
        "no_zombies": observation.now.invariants.no_zombies,
        "within_bounds": observation.now.invariants.within_bounds,
        "complete": observation.missed == 0 or None,
        **_functions(observation),
    }


def _functions(observation: Observation) -> dict[str, Callable[..., Any]]:
    workers = {one.pid: one for app in observation.now.apps for one in app.workers if one.pid is not None}

    def worker_replaced(app: str, cause: str, by: str | None = None) -> bool:
        """A process of `app` ended by `cause`, and its slot was READY again afterwards."""
        ended = {event.pid for event in deaths(observation, cause) if event.app == app}
        return any(
            event.data.get("old_pid") in ended and by in (None, event.data.get("by")) for event in healed(observation)
        )

    def live(app: str) -> int | None:
        """Processes of `app` that the pool holds alive and the kernel knows."""
        found = observation.now.app(app)
        if found is None:
            return None
        return sum(1 for one in found.workers if one.state in LIVE and one.pid and alive(one.pid))

    def alive(pid: int) -> bool:
        return observation.kernel(pid) not in (None, "Z", "X")

    return {
        "worker_replaced": worker_replaced,
        "live": live,
        "alive": alive,
        "stopped": lambda pid: observation.kernel(pid) in ("T", "t"),
        "routed": lambda pid: pid in workers and workers[pid].routed,
        "in_flight": lambda pid: workers[pid].in_flight if pid in workers else None,
        "count": counted,
        "len": len,
        "distinct": lambda values: tuple(dict.fromkeys(values)),
    }


def _death(observation: Observation) -> Facts | None:
    """The last healing, in the words of templates; None when nobody died in this step."""
    healings = healed(observation)
    if not healings:
        return None
    last = healings[-1]
    return Facts(
        pid=last.data.get("old_pid"),
        signal=last.data.get("death"),
        by=last.data.get("by"),
        slot=last.slot,
        new_pid=last.pid,
        heal_ms=last.data.get("heal_ms"),
        lost=last.data.get("lost"),
        told=obituary(last),
    )
