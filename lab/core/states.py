"""The life of a worker, as a table. Whatever is not in the table cannot happen."""

from enum import StrEnum

from lab.core.errors import IllegalTransitionError


class WorkerState(StrEnum):
    """Where a slot's worker stands. *Stopped* (SIGSTOP) is a kernel fact shown beside the state, not a state."""

    PENDING = "pending"
    """The slot waits for its turn to start a process."""
    STARTING = "starting"
    """A process was forked; no probe has passed yet."""
    READY = "ready"
    """A probe passed and the listening socket belongs to the worker."""
    UNHEALTHY = "unhealthy"
    """It was READY and stopped answering probes. No requests are routed to it."""
    DRAINING = "draining"
    """No new requests; those in flight are finished."""
    STOPPING = "stopping"
    """SIGTERM was sent; the grace period runs."""
    KILLING = "killing"
    """The grace period ran out; SIGKILL was sent."""
    EXITED = "exited"
    """The process is gone. The slot decides what follows."""
    BACKOFF = "backoff"
    """The slot waits before it tries again."""
    FAILED = "failed"
    """Too many failed starts in a row: respawning stopped until a later half-open try or a person's word."""


class Cause(StrEnum):
    """Why a worker's process ended."""

    CRASHED = "crashed"
    """It exited or died of a signal that nobody outside it is known to have sent."""
    PORT_TAKEN = "port_taken"
    """While it started, another process had the port that it was given."""
    KILLED = "killed"
    """A signal: ordered through the lab, or SIGKILL/SIGTERM from outside."""
    SCALED_DOWN = "scaled_down"
    RECYCLED = "recycled"
    UNHEALTHY = "unhealthy"
    STOPPED = "stopped"
    RELOADED = "reloaded"


DELIBERATE = frozenset({Cause.SCALED_DOWN, Cause.RECYCLED, Cause.STOPPED, Cause.RELOADED})
"""Ends that the pool's settings, or a person, asked the pool for: no fault, and no alarm."""


class EndpointHealth(StrEnum):
    """What the proxy thinks of an endpoint in its upstream. It goes by answers alone and knows no process."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    """It failed the proxy's health check."""
    EJECTED = "ejected"
    """It failed requests, and is sent none until its time is over."""


class BreakerState(StrEnum):
    """A circuit breaker's."""

    CLOSED = "closed"
    """Requests pass."""
    OPEN = "open"
    """Every request is answered with 503 at once."""
    HALF_OPEN = "half_open"
    """One request passes as a probe; the others are answered with 503."""


class Policy(StrEnum):
    """How many workers a pool keeps. Names and meaning as in PHP-FPM."""

    STATIC = "static"
    """Always `max_workers`."""
    DYNAMIC = "dynamic"
    """Between `min_workers` and `max_workers`, so that `min_spare` to `max_spare` are idle."""
    ONDEMAND = "ondemand"
    """None at first; a request that finds no idle worker starts one, and one that is idle for long is stopped."""


class ServiceState(StrEnum):
    """The life of a process beside the pool."""

    WAITING = "waiting"
    """What it needs is not healthy yet."""
    STARTING = "starting"
    """It runs; no check has passed yet."""
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    """It runs, but its checks fail."""
    BACKOFF = "backoff"
    """It ended and is started again after a while."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    """It ended, and is not started again."""


_S = WorkerState

TRANSITIONS: dict[WorkerState, frozenset[WorkerState]] = {
    _S.PENDING: frozenset({_S.STARTING, _S.EXITED}),
    _S.STARTING: frozenset({_S.READY, _S.STOPPING, _S.KILLING, _S.EXITED}),
    _S.READY: frozenset({_S.UNHEALTHY, _S.DRAINING, _S.STOPPING, _S.KILLING, _S.EXITED}),
    _S.UNHEALTHY: frozenset({_S.READY, _S.DRAINING, _S.STOPPING, _S.KILLING, _S.EXITED}),
    _S.DRAINING: frozenset({_S.STOPPING, _S.KILLING, _S.EXITED}),
    _S.STOPPING: frozenset({_S.KILLING, _S.EXITED}),
    _S.KILLING: frozenset({_S.EXITED}),
    _S.EXITED: frozenset({_S.PENDING, _S.BACKOFF, _S.FAILED}),
    _S.BACKOFF: frozenset({_S.PENDING, _S.EXITED}),
    _S.FAILED: frozenset({_S.PENDING, _S.EXITED}),
}
"""For each state, the states that may follow. A worker that was never started leaves PENDING for EXITED directly."""

LIVE = frozenset({_S.STARTING, _S.READY, _S.UNHEALTHY, _S.DRAINING, _S.STOPPING, _S.KILLING})
"""States in which a process exists."""


def advance(old: WorkerState, new: WorkerState) -> WorkerState:
    """`new`, if it may follow `old`; otherwise `IllegalTransitionError`."""
    if new not in TRANSITIONS[old]:
        expected = ", ".join(sorted(TRANSITIONS[old]))
        raise IllegalTransitionError(f"A worker cannot go from {old} to {new}; expected one of: {expected}.")
    return new
