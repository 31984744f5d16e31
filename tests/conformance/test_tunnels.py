"""Rule 15: what happens when client and worker switch to another protocol, and when only one of them would."""

import asyncio
import socket
import struct

import msgspec
import pytest

from lab.core.events import EventKind
from lab.core.model import AccessLogForm, Timeouts
from lab.core.trace import Tunnelled, Why
from tests.conformance.conftest import GET, PATIENCE, read_request

ASK = b"GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nX: y\r\n\r\n"


class Switcher:
    """A worker that switches, and then is one end of the tunnel."""

    def __init__(self, answer: bytes = SWITCH) -> None:
        self.answer = answer
        self.head = b""
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter
        self.switched = asyncio.Event()
        self.over = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.head = await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)
        self.reader, self.writer = reader, writer
        self.switched.set()
        await self.over.wait()


@pytest.fixture
async def switcher():
    switcher = Switcher()
    yield switcher
    switcher.over.set()


async def opened(world, switcher, **start):
    """A client whose connection has become a tunnel."""
    await world.start(**start)
    await world.worker(handler=switcher)
    client = await world.client()
    await client.send(ASK)
    assert (await client.response())[0] == 101
    await world.until(lambda: world.proxy.observe().totals.tunnels == 1)
    return client


async def told(reader, size):
    return await asyncio.wait_for(reader.readexactly(size), PATIENCE)


async def test_15_both_sides_ask_and_bytes_pass_both_ways(world, switcher):
    client = await opened(world, switcher)
    assert b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n" in switcher.head
    await client.send(b"\x81\x00\r\n\r\nGET / HTTP/1.1")
    assert await told(switcher.reader, 20) == b"\x81\x00\r\n\r\nGET / HTTP/1.1"
    switcher.writer.write(b"HTTP/1.1 200 OK")
    assert await told(client.reader, 15) == b"HTTP/1.1 200 OK"
    assert world.proxy.observe().totals.tunnel_bytes == 35


async def test_15_the_switch_reaches_the_client_with_both_fields_and_what_else_the_worker_says(world, switcher):
    await world.start()
    await world.worker(handler=switcher)
    client = await world.client()
    await client.send(ASK)
    _, head, _ = await client.response()
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\nX: y\r\n")
    assert b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n" in head


async def test_15_what_was_said_before_the_switch_was_known_is_not_lost(world, switcher):
    switcher.answer = SWITCH + b"welcome"
    await world.start()
    await world.worker(handler=switcher)
    client = await world.client()
    await client.send(ASK + b"early")
    assert (await client.response())[0] == 101
    assert await told(client.reader, 7) == b"welcome"
    assert await told(switcher.reader, 5) == b"early"


async def test_28_a_tunnel_counts_as_answered_when_it_opens_and_takes_a_place_until_it_ends(world, switcher):
    client = await opened(world, switcher)
    view = world.proxy.observe()
    assert (view.totals.accepted, view.totals.answered, view.totals.in_flight) == (1, 1, 0)
    (endpoint,) = world.endpoints
    assert world.proxy.in_flight(endpoint) == 1
    assert view.upstreams[0].endpoints[0].tunnels == 1
    assert world.proxy.busy_since(endpoint) is None  # no request hangs in it
    assert world.proxy.idle_since(endpoint) is None
    client.close()
    switcher.over.set()
    await world.until(lambda: world.proxy.in_flight(endpoint) == 0)
    await world.until(lambda: world.proxy.observe().connections == 0)
    assert world.proxy.observe().totals.tunnels == 0
    assert world.conserved()


async def test_15_the_client_ends_its_half_and_still_hears_the_worker(world, switcher):
    client = await opened(world, switcher)
    client.writer.write(b"that is all")
    client.writer.write_eof()
    assert await asyncio.wait_for(switcher.reader.read(), PATIENCE) == b"that is all"
    switcher.writer.write(b"understood")
    assert await told(client.reader, 10) == b"understood"
    switcher.writer.close()
    assert await client.ended() is None
    await world.until(lambda: world.proxy.observe().totals.tunnels == 0)


async def test_15_the_worker_ends_its_half_and_still_hears_the_client(world, switcher):
    client = await opened(world, switcher)
    switcher.writer.write(b"that is all")
    switcher.writer.write_eof()
    assert await asyncio.wait_for(client.reader.read(), PATIENCE) == b"that is all"
    client.writer.write(b"understood")
    assert await told(switcher.reader, 10) == b"understood"
    client.writer.write_eof()
    assert await asyncio.wait_for(switcher.reader.read(), PATIENCE) == b""
    await world.until(lambda: world.proxy.observe().totals.tunnels == 0)


async def test_15_a_reset_by_the_worker_is_a_reset_for_the_client(world, switcher):
    client = await opened(world, switcher)
    switcher.writer.get_extra_info("socket").setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    switcher.writer.transport.abort()
    assert await client.ended() is ConnectionResetError
    await world.until(lambda: world.proxy.observe().totals.tunnels == 0)


@pytest.mark.parametrize("slow", ["client", "worker"])
async def test_15_a_slow_reader_pauses_the_other_side_and_loses_nothing(world, switcher, slow):
    client = await opened(world, switcher)
    ends = [(client.writer, switcher.reader), (switcher.writer, client.reader)]
    writer, reader = ends[slow == "client"]
    size = 64 * 1024 * 1024
    writing = asyncio.ensure_future(_write(writer, size))
    await world.standstill(lambda: world.proxy.observe().totals.tunnel_bytes)
    assert world.proxy.observe().totals.tunnel_bytes < size // 2
    received = 0
    while received < size:
        received += len(await asyncio.wait_for(reader.read(1 << 20), PATIENCE))
    await writing


async def _write(writer, size):
    for _ in range(size >> 16):
        writer.write(bytes(1 << 16))
        await writer.drain()


async def test_15_a_tunnel_in_which_nothing_moves_is_closed(world, switcher):
    client = await opened(world, switcher, timeouts=Timeouts(tunnel_idle=1))
    assert await client.ended() is None
    assert await asyncio.wait_for(switcher.reader.read(), PATIENCE) == b""
    await world.until(lambda: world.proxy.observe().totals.tunnels == 0)


@pytest.mark.parametrize("first", ["client", "worker"])
async def test_15_who_is_silent_after_the_other_has_said_everything_is_not_waited_for_long(world, switcher, first):
    client = await opened(world, switcher, timeouts=Timeouts(drain=0.2))
    ends = [(client.writer, switcher.reader), (switcher.writer, client.reader)]
    writer, reader = ends[first == "worker"]
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    await world.until(lambda: world.proxy.observe().totals.tunnels == 0)


async def test_15_a_worker_that_leaves_gives_its_tunnels_a_while_and_no_more(world, switcher):
    client = await opened(world, switcher, timeouts=Timeouts(drain=1.5))
    (endpoint,) = world.endpoints
    world.proxy.remove(endpoint)
    assert not await world.proxy.drained(endpoint, 0.05)
    await client.send(b"still")
    assert await told(switcher.reader, 5) == b"still"
    assert await world.proxy.drained(endpoint, PATIENCE)
    assert await client.ended() is None


async def test_15_a_tunnel_of_a_lab_that_ends_is_given_its_while_too(world, switcher):
    client = await opened(world, switcher, timeouts=Timeouts(drain=1.5))
    closing = asyncio.ensure_future(world.proxy.close())
    await client.send(b"still")
    assert await told(switcher.reader, 5) == b"still"
    await closing
    assert await client.ended() is None


async def test_15_who_never_reads_cannot_keep_a_closed_tunnel_alive(world, switcher):
    client = await opened(world, switcher, timeouts=Timeouts(tunnel_idle=1, drain=0.3))
    writing = asyncio.ensure_future(_write(switcher.writer, 64 * 1024 * 1024))
    await world.until(lambda: world.proxy.observe().totals.tunnels == 0)
    with pytest.raises(ConnectionError):
        await writing
    client.close()


REFUSED = {
    "nobody asked": (ASK.replace(b"Upgrade: websocket\r\n", b""), SWITCH),
    "another protocol": (ASK, SWITCH.replace(b"WebSocket", b"chat")),
    "one more protocol": (ASK, SWITCH.replace(b"WebSocket", b"WebSocket, chat")),
    "without saying which": (ASK, SWITCH.replace(b"Upgrade: WebSocket\r\n", b"")),
    "without Connection": (ASK, SWITCH.replace(b"Connection: upgrade\r\n", b"")),
    "in HTTP/1.0": (ASK, SWITCH.replace(b"HTTP/1.1", b"HTTP/1.0")),
}


@pytest.mark.parametrize(("ask", "answer"), REFUSED.values(), ids=REFUSED)
async def test_15_a_switch_that_was_not_agreed_on_is_a_bad_answer(world, switcher, ask, answer):
    switcher.answer = answer
    await world.start()
    await world.worker(handler=switcher)
    client = await world.client()
    await client.send(ask)
    status, _, body = await client.response()
    assert status == 502
    assert b"switches protocols" in body
    totals = world.proxy.observe().totals
    assert (totals.failed, totals.tunnels) == (1, 0)


ORDINARY = {
    "without Connection": ASK.replace(b"Connection: Upgrade\r\n", b""),
    "in HTTP/1.0": ASK.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "with a body": ASK.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\nhi"),
    "with a body in chunks": ASK.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "to HTTP/2": ASK.replace(b"websocket", b"h2c"),
    "to what the app does not speak": ASK.replace(b"websocket", b"irc"),
}


@pytest.mark.parametrize("ask", ORDINARY.values(), ids=ORDINARY)
async def test_15_an_upgrade_that_is_not_for_the_worker_does_not_reach_it(world, ask):
    await world.start()
    worker = await world.worker()
    client = await world.client()
    await client.send(ask)
    assert (await client.response())[0] == 200
    assert b"upgrade" not in worker.requests[0].lower()


async def test_15_a_worker_that_does_not_switch_answers_like_any_other(world):
    await world.start()
    worker = await world.worker(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno")
    client = await world.client()
    for _ in range(2):
        await client.send(ASK)
        assert (await client.response())[::2] == (426, b"no")
    assert worker.connections == 1


async def test_15_an_app_switches_to_what_its_settings_allow(world, switcher):
    switcher.answer = SWITCH.replace(b"WebSocket", b"irc")
    await world.start(upgrades=("irc",))
    await world.worker(handler=switcher)
    client = await world.client()
    await client.send(ASK.replace(b"websocket", b"websocket, IRC"))
    assert (await client.response())[0] == 101
    assert b"\r\nUpgrade: irc\r\n" in switcher.head


async def ended(world):
    """The event of a tunnel that is over."""

    def events():
        return [event for event in world.events.read().events if event.kind is EventKind.TUNNEL]

    await world.until(events)
    (event,) = events()
    return event


async def test_15_29_an_open_tunnel_has_a_trace_that_is_told_how_it_ended(world, switcher):
    client = await opened(world, switcher)
    (trace,) = world.proxy.traces()
    assert (trace.status, trace.kept, trace.tunnel) == (101, (Why.TUNNEL,), Tunnelled())
    await client.send(b"hello")
    assert await told(switcher.reader, 5) == b"hello"
    switcher.writer.write(b"good bye")
    assert await told(client.reader, 8) == b"good bye"
    client.writer.write_eof()
    assert await asyncio.wait_for(switcher.reader.read(), 5) == b""
    switcher.writer.close()
    event = await ended(world)
    assert (event.app, event.slot, event.data["trace"]) == ("app", 0, trace.id)
    assert (event.data["from_client"], event.data["from_worker"], event.data["by"]) == (5, 8, "client")
    assert "the client closed it; 5 bytes came from the client, 8 from the worker" in event.text
    (closed,) = world.proxy.traces(trace.id)
    assert closed.tunnel.seconds == event.data["seconds"] > 0
    assert (closed.tunnel.from_client, closed.tunnel.from_worker) == (5, 8)
    assert (closed.total_s, closed.attempts) == (trace.total_s, trace.attempts)  # the request itself ended at once


async def test_15_29_a_tunnel_of_a_request_that_is_traced_anyway_is_told_there(world, switcher):
    await world.start()
    settings = msgspec.structs.replace(world.spec.settings, trace_sample=1)
    await world.proxy.apply(msgspec.structs.replace(world.spec, settings=settings))
    await world.worker(handler=switcher)
    client = await world.client()
    await client.send(ASK)
    assert (await client.response())[0] == 101
    await world.until(lambda: world.proxy.observe().totals.tunnels == 1)
    client.close()
    switcher.over.set()
    await ended(world)
    (trace,) = world.proxy.traces()
    assert trace.kept == (Why.SAMPLED,)
    assert trace.tunnel.seconds is not None


async def test_15_29_a_tunnel_is_not_told_in_the_trace_of_another_request_of_the_same_name(world, tmp_path):
    async def handler(reader, writer):
        while request := await read_request(reader):
            writer.write(SWITCH if b"pgrade" in request else b"HTTP/1.1 200 OK\r\nbroken\r\n\r\n")

    await world.start()
    logs = {"access_log": AccessLogForm.JSON, "access_log_file": str(tmp_path / "log")}
    settings = msgspec.structs.replace(world.spec.settings, trusted=("127.0.0.0/8",), **logs)
    await world.proxy.apply(msgspec.structs.replace(world.spec, settings=settings))
    await world.worker(handler=handler)
    for request, status in ((GET, 502), (ASK, 101)):
        client = await world.client()
        await client.send(request.replace(b"\r\n\r\n", b"\r\nX-Request-Id: theirs\r\n\r\n"))
        assert (await client.response())[0] == status
    await world.until(lambda: world.proxy.observe().totals.tunnels == 1)
    assert {trace.status: trace.tunnel for trace in world.proxy.traces("theirs")} == {502: None, 101: Tunnelled()}


def dying(writer):
    """End a connection with a reset, as a killed process does when it has not read everything."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _idle(world, client, switcher):
    """Nothing moves."""


async def _halved(world, client, switcher):
    client.writer.write_eof()


async def _worker_leaves(world, client, switcher):
    world.proxy.remove(world.endpoints[0])


async def _worker_says_everything_first(world, client, switcher):
    switcher.writer.write_eof()
    assert await asyncio.wait_for(client.reader.read(), 5) == b""
    client.writer.write_eof()


async def _worker_breaks(world, client, switcher):
    dying(switcher.writer)


async def _client_breaks(world, client, switcher):
    dying(client.writer)


async def _lab_ends(world, client, switcher):
    await world.proxy.close()


async def _client_says_everything_first(world, client, switcher):
    client.writer.write_eof()
    assert await asyncio.wait_for(switcher.reader.read(), 5) == b""
    switcher.writer.write_eof()


ENDS = {
    _idle: ("gateway", "nothing moved for 0.4 s", "idle"),
    _halved: ("gateway", "the client had said everything, and for 0.3 s the worker said nothing", "half_closed"),
    _worker_leaves: ("gateway", "its worker had to end", "worker_ended"),
    _worker_says_everything_first: ("worker", "the worker closed it", "worker_closed"),
    _client_says_everything_first: ("client", "the client closed it", "client_closed"),
    _worker_breaks: ("worker", "the worker broke it off", "worker_reset"),
    _client_breaks: ("client", "the client broke it off", "client_reset"),
    _lab_ends: ("gateway", "the lab ended", "lab_ended"),
}


@pytest.mark.parametrize(("end", "known"), ENDS.items(), ids=[end.__name__.strip("_") for end in ENDS])
async def test_15_29_who_ended_a_tunnel_is_told(world, switcher, end, known):
    client = await opened(world, switcher, timeouts=Timeouts(tunnel_idle=0.4, drain=0.3))
    await end(world, client, switcher)
    event = await ended(world)
    (trace,) = world.proxy.traces()
    assert (trace.tunnel.ended_by, trace.tunnel.why) == known[:2]
    figures = world.proxy.figures()
    assert figures.apps["app"].tunnels_ended == figures.routes["app"].tunnels_ended == {known[2]: 1}
    assert event.data["by"] == known[0]
    assert f": {known[1]}; 0 bytes" in event.text


async def test_15_29_tunnels_that_end_together_are_told_once_and_traced_each(world):
    async def switch(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH)
        await reader.read()

    await world.start(timeouts=Timeouts(drain=0.2))
    await world.worker(handler=switch)
    for number in range(1, 6):
        client = await world.client()
        await client.send(ASK)
        assert (await client.response())[0] == 101
        await world.until(lambda number=number: world.proxy.observe().totals.tunnels == number)
    world.proxy.remove(world.endpoints[0])
    await world.until(lambda: world.proxy.observe().totals.tunnels == 0)
    await ended(world)
    assert [trace.tunnel.why for trace in world.proxy.traces()] == ["its worker had to end"] * 5
