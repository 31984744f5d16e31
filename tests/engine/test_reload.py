"""Editing what a lab is made from, while it runs and answers."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from lab import bootstrap
from lab.config import languages, watch
from lab.core.clock import SystemClock
from lab.core.events import Event, EventKind, EventRing
from lab.core.model import AppSpec, Liveness, PoolSettings, RouteSpec
from lab.engine.lab import Answer, LabSpec
from lab.engine.local import LocalLab
from lab.engine.reload import Reloader, merged

PROGRAM = """
import http.server, sys
from http.server import BaseHTTPRequestHandler
class Greeter(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b"GREETING"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *said):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Greeter).serve_forever()
"""


def program(greeting: str) -> str:
    return PROGRAM.replace("GREETING", greeting)


def manifest(workers: int = 2, **more: Any) -> str:
    app = {"name": "greet", "route": "/greet", "language": "python", "source": "greet.py"}
    app["pool"] = {"max_workers": workers, "start_timeout": 20}
    return json.dumps(
        {"version": 1, "name": "edited", "listener": {"port": 0}, "apps": [app, *more.pop("apps", ())]} | more
    )


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[LocalLab]:
    """A lab that follows the manifest and the program in `tmp_path`, when both are watched and it answers."""
    (tmp_path / "greet.py").write_text(program("hello"))
    file = tmp_path / "lab.json"
    file.write_text(manifest())
    spec = replace(bootstrap.lab_spec(file, port=0, name=None), own_rate=0)
    lab = bootstrap.local_lab(spec, file=file, control=None)
    await asyncio.to_thread(lab.start)
    try:
        await until(lab, lambda event: event.kind is EventKind.ENDPOINT_IN, times=2)
        yield lab
    finally:
        await lab.close()


async def until(lab: LocalLab, wanted: Callable[[Event], bool], since: int = 1, times: int = 1) -> Event:
    """The first event from `since` on that is wanted, or the one after so many."""
    async with asyncio.timeout(40):
        while True:
            batch = await lab.events(since, wait=5)
            since = batch.next
            for event in batch.events:
                if wanted(event):
                    times -= 1
                    if not times:
                        return event


def step(name: str, app: str | None = "greet") -> Callable[[Event], bool]:
    """An event that tells this step of a reload."""
    return lambda event: event.kind is EventKind.RELOAD and event.data["step"] == name and event.app == app


async def now(lab: LocalLab) -> int:
    return (await lab.events()).next


async def edit(lab: LocalLab, file: Path, text: str) -> int:
    """Write as an editor does; the cursor from before."""
    since = await now(lab)
    beside = file.with_suffix(".tmp")
    beside.write_text(text)
    beside.rename(file)
    return since


async def test_an_edited_program_is_rolled_out_and_under_load_no_request_fails(lab: LocalLab, tmp_path: Path) -> None:
    answers: list[Answer] = []

    async def use() -> None:
        while True:
            answers.append(await lab.request("greet"))

    users = [asyncio.create_task(use()) for _ in range(8)]
    since = await edit(lab, tmp_path / "greet.py", program("good day"))
    await until(lab, step("noticed"), since)
    await until(lab, step("verified"), since)
    await until(lab, step("done"), since)
    already = len(answers)
    while len(answers) < already + 20:
        await asyncio.sleep(0.01)
    for user in users:
        user.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await user
    assert {answer.status for answer in answers} == {200}
    assert {answer.body for answer in answers[:1]} == {"hello"}
    assert {answer.body for answer in answers[-8:]} == {"good day"}
    totals = (await lab.snapshot()).own.totals
    assert (totals.failed, totals.shed) == (0, 0)


async def test_17_an_edited_manifest_lays_routes_while_the_lab_runs_and_a_wrong_one_is_refused(
    lab: LocalLab, tmp_path: Path
) -> None:
    assert (await lab.request("greet", "/hello")).status == 404
    hello = {"name": "hello", "path": "/hello", "apps": {"greet": 1}}
    since = await edit(lab, tmp_path / "lab.json", manifest(routes=[hello]))
    assert "added hello" in (await until(lab, step("done", None), since)).text
    assert (await lab.request("greet", "/hello")).body == "hello"
    since = await edit(lab, tmp_path / "lab.json", manifest(routes=[hello | {"apps": {"gret": 1}}]))
    refused = (await until(lab, step("refused", None), since)).text
    assert 'routes[0].apps: found "gret", expected an app of this lab. Did you mean "greet"?' in refused
    assert (await lab.request("greet", "/hello")).status == 200


async def test_a_program_that_does_not_start_leaves_the_old_one_serving_until_it_is_mended(
    lab: LocalLab, tmp_path: Path
) -> None:
    pids = {worker.pid for worker in (await lab.snapshot()).apps[0].workers}
    since = await edit(lab, tmp_path / "greet.py", "raise SystemExit('half written')")
    refused = await until(lab, step("refused"), since)
    assert "greet" in refused.text
    assert {worker.pid for worker in (await lab.snapshot()).apps[0].workers if worker.routed} == pids
    assert (await lab.request("greet")).body == "hello"
    since = await edit(lab, tmp_path / "greet.py", program("mended"))
    await until(lab, step("done"), since)
    assert (await lab.request("greet")).body == "mended"


async def test_a_program_that_is_removed_goes_on_and_its_return_is_noticed(lab: LocalLab, tmp_path: Path) -> None:
    since = await now(lab)
    (tmp_path / "greet.py").unlink()
    noticed = await until(lab, step("noticed"), since)
    assert noticed.text == "greet: greet.py is gone"
    assert (await lab.request("greet")).body == "hello"
    since = await edit(lab, tmp_path / "greet.py", program("back"))
    await until(lab, step("done"), since)
    assert (await lab.request("greet")).body == "back"


async def test_touching_a_program_and_what_lies_beside_it_is_no_reload(lab: LocalLab, tmp_path: Path) -> None:
    since = await now(lab)
    (tmp_path / "greet.py").touch()
    (tmp_path / "lab.json").touch()
    (tmp_path / "notes.txt").write_text("nothing to do with it")
    await asyncio.sleep(3 * watch.QUIET_MS / 1000)  # what must not happen tells nobody that it did not
    await edit(lab, tmp_path / "lab.json", manifest(workers=1))
    await until(lab, lambda event: event.text == "lab.json is taken over: changed greet", since)
    told = (await lab.events(since)).events
    reloads = [(event.app, event.data["step"]) for event in told if event.kind is EventKind.RELOAD]
    assert reloads == [(None, "noticed"), (None, "done")]


async def test_an_edited_manifest_is_taken_over_and_what_was_set_meanwhile_stays(lab: LocalLab, tmp_path: Path) -> None:
    await lab.set("greet", {"drain_timeout": "3"})
    other = {"name": "other", "route": "/other", "language": "python", "source": "greet.py", "pool": {"max_workers": 1}}
    since = await edit(lab, tmp_path / "lab.json", manifest(workers=3, apps=[other]))
    done = await until(lab, step("done", None), since)
    assert done.text == "lab.json is taken over: added other; changed greet"
    greet = (await lab.spec()).app("greet")
    assert greet is not None
    assert (greet.pool.max_workers, greet.pool.drain_timeout) == (3, 3)
    await until(lab, lambda event: event.kind is EventKind.ENDPOINT_IN and event.app == "other", since)
    assert (await lab.request("other")).body == "hello"
    since = await edit(lab, tmp_path / "lab.json", manifest(workers=3))
    assert (await until(lab, step("done", None), since)).text == "lab.json is taken over: removed other"
    assert [app.name for app in (await lab.spec()).apps] == ["greet"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{ not json", "not JSON"),
        ("", "found nothing in it"),
        (manifest(workers=-1), "max_workers"),
        (manifest(listener={"port": 1}), "keeps its name and its listener"),
        (manifest(name="another"), "keeps its name and its listener"),
    ],
)
async def test_a_wrong_manifest_changes_nothing_and_says_why(
    lab: LocalLab, tmp_path: Path, text: str, told: str
) -> None:
    before = await lab.spec()
    since = await edit(lab, tmp_path / "lab.json", text)
    refused = await until(lab, step("refused", None), since)
    assert told in refused.text
    assert await lab.spec() == before
    since = await edit(lab, tmp_path / "lab.json", manifest(workers=1))
    await until(lab, step("done", None), since)
    assert (await lab.spec()).apps[0].pool.max_workers == 1


async def test_an_app_that_was_added_while_the_lab_runs_is_watched_too(lab: LocalLab, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "late.py").write_text(program("late"))
    spec = await lab.spec()
    late = replace(spec.apps[0], name="late", route="/late", source=str(elsewhere / "late.py"))
    since = await now(lab)
    await lab.apply(replace(spec, apps=(*spec.apps, late)))
    await until(lab, lambda event: event.kind is EventKind.ENDPOINT_IN and event.app == "late", since, times=2)
    since = await edit(lab, elsewhere / "late.py", program("later"))
    await until(lab, step("done", "late"), since)
    assert (await lab.request("late")).body == "later"


async def test_a_new_app_is_compared_with_its_file_once_more_for_it_may_have_been_edited_meanwhile() -> None:
    """Between the moment in which the pool reads a new program and the first look at its file."""
    looked = asyncio.Event()

    async def take_over(_: LabSpec) -> None:
        raise AssertionError("there is no manifest")

    async def look_again() -> None:
        looked.set()

    async def nothing_to_read(_: frozenset[str]) -> None:
        raise AssertionError("there is no policy of one's own")

    reloader = Reloader(None, languages.load())
    reloader.start(spec(), EventRing(SystemClock()), take_over, look_again, nothing_to_read)
    try:
        reloader.follow(spec(app()))
        await asyncio.wait_for(looked.wait(), 20)
    finally:
        await reloader.close()


def spec(*apps: AppSpec) -> LabSpec:
    return LabSpec(apps=apps)


def app(name: str = "a", **more: Any) -> AppSpec:
    return replace(AppSpec(name=name, route=f"/{name}", language="python", source="/a.py"), **more)


def split(one: int, other: int) -> LabSpec:
    return LabSpec(apps=(app(),), routes=(RouteSpec(name="r", apps={"a": one, "b": other}),))


@pytest.mark.parametrize(
    ("before", "after", "now", "expected"),
    [
        (spec(app()), spec(app()), spec(app(concurrency=3)), spec(app(concurrency=3))),
        (spec(app()), spec(app(concurrency=2)), spec(app(concurrency=3)), spec(app(concurrency=2))),
        (
            spec(app()),
            spec(app(liveness=Liveness(fall=5))),
            spec(app(liveness=Liveness(rise=4), pool=PoolSettings(max_workers=9))),
            spec(app(liveness=Liveness(fall=5, rise=4), pool=PoolSettings(max_workers=9))),
        ),
        (spec(app()), spec(app(), app("b")), spec(app()), spec(app(), app("b"))),
        (spec(app(), app("b")), spec(app()), spec(app(), app("b")), spec(app())),
        (spec(app()), spec(app()), spec(app(), app("c")), spec(app(), app("c"))),
        (spec(app(), app("b")), spec(app(), app("b")), spec(app()), spec(app())),
        (split(9, 1), split(9, 1), split(5, 5), split(5, 5)),
        (split(9, 1), split(8, 1), split(5, 5), split(8, 5)),
        (spec(app()), split(9, 1), spec(app()), split(9, 1)),
        (
            spec(app(env={"A": "1", "B": "1"})),
            spec(app(env={"A": "2"})),
            spec(app(env={"A": "1", "B": "1", "C": "1"})),
            spec(app(env={"A": "2", "C": "1"})),
        ),
    ],
)
def test_what_a_file_says_anew_is_taken_and_what_it_does_not_is_left(
    before: LabSpec, after: LabSpec, now: LabSpec, expected: LabSpec
) -> None:
    assert merged(before, after, now) == expected
