"""`PoolManager`, the contract that every pool backend fulfils. It is about desired state, so that a container engine or
an init system fits behind it as well as the lab's own fork server: `apply`, `observe`, `signal`; a PID is optional.

The pool never meets the proxy. It speaks of endpoints through `Routing`, which the engine hands in.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from lab.core.model import AppSpec, Contract, Endpoint, WorkerId
from lab.core.program import CgiProgram
from lab.core.states import WorkerState


class Routing(Protocol):
    """Where READY endpoints go. The engine implements it on top of the proxy. All calls are on the engine's loop."""

    def add(self, endpoint: Endpoint) -> None:
        """Requests may reach this endpoint from now on."""
        ...

    def remove(self, endpoint: Endpoint) -> None:
        """No further request may reach it. Those in flight go on."""
        ...

    async def drained(self, endpoint: Endpoint, timeout: float) -> bool:
        """Wait until nothing is in flight to a removed endpoint; False when `timeout` seconds were not enough."""
        ...

    def in_flight(self, endpoint: Endpoint) -> int:
        """Requests that the proxy has open to it now."""
        ...

    def inside(self, endpoint: Endpoint) -> int:
        """Requests inside its worker, whose end was told just now: those that it has, and those that broke with it."""
        ...

    def busy_since(self, endpoint: Endpoint) -> float | None:
        """Monotonic time since which the oldest request in flight occupies it; None when idle."""
        ...

    def acquire(self, endpoint: Endpoint) -> bool:
        """Take one of its `concurrency` places for a probe; False when all are taken."""
        ...

    def release(self, endpoint: Endpoint) -> None:
        """Give the place back."""
        ...

    def served(self, endpoint: Endpoint) -> int:
        """Requests that it has answered or failed since it was added."""
        ...

    def idle_since(self, endpoint: Endpoint) -> float | None:
        """Monotonic time at which its last request ended, or at which it was added; None while it is busy."""
        ...


class Stack(msgspec.Struct, frozen=True):
    """What a process was doing at one instant, in lines of text, and who saw it."""

    lines: tuple[str, ...] = ()
    seen_by: str = ""
    """`py-spy` or `kernel`."""


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """A slot as the pool sees it. CPU and memory come from the kernel, at most one second old, or in
    pools of over a hundred workers one second for each hundred."""

    worker: WorkerId
    state: WorkerState
    pid: int | None
    stopped: bool
    endpoint: Endpoint | None
    restarts: int
    started_at: float | None
    """Monotonic time of the fork."""
    cpu_percent: float | None
    rss_bytes: int | None
    retry_at: float | None
    why: str
    standby: bool = False
    """READY, but kept out of the upstream until another worker dies."""


class AppView(msgspec.Struct, frozen=True, kw_only=True):
    """A pool as it is."""

    name: str
    wanted: int
    workers: tuple[WorkerView, ...]
    """In the order of slots. A slot that is being replaced or scaled away stays until its process is gone."""
    unavailable: str | None
    building: bool
    changing: bool = False
    """Its program is being looked at, or workers of another one are on their way."""
    protocol: Contract = Contract.HTTP_PORT
    """How its workers get their socket: the app's own word, else its language's."""
    max_reached: int = 0
    """How often the pool came to its `max_workers` and could have used more."""
    breaches: tuple[str, ...] = ()
    """Names of invariants that this pool has broken, as `core.snapshot.Invariants` has them; empty is well."""


class PoolView(msgspec.Struct, frozen=True, kw_only=True):
    """All pools as they are."""

    apps: tuple[AppView, ...]
    zombies: int
    """Children of the fork server that have been zombies for over a second."""


class RunningProcess(Protocol):
    """A process beside the pool that the backend started."""

    @property
    def pid(self) -> int: ...

    def signal(self, number: int, group: bool = False) -> None:
        """Send a signal to it, or to its whole process group. Does nothing when it is gone."""
        ...

    async def wait(self) -> int:
        """Its exit status as `os.waitstatus_to_exitcode` has it: negative for a signal."""
        ...

    def last_words(self) -> str:
        """Once it has ended: the last lines of its output, in one; empty if it wrote none."""
        ...


class PoolManager(Protocol):
    """A backend that runs workers. Constructed without side effects; `start` and `close` bracket its life."""

    async def start(self) -> None:
        """Make ready to run workers. Called once, on the loop that all other calls come from."""
        ...

    async def apply(self, apps: tuple[AppSpec, ...]) -> None:
        """Make these apps the desired state and return at once; the change goes on by itself and is told in events.

        An app that is new is started, one that is missing is drained and stopped. One whose program or environment
        changed is replaced worker by worker; other settings take effect on the running workers.
        """
        ...

    def observe(self) -> PoolView:
        """All pools as they are now."""
        ...

    def signal(self, worker: WorkerId, signal: int) -> int:
        """Send `signal` to a worker on a person's order; returns the PID it went to.

        Raises `UnknownTargetError` when that generation has no process any more.
        """
        ...

    def heal(self) -> int:
        """Thaw stopped workers, end back-off, try FAILED slots again; returns how many slots were helped."""
        ...

    def output(self, app: str, slot: int) -> tuple[str, ...]:
        """The last lines the slot's workers wrote, oldest first."""
        ...

    async def gone(self, app: str) -> None:
        """Wait until an app that is no longer applied has no process left."""
        ...

    def reload(self, app: str) -> None:
        """Replace every worker of an app, one after the other, each drained only when its successor is READY."""
        ...

    def starved(self, app: str) -> None:
        """A request found no idle worker of `app`. Policies that start workers on demand act on it at once."""
        ...

    async def stack(self, worker: WorkerId) -> Stack:
        """What a worker is doing now; empty when it has no process, or where a backend cannot look."""
        ...

    async def cgi(self, app: str, env: dict[str, str]) -> CgiProgram:
        """Start the program of an app whose contract is `cgi`, with exactly this environment: a `StartCgi`."""
        ...

    async def run(
        self,
        name: str,
        argv: tuple[str, ...],
        env: dict[str, str],
        cwd: str | None,
        on_line: Callable[[str], None],
    ) -> RunningProcess:
        """Start a process beside the pool, in its own session, stdin from /dev/null, stdout and stderr to a log file
        called after its `name`.

        `{report_fd}` in `argv` becomes the number of a pipe; `on_line` is called with each line written to it.
        """
        ...

    async def close(self) -> None:
        """Stop every worker and process, gracefully and then by force, and return when none is left.

        Also called for a pool that was not started.
        """
        ...

    def abandon(self) -> None:
        """Kill every worker and process at once, because the loop does nothing any more, and return when none is left.

        Called by another thread, and nothing is called afterwards.
        """
        ...
