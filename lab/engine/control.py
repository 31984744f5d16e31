"""`Lab` served over a Unix socket, for the command line, attached screens and tests.

Each client is bounded: in the length of a line, in requests under way, in bytes that wait for it. One that is slow or
rude is dropped, never waited for.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

import lab
from lab.core.errors import LabError, NameInUseError, ProtocolError, ReadOnlyError
from lab.core.tasks import background
from lab.engine import protocol
from lab.engine.engine import Engine

_MAX_CLIENTS = 64
_MAX_REQUESTS = 64
_MAX_WAITING = 8 * 1024 * 1024


class ControlServer:
    """Serves `engine` at `path`, mode 0600. `start` and `close` bracket its life."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine = engine
        self._path = path
        self._server: asyncio.Server | None = None
        self._clients: set[_Client] = set()

    async def start(self) -> None:
        """Bind and listen. Raises `NameInUseError` when a living lab answers at `path`."""
        sock = _claim(self._path, self._engine.name)
        self._server = await asyncio.start_unix_server(self._accept, sock=sock, limit=protocol.MAX_LINE)

    async def close(self) -> None:
        """Hang up on everybody and remove the socket."""
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(OSError):
                self._path.unlink()
        for client in tuple(self._clients):
            client.drop()
        await asyncio.gather(*(client.gone.wait() for client in tuple(self._clients)))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= _MAX_CLIENTS:
            writer.transport.abort()
            return
        client = _Client(self._engine, reader, writer)
        self._clients.add(client)
        try:
            await client.serve()
        finally:
            self._clients.discard(client)


class _Client:
    """One connection."""

    def __init__(self, engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._engine = engine
        self._reader = reader
        self._writer = writer
        self._read_only = engine.read_only
        self._tasks: set[asyncio.Task[None]] = set()
        self._pusher: asyncio.Task[None] | None = None
        self.gone = asyncio.Event()

    def drop(self) -> None:
        """Hang up at once."""
        self._writer.transport.abort()

    async def serve(self) -> None:
        """Greet, then answer lines until the client leaves or is dropped."""
        self._send(
            protocol.Greeting(protocol.VERSION, lab.__version__, self._engine.name, os.getpid(), self._engine.read_only)
        )
        try:
            while line := await self._line():
                request = protocol.decode(line, protocol.Request, "this line")
                if len(self._tasks) >= _MAX_REQUESTS:
                    raise ProtocolError(f"Found over {_MAX_REQUESTS} requests under way.", "Wait for answers.")
                self._spawn(request)
        except ProtocolError as error:
            self._send(protocol.Reply(error=protocol.Failure.of(error)))
            self._writer.close()
        except ConnectionError:
            pass
        finally:
            for task in tuple(self._tasks):
                task.cancel()
            self._writer.close()
            self.gone.set()

    async def _line(self) -> bytes:
        """The next line; empty when the client has left."""
        try:
            return await self._reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            return b""
        except asyncio.LimitOverrunError as error:
            raise ProtocolError(f"Found a line of over {protocol.MAX_LINE} bytes.") from error

    def _spawn(self, request: protocol.Request) -> None:
        task = background(self._answer(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: protocol.Request) -> None:
        try:
            result = await self._do(request)
            self._send(protocol.Reply(id=request.id, ok=msgspec.Raw(msgspec.json.encode(result))))
        except LabError as error:
            self._send(protocol.Reply(id=request.id, error=protocol.Failure.of(error)))
        except Exception as error:
            # A defect of ours: the client must not wait for ever, and the engine must not end.
            failure = protocol.Failure("lab", f"The lab failed inside {request.do}: {error!r}.")
            self._send(protocol.Reply(id=request.id, error=failure))

    async def _do(self, request: protocol.Request) -> Any:
        if request.do == "hello":
            hello = protocol.decode(request.args, protocol.Hello, "the arguments of hello")
            self._read_only = self._engine.read_only or hello.read_only
            return None
        if request.do == "subscribe":
            return self._subscribe(protocol.decode(request.args, protocol.Subscribe, "the arguments of subscribe"))
        method = protocol.METHODS.get(request.do)
        if method is None:
            expected = ", ".join(["hello", "subscribe", *protocol.METHODS])
            raise ProtocolError(f"Found the request {request.do!r}; expected one of: {expected}.")
        if self._read_only and method.name not in protocol.LOOKING:
            raise ReadOnlyError("This connection is read-only: the lab can be watched, not changed.")
        call: Callable[..., Any] = getattr(self._engine, method.name)
        return await call(**method.arguments(request.args))

    def _subscribe(self, wanted: protocol.Subscribe) -> None:
        if not 0.1 <= wanted.hz <= 10:
            raise ProtocolError(f"Found hz {wanted.hz:g}; expected 0.1 to 10.")
        if self._pusher is not None:
            self._pusher.cancel()
        self._pusher = background(self._push(wanted))
        self._tasks.add(self._pusher)
        self._pusher.add_done_callback(self._tasks.discard)

    async def _push(self, wanted: protocol.Subscribe) -> None:
        cursor = wanted.since
        while not self._writer.is_closing():
            batch = await self._engine.events(cursor, wait=0.0 if wanted.snapshots else 60.0)
            cursor = batch.next
            snapshot = await self._engine.snapshot() if wanted.snapshots else None
            if snapshot is not None or batch.events or batch.missed:
                self._send(protocol.Reply(push=protocol.Push(batch, snapshot)))
            await asyncio.sleep(1 / wanted.hz)

    def _send(self, message: msgspec.Struct) -> None:
        transport = self._writer.transport
        if transport.is_closing():
            return
        transport.write(msgspec.json.encode(message) + b"\n")
        if transport.get_write_buffer_size() > _MAX_WAITING:
            transport.abort()


def _claim(path: Path, name: str) -> socket.socket:
    """A socket bound to `path`. A stale one is unlinked only after a connect to it was refused."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX)
    # Set before bind, so that the file never exists with a wider mode.
    os.fchmod(sock.fileno(), 0o600)
    try:
        _bind(sock, path, name)
    except OSError as error:
        sock.close()
        raise NameInUseError(f"The control socket {path} cannot be made: {error.strerror or error}.") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(sock: socket.socket, path: Path, name: str) -> None:
    try:
        sock.bind(str(path))
    except OSError:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                if not path.is_socket():
                    raise
                path.unlink()
                sock.bind(str(path))
                return
        raise NameInUseError(
            f"A lab called {name!r} already runs; its control socket is {path}.",
            f"Open it here with `cgilab attach --name {name}`, or start another one with another --name.",
        ) from None
