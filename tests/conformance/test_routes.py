"""Point 17 over real connections: what workers and programs are told on which route, and what each was sent."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from lab.core.model import BreakerSpec, RouteSpec, SiteSpec
from lab.core.snapshot import RouteSnapshot
from lab.proxy.manager import UpstreamSpec
from tests.conformance.conftest import OK

TELL = """
import json, os, sys
told = {name: os.environ.get(name) for name in ("SCRIPT_NAME", "PATH_INFO", "REQUEST_URI", "QUERY_STRING")}
sys.stdout.write("Content-Type: application/json\\n\\n" + json.dumps(told))
"""

BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"


def route(name: str = "r", path: str = "/r", **more: Any) -> RouteSpec:
    return RouteSpec(**{"name": name, "path": path, "apps": {"app": 1}} | more)


async def lay(world, *routes: RouteSpec, others: tuple[str, ...] = (), **app: Any) -> None:
    """Give the gateway routes beside those of its apps: `app` at /app, and each of `others` at its name."""
    first = UpstreamSpec(app="app", **{"route": "/app"} | app)
    upstreams = (first, *(UpstreamSpec(app=name, route=f"/{name}") for name in others))
    world.spec = replace(world.spec, upstreams=upstreams, routes=routes)
    await world.proxy.apply(world.spec)


async def ask(world, target: str, *fields: str, method: str = "GET", host: str = "x") -> tuple[int, bytes, bytes]:
    client = await world.client()
    lines = (f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", *fields)
    await client.send("\r\n".join((*lines, "", "")).encode())
    return await client.response(to_head=method == "HEAD")


def seen(world, name: str) -> RouteSnapshot:
    return next(view for view in world.proxy.observe().routes if view.name == name)


def first_lines(worker) -> list[bytes]:
    return [request.partition(b"\r\n")[0] for request in worker.requests]


async def test_17_the_prefix_is_stripped_from_the_request_line_and_from_nothing_else(world):
    await world.start()
    worker = await world.worker()
    await lay(world, route(strip_prefix=True))
    for target in ("/r/x?q=/r", "/r", "/r/", "/r?q", "/app/y"):
        assert (await ask(world, target, "Referer: /r/x", "X: /r"))[0] == 200
    lines = first_lines(worker)
    assert lines == [f"GET {path} HTTP/1.1".encode() for path in ("/x?q=/r", "/", "/", "/?q", "/app/y")]
    assert all(b"\r\nReferer: /r/x\r\nX: /r\r\n" in request for request in worker.requests)


async def test_17_a_prefix_is_rewritten_with_body_and_fields_kept(world):
    await world.start()
    worker = await world.worker()
    await lay(world, route(rewrite="/v2/api"))
    client = await world.client()
    await client.send(b"POST /r/x?q HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nY: /r\r\n\r\nabc")
    assert (await client.response())[0] == 200
    head, _, body = worker.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v2/api/x?q HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nY: /r\r\n")
    assert body == b"abc"


async def test_17_host_method_and_field_choose_the_app(world):
    await world.start()
    await lay(
        world,
        route("by-field", "/app", apps={"b": 1}, headers={"X-Canary": "yes"}),
        route("by-host", "/", apps={"c": 1}, host="*.example.org", priority=1),
        route("by-method", "/app", apps={"d": 1}, methods=("PUT",), priority=-1),
        others=("b", "c", "d"),
    )
    workers = {name: await world.worker(app=name) for name in ("app", "b", "c", "d")}

    async def who(*fields: str, **request: str) -> str:
        assert (await ask(world, "/app/x", *fields, **request))[0] == 200
        (name,) = [name for name, worker in workers.items() if worker.requests]
        workers[name].requests.clear()
        return name

    assert await who() == "app"
    assert await who("X-Canary: yes") == "b"
    assert await who("X-Canary: yes", host="a.example.org:80") == "c"
    assert await who(method="PUT") == "app", "the app's own route has the higher priority"


async def test_17_a_request_that_fits_no_condition_is_told_so(world):
    await world.start()
    await lay(world, route(methods=("PUT",)))
    status, _, body = await ask(world, "/r/x")
    assert (status, b"ask for another host, method or field" in body) == (404, True)
    status, _, body = await ask(world, "/nowhere")
    assert (status, b"No app has this path" in body) == (404, True)


async def test_17_weights_are_shared_out_exactly_and_counted(world):
    await world.start()
    await lay(world, route(apps={"app": 3, "b": 1}), others=("b",))
    first, second = await world.worker(), await world.worker(app="b")
    client = await world.client()
    for _ in range(40):
        await client.send(b"GET /r HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.response())[0] == 200
    assert (len(first.requests), len(second.requests)) == (30, 10)
    view = seen(world, "r")
    assert [(lead.app, lead.weight, lead.requests, lead.share) for lead in view.leads] == [
        ("app", 3, 30, 75.0),
        ("b", 1, 10, 25.0),
    ]
    assert (view.requests, view.in_flight, view.classes[2]) == (40, 0, 40)
    assert {one.app: one.accepted for one in world.proxy.observe().upstreams} == {"app": 30, "b": 10}
    assert seen(world, "b").requests == 0, "nothing came by its own route"
    assert world.proxy.latencies("b").total == 10


async def test_17_other_weights_hold_from_the_next_request_on_and_counts_stay(world):
    await world.start()
    await lay(world, route(apps={"app": 1, "b": 1}), others=("b",))
    first, second = await world.worker(), await world.worker(app="b")
    for _ in range(4):
        await ask(world, "/r")
    await lay(world, route(apps={"app": 0, "b": 5}), others=("b",))
    for _ in range(3):
        await ask(world, "/r")
    assert (len(first.requests), len(second.requests)) == (2, 5)
    assert [lead.requests for lead in seen(world, "r").leads] == [2, 5]


async def test_17_an_app_without_an_endpoint_gets_no_share_and_is_asked_to_start_one(world):
    await world.start()
    await lay(world, route(apps={"app": 1, "b": 9}), others=("b",))
    worker = await world.worker()
    world.starved.clear()
    for _ in range(5):
        assert (await ask(world, "/r"))[0] == 200
    assert len(worker.requests) == 5
    assert set(world.starved) == {"b"}
    second = await world.worker(app="b")
    for _ in range(10):
        assert (await ask(world, "/r"))[0] == 200
    assert (len(worker.requests), len(second.requests)) == (6, 9)


async def test_17_an_app_of_weight_0_gets_nothing_even_when_it_is_alone(world):
    await world.start()
    await lay(world, route(apps={"app": 0, "b": 1}), others=("b",))
    worker = await world.worker()
    asking = asyncio.create_task(ask(world, "/r"))
    await world.until(lambda: seen(world, "r").in_flight == 1)
    second = await world.worker(app="b")
    assert (await asking)[0] == 200
    assert (len(worker.requests), len(second.requests)) == (0, 1)


async def test_17_23_an_app_with_an_open_breaker_gives_its_share_away_until_it_may_be_probed(timeless):
    world = timeless
    await world.start()
    await lay(world, route(apps={"app": 1, "b": 1}), others=("b",), breaker=BreakerSpec(failures=1, server_errors=True))
    first, second = await world.worker(BROKEN), await world.worker(app="b")
    assert sorted([(await ask(world, "/r"))[0] for _ in range(2)]) == [200, 500]
    assert [(await ask(world, "/r"))[0] for _ in range(6)] == [200] * 6
    assert (len(first.requests), len(second.requests)) == (1, 7)
    world.clock.advance(5.0)
    assert sorted([(await ask(world, "/r"))[0] for _ in range(6)]) == [200] * 5 + [500], "one probe, and it failed"
    first.response = OK
    world.clock.advance(5.0)
    assert [(await ask(world, "/r"))[0] for _ in range(6)] == [200] * 6
    assert len(first.requests) - 2 in (3, 4), "the probe was answered, so it has its half again"


async def test_17_23_when_every_breaker_is_open_each_app_answers_for_its_share(timeless):
    world = timeless
    await world.start()
    await lay(world, route(apps={"app": 1, "b": 0}), others=("b",), breaker=BreakerSpec(failures=1, server_errors=True))
    await world.worker(BROKEN)
    spare = await world.worker(app="b")
    answers = [await ask(world, "/r") for _ in range(3)]
    assert [status for status, _, _ in answers] == [500, 503, 503]
    assert b"breaker" in answers[-1][2]
    assert not spare.requests, "weight 0 gets nothing"


async def test_17_when_all_are_unavailable_the_one_whose_turn_it_is_says_why(world):
    await world.start()
    upstreams = tuple(UpstreamSpec(app=name, route=f"/{name}", unavailable=f"no {name}") for name in ("app", "b"))
    await world.proxy.apply(replace(world.spec, upstreams=upstreams, routes=(route(apps={"app": 1, "b": 1}),)))
    told = Counter([(await ask(world, "/r"))[2].count(b"no b") for _ in range(4)])
    assert told == {0: 2, 1: 2}
    assert seen(world, "r").classes[5] == 4


async def test_17_what_is_counted_by_route_adds_up_with_clients_that_leave_and_answers_that_fail(world):
    await world.start()
    await lay(world, route(apps={"app": 1, "b": 1}), others=("b",))

    async def moody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.02)
        writer.write(b"HTTP/1.1 503 Not now\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    await world.worker(handler=moody)
    await world.worker(handler=moody, app="b")
    for leaves in (False, True, False, True):
        client = await world.client()
        await client.send(b"GET /r HTTP/1.1\r\nHost: x\r\n\r\n")
        if leaves:
            await world.until(lambda: seen(world, "r").in_flight == 1)
            client.close()
        else:
            assert (await client.response())[0] == 503
        await world.until(lambda: seen(world, "r").in_flight == 0)
    view = seen(world, "r")
    assert (view.requests, view.classes[5], sum(view.classes)) == (4, 2, 2)


async def test_17_a_route_that_goes_leaves_its_counts_with_the_app(world):
    await world.start()
    await lay(world, route())
    await world.worker()
    await ask(world, "/r")
    await lay(world)
    assert "r" not in {view.name for view in world.proxy.observe().routes}
    assert (await ask(world, "/r"))[0] == 404
    (app,) = world.proxy.observe().upstreams
    assert (app.accepted, world.proxy.latencies("app").total) == (1, 1)


@pytest.mark.parametrize(
    ("way", "target", "told"),
    [
        (route(), "/r/x?q", ("/r", "/x", "/r/x?q")),
        (route(strip_prefix=True), "/r/x?q", ("/r", "/x", "/r/x?q")),
        (route(rewrite="/v2"), "/r/x?q", ("/v2", "/x", "/v2/x?q")),
        (route(rewrite="/app/deep"), "/r/x?q", ("/app", "/deep/x", "/app/deep/x?q")),
        (route(path="/app/deep"), "/app/deep/x?q", ("/app", "/deep/x", "/app/deep/x?q")),
        (route(path="/"), "/y/x?q", ("", "/y/x", "/y/x?q")),
    ],
    ids=["plain", "stripped", "rewritten", "rewritten below the app's own", "below the app's own", "root"],
)
async def test_17_a_program_is_told_where_it_is_by_its_own_route_or_the_one_that_was_taken(
    world, way: RouteSpec, target: str, told: tuple[str, str, str]
):
    await world.start()
    await lay(world, way, script="/srv/app.py")
    world.cgi(TELL)
    _, _, body = await ask(world, target)
    found = json.loads(body)
    assert (found["SCRIPT_NAME"], found["PATH_INFO"], found["REQUEST_URI"]) == told
    assert found["QUERY_STRING"] == "q"


async def test_17_a_fastcgi_worker_is_told_the_same(world, tmp_path: Path):
    await world.start()
    await lay(world, route(strip_prefix=True), script="/srv/app.py")
    worker = await world.fastcgi(tmp_path / "socket")
    assert (await ask(world, "/r/x"))[0] == 200
    (told,) = worker.requests
    assert (told[b"SCRIPT_NAME"], told[b"PATH_INFO"], told[b"REQUEST_URI"]) == (b"/r", b"/x", b"/r/x")


async def test_17_a_site_has_its_root_where_the_route_leads(world, tmp_path: Path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.txt").write_text("here")
    (tmp_path / "docs/index.html").write_text("index")
    await world.start()
    ways = (route(), route("deep", "/deep", rewrite="/app/docs"))
    await lay(world, *ways, site=SiteSpec(root=str(tmp_path.resolve())), script="/srv/app.py")
    for target in ("/r/docs/a.txt", "/deep/a.txt", "/app/docs/a.txt"):
        assert (await ask(world, target))[2] == b"here"
    _, head, _ = await ask(world, "/r/docs?q")
    assert b"Location: /r/docs/?q\r\n" in head


async def test_17_location_fields_pass_as_the_worker_wrote_them(world):
    await world.start()
    await world.worker(b"HTTP/1.1 302 Found\r\nLocation: /v2/next\r\nContent-Length: 0\r\n\r\n")
    await lay(world, route(rewrite="/v2"))
    assert b"\r\nLocation: /v2/next\r\n" in (await ask(world, "/r/x"))[1]


async def test_17_a_trace_names_the_route_and_what_the_client_asked_for(world):
    await world.start()
    await lay(world, route(rewrite="/v2"))
    worker = await world.worker(b"nonsense\r\n\r\n")
    assert (await ask(world, "/r/x"))[0] == 502
    assert first_lines(worker) == [b"GET /v2/x HTTP/1.1"]
    (trace,) = world.proxy.traces()
    assert (trace.route, trace.app, trace.target) == ("r", "app", "/r/x")
