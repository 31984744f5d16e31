"""What one pool must never do, watched while it runs. Pure: it hears what was done, and judges it by rules of its own.

It keeps its own books and asks none of the pool's, so that a mistake there is a breach here. The names of breaches are
those of `core.snapshot.Invariants`, which says what each means.
"""

from collections.abc import Iterable
from typing import ClassVar

from lab.core.model import WorkerId

_SLACK = 0.005
"""Seconds. uvloop keeps time in whole milliseconds, counted from when its turn began."""


class PoolInvariants:
    """The books of one pool. Times are monotonic seconds."""

    REMEMBERED: ClassVar[float] = 10.0
    """Seconds for which a breach is told after it was seen."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}
        self._occupied: set[int] = set()
        self._live: set[WorkerId] = set()
        self._stopping: dict[WorkerId, float] = {}
        """When each that was asked to end has to be gone."""
        self._not_before: dict[int, float] = {}
        """Until when slots are to wait."""
        self._looked_at = 0.0

    def occupied(self, slot: int) -> None:
        """The slot is to have a worker from now on."""
        self._occupied.add(slot)

    def left(self, slot: int) -> None:
        """The slot is to have none any more."""
        self._occupied.discard(slot)
        self.forgiven(slot)

    def waits(self, slot: int, until: float) -> None:
        """The slot is not to be filled again before that."""
        self._not_before[slot] = until

    def forgiven(self, slot: int) -> None:
        """The slot need not wait any longer."""
        self._not_before.pop(slot, None)

    def started(self, worker: WorkerId, now: float, most: int) -> None:
        """A process was asked for. `most` is how many live workers there may be with it."""
        self._live.add(worker)
        if len(self._live) > most:
            self._breach("within_bounds", now)
        if worker.slot not in self._occupied or worker in self._stopping:
            self._breach("stops_are_final", now)
        if now < self._not_before.pop(worker.slot, now) - _SLACK:
            self._breach("backoff_kept", now)

    def stopping(self, worker: WorkerId, until: float) -> None:
        """It was asked to end, and has to be gone by then. It counts as live no more: it is being drained."""
        if worker in self._live:
            self._live.discard(worker)
            self._stopping[worker] = until

    def gone(self, worker: WorkerId) -> None:
        """Its process is gone."""
        self._live.discard(worker)
        self._stopping.pop(worker, None)

    def look(self, now: float, most: int, due: Iterable[float], hung: bool) -> None:
        """Called regularly. `due`: when each worker's next probe was to begin; `hung`: whether a worker hangs.

        A probe is late if it was due at the look before this one already: then the loop has had time for it.
        """
        if len(self._live) > most:
            self._breach("within_bounds", now)
        if any(until < now for until in self._stopping.values()):
            self._breach("stops_are_final", now)
        if hung and any(one < self._looked_at for one in due):
            self._breach("probes_on_time", now)
        self._looked_at = now

    def breaches(self, now: float) -> tuple[str, ...]:
        """The names of what was broken within the last ten seconds."""
        return tuple(sorted(name for name, at in self._seen.items() if now - at < self.REMEMBERED))

    def _breach(self, name: str, now: float) -> None:
        self._seen[name] = now
