"""Points 24 and 27: every patience has its bound and its own word, slow clients hold no worker, and a drain ends."""

import asyncio
import json
import re

import msgspec
import pytest

from lab.core.model import ClientTimeouts, ProxySettings, RetrySpec, Timeouts
from tests.conformance.conftest import GET, OK, PATIENCE
from tests.conformance.test_traffic import full_backlog

POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


def silent(arrived=None):
    """A worker's handler that takes a head and never answers."""

    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        if arrived is not None:
            arrived.set()
        await reader.read()

    return handler


def told_ms(request: bytes) -> int:
    """What a worker was told of its time."""
    (found,) = re.findall(rb"(?i)\nx-request-timeout-ms: (\d+)\r", request)
    return int(found)


async def problem(client) -> tuple[int, str]:
    """Status and detail of the next response."""
    status, _, body = await client.response()
    return status, json.loads(body)["detail"]


async def test_24_a_body_that_comes_too_slowly_is_408_though_it_never_stops(world):
    await world.start(timeouts=Timeouts(request_body=0.3, request_body_rate=1000))
    worker = await world.worker()
    client = await world.client()
    await client.send(POST % 1000)

    async def trickle():
        while True:
            await client.send(b"x")
            await asyncio.sleep(0.02)

    trickling = asyncio.create_task(trickle())
    status, detail = await problem(client)
    trickling.cancel()
    assert status == 408
    assert "less than 1000 bytes a second" in detail
    assert worker.requests == []
    assert world.proxy.observe().totals.answered == 1


async def test_24_a_body_that_keeps_its_rate_may_take_longer_than_it_is_judged(world):
    await world.start(timeouts=Timeouts(request_body=1, request_body_rate=10))
    worker = await world.worker()
    client = await world.client()
    await client.send(POST % 1000)
    for _ in range(50):  # the sum of these pauses is longer than what is judged
        await client.send(b"x" * 20)
        await asyncio.sleep(0.03)
    assert (await client.response())[0] == 200
    assert len(worker.requests) == 1


async def test_24_a_client_is_not_to_blame_while_the_worker_takes_nothing(world):
    size = 16_000_000

    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(2)  # several times as long as a body may be silent
        await reader.readexactly(size)
        writer.write(OK)

    await world.start(timeouts=Timeouts(request_body=0.6, request_body_rate=1000))
    await world.worker(handler=handler)
    client = await world.client()
    sending = asyncio.create_task(client.send(POST % size, b"x" * size))
    assert (await client.response())[0] == 200
    await sending


async def test_24_a_worker_that_takes_nothing_of_a_body_is_504(world):
    size = 64_000_000
    await world.start(timeouts=Timeouts(response_head=0.3))

    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.Event().wait()

    await world.worker(handler=handler)
    client = await world.client()
    sending = asyncio.create_task(client.send(POST % size, b"x" * size))
    assert (await client.response())[0] == 504
    sending.cancel()


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
async def test_24_clients_that_send_slowly_hold_no_worker(world, framing):
    await world.start()
    worker = await world.worker(concurrency=1)
    slow = [await world.client() for _ in range(20)]
    for client in slow:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n2\r\nxx\r\n")
    await world.until(lambda: world.proxy.observe().totals.in_flight == 20)
    assert world.proxy.in_flight(world.endpoints[0]) == 0
    assert await world.get() == 200
    assert len(worker.requests) == 1
    assert world.proxy.observe().upstreams[0].queue == 0


async def test_24_a_body_longer_than_its_buffer_goes_on_to_the_worker_as_it_comes(world):
    received = asyncio.Event()

    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(1000)
        received.set()
        await reader.readexactly(1000)
        writer.write(OK)

    await world.start(request_buffer=1000)
    await world.worker(handler=handler)
    client = await world.client()
    await client.send(POST % 2000, b"x" * 999)
    await world.until(lambda: world.proxy.observe().totals.in_flight == 1)
    assert world.proxy.in_flight(world.endpoints[0]) == 0
    await client.send(b"x")
    await asyncio.wait_for(received.wait(), 30)
    await client.send(b"x" * 1000)
    assert (await client.response())[0] == 200


async def test_24_who_asks_whether_the_body_is_wanted_is_not_waited_for(world):
    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(2) == b"hi"
        writer.write(OK)

    await world.start()
    await world.worker(handler=handler)
    client = await world.client()
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert (await client.response())[0] == 100
    await client.send(b"hi")
    assert (await client.response())[0] == 200


async def test_24_a_request_out_of_time_in_the_queue_is_504_that_says_so(world):
    await world.start(timeouts=Timeouts(total=0.2))
    client = await world.client()
    await client.send(GET)
    status, detail = await problem(client)
    assert status == 504
    assert re.search(r"0\.2 s, is over: .*\d\.\d\d s in the queue of app\.", detail)
    totals = world.proxy.observe().totals
    assert (totals.failed, totals.shed) == (1, 0)


async def test_24_a_request_out_of_time_at_a_worker_is_504_that_names_it(world):
    await world.start(timeouts=Timeouts(total=0.2))
    worker = await world.worker(handler=silent())
    client = await world.client()
    await client.send(GET)
    status, detail = await problem(client)
    assert status == 504
    assert f"at 127.0.0.1:{worker.port}, which did not answer" in detail
    assert world.proxy.observe().upstreams[0].endpoints[0].failed == 1


async def test_24_a_request_out_of_time_while_connecting_is_504_that_says_so(world):
    with full_backlog() as port:
        await world.start(timeouts=Timeouts(total=0.3))
        world.route(port)
        client = await world.client()
        await client.send(GET)
        status, detail = await problem(client)
    assert status == 504
    assert re.search(r"\d\.\d\d s for a connection\.", detail)


async def test_24_retries_do_not_outlive_the_deadline(world):
    retries = RetrySpec(on=("timeout",), attempts=10)
    await world.start(timeouts=Timeouts(total=1, response_head=0.2), retries=retries)
    workers = [await world.worker(handler=silent()) for _ in range(2)]
    client = await world.client()
    await client.send(GET)
    status, detail = await problem(client)
    assert status == 504
    assert re.search(r"1 s, is over: .*\d\.\d\d s at workers that failed it, \d\.\d\d s at 127", detail)
    assert all(worker.connections for worker in workers)


async def test_24_a_request_out_of_time_before_its_body_came_is_504_that_says_so(world):
    await world.start(timeouts=Timeouts(total=0.2))
    worker = await world.worker()
    client = await world.client()
    await client.send(POST % 10)
    status, detail = await problem(client)
    assert status == 504
    assert "s for its body to come." in detail
    assert worker.requests == []
    assert world.proxy.observe().upstreams[0].endpoints[0].failed == 0


async def test_24_a_response_out_of_time_is_broken_off_though_it_never_pauses(world):
    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.transport.is_closing():
            writer.write(b"1\r\nx\r\n")
            await asyncio.sleep(0.02)

    await world.start(timeouts=Timeouts(total=0.3))
    await world.worker(handler=handler)
    client = await world.client()
    await client.send(GET)
    assert await client.ended() is ConnectionResetError
    await world.until(lambda: world.proxy.observe().totals.failed == 1)


async def test_24_workers_are_told_what_is_left_and_nobody_else_can_tell_them(world):
    await world.start(timeouts=Timeouts(total=5))
    worker = await world.worker()
    client = await world.client()
    await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-Timeout-Ms: 77\r\nAccept: a\r\n\r\n")
    assert (await client.response())[0] == 200
    assert 77 < told_ms(worker.requests[0]) <= 5000
    assert b"\r\nAccept: a\r\n" in worker.requests[0]


async def test_24_a_client_that_is_trusted_may_ask_for_less_but_not_for_more(world):
    await world.start(timeouts=Timeouts(total=5))
    trusting = ProxySettings(trusted=("127.0.0.0/8",))
    await world.proxy.apply(msgspec.structs.replace(world.spec, settings=trusting))
    worker = await world.worker()
    client = await world.client()
    for asked in (b"1000", b"9000", b"soon"):
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-Timeout-Ms: %b\r\n\r\n" % asked)
        assert (await client.response())[0] == 200
    first, second, third = map(told_ms, worker.requests)
    assert first <= 1000 < second <= 5000
    assert 1000 < third <= 5000


async def test_24_a_request_that_waited_has_less_time_left(world):
    await world.start(timeouts=Timeouts(total=5))
    client = await world.client()
    await client.send(GET)
    await world.until(lambda: world.proxy.observe().upstreams[0].queue == 1)
    await asyncio.sleep(0.2)
    worker = await world.worker()
    assert (await client.response())[0] == 200
    assert told_ms(worker.requests[0]) <= 4800


async def test_24_without_a_total_nothing_is_told_and_nothing_is_taken_away(world):
    await world.start()
    worker = await world.worker()
    client = await world.client()
    await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-Timeout-Ms: 77\r\n\r\n")
    assert (await client.response())[0] == 200
    assert told_ms(worker.requests[0]) == 77


async def test_24_programs_are_told_in_a_variable(world, tmp_path):
    await world.start(timeouts=Timeouts(total=5), script="/srv/app")
    worker = await world.fastcgi(tmp_path / "socket")
    client = await world.client()
    await client.send(GET)
    assert (await client.response())[0] == 200
    assert 0 < int(worker.requests[0][b"HTTP_X_REQUEST_TIMEOUT_MS"]) <= 5000


async def test_27_what_is_not_done_when_the_drain_ends_is_told_so_and_failed(world):
    arrived = asyncio.Event()
    await world.start(clients=ClientTimeouts(drain=0.2))
    await world.worker(handler=silent(arrived))
    client = await world.client()
    await client.send(GET)
    await arrived.wait()
    closing = asyncio.create_task(world.proxy.close())
    status, detail = await problem(client)
    assert status == 503
    assert "0.2 s later" in detail
    await asyncio.wait_for(closing, PATIENCE)
    totals = world.proxy.observe().totals
    assert (totals.failed, totals.abandoned, totals.in_flight) == (1, 0, 0)


async def test_27_a_response_that_the_drain_cuts_off_is_not_taken_for_whole(world):
    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await reader.read()

    await world.start(clients=ClientTimeouts(drain=0.2))
    await world.worker(handler=handler)
    client = await world.client()
    await client.send(GET)
    await client.reader.readuntil(b"half")
    await world.proxy.close()
    assert await client.ended() is ConnectionResetError
    assert world.proxy.observe().totals.failed == 1


async def test_27_a_request_whose_head_was_on_its_way_is_answered_and_is_the_last(world):
    await world.start()
    await world.worker()
    client = await world.client()
    await client.send(GET[:10])
    await world.until(lambda: world.proxy.observe().connections == 1)
    await asyncio.sleep(0.05)  # the ten bytes are with the gateway
    closing = asyncio.create_task(world.proxy.close())
    await asyncio.sleep(0)
    await client.send(GET[10:] + GET)
    status, head, _ = await client.response()
    assert status == 200
    assert b"Connection: close\r\n" in head
    assert await client.ended() is None
    await asyncio.wait_for(closing, PATIENCE)
    assert world.proxy.observe().totals.accepted == 1
