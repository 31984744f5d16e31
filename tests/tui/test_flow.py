"""The picture of the way of a request, at every width, in every state."""

import re

import pytest
from fake_lab import FakeLab, FakeWorker, spec
from msgspec.structs import replace
from reading import read

from lab.core.model import AppSpec, Contract, Metric, PoolSettings, RouteSpec, ScalingSpec
from lab.core.snapshot import BreakerSnapshot, ServiceSnapshot
from lab.core.states import BreakerState, EndpointHealth, Policy, ServiceState, WorkerState
from lab.engine.lab import LabSpec
from lab.tui import glyphs
from lab.tui.widgets.cells import bar
from lab.tui.widgets.flow import Flow

WIDTHS = (0, 1, 20, 38, 63, 64, 80, 100, 170)


async def picture(lab: FakeLab, width: int = 100, flow: Flow | None = None, since: int = 1) -> str:
    drawn = flow or Flow()
    drawn.show(await lab.snapshot(), (await lab.events(since)).events)
    return "\n".join(read(drawn.rows(width)))


async def test_every_worker_is_named_by_its_pid_and_state() -> None:
    lab = FakeLab()
    lab.advance(1)
    shown = await picture(lab)
    assert all(f"● {pid}" in shown for pid in (4121, 4122, 4123, 4124, 4125))


async def test_a_killed_worker_is_seen_beside_its_successor_and_forgotten_after_three_seconds() -> None:
    lab, flow = FakeLab(), Flow()
    await picture(lab, flow=flow)
    begin = lab.ring.next
    await lab.signal("search/1")
    assert "✗ 4122 ─▶ ● 4126" in await picture(lab, flow=flow, since=begin)
    lab.advance(3.1)
    assert "4122" not in await picture(lab, flow=flow, since=lab.ring.next)


async def test_a_worker_that_is_scaled_away_is_seen_to_go() -> None:
    lab, flow = FakeLab(), Flow()
    await lab.scale("search", 2)
    assert "✗ 4123" in await picture(lab, flow=flow)


async def test_a_waiting_slot_counts_down_and_says_why() -> None:
    lab = FakeLab()
    lab.back_off("search", 2, 0.8, "three deaths in 4 s")
    lab.advance(0.3)
    assert "waits 0.5 s: three deaths in 4 s" in await picture(lab)


async def test_15_25_tunnels_and_what_was_refused_stand_behind_an_app() -> None:
    app = FakeLab().apps[0].spec
    many = tuple(replace(app, name=f"app-{number}", pool=PoolSettings(max_workers=1)) for number in range(14))
    for lab in (FakeLab(), FakeLab(LabSpec(apps=many))):
        snapshot = await lab.snapshot()
        first, second, *others = snapshot.apps
        apps = (replace(first, tunnels=2, shed={"app rate": 8, "queue full": 1}), replace(second, tunnels=1), *others)
        flow = Flow()
        flow.show(replace(snapshot, apps=apps))
        first_row, second_row = (
            next(row for row in read(flow.rows(120)) if one.name in row) for one in snapshot.apps[:2]
        )
        assert re.search("2 tunnels +9 shed", first_row)
        assert "1 tunnel" in second_row
        assert "1 tunnels" not in second_row
        assert "shed" not in second_row
        flow.show(snapshot)
        assert not any("tunnel" in row or "shed" in row for row in read(flow.rows(120)))


async def test_21_an_unwell_worker_is_told_by_sign_and_word_with_its_time_and_why() -> None:
    snapshot = await FakeLab().snapshot()
    search, *others = snapshot.apps
    one, other, third = search.workers
    workers = (
        replace(one, health=EndpointHealth.EJECTED, health_why="failed 5 requests", ejected_for_s=12.0, routed=False),
        replace(other, health=EndpointHealth.UNHEALTHY, health_why="hung up", routed=True),
        third,
    )
    breaker = BreakerSnapshot(state=BreakerState.OPEN, why="It failed.", probe_in_s=3.0)
    search = replace(search, workers=workers, breaker=breaker, panic=True)
    flow = Flow()
    flow.show(replace(snapshot, apps=(search, *others)))
    shown = " ".join("\n".join(read(flow.rows(170))).split())
    assert "⊘ 4121 ejected 12 s: failed 5 requests" in shown
    assert "! 4122 fails its check, still routed: hung up" in shown
    assert "breaker open 3.0 s" in shown
    assert "panic" in shown
    flow.show(replace(snapshot, apps=(replace(search, shed={"breaker open": 12345}), *others)))
    for width in range(50, 171):
        (told,) = (row for row in read(flow.rows(width)) if "breaker open 3.0 s  panic" in row)
        assert len(told) <= width


async def test_a_frozen_worker_shows_what_the_balancer_still_believes() -> None:
    lab = FakeLab()
    await lab.signal("search/0", "SIGSTOP")
    assert "‖ 4121 frozen, still routed" in await picture(lab)
    lab.worker("search", 0).state = WorkerState.UNHEALTHY
    assert "‖ 4121 frozen, out" in await picture(lab)


async def test_an_app_that_cannot_run_here_says_what_would_change_that() -> None:
    lab = FakeLab()
    lab.apps[0].unavailable = "no C compiler was found. Install one: apt install gcc"
    shown = await picture(lab)
    assert "not available: no C compiler was found. Install one: apt install gcc" in shown
    assert "● 4124" in shown


async def test_an_app_that_waits_for_a_process_says_for_which() -> None:
    lab = FakeLab()
    lab.apps[0].waits_for, lab.apps[0].workers = ("redis", "db"), []
    assert "waits for redis, db" in await picture(lab)


async def test_an_app_says_how_its_workers_get_their_socket_and_how_many_there_may_be() -> None:
    lab = FakeLab()
    search, auth = (app.spec for app in lab.apps)
    pool = PoolSettings(policy=Policy.DYNAMIC, min_workers=1, max_workers=5)
    lab.apps[0].spec = replace(search, protocol=Contract.HTTP_UNIX, pool=pool)
    lab.apps[1].spec = replace(auth, scaling=ScalingSpec(metric=Metric.CPU, target=50, min_workers=2, max_workers=8))
    shown = await picture(lab, 120)
    assert "search  c http-unix · dynamic 3 of 1-5 · round robin" in shown
    assert "auth  python http-port · static 2, scaled 2-8 by cpu" in shown


async def test_php_fpm_alone_knows_how_many_children_it_wants() -> None:
    pool = PoolSettings(policy=Policy.DYNAMIC, min_workers=1, max_workers=5)
    app = AppSpec(name="wiki", route="/w", language="php-fpm", source="/w.php", protocol=Contract.FASTCGI, pool=pool)
    assert "wiki  php-fpm fastcgi · dynamic 1-5 · round robin" in await picture(FakeLab(LabSpec(apps=(app,))))


async def test_18_a_selection_policy_of_ones_own_is_called_by_its_file() -> None:
    app = AppSpec(name="a", route="/a", language="c", source="/a.c", selection="/home/policies/by_moon.py")
    assert "static 2 · by_moon.py" in await picture(FakeLab(LabSpec(apps=(app,))))


async def test_a_program_is_a_process_per_request_and_an_idle_pool_on_demand_waits_for_one() -> None:
    lab = FakeLab()
    lab.apps[0].spec = replace(lab.apps[0].spec, protocol=Contract.CGI)
    lab.apps[1].spec = replace(lab.apps[1].spec, pool=PoolSettings(policy=Policy.ONDEMAND, max_workers=4))
    for app in lab.apps:
        app.workers = []
    shown = await picture(lab)
    assert "search  c cgi · at most 3 at once  211/s  p99 3.0 ms" in shown
    assert "· a process per request" in shown
    assert "ondemand 0 of 0-4" in shown
    assert "· no workers until a request comes" in shown


@pytest.mark.parametrize("width", [50, 100])
async def test_processes_beside_the_pool_stand_below_with_what_is_wrong(width: int) -> None:
    lab = FakeLab()
    lab.apps[1].workers, lab.apps[1].waits_for = [], ("redis",)
    lab.processes = [
        service("redis", ServiceState.BACKOFF, "It ended: exit code 1."),
        service("disk", ServiceState.HEALTHY),
    ]
    shown = await picture(lab, width)
    assert "waits for redis (starts again soon)" in shown
    assert "beside the pool" in shown
    assert "● disk 77" in shown
    assert "◌ redis starts again soon: it ended:" in shown


def service(name: str, state: ServiceState, why: str = "") -> ServiceSnapshot:
    return ServiceSnapshot(name=name, state=state, pid=77, health="tcp", restarts=0, needs=(), uptime_s=1.0, why=why)


@pytest.mark.parametrize("width", [50, 100])
async def test_17_a_route_that_leads_to_several_apps_shows_what_each_was_meant_to_get_and_got(width: int) -> None:
    route = RouteSpec(name="canary", path="/shop", apps={"search": 9, "auth": 1})
    lab = FakeLab(replace(spec(), routes=(route, RouteSpec(name="lone", apps={"auth": 1}))))
    shown = await picture(lab, width)
    assert "shared routes" in shown
    assert "canary /shop" in shown
    assert "─▶ search 9 of 10, got 90.0 %" in shown
    assert "─▶ auth 1 of 10, got 10.0 %" in shown
    assert "lone" not in shown
    await lab.shift("canary", {"auth": 9})
    lab.rate = 0
    shown = await picture(lab, width)
    assert "─▶ auth 9 of 18" in shown
    assert "got" not in shown


@pytest.mark.parametrize("width", [78, 98])
async def test_many_apps_take_one_row_each(width: int) -> None:
    app = FakeLab().apps[0].spec
    apps = tuple(replace(app, name=f"app-{number}", pool=PoolSettings(max_workers=1)) for number in range(14))
    rows = (await picture(FakeLab(LabSpec(apps=apps)), width)).splitlines()
    assert len(rows) <= 15
    assert all(len(row) <= width for row in rows)
    assert sum("static 1 · c http-port" in row for row in rows) == 14


async def test_a_worker_that_was_asked_to_go_goes_without_alarm() -> None:
    lab, flow = FakeLab(), Flow()
    await lab.scale("search", 2)
    await lab.signal("auth/0")
    await picture(lab, flow=flow)
    roles = {text: role for row in flow.rows(100) for text, role in row}
    assert (roles["✗ 4123"], roles["✗ 4124"]) == ("dim", "bad")


async def test_own_requests_are_labelled_apart_and_leave_with_them() -> None:
    lab = FakeLab()
    assert "+ 5/s own" in await picture(lab)
    await lab.traffic(0)
    assert "own" not in await picture(lab)


async def test_the_worker_that_has_answered_lights_up() -> None:
    lab, flow = FakeLab(rate=0), Flow()
    await picture(lab, flow=flow)
    await lab.request("search")
    lab.clock.advance(0.2)
    flow.show(await lab.snapshot())
    lit = [text for row in flow.rows(100) for text, role in row if role == "strong" and text.isdigit()]
    assert lit == ["4121"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("state", list(WorkerState))
async def test_no_state_and_no_width_breaks_the_picture(width: int, state: WorkerState) -> None:
    lab = FakeLab()
    lab.worker("search", 1).state = state
    lab.worker("search", 2).pid = None
    lab.worker("auth", 0).why = "it answered the probe with garbage instead of a status line"
    assert await picture(lab, width)


@pytest.mark.parametrize("width", WIDTHS)
async def test_no_width_breaks_the_picture_of_many_apps_and_processes(width: int) -> None:
    first = FakeLab().apps[0].spec
    lab = FakeLab(LabSpec(apps=tuple(replace(first, name=f"application-{number}") for number in range(8))))
    lab.apps[2].workers, lab.apps[2].waits_for = [], ("redis", "disk")
    lab.apps[3].unavailable, lab.apps[4].building, lab.apps[5].queue = "no C compiler", True, 12
    lab.processes = [service(f"process-{state}", state, "It does not answer.") for state in ServiceState]
    shown = await picture(lab, width)
    assert "12 queue" in shown or width < 63
    assert width < 38 or all(len(line) <= width for line in shown.splitlines())


@pytest.mark.parametrize("width", WIDTHS)
async def test_none_and_five_hundred_workers_are_drawn(width: int) -> None:
    lab = FakeLab()
    lab.apps[0].workers = [FakeWorker(slot, 1_000_000 + slot) for slot in range(500)]
    lab.apps[1].workers = []
    shown = await picture(lab, width)
    assert width < 20 or "no workers" in shown
    assert shown.count("● 1000") == 500


@pytest.mark.parametrize("width", [38, 64, 80, 100])
async def test_cells_stay_inside_the_width(width: int) -> None:
    lab = FakeLab()
    lab.advance(1)
    lab.back_off("search", 1, 30, "five failed starts in ten seconds: it exits at once with code 127")
    lab.apps[1].unavailable = "no interpreter was found for it. Install one with: apt install python3"
    assert all(len(line) <= width for line in (await picture(lab, width)).splitlines())


async def test_without_unicode_everything_is_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "linux")
    lab = FakeLab()
    lab.back_off("search", 1, 1, "dead")
    lab.advance(1)
    assert (await picture(lab)).isascii()


def test_a_latency_bar_grows_by_a_quarter_for_each_power_of_ten() -> None:
    bars = glyphs.UNICODE.bars
    assert [bar(ms, 4, bars).rstrip() for ms in (None, 1, 10, 100, 1000, 99999)] == [
        "",
        "█",
        "██",
        "███",
        "████",
        "████",
    ]
