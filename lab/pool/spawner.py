"""The lab's side of the fork server: asks for processes, hears what became of them, replaces a server that dies.

A `Spawner` is launched before the lab makes its first thread, and attached later, on the engine's loop, where
everything else happens. It promises that each process asked for is answered by `forked` or `refused`, and each forked
one by exactly one `exited`, even when the fork server itself is killed: the lab is a subreaper too, so what the fork
server left behind comes to the lab, which kills and reaps it before it starts a new server.
"""

import asyncio
import contextlib
import errno
import json
import os
import resource
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lab.core.clock import Clock
from lab.core.errors import NotPossibleError
from lab.core.model import ResourceLimits
from lab.core.tasks import background
from lab.pool import forkserver

_SWEEP_PAUSE = 0.002
_QUICK_DEATH = 1.0
_RETRY_PAUSE = 1.0
_CLOSE_TIMEOUT = 5.0
_MOST_FILES = 64 * 1024
_FILES, _HARD_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)
"""What the lab was started with, and what its programs get."""
_FOR_THE_LAB_ALONE = frozenset({"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"})
"""What a service manager said to the lab would mislead its programs."""
_servers: set[int] = set()
"""The fork servers of this process: children of it that are nobody's orphans."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A process to be made."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the lab's own environment."""
    bare: bool = False
    """`env` is all of the environment."""
    brief: bool = False
    """It lives for one request, so it is made in the cheapest way: see `forkserver`."""
    name: str = ""
    """In its environment as CGILAB_WORKER. When it ends, whatever else has this name is ended too, even a daemon."""
    own_pid: str = ""
    """An environment variable that is to hold the process's own PID, such as LISTEN_PID."""
    cwd: str | None = None
    """Its working directory; None means the lab's."""
    fds: Mapping[int, int] = field(default_factory=dict)
    """From numbers in the process to descriptors here. They are handed over at once: the caller may close its own."""
    limits: ResourceLimits = field(default_factory=ResourceLimits)


class Watcher(Protocol):
    """Hears of one process. All calls come on the engine's loop, in the order in which things happened."""

    def forked(self, child: "Child") -> None:
        """The process exists and runs its program."""
        ...

    def refused(self, reason: str) -> None:
        """There is no process; `reason` is a short phrase, such as `No such file or directory`."""
        ...

    def exited(self, status: int, at: float) -> None:
        """It is gone. `status` as `os.waitstatus_to_exitcode` has it, `at` in monotonic seconds."""
        ...

    def stopped(self, stopped: bool, at: float) -> None:
        """The kernel stopped it, or let it continue."""
        ...


class Child:
    """A process that the fork server made. Signals go through its pidfd, so they can never hit a recycled PID."""

    __slots__ = ("_pidfd", "_send", "forked_at", "pid")

    def __init__(self, pid: int, forked_at: float, pidfd: int, send: Callable[[dict[str, Any]], None]) -> None:
        self.pid = pid
        self.forked_at = forked_at
        self._pidfd = pidfd
        self._send = send

    @property
    def is_over(self) -> bool:
        """It has ended, though its end may not have been told yet: from then on a pidfd is readable (pidfd_open(2))."""
        if self._pidfd < 0:
            return True
        look = select.poll()
        look.register(self._pidfd, select.POLLIN)
        return bool(look.poll(0))

    def signal(self, number: int) -> bool:
        """Send a signal to the process alone; False when it has ended: to a zombie, the kernel would let it be sent."""
        if self.is_over:
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def signal_group(self, number: int) -> None:
        """Send a signal to its whole process group, by the fork server. Does nothing when it is gone."""
        if self._pidfd >= 0:
            self._send({"do": "signal", "pid": self.pid, "number": number})

    def forget(self) -> None:
        """The process was reaped: its number may belong to another one now."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


_Children = dict[int, tuple[Child, Watcher]]
_Waiting = dict[int, Watcher]


class Spawner:
    """One fork server at a time, and every process it made. `log` receives what the fork server itself complains of."""

    def __init__(self, clock: Clock, log: Path = Path(os.devnull)) -> None:
        self._clock = clock
        self._log = log
        self._pid = 0
        self._launched_at = 0.0
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_replaced: Callable[[str], None] = lambda text: None
        self._on_orphans: Callable[[int], None] = lambda count: None
        self._outbox: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._waiting: _Waiting = {}
        self._children: _Children = {}
        self._next_id = 1
        self._replacement: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The fork server's PID; 0 while there is none."""
        return self._pid

    def launch(self) -> None:
        """Start the fork server and return at once. Call it before the first thread exists; it does not need a loop."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, its:
            self._pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", forkserver.__file__, str(_FILES)],
                {name: value for name, value in os.environ.items() if name not in _FOR_THE_LAB_ALONE},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, str(self._log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                    (os.POSIX_SPAWN_DUP2, its.fileno(), forkserver.CONTROL),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
            )
            self._socket = ours.dup()
        self._socket.setblocking(False)
        self._launched_at = self._clock.monotonic()
        _servers.add(self._pid)

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        on_replaced: Callable[[str], None],
        on_orphans: Callable[[int], None],
    ) -> None:
        """Listen on `loop`, which all other calls come from. `on_replaced` is told why a fork server was replaced, in a
        sentence; `on_orphans` how many orphaned grandchildren were reaped."""
        forkserver.become_subreaper()
        _raise_own_limit()
        self._loop = loop
        self._on_replaced = on_replaced
        self._on_orphans = on_orphans
        if self._socket is None:
            self.launch()
        self._listen()

    def fork(self, order: Order, watcher: Watcher) -> None:
        """Ask for a process. Raises `NotPossibleError` when command and environment are too long together, and
        `OSError` when no descriptor is left."""
        message = {
            "do": "fork",
            "id": self._next_id,
            "argv": list(order.argv),
            "env": dict(order.env),
            "bare": order.bare,
            "brief": order.brief,
            "name": order.name,
            "own_pid": order.own_pid,
            "cwd": order.cwd,
            "fds": list(order.fds),
            "limits": _limits(order.limits),
            "nice": order.limits.nice,
        }
        self._post(_encoded(message), tuple(order.fds.values()))
        self._waiting[self._next_id] = watcher
        self._next_id += 1

    async def close(self) -> None:
        """Hang up: the fork server kills every process that is left and ends. Returns when it is gone."""
        if self._replacement is not None:
            await self._replacement
        children, waiting = self._hang_up()
        if self._pid:
            try:
                await asyncio.wait_for(self._gone(), _CLOSE_TIMEOUT)
            except TimeoutError:
                os.kill(self._pid, signal.SIGKILL)
                await self._gone()
            self._tell_gone(children, waiting, await self._end_adopted())
        self._loop = None

    def abandon(self) -> None:
        """As `close`, without the loop, which does nothing any more: for another thread, when the lab is to end."""
        sock, pid = self._socket, self._pid
        if sock is None or not pid:
            return
        ended = os.pidfd_open(pid)
        sock.shutdown(socket.SHUT_RDWR)
        look = select.poll()
        look.register(ended, select.POLLIN)
        if not look.poll(_CLOSE_TIMEOUT * 1000):
            os.kill(pid, signal.SIGKILL)
            look.poll(_CLOSE_TIMEOUT * 1000)
        os.close(ended)

    # -- the socket

    def _listen(self) -> None:
        assert self._loop is not None
        assert self._socket is not None
        self._loop.add_reader(self._socket, self._receive)
        self._flush()

    def _hang_up(self) -> tuple[_Children, _Waiting]:
        """Close the socket; returns who was behind it."""
        if self._socket is not None:
            if self._loop is not None:
                self._loop.remove_reader(self._socket)
                self._loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None
        for _, fds in self._outbox:
            _close_all(fds)
        self._outbox.clear()
        children, self._children = self._children, {}
        waiting, self._waiting = self._waiting, {}
        return children, waiting

    def _send(self, message: dict[str, Any]) -> None:
        self._post(_encoded(message), ())

    def _post(self, message: bytes, fds: tuple[int, ...]) -> None:
        """Send it now, or as soon as the socket takes it: then with duplicates of the descriptors."""
        if self._outbox or not self._sent(message, fds):
            self._outbox.append((message, _duplicates(fds)))

    def _flush(self) -> None:
        while self._outbox:
            message, fds = self._outbox[0]
            if not self._sent(message, fds):
                return
            _close_all(fds)
            self._outbox.popleft()
        if self._socket is not None and self._loop is not None:
            self._loop.remove_writer(self._socket)

    def _sent(self, message: bytes, fds: tuple[int, ...]) -> bool:
        if self._socket is None or self._loop is None:
            return False
        try:
            socket.send_fds(self._socket, [message], fds)
        except BlockingIOError:
            self._loop.add_writer(self._socket, self._flush)
            return False
        except OSError:  # the other end is gone: the reader sees the end of file and replaces it
            return False
        return True

    def _receive(self) -> None:
        while self._socket is not None:
            try:
                message, fds = forkserver.receive(self._socket)
            except BlockingIOError:
                return
            except ConnectionError:
                message, fds = b"", []
            if not message:
                self._lost()
                return
            self._heard(json.loads(message), fds)

    def _heard(self, message: dict[str, Any], fds: list[int]) -> None:
        match message["told"]:
            case "forked" if not fds:  # the kernel drops a descriptor for which there is no room here
                self._send({"do": "signal", "pid": message["pid"], "number": signal.SIGKILL})
                self._waiting.pop(message["id"]).refused(os.strerror(errno.EMFILE))
            case "forked":
                child = Child(message["pid"], message["at"], fds[0], self._send)
                watcher = self._waiting.pop(message["id"])
                self._children[child.pid] = (child, watcher)
                watcher.forked(child)
            case "refused":
                self._waiting.pop(message["id"]).refused(os.strerror(message["errno"]))
            case "exited" if message["pid"] in self._children:
                child, watcher = self._children.pop(message["pid"])
                child.forget()
                watcher.exited(message["status"], message["at"])
            case "stopped" if message["pid"] in self._children:
                self._children[message["pid"]][1].stopped(message["stopped"], message["at"])
            case "orphans":
                self._on_orphans(message["count"])

    # -- when the fork server dies

    def _lost(self) -> None:
        self._replacement = background(self._replace(*self._hang_up()))

    async def _replace(self, children: _Children, waiting: _Waiting) -> None:
        dead = self._pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(dead, signal.SIGKILL)
        await self._gone()
        self._tell_gone(children, waiting, await self._end_adopted())
        if self._clock.monotonic() - self._launched_at < _QUICK_DEATH:
            await asyncio.sleep(_RETRY_PAUSE)
        while self._socket is None:
            try:
                self.launch()
            except OSError:  # no process or descriptor to be had now
                await asyncio.sleep(_RETRY_PAUSE)
        self._listen()
        self._on_replaced(
            f"The fork server (pid {dead}) died and was replaced by pid {self._pid}; all workers start anew"
        )

    async def _gone(self) -> None:
        """Wait until the fork server has ended, and reap it."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        handle = os.pidfd_open(self._pid)
        loop.add_reader(handle, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)
        _reap(self._pid)
        _servers.discard(self._pid)
        self._pid = 0

    async def _end_adopted(self) -> dict[int, int]:
        """Kill and reap whatever a dead fork server left to this process; returns the exit statuses by PID."""
        statuses: dict[int, int] = {}
        while adopted := _adopted():
            for pid in adopted:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                status = _reap(pid)
                if status is not None:
                    statuses[pid] = status
            await asyncio.sleep(_SWEEP_PAUSE)
        return statuses

    def _tell_gone(self, children: _Children, waiting: _Waiting, statuses: dict[int, int]) -> None:
        """Every process of a fork server that died is gone: all had asked to be killed with it."""
        now = self._clock.monotonic()
        for child, watcher in children.values():
            child.forget()
            watcher.exited(statuses.get(child.pid, -signal.SIGKILL), now)
        for watcher in waiting.values():
            watcher.refused("the fork server died")


def _reap(pid: int) -> int | None:
    """The exit status of a child, as `os.waitstatus_to_exitcode` has it; None when it has not ended."""
    try:
        reaped, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if reaped else None


def _adopted() -> list[int]:
    """Children of this process that came as orphans: they lead, or are in, a session that is not this process's.

    The lab itself makes no child in another session than its own, except fork servers.
    """
    return [pid for pid in forkserver.children(os.getpid()) if pid not in _servers and _in_other_session(pid)]


def _in_other_session(pid: int) -> bool:
    try:
        return os.getsid(pid) != os.getsid(0)
    except ProcessLookupError:
        return False


def _encoded(message: dict[str, Any]) -> bytes:
    encoded = json.dumps(message).encode()
    if len(encoded) > forkserver.MESSAGE_LIMIT:
        found = f"Found a command line and environment of {len(encoded)} bytes"
        raise NotPossibleError(f"{found}; expected at most {forkserver.MESSAGE_LIMIT}.", "Shorten the app's env.")
    return encoded


def _limits(limits: ResourceLimits) -> list[tuple[int, int, int]]:
    """As setrlimit(2) takes them: resource, soft, hard. Beyond its hard limit of CPU time a process is killed."""
    asked = (
        (resource.RLIMIT_AS, limits.address_space, limits.address_space),
        (resource.RLIMIT_NOFILE, limits.files, limits.files),
        (resource.RLIMIT_CPU, limits.cpu_time, limits.cpu_time + 1),
    )
    return [limit for limit in asked if limit[1]]


def _raise_own_limit() -> None:
    """The lab holds several descriptors for each worker: take as many as this user may have, within reason."""
    wanted = _MOST_FILES if _HARD_FILES == resource.RLIM_INFINITY else min(_MOST_FILES, _HARD_FILES)
    if wanted > _FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, _HARD_FILES))


def _duplicates(fds: Iterable[int]) -> tuple[int, ...]:
    """A duplicate of each, or of none."""
    made: list[int] = []
    try:
        for fd in fds:
            made.append(os.dup(fd))
    except OSError:
        _close_all(tuple(made))
        raise
    return tuple(made)


def _close_all(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
