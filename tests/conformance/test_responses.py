"""Response framing, rules 8, 10, 11, 12 and 14: what a worker says, and what the client gets to see of it."""

import asyncio
from dataclasses import dataclass

import pytest

from lab.core.clock import ManualClock
from lab.proxy.backends.python_builtin.forwarding import DateField

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass(frozen=True)
class Bad:
    """What a worker must not say: the client gets one 502 that names the endpoint, and goes on."""

    rule: str
    raw: bytes


BAD = [
    Bad("10 length and coding", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok"),
    Bad("10 length twice", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
    Bad("10 length is no number", b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok"),
    Bad("10 unknown coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok"),
    Bad("10 coding in HTTP/1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    Bad("10 bad first chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n"),
    Bad("10 not HTTP", b"hello world, I am no server\r\n\r\n"),
    Bad("10 bad status", b"HTTP/1.1 2000 OK\r\n\r\n"),
    Bad("10 bad version", b"HTTP/2.0 200 OK\r\n\r\n"),
    Bad("10 bare LF", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    Bad("10 bare LF in fields", b"HTTP/1.1 200 OK\r\nA: b\nContent-Length: 2\r\n\r\nok"),
    Bad("10 NUL in a field", b"HTTP/1.1 200 OK\r\nA: b\x00\r\nContent-Length: 2\r\n\r\nok"),
    Bad("10 long head", b"HTTP/1.1 200 OK\r\n" + b"A: " + b"b" * 70000),
    Bad("10 switch of protocols that nobody asked for", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\n\r\n"),
    Bad("11 obs-fold", b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 2\r\n\r\nok"),
    Bad("12 connection names length", b"HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 2\r\n\r\nok"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.rule)
async def test_a_bad_answer_becomes_one_502_and_its_connection_is_not_used_again(world, case):
    await world.start()
    worker = await world.worker(case.raw)
    client = await world.client()
    for connections in (1, 2):
        await client.send(GET)
        status, head, body = await client.response()
        assert status == 502
        assert b"application/problem+json" in head
        assert f"127.0.0.1:{worker.port}".encode() in body
        assert worker.connections == connections
    assert world.proxy.observe().totals.failed == 2


@dataclass(frozen=True)
class Good:
    """What a worker may say, and what the client gets."""

    rule: str
    raw: bytes
    body: bytes
    seen: bytes = b""
    unseen: bytes = b"\x00"
    hangs_up: bool = False
    status: int = 200


GOOD = [
    Good("8 by count", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    Good(
        "8 chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\no\r\n1\r\nk\r\n0\r\nT: u\r\n\r\n",
        b"ok",
        seen=b"\r\nTransfer-Encoding: chunked\r\n",
    ),
    Good(
        "8 until close", b"HTTP/1.1 200 OK\r\n\r\nok", b"ok", seen=b"\r\nTransfer-Encoding: chunked\r\n", hangs_up=True
    ),
    Good("8 HTTP/1.0 until close", b"HTTP/1.0 200 OK\r\n\r\nok", b"ok", seen=b"HTTP/1.1 200 OK\r\n", hangs_up=True),
    Good(
        "8 connection close",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"ok",
        unseen=b"Connection",
        hangs_up=True,
    ),
    Good(
        "10 no body with 204",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        b"",
        status=204,
        unseen=b"Content-Length",
    ),
    Good(
        "10 no body with 304",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        b"",
        status=304,
        seen=b"Content-Length: 9",
    ),
    Good(
        "10 interim response",
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"",
        status=102,
    ),
    Good(
        "11 space before the colon",
        b"HTTP/1.1 200 OK\r\nA : b\r\nContent-Length \t: 2\r\n\r\nok",
        b"ok",
        seen=b"\r\nA: b\r\n",
    ),
    Good(
        "12 hop-by-hop fields",
        b"HTTP/1.1 200 OK\r\nKeep-Alive: 5\r\nConnection: x\r\nX: y\r\nContent-Length: 2\r\n\r\nok",
        b"ok",
        unseen=b"X: y",
    ),
    Good("13 via", b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", b"ok", seen=b"Via: 1.1 cgilab\r\n"),
]


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.rule)
@pytest.mark.parametrize("piece", [100_000, 7, 1])
async def test_a_good_answer_reaches_the_client_however_it_is_cut(world, case, piece):
    async def handler(reader, writer):
        while await reader.readuntil(b"\r\n\r\n"):
            for begin in range(0, len(case.raw), piece):
                writer.write(case.raw[begin : begin + piece])
                await writer.drain()
                await asyncio.sleep(0)
            if case.hangs_up:
                break

    await world.start()
    await world.worker(handler=handler)
    client = await world.client()
    for _ in range(2):
        await client.send(GET)
        status, head, body = await client.response()
        assert status == case.status
        assert body == case.body
        assert case.seen in head
        assert case.unseen not in head
        if status < 200:
            assert (await client.response())[0] == 200
    await world.until(lambda: world.proxy.observe().totals.answered == 2)


async def test_10_no_body_for_head(world):
    await world.start()
    await world.worker(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    client = await world.client()
    for _ in range(2):
        await client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        status, head, _ = await client.response(to_head=True)
        assert status == 200
        assert b"Content-Length: 1000" in head


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize(
    "begun",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\nzz\r\n",
    ],
    ids=["by count", "chunked", "bad later chunk"],
)
async def test_10_an_answer_that_breaks_off_reaches_the_client_as_broken_off(world, begun, version):
    gone = asyncio.Event()

    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        head, _, body = begun.partition(b"this")
        writer.write(head + b"this")
        await gone.wait()
        writer.write(body)

    await world.start()
    await world.worker(handler=handler)
    client = await world.client()
    await client.send(b"GET / HTTP/%b\r\nHost: x\r\n\r\n" % version)
    assert b" 200 OK" in await client.reader.readuntil(b"\r\n\r\n")
    await client.reader.readuntil(b"this")
    gone.set()
    assert await client.ended() is ConnectionResetError
    totals = world.proxy.observe().totals
    assert (totals.accepted, totals.failed) == (1, 1)


async def test_10_an_endless_answer_that_ends_by_a_reset_is_reset_for_an_http_1_0_client(world):
    gone = asyncio.Event()

    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\npart")
        await gone.wait()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        writer.transport.abort()

    await world.start()
    await world.worker(handler=handler)
    client = await world.client()
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    await client.reader.readuntil(b"part")
    gone.set()
    assert await client.ended() is ConnectionResetError


async def test_10_interim_responses_without_end_become_a_502(world):
    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        while True:
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
            await writer.drain()

    await world.start()
    await world.worker(handler=handler)
    client = await world.client()
    await client.send(GET)
    interims = 0
    while (status := (await client.response())[0]) == 102:
        interims += 1
    assert (status, interims) == (502, 32)


async def test_10_a_second_answer_to_one_request_is_thrown_away(world):
    await world.start()
    once = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    worker = await world.worker(once + once)
    client = await world.client()
    for connections in (1, 2):
        await client.send(GET)
        assert (await client.response())[2] == b"ok"
        assert worker.connections == connections
    assert world.proxy.observe().totals.answered == 2


@pytest.mark.parametrize(
    ("answer", "dates"),
    [
        (b"", [b"Date: Tue, 14 Nov 2023 22:13:20 GMT"]),
        (b"Date: Mon, 01 Jan 2001 00:00:00 GMT\r\n", [b"Date: Mon, 01 Jan 2001 00:00:00 GMT"]),
        (b"dAtE: Mon, 01 Jan 2001 00:00:00 GMT\r\n", [b"dAtE: Mon, 01 Jan 2001 00:00:00 GMT"]),
        (b"X-Date: 1\r\n", [b"Date: Tue, 14 Nov 2023 22:13:20 GMT"]),
    ],
)
async def test_a_worker_that_does_not_say_when_it_answered_has_it_said(world, answer, dates):
    world.proxy._gateway.date = DateField(ManualClock(wall=1_700_000_000.9))
    await world.start()
    await world.worker(b"HTTP/1.1 200 OK\r\n" + answer + b"Content-Length: 0\r\n\r\n")
    client = await world.client()
    await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    _, head, _ = await client.response()
    assert [line for line in head.split(b"\r\n") if line.lower().startswith(b"date:")] == dates


@pytest.mark.parametrize("request_", [b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"GET x HTTP/1.1\r\n\r\n"])
async def test_what_the_gateway_answers_itself_says_when(world, request_):
    await world.start()
    client = await world.client()
    await client.send(request_)
    assert (await client.response())[1].count(b"\r\nDate: ") == 1


def test_the_date_is_written_anew_with_each_second_of_the_day():
    clock = ManualClock(wall=1_700_000_000.75)
    date = DateField(clock)
    assert date() == b"Date: Tue, 14 Nov 2023 22:13:20 GMT\r\n"
    clock.advance(0.25)
    assert date() == b"Date: Tue, 14 Nov 2023 22:13:21 GMT\r\n"
