"""Bytes that nobody should send, at a running gateway: from tests/corpora as they are, and bent at random.

    python tests/fuzz.py [--seconds 60] [--seed N]

After each one a plain request has to be answered, every request has one outcome, nothing is in flight, h11 has read
whatever reached the worker, and the gateway's loop has seen no exception. What breaks one of these is printed with the
seed and the bytes, and the script ends with status 1. Nothing is kept between two of them but the connections.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
import uvloop

from lab.core.clock import SystemClock
from lab.core.events import EventRing
from lab.core.model import Endpoint, ListenerSpec, Timeouts, Wire, WorkerId
from lab.proxy.backends.python_builtin import PythonBuiltinProxy
from lab.proxy.manager import ProxySpec, UpstreamSpec

CORPORA = Path(__file__).parent / "corpora"
KINDS = ("requests", "chunked", "responses", "fastcgi")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEALTH = b"GET /http/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CHUNKED = b"Host: x\r\nTransfer-Encoding: chunked\r\n\r\n"
TIMEOUTS = Timeouts(request_body=1, response_head=1, response_idle=1, queue=1)
SILENCE = 0.03
"""Seconds without a byte after which a client leaves: the gateway waits for more."""
_BITS = [
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b",", b";", b"\x0b", b"\x7f", b"\xff", b"_", b"0"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"HTTP/1.1", b"Connection: close\r\n"),
    *(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"ffffffffffffffff", b"-1", b"+", b"0x", b"\1\3\0\1\0\10\0\0" + bytes(8)),
]


class BrokenError(Exception):
    """What must hold does not."""


@dataclass(frozen=True)
class Sent:
    """What a client sends, and what its worker says to each request."""

    request: bytes
    answer: bytes = OK


def seeds(kind: str) -> dict[str, bytes]:
    """The files of one corpus, by name."""
    return {path.stem: path.read_bytes() for path in sorted((CORPORA / kind).glob("*.bin"))}


def dressed(kind: str, data: bytes, to_client: bool = False) -> Sent:
    """Bytes of a corpus where they belong. A body in chunks goes up, or down to the client."""
    if kind == "requests":
        return Sent(data)
    if kind == "fastcgi":
        return Sent(b"GET /fastcgi/x HTTP/1.1\r\nHost: x\r\n\r\n", data)
    if kind == "responses":
        return Sent(b"GET /http/ HTTP/1.1\r\nHost: x\r\n\r\n", data)
    if to_client:
        return Sent(b"GET /http/ HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + CHUNKED + data)
    return Sent(b"POST /http/ HTTP/1.1\r\n" + CHUNKED + data)


def bent(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """`data` with one to four places changed; `other` gives pieces."""
    for _ in range(rng.randint(1, 4)):
        place = rng.randint(0, len(data))
        end = min(len(data), place + rng.choice((0, 1, 1, 2, 8, 40)))
        begin = rng.randint(0, len(other))
        instead = rng.choice(
            (b"", rng.choice(_BITS), rng.randbytes(1), data[place:end] * 2, other[begin : begin + 20], data[:place])
        )
        data = data[:place] + instead + data[end:]
    return data[:200_000]


class Arena:
    """A gateway, and workers that say whatever they are told to."""

    def __init__(self, folder: Path) -> None:
        self.reached: list[tuple[bytes, bytes]] = []
        """Method and target of each request of the last that reached the HTTP worker whole."""
        self._folder = folder
        self._answer = OK
        self._received: dict[asyncio.StreamWriter, bytes] = {}
        self._wrong: list[str] = []
        self._servers: list[asyncio.Server] = []
        self._endpoints: list[Endpoint] = []

    async def open(self) -> None:
        """Start everything."""
        clock = SystemClock()
        self._proxy = PythonBuiltinProxy(clock, EventRing(clock))
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self._wrong.append(repr(context)))
        apps = ("http", "fastcgi")
        upstreams = tuple(
            UpstreamSpec(app=app, route=f"/{app}", script="/srv/app" if app == "fastcgi" else "", timeouts=TIMEOUTS)
            for app in apps
        )
        rest = UpstreamSpec(app="rest", route="/", timeouts=TIMEOUTS)
        url = await self._proxy.start(ProxySpec(listener=ListenerSpec(port=0), upstreams=(*upstreams, rest)))
        self._port = int(url.rpartition(":")[2])
        http = await asyncio.start_server(self._serve_http, "127.0.0.1", 0)
        fastcgi = await asyncio.start_unix_server(self._serve_fastcgi, self._folder / "socket")
        self._servers = [http, fastcgi]
        port = http.sockets[0].getsockname()[1]
        self._endpoints = [
            Endpoint("http", WorkerId("http", 0, 1), host="127.0.0.1", port=port, concurrency=4),
            Endpoint("rest", WorkerId("rest", 0, 1), host="127.0.0.1", port=port, concurrency=4),
            Endpoint("fastcgi", WorkerId("fastcgi", 0, 1), path=str(self._folder / "socket"), wire=Wire.FASTCGI),
        ]
        for endpoint in self._endpoints:
            self._proxy.add(endpoint)

    async def close(self) -> None:
        """Stop everything."""
        await self._proxy.close()
        for server in self._servers:
            server.close()

    async def suffer(self, sent: Sent) -> bytes:
        """Have it said, and look whether the gateway is well. Returns what the client got. Raises `BrokenError`."""
        self._answer = sent.answer
        self.reached.clear()
        self._received.clear()
        got = await self._ask(sent.request, SILENCE)
        self._answer = OK
        await self._demand(lambda view: view.connections == 0, "a connection is left")
        await self._demand(lambda view: view.totals.in_flight == 0, "a request is in flight for ever")
        for data in self._received.values():
            self.reached += _read_by_h11(data)
        health = await self._ask(HEALTH, 5)
        if not health.startswith(b"HTTP/1.1 200 "):
            raise BrokenError(f"a plain request was answered {health[:80]!r}")
        totals = self._proxy.observe().totals
        ended = totals.answered + totals.failed + totals.shed + totals.abandoned + totals.in_flight
        if totals.accepted != ended:
            raise BrokenError(f"{totals.accepted} requests were accepted, and {ended} are accounted for")
        if any(self._proxy.in_flight(endpoint) for endpoint in self._endpoints):
            raise BrokenError("a place is left taken")
        if self._wrong:
            raise BrokenError(f"an exception in the gateway: {self._wrong}")
        return got

    async def _ask(self, data: bytes, silence: float) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        got = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            writer.write(data)
            while piece := await asyncio.wait_for(reader.read(65536), silence):
                got += piece
        writer.transport.abort()
        return got

    async def _demand(self, holds: Any, otherwise: str) -> None:
        end = time.monotonic() + 10
        while not holds(self._proxy.observe()):
            if time.monotonic() > end:
                raise BrokenError(otherwise)
            await asyncio.sleep(0.001)

    async def _serve_http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer whenever what came ends like a request. That is too often for some: the gateway has to bear it."""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                self._received[writer] = self._received.get(writer, b"") + data
                if data.endswith((b"\r\n\r\n", b"hello")):
                    writer.write(self._answer)
                    if self._answer is not OK:
                        break
        writer.close()

    async def _serve_fastcgi(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(65536)
            writer.write(self._answer)
        writer.close()


def _read_by_h11(data: bytes) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    try:
        while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.Request):
                begun = event.method, event.target
            elif isinstance(event, h11.EndOfMessage):
                found.append(begun)
                connection.send(h11.Response(status_code=204, headers=[]))
                connection.send(h11.EndOfMessage())
                connection.start_next_cycle()
    except h11.RemoteProtocolError as error:
        raise BrokenError(f"h11 cannot read what was sent on: {error}: {data[:200]!r}") from error
    return found


def check_answer(got: bytes) -> None:
    """What a client gets for one GET is one answer at most, and nothing behind it. Raises `BrokenError`."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    if got:  # else it left too early
        connection.receive_data(got)
    try:
        while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.EndOfMessage) and connection.trailing_data[0]:
                raise BrokenError(f"more than one answer to one request: {got[:400]!r}")
    except h11.RemoteProtocolError as error:
        raise BrokenError(f"h11 cannot read what the client got: {error}: {got[:200]!r}") from error


async def fuzz(seconds: float, seed: int, folder: Path) -> Counter[str]:
    """Bend the corpora for this long; returns how many of each kind were sent. Raises `BrokenError`."""
    rng = random.Random(seed)
    corpora = {kind: list(seeds(kind).values()) for kind in KINDS}
    done: Counter[str] = Counter()
    arena = Arena(folder)
    await arena.open()
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            kind = rng.choice(KINDS)
            data = bent(rng.choice(corpora[kind]), rng.choice(corpora[rng.choice(KINDS)]), rng)
            sent = dressed(kind, data, to_client=rng.random() < 0.5)
            done[kind] += 1
            try:
                got = await arena.suffer(sent)
                if sent.answer is not OK:
                    check_answer(got)
            except (BrokenError, TimeoutError, OSError) as error:
                raise BrokenError(f"seed {seed}, number {done.total()}, {kind}: {error!r}\n{sent}") from error
    finally:
        await arena.close()
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        try:
            done = uvloop.run(fuzz(args.seconds, args.seed, Path(folder)))
        except BrokenError as broken:
            print(broken)
            return 1
    print(f"{done.total()} sent, and everything held: {dict(done)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
