"""The contract of `Lab`, held against both implementations: in this process, and over the control socket."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from lab import bootstrap
from lab.core.errors import NotPossibleError, ProtocolError, ReadOnlyError, UnknownTargetError
from lab.core.events import Event, EventKind
from lab.core.model import AppSpec, ListenerSpec, PoolSettings, RouteSpec
from lab.core.snapshot import LabSnapshot, RouteSnapshot
from lab.core.trace import Why
from lab.engine.commands import execute
from lab.engine.lab import Lab, LabSpec, ProcessSpec
from lab.engine.remote import RemoteLab

SOURCE = bootstrap.default_manifest().parent / "search" / "python" / "search.py"


def app(name: str = "search", workers: int = 2, **more: object) -> AppSpec:
    return msgspec.structs.replace(
        AppSpec(name=name, route=f"/api/{name}", language="python", source=str(SOURCE)),
        pool=PoolSettings(max_workers=workers, start_timeout=20),
        **more,
    )


def spec(*apps: AppSpec) -> LabSpec:
    return LabSpec(name="contract", listener=ListenerSpec(port=0), apps=apps or (app(),), own_rate=0)


@pytest.fixture(params=["local", "remote"])
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    control = tmp_path / "lab.sock"
    local = bootstrap.local_lab(spec(), control=control)
    await asyncio.to_thread(local.start)
    try:
        if request.param == "local":
            yield local
        else:
            remote = await RemoteLab.connect(control)
            yield remote
            await remote.close()
    finally:
        await local.close()


async def until_ready(lab: Lab, workers: int = 2, name: str = "search") -> LabSnapshot:
    """Wait, event by event, until that many workers of the app are ready and none is on its way out."""
    cursor = 0
    async with asyncio.timeout(30):
        while True:
            snapshot = await lab.snapshot()
            found = snapshot.app(name)
            if found and [worker.state for worker in found.workers] == ["ready"] * workers:
                return snapshot
            cursor = (await lab.events(max(cursor, snapshot.events_next), wait=0.15)).next


async def until_event(lab: Lab, kind: EventKind, since: int, **wanted: object) -> Event:
    """The first event of this kind from `since` on whose fields are as wanted."""
    async with asyncio.timeout(30):
        while True:
            batch = await lab.events(since, wait=5)
            since = batch.next
            for event in batch.events:
                if event.kind is kind and all(getattr(event, key) == value for key, value in wanted.items()):
                    return event


async def test_snapshot_shows_each_worker_with_the_pid_that_answers(lab: Lab) -> None:
    snapshot = await until_ready(lab)
    shown = {worker.pid for worker in snapshot.apps[0].workers}
    answers = [await lab.request("search", "/api/search?q=http") for _ in range(4)]
    assert {answer.status for answer in answers} == {200}
    assert {answer.pid for answer in answers} == shown
    assert '"query"' in answers[0].body


async def test_29_what_happened_to_a_request_can_be_asked_for(lab: Lab) -> None:
    await until_ready(lab)
    await lab.set("proxy", {"trace_sample": "1"})
    answer = await lab.request("search", "/api/search?q=http")
    (trace,) = await lab.traces(why=Why.SAMPLED)
    assert (trace.target, trace.status, trace.own, trace.app) == ("/api/search?q=http", 200, True, "search")
    assert [attempt.pid for attempt in trace.attempts] == [answer.pid]
    assert await lab.traces(trace.id) == (trace,)
    assert await lab.traces("unknown") == ()
    assert await lab.traces(why=Why.FAILED) == ()


async def test_standings_tell_what_balancer_and_kernel_think_of_each_worker(lab: Lab) -> None:
    workers = (await until_ready(lab)).apps[0].workers
    found = await lab.standings("search")
    assert {one.pid for one in found} == {worker.pid for worker in workers}
    assert all(one.believed.routed and one.actual.room for one in found)
    assert {one.pid for one in await lab.standings()} >= {one.pid for one in found}
    with pytest.raises(UnknownTargetError, match="nothere"):
        await lab.standings("nothere")


async def test_own_requests_are_counted_apart(lab: Lab) -> None:
    await until_ready(lab)
    await lab.request("search")
    await asyncio.sleep(0.11)  # a snapshot may be that old
    snapshot = await lab.snapshot()
    assert snapshot.own.totals.answered == 1
    assert snapshot.totals.accepted == 0
    assert snapshot.invariants.conserved


async def test_events_are_numbered_without_gaps_and_read_from_a_cursor(lab: Lab) -> None:
    await until_ready(lab)
    batch = await lab.events()
    assert [event.seq for event in batch.events] == list(range(1, len(batch.events) + 1))
    again = await lab.events(since=3, limit=2)
    assert [event.seq for event in again.events] == [3, 4]
    assert again.next == 5
    assert again.missed == 0


async def test_an_empty_read_waits_for_the_first_event(lab: Lab) -> None:
    snapshot = await until_ready(lab)
    waiting = asyncio.create_task(lab.events(snapshot.events_next, wait=20))
    await lab.scale("search", 3)
    assert (await waiting).events[0].kind is EventKind.SCALED


async def test_a_killed_worker_is_replaced_and_the_photo_finish_is_told(lab: Lab) -> None:
    snapshot = await until_ready(lab)
    victim = snapshot.apps[0].workers[1]
    (sent,) = await lab.signal(f"search/{victim.slot}")
    assert (sent.pid, sent.signal) == (victim.pid, "SIGKILL")
    healed = await until_event(lab, EventKind.HEALED, snapshot.events_next, slot=victim.slot)
    data = healed.data
    assert data["old_pid"] == victim.pid
    assert data["by"] == "person"
    assert data["signal_at"] <= data["exit_at"] <= data["forked_at"] <= data["probe_at"] <= data["ready_at"]
    assert (await lab.snapshot()).apps[0].workers[1].restarts == 1


async def test_a_pid_is_a_target_only_if_it_is_a_worker(lab: Lab) -> None:
    snapshot = await until_ready(lab)
    pid = snapshot.apps[0].workers[0].pid
    assert [one.pid for one in await lab.signal(str(pid), "CONT")] == [pid]
    with pytest.raises(UnknownTargetError, match=str(os.getppid())):
        await lab.signal(str(os.getppid()))


@pytest.mark.parametrize("target", ["nobody", "search/99", "999999", "", "search/x"])
async def test_an_unknown_target_is_refused_with_what_there_is(lab: Lab, target: str) -> None:
    await until_ready(lab)
    with pytest.raises(UnknownTargetError, match="search/0"):
        await lab.signal(target)


async def test_an_unknown_signal_is_refused(lab: Lab) -> None:
    with pytest.raises(NotPossibleError, match="SIGBANANA"):
        await lab.signal("random", "SIGBANANA")


async def test_freeze_is_a_kernel_fact_beside_the_state_and_heal_thaws(lab: Lab) -> None:
    snapshot = await until_ready(lab)
    await lab.signal("search/0", "SIGSTOP")
    await until_event(lab, EventKind.STOPPED, snapshot.events_next, slot=0)
    assert await lab.heal() >= 1
    await until_event(lab, EventKind.CONTINUED, snapshot.events_next, slot=0)


async def test_scale_up_and_down(lab: Lab) -> None:
    await until_ready(lab)
    scaled = await lab.scale("search", 4)
    assert (scaled.before, scaled.after) == (2, 4)
    await until_ready(lab, 4)
    await lab.scale("search", 1)
    snapshot = await until_ready(lab, 1)
    assert snapshot.invariants.within_bounds
    assert snapshot.apps[0].workers[0].restarts == 0


@pytest.mark.parametrize("workers", [-1, 1001])
async def test_scale_refuses_what_no_pool_can_be(lab: Lab, workers: int) -> None:
    with pytest.raises(NotPossibleError, match=str(workers)):
        await lab.scale("search", workers)
    with pytest.raises(UnknownTargetError, match="nothere"):
        await lab.scale("nothere", 1)


async def test_set_changes_settings_of_the_pool_the_app_and_its_parts_while_it_runs(lab: Lab) -> None:
    pids = {worker.pid for worker in (await until_ready(lab)).apps[0].workers}
    since = (await lab.events()).next
    changes = {"selection": "least_connections", "drain_timeout": "1.5", "liveness.fall": "3"}
    told = await lab.set("search", changes)
    assert [(one.key, one.before, one.after) for one in told] == [
        ("selection", "round_robin", "least_connections"),
        ("drain_timeout", "10", "1.5"),
        ("liveness.fall", "2", "3"),
    ]
    search = (await lab.spec()).apps[0]
    assert (search.selection, search.pool.drain_timeout, search.liveness.fall) == ("least_connections", 1.5, 3)
    event = await until_event(lab, EventKind.SETTING, since)
    assert event.data == {"key": "selection", "from": "round_robin", "to": "least_connections"}
    assert {worker.pid for worker in (await lab.snapshot()).apps[0].workers} == pids


async def test_set_changes_how_many_workers_there_are(lab: Lab) -> None:
    await until_ready(lab)
    await lab.set("search", {"max_workers": "3"})
    assert (await until_ready(lab, 3)).apps[0].max_workers == 3


async def test_set_changes_settings_of_the_proxy_itself(lab: Lab) -> None:
    since = (await lab.events()).next
    (told,) = await lab.set("proxy", {"limits.body": "10"})
    assert (told.app, told.key, told.after) == ("proxy", "limits.body", "10")
    assert (await lab.spec()).proxy.limits.body == 10
    event = await until_event(lab, EventKind.SETTING, since)
    assert (event.app, event.text) == (None, f"proxy: limits.body is 10, was {told.before}")
    with pytest.raises(NotPossibleError, match=r"which the proxy does not have.*limits"):
        await lab.set("proxy", {"limit.body": "10"})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_worker": "3"}, "max_workers"),
        ({"max_workers": "many"}, "whole number"),
        ({"max_workers": "3", "selection": "fastest"}, "least_connections"),
        ({"policy": "dynamic", "min_spare": "5", "max_spare": "2"}, "spare"),
        ({"name": "other"}, "cannot be changed"),
        ({"language": "klingon"}, "klingon"),
        ({"source": "search.py"}, "absolute path"),
        ({"source": "/nowhere/search.py"}, "no file /nowhere/search.py"),
        ({"source": "/etc/passwd"}, r'"passwd", expected a Python file'),
        ({"language": "c"}, r'"search.py", expected a C file \(.c\)'),
        ({"protocol": "cgi", "site.root": "/nowhere"}, "no folder /nowhere"),
        ({"max_workers": "3", "pool.max_workers": "4"}, "Set it once"),
        ({"resources.files": str(2**64)}, "whole number"),
    ],
)
async def test_set_refuses_wrong_keys_and_values_and_then_changes_nothing(
    lab: Lab, changes: dict[str, str], told: str
) -> None:
    before = await lab.spec()
    with pytest.raises(NotPossibleError, match=told):
        await lab.set("search", changes)
    assert await lab.spec() == before


async def test_on_demand_a_request_brings_the_first_worker_and_an_idle_one_goes(lab: Lab) -> None:
    await until_ready(lab)
    await lab.set("search", {"policy": "ondemand", "idle_timeout": "0.3"})
    await until_ready(lab, 0)
    with pytest.raises(NotPossibleError, match="cgilab set search max_workers=5"):
        await lab.scale("search", 5)
    assert (await lab.request("search")).status == 200
    await until_ready(lab, 0)


async def test_an_app_that_scales_itself_is_not_scaled_beyond_its_bounds_by_hand(lab: Lab) -> None:
    await until_ready(lab)
    await lab.set("search", {"scaling.metric": "queue", "scaling.high": "9", "scaling.max_workers": "3"})
    for workers in (0, 4):
        with pytest.raises(NotPossibleError, match=r"within 1 to 3 workers.* cgilab set search scaling=null"):
            await lab.scale("search", workers)
    assert (await lab.scale("search", 3)).after == 3
    told = await lab.set("search", {"scaling": "null"})
    assert "metric=queue" in told[0].before
    assert (await lab.scale("search", 0)).after == 0


CANARY = RouteSpec(name="canary", path="/shop", apps={"search": 3, "other": 1})


async def with_canary(lab: Lab) -> None:
    """Add a second app, and a route that leads to both."""
    await lab.apply(
        msgspec.structs.replace(await lab.spec(), apps=(app(workers=1), app("other", workers=1)), routes=(CANARY,))
    )
    await until_ready(lab, 1)
    await until_ready(lab, 1, "other")


async def lead(lab: Lab) -> dict[str, int]:
    """Where four requests to the route went."""
    before = {one.app: one.requests for one in (await canary(lab)).leads}
    for _ in range(4):
        assert (await lab.request("search", "/shop?q=http")).status == 200
    return {one.app: one.requests - before[one.app] for one in (await canary(lab)).leads}


async def canary(lab: Lab) -> RouteSnapshot:
    """The route as it is by now."""
    await asyncio.sleep(0.11)  # a snapshot may be that old
    return next(route for route in (await lab.snapshot()).routes if route.name == "canary")


async def test_17_shift_changes_the_shares_of_a_route_while_it_runs_and_tells_so(lab: Lab) -> None:
    await with_canary(lab)
    assert await lead(lab) == {"search": 3, "other": 1}
    since = (await lab.events()).next
    shifted = await lab.shift("canary", {"search": 1})
    assert (shifted.before, shifted.after) == ({"search": 3, "other": 1}, {"search": 1, "other": 1})
    event = await until_event(lab, EventKind.SHIFTED, since)
    assert event.data == {"route": "canary", "from": shifted.before, "to": shifted.after}
    assert (await lab.spec()).routes[0].apps == shifted.after
    assert await lead(lab) == {"search": 2, "other": 2}
    route = await canary(lab)
    assert (route.implied, route.takes, route.requests, route.errors) == (False, "/shop", 8, 0)
    assert [one.share for one in route.leads] == [62.5, 37.5]
    assert await execute(lab, "shift canary other=0") == "canary: search 1, other 1 -> search 1, other 0"
    assert await lead(lab) == {"search": 4, "other": 0}


@pytest.mark.parametrize(
    ("route", "weights", "told"),
    [
        ("canry", {"search": 1}, "No route is called 'canry'; this lab has: canary"),
        ("search", {"search": 1}, "'search' is an app's own route"),
        ("canary", {"serch": 1}, 'does not lead to "serch". Did you mean "search"?'),
        ("canary", {"search": -1}, "search: found the weight -1, expected 0 to 1000000"),
        ("canary", {"search": 0, "other": 0}, "found weight 0 everywhere"),
    ],
)
async def test_17_shift_refuses_what_no_route_can_be_and_then_changes_nothing(
    lab: Lab, route: str, weights: dict[str, int], told: str
) -> None:
    await with_canary(lab)
    before = await lab.spec()
    with pytest.raises((NotPossibleError, UnknownTargetError), match=re.escape(told)):
        await lab.shift(route, weights)
    assert await lab.spec() == before


async def test_reload_replaces_every_worker(lab: Lab) -> None:
    before = {worker.pid for worker in (await until_ready(lab)).apps[0].workers}
    since = (await lab.events()).next
    await lab.reload("search")
    noticed = await until_event(lab, EventKind.RELOAD, since)
    assert noticed.data["step"] == "noticed"
    async with asyncio.timeout(30):
        while before & {worker.pid for worker in (await until_ready(lab)).apps[0].workers}:
            await asyncio.sleep(0.05)
    with pytest.raises(UnknownTargetError, match="nothere"):
        await lab.reload("nothere")


async def test_apply_returns_the_spec_before_and_brings_it_back(lab: Lab) -> None:
    await until_ready(lab)
    spec = await lab.spec()
    wider = msgspec.structs.replace(spec, apps=(app(workers=1), app("other", workers=1)))
    assert await lab.apply(wider) == spec
    await until_ready(lab, 1)
    await until_ready(lab, 1, "other")
    assert await lab.apply(spec) == wider
    snapshot = await until_ready(lab, 2)
    assert [one.name for one in snapshot.apps] == ["search"]
    assert (await lab.spec()) == spec


async def test_apply_refuses_a_spec_that_no_running_lab_can_become_and_changes_nothing(lab: Lab) -> None:
    spec = await lab.spec()
    for wrong in (
        msgspec.structs.replace(spec, name="another"),
        msgspec.structs.replace(spec, listener=ListenerSpec(port=1)),
        msgspec.structs.replace(spec, apps=(app(), app())),
        msgspec.structs.replace(spec, apps=(app(workers=5),), own_rate=201.0),
        msgspec.structs.replace(spec, apps=(app(workers=5), app("No name"))),
        msgspec.structs.replace(spec, routes=(RouteSpec(name="r", apps={"nobody": 1}),)),
    ):
        with pytest.raises((NotPossibleError, ProtocolError)):
            await lab.apply(wrong)
    assert await lab.spec() == spec


async def test_traffic_sends_own_requests_at_a_rate(lab: Lab) -> None:
    await until_ready(lab)
    assert await lab.traffic(100) == 0
    async with asyncio.timeout(40):
        while (answered := (await lab.snapshot()).own.totals.answered) < 20:
            await asyncio.sleep((20 - answered) / 100)
    assert await lab.traffic(0) == 100
    with pytest.raises(NotPossibleError, match="201"):
        await lab.traffic(201)


async def test_the_spec_tells_the_rate_of_own_requests_and_applying_it_brings_it_back(lab: Lab) -> None:
    before = await lab.spec()
    await lab.traffic(50, "search")
    assert (await lab.spec()).own_rate == 50
    await lab.apply(before)
    assert await lab.traffic(0) == 0


async def test_request_refuses_a_path_that_would_split_the_request(lab: Lab) -> None:
    with pytest.raises(NotPossibleError, match="path"):
        await lab.request("search", "/x HTTP/1.1\r\nHost: evil")
    with pytest.raises(UnknownTargetError, match="nothere"):
        await lab.request("nothere", "/api/search")


async def test_a_process_reports_its_lines_as_events_and_its_end(lab: Lab) -> None:
    since = (await lab.events()).next
    script = 'import os,sys; os.write(int(sys.argv[1]), b"one\\ntwo\\n"); sys.exit(3)'
    pid = await lab.start_process(ProcessSpec(name="reporter", argv=(sys.executable, "-c", script, "{report_fd}")))
    lines = [(await until_event(lab, EventKind.PROCESS_REPORT, since, text=text)).text for text in ("one", "two")]
    ended = await until_event(lab, EventKind.PROCESS_ENDED, since)
    assert lines == ["one", "two"]
    assert (ended.pid, ended.exit_code, ended.data) == (pid, 3, {"name": "reporter"})


async def test_the_end_of_a_process_that_was_told_to_stop_says_so_whatever_its_exit_code(lab: Lab) -> None:
    since = (await lab.events()).next
    script = "import os,signal,sys; signal.signal(2, lambda *_: sys.exit(1)); os.write(int(sys.argv[1]), b'up\\n')"
    argv = (sys.executable, "-c", f"{script}; signal.pause()", "{report_fd}")
    await lab.start_process(ProcessSpec(name="willing", argv=argv))
    await until_event(lab, EventKind.PROCESS_REPORT, since, text="up")
    await lab.stop_process("willing")
    ended = await until_event(lab, EventKind.PROCESS_ENDED, since)
    assert (ended.exit_code, ended.data) == (1, {"name": "willing", "stopped": True})


async def test_a_process_is_stopped_by_its_signal_and_by_force_when_it_does_not_listen(lab: Lab) -> None:
    since = (await lab.events()).next
    deaf = "import os,signal,sys; signal.signal(2, 1); os.write(int(sys.argv[1]), b'up\\n'); signal.pause()"
    argv = (sys.executable, "-c", deaf, "{report_fd}")
    await lab.start_process(ProcessSpec(name="deaf", argv=argv, stop_timeout=0.2))
    await until_event(lab, EventKind.PROCESS_REPORT, since, text="up")
    with pytest.raises(NotPossibleError, match="deaf"):
        await lab.start_process(ProcessSpec(name="deaf", argv=argv))
    await lab.stop_process("deaf")
    assert (await until_event(lab, EventKind.PROCESS_ENDED, since)).signal == "SIGKILL"
    with pytest.raises(UnknownTargetError, match="deaf"):
        await lab.stop_process("deaf")


async def test_output_keeps_the_last_words_of_a_worker_that_failed(lab: Lab, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no such thing')\n")
    spec = await lab.spec()
    since = (await lab.events()).next
    await lab.apply(msgspec.structs.replace(spec, apps=(*spec.apps, app("broken", 1, source=str(broken)))))
    await until_event(lab, EventKind.STATE, since, app="broken", state="exited")
    assert "no such thing" in (await lab.output("broken", 0))[-1]


async def test_a_read_only_lab_is_watched_and_not_changed(tmp_path: Path) -> None:
    control = tmp_path / "lab.sock"
    local = bootstrap.local_lab(spec(), control=control, read_only=True)
    await asyncio.to_thread(local.start)
    try:
        await until_ready(local)
        commands = [local.signal("random"), local.scale("search", 1), local.heal(), local.traffic(1)]
        for command in [
            *commands,
            local.set("search", {"max_workers": "1"}),
            local.reload("search"),
            local.shift("a", {}),
        ]:
            with pytest.raises(ReadOnlyError):
                await command
        assert (await local.snapshot()).read_only
    finally:
        await local.close()


async def test_a_read_only_connection_cannot_change_a_lab_that_can_be_changed(tmp_path: Path) -> None:
    control = tmp_path / "lab.sock"
    local = bootstrap.local_lab(spec(), control=control)
    await asyncio.to_thread(local.start)
    remote = await RemoteLab.connect(control, read_only=True)
    try:
        with pytest.raises(ReadOnlyError):
            await remote.scale("search", 1)
        assert (await remote.snapshot()).app("search") is not None
        assert (await local.scale("search", 1)).after == 1
    finally:
        await remote.close()
        await local.close()
