"""One worker's life as a pure state machine: things that happened go in, things to do come out. No I/O, no clock.

Intent is recorded before anything is heard of what comes of it: `stop` is called before the signal is sent, `ordered`
in the turn of the loop in which it was, so that whatever the process does next is judged rightly. A stop that was asked
for is never a crash, and an order that came too late has killed nobody.
"""

import signal
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from lab.core.model import Liveness, WorkerId
from lab.core.states import LIVE, Cause, WorkerState, advance

_S = WorkerState
_HARMLESS = frozenset({signal.SIGSTOP, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH, signal.SIGURG, signal.SIGCHLD})
_ANSWERED_WITHIN = 30.0
"""Seconds. Whoever exits later than that after a signal does so for another reason."""
_ASKS_TO_END = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})


class Action(Enum):
    """What has to be done after a step, in the order given."""

    FORK = auto()
    PROBE = auto()
    """Ask it until it is ready, then how it is at each interval; start the start timer."""
    ROUTE = auto()
    UNROUTE = auto()
    DRAIN = auto()
    """Wait for requests in flight, then call `drained`."""
    TERMINATE = auto()
    """SIGTERM to the group; start the grace timer."""
    KILL = auto()
    """SIGKILL to the group."""


class By(StrEnum):
    """Who ended a process."""

    PERSON = "person"
    LAB = "lab"
    OUTSIDE = "outside"
    ITSELF = "itself"


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker's process ended. A worker that could not even be executed died too: `pid` and `status` are None."""

    at: float
    pid: int | None
    status: int | None
    """As `os.waitstatus_to_exitcode` has it."""
    cause: Cause
    by: By
    ready_at: float | None
    """When it had become READY, if ever."""
    signal_at: float | None
    """When a person's deadly signal was sent, if that ended it."""

    @property
    def signal(self) -> str | None:
        """The name of the signal that ended it."""
        return signal_name(-self.status) if self.status is not None and self.status < 0 else None

    @property
    def exit_code(self) -> int | None:
        """Its exit code, if it exited."""
        return self.status if self.status is not None and self.status >= 0 else None

    @property
    def told(self) -> str:
        """How it ended in a few words: `SIGKILL` or `exit code 1`."""
        return self.signal or f"exit code {self.exit_code}"

    @property
    def sentence(self) -> str:
        """The end of a sentence about the worker: `died: SIGKILL (sent by you)`."""
        if self.by is By.LAB:
            return f"ended: {self.told} ({self.cause.replace('_', ' ')})"
        if self.by is By.ITSELF:
            return f"died: {self.told}"
        if self.signal is None:
            return f"ended: {self.told} (after a signal sent by you)"
        return f"died: {self.told} ({'sent by you' if self.by is By.PERSON else 'sent from outside the lab'})"


class Worker:
    """The machine. Each method is something that happened and returns what to do; `state` has moved on already."""

    def __init__(self, identity: WorkerId) -> None:
        self.id = identity
        self.state = _S.PENDING
        self.pid: int | None = None
        self.forked_at: float | None = None
        self.ready_at: float | None = None
        self.unhealthy_at: float | None = None
        self.stopped = False
        """A kernel fact beside the state."""
        self.revision = 0
        """Which revision of its app it runs; 0 before it is started."""
        self.intent: Cause | None = None
        """Why it was asked to stop; None while it is wanted."""
        self.asked = False
        """It was asked of the fork server."""
        self._late = False
        self._orders: dict[int, float] = {}
        self._failed_probes = 0
        self._passed_probes = 0

    @property
    def is_live(self) -> bool:
        """There is a process, or there will be one any moment."""
        return self.state in LIVE or (self.state is _S.PENDING and self.asked)

    @property
    def is_starting(self) -> bool:
        """It is being started."""
        return self.state is _S.STARTING or (self.state is _S.PENDING and self.asked)

    def start(self) -> tuple[Action, ...]:
        """Its turn came."""
        self.asked = True
        return (Action.FORK,)

    def forked(self, pid: int, at: float) -> tuple[Action, ...]:
        """The process exists since `at`. If it was asked to stop meanwhile, `drained` follows at once."""
        self._go(_S.STARTING)
        self.pid, self.forked_at = pid, at
        return () if self.intent is not None else (Action.PROBE,)

    def passed(self, at: float) -> tuple[Action, ...]:
        """The start probe passed."""
        self._go(_S.READY)
        self.ready_at = at
        return (Action.ROUTE,)

    def probed(self, well: bool, at: float, liveness: Liveness) -> tuple[Action, ...]:
        """A liveness probe ended."""
        if well:
            self._failed_probes = 0
            self._passed_probes += 1
            if self.state is _S.UNHEALTHY and self._passed_probes >= liveness.rise:
                return self._recover()
            return ()
        self._passed_probes = 0
        self._failed_probes += 1
        if self.state is _S.READY and self._failed_probes >= liveness.fall:
            return self.hung(at)
        return ()

    def hung(self, at: float) -> tuple[Action, ...]:
        """A READY worker is not well, by its probes or because one request has occupied it for too long."""
        self._go(_S.UNHEALTHY)
        self.unhealthy_at = at
        self._passed_probes = 0
        return (Action.UNROUTE,)

    def not_replaced(self, at: float) -> None:
        """Its replacement did not get ready: it has to stay, and to wait before another one is tried."""
        if self.unhealthy_at is not None:
            self.unhealthy_at = at

    def stop(self, cause: Cause) -> tuple[Action, ...]:
        """It is not wanted any more. The first cause stands."""
        if self.intent is not None or self.state is _S.EXITED:
            return ()
        self.intent = cause
        if self.state is _S.READY:
            self._go(_S.DRAINING)
            return (Action.UNROUTE, Action.DRAIN)
        if self.state is _S.UNHEALTHY:
            self._go(_S.DRAINING)
            return (Action.DRAIN,)
        if self.state is _S.STARTING:
            return self._terminate()
        if not self.is_live:
            self._go(_S.EXITED)
        return ()

    def drained(self) -> tuple[Action, ...]:
        """Nothing is in flight (any more), or the wait for it was long enough."""
        return self._terminate()

    def overdue(self) -> tuple[Action, ...]:
        """It did not become ready in time, or did not end within its grace."""
        self._late = self.state is _S.STARTING
        self._go(_S.KILLING)
        return (Action.KILL,)

    def ordered(self, number: int, at: float) -> None:
        """A person has sent it this signal."""
        if number not in _HARMLESS:
            self._orders[number] = at

    def exited(self, status: int | None, at: float, *, port_taken: bool = False) -> Death:
        """The process is gone, or (`status` None) could not be executed. `port_taken`: another process has its port."""
        cause, by, signal_at = self._judge(status, at)
        if port_taken and cause is Cause.CRASHED:
            cause = Cause.PORT_TAKEN
        self._go(_S.EXITED)
        self.stopped = False
        return Death(at, self.pid, status, cause, by, self.ready_at, signal_at)

    def wait(self, state: WorkerState) -> None:
        """Its slot waits, in BACKOFF or FAILED, before the next generation."""
        self._go(state)
        self.pid = self.forked_at = None

    def make_way(self) -> None:
        """Its slot is filled again: a new machine, PENDING, takes its place."""
        advance(self.state, _S.PENDING)

    def _judge(self, status: int | None, now: float) -> tuple[Cause, By, float | None]:
        if self.intent is not None:
            return self.intent, By.LAB, None
        if self._late:
            return Cause.UNHEALTHY, By.LAB, None
        ended_by = -status if status is not None and status < 0 else None
        if ended_by in self._orders:
            return Cause.KILLED, By.PERSON, self._orders[ended_by]
        since = now - _ANSWERED_WITHIN
        asked = [at for number, at in self._orders.items() if number in _ASKS_TO_END and at >= since]
        if ended_by is None and asked:  # it handled the signal and exited by itself
            return Cause.KILLED, By.PERSON, max(asked)
        if ended_by in (signal.SIGKILL, signal.SIGTERM):
            return Cause.KILLED, By.OUTSIDE, None
        return Cause.CRASHED, By.ITSELF, None

    def _recover(self) -> tuple[Action, ...]:
        self._go(_S.READY)
        self.unhealthy_at = None
        return (Action.ROUTE,)

    def _terminate(self) -> tuple[Action, ...]:
        self._go(_S.STOPPING)
        return (Action.TERMINATE,)

    def _go(self, state: WorkerState) -> None:
        self.state = advance(self.state, state)


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; `signal 64` for one that has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
