"""The lab at one instant, as one immutable value. `cgilab status --json` is this value, encoded.

Its shape is published as snapshot.schema.json, which `python -m lab.core.snapshot` prints.

Milliseconds and rates are over the last ten seconds, counters since the lab began. None means: not measured.
"""

import sys

import msgspec

from lab.core.schema import published
from lab.core.states import WorkerState


class WorkerSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One slot and the process in it."""

    slot: int
    generation: int
    pid: int | None
    """None while the slot has no process (pending, backoff, failed)."""
    state: WorkerState
    stopped: bool
    """A kernel fact: the process is stopped (SIGSTOP), whatever `state` says."""
    endpoint: str | None
    routed: bool
    """The balancer may send it requests."""
    requests: int
    """Answered by this process since it was forked."""
    in_flight: int
    restarts: int
    """Generations before this one, in this slot."""
    uptime_s: float | None
    cpu_percent: float | None
    rss_bytes: int | None
    rps: float
    p50_ms: float | None
    p99_ms: float | None
    retry_in_s: float | None = None
    """Seconds until the slot tries again, while it waits in back-off or after failing."""
    why: str = ""
    """Why it is not serving, in one sentence; empty when it is."""


class AppSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One app and its pool."""

    name: str
    route: str
    language: str
    policy: str
    selection: str
    concurrency: int
    wanted: int
    """Workers that the policy asks for."""
    workers: tuple[WorkerSnapshot, ...]
    queue: int
    """Requests that wait in the proxy."""
    rps: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    unavailable: str | None = None
    """Why the app cannot run here, with the command that changes it; None when it can."""
    building: bool = False


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Every accepted request ends in exactly one of answered, failed, shed, abandoned."""

    accepted: int = 0
    answered: int = 0
    """By a worker with any status, or by the gateway with a 4xx."""
    failed: int = 0
    """5xx made by the gateway."""
    shed: int = 0
    """429 or 503 by a limit."""
    abandoned: int = 0
    """The client left first."""
    in_flight: int = 0
    retries: int = 0
    rps: float = 0.0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None


class Invariants(msgspec.Struct, frozen=True, kw_only=True):
    """What must hold at every instant, checked as the snapshot is built."""

    conserved: bool
    """accepted = answered + failed + shed + abandoned + in flight."""
    no_zombies: bool
    """No child of the fork server stayed a zombie for a second."""
    within_bounds: bool
    """No pool has more live workers than it may."""


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """The lab's own requests: real ones, counted apart from everybody else's."""

    rate: float
    """Requests/s that the lab sends itself; 0 when off."""
    totals: Totals


class LabSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a face shows."""

    version: int = 1
    name: str
    listener: str
    uptime_s: float
    at: float
    """Monotonic seconds when this was built."""
    read_only: bool = False
    apps: tuple[AppSnapshot, ...]
    totals: Totals
    """Without the lab's own requests."""
    own: Traffic
    invariants: Invariants
    faults: tuple[()] = ()
    events_next: int
    """The cursor after the newest event."""

    @property
    def port(self) -> int:
        """The port of the listener."""
        return int(self.listener.rpartition(":")[2])

    def app(self, name: str) -> AppSnapshot | None:
        """The app called `name`."""
        return next((app for app in self.apps if app.name == name), None)


if __name__ == "__main__":
    sys.stdout.write(published(LabSnapshot, "The lab at one instant: cgilab status --json"))
