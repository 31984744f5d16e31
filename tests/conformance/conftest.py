"""A gateway between raw bytes and workers that are real socket servers, scripted by each test."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop

from lab.core.clock import Clock, ManualClock, SystemClock
from lab.core.events import EventKind, EventRing
from lab.core.model import ClientTimeouts, Endpoint, Limits, ListenerSpec, ProxySettings, Timeouts, Wire, WorkerId
from lab.proxy.backends.python_builtin import PythonBuiltinProxy
from lab.proxy.manager import ProxySpec, UpstreamSpec
from lab.wire.fastcgi import Aborted, Application, Begun, Body

PATIENCE = 30.0
"""Seconds until a test gives up waiting for something that should have come: a busy machine is no defect."""
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The gateway is tested on the loop that it is made for."""
    return {"uvloop": uvloop.new_event_loop}


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """One request, head and body, as the worker received it; empty at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except ConnectionError:
        return b""
    lowered = head.lower()
    if b"transfer-encoding: chunked" in lowered:
        body = b""
        while not body.endswith(b"0\r\n\r\n") and b"\r\n0\r\n" not in body:
            body += await reader.readuntil(b"\r\n")
        while not body.endswith(b"\r\n\r\n"):
            body += await reader.readuntil(b"\r\n")
        return head + body
    _, found, length = lowered.partition(b"content-length:")
    return head + (await reader.readexactly(int(length.split(b"\r\n")[0])) if found else b"")


class Gate:
    """A worker's handler that answers each request when it is told to."""

    def __init__(self) -> None:
        self.arrived = asyncio.Semaphore(0)
        self.go = asyncio.Semaphore(0)
        self.at_once = self.most = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            self.arrived.release()
            await self.go.acquire()
            self.at_once -= 1
            writer.write(OK)


@dataclass
class Worker:
    """A server on loopback. `requests` holds what reached it, whole requests in order."""

    response: bytes = OK
    handler: Handler | None = None
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    async def start(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        if self.handler is not None:
            await self.handler(reader, writer)
            writer.close()
            return
        while request := await read_request(reader):
            self.requests.append(request)
            writer.write(self.response)
        writer.close()


FastCgiHandler = Callable[[dict[bytes, bytes], bytes, Application], None]


def hello(params: dict[bytes, bytes], body: bytes, application: Application) -> None:
    """What a FastCGI worker of these tests answers unless told otherwise."""
    application.write(b"Content-Type: text/plain\r\n\r\nhello " + body)
    application.end_request()


@dataclass
class FastCgiWorker:
    """A FastCGI server at a Unix socket, one request at a time on each connection."""

    path: Path
    handler: FastCgiHandler = hello
    requests: list[dict[bytes, bytes]] = field(default_factory=list)
    connections: int = 0
    aborted: int = 0

    async def start(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    def send(self, application: Application) -> None:
        """Send what was answered meanwhile on the connection that was opened last."""
        self._writers[-1].write(application.take())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        application = Application({})
        begun, body = Begun({}, keep=True), b""
        while begun.keep and (data := await reader.read(65536)):
            for event in application.feed(data):
                if isinstance(event, Begun):
                    begun, body = event, b""
                    self.requests.append(begun.params)
                elif isinstance(event, Aborted):
                    self.aborted += 1
                elif isinstance(event, Body) and event.piece:
                    body += event.piece
                else:
                    self.handler(begun.params, body, application)
            writer.write(application.take())
        writer.close()


class Program:
    """A running CGI program."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: int, stdout: int) -> None:
        self.pid, self.stdin, self.stdout = process.pid, stdin, stdout
        self.ended = asyncio.ensure_future(asyncio.to_thread(process.wait))

    @property
    def alive(self) -> bool:
        return not self.ended.done()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.alive:
                os.killpg(self.pid, signal.SIGKILL)

    def on_end(self, tell: Callable[[int], None]) -> None:
        self.ended.add_done_callback(lambda ended: tell(ended.result()))


class Client:
    """A connection to the gateway that speaks bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *pieces: bytes) -> None:
        """Send pieces, each in a segment of its own as far as the kernel lets us, while the gateway listens."""
        for piece in pieces:
            if self.writer.transport.is_closing():
                return
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def response(self, to_head: bool = False) -> tuple[int, bytes, bytes]:
        """Status, head and body of the next response."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)
        status, lowered = int(head[9:12]), head.lower()
        if to_head or status < 200 or status in (204, 304):
            return status, head, b""
        if b"transfer-encoding: chunked" in lowered:
            return status, head, await self._chunks()
        if b"content-length:" in lowered:
            size = int(lowered.partition(b"content-length:")[2].split(b"\r\n")[0])
            return status, head, await asyncio.wait_for(self.reader.readexactly(size), PATIENCE)
        return status, head, await asyncio.wait_for(self.reader.read(), PATIENCE)

    async def _chunks(self) -> bytes:
        pieces = []
        while size := int(await asyncio.wait_for(self.reader.readuntil(b"\r\n"), PATIENCE), 16):
            pieces.append((await self.reader.readexactly(size + 2))[:-2])
        while await self.reader.readuntil(b"\r\n") != b"\r\n":
            pass
        return b"".join(pieces)

    async def is_open(self) -> bool:
        """Whether another request on this connection is answered."""
        try:
            await self.send(b"GET /again HTTP/1.1\r\nHost: x\r\n\r\n")
            return (await self.response())[0] == 200
        except (asyncio.IncompleteReadError, ConnectionError):
            return False

    async def ended(self) -> type[Exception] | None:
        """None for an orderly end of the connection, else the error it broke with. What still comes is read."""
        try:
            while await asyncio.wait_for(self.reader.read(65536), PATIENCE):
                pass
        except ConnectionError as error:
            return type(error)
        return None

    def close(self) -> None:
        self.writer.transport.abort()


class World:
    """The gateway, its clients and its workers."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock = clock or SystemClock()
        self.events = EventRing(clock)
        self.starved: list[str] = []
        self.proxy = PythonBuiltinProxy(clock, self.events, None, self._start_cgi, self.starved.append)
        self.workers: list[Worker | FastCgiWorker] = []
        self.programs: list[Program] = []
        self._clients: list[Client] = []
        self.endpoints: list[Endpoint] = []

    async def start(
        self,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
        clients: ClientTimeouts | None = None,
        listener: ListenerSpec | None = None,
        **upstream: object,
    ) -> None:
        """Open the gateway for one app at `/`."""
        timeouts = timeouts or Timeouts()
        spec = UpstreamSpec(app="app", route="/", timeouts=timeouts, **upstream)
        settings = ProxySettings(limits=limits or Limits(), timeouts=clients or ClientTimeouts())
        self.spec = ProxySpec(listener=listener or ListenerSpec(port=0), upstreams=(spec,), settings=settings)
        self.url = await self.proxy.start(self.spec)
        self.address = ("127.0.0.1", int(self.url.rpartition(":")[2]))

    async def worker(
        self, response: bytes = OK, handler: Handler | None = None, concurrency: int = 8, app: str = "app"
    ) -> Worker:
        """Start a worker and route to it."""
        worker = Worker(response, handler)
        await worker.start()
        self.workers.append(worker)
        self.add(app, host="127.0.0.1", port=worker.port, concurrency=concurrency)
        return worker

    async def fastcgi(self, path: Path, handler: FastCgiHandler = hello, **endpoint: object) -> FastCgiWorker:
        """Start a FastCGI worker and route to it."""
        worker = FastCgiWorker(path, handler)
        await worker.start()
        self.workers.append(worker)
        self.add(path=str(path), wire=Wire.FASTCGI, **endpoint)
        return worker

    def cgi(self, source: str) -> Endpoint:
        """Have requests answered by a Python program, a process each."""
        self.source = source
        return self.add(wire=Wire.CGI, concurrency=8)

    async def _start_cgi(self, app: str, env: dict[str, str]) -> Program:
        return self._spawn(env)  # at once: there is nothing to cancel

    def _spawn(self, env: dict[str, str]) -> Program:
        theirs_in, stdin = os.pipe()
        stdout, theirs_out = os.pipe()
        argv = (sys.executable, "-IS", "-c", self.source)
        process = subprocess.Popen(argv, stdin=theirs_in, stdout=theirs_out, env=env, start_new_session=True)
        os.close(theirs_in)
        os.close(theirs_out)
        self.programs.append(Program(process, stdin, stdout))
        return self.programs[-1]

    def told(self, kind: EventKind) -> list[str]:
        """The texts of events of a kind."""
        return [event.text for event in self.events.read().events if event.kind is kind]

    def route(self, port: int, concurrency: int = 8) -> Endpoint:
        return self.add(host="127.0.0.1", port=port, concurrency=concurrency)

    def add(self, app: str = "app", **endpoint: object) -> Endpoint:
        """Route to an endpoint that is there already."""
        identity = WorkerId(app, len(self.endpoints), 1)
        added = Endpoint(app, identity, **endpoint)
        self.endpoints.append(added)
        self.proxy.add(added)
        return added

    async def client(self) -> Client:
        client = Client(*await asyncio.open_connection(*self.address))
        self._clients.append(client)
        return client

    async def own_client(self) -> Client:
        """A client that the gateway counts as the lab itself."""
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.proxy.mark_own(sock.getsockname())
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, self.address)
            client = Client(*await asyncio.open_connection(sock=sock.dup()))
        self._clients.append(client)
        return client

    async def get(self, path: str = "/") -> int:
        """The status of one GET on a connection of its own."""
        client = await self.client()
        await client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return (await client.response())[0]

    def conserved(self) -> bool:
        """Whether every accepted request is accounted for."""
        totals = self.proxy.observe().totals
        ended = totals.answered + totals.failed + totals.shed + totals.abandoned
        return totals.accepted == ended + totals.in_flight

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when the gateway's counters show it; fail after `PATIENCE`."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.002)

    async def standstill(self, sent: Callable[[], int]) -> None:
        """Return when nobody has been able to send anything for a while; fail after `PATIENCE`."""
        async with asyncio.timeout(PATIENCE):
            before = -1
            while before != sent():
                before = sent()
                await asyncio.sleep(0.3)

    async def visited(self, rng: random.Random, number: int) -> None:
        """Have so many clients at once ask for good and bad and leave when they like; every request has one outcome."""
        asked = [
            GET,
            GET + GET,
            GET[:10],
            GET.replace(b"GET", b"HEAD"),
            b"BAD\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc",
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        ]

        async def visit() -> None:
            client = await self.client()
            with contextlib.suppress(ConnectionError):  # an answer was broken off
                for _ in range(rng.randrange(1, 5)):
                    await client.send(rng.choice(asked))
                    assert self.conserved()
                    await asyncio.sleep(rng.random() * 0.02)
            client.close()

        await asyncio.gather(*(visit() for _ in range(number)))
        await self.until(lambda: self.proxy.observe().connections == 0)
        totals = self.proxy.observe().totals
        assert self.conserved()
        assert totals.in_flight == 0
        assert totals.accepted > number // 3
        await self.until(lambda: not any(map(self.proxy.in_flight, self.endpoints)))  # a health check may be under way

    async def close(self) -> None:
        for client in self._clients:
            client.close()
        await self.proxy.close()
        for worker in self.workers:
            await worker.stop()
        for program in self.programs:
            program.kill()
            await program.ended


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.close()


@pytest.fixture
async def timeless() -> AsyncIterator[World]:
    """A world in which everything takes no time, for what may only last a moment."""
    world = World(ManualClock())
    yield world
    await world.close()
