"""Framing and order under everything that may happen: random segments, and clients and workers that do what they like.

Points 8, 10 and 28: whatever the order of events, a request has one answer at most, its own, and one outcome; it has it
as soon as somebody answers; workers are sent what clients have sent, and nothing that a request held stays held. The
machine acts on a real gateway between real sockets, one event after the other.
"""

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from lab.core.model import Timeouts
from lab.wire.bodies import incoming
from lab.wire.http1 import UNTIL_CLOSE, BadMessageError, parse_response
from tests.conformance.conftest import World
from tests.conformance.messages import BEHIND, CUTS, Answers, Reader, ours, pieces, streams

pytestmark = pytest.mark.timeout(300)


@given(data=streams(), cuts=CUTS)
@settings(max_examples=500, deadline=None)
def test_08_requests_are_the_same_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    whole, cut = Reader(), Reader()
    whole.feed(data + BEHIND)
    for piece in pieces(data + BEHIND, cuts):
        cut.feed(piece)
    assert (cut.found, cut.asked, cut.ended) == (whole.found, whole.asked, whole.ended)
    assert ours(*(bytes([byte]) for byte in data)) == ours(data)


ANSWERS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\nA: b\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    ]
)


def answered(*parts: bytes) -> tuple[bytes, bytes, bytes, bool] | None:
    """What a worker's bytes are taken for: head lines, body, trailers, and whether it is whole. None: refused."""
    held, body, payload, lines = b"", None, b"", b""
    try:
        for part in parts:
            if body is None:
                held += part
                head = parse_response(held, False)
                if head is None:
                    continue
                lines, body, part = head.lines, incoming(head.length, 502), held[head.end :]
                whole = head.length == UNTIL_CLOSE
            if not body.done:
                payload += body.feed(part)
    except BadMessageError:
        return None
    return lines, payload, body.trailers if body else b"", bool(body and (body.done or whole))


@given(data=ANSWERS, place=st.integers(0, 90), bit=st.sampled_from([None, b"\n", b"\r", b" ", b"\0", b"9"]), cuts=CUTS)
@settings(max_examples=500, deadline=None)
def test_10_answers_are_the_same_however_they_are_cut(
    data: bytes, place: int, bit: bytes | None, cuts: list[int]
) -> None:
    if bit is not None:
        data = data[:place] + bit + data[place:]
    whole = answered(data)
    assert answered(*pieces(data, cuts)) == whole
    assert answered(*(bytes([byte]) for byte in data)) == whole


HEADS = st.sampled_from(
    [
        b"GET /# HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /# HTTP/1.1\r\nHost: x\r\n\r\nHEAD /# HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /# HTTP/1.0\r\n\r\n",
        b"GET /# HTTP/1.1\r\nHo",
        b"POST /# HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc",
        b"POST /# HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
        b"PUT /# HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n<100000>",
        b"DELETE /# HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /# HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
)
"""Each `#` becomes a number of its own: what a request is known by to its worker, and its answer to its client; and
`<100000>` becomes so many bytes."""

BODIES = st.sampled_from([b"abc", b"3\r\nabc\r\n", b"0\r\n\r\n", b"<200000>", b"zz\r\n", b"\r\n\r\n"])
SAID = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\nX-For: #\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-For: #\r\nContent-Length: 2\r\n\r\no",
        b"HTTP/1.1 200 OK\r\nX-For: #\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
        b"k",
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        b"HTTP/1.1 413 No\r\nX-For: #\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n",
        b"0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-For: #\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\nX-For: #\r\nContent-Length: 400000\r\n\r\n<400000>",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nX-For: #\r\nConnection: close\r\n\r\n",
    ]
)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_MANY = re.compile(rb"<([0-9]+)>")
_FOR = re.compile(rb"\r\nX-For: ([^\r]*)\r\n")
_RESET = struct.pack("ii", 1, 0)
_SOON = 10.0
"""Seconds in which what needs no time has come to pass, on any machine."""


def many(match: re.Match[bytes]) -> bytes:
    """As many bytes as are asked for."""
    return bytes(int(match[1]))


class Connection:
    """A worker's end of a connection, for the machine to act on. What comes is read along."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.reader = Reader()
        self.answered = 0
        """Requests to which something was said."""
        self.last: int | None = None
        """How many requests there may be on it, once that has been said to be all."""

    @property
    def busy(self) -> bool:
        """It was asked, and has said nothing."""
        return len(self.reader.asked) > self.answered

    def say(self, data: bytes) -> None:
        asked = self.reader.asked
        if b"Connection: close" in data:
            self.last = len(asked)
        self.answered = len(asked)
        self.writer.write(_MANY.sub(many, data).replace(b"#", asked[-1][1] if asked else b"nobody"))


class Visitor(asyncio.Protocol):
    """A client's connection, for the machine to act on. What it sends is read along."""

    def __init__(self) -> None:
        self.reader = Reader()
        self.answers = Answers(self.reader.asked)
        self.said_all = self.heard_all = False
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.answers.feed(data)

    def eof_received(self) -> bool:
        self.heard_all = True
        return True  # it may still send

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard_all = True

    @property
    def content(self) -> bool:
        """Everything that it has asked was answered, or it cannot be any more."""
        return self.said_all or self.heard_all or len(self.answers.found) >= self.reader.whole


class Traffic(RuleBasedStateMachine):
    """Two workers with a place each, so that others soon have to wait, and clients."""

    clients: Bundle[Any] = Bundle("clients")

    @initialize()
    def open(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.world = World()
        self.connections: list[Connection] = []
        self.visitors: list[Visitor] = []
        self.numbers = count(1)
        self.generous = False
        """Workers answer by themselves."""
        self.run(self._open())

    async def _open(self) -> None:
        await self.world.start(queue_length=2, timeouts=Timeouts(request_body=1, response_head=1, queue=1))
        for _ in range(2):
            await self.world.worker(handler=self._serve, concurrency=1)

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 20))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(writer)
        self.connections.append(connection)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                before = len(connection.reader.found)
                connection.reader.feed(data)
                if self.generous:
                    writer.write(OK * (len(connection.reader.found) - before))
        self.connections.remove(connection)

    async def _settle(self) -> None:
        """Let what was done be noticed by everybody. The kernel needs no time for it, only turns of the loop."""
        for _ in range(20):
            await asyncio.sleep(0)

    # -- clients

    @rule(target=clients)
    def connect(self) -> Visitor:
        _, visitor = self.run(self.loop.create_connection(Visitor, *self.world.address))
        self.visitors.append(visitor)
        return visitor

    @rule(target=clients, head=HEADS, said=SAID)
    def connect_and_be_told(self, head: bytes, said: bytes) -> Visitor:
        visitor = self.connect()
        self.send(visitor, head)
        self.run(self._settle())
        self.say(-1, said, stray=False)
        return visitor

    @rule(target=clients, heads=st.lists(HEADS, min_size=3, max_size=3))
    def come_together(self, heads: list[bytes]) -> Any:
        """More than there are places."""
        visitors = [self.connect() for _ in heads]
        for visitor, head in zip(visitors, heads, strict=True):
            self.send(visitor, head)
        return multiple(*visitors)

    @rule(client=clients, data=HEADS | BODIES)
    def send(self, client: Visitor, data: bytes) -> None:
        if not client.said_all and not client.transport.is_closing():
            data = _MANY.sub(many, re.sub(b"#", lambda _: b"%d" % next(self.numbers), data))
            client.transport.write(data)
            client.reader.feed(data)

    @rule(client=clients)
    def stop_reading(self, client: Visitor) -> None:
        if client.transport.is_reading():
            client.transport.pause_reading()

    @rule(client=clients)
    def read_on(self, client: Visitor) -> None:
        if not client.transport.is_reading() and not client.transport.is_closing():
            client.transport.resume_reading()

    @rule(client=clients)
    def say_no_more(self, client: Visitor) -> None:
        if not client.transport.is_closing():
            client.transport.write_eof()
            client.said_all = True

    @rule(client=consumes(clients))
    def leave(self, client: Visitor) -> None:
        client.transport.abort()

    # -- workers

    @rule(index=st.integers(0, 7), data=SAID, stray=st.sampled_from([False, False, False, True]))
    def say(self, index: int, data: bytes, stray: bool) -> None:
        connections = [one for one in self.connections if stray or one.busy] or self.connections
        if connections:
            connections[index % len(connections)].say(data)

    @rule(index=st.integers(0, 7), reset=st.booleans())
    def hang_up(self, index: int, reset: bool) -> None:
        if self.connections:
            writer = self.connections[index % len(self.connections)].writer
            if reset:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
            else:
                writer.close()

    @rule()
    def lose_and_find_an_endpoint(self) -> None:
        endpoint = self.world.endpoints[0]
        self.world.proxy.remove(endpoint)
        self.world.proxy.add(endpoint)

    # -- what holds

    @invariant()
    def every_request_is_in_one_place(self) -> None:
        self.run(self._settle())
        view = self.world.proxy.observe()
        totals = view.totals
        assert totals.accepted == totals.answered + totals.failed + totals.shed + totals.abandoned + totals.in_flight
        assert totals.accepted <= sum(len(visitor.reader.asked) for visitor in self.visitors)
        assert all(0 <= self.world.proxy.in_flight(endpoint) <= 1 for endpoint in self.world.endpoints)

    @invariant()
    def nobody_waits_while_there_is_a_place(self) -> None:
        view = self.world.proxy.observe()
        (upstream,) = view.upstreams
        assert view.pending == upstream.queue
        assert not upstream.queue or [endpoint.in_flight for endpoint in upstream.endpoints] == [1, 1]

    @invariant()
    def nobody_is_told_more_than_answers_to_his_own_requests(self) -> None:
        for visitor in self.visitors:
            assert not visitor.answers.wrong
            for head, (_, target) in zip(visitor.answers.found, visitor.reader.asked, strict=False):
                whose = _FOR.search(head.lines)
                assert whose is None or whose[1] == target

    @invariant()
    def workers_are_sent_what_clients_have_sent(self) -> None:
        sent = {request[1]: request for visitor in self.visitors for request in visitor.reader.found}
        for connection in self.connections:
            assert not connection.reader.ended, "it was sent what is no request"
            assert connection.last in (None, len(connection.reader.asked)), "it had said that there would be no more"
            for method, target, _, body in connection.reader.found:
                assert (method, body) == (sent[target][0], sent[target][3])

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.run(self._close())
            self.loop.close()

    async def _close(self) -> None:
        proxy = self.world.proxy
        try:
            self.generous = True
            for connection in self.connections:
                connection.writer.close()
            for visitor in self.visitors:
                self.read_on(visitor)
            await self._soon(lambda: all(visitor.content for visitor in self.visitors))
            for visitor in self.visitors:
                visitor.transport.abort()
            await self._soon(lambda: proxy.observe().connections == 0)
            await self._soon(lambda: proxy.observe().totals.in_flight == 0)
            assert proxy.observe().pending == 0
            assert [proxy.in_flight(endpoint) for endpoint in self.world.endpoints] == [0, 0]
            states = proxy._endpoints.values()
            await self._soon(lambda: len(self.connections) == sum(state.connections for state in states))
        finally:
            await self.world.close()

    async def _soon(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(_SOON):
            while not condition():
                await asyncio.sleep(0.001)


Traffic.TestCase.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


class Test28EveryRequestHasOneOutcomeInWhateverOrderThingsHappen(Traffic.TestCase):
    """Run by unittest's collector; see `Traffic`."""
