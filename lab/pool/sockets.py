"""How the workers of one pool get their sockets. Each contract has its way; each worker gets a `Binding` from here and
gives it back when its process is gone.

- `http-port`: a free port, asked of the kernel; the worker binds it.
- `http-unix`: a path in a folder of the lab's own; the worker binds it. php-fpm does so too, though it speaks FastCGI.
- `http-fd`, `fastcgi`: a listening socket that the lab makes and the worker inherits. It belongs to the slot: what
  comes while a worker is dead waits in the kernel for its successor. Where two generations live at once, the newer one
  has a socket of its own, which is the slot's as soon as the older one is gone.
- `http-shared`: the same, one socket for the whole pool.

Nothing of it is inherited by accident: sockets are close-on-exec here, and only the fork server hands them on.
"""

import contextlib
import fcntl
import itertools
import os
import shutil
import socket
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lab.core.model import Contract, Endpoint, Wire, WorkerId
from lab.pool import sockdiag
from lab.wire.probe import Probe
from lab.wire.question import Question

LOOPBACK = "127.0.0.1"
BACKLOG = 511
"""As nginx has it; the kernel holds so many connections that no worker has accepted yet."""
FIRST_FD = 3
"""SD_LISTEN_FDS_START (sd_listen_fds(3))."""
_FASTCGI_FD = 0
"""FCGI_LISTENSOCK_FILENO (FastCGI 1.0, section 2.2)."""
_FOLDER = "cgilab-pool-"
_LONGEST_PLACE = 40
"""Bytes of the path above it, so that a socket named after the longest app fits the 108 of sun_path (unix(7))."""
_SETTLED = 60.0
"""Seconds after which whoever made a folder has surely locked it."""


@dataclass(slots=True, eq=False)
class Binding:
    """Where one worker serves, and what it is given for that. Either `path`, or `host` and `port`, is empty."""

    contract: Contract
    host: str = ""
    port: int = 0
    path: str = ""
    inherited: socket.socket | None = None
    """The listening socket that the lab made; None when the worker makes its own."""
    _asked: Probe | None = None

    @property
    def address(self) -> str | tuple[str, int]:
        """What a connection is made to."""
        return self.path or (self.host, self.port)

    @property
    def fds(self) -> dict[int, int]:
        """The socket under its number in the worker, for an `Order`."""
        if self.inherited is None:
            return {}
        return {_FASTCGI_FD if self.contract is Contract.FASTCGI else FIRST_FD: self.inherited.fileno()}

    @property
    def env(self) -> dict[str, str]:
        """What tells the worker about it. LISTEN_PID is left to the fork server: see `own_pid`."""
        if self.own_pid:
            return {"LISTEN_FDS": "1"}
        return {"SOCKET": self.path} if self.path else {"PORT": str(self.port)}

    @property
    def answers_itself(self) -> bool:
        """Whether a question finds the worker that it is meant for. On a shared socket the kernel chooses who answers;
        a FastCGI worker with a socket of its own making is PHP-FPM's master, and has a child answer, which it would
        never find idle if it were asked regularly."""
        makes_its_own = self.contract is Contract.FASTCGI and self.inherited is None
        return self.contract is not Contract.HTTP_SHARED and not makes_its_own

    @property
    def own_pid(self) -> str:
        """The variable that has to hold the worker's PID; empty for none."""
        return "LISTEN_PID" if FIRST_FD in self.fds else ""

    def listener(self) -> int | None:
        """The inode of the socket that accepts its connections; None while nobody listens."""
        if self.inherited is not None:
            return os.fstat(self.inherited.fileno()).st_ino
        return sockdiag.unix_listener(self.path) if self.path else sockdiag.listener(self.port)

    def ask(self, question: Question) -> Probe:
        """Ask whoever serves there. Raises `OSError` when this process has no descriptor left.

        A question that an earlier worker left in the queue of the socket is still asked, so that one is taken up.
        """
        probe, self._asked = self._asked, None
        if probe is None or probe.over:
            probe = Probe(self.address)
            probe.ask(question)
        return probe

    def leave(self, probe: Probe) -> None:
        """Nobody waits for the answer any more; the next worker may still find the question in the queue."""
        if self.inherited is None:
            probe.hang_up()
        else:
            probe.hear(None)
            self._asked = probe

    def close(self) -> None:
        """Nobody will serve there any more."""
        if self._asked is not None:
            self._asked.hang_up()
        if self.inherited is not None:
            self.inherited.close()
        if self.path:
            _unlink_if_stale(self.path)

    def lost(self) -> bool:
        """Whether another process took the port before the worker could bind it."""
        return self.contract is Contract.HTTP_PORT and sockdiag.is_taken(self.port)

    def endpoint(self, worker: WorkerId, pid: int, concurrency: int) -> Endpoint:
        """It, as the proxy has to know it."""
        return Endpoint(
            app=worker.app,
            worker=worker,
            host=self.host,
            port=self.port,
            path=self.path,
            pid=pid,
            concurrency=concurrency,
            wire=Wire.FASTCGI if self.contract is Contract.FASTCGI else Wire.HTTP,
            shared=self.contract is Contract.HTTP_SHARED,
        )

    def __str__(self) -> str:
        return self.path or f"port {self.port}"


class RuntimeFolder:
    """A folder for the sockets of one lab, which nobody else may enter. Made when it is first needed.

    Its owner holds a lock on it, so that what a killed lab left behind is known as such, and removed by the next one.
    """

    def __init__(self) -> None:
        self._folder = ""
        self._lock = -1
        self._count = itertools.count(1)

    def path(self, name: str) -> str:
        """A new path in it, that nothing has had before. Raises `OSError` when no folder can be made."""
        if not self._folder:
            self._open()
        return f"{self._folder}/{name}-{next(self._count)}"

    def close(self) -> None:
        """Remove it and everything in it."""
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)
            self._folder = ""

    def _open(self) -> None:
        self._folder = _private_folder()
        self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        _sweep(Path(self._folder))


class Sockets:
    """The sockets of one pool."""

    def __init__(self, app: str, folder: RuntimeFolder) -> None:
        self._app = app
        self._folder = folder
        self._shared: Binding | None = None
        self._waiting: dict[int, Binding] = {}
        """Sockets of slots whose worker died, for its successor."""
        self._lent: Counter[int] = Counter()

    @property
    def lent(self) -> int:
        """How many workers have one now."""
        return self._lent.total()

    def lend(self, contract: Contract, slot: int, *, inherited: bool = True) -> Binding:
        """A socket for the next worker of a slot. Unless it is `inherited`, a FastCGI worker makes its own.

        Raises `OSError` when the kernel refuses one.
        """
        binding = self._waiting.pop(slot, None)
        if binding is not None and binding.contract is not contract:
            binding.close()
            binding = None
        binding = binding or self._new(contract, slot, inherited)
        self._lent[slot] += 1
        return binding

    def take_back(self, binding: Binding, slot: int, *, successor: bool) -> None:
        """Its worker is gone. An inherited one is kept for the `successor`, unless that has its own already."""
        self._lent[slot] -= 1
        if binding is self._shared:
            return
        if successor and binding.inherited is not None and not self._lent[slot]:
            self._waiting[slot] = binding
        else:
            binding.close()

    def vacate(self, slot: int) -> None:
        """Nobody will follow in this slot."""
        if (binding := self._waiting.pop(slot, None)) is not None:
            binding.close()

    def close(self) -> None:
        """The pool is over: every worker is gone, and none will follow."""
        for slot in tuple(self._waiting):
            self.vacate(slot)
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def _new(self, contract: Contract, slot: int, inherited: bool) -> Binding:
        match contract:
            case Contract.HTTP_PORT:
                return Binding(contract, LOOPBACK, sockdiag.free_port())
            case Contract.HTTP_SHARED:
                self._shared = self._shared or _listening(contract)
                return self._shared
            case Contract.HTTP_FD:
                return _listening(contract)
        path = self._folder.path(f"{self._app}-{slot}")
        if contract is Contract.HTTP_UNIX or not inherited:
            return Binding(contract, path=path)
        return Binding(contract, path=path, inherited=_listen(socket.AF_UNIX, path))


def _listening(contract: Contract) -> Binding:
    server = _listen(socket.AF_INET, (LOOPBACK, 0))
    return Binding(contract, LOOPBACK, server.getsockname()[1], inherited=server)


def _listen(family: int, address: str | tuple[str, int]) -> socket.socket:
    server = socket.socket(family)
    try:
        server.bind(address)
        server.listen(BACKLOG)
    except OSError:
        server.close()
        raise
    return server


def _unlink_if_stale(path: str) -> None:
    """Remove a socket to which nobody listens any more. One that still answers has an owner, and is left alone."""
    with socket.socket(socket.AF_UNIX) as asking, contextlib.suppress(OSError):
        asking.setblocking(False)
        try:
            asking.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()


def _private_folder() -> str:
    """A new folder of mode 0700, at a place that leaves room for the names in it."""
    places = [place for place in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir()) if place]
    for place in places:
        if len(place) <= _LONGEST_PLACE:
            with contextlib.suppress(OSError):
                return tempfile.mkdtemp(prefix=_FOLDER, dir=place)
    return tempfile.mkdtemp(prefix=_FOLDER, dir="/tmp")


def _sweep(own: Path) -> None:
    """Remove the folders of labs that were killed: those older than `own` that nobody holds a lock on."""
    now = own.stat().st_mtime
    for folder in own.parent.glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError):
            if now - folder.stat().st_mtime > _SETTLED:
                _remove_if_unlocked(folder)


def _remove_if_unlocked(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)
