"""A slot with the workers in it, and what the supervisor asks about them."""

from lab.core.states import WorkerState
from lab.core.timers import Timer
from lab.pool.output import SlotOutput
from lab.pool.runner import Runner
from lab.pool.slot import Slot

_S = WorkerState
_SERVING = frozenset({_S.READY, _S.UNHEALTHY})
_WAITING = frozenset({_S.BACKOFF, _S.FAILED})


class Place:
    """A slot with the workers in it, oldest first: one, or two while the newer one replaces the older."""

    def __init__(self, number: int, output: SlotOutput) -> None:
        self.slot = Slot(number)
        self.output = output
        self.runners: list[Runner] = []
        self.wanted = False
        """It is to have a worker."""
        self.standby = False
        """Its worker gets no requests, until it takes the place of another one. A role: it may change at any time."""
        self.luck = 0.0
        """Of its newest worker, from 0 to 1: how much longer than `max_requests` it may live."""
        self.retry: Timer | None = None

    @property
    def newest(self) -> Runner:
        """The worker that carries the slot on."""
        return self.runners[-1]

    @property
    def dispensability(self) -> tuple[int, int]:
        """The higher, the sooner it is scaled away: slots that do not serve first, then idle ones, then by number."""
        ready = self.ready
        return 2 if ready is None else int(ready.is_idle), self.slot.number

    @property
    def ready(self) -> Runner | None:
        """Its worker that is READY and wanted."""
        return next((one for one in self.runners if one.worker.state is _S.READY), None)

    @property
    def spare(self) -> Runner | None:
        """Its worker, if it stands by and can serve at once: what would a frozen one be good for?"""
        ready = self.ready if self.standby and self.wanted else None
        return ready if ready is not None and not ready.worker.stopped else None

    @property
    def serves(self) -> bool:
        """It holds a worker that got READY and is wanted."""
        return any(one.worker.state in _SERVING for one in self.runners)

    @property
    def waits(self) -> bool:
        """Its worker died, and it waits before it tries again."""
        return bool(self.runners) and self.newest.worker.state in _WAITING

    @property
    def has_failed(self) -> bool:
        """It waits because too many starts failed."""
        return bool(self.runners) and self.newest.worker.state is _S.FAILED

    @property
    def is_starting(self) -> bool:
        """Its worker is not READY yet, and no other serves in the meantime."""
        return bool(self.runners) and self.newest.worker.state in (_S.PENDING, _S.STARTING) and not self.serves

    @property
    def is_down(self) -> bool:
        """It is to serve and does not, because of a death."""
        return self.wanted and not self.serves and (self.slot.outage is not None or self.waits)

    @property
    def is_replaceable(self) -> bool:
        """It holds a worker that was started and is wanted."""
        return self.wanted and bool(self.runners) and self.newest.worker.is_live and self.newest.worker.intent is None
