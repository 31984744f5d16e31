"""Traffic and accounting, rules 17 to 20 and 24 to 28: who gets a request, how long it waits, how it is counted."""

import asyncio
import contextlib
import json
import os
import random
import socket
from pathlib import Path

import pytest

from lab.core.clock import SystemClock
from lab.core.errors import PortInUseError
from lab.core.events import EventRing
from lab.core.model import ClientTimeouts, ListenerSpec, Queue, Timeouts
from lab.pool import accept_queues
from lab.proxy.backends.python_builtin import PythonBuiltinProxy
from lab.proxy.backends.python_builtin.listener import BACKLOG
from lab.proxy.manager import Page, ProxySpec, UpstreamSpec
from tests.conformance.conftest import GET, OK, PATIENCE, Gate, read_request


@contextlib.contextmanager
def full_backlog():
    """A port at which connecting takes for ever: nobody accepts, and the backlog is full."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            held = stack.enter_context(socket.socket())
            held.setblocking(False)
            held.connect_ex(full.getsockname())
        yield full.getsockname()[1]


async def test_17_a_path_without_app_is_404_and_names_the_paths_there_are(world):
    await world.start()
    await world.proxy.apply(ProxySpec(upstreams=(UpstreamSpec(app="app", route="/api"),)))
    assert await world.get("/apix") == 404
    client = await world.client()
    await client.send(GET)
    status, _, body = await client.response()
    assert status == 404
    assert "/api" in json.loads(body)["remedy"]


@pytest.mark.parametrize("selection", ["round_robin", "weighted_round_robin", "least_connections"])
async def test_18_ties_rotate(world, selection):
    await world.start(selection=selection)
    workers = [await world.worker() for _ in range(3)]
    for _ in range(9):
        assert await world.get() == 200
    assert [len(worker.requests) for worker in workers] == [3, 3, 3]


async def test_18_least_connections_avoids_the_busy_worker(world):
    await world.start(selection="least_connections")
    gate = Gate()
    await world.worker(handler=gate)
    idle = await world.worker()
    held = await world.client()
    await held.send(GET)
    await gate.arrived.acquire()
    for _ in range(5):
        assert await world.get() == 200
    assert len(idle.requests) == 5


async def test_19_connections_to_workers_are_kept_and_used_again(world):
    await world.start()
    worker = await world.worker()
    for _ in range(10):
        assert await world.get() == 200
    assert worker.connections == 1


async def test_19_a_connection_that_the_worker_closed_is_not_used(world):
    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()

    await world.start()
    worker = await world.worker(handler=handler)
    for _ in range(5):
        assert await world.get() == 200
    assert worker.connections == 5


@pytest.mark.parametrize(("method", "status"), [(b"GET", 200), (b"POST", 502)])
async def test_19_a_request_on_a_stale_connection_is_replayed_once_if_idempotent(timeless, method, status):
    first = True

    async def handler(reader, writer):
        nonlocal first
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        if first:
            first = False
            await reader.readuntil(b"\r\n\r\n")

    await timeless.start()
    worker = await timeless.worker(handler=handler)
    client = await timeless.client()
    for expected in (200, status):
        await client.send(method + b" / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert (await client.response())[0] == expected
    assert timeless.proxy.observe().totals.retries == (1 if status == 200 else 0)
    assert worker.connections == (2 if status == 200 else 1)


def test_19_an_idle_connection_ends_before_the_worker_would_end_it():
    """Node's `keepAliveTimeout` is 5 s, the shortest of those that workers are written in."""
    assert Timeouts().upstream_idle < 5


async def test_19_a_worker_that_dies_long_after_it_was_asked_is_not_asked_once_more(timeless):
    asked, die = asyncio.Event(), asyncio.Event()

    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await die.wait()

    await timeless.start()
    worker = await timeless.worker(handler=handler)
    assert await timeless.get() == 200
    client = await timeless.client()
    await client.send(GET)
    await asked.wait()
    timeless.clock.advance(0.5)
    die.set()
    assert (await client.response())[0] == 502
    assert worker.connections == 1
    assert timeless.proxy.observe().totals.retries == 0


async def test_19_what_an_idle_connection_says_unasked_is_nobodys_answer(world):
    """Not even when the next request is on its way to it: both are here before the gateway looks."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        loop = asyncio.get_running_loop()
        await world.start()
        world.route(server.getsockname()[1])
        client = await world.client()
        await client.send(GET)
        first, _ = await loop.sock_accept(server)
        with first:
            assert await loop.sock_recv(first, 65536)
            first.sendall(OK)
            assert (await client.response())[2] == b"ok"
            os.write(client.writer.get_extra_info("socket").fileno(), GET)
            first.sendall(OK.replace(b"ok", b"no"))
            second, _ = await asyncio.wait_for(loop.sock_accept(server), PATIENCE)
            with second:
                assert await loop.sock_recv(second, 65536)
                second.sendall(OK)
                assert (await client.response())[2] == b"ok"
                assert await loop.sock_recv(first, 65536) == b""


async def test_a_worker_that_dies_in_mid_request_is_a_502_that_names_it(world):
    await world.start()
    gate = Gate()
    worker = await world.worker(handler=gate)
    client = await world.client()
    await client.send(GET)
    await gate.arrived.acquire()
    await worker.stop()
    status, _, body = await client.response()
    assert status == 502
    assert f"127.0.0.1:{worker.port}" in json.loads(body)["detail"]
    (endpoint,) = world.proxy.observe().upstreams[0].endpoints
    assert (endpoint.failed, endpoint.in_flight) == (1, 0)


async def test_20_a_refused_connection_is_tried_elsewhere_even_for_post(world, reserve):
    await world.start()
    world.route(reserve())
    worker = await world.worker()
    client = await world.client()
    for _ in range(4):
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
        assert (await client.response())[0] == 200
    assert len(worker.requests) == 4
    assert world.proxy.observe().totals.retries >= 1


async def test_20_one_that_is_refused_waits_for_the_successor_of_who_refused_it(world, reserve):
    await world.start()
    dead = world.route(reserve())
    client = await world.client()
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
    while not world.proxy.observe().upstreams[0].queue:
        await asyncio.sleep(0.001)
    world.proxy.remove(dead)
    await world.worker()
    assert (await client.response())[0] == 200
    assert world.proxy.observe().totals.failed == 0


async def test_20_with_every_connection_refused_it_is_a_502(world, reserve):
    await world.start(timeouts=Timeouts(connect=0.5))
    ports = [reserve(), reserve()]
    for port in ports:
        world.route(port)
    client = await world.client()
    await client.send(GET)
    status, _, body = await client.response()
    assert status == 502
    assert "refused" in json.loads(body)["detail"].lower()
    assert world.proxy.observe().totals.retries == 1


async def test_a_worker_never_has_more_requests_than_places_and_the_rest_wait_in_order(world):
    await world.start()
    gate = Gate()
    await world.worker(handler=gate, concurrency=2)
    clients = [await world.client() for _ in range(6)]
    for number, client in enumerate(clients):
        await client.send(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
    await world.until(lambda: world.proxy.observe().upstreams[0].queue == 4)
    for client in clients:
        gate.go.release()
        assert (await client.response())[0] == 200
    assert gate.most == 2
    view = world.proxy.observe().upstreams[0]
    assert (view.queue, view.max_queue) == (0, 4)


async def test_20_who_could_not_connect_waits_for_another_endpoint(world, reserve):
    await world.start()
    gate = Gate()
    busy = await world.worker(handler=gate, concurrency=1)
    first = await world.client()
    await first.send(GET)
    await gate.arrived.acquire()
    world.route(reserve(), concurrency=1)
    second = await world.client()
    await second.send(GET)
    await world.until(lambda: world.proxy.observe().totals.retries == 1)
    await asyncio.sleep(0.05)  # time enough to knock at the closed door again
    assert world.proxy.observe().upstreams[0].queue == 1
    gate.go.release()
    assert (await first.response())[0] == 200
    gate.go.release()
    assert (await second.response())[0] == 200
    assert busy.connections == 1


async def test_with_the_queue_at_the_worker_everything_is_sent_at_once(world):
    await world.start(queue=Queue.WORKER)
    gate = Gate()
    await world.worker(handler=gate, concurrency=1)
    clients = [await world.client() for _ in range(4)]
    for client in clients:
        await client.send(GET)
    for _ in clients:
        await gate.arrived.acquire()
    assert world.proxy.in_flight(world.endpoints[0]) == 4
    for client in clients:
        gate.go.release()
        assert (await client.response())[0] == 200


async def test_requests_wait_for_an_endpoint_and_are_served_when_one_appears(world):
    await world.start()
    clients = [await world.client() for _ in range(3)]
    for client in clients:
        await client.send(GET)
    await world.until(lambda: world.proxy.observe().upstreams[0].queue == 3)
    await world.worker(concurrency=1)
    for client in clients:
        assert (await client.response())[0] == 200


async def test_23_a_full_queue_sheds_with_503_and_retry_after(world):
    await world.start(queue_length=1)
    waiting = await world.client()
    await waiting.send(GET)
    await world.until(lambda: world.proxy.observe().upstreams[0].queue == 1)
    client = await world.client()
    await client.send(GET)
    status, head, _ = await client.response()
    assert status == 503
    assert b"Retry-After: 1" in head
    assert world.proxy.observe().totals.shed == 1


async def test_probes_take_places_and_give_them_to_who_waits(world):
    await world.start()
    worker = await world.worker(concurrency=1)
    (endpoint,) = world.endpoints
    assert world.proxy.acquire(endpoint)
    assert not world.proxy.acquire(endpoint)
    client = await world.client()
    await client.send(GET)
    await world.until(lambda: world.proxy.observe().upstreams[0].queue == 1)
    assert worker.requests == []
    world.proxy.release(endpoint)
    assert (await client.response())[0] == 200


def answers_once():
    """A worker's handler that answers one request and waits, and the event that its connection was closed."""
    closed = asyncio.Event()

    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.read()
        closed.set()

    return handler, closed


async def test_a_probe_is_not_kept_waiting_by_an_idle_connection(world):
    handler, closed = answers_once()
    await world.start()
    await world.worker(handler=handler, concurrency=1)
    assert await world.get() == 200
    assert world.proxy.acquire(world.endpoints[0])
    await asyncio.wait_for(closed.wait(), PATIENCE)
    world.proxy.release(world.endpoints[0])


@pytest.mark.parametrize(
    ("patience", "sent", "status"),
    [
        ({"clients": ClientTimeouts(request_head=0.1)}, b"GET / HTTP/1.1\r\nHo", 408),
        ({"timeouts": Timeouts(request_body=0.1)}, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc", 408),
        ({"timeouts": Timeouts(response_head=0.1)}, GET, 504),
    ],
)
async def test_24_each_timeout_has_an_answer_of_its_own(world, patience, sent, status):
    await world.start(**patience)
    await world.worker(handler=Gate())
    client = await world.client()
    await client.send(sent)
    assert (await client.response())[0] == status
    assert world.conserved()


async def test_24_the_queue_timeout_is_503(world):
    await world.start(timeouts=Timeouts(queue=0.1))
    assert await world.get() == 503
    assert world.proxy.observe().totals.shed == 1


async def test_24_a_response_that_stalls_is_broken_off(world):
    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        await reader.read()

    await world.start(timeouts=Timeouts(response_idle=0.1))
    await world.worker(handler=handler)
    client = await world.client()
    await client.send(GET)
    assert await client.ended() is ConnectionResetError


async def test_24_a_backlog_that_is_full_is_504_after_the_connect_timeout(world):
    with full_backlog() as port:
        await world.start(timeouts=Timeouts(connect=0.1))
        world.route(port)
        assert await world.get() == 504


async def test_19_idle_connections_end_on_both_sides(world):
    handler, closed = answers_once()
    await world.start(timeouts=Timeouts(upstream_idle=0.1), clients=ClientTimeouts(idle=0.1))
    await world.worker(handler=handler)
    client = await world.client()
    await client.send(GET)
    await client.response()
    await asyncio.wait_for(closed.wait(), PATIENCE)
    await client.ended()
    await world.until(lambda: world.proxy.observe().connections == 0)


async def test_24_an_answer_may_take_longer_than_a_connection_may_idle(world):
    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(1.5)  # twice the idle time
        writer.write(OK)

    await world.start(timeouts=Timeouts(upstream_idle=0.7))
    worker = await world.worker(handler=handler)
    assert await world.get() == 200
    assert await world.get() == 200
    assert worker.connections == 1
    assert world.proxy.observe().totals.in_flight == 0


@pytest.mark.parametrize("framing", ["count", "chunked"])
async def test_26_a_client_that_does_not_read_stops_the_worker(world, framing):
    sent = 0

    async def handler(reader, writer):
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        count = framing == "count"
        writer.write(
            b"HTTP/1.1 200 OK\r\n"
            + (b"Content-Length: 67108864\r\n\r\n" if count else b"Transfer-Encoding: chunked\r\n\r\n")
        )
        for _ in range(1024):
            writer.write(b"x" * 65536 if count else b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
            sent += 65536
        writer.write(b"" if count else b"0\r\n\r\n")

    await world.start()
    await world.worker(handler=handler)
    client = await world.client()
    await client.send(GET)
    await world.standstill(lambda: sent)
    assert sent < 32 * 1024 * 1024
    status, _, body = await client.response()
    assert (status, len(body)) == (200, 64 * 1024 * 1024)


async def test_26_a_worker_that_does_not_read_stops_the_client(world):
    go = asyncio.Event()
    received = 0

    async def handler(reader, writer):
        nonlocal received
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        while received < 64 * 1024 * 1024:
            received += len(await reader.read(1 << 20))
        writer.write(OK)

    await world.start()
    await world.worker(handler=handler)
    client = await world.client()
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 67108864\r\n\r\n")
    upload = asyncio.create_task(client.send(*[b"x" * 65536] * 1024))
    done, _ = await asyncio.wait([upload], timeout=1)
    assert not done
    go.set()
    assert (await client.response())[0] == 200
    await upload


@pytest.mark.parametrize("request_buffer", [0, 65536])
async def test_26_a_body_that_nobody_can_take_yet_is_kept_within_bounds(world, request_buffer):
    await world.start(request_buffer=request_buffer)  # and no worker
    client = await world.client()
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 67108864\r\n\r\n")
    sent = 0

    async def send():
        nonlocal sent
        for _ in range(1024):
            await client.send(b"x" * 65536)
            sent += 65536

    sending = asyncio.ensure_future(send())
    await world.standstill(lambda: sent)
    sending.cancel()
    assert sent < 32 * 1024 * 1024
    assert world.proxy.observe().pending == 1


async def test_26_a_client_that_asks_on_and_on_but_never_reads_is_not_read_on_and_on(world):
    await world.start()
    await world.worker(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50000)
    sent = 0

    async def ask():
        nonlocal sent
        client = await world.client()
        client.writer.transport.pause_reading()
        while True:
            await client.send(GET * 1000)
            sent += len(GET) * 1000

    flood = asyncio.create_task(ask())
    await world.standstill(lambda: sent)
    assert sent < 32 * 1024 * 1024
    flood.cancel()


async def test_26_a_connection_whose_client_takes_no_more_serves_the_next_client(world):
    size = 60_000
    await world.start()
    await world.worker(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size, concurrency=1)
    slow = await world.client()
    slow.writer.transport.pause_reading()
    await slow.send(GET * 1000)
    await world.standstill(lambda: world.proxy.observe().totals.answered)
    assert world.proxy.observe().totals.answered < 1000
    assert await world.get() == 200
    slow.writer.transport.resume_reading()
    for _ in range(1000):
        assert (await slow.response())[0] == 200


async def test_26_pipelining_does_not_escape_from_backpressure(world):
    sent = 0

    async def handler(reader, writer):
        nonlocal sent
        for size in (6_000_000, 64_000_000):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            while size:
                writer.write(b"x" * min(size, 65536))
                await writer.drain()
                sent += min(size, 65536)
                size -= min(size, 65536)

    await world.start()
    await world.worker(handler=handler)
    client = await world.client()
    client.writer.transport.pause_reading()
    await client.send(GET + GET)
    await world.standstill(lambda: sent)
    assert sent < 40_000_000
    client.writer.transport.resume_reading()
    for size in (6_000_000, 64_000_000):
        assert len((await client.response())[2]) == size


async def test_27_draining_finishes_what_is_in_flight_and_says_close(world):
    await world.start(clients=ClientTimeouts(drain=2 * PATIENCE))  # nobody waits for that to run out
    gate = Gate()
    await world.worker(handler=gate)
    idle, busy = await world.client(), await world.client()
    await busy.send(GET)
    await gate.arrived.acquire()
    closing = asyncio.create_task(world.proxy.close())
    assert await idle.ended() is None
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*world.address)
    gate.go.release()
    status, head, _ = await busy.response()
    assert status == 200
    assert b"Connection: close" in head
    await asyncio.wait_for(closing, PATIENCE)


async def test_27_a_response_that_had_begun_before_the_drain_is_the_last_too(world):
    go = asyncio.Event()

    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK[:-1])
        await go.wait()
        writer.write(OK[-1:])
        await reader.read()

    await world.start(clients=ClientTimeouts(drain=2 * PATIENCE))
    await world.worker(handler=handler)
    client = await world.client()
    await client.send(GET)
    await client.reader.readuntil(b"\r\n\r\n")
    closing = asyncio.create_task(world.proxy.close())
    await asyncio.sleep(0)
    go.set()
    await asyncio.wait_for(closing, PATIENCE)
    assert await client.reader.read() == b"ok"


async def test_27_a_request_of_an_app_that_is_removed_finishes_and_is_then_drained(world):
    await world.start()
    gate = Gate()
    await world.worker(handler=gate)
    (endpoint,) = world.endpoints
    assert world.proxy.acquire(endpoint)
    client = await world.client()
    await client.send(GET)
    await gate.arrived.acquire()
    await world.proxy.apply(ProxySpec(upstreams=()))
    assert world.proxy.in_flight(endpoint) == 2
    drained = asyncio.create_task(world.proxy.drained(endpoint, PATIENCE))
    world.proxy.release(endpoint)
    gate.go.release()
    assert (await client.response())[0] == 200
    assert await drained


async def test_27_a_removed_endpoint_finishes_and_is_then_drained(world):
    await world.start()
    gate = Gate()
    await world.worker(handler=gate)
    (endpoint,) = world.endpoints
    client = await world.client()
    await client.send(GET)
    await gate.arrived.acquire()
    world.proxy.remove(endpoint)
    assert world.proxy.busy_since(endpoint) is not None
    assert not await world.proxy.drained(endpoint, 0.01)
    drained = asyncio.create_task(world.proxy.drained(endpoint, PATIENCE))
    gate.go.release()
    assert (await client.response())[0] == 200
    assert await drained
    assert world.proxy.busy_since(endpoint) is None
    assert world.proxy.in_flight(endpoint) == 0


async def test_28_a_client_that_leaves_during_a_connect_leaves_no_socket_behind(world):
    def descriptors():
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    with full_backlog() as port:
        await world.start()
        world.route(port, concurrency=1)
        before = descriptors()
        for number in range(1, 6):
            client = await world.client()
            await client.send(GET)
            await world.until(lambda: world.proxy.observe().totals.in_flight == 1)
            client.close()
            await world.until(lambda number=number: world.proxy.observe().totals.abandoned == number)
            assert world.proxy.in_flight(world.endpoints[0]) == 0
        await world.until(lambda: world.proxy.observe().connections == 0)
        await world.until(lambda: descriptors() == before)


@pytest.mark.parametrize("where", ["queued", "waiting"])
async def test_28_a_client_that_leaves_is_abandoned_and_frees_what_it_held(world, where):
    await world.start()
    gate = Gate()
    if where == "waiting":
        await world.worker(handler=gate, concurrency=1)
    client = await world.client()
    await client.send(GET)
    await world.until(lambda: world.proxy.observe().totals.in_flight == 1)
    if where == "waiting":
        await gate.arrived.acquire()
    client.close()
    await world.until(lambda: world.proxy.observe().totals.abandoned == 1)
    view = world.proxy.observe()
    assert view.upstreams[0].queue == 0
    assert all(endpoint.in_flight == 0 for endpoint in view.upstreams[0].endpoints)
    assert world.conserved()


async def test_24_a_client_that_never_takes_the_end_of_its_answer_is_hung_up_on(world):
    await world.start(clients=ClientTimeouts(idle=0.2))
    await world.worker(b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n" + b"x" * 8_000_000)
    client = await world.client()
    client.writer.transport.pause_reading()
    await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    size = 0
    while not world.proxy.observe().totals.answered:
        try:
            size += len(await asyncio.wait_for(client.reader.read(65536), 0.05))
        except TimeoutError:
            client.writer.transport.resume_reading()
            await asyncio.sleep(0)
            client.writer.transport.pause_reading()
    await world.until(lambda: world.proxy.observe().connections == 0)


async def test_a_client_that_is_gone_before_it_is_looked_at_does_no_harm(world):
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    await world.start()
    await world.worker()
    for _ in range(20):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            sock.connect(world.address)
    assert await world.get() == 200
    await world.until(lambda: world.proxy.observe().connections == 0)
    assert errors == []


async def test_28_who_was_inside_a_dying_worker_is_counted_once_whether_its_connection_broke_before_or_not(world):
    arrived, doomed = asyncio.Semaphore(0), []

    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        doomed.append(writer)
        arrived.release()
        await reader.read()

    await world.start()
    await world.worker(handler=handler)
    (endpoint,) = world.endpoints
    assert world.proxy.inside(endpoint) == 0
    clients = [await world.client() for _ in range(3)]
    for client in clients:
        await client.send(GET)
        await arrived.acquire()
    assert world.proxy.inside(endpoint) == 3
    for client, writer in list(zip(clients, doomed, strict=True))[:2]:
        writer.transport.abort()
        assert (await client.response())[0] == 502
    assert world.proxy.inside(endpoint) == 3
    await world.until(lambda: world.proxy.inside(endpoint) == 1)  # those two broke long ago: the worker outlived them
    assert world.proxy.in_flight(endpoint) == 1


async def test_28_where_a_request_waited_and_what_it_carried_is_counted_at_its_route_its_app_and_its_worker(timeless):
    await timeless.start()
    client = await timeless.client()
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
    await timeless.until(lambda: timeless.proxy.observe().pending == 1)
    timeless.clock.advance(3)
    await timeless.worker()
    assert (await client.response())[2] == b"ok"
    found = timeless.proxy.figures()
    for figures in (found.routes["app"], found.apps["app"], found.workers[timeless.endpoints[0]]):
        assert (figures.received, figures.sent) == (5, 2)
        assert (figures.queue.sum, figures.connect.sum) == pytest.approx((3, 0))
        assert (figures.first_byte.sum, figures.total.sum) == pytest.approx((3, 3))


async def test_28_a_wait_for_a_connection_is_none_for_a_place(timeless):
    await timeless.start(timeouts=Timeouts(connect=60))
    with full_backlog() as port:
        timeless.route(port)
        client = await timeless.client()
        await client.send(GET)
        await timeless.until(lambda: timeless.proxy.in_flight(timeless.endpoints[0]) == 1)
        timeless.clock.advance(70)
        assert (await client.response())[0] == 504
    figures = timeless.proxy.figures().apps["app"]
    assert (figures.queue.sum, figures.connect.sum) == pytest.approx((0, 70))


async def test_28_own_requests_are_counted_apart_but_at_the_endpoint_together(world):
    await world.start()
    await world.worker()
    lab = await world.own_client()
    await lab.send(GET)
    await lab.response()
    assert await world.get() == 200
    view = world.proxy.observe()
    assert (view.own.answered, view.totals.answered) == (1, 1)
    assert view.upstreams[0].endpoints[0].answered == 2
    assert world.proxy.latencies().total == world.proxy.latencies("app").total == 1


@pytest.mark.parametrize("seed", range(4))
async def test_28_every_request_has_one_outcome_whatever_clients_and_workers_do(world, seed):
    rng = random.Random(seed)

    async def moody(reader, writer):
        while await read_request(reader):
            mood = rng.random()
            if mood < 0.1:
                return
            if mood < 0.2:
                writer.write(OK[: rng.randrange(len(OK))])
                return
            await asyncio.sleep(rng.random() * 0.01)
            writer.write(OK if mood < 0.9 else b"garbage\r\n\r\n")

    await world.start(queue_length=5, timeouts=Timeouts(queue=0.1, response_head=0.3))
    for _ in range(3):
        await world.worker(handler=moody, concurrency=2)
    await world.visited(rng, 60)


async def test_an_unavailable_app_says_why(world):
    await world.start(unavailable="no C compiler; apt-get install gcc")
    client = await world.client()
    await client.send(GET)
    status, _, body = await client.response()
    assert status == 503
    assert "no C compiler" in json.loads(body)["detail"]
    assert world.proxy.observe().totals.failed == 1


async def test_pool_status_is_served_by_the_page_it_was_given(world):
    world.proxy.pages = lambda path, query: Page("text/plain", f"asked {query}".encode())
    await world.start()
    client = await world.client()
    await client.send(b"GET /pool-status?json&full HTTP/1.1\r\nHost: x\r\n\r\n")
    status, head, body = await client.response()
    assert (status, body) == (200, b"asked json&full")
    assert b"Content-Type: text/plain\r\n" in head
    await client.send(b"DELETE /pool-status HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await client.response())[0] == 405


async def test_a_port_in_use_names_its_holder(world):
    await world.start()
    clock = SystemClock()
    other = PythonBuiltinProxy(clock, EventRing(clock))
    with pytest.raises(PortInUseError, match=r"in use by .+ \(pid \d+\)"):
        await other.start(ProxySpec(listener=ListenerSpec(port=world.address[1])))


async def test_23_the_kernel_keeps_so_many_connections_until_the_proxy_takes_them(world):
    await world.start()
    port = world.address[1]
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    assert accept_queues.look([port])[port].room == min(BACKLOG, most)
