"""Points 1 to 16 as tables: raw bytes from a client or a worker, over real sockets, and what each side gets of them.

Every case is run as it stands and cut into segments at random places: TCP promises nothing about where they end.
"""

import asyncio
import contextlib
import random
import re
import socket
import struct
from collections.abc import AsyncIterator, Iterator

import pytest

from lab.core.model import Limits, Timeouts
from tests.conformance.cases import Case, Ending, State, load, raw
from tests.conformance.conftest import OK, PATIENCE, Client, World, hello

_ADDED = re.compile(
    rb"(?:Via: 1\.[01] cgilab[^\r]*|X-Forwarded-(?:For: 127\.0\.0\.1|Proto: http|Host: [^\r]*)|Forwarded: for=[^\r]*"
    rb"|X-Request-Id: [^\r]*)\r\n"
)
"""What the gateway adds to a request, each once, behind everything that came."""

_PROBE = b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"
"""Answered by the gateway itself: whatever a worker said too much would come first."""


class Scripted:
    """A worker that says what its case tells it to. `requests` holds those that reached it whole."""

    def __init__(self, case: Case, pieces: random.Random | None) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.seen = asyncio.Event()
        """The client has seen what was answered so far."""
        self.left = asyncio.Event()
        """The gateway has hung up."""
        self._case = case
        self._pieces = pieces

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if self._case.early:
                    await self._answer(writer)
                self.requests.append(head + await body_of(head, reader))
                if not self._case.early:
                    await self._answer(writer)
                if self._case.ends is not Ending.WAITS:
                    return
        self.left.set()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        case = self._case
        await self._say(writer, OK if case.answer is None else raw(case.answer))
        if case.then or case.ends is Ending.RESETS:
            await self.seen.wait()
            await self._say(writer, raw(case.then))
        if case.ends is Ending.RESETS:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _say(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        for piece in cut(data, self._pieces):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)


async def body_of(head: bytes, reader: asyncio.StreamReader) -> bytes:
    """The body that belongs to a head, as it comes; its framing is the plainest that there is."""
    if b"\r\nTransfer-Encoding: chunked\r\n" not in head:
        length = re.search(rb"(?i)\r\ncontent-length:[ \t]*([0-9]+)", head)
        return await reader.readexactly(int(length[1])) if length else b""
    payload = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        payload += await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    trailers = await reader.readuntil(b"\r\n")
    while not trailers.endswith(b"\r\n\r\n") and trailers != b"\r\n":
        trailers += await reader.readuntil(b"\r\n")
    return (b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b"") + b"0\r\n" + trailers


def cut(data: bytes, rng: random.Random | None) -> Iterator[bytes]:
    """`data` in pieces, or whole."""
    places = [] if rng is None else sorted(rng.sample(range(len(data) + 1), min(8, len(data))))
    for begin, end in zip([0, *places], [*places, len(data)], strict=True):
        yield data[begin:end]


@pytest.mark.parametrize(
    ("case", "whole"),
    [
        pytest.param(case, whole, id=case.id if whole else f"{case.id}-cut")
        for case in load()
        for whole in (True, False)
        if whole or not case.together
    ],
)
async def test_table(world, tmp_path, case, whole):
    rng = None if whole else random.Random(case.id)
    async with _worker(world, tmp_path, case, rng) as worker:
        client = await world.client()
        await client.send(*cut(raw(case.send), rng))
        await _answers(world, client, case, worker)
        await _ends(client, case)
        _reached(world, case, worker)
        await _upstream_ends(world, case, worker)
        await world.until(lambda: world.proxy.observe().totals.in_flight == 0)
        assert world.conserved()
        if case.refused:
            _told_by_the_gateway(world, case, worker, whole)


def _told_by_the_gateway(world: World, case: Case, worker: Scripted, whole: bool) -> None:
    """Who refuses is the gateway; a worker may have seen the beginning only of a body that turned out bad later."""
    assert not whole or not worker.connections
    totals = world.proxy.observe().totals
    failed = sum(status >= 500 for status in case.status)
    answered = len(case.status) - failed + (case.connection is State.OPEN)  # with the probe
    assert (totals.answered, totals.failed) == (answered, failed)


@contextlib.asynccontextmanager
async def _worker(world: World, tmp_path, case: Case, rng: random.Random | None) -> AsyncIterator[Scripted]:
    worker = Scripted(case, rng)
    spec: dict[str, object] = {} if case.wire == "http" else {"script": "/srv/app"}
    if case.early:
        spec["request_buffer"] = 0  # the worker sees the head before the body is here
    # A connection that the worker loses is one that was hung up on, not one that was idle for too long.
    await world.start(Timeouts(upstream_idle=3600), limits=Limits(**case.limits), **spec)
    if case.wire == "http":
        await world.worker(handler=worker.serve)
    elif case.wire == "fastcgi":

        def handler(params, body, application):
            if case.answer is None:
                hello(params, body, application)
                return
            application.write(raw(case.answer))
            application.end_request()

        await world.fastcgi(tmp_path / "socket", handler)
    else:
        world.cgi(f"import sys; sys.stdin.read(); sys.stdout.buffer.write({raw(case.answer or '')!r})")
    yield worker
    worker.seen.set()


async def _answers(world: World, client: Client, case: Case, worker: Scripted) -> None:
    """Read what the client gets."""
    head, body = b"", b""
    for index, status in enumerate(case.status):
        whole = case.connection is not State.RESET
        found, head, body = await client.response(to_head=not whole or case.send.startswith("HEAD"))
        assert found == status, head + body
        worker.seen.set()
        await client.send(raw(case.more) if index == 0 else b"")
    if case.refused and status >= 400:
        assert b"\r\nContent-Type: application/problem+json\r\n" in head
    for line in case.sees:
        assert head.split(b"\r\n").count(expected(world, line)) == 1, head
    for part in case.unseen:
        assert raw(part).lower() not in head.lower()
    assert case.body is None or body == raw(case.body)


async def _ends(client: Client, case: Case) -> None:
    """Nothing more may come, and the connection ends as it should, or does not."""
    if case.connection is State.OPEN:
        await client.send(_PROBE)
        assert (await client.response())[0] == 204
    else:
        behind = b"" if case.connection is State.RESET else await asyncio.wait_for(client.reader.read(), PATIENCE)
        assert behind == b""
        assert await client.ended() is (ConnectionResetError if case.connection is State.RESET else None)


def _reached(world: World, case: Case, worker: Scripted) -> None:
    if case.wire == "http":
        assert [clean(request) for request in worker.requests] == [expected(world, text) for text in case.worker]
        for line in case.reaches:
            head = worker.requests[0].partition(b"\r\n\r\n")[0]
            assert head.split(b"\r\n").count(expected(world, line)) == 1, head
    if case.variables or case.untold:
        (told,) = world.workers[0].requests
        assert {name: told.get(name.encode(), b"").decode("latin-1") for name in case.variables} == case.variables
        assert not {name.encode() for name in case.untold} & told.keys()


async def _upstream_ends(world: World, case: Case, worker: Scripted) -> None:
    if case.upstream is State.OPEN:
        client = await world.client()
        await client.send(raw(case.send))
        await client.response(to_head=case.send.startswith("HEAD"))
        assert worker.connections == 1
    elif case.upstream is State.CLOSED:
        await asyncio.wait_for(worker.left.wait(), PATIENCE)


def clean(request: bytes) -> bytes:
    """A request without what the gateway added behind its fields."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = [line + b"\r\n" for line in head.split(b"\r\n")]
    added: set[bytes] = set()
    for index in range(len(lines) - 1, -1, -1):
        name = lines[index].partition(b":")[0]
        if _ADDED.fullmatch(lines[index]) and name not in added:
            added.add(name)
            del lines[index]
    return b"".join([first, *lines, b"\r\n", body])


def expected(world: World, text: str) -> bytes:
    """The bytes of a table's text, with `{authority}` for where the gateway listens and `{pseudonym}` for its name."""
    host, port = world.address
    named = raw(text).replace(b"{pseudonym}", world.proxy._gateway.pseudonym)
    return named.replace(b"{authority}", f"{host}:{port}".encode())
