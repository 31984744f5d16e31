"""Points 19 and 20 over real sockets: what is sent again, where to, and what never is."""

import asyncio
import json
import socket
import tempfile

import pytest

from lab.core.model import RetrySpec, Timeouts, Wire

from .conftest import GET, OK, read_request

RESET = RetrySpec(on=("connect", "reset"))
PUT = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n"


class Flaky:
    """A worker's handler that treats the first `failures` requests badly, and answers all further ones."""

    def __init__(self, failures: int, answer: bytes = b"") -> None:
        self.failures = failures
        self.answer = answer
        """What is sent instead; nothing means that the connection is reset."""
        self.requests: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            self.requests.append(request)
            if len(self.requests) > self.failures:
                writer.write(OK)
            elif self.answer:
                writer.write(self.answer)
            else:
                writer.transport.abort()
                return


def status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d Whatever\r\nContent-Length: 3\r\n\r\nbad" % status


async def asked(world, request: bytes = GET) -> tuple[int, bytes]:
    """Status and body of one request."""
    client = await world.client()
    await client.send(request)
    status, _, body = await client.response()
    return status, body


async def two_flaky(world, failures: int, answer: bytes = b"") -> tuple[Flaky, Flaky]:
    """Two workers; round robin asks the first one first."""
    one, other = Flaky(failures, answer), Flaky(failures, answer)
    await world.worker(handler=one)
    await world.worker(handler=other)
    return one, other


# -- 20: conditions


async def test_20_by_default_a_request_that_was_sent_is_not_sent_again(world):
    await world.start()
    one, other = await two_flaky(world, failures=1)
    assert (await asked(world))[0] == 502
    assert len(one.requests) + len(other.requests) == 1
    assert world.proxy.observe().totals.retries == 0


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"])
async def test_20_an_idempotent_request_whose_connection_is_reset_goes_to_another_worker(world, method):
    await world.start(retries=RESET)
    one, other = Flaky(99), Flaky(0)
    await world.worker(handler=one)
    await world.worker(handler=other)
    client = await world.client()
    await client.send(method + b" / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert (await client.response(to_head=method == b"HEAD"))[0] == 200
    assert one.requests == other.requests
    assert len(one.requests) == 1
    totals = world.proxy.observe().totals
    assert (totals.accepted, totals.answered, totals.retries) == (1, 1, 1)


async def test_20_a_post_that_was_sent_is_never_sent_again(world):
    await world.start(
        retries=RetrySpec(on=("connect", "reset", "timeout", "503")), timeouts=Timeouts(response_head=0.1)
    )
    one = Flaky(1)
    await world.worker(handler=one)
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
    assert (await asked(world, post))[0] == 502
    one.failures, one.answer = 2, status_line(503)
    assert (await asked(world, post)) == (503, b"bad")
    one.failures, one.answer = 3, b"HTTP/1.1"
    assert (await asked(world, post))[0] == 504
    assert len(one.requests) == 3
    assert world.proxy.observe().totals.retries == 0


async def test_20_without_connect_even_a_refused_connection_is_the_end(world):
    await world.start(retries=RetrySpec(on=()))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        world.route(held.getsockname()[1])
        await world.worker()
        assert (await asked(world))[0] == 502
    assert world.proxy.observe().totals.retries == 0


async def test_20_a_worker_that_does_not_answer_in_time_is_given_up_for_another(world):
    await world.start(retries=RetrySpec(on=("timeout",)), timeouts=Timeouts(response_head=0.1))
    one, other = Flaky(1, answer=b"HTTP/1.1"), Flaky(0)
    await world.worker(handler=one)
    await world.worker(handler=other)
    assert await asked(world) == (200, b"ok")
    assert one.requests == other.requests


@pytest.mark.parametrize(("answered", "passed_on"), [(503, 200), (500, 500), (429, 429)])
async def test_20_a_chosen_status_is_asked_for_elsewhere_and_any_other_is_passed_on(world, answered, passed_on):
    await world.start(retries=RetrySpec(on=("503",)))
    one, other = Flaky(1, answer=status_line(answered)), Flaky(0)
    await world.worker(handler=one)
    await world.worker(handler=other)
    assert (await asked(world))[0] == passed_on
    assert world.proxy.observe().totals.retries == (passed_on == 200)
    assert world.proxy.observe().totals.failed == 0


async def test_20_the_last_answer_is_passed_on_when_nobody_does_better(world):
    await world.start(retries=RetrySpec(on=("503",), attempts=3))
    one, other = await two_flaky(world, failures=99, answer=status_line(503))
    assert await asked(world) == (503, b"bad")
    assert len(one.requests) + len(other.requests) == 3


async def test_20_a_request_is_sent_so_many_times_at_most(world):
    await world.start(retries=RetrySpec(on=("reset",), attempts=4))
    one, other = await two_flaky(world, failures=99)
    status, body = await asked(world)
    assert status == 502
    assert "closed the connection" in json.loads(body)["detail"]
    assert (len(one.requests), len(other.requests)) == (2, 2)  # never the same twice in a row
    assert world.proxy.observe().totals.retries == 3


async def test_20_where_there_is_only_one_worker_it_is_asked_again(world):
    await world.start(retries=RESET)
    one = Flaky(1)
    await world.worker(handler=one)
    assert await asked(world) == (200, b"ok")
    assert len(one.requests) == 2


async def test_20_when_the_only_worker_dies_with_a_request_its_successor_gets_it(world):
    await world.start(retries=RESET)
    arrived = asyncio.Event()

    async def hang(reader, writer):
        await read_request(reader)
        arrived.set()
        await asyncio.Event().wait()

    worker = await world.worker(handler=hang)
    client = await world.client()
    await client.send(GET)
    await arrived.wait()
    await worker.stop()
    await world.until(lambda: world.proxy.observe().upstreams[0].queue == 1)
    world.proxy.remove(world.endpoints[0])
    await world.worker()
    assert (await client.response())[2] == b"ok"
    assert world.conserved()
    assert world.proxy.observe().totals.failed == 0


# -- 20: bodies


async def test_20_a_body_is_sent_again_whole_also_what_came_later(world):
    await world.start(retries=RESET, request_buffer=0)
    seen: list[bytes] = []
    half = asyncio.Event()

    async def die_half_way(reader, writer):
        seen.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(3))
        half.set()
        await reader.readexactly(1)
        writer.transport.abort()

    other = Flaky(0)
    await world.worker(handler=die_half_way)
    await world.worker(handler=other)
    client = await world.client()
    await client.send(PUT, b"abc")
    await half.wait()
    await client.send(b"d")
    await world.until(lambda: world.proxy.observe().totals.retries == 1)
    await client.send(b"ef")
    assert (await client.response())[0] == 200
    assert other.requests[0].endswith(b"abcdef")


async def test_20_a_body_in_chunks_is_sent_again_with_its_trailers_end(world):
    await world.start(retries=RESET)
    one, other = Flaky(1), Flaky(0)
    await world.worker(handler=one)
    await world.worker(handler=other)
    chunked = b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
    assert (await asked(world, chunked))[0] == 200
    assert b"abc" in other.requests[0]
    assert other.requests[0].endswith(b"0\r\n\r\n")


async def test_20_a_body_that_is_no_longer_held_is_not_sent_again(world):
    await world.start(retries=RESET, request_buffer=0)

    async def die_at_the_end(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(1_000_000)
        writer.transport.abort()

    other = Flaky(0)
    await world.worker(handler=die_at_the_end)
    await world.worker(handler=other)
    client = await world.client()
    await client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n", *[bytes(10_000)] * 100)
    assert (await client.response())[0] == 502
    assert other.requests == []


async def test_20_a_fastcgi_worker_that_hangs_up_hands_its_request_on_with_its_body(world, tmp_path):
    await world.start(script="/x", retries=RESET)

    async def hang_up(reader, writer):
        await reader.read(65536)
        writer.close()

    server = await asyncio.start_unix_server(hang_up, tmp_path / "rude")
    world.add(path=str(tmp_path / "rude"), wire=Wire.FASTCGI)
    other = await world.fastcgi(tmp_path / "polite")
    assert await asked(world, PUT + b"abcdef") == (200, b"hello abcdef")
    assert len(other.requests) == 1
    assert world.proxy.observe().totals.retries == 1
    server.close()


async def test_20_a_cgi_program_that_takes_too_long_is_killed_and_another_one_started(world):
    await world.start(script="/x", retries=RetrySpec(on=("timeout",)), timeouts=Timeouts(response_head=2))
    world.cgi("""
import os, sys, time
if not os.path.exists(os.environ["QUERY_STRING"]):
    open(os.environ["QUERY_STRING"], "x").close()
    time.sleep(60)
sys.stdout.write("Content-Type: a/b\\r\\n\\r\\nok")
""")
    with tempfile.TemporaryDirectory() as folder:
        assert await asked(world, f"GET /?{folder}/tried HTTP/1.1\r\nHost: x\r\n\r\n".encode()) == (200, b"ok")
    first, second = world.programs
    await world.until(lambda: not first.alive and not second.alive)


# -- 20: budget, trace


async def test_20_the_budget_bounds_what_a_whole_app_tries_again(world):
    await world.start(retries=RetrySpec(on=("reset",), budget_percent=50, budget_per_second=0, attempts=10))
    one, other = await two_flaky(world, failures=999)
    for _ in range(10):
        assert (await asked(world))[0] == 502
    view = world.proxy.observe().upstreams[0]
    assert view.retries == 5
    assert view.retries_left == 0
    assert len(one.requests) + len(other.requests) == 15


async def test_20_the_budget_bounds_other_connections_that_are_tried_as_well(world):
    await world.start(retries=RetrySpec(budget_percent=0, budget_per_second=0))
    world.route(1)
    await world.worker()
    told = [(await asked(world))[0] for _ in range(4)]
    assert sorted(told) == [200, 200, 502, 502]
    assert world.proxy.observe().totals.retries == 0


async def test_20_each_attempt_is_written_down(world):
    await world.start(retries=RESET)
    world.route(1)
    one = Flaky(1)
    await world.worker(handler=one)
    await world.worker()
    assert (await asked(world))[0] == 200
    (trace,) = world.proxy.traces()
    assert [attempt.worker for attempt in trace.attempts] == ["app/0", "app/1", "app/2"]
    refused, reset, answered = trace.attempts
    assert "refused" in refused.failure.lower()
    assert "closed the connection before it answered" in reset.failure
    assert reset.seconds is not None
    assert answered.failure == ""


# -- 19


def duplicate(writer: asyncio.StreamWriter) -> socket.socket:
    """The same socket once more, to be used without letting the gateway's loop run."""
    return socket.socket(fileno=socket.dup(writer.get_extra_info("socket").fileno()))


async def test_19_the_connection_used_last_is_used_next(world):
    await world.start()
    numbers: list[int] = []
    hold = [asyncio.Event(), asyncio.Event()]

    async def handler(reader, writer):
        me = worker.connections - 1
        while await read_request(reader):
            numbers.append(me)
            await hold[me].wait()
            writer.write(OK)

    worker = await world.worker(handler=handler, concurrency=2)
    clients = [await world.client() for _ in range(2)]
    for number, client in enumerate(clients, 1):
        await client.send(GET)
        await world.until(lambda number=number: len(numbers) == number)
    for number in (1, 0):
        hold[number].set()
        await clients[number].response()
    await clients[0].send(GET, GET)
    for _ in range(2):
        await clients[0].response()
    assert numbers == [0, 1, 0, 0]
    assert worker.connections == 2


async def test_19_a_connection_that_has_ended_is_not_used_again(world):
    """Even for POST, which could not be sent a second time."""
    await world.start()
    ended = asyncio.Event()

    async def handler(reader, writer):
        await read_request(reader)
        writer.write(OK)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        ended.set()

    worker = await world.worker(handler=handler)
    client = await world.client()
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    for _ in range(3):
        ended.clear()
        await client.send(post)
        assert (await client.response())[0] == 200
        await ended.wait()
        await asyncio.sleep(0.01)  # the end is on its way through the kernel
    assert worker.connections == 3
    assert world.proxy.observe().totals.retries == 0


@pytest.mark.parametrize("method", [b"POST", b"GET"])
async def test_19_what_was_not_written_yet_when_the_connection_ends_goes_to_a_fresh_one(world, method):
    """The request and the end of the idle connection reach the gateway in the same turn of its loop."""
    await world.start()
    writers: list[asyncio.StreamWriter] = []

    async def handler(reader, writer):
        writers.append(writer)
        while await read_request(reader):
            writer.write(OK)

    worker = await world.worker(handler=handler)
    request = method + b" / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    client = await world.client()
    await client.send(request)
    await client.response()
    with duplicate(client.writer) as asking, duplicate(writers[0]) as answering:
        asking.send(request)
        answering.shutdown(socket.SHUT_RDWR)
    assert (await client.response())[0] == 200
    assert worker.connections == 2
