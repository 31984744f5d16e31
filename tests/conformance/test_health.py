"""Points 21 to 23 over real sockets: who gets no requests, when all get them again, and when nobody is asked at all."""

import asyncio
import json
import random
import re
import socket
import time

import msgspec
import pytest

from lab.core.events import EventKind
from lab.core.model import BreakerSpec, HealthCheck, OutlierSpec, RetrySpec, Timeouts
from lab.core.states import BreakerState, EndpointHealth

from .conftest import GET, OK, read_request

FAST = HealthCheck(interval=0.02, path="/health", timeout=0.5, rise=2, fall=2)


class Patient:
    """A worker's handler with a health to be set; it tells requests from questions."""

    def __init__(self) -> None:
        self.well = True
        self.silent = False
        self.status = 200
        """Of answers to requests; 0 resets the connection."""
        self.questions = 0
        self.requests = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            if request.startswith(b"GET /health"):
                self.questions += 1
                while self.silent:
                    await asyncio.sleep(0.005)
                writer.write(OK if self.well else b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                return
            self.requests += 1
            if not self.status:
                writer.transport.abort()
                return
            writer.write(OK.replace(b"200", b"%d" % self.status))


async def patients(world, number: int, **keys: object) -> list[Patient]:
    await world.start(**keys)
    found = [Patient() for _ in range(number)]
    for one in found:
        await world.worker(handler=one)
    return found


async def change(world, **keys: object) -> None:
    """Change settings of the app while it runs."""
    upstream = msgspec.structs.replace(world.proxy._gateway.spec.upstreams[0], **keys)
    await world.proxy.apply(msgspec.structs.replace(world.spec, upstreams=(upstream,)))


def endpoints(world) -> list[EndpointHealth]:
    return [one.health for one in world.proxy.observe().upstreams[0].endpoints]


def breaker(world) -> BreakerState:
    view = world.proxy.observe().upstreams[0].breaker
    assert view is not None
    return view.state


async def answers(world, number: int) -> list[int]:
    return [await world.get() for _ in range(number)]


WELL, ILL, OUT = EndpointHealth


# -- 22: active


async def test_22_who_fails_its_check_gets_no_requests_and_is_told_of(world):
    one, other = await patients(world, 2, health_check=FAST)
    one.well = False
    await world.until(lambda: endpoints(world) == [ILL, WELL])
    before = one.requests
    assert await answers(world, 6) == [200] * 6
    assert (one.requests, other.requests) == (before, 6)
    view = world.proxy.observe().upstreams[0].endpoints[0]
    assert not view.offered
    assert view.health_why == "answered GET /health with status 500"
    assert world.told(EventKind.ENDPOINT_HEALTH) == [
        "app/0 is unhealthy to the proxy: it answered GET /health with status 500"
    ]


async def test_22_the_first_answer_counts_at_once(world):
    await world.start(health_check=msgspec.structs.replace(FAST, interval=30, fall=9))
    one = Patient()
    one.well = False
    await world.worker(handler=one)
    await world.worker(handler=Patient())
    await world.until(lambda: endpoints(world) == [ILL, WELL])
    assert one.questions == 1


async def test_22_it_takes_fall_wrong_answers_and_rise_right_ones(world):
    one, _ = await patients(world, 2, health_check=msgspec.structs.replace(FAST, rise=3, fall=3))
    await world.until(lambda: one.questions >= 1)
    one.well, before = False, one.questions
    await world.until(lambda: endpoints(world)[0] is ILL)
    assert one.questions - before >= 2  # one of them may have been on its way
    one.well, before = True, one.questions
    await world.until(lambda: endpoints(world)[0] is WELL)
    assert one.questions - before >= 2
    assert world.told(EventKind.ENDPOINT_HEALTH)[-1] == "app/0 is well again: it passes its health checks"


async def test_22_who_does_not_answer_in_time_is_unhealthy_and_its_question_is_not_taken_back(world):
    one, _ = await patients(world, 2, health_check=msgspec.structs.replace(FAST, timeout=0.05))
    one.silent = True
    await world.until(lambda: endpoints(world)[0] is ILL)
    asked = one.questions
    assert "within 0.05 s" in world.proxy.observe().upstreams[0].endpoints[0].health_why
    await asyncio.sleep(0.3)  # many intervals
    assert one.questions == asked
    one.silent = False
    await world.until(lambda: endpoints(world)[0] is WELL)


async def test_22_an_answer_that_came_while_the_lab_was_held_up_counts_before_the_deadline_does(world):
    await world.start(health_check=HealthCheck(interval=30, timeout=0.1, fall=1))
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        held_up = asyncio.Event()

        def hold_up() -> None:
            """Of all that is due after it, the deadline comes first on uvloop."""
            loop.remove_reader(server)
            with server.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(OK)
            time.sleep(0.2)
            held_up.set()

        loop.add_reader(server, hold_up)
        endpoint = world.route(server.getsockname()[1])
        await held_up.wait()
        await world.until(lambda: world.proxy.in_flight(endpoint) == 0)
    assert endpoints(world) == [WELL]
    assert world.told(EventKind.ENDPOINT_HEALTH) == []


async def test_22_who_refuses_connections_is_unhealthy(world):
    await world.start(health_check=FAST)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        world.route(held.getsockname()[1])
        await world.worker(handler=Patient())
        await world.until(lambda: endpoints(world) == [ILL, WELL])
    assert "did not accept a connection for GET /health" in world.told(EventKind.ENDPOINT_HEALTH)[0]


async def test_22_a_question_takes_a_place_and_never_stands_before_a_request(world):
    """A worker that serves one at a time is asked only while it is idle, and a busy one is not blamed for it."""
    await world.start(health_check=msgspec.structs.replace(FAST, fall=1, timeout=10.0))
    gate = asyncio.Event()
    at_once = most = questions = 0

    async def handler(reader, writer):
        nonlocal at_once, most, questions
        while request := await read_request(reader):
            at_once += 1
            most = max(most, at_once)
            if request.startswith(b"GET /health"):
                questions += 1
            else:
                await gate.wait()
            at_once -= 1
            writer.write(OK)

    await world.worker(handler=handler, concurrency=1)
    await world.until(lambda: questions > 2)
    client = await world.client()
    await client.send(GET)
    await world.until(lambda: at_once == 1 and world.proxy.in_flight(world.endpoints[0]) == 1)
    asked = questions
    await change(world, health_check=msgspec.structs.replace(FAST, fall=1, timeout=0.1))  # no question is under way
    await asyncio.sleep(0.3)  # many intervals and timeouts
    assert questions == asked
    assert endpoints(world) == [WELL]
    await change(world, health_check=msgspec.structs.replace(FAST, fall=1, timeout=10.0))
    gate.set()
    assert (await client.response())[0] == 200
    await world.until(lambda: questions > asked)
    assert most == 1


async def test_22_a_fastcgi_worker_is_asked_in_its_own_language(world, tmp_path):
    await world.start(script="/x", health_check=FAST)
    worker = await world.fastcgi(tmp_path / "socket")
    await world.until(lambda: worker.connections > 3)
    assert endpoints(world) == [WELL]
    assert worker.requests == []
    await worker.stop()
    await world.until(lambda: endpoints(world) == [ILL])


async def test_22_it_is_switched_on_and_off_while_the_lab_runs(world):
    one, _ = await patients(world, 2)
    one.well = False
    assert await answers(world, 4) == [200] * 4
    assert one.questions == 0
    await change(world, health_check=FAST)
    await world.until(lambda: endpoints(world)[0] is ILL)
    await change(world, health_check=HealthCheck())
    assert endpoints(world) == [WELL, WELL]
    asked = one.questions
    await asyncio.sleep(0.1)
    assert one.questions == asked


async def test_22_who_leaves_is_asked_no_more_and_gives_its_place_back(world):
    one, _ = await patients(world, 2, health_check=msgspec.structs.replace(FAST, timeout=0.05))
    one.silent = True
    await world.until(lambda: endpoints(world)[0] is ILL)
    world.proxy.remove(world.endpoints[0])
    assert await world.proxy.drained(world.endpoints[0], 5)


# -- 21: passive


@pytest.mark.parametrize("how", ["reset", "refused", "timeout", "nonsense"])
async def test_21_so_many_gateway_errors_in_a_row_eject(world, how):
    await world.start(
        outliers=OutlierSpec(consecutive_errors=2),
        retries=RetrySpec(on=()),
        timeouts=Timeouts(response_head=0.5),
    )

    async def bad(reader, writer):
        await read_request(reader)
        if how == "timeout":
            await reader.read()
        elif how == "nonsense":
            writer.write(b"this is no HTTP\r\n\r\n")
        writer.transport.abort() if how == "reset" else writer.close()

    worker = await world.worker(handler=bad)
    await world.worker()
    if how == "refused":
        await worker.stop()
    statuses = await answers(world, 8)
    assert sorted(statuses) == [200] * 6 + [statuses[0]] * 2
    assert statuses[0] in (502, 504)
    view = world.proxy.observe().upstreams[0].endpoints[0]
    assert view.health is OUT
    assert view.ejected_for_s is not None
    assert 20 < view.ejected_for_s <= 30
    assert view.health_why.startswith("failed 2 requests in a row. The last one: ")
    (text,) = world.told(EventKind.ENDPOINT_HEALTH)
    assert text.startswith("app/0 is ejected for 30 s: it failed 2 requests in a row.")


@pytest.mark.parametrize(("server_errors", "health"), [(True, OUT), (False, WELL)])
async def test_21_a_workers_own_500_counts_only_when_asked(world, server_errors, health):
    outliers = OutlierSpec(consecutive_errors=2, server_errors=server_errors)
    one, _ = await patients(world, 2, outliers=outliers)
    one.status = 500
    await answers(world, 8)
    assert endpoints(world) == [health, WELL]


async def test_21_an_ejection_ends_by_itself(world):
    one, _ = await patients(world, 2, outliers=OutlierSpec(consecutive_errors=1, base_ejection=1.5))
    one.status = 0
    await answers(world, 4)
    assert endpoints(world)[0] is OUT
    one.status = 200
    await world.until(lambda: endpoints(world)[0] is WELL)
    before = one.requests
    await answers(world, 2)
    assert one.requests == before + 1
    assert world.told(EventKind.ENDPOINT_HEALTH)[-1] == "app/0 is well again: its ejection is over"


async def test_21_at_most_half_are_ejected(world):
    found = await patients(world, 4, outliers=OutlierSpec(consecutive_errors=1))
    for one in found:
        one.status = 0
    await answers(world, 12)
    assert endpoints(world).count(OUT) == 2
    assert [one.requests for one in found][:2] == [1, 1]


async def test_21_with_all_out_panic_serves_from_all(world):
    one, other = await patients(world, 2, health_check=FAST)
    one.well = other.well = False
    await world.until(lambda: world.proxy.observe().upstreams[0].panic)
    assert endpoints(world) == [ILL, ILL]
    assert await answers(world, 4) == [200] * 4
    assert (one.requests, other.requests) == (2, 2)
    other.well = True
    await world.until(lambda: not world.proxy.observe().upstreams[0].panic)
    assert await answers(world, 4) == [200] * 4
    assert (one.requests, other.requests) == (2, 6)
    assert world.told(EventKind.PANIC) == [
        "app panics: none of 2 endpoints is well, so requests are sent to all of them",
        "app panics no more: requests are sent to healthy endpoints only",
    ]


async def test_21_panic_begins_when_fewer_than_so_many_percent_are_left(world):
    found = await patients(world, 3, health_check=FAST, panic_percent=50)
    found[0].well = False
    await world.until(lambda: endpoints(world) == [ILL, WELL, WELL])
    assert not world.proxy.observe().upstreams[0].panic
    found[1].well = False
    await world.until(lambda: world.proxy.observe().upstreams[0].panic)
    await change(world, panic_percent=0)
    assert not world.proxy.observe().upstreams[0].panic


async def test_21_who_waits_in_the_queue_gets_the_place_of_who_comes_back(world):
    one, other = await patients(world, 2, outliers=OutlierSpec(consecutive_errors=1, base_ejection=30))
    one.status = 0
    await answers(world, 2)
    assert endpoints(world) == [OUT, WELL]
    world.proxy.remove(world.endpoints[1])
    one.status = 200
    assert await world.get() == 200  # nobody else is left: panic
    assert other.requests == 1


# -- 23


OPENS = BreakerSpec(failures=3, open_for=2.0)


async def probe_is_due(world) -> None:
    """Wait until an open breaker lets one request pass."""

    def due() -> bool:
        view = world.proxy.observe().upstreams[0].breaker
        return view is not None and view.probe_in_s == 0

    await world.until(due)


async def test_23_an_app_that_fails_too_often_is_left_alone_and_clients_are_told_at_once(world):
    (one,) = await patients(world, 1, breaker=BreakerSpec(failures=3, open_for=30))
    one.status = 0
    assert await answers(world, 5) == [502, 502, 502, 503, 503]
    assert one.requests == 3
    client = await world.client()
    await client.send(GET)
    status, head, body = await client.response()
    assert status == 503
    assert re.search(rb"\r\nRetry-After: (2[0-9]|30)\r\n", head)
    assert "circuit breaker" in json.loads(body)["detail"]
    totals = world.proxy.observe().totals
    assert (totals.failed, totals.shed) == (3, 3)
    assert world.conserved()
    view = world.proxy.observe().upstreams[0].breaker
    assert (view.state, view.opened) == (BreakerState.OPEN, 1)
    assert 20 < view.probe_in_s <= 30
    (text,) = world.told(EventKind.BREAKER)
    assert text.startswith("The circuit breaker of app is open for 30 s: 3 requests failed within 10 s. The last one: ")


async def test_23_after_a_while_exactly_one_request_is_the_probe_and_its_success_closes(world):
    await world.start(breaker=OPENS)
    arrived, go = asyncio.Semaphore(0), asyncio.Event()
    fails = 3

    async def handler(reader, writer):
        nonlocal fails
        while await read_request(reader):
            if fails:
                fails -= 1
                writer.transport.abort()
                return
            arrived.release()
            await go.wait()
            writer.write(OK)

    await world.worker(handler=handler)
    assert await answers(world, 4) == [502] * 3 + [503]
    await probe_is_due(world)
    probe = await world.client()
    await probe.send(GET)
    await arrived.acquire()
    assert breaker(world) is BreakerState.HALF_OPEN
    assert await answers(world, 10) == [503] * 10
    go.set()
    assert (await probe.response())[0] == 200
    assert breaker(world) is BreakerState.CLOSED
    assert await answers(world, 5) == [200] * 5
    steps = [event.data for event in world.events.read().events if event.kind is EventKind.BREAKER]
    assert [step["to"] for step in steps] == ["open", "half_open", "closed"]


async def test_23_the_probes_failure_opens_it_again(world):
    (one,) = await patients(world, 1, breaker=OPENS)
    one.status = 0
    await answers(world, 3)
    await probe_is_due(world)
    assert await answers(world, 2) == [502, 503]
    assert one.requests == 4
    assert breaker(world) is BreakerState.OPEN


async def test_23_when_the_probes_client_leaves_the_next_request_is_the_probe(world):
    await world.start(breaker=OPENS)
    fails, hangs = 3, 1
    arrived = asyncio.Event()

    async def handler(reader, writer):
        nonlocal fails, hangs
        while await read_request(reader):
            if fails:
                fails -= 1
                writer.transport.abort()
                return
            if hangs:
                hangs -= 1
                arrived.set()
                await reader.read()
                return
            writer.write(OK)

    await world.worker(handler=handler)
    await answers(world, 3)
    await probe_is_due(world)
    probe = await world.client()
    await probe.send(GET)
    await arrived.wait()
    probe.close()
    await world.until(lambda: world.proxy.observe().totals.abandoned == 1)
    assert breaker(world) is BreakerState.HALF_OPEN
    assert await world.get() == 200
    assert breaker(world) is BreakerState.CLOSED


async def test_23_a_probe_that_fails_is_not_tried_again(world):
    await world.start(breaker=OPENS, retries=RetrySpec(on=("connect", "reset"), attempts=1))
    one, other = Patient(), Patient()
    for patient in (one, other):
        patient.status = 0
        await world.worker(handler=patient)
    await answers(world, 3)
    await probe_is_due(world)
    await change(world, retries=RetrySpec(on=("connect", "reset"), attempts=5))
    assert await world.get() == 502
    assert one.requests + other.requests == 4


async def test_23_who_waits_in_the_queue_is_told_when_it_opens(world):
    await world.start(breaker=BreakerSpec(failures=1, open_for=30))
    go = asyncio.Event()

    async def handler(reader, writer):
        await read_request(reader)
        await go.wait()
        writer.transport.abort()

    await world.worker(handler=handler, concurrency=1)
    clients = [await world.client() for _ in range(3)]
    for client in clients:
        await client.send(GET)
    await world.until(lambda: world.proxy.observe().upstreams[0].queue == 2)
    go.set()
    assert sorted([(await client.response())[0] for client in clients]) == [502, 503, 503]
    assert world.proxy.observe().upstreams[0].queue == 0


async def test_23_a_workers_own_500_counts_only_when_asked(world):
    (one,) = await patients(world, 1, breaker=BreakerSpec(failures=3))
    one.status = 500
    assert await answers(world, 5) == [500] * 5
    await change(world, breaker=BreakerSpec(failures=3, server_errors=True))
    assert await answers(world, 5) == [500, 500, 500, 503, 503]


async def test_23_it_is_switched_off_while_it_is_open(world):
    (one,) = await patients(world, 1, breaker=BreakerSpec(failures=1, open_for=30))
    one.status = 0
    assert await answers(world, 2) == [502, 503]
    one.status = 200
    await change(world, breaker=BreakerSpec())
    assert await world.get() == 200
    assert world.proxy.observe().upstreams[0].breaker is None


async def test_23_more_requests_at_once_than_allowed_are_answered_at_once(world):
    await world.start(breaker=BreakerSpec(max_requests=2))
    go = asyncio.Event()

    async def handler(reader, writer):
        while await read_request(reader):
            await go.wait()
            writer.write(OK)

    await world.worker(handler=handler, concurrency=8)
    clients = [await world.client() for _ in range(2)]
    for client in clients:
        await client.send(GET)
    await world.until(lambda: world.proxy.in_flight(world.endpoints[0]) == 2)
    assert await answers(world, 2) == [503, 503]
    go.set()
    assert [(await client.response())[0] for client in clients] == [200, 200]
    assert await world.get() == 200
    assert world.proxy.observe().totals.shed == 2


async def test_23_connections_are_bounded_and_idle_ones_make_room(world):
    await world.start(breaker=BreakerSpec(max_connections=2))
    go = asyncio.Event()
    go.set()
    open_now = most = 0

    async def handler(reader, writer):
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        while await read_request(reader):
            await go.wait()
            writer.write(OK)
        open_now -= 1

    for _ in range(4):
        await world.worker(handler=handler, concurrency=8)
    assert await answers(world, 8) == [200] * 8
    go.clear()
    clients = [await world.client() for _ in range(2)]
    for client in clients:
        await client.send(GET)
    await world.until(lambda: sum(world.proxy.in_flight(endpoint) for endpoint in world.endpoints) == 2)
    client = await world.client()
    await client.send(GET)
    status, _, body = await client.response()
    assert status == 503
    assert "2 connections" in json.loads(body)["detail"]
    go.set()
    assert [(await client.response())[0] for client in clients] == [200, 200]
    assert world.conserved()
    assert [world.proxy.in_flight(endpoint) for endpoint in world.endpoints] == [0] * 4


async def test_23_what_is_off_is_never_asked_while_requests_pass(world):
    """It costs them one look at an attribute that is None."""
    await world.start()
    upstream = world.proxy._upstreams["app"]
    assert (upstream.watch, upstream._gate) == (None, None)
    await change(world, breaker=BreakerSpec(failures=1))
    assert upstream.watch is upstream._gate is upstream.guard
    await change(world, breaker=BreakerSpec(), outliers=OutlierSpec(consecutive_errors=1))
    assert (upstream.watch, upstream._gate) == (upstream.guard, None)
    await change(world, outliers=OutlierSpec())
    assert (upstream.watch, upstream._gate) == (None, None)


# -- together


@pytest.mark.parametrize("seed", range(4))
async def test_21_p23_whatever_fails_in_whatever_order_each_request_ends_once_and_no_place_is_lost(world, seed):
    """Everything is on, workers fail at random, clients come and go, and settings change under way."""
    rng = random.Random(seed)
    outliers = OutlierSpec(consecutive_errors=2, base_ejection=0.05, success_rate_factor=1, interval=0.1, min_hosts=2)
    breakers = [
        BreakerSpec(failures=4, open_for=0.1, window=0.3),
        BreakerSpec(failure_rate=50, min_requests=5, open_for=0.1, window=0.3, server_errors=True, max_requests=6),
        BreakerSpec(max_connections=3),
        BreakerSpec(),
    ]

    async def handler(reader, writer):
        while request := await read_request(reader):
            dice = rng.random()
            if dice < 0.1:
                writer.transport.abort()
                return
            if dice < 0.15:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort")
                return
            if dice < 0.2:
                writer.write(b"nonsense\r\n\r\n")
                return
            if dice < 0.25 and b"/health" not in request:
                await asyncio.sleep(0.15)
            writer.write(OK.replace(b"200 OK", b"503 No") if dice < 0.4 else OK)

    await world.start(
        timeouts=Timeouts(response_head=0.1, connect=0.2, queue=0.3),
        retries=RetrySpec(on=("connect", "reset", "timeout", "503"), attempts=3),
        health_check=msgspec.structs.replace(FAST, timeout=0.05),
        outliers=outliers,
        breaker=breakers[0],
        panic_percent=40,
    )
    for _ in range(4):
        await world.worker(handler=handler, concurrency=rng.randrange(1, 4))

    async def unsettle():
        while True:
            await asyncio.sleep(rng.random() * 0.1)
            await change(world, breaker=rng.choice(breakers), outliers=rng.choice([outliers, OutlierSpec()]))
            endpoint = rng.choice(world.endpoints)
            world.proxy.remove(endpoint)
            await asyncio.sleep(rng.random() * 0.02)
            world.proxy.add(endpoint)

    unsettling = asyncio.ensure_future(unsettle())
    await world.visited(rng, 120)
    unsettling.cancel()
    for endpoint in world.endpoints:
        world.proxy.add(endpoint)  # one may have been out just now
    await change(world, health_check=HealthCheck(), outliers=OutlierSpec(), breaker=BreakerSpec())
    view = world.proxy.observe().upstreams[0]
    assert (view.queue, view.panic, view.breaker) == (0, False, None)
    assert endpoints(world) == [WELL] * 4
    assert all(endpoint.offered for endpoint in view.endpoints)
