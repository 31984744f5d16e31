"""What the gateway sends on means the same to all who read it: h11, httptools and the samples in C and Python.

Messages are generated, valid or bent near the edges where parsers disagree, and sent to the real gateway. What it sends
on is read by each of the others. A request that one of them took for another, or that began elsewhere for it, could be
smuggled past whatever the gateway decides.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

import h11
import httptools
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings

from lab import paths
from tests.conformance.conftest import World
from tests.conformance.messages import BEHIND, CUTS, Reader, Request, ours, pieces, streams
from tests.conformance.readers import Read, by_h11, by_httptools, fields

SEARCH = paths.content("samples") / "search"
KNOWN_METHODS = {b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"DELETE"}
NOTHING = b"HTTP/1.1 204 No Content\r\n\r\n"
"""An answer that fits every request."""

pytestmark = pytest.mark.timeout(300)

# -- the gateway and what is behind it


class Gateway:
    """A real gateway with a worker that keeps what reaches it."""

    def __init__(self, **upstream: object) -> None:
        self._upstream = upstream
        self.loop = uvloop.new_event_loop()
        self._world = World()
        self._received = b""
        self.loop.run_until_complete(self._start())

    def forward(self, data: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
        """What of a client's bytes reaches the worker, and what the client gets."""
        return self.loop.run_until_complete(asyncio.wait_for(self._forward(data, cuts), 60))

    def sends_on(self, data: bytes) -> list[Request]:
        """What should reach the worker. An old client that names no host is given the listener's."""
        authority = b"%b:%d" % (self._world.address[0].encode(), self._world.address[1])
        return [(method, target, host or authority, body) for method, target, host, body in ours(data + BEHIND)]

    def close(self) -> None:
        self.loop.run_until_complete(self._world.close())
        self.loop.close()

    async def _start(self) -> None:
        await self._world.start(**self._upstream)
        await self._world.worker(handler=self._serve)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what h11, and not our own parser, takes for a request."""
        held, answered = b"", 0
        while data := await reader.read(65536):
            self._received += data
            held += data
            try:
                requests = len(by_h11(held))
            except h11.RemoteProtocolError:
                break  # the test will see it
            writer.write(NOTHING * (requests - answered))
            held, answered = (b"", 0) if _ends(held) else (held, requests)

    async def _forward(self, data: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
        self._received = b""
        client = await self._world.client()
        # It may hang up while there is still something to send: what it answered before that has to be read meanwhile.
        sending = asyncio.ensure_future(client.send(*pieces(data + BEHIND, cuts)))
        reader, answers = Reader(), b""
        reader.feed(data + BEHIND)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                # Either the gateway hangs up, or it waits for more of a body than ever comes.
                while reader.ended or answers.count(NOTHING[:12]) < reader.whole:
                    piece = await client.reader.read(65536)
                    answers += piece
                    if not piece:
                        break
        with contextlib.suppress(ConnectionError):
            await sending
        client.close()
        await self._world.until(lambda: self._world.proxy.observe().connections == 0)
        for _ in range(3):  # the worker, on the same loop, reads what has been sent to it
            await asyncio.sleep(0)
        totals = self._world.proxy.observe().totals
        assert totals.in_flight == 0
        assert self._world.conserved()
        return self._received, answers


def _ends(held: bytes) -> bool:
    """No request has been begun behind the last one."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(held)
    while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        if isinstance(event, h11.EndOfMessage):
            connection.send(h11.Response(status_code=204, headers=[]))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()
    return connection.their_state is h11.IDLE and not connection.trailing_data[0]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    gateway = Gateway(request_buffer=0)  # so that bodies are sent on piece by piece, too
    yield gateway
    gateway.close()


@pytest.fixture(scope="module")
def collecting() -> Iterator[Gateway]:
    """One that sends on no request before all of it is there: a sample that refuses a body hangs up in its middle."""
    gateway = Gateway()
    yield gateway
    gateway.close()


class Sample:
    """A sample as a real process. It takes requests without a body, and says which query it found in each."""

    def __init__(self, argv: list[str], path: Path) -> None:
        self.path = path
        self._process = subprocess.Popen([*argv, str(path)], stderr=subprocess.DEVNULL)

    async def read(self, data: bytes) -> list[tuple[int, bytes]]:
        """Status and query of each answer to `data`."""
        reader, writer = await self._open()
        writer.write(data + b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answers = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        found = []
        for head, body in re.findall(rb"(HTTP/1\.1 [^\x00]*?\r\n\r\n)(\{.*?\}\n)?", answers):
            found.append((int(head[9:12]), json.loads(body).get("query", "").encode() if body else b""))
        return found

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                    return await asyncio.open_unix_connection(self.path)
                await asyncio.sleep(0.02)


@pytest.fixture(scope="module", params=["python", pytest.param("c", marks=pytest.mark.compiler)])
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    folder = tmp_path_factory.mktemp("sample")
    if request.param == "c":
        program = folder / "search"
        subprocess.run(["cc", "-O1", "-o", program, SEARCH / "c" / "search.c", f"-I{SEARCH}"], check=True)
        argv = [str(program)]
    else:
        argv = [sys.executable, str(SEARCH / "python" / "search.py")]
    sample = Sample(argv, folder / "socket")
    yield sample
    sample.stop()


MANY = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@given(data=streams(), cuts=CUTS)
@MANY
def test_01_what_is_sent_on_means_the_same_to_h11(gateway: Gateway, data: bytes, cuts: list[int]) -> None:
    received, answers = gateway.forward(data, cuts)
    found = by_h11(received)
    assert [read.request for read in found] == gateway.sends_on(data)
    assert ends(found) == our_ends(received)
    assert answers.count(NOTHING[:12]) >= len(ours(data + BEHIND))


@given(data=streams(), cuts=CUTS)
@MANY
def test_01_what_is_sent_on_means_the_same_to_httptools(gateway: Gateway, data: bytes, cuts: list[int]) -> None:
    received, _ = gateway.forward(data, cuts)
    expected = gateway.sends_on(data)
    try:
        found = by_httptools(received)
    except httptools.HttpParserInvalidMethodError:  # it has a list of those that there may be
        reader = Reader()  # of one that broke off, too
        reader.feed(received)
        assert not {method for method, _ in reader.asked} <= KNOWN_METHODS
    else:
        assert [read.request for read in found] == expected
        assert ends(found) == our_ends(received)


@given(data=streams(), cuts=CUTS)
@MANY
def test_01_what_is_sent_on_means_the_same_to_a_sample(
    collecting: Gateway, sample: Sample, data: bytes, cuts: list[int]
) -> None:
    data = re.sub(rb"(?i)\nexpect", b"\nexcept", data)  # whoever waits to be told to go on is not collected
    received, _ = collecting.forward(data, cuts)
    answers = iter(collecting.loop.run_until_complete(sample.read(received)))
    may_refuse = re.search(rb"(?i)\n(content-length|transfer-encoding)", received) is not None
    for method, target, _, body in ours(data + BEHIND):
        status, query = next(answers)
        if method not in (b"GET", b"HEAD") or body or (may_refuse and status == 400):
            assert status in (400, 405)
            break  # it says so, closes, and reads nothing further
        assert status == 200
        asked = query_of(target)
        assert method == b"HEAD" or query == asked or not re.fullmatch(rb"[A-Za-z0-9 ]*", asked)
    else:
        assert next(answers)[0] == 200, "the request behind them begins where it should"
    assert next(answers, None) is None


def ends(found: list[Read]) -> list[tuple[int, tuple[tuple[bytes, bytes], ...]]]:
    """Behind which byte each request ends for somebody, and what comes late in it."""
    return [(read.end, read.trailers) for read in found]


def our_ends(data: bytes) -> list[tuple[int, tuple[tuple[bytes, bytes], ...]]]:
    """The same as we read our own words: a gateway behind this one may be another cgilab."""
    reader = Reader()
    reader.feed(data)
    return [(end, fields(trailers)) for end, trailers in reader.ends]


def query_of(target: bytes) -> bytes:
    """The first parameter `q`, decoded."""
    pairs = target.partition(b"?")[2].split(b"&")
    return unquote_to_bytes(next((pair[2:] for pair in pairs if pair.startswith(b"q=")), b"").replace(b"+", b" "))
