"""Whom a command means: PID, APP, APP/SLOT or `random`, resolved against the pool as it is."""

import random
import signal
from collections.abc import Iterable

from lab.core.errors import NotPossibleError, UnknownTargetError
from lab.core.states import LIVE
from lab.pool.manager import PoolView, WorkerView

RANDOM = "random"


def resolve(target: str, pool: PoolView, rng: random.Random) -> tuple[WorkerView, ...]:
    """The live workers that `target` names; for `RANDOM`, all of them in a random order: the first one that can be hit
    is meant. Raises `UnknownTargetError` that lists what there is."""
    live = [worker for app in pool.apps for worker in app.workers if worker.pid is not None and worker.state in LIVE]
    if target == RANDOM:
        found = rng.sample(live, len(live))
    elif target.isdecimal():
        found = [worker for worker in live if str(worker.pid) == target]
    elif "/" in target:
        found = _newest(worker for worker in live if str(worker.worker) == target)
    else:
        found = [worker for worker in live if worker.worker.app == target]
    if not found:
        there = ", ".join(f"{worker.worker} ({worker.pid})" for worker in live) or "none"
        raise UnknownTargetError(
            f"No worker of this lab is called {target!r}.", f"Give a PID, APP, APP/SLOT or random. Running: {there}."
        )
    return tuple(found)


def signal_number(name: str) -> signal.Signals:
    """`SIGKILL`, `KILL`, `kill` or `9` as a signal. Raises `NotPossibleError`."""
    try:
        if name.isdecimal():
            return signal.Signals(int(name))
        upper = name.upper()
        return signal.Signals[upper if upper.startswith("SIG") else f"SIG{upper}"]
    except (KeyError, ValueError) as error:
        raise NotPossibleError(
            f"Found signal {name!r}; expected a name such as SIGKILL, SIGTERM or SIGSTOP."
        ) from error


def _newest(workers: Iterable[WorkerView]) -> list[WorkerView]:
    """While a worker is replaced, its slot holds two: the newer one is meant."""
    return sorted(workers, key=lambda worker: worker.worker.generation)[-1:]
