"""A client that ends its half of the connection behind a request: when it is answered, and when it counts as gone."""

import asyncio

import pytest

from tests.conformance.conftest import GET, OK, PATIENCE

LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Slow:
    """A worker that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)
        self.go = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked.release()
                await self.go.wait()
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()


async def half_closed(world, *said: bytes):
    """A client that has said all this and no more, once its first request is at the worker."""
    slow = Slow()
    await world.start()
    await world.worker(handler=slow)
    client = await world.client()
    await client.send(*said)
    await asyncio.wait_for(slow.asked.acquire(), PATIENCE)
    client.writer.write_eof()
    return client, slow


@pytest.mark.parametrize("last", [LAST, b"GET / HTTP/1.0\r\n\r\n"], ids=["close", "HTTP 1.0"])
async def test_08_who_announced_the_last_request_is_answered_after_ending_its_half(world, last):
    client, slow = await half_closed(world, last)
    await asyncio.sleep(0)
    slow.go.set()
    assert (await client.response())[2] == b"ok"
    assert await client.ended() is None
    totals = world.proxy.observe().totals
    assert (totals.answered, totals.abandoned) == (1, 0)


async def test_08_of_requests_sent_at_once_the_last_one_tells_whether_answers_are_awaited(world):
    client, slow = await half_closed(world, GET + GET + LAST)
    await asyncio.sleep(0)
    slow.go.set()
    for _ in range(3):
        assert (await client.response())[2] == b"ok"
    assert await client.ended() is None
    totals = world.proxy.observe().totals
    assert (totals.answered, totals.abandoned) == (3, 0)


async def test_08_who_says_no_more_is_let_go_when_the_gateway_answered_the_last_request_itself(world):
    client, slow = await half_closed(world, GET + b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.sleep(0)
    slow.go.set()
    assert [(await client.response())[0] for _ in range(2)] == [200, 204]
    assert await client.ended() is None
    await world.until(lambda: world.proxy.observe().connections == 0)


@pytest.mark.parametrize(
    ("behind", "abandoned"),
    [(GET, 1), (GET[:-2], 0), (b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\nabc", 1)],
    ids=["another", "half of one", "half a body"],
)
async def test_28_who_announced_no_last_request_has_left_behind_those_that_were_answered(world, behind, abandoned):
    client, slow = await half_closed(world, GET + behind)
    await asyncio.sleep(0)
    slow.go.set()
    assert (await client.response())[2] == b"ok"
    assert await client.ended() is not OK
    await world.until(lambda: world.proxy.observe().totals.in_flight == 0)
    totals = world.proxy.observe().totals
    assert (totals.answered, totals.abandoned) == (1, abandoned)


async def test_28_who_would_have_asked_on_and_ends_its_half_has_left(world):
    client, slow = await half_closed(world, GET)
    await world.until(lambda: world.proxy.observe().totals.abandoned == 1)
    slow.go.set()
    await asyncio.wait_for(slow.left.wait(), PATIENCE)
    assert await client.ended() is None


async def test_28_whoever_ends_its_half_in_the_middle_of_a_body_has_left(world):
    await world.start()
    await world.worker()
    client = await world.client()
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\nabc")
    await world.until(lambda: world.proxy.observe().totals.in_flight == 1)
    client.writer.write_eof()
    assert await client.ended() is None
    await world.until(lambda: world.proxy.observe().totals.abandoned == 1)


async def test_28_who_is_gone_altogether_is_noticed_when_it_is_answered(world):
    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not left.is_set():
            writer.write(b"still here")
            await asyncio.sleep(0.01)
            if await ended(reader):
                left.set()

    async def ended(reader):
        return reader.at_eof() or reader.exception() is not None

    left = asyncio.Event()
    await world.start()
    await world.worker(handler=handler)
    client = await world.client()
    await client.send(LAST)
    await client.reader.readuntil(b"still here")
    client.close()
    await world.until(lambda: world.proxy.observe().totals.abandoned == 1)
    await asyncio.wait_for(left.wait(), PATIENCE)


async def test_08_an_idle_client_that_ends_its_half_is_hung_up_on(world):
    await world.start()
    await world.worker()
    client = await world.client()
    await client.send(GET)
    assert (await client.response())[0] == 200
    client.writer.write_eof()
    assert await client.ended() is None
    await world.until(lambda: world.proxy.observe().connections == 0)
