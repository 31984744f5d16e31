"""Point 10 where the order of events matters (see test_tables.py for the rest), and the date of an answer."""

import asyncio

import pytest

from lab.core.clock import ManualClock
from lab.proxy.backends.python_builtin.forwarding import DateField
from tests.conformance.conftest import GET


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
    assert date.line(clock.monotonic()) == b"Date: Tue, 14 Nov 2023 22:13:20 GMT\r\n"
    clock.advance(0.25)
    assert date.line(clock.monotonic()) == b"Date: Tue, 14 Nov 2023 22:13:21 GMT\r\n"
