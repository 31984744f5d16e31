"""In front of an app that has a document root: its files are served here, its scripts by its workers.

No file is looked at, opened or read on the event loop, for a disk may take its time: threads of the proxy's own do
that. A file that is longer than one piece comes as from a worker, through a transport that reads the next piece only
when the client has taken the one before; so memory is bounded, and every rule about slow and leaving clients holds.
"""

import asyncio
import errno
import os
import stat
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Final

from lab.core.model import Endpoint, WorkerId
from lab.proxy import problems, site
from lab.proxy.backends.python_builtin.connection import WorkerConnection
from lab.proxy.backends.python_builtin.dialects.http import HttpDialect
from lab.proxy.backends.python_builtin.endpoint import EndpointState
from lab.proxy.backends.python_builtin.exchange import Exchange
from lab.proxy.backends.python_builtin.gateway import Gateway
from lab.proxy.backends.python_builtin.upstream import Upstream
from lab.proxy.manager import UpstreamSpec
from lab.proxy.problems import Problem, head
from lab.proxy.representation import Representation
from lab.proxy.site import Redirect, Refused
from lab.wire.cgi import Script
from lab.wire.http1 import RequestHead

_PIECE: Final = 256 * 1024
"""Bytes that are read at a time."""

_REMEMBERED: Final = 1.0
"""Seconds that a script's place is believed: a look at the disk costs as much as relaying a request."""
_MOST_REMEMBERED: Final = 512

_NOT_READABLE: Final = frozenset({errno.EACCES, errno.EPERM})
_METHODS: Final = (b"GET", b"HEAD")


class SiteRoute:
    """Where a route to an app with a site leads."""

    def __init__(self, upstream: Upstream, base: str, gateway: Gateway, disk: Executor) -> None:
        """`base` is the part of a path that stands for the site's root."""
        self._upstream = upstream
        self._base = base
        self._gateway = gateway
        self._disk = disk
        self._files = _Files(Endpoint(upstream.spec.app, WorkerId(upstream.spec.app, 0, 0)), upstream, gateway)
        self._known: dict[bytes, tuple[float, Script]] = {}

    def admit(self, exchange: Exchange) -> None:
        """Find out what is asked for, and answer it or hand it to the workers."""
        door = self._upstream.door
        if door is not None and not door.admit(exchange):
            return
        path = exchange.request.target.partition(b"?")[0]
        until, script = self._known.get(path, (0.0, None))
        if script is not None and self._gateway.now() < until:
            self._run(exchange, script)
            return
        look = partial(_look, self._upstream.spec, self._base, path.decode(), exchange.request)
        looking = asyncio.get_running_loop().run_in_executor(self._disk, look)
        looking.add_done_callback(partial(self._found, exchange, exchange.request))

    def _found(self, exchange: Exchange, request: RequestHead, looking: "asyncio.Future[Found]") -> None:
        """The disk has answered. The client may have left meanwhile, or been told something else."""
        found = looking.result()
        if not exchange.waits_with(request):
            if isinstance(found, Opened):
                found.close()
        elif isinstance(found, Script):
            self._remember(request.target.partition(b"?")[0], found)
            self._run(exchange, found)
        else:
            self._upstream.claim(exchange)
            self._answer(exchange, found)

    def _run(self, exchange: Exchange, script: Script) -> None:
        exchange.script = script
        self._upstream.admit(exchange)

    def _remember(self, path: bytes, script: Script) -> None:
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[path] = self._gateway.now() + _REMEMBERED, script

    def _answer(self, exchange: Exchange, found: "Opened | Problem | Redirect") -> None:
        if isinstance(found, Problem):
            exchange.fail(found)
        elif isinstance(found, Redirect):
            exchange.answer(*_moved(found.location, exchange.request.target))
        elif found.left:
            self._send(exchange, found)
        else:
            exchange.answer(found.head, found.first)

    def _send(self, exchange: Exchange, opened: "Opened") -> None:
        """A long file, as though a worker sent it."""
        connection = WorkerConnection(self._files, HttpDialect())
        transport = FileTransport(connection, opened, self._disk)
        connection.connection_made(transport)
        self._files.taken()
        self._files.open[exchange] = exchange.asked = self._gateway.now()
        exchange.endpoint = self._files
        exchange.connected(connection)
        transport.begin()


class _Files(EndpointState):
    """A worker that is none, in charge of the long files that are on their way: it has room for all of them."""

    def __init__(self, endpoint: Endpoint, upstream: Upstream, gateway: Gateway) -> None:
        super().__init__(endpoint, upstream, gateway)
        self.hop, self.who = "", "the disk"

    def _turned(self, taken: int) -> None:
        pass

    def _released(self, left: int) -> None:
        pass


class Opened:
    """A file that is being sent. Used by one thread at a time."""

    def __init__(self, head: bytes, file: int, start: int, length: int) -> None:
        self.head = head
        """Without the empty line."""
        self.left = length
        """Bytes of it that were not read yet."""
        self._file = file
        self._place = start
        self.first = self.read()

    def read(self) -> bytes:
        """The next piece; empty when the file ends too soon, having been cut meanwhile. Closed behind the last one."""
        piece = os.pread(self._file, min(self.left, _PIECE), self._place) if self.left else b""
        self._place += len(piece)
        self.left -= len(piece)
        if not self.left or not piece:
            self.close()
        return piece

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


Found = Opened | Script | Problem | Redirect


class FileTransport(asyncio.Transport):
    """A connection on which a file arrives. What is sent to it goes nowhere."""

    def __init__(self, protocol: asyncio.Protocol, opened: Opened, disk: Executor) -> None:
        super().__init__()
        self._protocol = protocol
        self._opened = opened
        self._disk = disk
        self._loop = asyncio.get_running_loop()
        self._paused = self._closing = False
        self._reading: asyncio.Future[bytes] | None = None

    def begin(self) -> None:
        """The head and the first piece are here already."""
        self._deliver(self._opened.head + b"\r\n" + self._opened.first)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._read_on()

    def is_closing(self) -> bool:
        return self._closing

    def abort(self) -> None:
        """Let go of the file, now or when the thread that reads it is done."""
        self._closing = True
        if self._reading is None:
            self._opened.close()

    def _deliver(self, piece: bytes) -> None:
        self._protocol.data_received(piece)
        # The piece is written in this turn of the loop, so the next one knows whether the client took it.
        self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._reading is None and self._opened.left and not self._paused and not self._closing:
            self._reading = self._loop.run_in_executor(self._disk, self._opened.read)
            self._reading.add_done_callback(self._has_read)

    def _has_read(self, reading: "asyncio.Future[bytes]") -> None:
        self._reading = None
        error = reading.exception()
        piece = b"" if error is not None else reading.result()
        if self._closing:
            self._opened.close()
        elif piece:
            self._deliver(piece)
        else:
            self._protocol.connection_lost(OSError("The file ended before its length."))


def _look(spec: UpstreamSpec, base: str, path: str, request: RequestHead) -> Found:
    """Everything the disk has to say about a request. Runs in a thread."""
    assert spec.site is not None
    found = site.resolve(spec.site, base, path)
    if isinstance(found, Refused):
        return Problem(found.status, found.why)
    if isinstance(found, site.Script):
        words = (found.script_filename, found.script_name, found.path_info, spec.site.root)
        return Script(*map(os.fsencode, words))
    if isinstance(found, Redirect):
        return found
    if spec.script and found.path == os.path.realpath(spec.script):  # whatever its suffix is
        return Problem(403, "This is the app's own program, which is run and never shown.")
    if request.method not in _METHODS:
        return problems.FILE_METHOD
    try:
        return _open(found.path, request)
    except OSError as error:
        if error.errno in _NOT_READABLE:
            return Problem(403, "The lab may not read this file.", "Give it the permission.")
        return Problem(404, "The file has gone.")


def _open(path: str, request: RequestHead) -> Opened:
    """Open a file for an answer. Raises `OSError`, also when the path leads elsewhere than a moment ago."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        facts = os.fstat(file)
        if Path(f"/proc/self/fd/{file}").readlink() != Path(path) or not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.ELOOP, "the path leads elsewhere", path)
        answer = Representation(path, facts.st_size, facts.st_mtime_ns).answer(request)
        length = 0 if request.method == b"HEAD" else answer.length
        return Opened(answer.head, file, answer.start, length)
    except BaseException:
        os.close(file)
        raise


def _moved(location: str, target: bytes) -> tuple[bytes, bytes]:
    """Head and body of a redirect to a folder's index; the query goes along."""
    _, mark, query = target.partition(b"?")
    where = location.encode() + mark + query
    body = b"See " + where + b"\n"
    return head(301, "text/plain", len(body), b"Location: %b\r\n" % where), body
