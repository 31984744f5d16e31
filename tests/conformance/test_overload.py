"""Points 24 to 26: what is refused when there is too much, how, and that the rest is served meanwhile."""

import asyncio
import json
import os
import re
import socket
import time

import msgspec
import pytest

from lab.core.model import Limits, Queue, RateLimit, RouteSpec, Shedding, SiteSpec, Timeouts
from lab.proxy.manager import Page, UpstreamSpec
from tests.conformance.conftest import GET, OK, Gate, World


async def ask(world: World) -> tuple[int, bytes, str]:
    """Status, head and detail of one GET on a connection of its own."""
    client = await world.client()
    await client.send(GET)
    status, head, body = await client.response()
    return status, head, json.loads(body)["detail"] if status != 200 else ""


def retry_after(head: bytes) -> int:
    (found,) = re.findall(rb"\r\nRetry-After: (\d+)\r\n", head)
    return int(found)


async def become(world: World, **upstream: object) -> None:
    """Change the app's settings while it runs."""
    app = msgspec.structs.replace(world.spec.upstreams[0], **upstream)
    world.spec = msgspec.structs.replace(world.spec, upstreams=(app,))
    await world.proxy.apply(world.spec)


async def limit(world: World, **limits: object) -> None:
    """Change the proxy's limits while it runs."""
    changed = msgspec.structs.replace(world.spec.settings, limits=Limits(**limits))
    world.spec = msgspec.structs.replace(world.spec, settings=changed)
    await world.proxy.apply(world.spec)


async def test_25_beyond_the_rate_it_is_429_with_the_true_wait(world):
    await world.start(rate_limit=RateLimit(rate=0.25, burst=2))
    worker = await world.worker()
    assert [await world.get() for _ in range(2)] == [200, 200]
    status, head, detail = await ask(world)
    assert status == 429
    assert 1 <= retry_after(head) <= 4
    assert "0.25 requests a second" in detail
    view = world.proxy.observe()
    assert (view.totals.shed, view.shed) == (1, {"app rate": 1})
    assert len(worker.requests) == 2


async def test_25_each_app_is_told_what_was_refused_to_it(world):
    await world.start(rate_limit=RateLimit(rate=0.01, burst=1))
    await world.worker()
    other = UpstreamSpec(app="other", route="/other", queue_length=0)
    by_both = RouteSpec(name="both", path="/both", apps={"other": 0, "app": 1})
    world.spec = msgspec.structs.replace(world.spec, upstreams=(*world.spec.upstreams, other), routes=(by_both,))
    await world.proxy.apply(world.spec)
    assert [await world.get() for _ in range(3)] == [200, 429, 429]
    assert [await world.get("/other"), await world.get("/both")] == [503, 429]
    view = world.proxy.observe()
    assert {one.app: one.shed for one in view.upstreams} == {"app": {"app rate": 3}, "other": {"queue full": 1}}
    assert view.shed == {"app rate": 3, "queue full": 1}


async def test_25_the_connection_of_who_came_too_often_stays_open(world):
    await world.start(rate_limit=RateLimit(per_client_rate=0.01, per_client_burst=1))
    await world.worker()
    client = await world.client()
    for expected in (200, 429, 429):
        await client.send(GET)
        assert (await client.response())[0] == expected
    assert world.proxy.observe().shed == {"client rate": 2}


async def test_25_a_rate_is_set_and_lifted_while_requests_come(world):
    await world.start()
    await world.worker()
    assert await world.get() == 200
    await become(world, rate_limit=RateLimit(rate=0.01, burst=1))
    assert [await world.get() for _ in range(2)] == [200, 429]
    await become(world, rate_limit=RateLimit())
    assert await world.get() == 200


async def test_25_the_labs_own_requests_have_no_limit(world):
    await world.start(rate_limit=RateLimit(rate=0.01, burst=1))
    await world.worker()
    lab = await world.own_client()
    for _ in range(3):
        await lab.send(GET)
        assert (await lab.response())[0] == 200
    assert await world.get() == 200
    assert await world.get() == 429


async def test_25_a_sites_files_are_limited_as_its_scripts_are(world, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    await world.start(site=SiteSpec(root=str(tmp_path)), rate_limit=RateLimit(rate=0.01, burst=1))
    assert [await world.get("/a.txt") for _ in range(2)] == [200, 429]
    totals = world.proxy.observe().totals
    assert (totals.answered, totals.shed, totals.accepted) == (1, 1, 2)


async def test_24_too_many_requests_in_flight_are_503_and_the_next_one_passes(world):
    await world.start(limits=Limits(requests=2))
    gate = Gate()
    await world.worker(handler=gate)
    clients = [await world.client() for _ in range(2)]
    for client in clients:
        await client.send(GET)
        await gate.arrived.acquire()
    status, head, detail = await ask(world)
    assert status == 503
    assert retry_after(head) == 1
    assert "No more than 2 requests may be in flight" in detail
    for client in clients:
        gate.go.release()
        assert (await client.response())[0] == 200
    gate.go.release()
    assert (await ask(world))[0] == 200
    assert world.proxy.observe().shed == {"requests": 1}


async def test_23_too_many_that_wait_are_503(world):
    await world.start(limits=Limits(pending=1))
    waiting = await world.client()
    await waiting.send(GET)
    await world.until(lambda: world.proxy.observe().pending == 1)
    assert (await ask(world))[0] == 503
    assert world.proxy.observe().shed == {"pending": 1}
    await world.worker()
    assert (await waiting.response())[0] == 200
    assert world.proxy.observe().pending == 0


async def test_24_in_a_queue_that_never_empties_newcomers_wait_briefly(world):
    await world.start(shedding=Shedding(target=0.01, interval=2))
    clients = []
    for pause in (1.2, 1.2, 0):  # the second waits when the queue has not been empty for 1.2 s, the third after 2.4 s
        clients.append(await world.client())
        await clients[-1].send(GET)
        await asyncio.sleep(pause)
    told = [(await client.response())[1:] for client in clients]
    waits = [re.findall(r"a request waits (\S+) s", json.loads(body)["detail"]) for _, body in told]
    assert waits == [["2"], ["2"], ["0.01"]]
    assert [retry_after(head) for head, _ in told] == [1, 1, 1]
    assert world.proxy.observe().shed == {"queue delay": 3}


async def test_24_who_has_waited_too_long_when_a_place_is_freed_gets_none(world):
    await world.start(shedding=Shedding(target=0.005, interval=0.005))
    gate = Gate()
    await world.worker(handler=gate, concurrency=1)
    first, second = await world.client(), await world.client()
    await first.send(GET)
    await gate.arrived.acquire()
    await second.send(GET)
    await world.until(lambda: world.proxy.observe().pending == 1 or world.proxy.observe().shed != {})
    await asyncio.sleep(0.01)  # too long for the request, too short for the wheel, more often than not
    gate.go.release()
    assert (await first.response())[0] == 200
    assert (await second.response())[0] == 503
    assert world.proxy.observe().pending == 0
    assert world.proxy.in_flight(world.endpoints[0]) == 0


async def test_24_a_burst_is_no_overload(world):
    await world.start(shedding=Shedding(target=0.001, interval=30))
    gate = Gate()
    await world.worker(handler=gate, concurrency=1)
    clients = [await world.client() for _ in range(20)]
    for client in clients:
        await client.send(GET)
    await asyncio.sleep(0.1)  # far above the target
    for client in clients:
        gate.go.release()
        assert (await client.response())[0] == 200
    assert world.proxy.observe().shed == {}


async def test_24_with_too_many_connections_the_idle_one_goes_first(world):
    await world.start(limits=Limits(connections=2))
    await world.worker()
    oldest, newer = await world.client(), await world.client()
    for client in (newer, oldest, newer):
        await client.send(GET)
        assert (await client.response())[0] == 200
    third = await world.client()
    await third.send(GET)
    assert (await third.response())[0] == 200
    assert await oldest.ended() is None
    assert await newer.is_open()
    assert world.proxy.observe().shed == {}


async def test_24_with_all_connections_busy_a_new_one_is_told_503_but_the_lab_still_says_how_it_is(world):
    world.proxy.pages = lambda path, query: Page("text/plain", b"well")
    await world.start(limits=Limits(connections=2))
    gate = Gate()
    await world.worker(handler=gate)
    busy = [await world.client() for _ in range(2)]
    for client in busy:
        await client.send(GET)
        await gate.arrived.acquire()
    refused = await world.client()
    await refused.send(GET)
    status, head, _ = await refused.response()
    assert status == 503
    assert retry_after(head) == 1
    assert b"Connection: close\r\n" in head
    assert await refused.ended() is None
    asking = await world.client()
    await asking.send(b"GET /pool-status HTTP/1.1\r\nHost: x\r\n\r\n")
    status, head, body = await asking.response()
    assert (status, body) == (200, b"well")
    assert b"Connection: close\r\n" in head
    for target, expected in ((b"/pool-status/", 200), (b"/-/readyz", 200), (b"/pool-status-of-mine", 503)):
        asking = await world.client()
        await asking.send(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
        assert (await asking.response())[0] == expected
    assert world.proxy.observe().shed == {"connections": 2}
    for client in busy:
        gate.go.release()
        assert (await client.response())[0] == 200


async def test_24_of_a_flood_of_connections_most_are_answered_without_being_asked(world):
    await world.start(limits=Limits(connections=1))
    gate = Gate()
    await world.worker(handler=gate)
    busy = await world.client()
    await busy.send(GET)
    await gate.arrived.acquire()
    flood = [await world.client() for _ in range(100)]
    await world.until(lambda: world.proxy.observe().shed.get("connections", 0) == 100 - 64)
    assert (await flood[-1].response())[0] == 503
    for client in flood:
        client.close()
    await world.until(lambda: world.proxy.observe().connections == 1)
    assert (await world.get()) == 503  # the busy one is still there
    gate.go.release()
    assert (await busy.response())[0] == 200
    assert world.conserved()


async def test_24_a_limit_of_connections_comes_and_goes_while_clients_are_there(world):
    await world.start()
    await world.worker()
    clients = [await world.client() for _ in range(5)]
    for client in clients:
        await client.send(GET)
        assert (await client.response())[0] == 200
    await limit(world, connections=3)
    newest = await world.client()
    await newest.send(GET)
    assert (await newest.response())[0] == 200
    assert world.proxy.observe().connections == 3
    assert sum([await client.is_open() for client in clients]) == 2
    await limit(world)
    clients = [await world.client() for _ in range(5)]
    for client in clients:
        assert await client.is_open()


async def test_24_a_client_that_came_beyond_the_limit_is_parted_with_though_the_limit_is_gone(world):
    await world.start(limits=Limits(connections=1))
    gate = Gate()
    await world.worker(handler=gate)
    busy = await world.client()
    await busy.send(GET)
    await gate.arrived.acquire()
    beyond = await world.client()
    await world.until(lambda: world.proxy.observe().connections == 2)
    await limit(world)
    await beyond.send(GET)
    await gate.arrived.acquire()
    for _ in range(2):
        gate.go.release()
    status, head, _ = await beyond.response()
    assert status == 200
    assert b"Connection: close\r\n" in head, "there may be a limit again, and it would count as beyond that one"


async def test_24_who_is_let_in_while_an_app_becomes_unavailable_is_told_so(world):
    await world.start(shedding=Shedding(target=0.001, interval=0.001))
    gate = Gate()
    await world.worker(handler=gate, concurrency=1)
    busy = await world.client()
    await busy.send(GET)
    await gate.arrived.acquire()
    client = await world.client()
    await client.send(GET + GET)
    await world.until(lambda: world.proxy.observe().upstreams[0].queue == 1)
    late = time.monotonic() + 0.005
    while time.monotonic() < late:  # nothing may notice before the settings do that the first one has waited too long
        pass
    (upstream,) = world.spec.upstreams
    upstream = msgspec.structs.replace(upstream, queue=Queue.WORKER, unavailable="gone")
    await world.proxy.apply(msgspec.structs.replace(world.spec, upstreams=(upstream,)))
    assert [(await client.response())[0] for _ in range(2)] == [503, 503]
    assert gate.at_once == 1


async def test_28_whoever_makes_room_was_sent_its_answer_before(world):
    await world.start(limits=Limits(connections=1))
    client = await world.client()
    await client.send(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await client.response())[0] == 204
    sock = client.writer.get_extra_info("socket")
    with socket.socket() as newer:  # both are there in one turn of the gateway's loop
        newer.connect(world.address)
        os.write(sock.fileno(), b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.response())[0] == 204
        assert await client.ended() is None


@pytest.mark.parametrize("limits", [Limits(), Limits(connections=5), Limits(requests=3, pending=2)])
async def test_28_whatever_is_refused_has_one_outcome(world, limits):
    await world.start(
        limits=limits,
        rate_limit=RateLimit(rate=200, burst=20),
        shedding=Shedding(target=0.01, interval=0.05),
        timeouts=Timeouts(total=0.5),
    )

    async def slow(reader, writer):
        while True:
            try:
                await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            await asyncio.sleep(0.02)
            writer.write(OK)

    await world.worker(handler=slow, concurrency=2)

    async def visit() -> int:
        """The status; 0 for a client that had asked nothing yet when room was made for others."""
        client = await world.client()
        try:
            await client.send(GET)
            return (await client.response())[0]
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0

    found = await asyncio.gather(*(visit() for _ in range(60)))
    assert set(found) <= {200, 429, 503, 504} | ({0} if limits.connections else set())
    await world.until(lambda: world.proxy.observe().totals.in_flight == 0)
    view = world.proxy.observe()
    assert world.conserved()
    assert view.totals.accepted == sum(status > 0 for status in found)
    assert view.totals.shed == sum(view.shed.values()) == sum(status in (429, 503) for status in found)
    assert view.pending == 0
