"""What the proxy knows of each endpoint, and whom it tells when none is idle: the pool's policies are built on it."""

import asyncio
import socket

import pytest

from lab.core.model import Endpoint, Queue, Wire, WorkerId
from tests.conformance.conftest import OK, Gate

REQUEST = b"POST /some/path?q HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"


async def post(world):
    client = await world.client()
    await client.send(REQUEST)
    return client


@pytest.fixture
async def gate(world):
    """A worker with two places, and the gate in front of its answers."""
    await world.start()
    gate = Gate()
    await world.worker(handler=gate, concurrency=2)
    return gate


async def test_only_a_request_that_finds_no_idle_endpoint_is_told_and_only_once(world, gate):
    clients = [await post(world)]
    await gate.arrived.acquire()
    assert world.starved == []
    clients.append(await post(world))
    await gate.arrived.acquire()
    assert world.starved == ["app"], "an endpoint with a place left is not idle"
    clients.append(await post(world))
    await world.until(lambda: world.proxy.observe().upstreams[0].queue == 1)
    assert world.starved == ["app", "app"]
    for client in clients:
        gate.go.release()
        await client.response()
    assert world.starved == ["app", "app"]


async def test_one_request_after_the_other_finds_the_endpoint_idle(world, gate):
    for _ in range(3):
        client = await post(world)
        await gate.arrived.acquire()
        gate.go.release()
        await client.response()
    assert world.starved == []


async def test_a_place_beside_one_that_stays_taken_is_given_to_who_waits_and_then_to_who_comes(world, gate):
    first, second = await post(world), await post(world)
    for _ in range(2):
        await gate.arrived.acquire()
    third = await post(world)
    await world.until(lambda: world.proxy.observe().upstreams[0].queue == 1)
    gate.go.release()
    assert (await first.response())[0] == 200
    await gate.arrived.acquire()
    assert gate.at_once == 2, "who waited has the place, beside the second"
    gate.go.release()
    assert (await second.response())[0] == 200
    await post(world)
    await gate.arrived.acquire()
    assert gate.at_once == 2, "so has who came, beside the third"
    for _ in range(2):
        gate.go.release()
    assert (await third.response())[0] == 200


async def test_a_request_that_was_refused_by_an_idle_endpoint_is_not_told_afterwards(world, gate):
    first = await post(world)
    await gate.arrived.acquire()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        world.route(closed.getsockname()[1])
        second = await post(world)
        await gate.arrived.acquire()
    assert world.proxy.observe().totals.retries == 1
    assert world.starved == []
    for client in (first, second):
        gate.go.release()
        await client.response()


async def test_an_endpoint_that_leaves_while_it_is_busy_and_comes_back_counts_as_before(world, gate):
    endpoint = world.endpoints[0]
    client = await post(world)
    await gate.arrived.acquire()
    world.proxy.remove(endpoint)
    gate.go.release()
    await client.response()
    world.proxy.add(endpoint)
    client = await post(world)
    await gate.arrived.acquire()
    assert world.starved == []
    gate.go.release()
    await client.response()


async def test_a_probe_makes_an_endpoint_busy_and_not_idle_for_less_long(world, gate):
    endpoint = world.endpoints[0]
    before = world.proxy.idle_since(endpoint)
    assert world.proxy.acquire(endpoint)
    client = await post(world)
    await gate.arrived.acquire()
    assert world.starved == ["app"]
    gate.go.release()
    await client.response()
    since = world.proxy.idle_since(endpoint)
    world.proxy.release(endpoint)
    assert world.proxy.idle_since(endpoint) == since
    assert since > before


async def test_idle_is_none_in_flight_and_is_dated_by_the_last_end(world, gate):
    endpoint = world.endpoints[0]
    added = world.proxy.idle_since(endpoint)
    assert added is not None
    client = await post(world)
    await gate.arrived.acquire()
    assert world.proxy.idle_since(endpoint) is None
    gate.go.release()
    await client.response()
    assert world.proxy.idle_since(endpoint) > added


async def test_served_counts_what_was_answered_or_failed_and_not_who_left(world, gate):
    endpoint = world.endpoints[0]
    assert world.proxy.served(Endpoint("app", WorkerId("app", 9, 9))) == 0
    for count in (1, 2):
        client = await post(world)
        await gate.arrived.acquire()
        gate.go.release()
        await client.response()
        assert world.proxy.served(endpoint) == count
    client = await post(world)
    await gate.arrived.acquire()
    client.close()
    await world.until(lambda: world.proxy.in_flight(endpoint) == 0)
    assert world.proxy.served(endpoint) == 2
    await world.workers[0].stop()
    assert await world.get() == 502
    assert world.proxy.served(endpoint) == 3


async def test_the_request_in_flight_is_shown_and_then_the_last_one(world, gate):
    def shown():
        return world.proxy.observe().upstreams[0].endpoints[0].request

    assert shown() is None
    client = await post(world)
    await gate.arrived.acquire()
    running = shown()
    assert (running.method, running.target, running.length, running.in_flight) == ("POST", "/some/path?q", 2, True)
    gate.go.release()
    await client.response()
    last = shown()
    assert (last.target, last.in_flight) == ("/some/path?q", False)
    assert last.duration_s >= running.duration_s
    assert shown() == last


async def test_without_any_endpoint_requests_wait_until_one_appears(world):
    await world.start()
    clients = [await post(world) for _ in range(3)]
    await world.until(lambda: world.proxy.observe().upstreams[0].queue == 3)
    assert world.starved == ["app"] * 3
    await world.worker(concurrency=1)
    assert [(await client.response())[0] for client in clients] == [200] * 3


async def test_a_queue_at_the_worker_is_starved_by_the_same_rule(world):
    await world.start(queue=Queue.WORKER)
    gate = Gate()
    await world.worker(handler=gate, concurrency=1)
    clients = [await post(world), await post(world)]
    for _ in clients:
        await gate.arrived.acquire()
    assert world.starved == ["app"]
    for client in clients:
        gate.go.release()
        await client.response()


async def test_http_over_a_unix_socket_is_http(world, tmp_path):
    path = tmp_path / "socket"

    async def serve(reader, writer):
        while (await reader.read(65536)).startswith(b"POST /some/path?q HTTP/1.1\r\n"):
            writer.write(OK)
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    await world.start()
    world.add(path=str(path))
    client = await post(world)
    assert (await client.response())[2] == b"ok"
    server.close()


async def test_over_a_shared_socket_each_request_has_a_connection_of_its_own(world):
    """A kept one might be held by a worker that could serve whoever waits in the kernel's queue."""
    await world.start()
    worker = await world.worker()
    world.proxy.remove(world.endpoints[0])
    for _ in range(2):
        world.add(host="127.0.0.1", port=worker.port, shared=True)
    assert [await world.get() for _ in range(4)] == [200] * 4
    assert worker.connections == 4


async def test_no_fastcgi_worker_is_given_a_second_request_before_its_first_has_ended(world, tmp_path):
    await world.start(script="/x")
    waiting = []
    worker = await world.fastcgi(tmp_path / "socket", lambda params, body, application: waiting.append(application))
    clients = [await post(world) for _ in range(3)]
    await world.until(lambda: len(waiting) == 1 and world.proxy.observe().upstreams[0].queue == 2)
    assert world.endpoints[0].wire is Wire.FASTCGI
    for client in clients:
        await world.until(lambda: bool(waiting))
        application = waiting.pop()
        application.write(b"Content-Type: a/b\r\n\r\nok")
        application.end_request()
        worker.send(application)
        assert (await client.response())[2] == b"ok"
    assert worker.connections == 1
