"""`Lab`, the one contract between the engine and every face: commands in, snapshots and events out.

Two implementations pass the same tests: `LocalLab` (the engine, on a thread of this process) and `RemoteLab` (a client
of the control socket of another process). A face never knows which one it holds.
"""

from typing import Protocol, Self

import msgspec

from lab.core.errors import UnknownTargetError
from lab.core.events import EventBatch
from lab.core.model import AppSpec, ListenerSpec, ProxySettings, RouteSpec, ServiceSpec
from lab.core.snapshot import LabSnapshot
from lab.core.standing import Standing
from lab.core.trace import Trace, Why

DEADLINE = 10.0
"""Seconds that a command may take."""
REQUEST_DEADLINE = 45.0
"""Seconds that `Lab.request` may take: longer than the proxy's own patience."""


class LabSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Desired state as one value. A reload, a lesson's set-up and its restoration are all one `Lab.apply` of this."""

    name: str = "lab"
    listener: ListenerSpec = ListenerSpec()
    apps: tuple[AppSpec, ...] = ()
    processes: tuple[ServiceSpec, ...] = ()
    """Processes beside the pool that apps need."""
    routes: tuple[RouteSpec, ...] = ()
    """Beside those that apps have by themselves."""
    proxy: ProxySettings = ProxySettings()
    own_rate: float = 5.0
    """Requests/s that the lab sends itself, so that nothing is idle zeros; 0 turns them off."""

    def app(self, name: str) -> AppSpec | None:
        """The app called `name`."""
        return next((app for app in self.apps if app.name == name), None)

    def known(self, name: str) -> AppSpec:
        """The app called `name`. Raises `UnknownTargetError`."""
        found = self.app(name)
        if found is None:
            there = ", ".join(app.name for app in self.apps) or "none"
            raise UnknownTargetError(f"No app is called {name!r}; this lab has: {there}.")
        return found

    def having(self, changed: AppSpec) -> Self:
        """The same with `changed` in place of the app of its name."""
        apps = tuple(changed if app.name == changed.name else app for app in self.apps)
        return msgspec.structs.replace(self, apps=apps)

    def known_route(self, name: str) -> RouteSpec:
        """The route called `name`, of those that were written down. Raises `UnknownTargetError`."""
        found = next((route for route in self.routes if route.name == name), None)
        if found is not None:
            return found
        if self.app(name) is not None:
            remedy = "Give the manifest a route that leads to several apps: routes."
            raise UnknownTargetError(f"{name!r} is an app's own route, which leads to that app alone.", remedy)
        there = ", ".join(route.name for route in self.routes) or "none but those of its apps"
        raise UnknownTargetError(f"No route is called {name!r}; this lab has: {there}.")

    def leading(self, changed: RouteSpec) -> Self:
        """The same with `changed` in place of the route of its name."""
        routes = tuple(changed if route.name == changed.name else route for route in self.routes)
        return msgspec.structs.replace(self, routes=routes)


class Signalled(msgspec.Struct, frozen=True):
    """Whom a signal went to."""

    app: str
    slot: int
    generation: int
    pid: int
    signal: str


class Scaled(msgspec.Struct, frozen=True):
    """A pool's wanted number of workers, before and after."""

    app: str
    before: int
    after: int


class Changed(msgspec.Struct, frozen=True):
    """A setting of an app, or of the proxy, before and after, as text."""

    app: str
    """`proxy` for the proxy itself."""
    key: str
    before: str
    after: str


class Shifted(msgspec.Struct, frozen=True):
    """The weights of a route, before and after, by app."""

    route: str
    before: dict[str, int]
    after: dict[str, int]


class Answer(msgspec.Struct, frozen=True):
    """What one request brought back."""

    app: str
    path: str
    status: int
    pid: int | None
    """The worker that answered, as it says itself in its JSON body; None when the gateway answered."""
    ms: float
    body: str
    """At most 4 KiB of it."""


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A process beside the pool, such as a load run. It gets stdin from /dev/null and a report pipe.

    `argv[0]` is looked up in PATH. `{report_fd}` in an argument becomes the number of the report descriptor; every line
    written there becomes a `process.report` event, at once.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    """Added to the lab's own environment."""
    cwd: str | None = None
    stop_signal: str = "SIGINT"
    stop_timeout: float = 5.0
    """After this, SIGKILL to its group."""
    max_seconds: float = 3600.0
    """It is stopped after this long, whatever happens."""


class Lab(Protocol):
    """Commands raise a `LabError` subclass and nothing else; each gives up with `DeadlineError` after its deadline.

    TARGET is a PID, `APP` (all of its workers), `APP/SLOT`, or `random`.
    """

    async def snapshot(self) -> LabSnapshot:
        """The lab now (at most 0.1 s old). Looking is what makes the engine build one."""
        ...

    async def events(self, since: int = 0, limit: int = 1000, wait: float = 0.0) -> EventBatch:
        """Events from cursor `since` on. With `wait`, an empty read waits up to that many seconds for the first one."""
        ...

    async def spec(self) -> LabSpec:
        """The desired state."""
        ...

    async def apply(self, spec: LabSpec) -> LabSpec:
        """Make `spec` the desired state and return the one before, when the change has begun, not when it is done.

        The listener and the name of a running lab stay as they are. A spec that is wrong changes nothing.
        """
        ...

    async def signal(self, target: str, signal: str = "SIGKILL") -> tuple[Signalled, ...]:
        """Send a signal, through pidfds, to the lab's own workers and to nothing else.

        SIGSTOP freezes, SIGCONT thaws. A deadly signal is one ordered by a person: no back-off follows.
        """
        ...

    async def scale(self, app: str, workers: int) -> Scaled:
        """Set the wanted number of workers under `static`. Another policy: `NotPossibleError` naming its setting."""
        ...

    async def set(self, app: str, changes: dict[str, str]) -> tuple[Changed, ...]:
        """Change settings of a running app, or with `app` "proxy" of the proxy itself, all of them or none.

        A key is a field of the app (`concurrency`, `selection`), of its pool (`max_workers`, `policy`) or a path
        (`liveness.interval`, `resources.files`, `php.ini.memory_limit`). A wrong key or value is a `NotPossibleError`
        that names the nearest known key, or what was expected.
        """
        ...

    async def shift(self, route: str, weights: dict[str, int]) -> Shifted:
        """Change how a route shares its requests out, from the next request on; apps not in `weights` keep theirs.

        Raises `UnknownTargetError` for a route that is none, `NotPossibleError` for an app that it does not lead to,
        or when nothing would be left for anybody.
        """
        ...

    async def reload(self, app: str) -> None:
        """Replace every worker of an app, one after the other; returns when that has begun."""
        ...

    async def heal(self) -> int:
        """Undo every fault: thaw what is frozen, end back-off, try failed slots again. Returns how many were helped."""
        ...

    async def request(self, app: str, path: str | None = None) -> Answer:
        """Send one request of the lab's own through the listener and await its answer; `path` defaults to the route."""
        ...

    async def traffic(self, rate: float, app: str | None = None) -> float:
        """Set the rate of the lab's own requests (0 to 200/s), to one app or in turn to all; returns the one before.

        It is the spec's `own_rate` from then on. One app alone is asked until the next `apply`.
        """
        ...

    async def output(self, app: str, slot: int) -> tuple[str, ...]:
        """The last lines that the slot's workers wrote to stdout and stderr, oldest first."""
        ...

    async def standings(self, app: str | None = None) -> tuple[Standing, ...]:
        """What the balancer believes of the endpoints of `app`, or of all, beside what the kernel says of them now.

        It asks the kernel about every socket of the machine: for people who look, not for a loop.
        """
        ...

    async def traces(self, identity: str | None = None, why: Why | None = None, limit: int = 20) -> tuple[Trace, ...]:
        """What happened to requests, newest first: of all traces that were kept, of those kept for `why`, or the one
        called `identity` (none, when it is not kept). At most `limit`."""
        ...

    async def start_process(self, process: ProcessSpec) -> int:
        """Start a process beside the pool; returns its PID. Its life is told in `process.*` events."""
        ...

    async def stop_process(self, name: str) -> None:
        """Send its stop signal, and SIGKILL to its group after its grace. Returns when the signal was sent."""
        ...

    async def close(self) -> None:
        """LocalLab: stop everything and end. RemoteLab: leave the lab running and hang up."""
        ...
