"""Points 7, 8 and 14 where the order of events matters: what no table can tell (see test_tables.py)."""

import asyncio

import pytest

from lab.core.model import Limits
from tests.conformance.conftest import OK


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return b"".join((b"POST / HTTP/1.1\r\nHost: x\r\n", *(line + b"\r\n" for line in fields), b"\r\n", body))


def get(*fields: bytes) -> bytes:
    return b"".join((b"GET / HTTP/1.1\r\nHost: x\r\n", *(line + b"\r\n" for line in fields), b"\r\n"))


CHUNKED = b"Transfer-Encoding: chunked"


async def test_07_chunked_body_over_the_limit_is_413(world):
    await world.start(limits=Limits(body=10))
    await world.worker()
    client = await world.client()
    await client.send(post(CHUNKED), b"8\r\n12345678\r\n", b"8\r\n12345678\r\n")
    assert (await client.response())[0] == 413
    assert await client.ended() is None


async def test_08_pipelined_responses_come_in_order_and_nothing_follows_close(world):
    await world.start()
    worker = await world.worker()
    client = await world.client()
    paths = [b"/%d" % n for n in range(20)]
    requests = [b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in paths]
    last = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    await client.send(b"".join([*requests, last, b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n"]))
    for _ in range(21):
        assert (await client.response())[0] == 200
    assert await client.ended() is None
    assert [request.split(b" ")[1] for request in worker.requests] == [*paths, b"/last"]


async def test_08_a_pipelined_problem_does_not_overtake(world):
    await world.start()
    await world.worker()
    client = await world.client()
    await client.send(get() + b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n" + b"BAD\r\n\r\n")
    assert [(await client.response())[0] for _ in range(3)] == [200, 204, 400]


async def test_08_what_comes_with_the_end_of_a_request_that_is_answered_at_once_is_answered_too(world):
    await world.start(queue_length=0)  # and there is no worker
    client = await world.client()
    await client.send(post(b"Content-Length: 6", body=b"abc"))
    await client.send(b"def" + get() + b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
    assert [(await client.response())[0] for _ in range(3)] == [503, 503, 204]


async def test_14_expect_is_forwarded_and_100_is_relayed(world):
    async def handler(reader, writer):
        assert b"Expect: 100-continue" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(5)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body)

    await world.start()
    await world.worker(handler=handler)
    client = await world.client()
    await client.send(post(b"Content-Length: 5", b"Expect: 100-continue"))
    assert (await client.response())[0] == 100
    await client.send(b"hello")
    assert (await client.response())[2] == b"hello"


async def test_14_http_1_0_sees_no_interim_response(world):
    await world.start()
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
    worker = await world.worker(hints + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    client = await world.client()
    await client.send(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n")
    assert (await client.response())[0] == 200
    assert b"Expect" not in worker.requests[0]


async def test_14_an_early_response_is_relayed_and_the_rest_of_the_upload_drained(world):
    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        await reader.read()

    await world.start(request_buffer=0)
    await world.worker(handler=handler)
    client = await world.client()
    await client.send(post(b"Content-Length: 100000", body=b"a" * 1000))
    status, head, _ = await client.response()
    assert status == 403
    assert b"Connection: close" in head
    await client.send(b"a" * 99000)
    assert await client.ended() is None


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
async def test_14_who_answers_without_100_to_a_client_that_waits_for_it_is_not_asked_again_on_that_connection(
    world, interim
):
    """A worker may refuse so, and take what the client sent all the same for its next request."""
    await world.start()
    worker = await world.worker(interim + b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
    client = await world.client()
    await client.send(post(b"Content-Length: 5", b"Expect: 100-continue", body=b"hello"))
    while (await client.response())[0] != 417:
        pass
    await client.send(get())
    assert (await client.response())[0] in (103, 417)
    assert worker.connections == 2


async def test_14_who_says_100_is_asked_again_on_that_connection(world):
    await world.start()
    worker = await world.worker(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
    client = await world.client()
    for _ in range(2):
        await client.send(post(b"Content-Length: 5", b"Expect: 100-continue", body=b"hello"))
        assert [(await client.response())[0] for _ in range(2)] == [100, 200]
    assert worker.connections == 1


async def test_14_who_answers_before_the_whole_request_is_there_is_not_asked_again_on_that_connection(world):
    go_on = asyncio.Event()

    async def handler(reader, writer):
        while b"Content-Length" in await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
            await go_on.wait()
            await reader.readexactly(5)
            writer.write(b"k")
        writer.write(OK)

    await world.start(request_buffer=0)
    worker = await world.worker(handler=handler)
    client = await world.client()
    await client.send(post(b"Content-Length: 5"))
    await client.reader.readuntil(b"\r\n\r\n")
    await client.send(b"hello")
    go_on.set()
    assert await client.reader.read() == b"ok"
    assert await world.get() == 200
    assert worker.connections == 2


async def test_14_the_rest_of_an_upload_that_nobody_wants_is_taken_for_a_while_only(world):
    await world.start(limits=Limits(body=10))
    client = await world.client()
    await client.send(post(b"Content-Length: 11"))
    assert (await client.response())[0] == 413
    await world.until(lambda: world.proxy.observe().connections == 0)  # it never hangs up by itself
