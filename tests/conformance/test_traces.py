"""Points 28 and 29 through the gateway: what a request's trace says, and what is counted of its stages."""

import asyncio
import contextlib
import socket

import msgspec

from lab.core.events import EventKind
from lab.core.model import RetrySpec, Timeouts
from lab.core.trace import Why
from lab.engine import timeline
from tests.conformance.conftest import GET, OK, Gate
from tests.conformance.test_traffic import full_backlog


async def settings(world, **changed):
    """Change settings of the running proxy."""
    spec = world.spec.settings
    world.spec = msgspec.structs.replace(world.spec, settings=msgspec.structs.replace(spec, **changed))
    await world.proxy.apply(world.spec)


def late(seconds):
    """A worker's handler that takes its time for each request."""

    async def handler(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(seconds)
                writer.write(OK)

    return handler


def assert_stages_add_up(trace):
    stages = (
        trace.prepare_s,
        trace.queue_s,
        trace.connect_s,
        trace.tried_s,
        trace.worker_s,
        trace.transfer_s,
    )
    assert abs(sum(stages) - trace.total_s) < 1e-6


async def test_29_a_slow_request_is_traced_with_where_its_time_went(world):
    asked, go = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def held(reader, writer):
        while await reader.readuntil(b"\r\n\r\n"):
            asked.release()
            await go.acquire()
            writer.write(OK)

    await world.start()
    await settings(world, slow=0.1)
    await world.worker(handler=held, concurrency=1)
    asking = [asyncio.create_task(world.get("/a?b=1"))]
    await asked.acquire()
    asking.append(asyncio.create_task(world.get("/a?b=1")))
    await world.until(lambda: world.proxy.observe().upstreams[0].queue == 1)
    await asyncio.sleep(0.15)
    go.release()
    await asked.acquire()
    await asyncio.sleep(0.15)
    go.release()
    assert await asyncio.gather(*asking) == [200, 200]
    second, first = world.proxy.traces(why=Why.SLOW)
    assert {first.target, second.target} == {"/a?b=1"}
    assert first.queue_s == 0
    assert second.queue_s >= 0.14
    assert first.connect_s > 0
    assert min(first.worker_s, second.worker_s) >= 0.14
    for trace in (first, second):
        assert_stages_add_up(trace)
        assert (trace.status, trace.outcome, trace.sent) == (200, "answered", 2)
        assert [(one.worker, one.failure) for one in trace.attempts] == [("app/0", "")]
    assert world.proxy.traces(second.id) == (second,)


async def test_29_the_slow_log_tells_once_a_second_and_names_the_trace(world):
    await world.start()
    await settings(world, slow=0.05)
    await world.worker(handler=late(0.06))
    await asyncio.gather(*(world.get() for _ in range(5)))
    told = [event for event in world.events.read().events if event.kind is EventKind.TOOK_LONG]
    assert 1 <= len(told) < 5  # one, unless the machine takes seconds for them
    (kept,) = world.proxy.traces(told[0].data["trace"])
    assert told[0].data["worker"] == kept.worker_s
    assert told[0].app == "app"


async def test_29_a_quick_request_leaves_no_trace_unless_sampled(world):
    await world.start()
    await settings(world, slow=0)
    await world.worker()
    for _ in range(4):
        assert await world.get() == 200
    assert world.proxy.traces() == ()
    await settings(world, trace_sample=2)
    for _ in range(4):
        assert await world.get() == 200
    assert [trace.kept for trace in world.proxy.traces()] == [(Why.SAMPLED,)] * 2


async def test_29_a_client_that_leaves_while_its_first_connection_is_made_leaves_a_trace(world):
    await world.start()
    await settings(world, trace_sample=1)
    with full_backlog() as port:
        world.route(port, concurrency=1)
        client = await world.client()
        await client.send(GET)
        await world.until(lambda: world.proxy.observe().totals.in_flight == 1)
        client.close()
        await world.until(lambda: world.proxy.observe().totals.abandoned == 1)
    (trace,) = world.proxy.traces()
    assert trace.outcome == "abandoned"
    ((worker, failure),) = [(one.worker, one.failure) for one in trace.attempts]
    assert (worker, failure) == ("app/0", "The client left before it was connected.")
    assert trace.worker_s == 0.0 < trace.connect_s
    assert_stages_add_up(trace)


async def test_29_a_client_that_leaves_while_its_worker_works_is_not_told_of_as_answered(world):
    await world.start()
    await settings(world, trace_sample=1)
    gate = Gate()
    await world.worker(handler=gate)
    client = await world.client()
    await client.send(GET)
    await gate.arrived.acquire()
    client.close()
    await world.until(lambda: world.proxy.observe().totals.abandoned == 1)
    gate.go.release()
    (trace,) = world.proxy.traces()
    assert [one.failure for one in trace.attempts] == ["The client left before it had answered."]
    assert_stages_add_up(trace)


async def test_29_the_time_at_a_worker_that_failed_it_is_told_as_such(world):
    """And not as the gateway's own, or as that of the worker that answered."""
    await world.start(retries=RetrySpec(on=("reset",)))
    await settings(world, slow=0.1)

    async def dies(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.2)

    await world.worker(handler=dies)
    await world.worker()
    while await world.get() == 200 and not (kept := world.proxy.traces(why=Why.RETRIED)):
        pass  # whose turn it is
    (trace,) = kept
    assert trace.tried_s >= 0.19
    assert trace.tried_s == trace.attempts[0].seconds
    assert trace.prepare_s + trace.worker_s < 0.19
    assert_stages_add_up(trace)
    assert any("those who were asked first failed it" in line for line in timeline.lines(trace))


async def test_29_what_waits_for_a_place_after_its_worker_failed_it_is_at_no_worker(world):
    timeouts = Timeouts(queue=0.2)
    await world.start(timeouts=timeouts, retries=RetrySpec(on=("reset",)))
    await settings(world, slow=0)
    go, arrived = asyncio.Event(), asyncio.Event()

    async def dies(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        world.proxy.remove(world.endpoints[0])
        arrived.set()
        await go.wait()

    await world.worker(handler=dies, concurrency=1)
    asking = asyncio.create_task(world.get())
    await arrived.wait()
    go.set()
    assert await asking == 503
    (trace,) = world.proxy.traces()
    assert trace.worker_s == 0.0
    assert trace.queue_s >= 0.19
    assert [bool(one.failure) for one in trace.attempts] == [True]
    assert_stages_add_up(trace)


async def test_29_a_request_without_answer_tells_who_was_tried_and_what_the_client_was_told(world):
    await world.start(timeouts=Timeouts(connect=0.3))
    await settings(world, slow=0)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        world.route(nobody.getsockname()[1])
        world.route(nobody.getsockname()[1])
        assert await world.get() == 502
    (trace,) = world.proxy.traces(why=Why.FAILED)
    assert trace.kept == (Why.FAILED, Why.RETRIED)
    assert {one.worker for one in trace.attempts} == {"app/0", "app/1"}
    assert all(one.failure for one in trace.attempts)
    assert "refused" in trace.detail
    assert trace.total_s >= trace.queue_s >= 0.29
    assert trace.worker_s == 0.0
    assert_stages_add_up(trace)


async def test_29_a_retried_request_tells_the_one_that_failed_and_the_one_that_answered(world):
    await world.start()
    await settings(world, slow=0)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        world.route(nobody.getsockname()[1])
        await world.worker()
        assert await world.get() == 200
    (trace,) = world.proxy.traces()
    assert trace.kept == (Why.RETRIED,)
    failed, answered = trace.attempts
    assert (failed.worker, answered.worker) == ("app/0", "app/1")
    assert failed.failure
    assert not answered.failure


async def test_29_a_shed_request_and_one_without_route_are_told_apart(world):
    await world.start(queue_length=0)
    await settings(world, slow=0)
    assert await world.get() == 503
    (trace,) = world.proxy.traces()
    assert (trace.kept, trace.outcome, trace.status, trace.attempts) == ((Why.SHED,), "shed", 503, ())


async def test_29_nothing_of_a_request_clings_to_the_next_on_its_connection(world):
    await world.start()
    await settings(world, trace_sample=1, slow=0)
    gone = asyncio.Event()

    async def handler(reader, writer):
        request = await reader.readuntil(b"\r\n\r\n")
        if b"/bad" in request:
            writer.write(b"nonsense\r\n\r\n")
        else:
            writer.write(OK)
        gone.set()
        await reader.read()

    await world.worker(handler=handler)
    client = await world.client()
    for path, status in ((b"/bad", 502), (b"/good", 200)):
        await client.send(GET.replace(b"/", path, 1))
        assert (await client.response())[0] == status
    good, bad = world.proxy.traces()
    assert (good.status, good.detail, good.kept) == (200, "", (Why.SAMPLED,))
    assert (bad.status, bad.kept) == (502, (Why.FAILED, Why.SAMPLED))
    assert bad.detail
